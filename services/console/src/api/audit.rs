//! Audit log: who did what, when, and how it went; one log line for every action, whether it was allowed or not.

/// Source of events that the console makes, as CloudEvents have it.
pub const SOURCE: &str = "/oncue/console";

/// Name of a person and where they came from, for the record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Who(pub String);

/// Writes one line; the time is the log's own.
pub fn line(who: &Who, what: &str, on: &str, outcome: &str) {
    tracing::info!(audit = true, who = who.0, what, on, outcome, "audit");
}
