//! Effects: what a run of a handler comes to, found without any server. The author's test kit drives handlers by this file
//! as well, so that it cannot differ from the worker in what an event means, makes and is refused for.

mod foreign;

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use oncue_core::config::Limits;
use oncue_core::store::{CommitEvent, Fields, Op, RowChange, RowKey, Run, RunCount, RunStart};
use oncue_proto::Draft;

use crate::context::Context;
use crate::error::{Error, Result, reject};
use crate::files::FileStore;
use crate::function::{AnyEvent, Erased};
use crate::state::{AnyRow, RowError, stored_version};
use crate::worker::batcher::MAX_BATCH;
use crate::worker::committer::PreparedRun;
use crate::worker::invocation::{
    BoxedInvocation, DeadLetterReason, Invocation, RetryReason, Settlement,
};
use crate::worker::outputs::{self, OutputMaker};
use crate::worker::row_cache::{self, RowSnapshot};
use crate::worker::watchdog;

pub(crate) use self::foreign::Onlooker;

/// Time from the end of a run to its mark, with room for a slow Redis.
const SETTLED_WITHIN: Duration = Duration::from_secs(10);

/// The function with its limits, and the maker of its outputs.
pub(crate) struct Effects {
    /// The author's code, its types erased.
    pub function: Arc<Erased>,
    /// Limits after `oncue.toml` has had its say: timeout of a run and number of attempts are used
    /// here.
    pub limits: Limits,
    /// Makes events of what handlers return.
    pub outputs: OutputMaker,
}

/// Runs to commit, and events that do not come so far.
pub(crate) struct HandledKey {
    /// To be committed, each whole or not at all.
    pub runs: Vec<PreparedRun>,
    /// To be settled now; nothing of them is committed.
    pub failed: Vec<Failed>,
}

/// An event whose way ends before the commit, and how.
pub(crate) struct Failed {
    pub event: BoxedInvocation,
    pub settlement: Settlement,
}

impl HandledKey {
    pub fn new() -> Self {
        Self {
            runs: Vec::new(),
            failed: Vec::new(),
        }
    }

    pub fn fail(&mut self, event: BoxedInvocation, settlement: Settlement) {
        self.failed.push(Failed { event, settlement });
    }

    /// Puts an event alone into a run, without a row, so that no neighbour holds it up.
    pub fn prepare(&mut self, event: BoxedInvocation, commit: CommitEvent) {
        self.runs.push(PreparedRun {
            run: Run {
                row: None,
                events: vec![commit],
            },
            events: vec![event],
            row_after: None,
        });
    }
}

impl Effects {
    /// Decodes an event and finds its key. `keyed_by` is the author's code: its panic must not take the process with
    /// everybody's events.
    ///
    /// After `Ok` the event holds the decoded value, and its mark holds key and partition. Nothing
    /// later changes them, but for a dead letter that comes before the key.
    ///
    /// # Errors
    ///
    /// A dead letter: the payload is not of the type its headers say, key or headers are out of bounds, or `keyed_by`
    /// panicked.
    pub fn decode(&self, event: &mut Invocation) -> std::result::Result<(), Settlement> {
        let decoded = std::panic::catch_unwind(AssertUnwindSafe(|| {
            let decoded = (self.function.decode)(&event.meta.ty, event.format, &event.payload)?;
            let key = (self.function.key)(&decoded);
            Ok::<_, oncue_proto::DecodeError>((key, decoded))
        }));
        let bounds = &self.outputs.bounds;
        match decoded {
            Ok(Ok((key, decoded))) => {
                // Before anything is done with it: a key is part of Redis keys and of every header that follows.
                let headers = event.delivery.headers();
                let headers = headers.map(|(name, value)| name.len() + value.len() + 4);
                let within = bounds
                    .check_key(&key)
                    .and_then(|()| bounds.check_headers(headers.sum()));
                if let Err(why) = within {
                    return Err(Settlement::dead_letter(DeadLetterReason::Bounds, why));
                }
                event.set_key(&key);
                event.event = Some(decoded);
                Ok(())
            }
            Ok(Err(e)) => Err(Settlement::DeadLetter(
                DeadLetterReason::Unreadable("decode"),
                Error::retry(e.0),
            )),
            Err(_) => Err(Settlement::DeadLetter(
                DeadLetterReason::Unreadable("key"),
                Error::retry("finding its key panicked").at(watchdog::take_panic_site()),
            )),
        }
    }

    /// Whether the run that begins has to be counted. A first delivery costs no round trip: its count is 1 by itself. For
    /// a later one Redis counts the runs begun, and the first, which nobody counted, is added. JetStream's own count will
    /// not do, since it also counts deliveries that never came to run.
    ///
    /// A function that runs at most once, or has one attempt, counts its [first run](Self::counts_first_runs) as well.
    pub fn is_counted(&self, event: &Invocation) -> bool {
        if self.function.at_most_once {
            !event.restored
        } else {
            event.counted.is_none() && (event.delivery.info.attempt > 1 || self.counts_first_runs())
        }
    }

    /// Whether first runs are counted, right before they begin: where one run is all that an event has, it must not be
    /// taken for begun while it only waits.
    pub fn counts_first_runs(&self) -> bool {
        self.function.at_most_once || self.limits.attempts == 1
    }

    /// Events of a key that run together: as many as one commit takes, but one where each run is counted as it begins.
    pub fn largest_run(&self) -> usize {
        if self.counts_first_runs() {
            1
        } else {
            MAX_BATCH
        }
    }

    /// Run that is about to begin, as it is counted.
    pub fn run_start(&self, event: &Invocation) -> RunStart {
        RunStart {
            mark: event.mark.clone(),
            number: fastrand::u64(..),
            message: event.delivery.info.sequence,
            only_first: self.function.at_most_once,
        }
    }

    /// Takes the number of runs begun, this one included, as it was counted.
    ///
    /// # Errors
    ///
    /// The function runs at most once and an earlier run was begun. A retry while that may be under way, for a copy of the
    /// event; else a dead letter, since nobody knows whether its call was made.
    pub fn take_count(
        &self,
        event: &mut Invocation,
        count: RunCount,
    ) -> std::result::Result<(), Settlement> {
        let RunCount { begun, since_copy } = count;
        if self.function.at_most_once && begun > 1 {
            if since_copy.is_some_and(|since| since < self.limits.timeout.0 + SETTLED_WITHIN) {
                return Err(Settlement::Retry(RetryReason::UnderWay));
            }
            return Err(Settlement::dead_letter(
                DeadLetterReason::OutcomeUnknown,
                "a run was begun and did not end here: its call may have been made or not",
            ));
        }
        event.counted = Some(begun + u32::from(!self.counts_first_runs()));
        Ok(())
    }

    /// Whether a delivery that is given back for this reason was no run, or none that counts, and yet will look like one to
    /// the next delivery, which adds the first to those that were counted. Where first runs are counted, none is added.
    pub fn is_free(reason: &RetryReason, event: &Invocation, counts_first_runs: bool) -> bool {
        match reason {
            RetryReason::Contended => true,
            RetryReason::NewerRow(_) | RetryReason::OtherProgram(_) => {
                event.delivery.info.attempt == 1 && !counts_first_runs
            }
            _ => false,
        }
    }

    /// Refuses an event whose attempts are used up. Asked before the handler runs: one that kills its process gets no more
    /// runs than one that fails.
    ///
    /// # Errors
    ///
    /// A dead letter.
    pub fn check_attempts(&self, event: &Invocation) -> std::result::Result<(), Settlement> {
        if event.runs() <= self.limits.attempts {
            return Ok(());
        }
        let runs = event.runs() - 1;
        // The words say what the deliveries tell: on probation nobody vouched, so the process is
        // taken to have died.
        let before = if event.on_probation {
            format!(
                "{runs} runs ended without a result, the process with them: it crashed, was killed, or held its thread for \
                 longer than the timeout of {:?} without an await (exit code 70)",
                self.limits.timeout.0
            )
        } else {
            format!("{runs} runs have failed, and its dead letter could not be written then")
        };
        Err(Settlement::dead_letter(DeadLetterReason::Attempts, before))
    }

    /// Opens the row for the handlers of these events, or fails them all; `None` then.
    ///
    /// A row that cannot be read as its struct fails every event of the key: the code is wrong, or the row is. Both can be
    /// mended before the attempts are used up.
    pub fn open(
        &self,
        row: &RowSnapshot,
        events: Vec<BoxedInvocation>,
        handled: &mut HandledKey,
    ) -> Option<OpenRow> {
        match (self.function.open)(&row.fields) {
            Ok(state) => Some(OpenRow { state, events }),
            Err(e) => {
                self.row_unread(events, &e, handled);
                None
            }
        }
    }

    /// Gives the events back where the row is for a newer worker, which is not a run and so none of their attempts;
    /// returns them otherwise. Asked before the row is opened, since opening it runs the author's `Deserialize`.
    pub fn unless_newer(
        &self,
        row: &RowSnapshot,
        events: Vec<BoxedInvocation>,
        handled: &mut HandledKey,
    ) -> Option<Vec<BoxedInvocation>> {
        match stored_version(&row.fields, self.function.row_version) {
            Ok(_) => Some(events),
            Err(newer) => {
                self.row_unread(events, &newer, handled);
                None
            }
        }
    }

    /// The event as its handler gets it, with the context of the run.
    ///
    /// # Errors
    ///
    /// The payload cannot be decoded a second time, after a conflict.
    pub fn begin(&self, event: &mut Invocation, files: FileStore) -> Result<(AnyEvent, Context)> {
        let decoded = match event.event.take() {
            Some(decoded) => decoded,
            // A second run after a conflict.
            None => (self.function.decode)(&event.meta.ty, event.format, &event.payload)?,
        };
        let context = Context::new(
            event.meta.clone(),
            event.mark.key.clone(),
            self.function.declared(),
            event.runs(),
            files,
        );
        Ok((decoded, context))
    }

    /// Result of a run, of which a panic is one failed attempt, and a run beyond its time another.
    pub fn outcome<T>(
        &self,
        ended: std::result::Result<std::thread::Result<Result<T>>, tokio::time::error::Elapsed>,
    ) -> Result<T> {
        match ended {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(panic)) => {
                let text = format!("panicked: {}", panic_text(panic.as_ref()));
                Err(Error::retry(text)
                    .of_class("panic")
                    .at(watchdog::take_panic_site()))
            }
            Err(_) => {
                let limit = self.limits.timeout.0;
                Err(Error::retry(format!("still running after {limit:?}")).of_class("timeout"))
            }
        }
    }

    /// Makes of a run that went well what to commit, without an entry in a ledger. The event holds its outputs then,
    /// encoded as they will be stored. `now` is the clock, Unix milliseconds.
    ///
    /// # Errors
    ///
    /// A rejection: outputs that could never be published, or a member out of bounds.
    pub fn finish(
        &self,
        event: &mut Invocation,
        drafts: Vec<Draft>,
        ops: Vec<Op>,
        now: impl Fn() -> u64,
    ) -> Result<CommitEvent> {
        // Outputs that could never be published are refused here, before the commit, as a rejection
        // of the event.
        event.outputs = self.outputs.prepare(drafts, event, now)?;
        if event.restored {
            // Published when it was first applied. Another order of events may have made others of them now.
            event.outputs.clear();
        }
        event.outbox = outputs::encode(&event.outputs);
        for op in &ops {
            let member = self.outputs.bounds.check_member(op.change.member());
            member.map_err(|why| reject(format!("table {}: {why}", op.table)))?;
        }
        Ok(event.to_commit(ops))
    }

    /// Makes runs of handled events: one for the row, or one for each event where there is none.
    pub fn prepare(
        &self,
        key: &str,
        row: &RowSnapshot,
        state: &dyn AnyRow,
        events: Vec<BoxedInvocation>,
        commits: Vec<CommitEvent>,
        handled: &mut HandledKey,
    ) {
        // Without a row there is nothing that events of a key share, so one that is refused leaves
        // the others alone.
        if self.function.table.is_empty() {
            for (event, commit) in events.into_iter().zip(commits) {
                handled.prepare(event, commit);
            }
            return;
        }
        if events.is_empty() {
            return;
        }
        match self.row_change(key, row, state) {
            Ok(change) => self.prepare_row(row, change, events, commits, handled),
            Err(e) => self.fail_all(events, &e, handled),
        }
    }

    /// Makes one run of the events of a row, if the row is not too large by its change.
    pub fn prepare_row(
        &self,
        row: &RowSnapshot,
        change: RowChange,
        events: Vec<BoxedInvocation>,
        commits: Vec<CommitEvent>,
        handled: &mut HandledKey,
    ) {
        let bounds = &self.outputs.bounds;
        if let Err(why) = bounds.check_row(size_after(&row.fields, &change)) {
            return self.too_large(events, &why, handled);
        }
        handled.runs.push(PreparedRun {
            row_after: row_cache::after(&row.fields, &change),
            run: Run {
                row: Some(change),
                events: commits,
            },
            events,
        });
    }

    /// Rejects the event that makes its row too large. Of several nobody knows which it was: each comes again, alone.
    fn too_large(&self, events: Vec<BoxedInvocation>, why: &str, handled: &mut HandledKey) {
        let alone = events.len() == 1;
        for event in events {
            let table = self.function.table;
            let settlement = if alone {
                let why = format!("{table}/{}: {why}", event.key());
                Settlement::of_failure(&event, reject(why), self.limits.attempts)
            } else {
                // Without the key: it is said in a log.
                Settlement::Retry(RetryReason::Apart(format!("a row of {table}: {why}")))
            };
            handled.fail(event, settlement);
        }
    }

    /// Gives events back whose row is for a newer worker, without an attempt; fails them where no worker can read it.
    fn row_unread(&self, events: Vec<BoxedInvocation>, error: &RowError, handled: &mut HandledKey) {
        let table = self.function.table;
        for event in events {
            let settlement = match error {
                // Shown where payloads are not, so without the key.
                RowError::Newer { .. } => {
                    Settlement::Retry(RetryReason::NewerRow(format!("{table}: {error}")))
                }
                RowError::Unreadable(_) => {
                    let why = format!("{table}/{}: {error}", event.key());
                    let error = Error::retry(why).of_class("row");
                    Settlement::of_failure(&event, error, self.limits.attempts)
                }
            };
            handled.fail(event, settlement);
        }
    }

    /// Fails all events for one reason: their row cannot be read, or not be written.
    fn fail_all(&self, events: Vec<BoxedInvocation>, why: &String, handled: &mut HandledKey) {
        for event in events {
            let error = Error::retry(why);
            let settlement = Settlement::of_failure(&event, error, self.limits.attempts);
            handled.fail(event, settlement);
        }
    }

    /// Change of the row: fields that differ from what was read. Serializing is the author's code
    /// and may refuse.
    fn row_change(
        &self,
        key: &str,
        row: &RowSnapshot,
        state: &dyn AnyRow,
    ) -> std::result::Result<RowChange, String> {
        let (set, del) = state.changes()?;
        Ok(RowChange {
            key: RowKey {
                table: self.function.table,
                key: key.to_owned(),
            },
            basis: row.expected.clone(),
            set,
            del,
        })
    }
}

/// A row that is open, and the events whose handlers will have it one after another.
pub(crate) struct OpenRow {
    pub state: Box<dyn AnyRow>,
    pub events: Vec<BoxedInvocation>,
}

/// Bytes of a row once it is changed, names and values.
fn size_after(before: &Fields, change: &RowChange) -> usize {
    let kept = before.iter().filter(|(name, _)| {
        !change.del.contains(name) && !change.set.iter().any(|(changed, _)| changed == name)
    });
    let fields = kept.chain(&change.set);
    fields.map(|(name, value)| name.len() + value.len()).sum()
}

/// Text of a panic, if it has one.
///
/// `panic!` with a literal brings a `&str`, with arguments a `String`; anything else has no text.
pub(crate) fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("without a text")
}
