//! Loss of commits in a Redis that went back in time, as workers find it and people read it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use oncue_proto::event;

/// Loss of commits: Redis knows fewer of a worker, or of several, than they made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error(
    "Redis went back in time: of {seen} commits it knows {found}, what was committed{} is lost; \
     `oncue recover redis` restores it from the streams",
    after(*since)
)]
pub struct Regression {
    /// Commits that were made.
    pub seen: u64,
    /// Commits that Redis still knows.
    pub found: u64,
    /// Time (Unix ms) of the last commit that is still there; 0 if nothing is.
    pub since: u64,
    /// Function -> lowest sequence in its stream of an event whose commit was lost, as far as workers remember.
    #[serde(default)]
    pub from: BTreeMap<String, u64>,
}

/// Which of the commits, by the last one that is still there; all of them where none is.
fn after(since: u64) -> String {
    if since == 0 {
        return String::new();
    }
    format!(" after {}", event::format_time(since))
}

impl Regression {
    /// Losses of two workers as one.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.seen += other.seen;
        self.found += other.found;
        self.since = self.since.min(other.since);
        for (function, sequence) in other.from {
            let lowest = self.from.entry(function).or_insert(sequence);
            *lowest = sequence.min(*lowest);
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_of_two_workers_add_up_to_the_earliest() {
        let first = Regression {
            seen: 5,
            found: 3,
            since: 20,
            from: [("a".to_owned(), 9), ("b".to_owned(), 4)].into(),
        };
        let second = Regression {
            seen: 2,
            found: 0,
            since: 0,
            from: [("a".to_owned(), 7)].into(),
        };
        let both = first.and(second);
        let expected = Regression {
            seen: 7,
            found: 3,
            since: 0,
            from: [("a".to_owned(), 7), ("b".to_owned(), 4)].into(),
        };
        assert_eq!(both, expected);
        assert_eq!(
            both.to_string(),
            "Redis went back in time: of 7 commits it knows 3, what was committed is lost; `oncue recover redis` restores it \
             from the streams"
        );
        let later = Regression { since: 20, ..both }.to_string();
        assert!(
            later.contains("committed after 1970-01-01T00:00:00.020Z is lost"),
            "{later}"
        );
    }
}
