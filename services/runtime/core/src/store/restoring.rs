//! Events that `oncue recover redis` delivers again, so that workers know them when they come: they had been acked, and
//! what followed from them is published already.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

/// Events of one function that had been acked before Redis lost what it knew of them. They are applied again, and
/// nothing is published for them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restoring {
    /// Creation time of the stream, Unix milliseconds: sequences of another one mean other events.
    pub created: u64,
    /// First sequence that is delivered again.
    pub from: u64,
    /// Last sequence that had been delivered.
    pub to: u64,
    /// Between them, those that had not been acked: they run as if for the first time.
    pub unacked: BTreeSet<u64>,
}

impl Restoring {
    /// Whether the event at `sequence` had been acked.
    pub fn covers(&self, sequence: u64) -> bool {
        (self.from..=self.to).contains(&sequence) && !self.unacked.contains(&sequence)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_in_flight_is_not_restored() {
        let restoring = Restoring {
            created: 1,
            from: 10,
            to: 20,
            unacked: [12, 20].into(),
        };
        let covered: Vec<u64> = (8..23).filter(|n| restoring.covers(*n)).collect();
        assert_eq!(covered, [10, 11, 13, 14, 15, 16, 17, 18, 19]);
    }
}
