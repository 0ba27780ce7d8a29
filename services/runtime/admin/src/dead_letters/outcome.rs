//! What becomes of redriven events: found in the seen-marks, in the consumer's progress, and in new dead letters.

use serde_json::Value;
use std::sync::Arc;

use super::letters::{self, Letter};
use super::ms;
use oncue_core::bus::{Bus, BusError, PubAck};
use oncue_core::config::Config;
use oncue_core::store::{Mark, MarkState, Store};
use oncue_proto::event::{Meta, Redrive};

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Pending,
    Done,
    /// Set aside once more, for a cause of this group.
    Failed(String),
}

/// A letter that was given back to its function.
pub struct Sent {
    pub letter: Letter,
    pub ack: PubAck,
    pub outcome: Outcome,
}

impl Sent {
    pub fn is_pending(&self) -> bool {
        self.outcome == Outcome::Pending
    }

    fn number(&self) -> u32 {
        self.letter.content.redrives + 1
    }

    /// Whether `later` is what became of it. An event that still cannot be read is known by its place alone.
    fn became(&self, later: &Letter) -> bool {
        let (before, after) = (&self.letter.content, &later.content);
        let same_event = before.event_id == after.event_id && after.redrives >= self.number();
        let same_place = after.stream == self.ack.stream && after.sequence == self.ack.sequence;
        before.function == after.function && (same_event || same_place)
    }
}

/// Watches over everything one redrive does.
pub struct Watch<'c> {
    pub(super) bus: Bus,
    store: Store,
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

    /// Brings the outcomes of what was sent to one function up to date.
    pub async fn look(&mut self, sent: &mut [Sent]) -> Result<(), BusError> {
        let Some(first) = sent.first() else {
            return Ok(());
        };
        let (stream, function) = (&first.letter.content.stream, &first.letter.content.function);
        let consumer = self
            .bus
            .api(&format!("CONSUMER.INFO.{stream}.{function}"), &Value::Null)
            .await;
        let consumer =
            consumer.map_err(|e| BusError(format!("consumer {stream}/{function}: {e}")))?;
        let marks = self.marks(sent);
        let settled = self
            .store
            .settled(&marks)
            .await
            .map_err(|e| BusError(e.to_string()))?;
        let applied: Vec<bool> = settled
            .iter()
            .map(|settled| *settled == Some(MarkState::Applied))
            .collect();
        // Read last: a letter is written before its event is acked, so who is finished without one has not failed.
        for found in letters::read(&self.bus, self.next).await? {
            self.next = found.sequence + 1;
            let Some(letter) = Letter::read(&found) else {
                continue;
            };
            for sent in sent.iter_mut().filter(|sent| sent.became(&letter)) {
                sent.outcome = Outcome::Failed(letter.group.clone());
            }
        }
        for (sent, applied) in sent.iter_mut().zip(applied) {
            // A worker that came late may have written a letter of an applied event; it takes it back.
            if applied || sent.is_pending() && is_past(&consumer, sent.ack.sequence) {
                sent.outcome = Outcome::Done;
            }
        }
        Ok(())
    }

    fn marks(&self, sent: &[Sent]) -> Vec<Mark> {
        let Some(first) = sent.first() else {
            return Vec::new();
        };
        let function: Arc<str> = first.letter.content.function.as_str().into();
        let horizon = self
            .config
            .stream(&first.letter.content.stream)
            .horizon
            .0
            .as_millis() as u64;
        sent.iter()
            .map(|sent| {
                Mark::new(
                    function.clone(),
                    &sent.letter.content.key,
                    &meta(sent),
                    horizon,
                )
            })
            .collect()
    }
}

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

/// Whether a consumer is done with a message of its own.
fn is_past(info: &Value, sequence: u64) -> bool {
    let at = |field: &str| info[field]["stream_seq"].as_u64().unwrap_or_default();
    at("ack_floor") >= sequence || at("delivered") >= sequence && info["num_ack_pending"] == 0
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
        let info = |floor: u64, delivered: u64, held: u64| json!({ "ack_floor": { "stream_seq": floor }, "delivered": { "stream_seq": delivered }, "num_ack_pending": held });
        assert!(is_past(&info(9, 9, 0), 9) && is_past(&info(2, 9, 0), 9));
        assert!(
            !is_past(&info(2, 9, 1), 9) && !is_past(&info(2, 8, 0), 9),
            "in hand, or not even delivered"
        );
    }
}
