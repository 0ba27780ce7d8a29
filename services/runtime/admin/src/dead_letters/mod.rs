//! Dead letters as operators handle them: read and grouped by cause, tried, given back to their function, or given up on
//! record. The command line and the console both stand on this, so that a letter fares the same whoever decides on it.

mod drop;
mod dry_run;
mod envelope;
mod fingerprint;
mod letters;
mod outcome;
mod redrive;

use pbjson_types::Timestamp;

pub use self::drop::{dropped, give_up};
pub use self::dry_run::{DryRun, EmittedEvent, attempt};
pub use self::envelope::complete;
pub use self::fingerprint::fingerprint;
pub use self::letters::{LatestLetters, Letter, LetterFilter, LetterGroup};
pub use self::letters::{all, counts, grouped, latest, meant_by, message_of};
pub use self::outcome::{Outcome, OutcomeCounts, Sent, Watch};
pub use self::redrive::{Pace, Progress, Tally, redrive, without_outdated};
use crate::AdminError;
use crate::program::ProgramError;
use oncue_core::bus::{ApiError, BusError, PublishError};
use oncue_core::store::Mark;
use oncue_proto::event::Meta;

/// A letter that could not be tried, given back or given up. It stays where it is.
#[derive(Debug, thiserror::Error)]
pub enum LetterError {
    /// The letter holds no payload, and the message it came from is gone.
    #[error(
        "the letter of event {event} holds no payload, and {stream}:{sequence}, where it stood, is gone"
    )]
    PayloadGone {
        event: String,
        stream: String,
        sequence: u64,
    },
    /// The event would be lost: it would be in no dead letter any more, and nobody would get it.
    #[error("{function} has no consumer on {stream} ({source}); run `oncue apply`")]
    NoConsumer {
        function: String,
        stream: String,
        source: ApiError,
    },
    /// The same, of a consumer made before there were redrives.
    #[error("the consumer of {function} does not hear {subject}; run `oncue apply`")]
    DeafConsumer { function: String, subject: String },
    #[error("cannot be published: {0}")]
    Publish(PublishError),
    #[error(transparent)]
    Record(PublishError),
    #[error(transparent)]
    Delete(ApiError),
    #[error(transparent)]
    Bus(#[from] BusError),
    #[error(transparent)]
    Program(#[from] ProgramError),
    #[error(transparent)]
    Admin(#[from] AdminError),
}

/// Unix milliseconds; 0 where nothing is said.
pub fn ms(time: Option<&Timestamp>) -> u64 {
    time.map_or(0, |t| {
        (t.seconds * 1000 + i64::from(t.nanos) / 1_000_000) as u64
    })
}

/// Timestamp of Unix milliseconds.
pub fn timestamp(ms: u64) -> Timestamp {
    Timestamp {
        seconds: ms as i64 / 1000,
        nanos: (ms % 1000) as i32 * 1_000_000,
    }
}

/// Identity of an event handled by a function, to ask Redis for its seen-mark. The horizon is in milliseconds.
pub(crate) fn mark(function: &str, key: &str, meta: &Meta, horizon: u64) -> Mark {
    Mark::new(function.to_owned().leak(), key, meta, horizon)
}
