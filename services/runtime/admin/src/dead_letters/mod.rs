//! Dead letters as operators handle them: read and grouped by cause, tried, given back to their function, or given up
//! on record. The command line and the console both stand on this, so that a letter fares the same whoever decides on
//! it.
//!
//! A letter is a message of the stream `dlq`, under the subject `dlq.APP.FUNCTION`. It holds the event whole, unless that
//! is too large; then the event is read from its own stream, where it must still stand.
//!
//! | deed | what is written, in this order |
//! |---|---|
//! | [`attempt`] | nothing: the function's program runs its handler and commits nothing |
//! | [`redrive`] | the event, for its function alone and under its old identity, to `DOMAIN.redrive.FUNCTION`; then the letter is deleted |
//! | [`resend`] | the event with another payload, for its function alone, as a new event of the same flow; then as for [`give_up`] |
//! | [`give_up`] | a record with name and reason, as the event `dlq.letter.dropped`; then the letter is deleted |
//!
//! Each message has an id by which the server knows a second copy. So whoever is interrupted between the two steps
//! does the same again, and nothing happens twice.
//!
//! Right before each of them the letter is looked at once more: one that is gone, or whose event was applied meanwhile, is left, and one
//! whose redrive is under way is neither edited nor given up. What goes through that look at the same moment has one message id, so
//! that the stream takes one of a redrive and an edit, and whoever sent the other is told.
//!
//! The server knows a second copy within the stream's `duplicate_window`. After that the function's seen-mark does:
//! it holds the number of the redrive it was made for, and a second event of that number is no work.
//!
//! Letters are only in the stream: no list and no count of them is kept anywhere else. In Redis there is only the
//! seen-mark of the event, which says dead until a redrive ends otherwise, and who has [taken](take) a group.

mod drop;
mod dry_run;
mod edit;
mod envelope;
mod fingerprint;
mod index;
mod letters;
mod open;
mod outcome;
mod owner;
mod redrive;

pub use self::drop::{SetAside, dropped, give_up, settled};
pub use self::dry_run::{Bench, Network, attempt};
pub use self::edit::{Edit, resend};
pub use self::envelope::complete;
pub use self::fingerprint::fingerprint;
pub use self::index::{CauseCount, LetterIndex, LetterOrder, LetterQuery, LetterSummary};
pub use self::letters::{LatestLetters, Letter, LetterFilter, LetterGroup};
pub use self::letters::{all, counts, grouped, latest, meant_by, message_of};
pub use self::outcome::{Outcome, OutcomeCounts, Sent, Watch};
pub use self::owner::{GroupOwner, owners, release, take};
pub use self::redrive::{Pace, Progress, Tally, redrive, without_outdated};
use crate::program::ProgramError;
use oncue_core::bus::{ApiError, BusError, PublishError};
pub use oncue_core::model::letter::{ms, timestamp};
use oncue_core::store::{Mark, StoreError};
use oncue_proto::event::Meta;

/// A letter that could not be tried, given back or given up. It stays where it is.
#[derive(Debug, thiserror::Error)]
pub enum LetterError {
    /// No payload in the letter, which was too large to hold it, and the message it came from is gone.
    #[error(
        "the letter of event {event} holds no payload, and {stream}:{sequence}, where it stood, is gone"
    )]
    PayloadGone {
        event: String,
        stream: String,
        sequence: u64,
    },
    /// The event would be lost: it would be in no dead letter any more, and nobody would get it.
    #[error(
        "{function} has no consumer on {stream} ({source}); put it into oncue.toml and run `oncue apply`, or drop the letter"
    )]
    NoConsumer {
        function: String,
        stream: String,
        source: ApiError,
    },
    /// NATS does not tell of the consumer, so nothing was sent.
    #[error(transparent)]
    Away(ApiError),
    /// As before, of a consumer that was made before there were redrives: its filters lack the subject.
    #[error("the consumer of {function} does not hear {subject}; run `oncue apply`")]
    DeafConsumer { function: String, subject: String },
    /// The stream did not take the event.
    #[error("cannot be published: {0}")]
    Publish(PublishError),
    /// The stream `dlq` did not take the record; it may be full.
    #[error(transparent)]
    Record(PublishError),
    /// The record is there, and the letter is too: giving it up once more makes no second record.
    #[error(transparent)]
    Delete(ApiError),
    /// NATS is away, slow, or refused.
    #[error(transparent)]
    Bus(#[from] BusError),
    /// Somebody else has handled it meanwhile; nothing was sent.
    #[error("dead letter #{0} is not there any more; nothing was sent")]
    Gone(u64),
    /// A redrive has ended well, and nobody came to take the letter away; that is done now.
    #[error(
        "the event of dead letter #{0} was applied by a redrive; the letter was left behind and is taken away"
    )]
    Applied(u64),
    /// A redrive of it was sent, and its function has not come to it.
    #[error(
        "dead letter #{0} was redriven, and its function has that still before it; see what comes of it first"
    )]
    UnderWay(u64),
    /// Redis is away, slow, or refused.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The letter cannot be edited like this; a sentence for whoever did.
    #[error("{0}")]
    Edit(String),
    /// There is nothing to try: the function has handled its event, and this is what it emitted.
    #[error(
        "it is no event for {function} but an output of it that no stream took, so there is nothing to try; \
         `oncue dlq redrive` publishes it to {subject} once more"
    )]
    Output { function: String, subject: String },
    /// Nothing was started.
    #[error(
        "this system cannot keep a program off the network ({0}), so nothing was run; \
         `oncue dlq redrive --dry-run --allow-network` runs it unguarded"
    )]
    Shield(String),
    /// The function's program could not try it.
    #[error(transparent)]
    Program(#[from] ProgramError),
}

/// Identity of an event handled by a function, to ask Redis for its seen-mark. The horizon is in milliseconds.
pub(crate) fn mark(function: &str, key: &str, meta: &Meta, horizon: u64) -> Mark {
    Mark::new(function, key, meta, horizon)
}
