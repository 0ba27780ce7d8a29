//! Names and first contents of the flow ledger (see [`crate::model::flow`]), and the calls that read it.

use std::time::Duration;

use serde_json::json;

use super::name_of;
use oncue_proto::event::{self, Meta};

pub const EDGES: &str = "oncue:edges";
pub const EDGES_AT: &str = "oncue:edges:at";
pub const FUNCTIONS: &str = "oncue:functions";

/// What the commit of an event enters in the ledger of its flow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Key of the ledger.
    pub flow: String,
    /// How long it stays from now on.
    pub keep: Duration,
    pub id: String,
    pub ty: String,
    /// What the ledger says of the event.
    pub content: String,
    /// Events that follow: id, type and what is said of each.
    pub follows: Vec<(String, String, String)>,
}

/// Something noted in a ledger in passing.
#[derive(Debug, Clone)]
pub struct StepUpdate {
    pub flow: String,
    pub field: String,
    pub text: String,
    pub keep: Duration,
}

/// Redis key of a flow's ledger.
pub fn flow_key(flow: &str) -> String {
    format!("{{p{}}}:f:{}", event::partition(flow), name_of(flow))
}

/// Redis key of the names of the functions that act on a type.
pub fn listeners_key(ty: &str) -> String {
    format!("oncue:l:{ty}")
}

pub fn ledger_event(meta: &Meta, key: &str) -> (String, String) {
    let content = json!([meta.ty, key, meta.source, meta.cause, meta.time]);
    (format!("e:{}", meta.id), content.to_string())
}

pub fn first_step(meta: &Meta, function: &str, now: u64) -> (String, String) {
    (format!("s:{}:{function}", meta.id), format!("p {now}"))
}
