//! Surroundings of one run: identity and time of the event, changes that need no row, files.

use parking_lot::Mutex;
use std::sync::Arc;

use pbjson_types::Timestamp;

use crate::error::{Result, reject};
use crate::files::{FileStore, Files};
use oncue_core::model::manifest::FileUse;
use oncue_core::store::{Change, Op};
use oncue_proto::event::{self, Meta};

/// Identity and time of the event, files, and changes that need no row. One for each run of a handler on an event.
///
/// ```
/// # use oncue::{Context, Result};
/// # use oncue_app_events::web::PageViewed;
/// async fn count(view: PageViewed, _: &mut (), context: &Context) -> Result<()> {
///     context.add("pages-by-day", "2026-01-31", 1)?;
///     context.distinct("visitors", &view.visitor)
/// }
/// # let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
/// # runtime.block_on(count(PageViewed::default(), &mut (), &oncue::testing::context("/"))).unwrap();
/// ```
///
/// The blind operations work on the event's own key in another table than the function's row, which the function declares
/// with [`changes`](crate::Function::changes). They commute, so any
/// number of events may change one key at once without conflict; they are applied with the event or not at all.
pub struct Context {
    /// Shared with the invocation.
    meta: Arc<Meta>,
    /// Key of the function's row.
    key: Arc<str>,
    declared: Declared,
    /// Runs so far, this one included.
    attempt: u32,
    /// Where files are.
    files: FileStore,
    /// Blind operations so far. Behind a lock because handlers have the context by shared
    /// reference.
    ops: Mutex<Vec<Op>>,
}

/// Function that a context is of, as far as it counts here, and what it has declared to touch besides its row.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Declared {
    /// Name, which is part of idempotency keys.
    pub function: &'static str,
    /// Table of its row, which blind operations must leave alone; empty for none.
    pub table: &'static str,
    /// Tables of its blind operations; `None` for any.
    pub changes: Option<&'static [&'static str]>,
    pub files: FileUse,
}

impl Declared {
    /// A unit test of a handler, which knows of no function.
    pub const ALL: Self = Self {
        function: "test",
        table: "",
        changes: None,
        files: FileUse::Write,
    };
}

impl Context {
    pub(crate) fn new(
        meta: Arc<Meta>,
        key: Arc<str>,
        declared: Declared,
        attempt: u32,
        files: FileStore,
    ) -> Self {
        Self {
            meta,
            key,
            declared,
            attempt,
            files,
            ops: Mutex::default(),
        }
    }

    /// Whether an operator only wants to see what the function would do (`oncue dlq redrive --dry-run`): state, outputs
    /// and files of the app stay as they are, and the system keeps the process off the network. A handler that makes a call to
    /// the outside leaves it out now, so that the rest of it can be seen.
    pub fn is_dry_run(&self) -> bool {
        matches!(self.files, FileStore::Operator(_))
    }

    /// Id of the event: the same for every attempt and every copy.
    pub fn id(&self) -> &str {
        &self.meta.id
    }

    /// Key of the function's row: that of the event, unless [`keyed_by`](crate::Function::keyed_by) says otherwise.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Id of the root event of the flow.
    pub fn flow(&self) -> &str {
        &self.meta.flow
    }

    /// Type, source, cause and the rest of its identity.
    pub fn meta(&self) -> &Meta {
        &self.meta
    }

    /// When the event happened: the same for every attempt, unlike the clock.
    pub fn time(&self) -> Timestamp {
        let ms = self.meta.time as i64;
        Timestamp {
            seconds: ms / 1000,
            nanos: (ms % 1000) as i32 * 1_000_000,
        }
    }

    /// 1 for the first delivery. A retry after a crash counts as well.
    ///
    /// Of an event that was delivered before, the runs that were begun are counted in Redis:
    /// crashed ones, too, and across workers.
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// For calls to the outside world, which can only be made at least once: a key that stays the same however often
    /// this function is run on this event. `step` tells several calls apart.
    pub fn idempotency_key(&self, step: &str) -> String {
        event::idempotency_key(&self.meta.id, self.declared.function, step)
    }

    /// Adds to an integer field of the key's row in `table`; an absent field counts as 0.
    ///
    /// # Errors
    /// A rejection, here and in the other blind operations: `table` is empty, the function's own, or not among those that it
    /// [declares](crate::Function::changes). A field that holds no
    /// integer, or a sum beyond 64 bits, shows at the commit, and the event is dead-lettered.
    pub fn add(&self, table: &'static str, field: &str, by: i64) -> Result<()> {
        self.change(
            table,
            Change::Add {
                field: field.to_owned(),
                by,
            },
        )
    }

    /// Raises an integer field of the key's row in `table`, or leaves it where it is as high already.
    pub fn max(&self, table: &'static str, field: &str, to: i64) -> Result<()> {
        self.change(
            table,
            Change::Max {
                field: field.to_owned(),
                to,
            },
        )
    }

    /// Adds a member to the key's set in `table`; one that is in it already stays once.
    ///
    /// ```
    /// # use oncue::{Context, Result};
    /// fn seen_from(context: &Context, country: &str) -> Result<()> {
    ///     context.set_add("countries", country)
    /// }
    /// # seen_from(&oncue::testing::context("/home"), "se").unwrap();
    /// ```
    pub fn set_add(&self, table: &'static str, member: &str) -> Result<()> {
        self.change(
            table,
            Change::SetAdd {
                member: member.to_owned(),
            },
        )
    }

    /// Gives a member a score in the key's ranking in `table`, which keeps the `limit` highest (at least one).
    /// A second score of a member replaces its first.
    ///
    /// ```
    /// # use oncue::{Context, Result};
    /// fn rank(context: &Context, page: &str, views: i64) -> Result<()> {
    ///     context.top_n("leaders", page, views, 10)
    /// }
    /// # rank(&oncue::testing::context("all"), "/home", 7).unwrap();
    /// ```
    pub fn top_n(&self, table: &'static str, member: &str, score: i64, limit: u32) -> Result<()> {
        self.change(
            table,
            Change::TopN {
                member: member.to_owned(),
                score,
                limit: limit.max(1),
            },
        )
    }

    /// Counts a member in the key's approximate count of distinct members in `table` (HyperLogLog, 0.81 % error).
    pub fn distinct(&self, table: &'static str, member: &str) -> Result<()> {
        self.change(
            table,
            Change::Distinct {
                member: member.to_owned(),
            },
        )
    }

    /// A blind change of the very row the handler holds would be lost under it.
    fn change(&self, table: &'static str, change: Change) -> Result<()> {
        if table.is_empty() || table == self.declared.table {
            return Err(reject(format!(
                "{change:?} changes the row table {table:?} behind the handler's back; change the row itself"
            )));
        }
        if let Some(tables) = self.declared.changes
            && !tables.contains(&table)
        {
            let function = self.declared.function;
            return Err(reject(format!(
                "{function} does not declare that it changes the table {table:?}: add `.changes(&[{table:?}])` to the function"
            )));
        }
        self.ops.lock().push(Op { table, change });
        Ok(())
    }

    /// Blind operations in order, for the commit of this event; none the second time.
    pub(crate) fn take_ops(&self) -> Vec<Op> {
        std::mem::take(&mut self.ops.lock())
    }

    /// The files of the app, of which a function declares that it [reads](crate::Function::reads_files) or
    /// [writes](crate::Function::writes_files) them. Not part of the commit: give objects names that a second run gives again.
    pub fn files(&self) -> Files<'_> {
        Files::new(&self.files, self.declared.function, self.declared.files)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context(table: &'static str) -> Context {
        let context = crate::testing::context("all");
        let declared = Declared {
            table,
            ..Declared::ALL
        };
        Context {
            declared,
            ..context
        }
    }

    #[test]
    fn changes_without_a_row_are_kept_in_their_order() {
        let context = context("pages");
        context.add("totals", "views", -2).expect("added");
        context.max("totals", "best", 7).expect("raised");
        context.set_add("countries", "se").expect("a member");
        context.top_n("leaders", "/home", 7, 0).expect("a score");
        context.distinct("visitors", "v1").expect("counted");
        let set = Change::SetAdd {
            member: "se".into(),
        };
        let top = Change::TopN {
            member: "/home".into(),
            score: 7,
            limit: 1,
        };
        let ops = context.take_ops();
        let tables: Vec<&str> = ops.iter().map(|op| op.table).collect();
        let expected = ["totals", "totals", "countries", "leaders", "visitors"];
        assert_eq!(tables, expected);
        assert_eq!(ops[2].change, set);
        assert_eq!(ops[3].change, top, "a ranking of none keeps one");
        assert!(context.take_ops().is_empty(), "taken once");
    }

    #[test]
    fn the_row_in_hand_is_not_changed_behind_its_back() {
        let context = context("pages");
        for refused in [
            context.set_add("pages", "x"),
            context.top_n("pages", "x", 1, 1),
            context.add("", "x", 1),
        ] {
            assert!(refused.expect_err("refused").rejected);
        }
        assert!(context.take_ops().is_empty());
    }

    #[tokio::test]
    async fn what_is_not_declared_is_refused_by_name() {
        let declared = Declared {
            function: "count",
            changes: Some(&["totals"]),
            files: FileUse::Read,
            ..Declared::ALL
        };
        let context = Context {
            declared,
            ..crate::testing::context("all")
        };
        context.add("totals", "views", 1).expect("declared");
        let refused = context.add("others", "views", 1).expect_err("not declared");
        let text = r#"add `.changes(&["others"])` to the function"#;
        assert!(refused.rejected && refused.message.contains(text));
        let refused = context.files().put("a", &[], "a").await;
        let refused = refused.expect_err("not declared");
        assert!(
            refused.message.contains("`.writes_files()`"),
            "{}",
            refused.message
        );
        let absent = context.files().stat("a").await.expect_err("there are none");
        assert!(!absent.rejected, "that it reads is declared");
    }
}
