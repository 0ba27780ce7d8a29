//! Outcome of redriven events: found in the seen-marks, in the consumer's progress, and in new dead letters.
//!
//! | found | outcome |
//! |---|---|
//! | seen-mark says applied | done, whatever letters say: a worker that came late takes its letter back |
//! | a new letter of the event, or of its place in the stream | failed |
//! | consumer is past the event, and there is no new letter | done: a function that has no effect leaves no mark where it is looked for |
//! | none of these | pending |

use super::letters::{self, Letter};
use super::{mark, ms};
use crate::AdminError;
use oncue_core::bus::info::ConsumerInfo;
use oncue_core::bus::{Bus, PubAck};
use oncue_core::config::Config;
use oncue_core::store::{Mark, MarkState, Store};
use oncue_proto::event::{Meta, Redrive};

/// How an event fared after it was given back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing is known yet.
    /// Also of an event that nobody runs a worker for: waiting and working look the same from here.
    Pending,
    /// Applied, or acked without a new letter.
    /// The second is weaker: a letter that a lagging replica does not show yet would be missed.
    Done,
    /// Set aside once more, as another letter.
    Failed {
        /// Fingerprint of the cause.
        group: String,
        /// Number of that letter.
        number: u64,
    },
}

/// A letter that was given back to its function.
pub struct Sent {
    /// The letter, which is not in the stream any more.
    pub letter: Letter,
    /// Place of the event in its stream.
    /// A redrive that was sent before has the place of its first copy.
    pub ack: PubAck,
    /// As of the last look.
    pub outcome: Outcome,
}

impl Sent {
    /// Whether nothing is known yet.
    pub fn is_pending(&self) -> bool {
        self.outcome == Outcome::Pending
    }

    /// Number of this redrive.
    fn number(&self) -> u32 {
        self.letter.content.redrives + 1
    }

    /// Whether `later` is what became of it. An event that still cannot be read is known by its place alone.
    fn became(&self, later: &Letter) -> bool {
        let before = &self.letter.content;
        let after = &later.content;
        let same_event = before.event_id == after.event_id && after.redrives >= self.number();
        let same_place = after.stream == self.ack.stream && after.sequence == self.ack.sequence;
        before.function == after.function && (same_event || same_place)
    }
}

/// Numbers of letters that were given back, by outcome.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct OutcomeCounts {
    /// Sum of the other three.
    pub sent: u64,
    pub done: u64,
    pub failed: u64,
    pub pending: u64,
}

impl OutcomeCounts {
    pub fn of(sent: &[Sent]) -> Self {
        let mut counts = Self::default();
        for sent in sent {
            counts.sent += 1;
            match sent.outcome {
                Outcome::Pending => counts.pending += 1,
                Outcome::Done => counts.done += 1,
                Outcome::Failed { .. } => counts.failed += 1,
            }
        }
        counts
    }

    /// Both together.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            sent: self.sent + other.sent,
            done: self.done + other.done,
            failed: self.failed + other.failed,
            pending: self.pending + other.pending,
        }
    }
}

/// Watches over everything one redrive does.
/// One for all groups of a redrive, so that letters which came during the first need not be read again for the
/// second.
pub struct Watch<'c> {
    pub(super) bus: Bus,
    pub(super) store: Store,
    config: &'c Config,
    /// Sequence of the first dead letter not looked at.
    next: u64,
}

impl<'c> Watch<'c> {
    /// Letters before number `next` are not looked at: they were there before anything was sent.
    pub fn new(bus: &Bus, store: Store, config: &'c Config, next: u64) -> Self {
        Self {
            bus: bus.clone(),
            store,
            config,
            next,
        }
    }

    /// Brings the outcomes of what was sent to one function up to date. Three questions, however much was sent: the
    /// consumer's progress, all marks, and the letters that have come since. In this order: a letter is written
    /// before its event is acked.
    ///
    /// One `CONSUMER.INFO`, one pipeline to Redis, one `STREAM.INFO` of `dlq`, and one request for 256 new letters.
    ///
    /// # Errors
    /// Either server does not answer, or the consumer was removed meanwhile. Outcomes keep what the last look said.
    pub async fn look(&mut self, sent: &mut [Sent]) -> Result<(), AdminError> {
        // Outputs that were set aside are done with when their stream has taken them.
        let Some(first) = sent.iter().find(|sent| sent.is_pending()) else {
            return Ok(());
        };
        let stream = &first.letter.content.stream;
        let function = &first.letter.content.function;
        let consumer = self.bus.consumer_info(stream, function).await;
        let consumer =
            consumer.map_err(|e| AdminError::api(format!("consumer {stream}/{function}"), e))?;
        let settled = self.store.settled(&self.marks(sent)).await?;
        let applied: Vec<bool> = settled
            .iter()
            .map(|settled| *settled == Some(MarkState::Applied))
            .collect();
        // Read last: a letter is written before its event is acked, so an event that is finished without one has not
        // failed.
        for found in letters::read(&self.bus, self.next).await? {
            self.next = found.sequence + 1;
            let Some(letter) = Letter::read(self.bus.app(), &found) else {
                continue;
            };
            for sent in sent.iter_mut().filter(|sent| sent.became(&letter)) {
                sent.outcome = Outcome::Failed {
                    group: letter.group.clone(),
                    number: letter.number,
                };
            }
        }
        for (sent, applied) in sent.iter_mut().zip(applied) {
            // A worker that came late may have written a letter of an applied event; it takes it back.
            if applied || sent.is_pending() && is_done(&consumer, sent.ack.sequence) {
                sent.outcome = Outcome::Done;
            }
        }
        Ok(())
    }

    fn marks(&self, sent: &[Sent]) -> Vec<Mark> {
        let marks = sent.iter().map(|sent| {
            let letter = &sent.letter.content;
            let horizon = self.config.stream(&letter.stream).horizon.0.as_millis() as u64;
            mark(&letter.function, &letter.key, &meta(sent), horizon)
        });
        marks.collect()
    }
}

/// As much of the event's identity as its mark hangs on.
fn meta(sent: &Sent) -> Meta {
    let letter = &sent.letter.content;
    Meta {
        id: letter.event_id.clone(),
        source: String::new(),
        ty: letter.event_type.clone(),
        time: ms(letter.time.as_ref()),
        timed: letter.timed,
        flow: letter.flow_id.clone(),
        cause: String::new(),
        hops: 0,
        traceparent: None,
        tracestate: None,
        baggage: None,
        redrive: Some(Redrive {
            number: sent.number(),
            at: 0,
        }),
        tracked: false,
    }
}

/// Whether a consumer is done with a message of its own: acked all up to it, or delivered it and holds nothing.
fn is_done(consumer: &ConsumerInfo, sequence: u64) -> bool {
    consumer.ack_floor.stream_seq >= sequence
        || consumer.delivered.stream_seq >= sequence && consumer.num_ack_pending == 0
}

#[cfg(test)]
mod tests {
    use oncue_proto::oncue::v1::DeadLetter;
    use serde_json::json;

    use super::*;

    fn letter(id: &str, redrives: u32, sequence: u64) -> Letter {
        let letter = DeadLetter {
            function: "f".into(),
            event_id: id.into(),
            redrives,
            stream: "web".into(),
            sequence,
            ..DeadLetter::default()
        };
        Letter {
            number: 1,
            content: letter,
            group: "g".into(),
            traceparent: None,
        }
    }

    #[test]
    fn a_failure_is_known_by_its_event_or_by_its_place() {
        let ack = PubAck {
            stream: "web".into(),
            sequence: 9,
            duplicate: false,
        };
        let sent = Sent {
            letter: letter("e", 1, 3),
            ack,
            outcome: Outcome::Pending,
        };
        assert!(sent.became(&letter("e", 2, 9)));
        assert!(
            sent.became(&letter("web:1:9", 0, 9)),
            "an event that cannot be read is named after its place"
        );
        assert!(
            !sent.became(&letter("e", 1, 3)),
            "the letter that was redriven"
        );
        assert!(!sent.became(&letter("other", 2, 8)));
    }

    #[test]
    fn a_consumer_is_past_what_it_acked() {
        let info = |floor: u64, delivered: u64, held: u64| -> ConsumerInfo {
            serde_json::from_value(
                json!({ "ack_floor": { "stream_seq": floor }, "delivered": { "stream_seq": delivered }, "num_ack_pending": held }),
            )
            .expect("a consumer")
        };
        assert!(is_done(&info(9, 9, 0), 9) && is_done(&info(2, 9, 0), 9));
        assert!(
            !is_done(&info(2, 9, 1), 9) && !is_done(&info(2, 8, 0), 9),
            "in flight, or not even delivered"
        );
    }
}
