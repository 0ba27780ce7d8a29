//! Redis: all state. Rows of functions, the marks that make a second delivery harmless, outputs on their way to their
//! streams, ledgers of flows. Redis is the only thing to back up besides NATS; nothing here can be told from the
//! streams alone once their replay window has passed.
//!
//! # Keys
//!
//! Every key begins with the name of its app ([`Keys`]). Keys that belong to a key of events carry its partition, `{p17}:`;
//! marks belong to an id. Rows are plain hashes, one field per struct field, so `redis-cli` shows them. Times are Unix milliseconds.
//!
//! | key | type | holds | goes |
//! |---|---|---|---|
//! | `APP:{pN}:s:TABLE:KEY` | hash, set, sorted set or HyperLogLog | a state row, with a number that grows with each change in the field `_v` and its [version](SCHEMA); or the value of a blind operation | never by itself |
//! | `APP:d:FUNCTION` | hash | the seen-marks of a function: buckets of [`mark::SeenMark`]s behind the hashes of their ids, as `commit.lua` describes | each mark a horizon and [`GRACE_MS`] after it was written, give or take some hours |
//! | `APP:{pN}:o:FUNCTION:NAME` | string | outputs of the events of one commit, one frame each | once published; with `keep_outputs` that much later; after a minute if the commit is never made |
//! | `APP:u:FUNCTION` | sorted set | keys of those outboxes of a function, by commit time; once published, by minus the time of publishing | with its outboxes |
//! | `APP:{pN}:r:FUNCTION:ID` | string | number of runs of an event that was delivered more than once | after the horizon |
//! | `APP:{pN}:f:FLOW` | hash | the ledger of a tracked flow (fields: [`crate::model::flow`]) | `[flows] keep` after its last write |
//! | `APP:{pN}:w:FUNCTION:FLOW` | hash | rows of its steps in a tracked flow, before and after (`EVENT`: [`crate::model::flow::StepRow`]) | as the ledger |
//! | `APP:layout` | string | number of this layout | never |
//! | `APP:id-secret` | string | the [`secret`](crate::secret) of the app | never |
//! | `APP:partitions` | string | number of partitions, fixed at first start | never |
//! | `APP:tended` | string | time at which `oncue up` or `oncue tend` last tended the servers | after two minutes |
//! | `APP:commits:FUNCTION:WORKER` | string | number and time of a worker's last commit, by which a Redis that went back in time is found out | after a week |
//! | `APP:regressed:FUNCTION` | hash | worker of the function -> the loss it found; no worker starts until `oncue recover redis` has removed it | by that command |
//! | `APP:streams` | hash | stream -> [`KnownStream`] as JSON, by which a NATS that went back is found out | never |
//! | `APP:progress` | sorted set | `STREAM CREATED FUNCTION` -> sequence up to which the function was done with its stream | with the function |
//! | `APP:removed` | hash | `FUNCTION CREATED AFTER` -> [`Removed`] as JSON: what was taken out of a stream before the function was done with it | by `oncue recover nats` |
//! | `APP:edits` | list | the last 10,000 changes of rows by hand, as JSON | the oldest first |
//! | `APP:restoring` | hash | function -> [`Restoring`] as JSON: what the last `oncue recover redis` delivers again | never |
//! | `APP:backup` | string | id of the backup that goes on: outputs are kept meanwhile | at its end, or by itself after ten minutes |
//! | `APP:gaps` | hash | stream -> [`Gap`] as JSON: what came after the backup that was restored | never |
//! | `APP:epoch` | string | time of the last such recovery | never |
//! | `APP:edges`, `APP:edges:at` | hash | `SOURCE\tTYPE\tFUNCTION` -> events that went that way, and time of the last | with either function |
//! | `APP:counts:FUNCTION` | hash | name -> events, runs by duration and microseconds over all workers there ever were | with the function |
//! | `APP:nats:ended` | string | id of the NATS server that `oncue up` told to end last | at the next start |
//! | `APP:letters:owners` | hash | group of dead letters -> who sees to it, as JSON | a month |
//! | `APP:samples:FUNCTION` | sorted set | a sample a minute, as the console took it, as JSON, by its time | after a day |
//! | `APP:functions` | hash | function -> its manifest and the time at which it was let in, as JSON | never |
//! | `APP:tables` | hash | table -> function that writes its rows, also once it is gone | by `oncue remove --forget` |
//! | `APP:history` | hash | function -> its [`History`](crate::model::history::History) as JSON: what it acted on, and from where on | never |
//! | `APP:{pN}:g:LIMIT:WHO` | string | time (Unix us) at which all that WHO, hashed, has taken of a limit is paid for | then |
//! | `APP:api-keys` | hash | id -> [`ApiKey`](crate::model::api_key::ApiKey) as JSON, with the hash of its secret | by `oncue keys revoke` |
//! | `APP:api-keys:used` | hash | id -> about when it was last used | with its key |
//! | `APP:console:revoked` | sorted set | sessions of the console that were ended before their time, by that time (Unix ms) | then |
//! | `APP:notices`, `APP:notices:silent` | hash | notice -> what consoles know of it, as JSON; until when nobody is told (Unix ms) | once it is over and told |
//! | `APP:l:TYPE` | set | names of the functions that act on a type | never |
//!
//! `KEY` and `FLOW` are percent-encoded, or hashed where they are longer than 256 bytes. `FUNCTION` is a function's
//! name. Besides these there are leases of workers, which expire by themselves ([`Store::lease`]), and the function
//! library `oncue_VERSION` made of `commit.lua`.
//!
//! # One commit
//!
//! A worker [reads](Store::read) the row and the marks of the events it was given, runs the handlers, and
//! [commits](Store::commit) [`Run`]s. The commit is one call of the library: it checks marks, age fence, row version
//! and operations of a run, and then writes row, marks, outbox and ledger of it, or nothing at all. Publishing the
//! outbox and acking the events come behind it, and may be repeated by anybody.

mod keys;
mod ledger;
pub mod mark;
mod redis;
mod regression;
mod restoring;

use std::fmt::Write as _;

use bytes::Bytes;

pub use self::keys::Keys;
pub use self::ledger::{EDGES, EDGES_AT, FUNCTIONS, first_step, ledger_event};
pub use self::ledger::{Entry, StepUpdate};
pub use self::mark::{Mark, StreamPosition, payload_hash};
pub use self::redis::{
    KeptNotices, KeyedRow, NewerRow, RESTORE_SECONDS, RESTORED_SECONDS, RowEdit, RowPage, RunCount,
    RunStart, SAMPLES_MS, SentinelAnswer, ServerSnapshot, Spent, Store, StoredKey, StoredUser,
};
pub use self::regression::Regression;
pub use self::restoring::Restoring;
use oncue_proto::event;

/// Milliseconds by which seen-marks outlive the horizon, so that a late copy is known as done rather than refused as
/// old.
pub const GRACE_MS: u64 = 6 * 3600 * 1000;
/// Milliseconds by which an event may claim to come from the future.
pub const SKEW_MS: u64 = 3600 * 1000;
// Else a mark could be gone while a copy that claims to come from the future still passes the fence (`model/window.rs`).
const _: () = assert!(GRACE_MS > SKEW_MS);

/// Field in which a row says its version, where that is not the first: `State::VERSION` of the function that wrote it.
pub const SCHEMA: &str = "_schema";

/// Bytes of the longest key that stands for itself in a Redis key.
const LONGEST_NAME: usize = 256;

/// Fields of a row, sorted by name: name as its author wrote it, value as Redis holds it.
pub type Fields = Vec<(String, Vec<u8>)>;

/// State row as read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Row {
    /// Grows with every change, Unix microseconds as a rule; 0 for a row that does not exist yet.
    pub version: u64,
    /// Fields without the version; none for a row that does not exist.
    pub fields: Fields,
}

/// Row and seen-marks to look up before handlers run.
#[derive(Debug, Clone)]
pub struct Read {
    /// Row to read, for a function that owns rows and does not remember this one.
    pub row: Option<RowKey>,
    /// Events of one key.
    pub marks: Vec<Mark>,
}

/// Answer to one [`Read`].
#[derive(Debug, Clone, Default)]
pub struct ReadResult {
    /// Row as it is; the default where none was asked for.
    pub row: Row,
    /// For each mark whether its event is done with.
    pub seen: Vec<bool>,
}

/// Address of a state row.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RowKey {
    /// Table that the function owns.
    pub table: &'static str,
    /// Key of the event, not encoded.
    pub key: String,
}

/// Name of a key inside a Redis key: itself, percent-encoded, or `~` and its hash in hex where that is too long.
fn name_of(key: &str) -> String {
    let name = event::percent_encode(key);
    // A short key must not look like the hash of a long one.
    let name = name
        .strip_prefix('~')
        .map_or(name.clone(), |rest| format!("%7E{rest}").into());
    if name.len() <= LONGEST_NAME {
        return name.into_owned();
    }
    let hash = event::hash(&[key.as_bytes()])
        .iter()
        .fold(String::new(), |mut hex, byte| {
            let _ = write!(hex, "{byte:02x}");
            hex
        });
    format!("~{hash}")
}

/// Blind operation: a change that commutes with every other of its kind, so no version, no conflict, however hot the
/// key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Op {
    /// Table that holds the value; its key is that of the event.
    pub table: &'static str,
    /// Change to make.
    pub change: Change,
}

/// Change that a blind operation makes. Integers stay within 9e18 in both directions; beyond that the event is
/// [invalid](Status::Invalid), as it is where the key holds a value of another kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Adds to an integer field of a hash.
    Add { field: String, by: i64 },
    /// Raises an integer field of a hash.
    Max { field: String, to: i64 },
    /// Adds a member to a set.
    SetAdd { member: String },
    /// Sets a member's score in a sorted set that keeps the highest `limit`.
    TopN {
        member: String,
        score: i64,
        limit: u32,
    },
    /// Counts a member in a HyperLogLog.
    Distinct { member: String },
}

impl Change {
    /// Field or member that it changes.
    pub fn member(&self) -> &str {
        match self {
            Self::Add { field, .. } | Self::Max { field, .. } => field,
            Self::SetAdd { member } | Self::TopN { member, .. } | Self::Distinct { member } => {
                member
            }
        }
    }
}

/// Unit of commit: events of one key, handled in order on one row. Applied whole or not at all.
#[derive(Debug, Clone)]
pub struct Run {
    /// Change of the row; `None` for a function that owns none.
    pub row: Option<RowChange>,
    /// At least one.
    pub events: Vec<CommitEvent>,
}

/// Change that the events of a run make to their row.
#[derive(Debug, Clone)]
pub struct RowChange {
    /// Row to change.
    pub key: RowKey,
    /// Row as the handlers saw it; if it has changed, nothing of the run is applied.
    pub basis: Expected,
    /// Fields to set.
    pub set: Fields,
    /// Names of fields to delete.
    pub del: Vec<String>,
}

/// Row as the handlers saw it, for optimistic concurrency.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expected {
    /// Read, with this version.
    Version(u64),
    /// Remembered from an earlier commit: all that it holds, sorted by name.
    Fields(Fields),
}

/// Handled event, ready to be committed.
#[derive(Debug, Clone)]
pub struct CommitEvent {
    /// Identity of the event, and where its seen-mark goes.
    pub mark: Mark,
    /// Tells another event under the same id apart; 24 bits of it are kept.
    pub payload_hash: u32,
    /// Blind operations on the event's key, in order.
    pub ops: Vec<Op>,
    /// Outputs as an encoded `oncue.v1.Outbox`; empty for none.
    pub outbox: Bytes,
    /// Whether to apply it, to record it as dead, or only to ask.
    pub purpose: Purpose,
    /// Entry in the ledger of its flow, if that has one.
    pub entry: Option<Box<Entry>>,
}

/// Result of one commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Committed {
    /// For each run in order, a status for each event in order.
    pub statuses: Vec<Vec<Status>>,
    /// Redis key under which the outputs of all that were applied wait to be [published](Store::published); `None` if
    /// there are no outputs.
    pub outbox: Option<String>,
}

/// Purpose of committing an event that Redis does not know yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Apply it.
    Apply,
    /// Record it as dead-lettered; the age fence does not stop that.
    DeadLetter,
    /// Write nothing and only learn its status: [`Status::Conflict`] for one that is not known after all.
    Recall,
}

/// Status of one event after a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Status {
    /// Applied by this commit.
    Applied,
    /// Applied before; outputs that were never marked as published come with it, as an encoded `oncue.v1.Outbox`.
    Duplicate(Option<Bytes>),
    /// Dead-lettered before.
    Dead,
    /// A neighbour in the run was refused or the row has changed: run again on fresh state.
    Conflict,
    /// Older than the horizon: it cannot be proven new.
    TooOld,
    /// From the future by more than [`SKEW_MS`].
    Clock,
    /// The id was applied with another payload.
    IdReuse,
    /// An operation does not fit the value that is there, with the reason for people.
    Invalid(String),
}

/// State of an event that has left a seen-mark.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MarkState {
    /// Applied, with all its effects.
    Applied,
    /// Set aside as a dead letter.
    Dead,
}

/// Redis has not done what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct StoreError {
    /// Reason for people, without secrets.
    pub message: String,
    /// Out of reach, loading, busy, full or read-only: whether a commit happened is not known, and asking again is the
    /// cure. Otherwise the request itself is at fault.
    pub away: bool,
}

impl StoreError {
    /// Error for which asking again is no cure.
    pub fn refused(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            away: false,
        }
    }
}

/// Outputs of one event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredOutputs {
    /// Hash of the event's id, as in its mark.
    pub id: [u8; 16],
    /// Outputs as an encoded `oncue.v1.Outbox`.
    pub outputs: Bytes,
}

/// Outbox of one commit, as it is found in the index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unpublished {
    /// Redis key of the outbox.
    pub outbox_key: String,
    /// Outputs by event; none for an outbox that is gone while its index entry is still there.
    pub frames: Vec<StoredOutputs>,
}

/// A stream as Redis last knew it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct KnownStream {
    /// Creation time, Unix milliseconds.
    pub created: u64,
    /// Last sequence.
    pub last: u64,
}

/// How far a function is: nothing of its stream up to there is left for it to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    pub stream: String,
    /// Creation time of the stream, Unix milliseconds.
    pub created: u64,
    pub function: String,
    /// Sequence.
    pub reached: u64,
}

/// Messages that somebody removed from a stream before a function was done with them. Their subjects are gone with them, so
/// there may be some among them that were not for it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Removed {
    pub stream: String,
    /// Creation time of the stream, Unix milliseconds.
    pub created: u64,
    pub function: String,
    /// Lowest and highest sequence.
    pub from: u64,
    pub to: u64,
    /// Number of messages.
    pub messages: u64,
    /// When that was found, Unix milliseconds.
    pub found: u64,
}

/// Sentence without the function.
impl std::fmt::Display for Removed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            stream,
            from,
            to,
            messages,
            found,
            ..
        } = self;
        let found = event::format_time(*found);
        write!(
            f,
            "somebody has taken {messages} messages out of {stream} before it was done with them, sequences {from} to {to}, \
             found at {found}"
        )
    }
}

/// Part of a stream that a restore did not bring back: it came after the backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Gap {
    /// Sequences, first and last.
    pub from: u64,
    pub to: u64,
    /// Time of the backup, Unix milliseconds.
    pub backup: u64,
}

/// Outputs of a function that are committed and in no stream yet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct WaitingOutputs {
    /// Commits whose outputs wait.
    pub commits: u64,
    /// Time of the first of them, Unix milliseconds.
    pub since: u64,
}

/// Value under a state key, for programs that show it.
#[derive(Debug, Clone, PartialEq)]
pub enum StateValue {
    /// Hash: the row of a function.
    Row(Row),
    /// Set, in no order.
    Members(Vec<String>),
    /// Sorted set: member and score, the highest first.
    Ranking(Vec<(String, f64)>),
    /// HyperLogLog: estimated number of different members.
    Count(u64),
}
