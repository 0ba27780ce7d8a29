//! Ledgers of flows as they are written: their keys, their fields, and the entry that a commit makes. How a ledger is
//! read is in [`crate::model::flow`].

use std::time::Duration;

use serde_json::json;

use oncue_proto::event::Meta;

/// Key, without the app, of the counts of hops, a hash: `SOURCE\tTYPE\tFUNCTION` -> events that went that way.
pub const EDGES: &str = "edges";
/// Key, without the app, of the times of hops, a hash with the fields of [`EDGES`]: Unix ms of the last event.
pub const EDGES_AT: &str = "edges:at";
/// Key, without the app, of the registered functions, a hash: name -> manifest and start time, as JSON.
pub const FUNCTIONS: &str = "functions";

/// Entry of one event in the ledger of its flow, made by the commit: its own step closes, steps open for all that
/// follows from it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Id of the flow.
    pub flow: String,
    /// Time that the ledger stays from the commit on, at least; whole seconds, at least one.
    pub keep: Duration,
    /// Id of the event.
    pub id: String,
    /// Type of the event.
    pub ty: String,
    /// JSON that describes the event, as [`ledger_event`] makes it.
    pub content: String,
    /// Whether the event was sent to this function alone, as one that was redriven or edited: nobody else has a step for it.
    pub is_own: bool,
    /// Events that follow: id, type, and the JSON that describes each.
    pub follows: Vec<(String, String, String)>,
}

/// Note about one step, written beside the commits: that a run began, why one failed, or how it found and left its row.
#[derive(Debug, Clone)]
pub struct StepUpdate {
    /// Id of the flow.
    pub flow: String,
    /// `r:EVENT:FUNCTION` in the ledger for a run that began, `w:EVENT:FUNCTION` for one that failed; the event for a row.
    pub field: String,
    /// `MS ATTEMPT`, or `MS WHY`; of a row a [`StepRow`](crate::model::flow::StepRow) as JSON.
    pub text: String,
    /// Function whose row it is about, if it is.
    pub row_of: Option<&'static str>,
    /// Time that the ledger stays from now on; whole seconds, at least one.
    pub keep: Duration,
}

/// Field and content that say of an event what it is: `e:EVENT` and `["type","key","source","cause",time ms]`.
pub fn ledger_event(meta: &Meta, key: &str) -> (String, String) {
    let content = json!([meta.ty, key, meta.source, meta.cause, meta.time]);
    (format!("e:{}", meta.id), content.to_string())
}

/// Field and content of a step that is open since `now` (Unix ms): `s:EVENT:FUNCTION` and `p MS`.
pub fn first_step(meta: &Meta, function: &str, now: u64) -> (String, String) {
    (format!("s:{}:{function}", meta.id), format!("p {now}"))
}
