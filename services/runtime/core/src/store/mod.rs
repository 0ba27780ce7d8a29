//! All state, in Redis. Rows are plain hashes, one field per struct field, so `redis-cli` shows them.
//!
//! Keys carry the partition as hash tag, `{p17}:`, so that one event touches one slot:
//!
//! | key | holds |
//! |---|---|
//! | `{pN}:s:TABLE:KEY` | a state row: a hash with the version in `_v`, or the set, sorted set or counter of a blind operation |
//! | `{pN}:d:FUNCTION:BUCKET` | seen-marks: event id hash -> `a` or `d`, the payload hash, its sequence in the stream, and where its outputs are; and a field `e` |
//! | `{pN}:o:FUNCTION:NAME` | outputs of the events of one commit: those still to be published, and for a while those that were; gone after a minute if the commit is never made |
//! | `{pN}:r:FUNCTION:ID` | runs of an event that was delivered before, counted until it expires |
//! | `{pN}:u` | those outboxes by commit time, and by minus the time of publishing once that is done |
//! | `oncue:partitions` | number of partitions, fixed at first start |
//! | `oncue:commits:WORKER` | number and time of a worker's last commit, by which a Redis that went back in time is found out |
//! | `oncue:regressed` | what workers found then; nobody starts until `oncue recover redis` has taken it away |
//! | `oncue:epoch` | when that was done last |
//! | `{pN}:f:FLOW` | the ledger of a tracked flow (see [`crate::model::flow`]) |
//! | `oncue:edges`, `oncue:edges:at` | `SOURCE\tTYPE\tFUNCTION` -> how many events went that way, and when the last did |
//! | `oncue:functions` | function -> its manifest and when it last started |
//! | `oncue:l:TYPE` | names of the functions that act on a type |

mod ledger;
pub mod mark;
mod redis;
mod regression;

use std::fmt::Write as _;

use bytes::Bytes;

pub use self::ledger::{EDGES, EDGES_AT, FUNCTIONS, first_step, ledger_event};
pub use self::ledger::{Entry, StepUpdate, flow_key, listeners_key};
pub use self::mark::{Mark, StreamPosition};
pub use self::redis::Store;
pub use self::regression::Regression;
use oncue_proto::event;

/// Seen-marks outlive the horizon by this much, so that a late copy is known as done rather than refused as old.
pub const GRACE_MS: u64 = 6 * 3600 * 1000;
/// An event may claim to come from the future by this much.
pub const SKEW_MS: u64 = 3600 * 1000;

/// Fields of a row, sorted by name, as Redis holds them.
pub type Fields = Vec<(String, Vec<u8>)>;

/// A row as read. Version 0 does not exist yet.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Row {
    pub version: u64,
    pub fields: Fields,
}

/// Which row and which events to look up before handlers run.
#[derive(Debug, Clone)]
pub struct Read {
    pub row: Option<RowKey>,
    pub marks: Vec<Mark>,
}

/// What was found: the row, and for each mark whether it is known.
#[derive(Debug, Clone, Default)]
pub struct ReadResult {
    pub row: Row,
    pub seen: Vec<bool>,
}

/// Where a state row is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RowKey {
    pub table: &'static str,
    pub key: String,
}

/// Redis key of a row, or of what a blind operation works on.
pub fn row_key(table: &str, key: &str) -> String {
    format!("{{p{}}}:s:{table}:{}", event::partition(key), name_of(key))
}

/// What a key is called inside a Redis key: itself, percent-encoded, or its hash where that is too long.
fn name_of(key: &str) -> String {
    let name = event::percent_encode(key);
    // `~` is what the names of long keys begin with.
    let name = name
        .strip_prefix('~')
        .map_or(name.clone(), |rest| format!("%7E{rest}").into());
    if name.len() <= 256 {
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

/// A change that commutes with every other of its kind: no version, no conflict, however hot the key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Op {
    pub table: &'static str,
    pub change: Change,
}

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

/// The unit of commit: events of one key, handled in order on one row.
#[derive(Debug, Clone)]
pub struct Run {
    pub row: Option<RowChange>,
    pub events: Vec<CommitEvent>,
}

/// What the events of a run made of their row.
#[derive(Debug, Clone)]
pub struct RowChange {
    pub key: RowKey,
    /// What the handlers saw; if that has changed, nothing of the run is applied.
    pub basis: Expected,
    pub set: Fields,
    pub del: Vec<String>,
}

/// By what it is told whether a row is still as the handlers saw it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expected {
    /// It was read, with this version.
    Version(u64),
    /// It is remembered, and this is all it holds, by name.
    Fields(Fields),
}

/// One handled event.
#[derive(Debug, Clone)]
pub struct CommitEvent {
    pub mark: Mark,
    pub payload_hash: u64,
    pub ops: Vec<Op>,
    /// Encoded `oncue.v1.Outbox`; empty for none.
    pub outbox: Bytes,
    pub purpose: Purpose,
    /// What it enters in the ledger of its flow, if that has one.
    pub entry: Option<Box<Entry>>,
}

/// What became of the runs of one commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Committed {
    /// For each run, a status for each event.
    pub statuses: Vec<Vec<Status>>,
    /// Under which key the outputs of all that were applied wait to be [published](Store::published); none if there are none.
    pub outbox: Option<String>,
}

/// What a commit does with an event that it does not know yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    Apply,
    /// Records it as dead-lettered; the fence does not hold it up.
    Bury,
    /// Nothing: only to learn what became of it. Answers `conflict` for one that is not known after all.
    Recall,
}

/// What became of one event of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Status {
    Applied,
    /// Applied before; outputs that were never marked as published come with it.
    Duplicate(Option<Bytes>),
    /// Dead-lettered before.
    Dead,
    /// A neighbour was refused or the row has moved: run again on fresh state.
    Conflict,
    /// Older than the horizon: it cannot be proven new.
    TooOld,
    /// From the future.
    Clock,
    /// The id was applied with another payload.
    IdReuse,
    /// An operation does not fit what is there.
    Invalid(String),
}

/// What a seen-mark says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MarkState {
    Applied,
    Dead,
}

/// Redis does not do what it is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreError {
    pub message: String,
    /// Out of reach, loading, busy, full or read-only: whether a commit happened is not known, and asking again is the
    /// cure. Otherwise the request itself is at fault.
    pub away: bool,
}

impl StoreError {
    pub fn refused(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            away: false,
        }
    }
}

impl std::fmt::Display for StoreError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for StoreError {}

/// Outputs of one event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredOutputs {
    /// Hash of the event's id, as in its mark.
    pub id: [u8; 16],
    /// Encoded `oncue.v1.Outbox`.
    pub outputs: Bytes,
}

/// Outputs of one commit, as the sweeper finds them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unpublished {
    pub outbox_key: String,
    pub frames: Vec<StoredOutputs>,
}

/// What a state key holds, for those who show it.
#[derive(Debug, Clone, PartialEq)]
pub enum StateValue {
    Row(Row),
    Members(Vec<String>),
    /// Highest first.
    Ranking(Vec<(String, f64)>),
    Count(u64),
}
