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
    /// This recovery and one before it that was not finished: what had been acked before either of them stays so. One of
    /// another stream says nothing.
    #[must_use]
    pub fn and(self, before: &Self) -> Self {
        if before.created != self.created {
            return self;
        }
        let unacked = self.unacked.union(&before.unacked).copied();
        let unacked = unacked.filter(|n| !self.covers(*n) && !before.covers(*n));
        Self {
            created: self.created,
            from: self.from.min(before.from),
            to: self.to.max(before.to),
            unacked: unacked.collect(),
        }
    }

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
        // Run again before all of it came: 12 has been acked since, 13 is in flight again.
        let again = Restoring {
            to: 13,
            unacked: [13].into(),
            ..restoring.clone()
        };
        let both = again.and(&restoring);
        let covered: Vec<u64> = (8..23).filter(|n| both.covers(*n)).collect();
        assert_eq!(covered, [10, 11, 12, 13, 14, 15, 16, 17, 18, 19]);
    }
}
