//! Dead letters as operators handle them: read and grouped by cause, given back to their function, or given up on record.
//! The command line and the console both stand on this, so that a letter fares the same whoever decides on it.

mod drop;
mod dry_run;
mod envelope;
mod letters;
mod outcome;
mod redrive;

use pbjson_types::Timestamp;

pub use self::drop::{dropped, give_up};
pub use self::dry_run::{Answer, Emitted, attempt};
pub use self::envelope::complete;
pub use self::letters::{Group, Letter, all, fingerprint, grouped, latest};
pub use self::outcome::{Outcome, Sent, Watch};
pub use self::redrive::{Pace, Progress, Tally, redrive, without_outdated};

/// Unix milliseconds; 0 where nothing is said.
pub fn ms(time: Option<&Timestamp>) -> u64 {
    time.map_or(0, |t| {
        (t.seconds * 1000 + i64::from(t.nanos) / 1_000_000) as u64
    })
}

pub fn timestamp(ms: u64) -> Timestamp {
    Timestamp {
        seconds: ms as i64 / 1000,
        nanos: (ms % 1000) as i32 * 1_000_000,
    }
}
