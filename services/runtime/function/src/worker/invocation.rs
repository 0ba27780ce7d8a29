//! One event on its way through a worker, from the pull to the ack: data that the steps hand on. [`Settlement`] is how
//! that way ends.
//!
//! One struct rather than a type for each step: an event that lost its race goes back to the read,
//! and a failure may come from any step, so types by step would be turned into each other all the
//! time.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use oncue_core::bus::Outbound;
use oncue_core::bus::pull::Delivery;
use oncue_core::model::letter::timestamp;
use oncue_core::store::{CommitEvent, Mark, Op, Purpose, Status, payload_hash};
use oncue_proto::Format;
use oncue_proto::event::{self, Meta};
use oncue_proto::oncue::v1::{DeadLetter, Envelope, Header};

use crate::error::Error;
use crate::function::AnyEvent;
use crate::worker::spans::{Producer, Trace};

/// An invocation on the heap, since it changes hands often.
pub(crate) type BoxedInvocation = Box<Invocation>;

/// An event that a worker handles.
///
/// Owned by one task at a time and moved from step to step, so nothing in it is locked. Counts
/// against the in-flight set until the settler releases its `number`.
pub(crate) struct Invocation {
    /// Number of the delivery within the process.
    pub number: u64,
    /// Message as it came, with the ticket that acks it. The envelope of a dead letter is made from
    /// it.
    pub delivery: Delivery,
    /// Identity as its headers say, or as its place in the stream makes it. Shared with the
    /// [`Context`](crate::Context) of a run.
    pub meta: Arc<Meta>,
    /// Encoding of the payload.
    pub format: Format,
    /// Payload without the envelope; a second run decodes it again.
    pub payload: Bytes,
    /// The decoded event, until a handler takes it.
    pub event: Option<AnyEvent>,
    /// Identity of the event to the store, and the key of the function.
    pub mark: Mark,
    /// Delivered before, and whoever had it then may have died of it: runs with no other event beside it.
    pub on_probation: bool,
    /// Runs of the handler, this one included, as the store has counted them; `None` before, and for a first delivery.
    pub counted: Option<u32>,
    /// Events that follow, from the handler's end to the publishing; empty before and after.
    pub outputs: Vec<Output>,
    /// The outputs as they are stored: an encoded `oncue.v1.Outbox`.
    pub outbox: Bytes,
    /// Whether its flow has a ledger.
    pub tracked: bool,
    /// Delivered again by a recovery, and acked before: what follows from it is published already.
    pub restored: bool,
    /// Span ids of this delivery, and what its span will say.
    pub trace: Trace,
}

/// One event to publish.
pub(crate) struct Output {
    /// Subject, headers with the event's identity, payload.
    pub message: Outbound,
    /// Time by which it is delayed; zero for one that comes back from Redis.
    pub delay: Duration,
    /// Entry in the ledger of the flow; none for an untracked one, or one that comes back from Redis.
    pub entry: Option<(String, String, String)>,
    /// Span of the output, until the publish ack; none for one that is not sampled, or that comes back from Redis.
    pub producer: Option<Producer>,
}

impl Output {
    /// An output that comes back from Redis.
    pub fn stored(message: Outbound) -> Self {
        Self {
            message,
            delay: Duration::ZERO,
            entry: None,
            producer: None,
        }
    }
}

/// How a delivery ends. [`Settler::settle`](super::settler::Settler::settle) performs it, and nothing else does.
pub(crate) enum Settlement {
    /// Nothing is left to do for this delivery.
    Ack(Outcome),
    /// Delivered again later.
    Retry(RetryReason),
    /// Set aside in `dlq.<app>.<function>` with its reason and its envelope.
    DeadLetter(DeadLetterReason, Error),
}

/// Outcome of a delivery, as counters and spans name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Applied by this delivery.
    Applied,
    /// Applied or set aside before; outputs that were not published are published now.
    Duplicate,
    /// Given back, with a negative ack or by silence.
    Retried,
    /// Set aside in `dlq`, and recorded so.
    Dead,
}

/// Reason for which a delivery is given back. All of them lead to a negative ack with the same
/// growing delay; they differ in what is recorded of them.
pub(crate) enum RetryReason {
    /// The handler failed, or the store refused: counts as an attempt.
    Failed(Error),
    /// Had its process killed, or ended with it: an attempt as well, and it runs alone the next time.
    Killed(Error),
    /// Every race for the row was lost: nobody's failure, and not recorded as one.
    Contended,
    /// Committed, but not all outputs could be published; the next delivery is a duplicate that publishes them.
    Unpublished(String),
    /// A copy of it is being handled, by a function that runs at most once: nobody's failure.
    UnderWay,
    /// The dead letter could not be published.
    NotSetAside(String),
    /// The row was written by a newer version of the function, whose workers can read it: nobody's failure.
    NewerRow(String),
    /// Of a type that only another program of the function acts on, to which its consumer was changed: nobody's failure.
    OtherProgram(String),
    /// Fails together with its neighbours, and nobody knows which of them is at fault: on probation it runs alone.
    Apart(String),
}

/// Reason of a dead letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DeadLetterReason {
    /// Not an event, or not one of its type; the class comes from whoever found out.
    Unreadable(&'static str),
    /// The handler said that it can never handle the event.
    Rejected,
    /// Key or headers are longer than `[bounds]` allows.
    Bounds,
    /// Failed, or killed its process, as often as it may.
    Attempts,
    /// Further from its root event than [`MAX_HOPS`](oncue_proto::event::MAX_HOPS).
    Loop,
    /// Older than the horizon: its mark may be gone, so it cannot be proven new.
    TooOld,
    /// Claims a time in the future, by more than the clocks of machines may differ.
    Clock,
    /// The id was applied with another payload.
    IdReuse,
    /// A blind operation does not fit the value that is there.
    Invalid,
    /// A function that must not run twice on an event was interrupted in its only run.
    OutcomeUnknown,
}

impl Outcome {
    /// Value of `oncue.outcome` in spans, and the name by which
    /// [`Counters`](super::counters::Counters) know it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Applied => "applied",
            Self::Duplicate => "duplicate",
            Self::Retried => "retried",
            Self::Dead => "dead",
        }
    }
}

impl DeadLetterReason {
    /// Text in the dead letter, in `oncue.reason` and in `oncue.dead_letter.reason`. Part of the
    /// wire format: `oncue dlq` filters by it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unreadable(class) => class,
            Self::Rejected => "rejected",
            Self::Bounds => "bounds",
            Self::Attempts => "attempts",
            Self::Loop => "loop",
            Self::TooOld => "too_old",
            Self::Clock => "clock",
            Self::IdReuse => "id_reuse",
            Self::Invalid => "invalid",
            Self::OutcomeUnknown => "outcome_unknown",
        }
    }

    /// Whether it is found out before the key of the event is known.
    pub fn precedes_key(self) -> bool {
        matches!(self, Self::Unreadable(_) | Self::Loop | Self::Bounds)
    }
}

impl Settlement {
    /// A handler's failure: set aside when it says so or was tried often enough, and tried again later otherwise.
    ///
    /// `attempts` is the limit, and `runs` includes the one that has just failed.
    pub fn of_failure(invocation: &Invocation, error: Error, attempts: u32) -> Self {
        if error.rejected {
            return Self::DeadLetter(DeadLetterReason::Rejected, error);
        }
        if invocation.runs() >= attempts {
            return Self::DeadLetter(DeadLetterReason::Attempts, error);
        }
        Self::Retry(RetryReason::Failed(error))
    }

    /// A refusal by Redis. Such events fail before their runs are counted, so each delivery is one attempt.
    ///
    /// Not the absence of Redis, which the batcher waits out, but a refusal of this very request.
    /// So the number of deliveries stands in for the number of runs.
    pub fn of_store_error(
        invocation: &mut Invocation,
        error: &dyn std::fmt::Display,
        attempts: u32,
    ) -> Self {
        let deliveries = invocation.delivery.info.attempt;
        invocation.counted = Some(invocation.runs().max(deliveries));
        Self::of_failure(invocation, Error::retry(error).of_class("redis"), attempts)
    }

    /// A refusal of the commit for one event alone.
    pub fn of_refusal(status: Status) -> Self {
        match status {
            Status::TooOld => Self::dead_letter(
                DeadLetterReason::TooOld,
                "older than the horizon, it cannot be proven new",
            ),
            Status::Clock => {
                Self::dead_letter(DeadLetterReason::Clock, "its time lies in the future")
            }
            Status::IdReuse => Self::dead_letter(
                DeadLetterReason::IdReuse,
                "its id was used with another payload",
            ),
            Status::Invalid(why) => Self::DeadLetter(DeadLetterReason::Invalid, Error::retry(why)),
            // No refusals: somebody is done with the event, or it runs again.
            Status::Applied | Status::Duplicate(_) | Status::Dead => Self::Ack(Outcome::Duplicate),
            Status::Conflict => Self::Retry(RetryReason::Contended),
        }
    }

    /// A dead letter whose reason the platform itself has found.
    pub fn dead_letter(reason: DeadLetterReason, why: impl std::fmt::Display) -> Self {
        Self::DeadLetter(reason, Error::retry(why).of_class("platform"))
    }
}

impl Invocation {
    /// Key of the function: the event's own, or what `keyed_by` says.
    pub fn key(&self) -> &str {
        &self.mark.key
    }

    /// Sets the key, and the partition that follows from it: the Redis keys of its row, mark and
    /// counts have that in front.
    pub fn set_key(&mut self, key: &str) {
        self.mark.key = key.into();
        self.mark.partition = event::partition(key);
    }

    /// Hash by which the reuse of its id is found out.
    pub fn payload_hash(&self) -> u32 {
        payload_hash(&self.meta.cause, &self.payload)
    }

    /// An event as it is committed, without an entry in a ledger.
    ///
    /// The mark carries key, partition, time and horizon, and the outbox is what the handler's run has
    /// left in the event.
    pub fn to_commit(&self, ops: Vec<Op>) -> CommitEvent {
        CommitEvent {
            mark: self.mark.clone(),
            payload_hash: self.payload_hash(),
            ops,
            outbox: self.outbox.clone(),
            purpose: Purpose::Apply,
            entry: None,
        }
    }

    /// Runs of the handler, this one included, as far as is known: the first, until the store says otherwise.
    pub fn runs(&self) -> u32 {
        self.counted.unwrap_or(1)
    }

    /// The event with everything somebody needs to understand and to redrive it.
    pub fn to_dead_letter(
        &self,
        function: &str,
        reason: DeadLetterReason,
        error: &Error,
    ) -> DeadLetter {
        let info = &self.delivery.info;
        let headers = self.delivery.headers().map(|(name, value)| Header {
            name: name.to_owned(),
            value: value.to_owned(),
        });
        DeadLetter {
            function: function.to_owned(),
            reason: reason.as_str().to_owned(),
            message: shortened(&error.message),
            attempts: self.runs(),
            at: Some(timestamp(event::now_ms())),
            event_id: self.meta.id.clone(),
            event_type: self.meta.ty.clone(),
            flow_id: self.meta.flow.clone(),
            stream: info.stream.to_string(),
            sequence: info.sequence,
            envelope: Some(Envelope {
                subject: self.delivery.subject().to_owned(),
                headers: headers.collect(),
                payload: self.delivery.payload().clone(),
            }),
            key: self.key().to_owned(),
            site: error.site.clone(),
            redrives: self.meta.redrive.map_or(0, |redrive| redrive.number),
            time: Some(timestamp(self.meta.time)),
            timed: self.meta.timed,
            accepted_at: Some(timestamp(info.published)),
        }
    }
}

/// Longest error text in a dead letter, bytes: an error may quote a whole payload.
const MAX_MESSAGE: usize = 4096;

/// Start of a message, cut at a character, so that the text stays UTF-8.
fn shortened(message: &str) -> String {
    let end = message.floor_char_boundary(MAX_MESSAGE);
    message[..end].to_owned()
}
