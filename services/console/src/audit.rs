//! Who did what, when, and how it went: one log line for every action, whether it was allowed or not.

use crate::access::Who;

/// The time is the line's own.
pub fn line(who: &Who, what: &str, on: &str, outcome: &str) {
    tracing::info!(audit = true, who = who.0, what, on, outcome, "audit");
}
