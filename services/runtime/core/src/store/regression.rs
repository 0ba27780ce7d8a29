//! What it looks like when Redis has gone back in time.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use oncue_proto::event;

/// Redis knows fewer commits of a worker than the worker made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Regression {
    /// Commits made, and those that are still known.
    pub seen: u64,
    pub found: u64,
    /// Time (Unix ms) of the last commit that is still there; 0 if nothing is.
    pub since: u64,
    /// For each function the lowest place in its stream of what was lost, as far as workers remember.
    #[serde(default)]
    pub from: BTreeMap<String, u64>,
}

impl Regression {
    /// What two workers found out, as one loss.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        (self.seen, self.found) = (self.seen + other.seen, self.found + other.found);
        self.since = self.since.min(other.since);
        for (function, sequence) in other.from {
            let lowest = self.from.entry(function).or_insert(sequence);
            *lowest = sequence.min(*lowest);
        }
        self
    }
}

impl std::fmt::Display for Regression {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let since = event::format_time(self.since);
        write!(
            f,
            "Redis went back in time: of {} commits it knows {}, what was committed after {since} is lost; \
             `oncue recover redis` restores it from the streams",
            self.seen, self.found
        )
    }
}
