//! Audit log: who did what, when, and how it went; one log line for every action, whether it was allowed or not.

use crate::problem::{MALFORMED, Problem};

/// Source of events that the console makes, as CloudEvents have it.
pub const SOURCE: &str = "/oncue/console";

/// Name of a person and where they came from, for the record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Who(pub String);

/// Longest reason, in bytes.
pub const MAX_REASON: usize = 400;

/// Reason of whoever changes something, which stays on record.
///
/// # Errors
/// There is none, or it is too long.
pub fn reason(why: &str) -> Result<&str, Problem> {
    let why = why.trim();
    if why.is_empty() || why.len() > MAX_REASON {
        let how = format!("say why in `why`, in at most {MAX_REASON} bytes");
        return Err(Problem::new(MALFORMED, how));
    }
    Ok(why)
}

/// Writes one line; the time is the log's own.
pub fn line(who: &Who, what: &str, on: &str, outcome: &str) {
    tracing::info!(audit = true, who = who.0, what, on, outcome, "audit");
}
