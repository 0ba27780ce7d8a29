//! Names of the keys in Redis. All of an app's begin with its name, so that apps may share a Redis; [the page of the
//! store](super) says what is under them.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use oncue_proto::event::{self, PARTITIONS};

use super::mark::{Mark, OutboxName, OutboxTag};
use super::name_of;
use crate::app::AppName;

/// Keys of one app. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Keys(AppName);

impl Keys {
    /// Keys of an app.
    pub fn new(app: &AppName) -> Self {
        Self(app.clone())
    }

    /// App whose keys these are.
    pub fn app(&self) -> &AppName {
        &self.0
    }

    /// Key that the app has once, `APP:NAME`.
    pub fn of(&self, name: impl fmt::Display) -> String {
        format!("{}:{name}", self.0)
    }

    /// Key in a partition, `APP:{pN}:NAME`.
    fn in_partition(&self, partition: u32, name: fmt::Arguments<'_>) -> String {
        format!("{}:{{p{partition}}}:{name}", self.0)
    }

    /// Row of a state table, or the value of a blind operation there. Keys that no pattern or shell must misread are
    /// percent-encoded, long ones hashed.
    pub fn row(&self, table: &str, key: &str) -> String {
        let name = name_of(key);
        self.in_partition(event::partition(key), format_args!("s:{table}:{name}"))
    }

    /// Row that a person looks for: by the key of its events, or as lists name one whose key was too long to be kept, by its
    /// hash and partition, `~HASH@p17`.
    pub fn looked_for(&self, table: &str, key: &str) -> String {
        let hashed = key.strip_prefix('~').and_then(|rest| rest.split_once("@p"));
        match hashed {
            Some((hash, partition)) if is_hash(hash) && partition.parse::<u32>().is_ok() => {
                self.of(format_args!("{{p{partition}}}:s:{table}:~{hash}"))
            }
            _ => self.row(table, key),
        }
    }

    /// Key of the events of a row, out of its place in Redis: `None` for what is no row of the table, however alike it looks.
    pub fn key_of_row(table: &str, place: &str) -> Option<String> {
        let mut parts = place.splitn(5, ':').skip(1);
        let partition = parts.next()?.strip_prefix("{p")?.strip_suffix('}')?;
        if parts.next()? != "s" || parts.next()? != table {
            return None;
        }
        let name = parts.next()?;
        if name.starts_with('~') {
            return Some(format!("{name}@p{partition}"));
        }
        Some(event::percent_decode(name).unwrap_or_else(|| name.to_owned()))
    }

    /// Pattern of all rows of a table, for `SCAN`; other keys may look alike, see [`key_of_row`](Self::key_of_row).
    pub fn rows(&self, table: &str) -> String {
        self.of(format_args!("{{p*}}:s:{table}:*"))
    }

    /// Ledger of a flow.
    pub fn flow(&self, flow: &str) -> String {
        self.in_partition(event::partition(flow), format_args!("f:{}", name_of(flow)))
    }

    /// Rows that a function has changed in a flow. Its name is in the key, since they are nobody else's to read.
    pub fn flow_rows(&self, function: &str, flow: &str) -> String {
        let name = name_of(flow);
        self.in_partition(event::partition(flow), format_args!("w:{function}:{name}"))
    }

    /// Pattern of all ledgers, for `SCAN`; the keys of some rows may look alike, see [`is_flow`](Self::is_flow).
    pub fn flows(&self) -> String {
        self.of("{p*}:f:*")
    }

    /// Whether a key is that of a ledger.
    pub fn is_flow(key: &str) -> bool {
        let rest = key.split_once("}:").map(|(_, rest)| rest);
        rest.is_some_and(|rest| rest.starts_with("f:"))
    }

    /// Set of the functions that act on a type.
    pub fn listeners(&self, ty: &str) -> String {
        self.of(format_args!("l:{ty}"))
    }

    /// Losses that workers of a function have found.
    pub fn regressed(&self, function: &str) -> String {
        self.of(format_args!("regressed:{function}"))
    }

    /// Count of what somebody has taken of a limit. Whoever it is, is hashed: an address or a name does not belong into Redis
    /// for it.
    pub fn limit(&self, limit: &str, who: &str) -> String {
        let hash = event::hash(&[who.as_bytes()]);
        let who = URL_SAFE_NO_PAD.encode(hash);
        self.in_partition(event::partition(&who), format_args!("g:{limit}:{who}"))
    }

    /// Hash of what the workers of a function have counted: name -> number.
    pub fn counts(&self, function: &str) -> String {
        self.of(format_args!("counts:{function}"))
    }

    /// Samples of a function, one a minute.
    pub fn samples(&self, function: &str) -> String {
        self.of(format_args!("samples:{function}"))
    }

    /// Seen-marks of a function.
    pub fn marks(&self, function: &str) -> String {
        self.of(format_args!("d:{function}"))
    }

    /// Count of the runs of an event; each redrive counts anew. Its place hangs on the id alone: a program that cannot read the
    /// event does not know its key.
    pub fn runs(&self, mark: &Mark) -> String {
        let partition = u32::from(mark.id[0]) % PARTITIONS;
        let id = URL_SAFE_NO_PAD.encode(mark.id);
        let function = &mark.function;
        if mark.redrive == 0 {
            self.in_partition(partition, format_args!("r:{function}:{id}"))
        } else {
            let redrive = mark.redrive;
            self.in_partition(partition, format_args!("r:{function}:{id}.{redrive}"))
        }
    }

    /// Outbox of a commit.
    pub fn outbox(&self, name: OutboxName, function: &str) -> String {
        let nonce = name.nonce();
        self.in_partition(name.partition(), format_args!("o:{function}:{nonce:016x}"))
    }

    /// Beginning of the keys of the outboxes of a function with this tag.
    pub fn outboxes(&self, tag: OutboxTag, function: &str) -> String {
        let nonce = tag.nonce();
        self.in_partition(tag.partition(), format_args!("o:{function}:{nonce:04x}"))
    }

    /// Index of the outboxes of a function.
    pub fn outbox_index(&self, function: &str) -> String {
        self.of(format_args!("u:{function}"))
    }

    /// Index that the outbox of this key stands in.
    pub fn index_of(&self, outbox: &str) -> String {
        self.outbox_index(Self::function_of(outbox))
    }

    /// Function whose outputs the outbox of this key holds.
    pub fn function_of(outbox: &str) -> &str {
        let rest = outbox.split_once("}:o:").map_or("", |(_, rest)| rest);
        rest.split(':').next().unwrap_or_default()
    }
}

fn is_hash(text: &str) -> bool {
    text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outbox_tells_its_index_and_its_function() {
        let keys = Keys::default();
        let name = OutboxName::new(17);
        let outbox = keys.outbox(name, "count-views");
        assert!(outbox.starts_with("app:{p17}:o:count-views:"), "{outbox}");
        assert!(outbox.starts_with(&keys.outboxes(name.tag(), "count-views")));
        assert!(!outbox.starts_with(&keys.outboxes(name.tag(), "count")));
        assert_eq!(keys.index_of(&outbox), "app:u:count-views");
        assert_eq!(Keys::function_of(&outbox), "count-views");
    }

    #[test]
    fn a_row_is_told_from_what_looks_alike_and_found_again() {
        let keys = Keys::default();
        let long = "x".repeat(300);
        for key in ["/home", "a:b", "~", "}:s:pages:y", long.as_str()] {
            let place = keys.row("pages", key);
            let shown = Keys::key_of_row("pages", &place).expect("a row of the table");
            assert_eq!(keys.looked_for("pages", &shown), place, "{shown}");
            assert_eq!(shown == key, key != long, "{shown}");
            assert_eq!(Keys::key_of_row("page", &place), None);
        }
        let alike = keys.row("other", "}:s:pages:x");
        assert_eq!(Keys::key_of_row("pages", &alike), None);
        // What a client may call so is its own row.
        let forged = format!("~{}@p1", "a".repeat(32));
        assert_ne!(
            keys.row("pages", &forged),
            keys.looked_for("pages", &forged)
        );
    }

    #[test]
    fn a_ledger_is_told_from_a_row() {
        let keys = Keys::default();
        assert!(Keys::is_flow(&keys.flow("x")));
        assert!(!Keys::is_flow(&keys.row("rows", "}:f:")));
        assert!(!Keys::is_flow(&keys.flow_rows("count-views", "x")));
    }
}
