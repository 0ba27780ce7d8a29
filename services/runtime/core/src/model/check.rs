//! The answer of a function's program to `--check`: whether it can read what is there.

use serde::{Deserialize, Serialize};

/// Things that each kind is tried on, unless another number is asked for.
pub const SAMPLES: u64 = 1000;
/// Things that could not be read of each kind which are named; the others are counted.
pub const MAX_NAMED: usize = 20;

/// A new program tried on what an old one has left: rows of its table, events that wait, delayed events of its types, and
/// its dead letters.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Check {
    /// Name of the function.
    pub function: String,
    pub rows: Sample,
    pub waiting: Sample,
    pub delayed: Sample,
    pub letters: Sample,
}

/// Things of one kind that were tried.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Sample {
    /// Number of things tried.
    pub tried: u64,
    /// Number of those that could not be read.
    pub failed: u64,
    /// The first of these.
    pub failures: Vec<Unreadable>,
}

/// A thing that could not be read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unreadable {
    /// `TABLE/KEY`, `STREAM/SEQUENCE`, or the id of the event of a dead letter.
    pub place: String,
    /// Reason, with the field where there is one.
    pub why: String,
}

impl Check {
    /// The kinds, with their names.
    pub fn kinds(&self) -> [(&'static str, &Sample); 4] {
        [
            ("rows", &self.rows),
            ("waiting events", &self.waiting),
            ("delayed events", &self.delayed),
            ("dead letters", &self.letters),
        ]
    }

    /// Whether anything could not be read.
    pub fn is_bad(&self) -> bool {
        self.kinds().iter().any(|(_, sample)| sample.failed > 0)
    }
}

impl Sample {
    /// Counts one thing.
    pub fn add(&mut self, place: impl FnOnce() -> String, tried: Result<(), String>) {
        self.tried += 1;
        let Err(why) = tried else { return };
        self.failed += 1;
        if self.failures.len() < MAX_NAMED {
            let place = place();
            self.failures.push(Unreadable { place, why });
        }
    }
}
