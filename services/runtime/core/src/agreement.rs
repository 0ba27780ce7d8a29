//! Whether NATS and Redis still belong to one time. Each server remembers how far the other was, and what one has lost
//! while nobody was looking (a restart from an old file, a restored backup, an emptied folder) is found before anything
//! is built on it.
//!
//! | remembered | where | found by it |
//! |---|---|---|
//! | creation and last sequence of each stream | Redis, `APP:streams` | a NATS that was emptied, replaced or put back |
//! | how far each function is | Redis, `APP:progress` | [messages that were removed](watch_removed) before a function was done with them |
//! | the last acked events of each consumer | NATS, its ack floor | a Redis that was emptied or put back: some of their seen-marks are missing |

mod lost_steps;
mod removed;

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::bus::info::StreamInfo;
use crate::bus::{Bus, BusError, StoredMessage, layout};
use crate::model::history::History;
use crate::store::{KnownStream, Mark, Regression, Store};
use oncue_proto::event;

pub use self::lost_steps::with_lost_steps;
pub use self::removed::{find_removed, watch_all_removed, watch_removed};

/// A stream that is not as Redis knew it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LostStream {
    /// Stream of another creation.
    #[error(
        "the stream {name} was made anew at {}; Redis knows one of {} with {} messages. NATS was emptied or replaced: \
         put its data back, or run `oncue recover nats`, which publishes again what Redis has kept and takes the rest \
         for lost",
        event::format_time(*created), event::format_time(known.created), known.last
    )]
    Recreated {
        name: String,
        created: u64,
        known: KnownStream,
    },
    /// Stream that ends before what it held.
    #[error(
        "the stream {name} ends at {last}; Redis knows it up to {}. NATS went back in time: put its data back, or run \
         `oncue recover nats`, which publishes again what Redis has kept and takes the rest for lost",
        known.last
    )]
    Shorter {
        name: String,
        last: u64,
        known: KnownStream,
    },
}

/// Streams of these names that are not as Redis knew them. Changes nothing.
///
/// # Errors
///
/// A server does not answer.
pub async fn lost_streams(
    bus: &Bus,
    store: &Store,
    names: &[String],
) -> Result<Vec<LostStream>, BusError> {
    let known = store.known_streams().await;
    let mut known = known.map_err(|e| BusError(e.message))?;
    known.retain(|name, _| names.contains(name));
    lost_of(bus, known).await
}

/// All streams that are not as Redis knew them. Changes nothing.
///
/// # Errors
///
/// A server does not answer.
pub async fn all_lost_streams(bus: &Bus, store: &Store) -> Result<Vec<LostStream>, BusError> {
    let known = store.known_streams().await;
    lost_of(bus, known.map_err(|e| BusError(e.message))?).await
}

async fn lost_of(
    bus: &Bus,
    known: BTreeMap<String, KnownStream>,
) -> Result<Vec<LostStream>, BusError> {
    let mut found = Vec::new();
    for (name, known) in known {
        let now = match bus.stream_info(&name).await {
            Ok(info) => KnownStream::of(&info),
            Err(e) if e.is_not_found() => KnownStream {
                created: known.created,
                last: 0,
            },
            Err(e) => return Err(BusError(format!("stream {name}: {e}"))),
        };
        found.extend(lost(&name, now, known));
    }
    Ok(found)
}

/// Compares streams with what Redis knew of them, and lets it know them as they are now. Stops at the first that has
/// lost something; that is remembered as it was.
///
/// # Errors
///
/// A server does not answer.
pub async fn check_streams(
    bus: &Bus,
    store: &Store,
    names: &[String],
) -> Result<Option<LostStream>, BusError> {
    let known = store.known_streams().await;
    let known = known.map_err(|e| BusError(e.message))?;
    for name in names {
        let info = bus.stream_info(name).await;
        let info = info.map_err(|e| BusError(format!("stream {name}: {e}")))?;
        let now = KnownStream::of(&info);
        let before = known.get(name);
        if let Some(lost) = before.and_then(|before| lost(name, now, *before)) {
            return Ok(Some(lost));
        }
        let kept = store.know_stream(name, now).await;
        kept.map_err(|e| BusError(e.message))?;
    }
    Ok(None)
}

/// Loss of a stream, if there is one.
fn lost(name: &str, now: KnownStream, known: KnownStream) -> Option<LostStream> {
    let name = name.to_owned();
    if now.created != known.created {
        let created = now.created;
        return Some(LostStream::Recreated {
            name,
            created,
            known,
        });
    }
    let last = now.last;
    (last < known.last).then_some(LostStream::Shorter { name, last, known })
}

impl KnownStream {
    /// The stream as it is.
    pub fn of(info: &StreamInfo) -> Self {
        Self {
            created: info.created_ms().unwrap_or(0),
            last: info.state.last_seq,
        }
    }
}

/// A function whose marks are looked for.
#[derive(Debug, Clone, Copy)]
pub struct Marked<'m> {
    pub function: &'m str,
    /// Stream of its consumer, and the creation time of that, Unix milliseconds.
    pub stream: &'m str,
    pub created: u64,
    /// Age from which a mark may be gone, milliseconds.
    pub horizon: u64,
}

/// Looks whether Redis still knows the last events that the consumer of a function has acked. If not, the earliest acked
/// event that it does not know is looked for, as if all from there on were lost.
///
/// `None` where nothing is missing, or nothing can be said: nothing was acked, the event is gone from its stream, or is
/// so old that its mark may be gone.
///
/// # Errors
///
/// A server does not answer.
pub async fn check_marks(
    bus: &Bus,
    store: &Store,
    marked: Marked<'_>,
) -> Result<Option<Regression>, BusError> {
    let consumer = match bus.consumer_info(marked.stream, marked.function).await {
        Ok(consumer) => consumer,
        Err(e) if e.is_not_found() => return Ok(None),
        Err(e) => return Err(BusError(e.to_string())),
    };
    let floor = consumer.ack_floor.stream_seq;
    let filters: Vec<&str> = consumer.config.filters().collect();
    let started = consumer.began_ms();
    let history = store.history(marked.function).await;
    let history = history.map_err(|e| BusError(e.message))?;
    let redrive = event::redrive_subject(marked.stream, &bus.app().consumer(marked.function));
    let search = Search {
        bus,
        store,
        marked,
        filters,
        history,
        redrive,
        started,
    };
    let first = bus.stream_info(marked.stream).await;
    let first = first.map_err(|e| BusError(e.to_string()))?.state.first_seq;
    let acked = search.last(first, floor).await?;
    let missing = search.missing(&acked).await?;
    let mut acked = acked.into_iter().zip(missing);
    let Some((last, _)) = acked.find(|(_, missing)| *missing == Some(true)) else {
        return Ok(None);
    };
    // Loss begins somewhere and goes on from there to this one, whatever was committed after it.
    let floor = last.sequence;
    let mut low = first;
    let mut high = floor;
    let mut earliest = last;
    while low < high {
        let middle = low.midpoint(high);
        match search.next(middle, high).await? {
            None => high = middle,
            Some(message) if search.is_there(&message).await? => {
                low = message.sequence + 1;
            }
            Some(message) => {
                high = middle;
                earliest = message;
            }
        }
    }
    Ok(Some(Regression {
        seen: floor + 1 - first,
        found: earliest.sequence - first,
        since: if earliest.sequence == first {
            0
        } else {
            earliest.time
        },
        from: [(marked.function.to_owned(), earliest.sequence)].into(),
    }))
}

/// Messages read for one step back, as many as come at a time, and in all.
const STEP_BACK: u64 = 256;
const LOOK_BACK: u64 = 4096;

/// Search for the first acked event without a mark.
struct Search<'s> {
    bus: &'s Bus,
    store: &'s Store,
    marked: Marked<'s>,
    filters: Vec<&'s str>,
    /// History of what the function acted on.
    history: History,
    /// Subject of what is redriven to it alone.
    redrive: String,
    /// The consumer has not seen what is older, Unix milliseconds.
    started: u64,
}

impl Search<'_> {
    /// Last messages up to `floor` that the consumer takes, as many as are read at a time. The floor itself may be of
    /// another type: with nothing in flight the server moves it over what the consumer does not take. None where they are
    /// further back than [`LOOK_BACK`].
    async fn last(&self, first: u64, floor: u64) -> Result<Vec<StoredMessage>, BusError> {
        let mut end = floor + 1;
        let oldest = first.max(end.saturating_sub(LOOK_BACK));
        while end > oldest {
            let from = oldest.max(end.saturating_sub(STEP_BACK));
            let mut batch = self.bus.read_stream(self.marked.stream, from).await?;
            batch.retain(|message| self.takes(message, end));
            if !batch.is_empty() {
                return Ok(batch);
            }
            end = from;
        }
        Ok(Vec::new())
    }

    /// First message from `from` on and before `end` that the consumer takes.
    async fn next(&self, from: u64, end: u64) -> Result<Option<StoredMessage>, BusError> {
        let mut next = from;
        while next < end {
            let batch = self.bus.read_stream(self.marked.stream, next).await?;
            let Some(last) = batch.last() else {
                return Ok(None);
            };
            next = last.sequence + 1;
            let mut batch = batch.into_iter();
            let found = batch.find(|message| self.takes(message, end));
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }

    /// Whether the consumer takes a message that stands before `end`, and the function acted on its type when it came: one of
    /// before a change of its triggers is acked without a mark.
    fn takes(&self, message: &StoredMessage, end: u64) -> bool {
        let subject = &message.subject;
        let held = self.history.at(self.marked.created, message.sequence);
        message.sequence < end
            && self.filters.contains(&subject.as_str())
            && (*subject == self.redrive
                || held.is_none_or(|held| layout::matches(&held.filters, subject)))
    }

    /// Whether the mark of an event is there, or may rightly be gone.
    async fn is_there(&self, message: &StoredMessage) -> Result<bool, BusError> {
        let missing = self.missing(std::slice::from_ref(message)).await?;
        Ok(missing != [Some(true)])
    }

    /// Of each event whether its mark is missing; `None` where it may rightly be.
    async fn missing(&self, messages: &[StoredMessage]) -> Result<Vec<Option<bool>>, BusError> {
        let function: Arc<str> = self.marked.function.into();
        let ids = messages.iter().map(|message| self.id_of(message));
        let marks: Vec<Mark> = ids.map(|id| Mark::of_id(&function, &id)).collect();
        let states = self.store.settled(&marks).await;
        let states = states.map_err(|e| BusError(e.message))?;
        let oldest = event::now_ms().saturating_sub(self.marked.horizon);
        let oldest = oldest.max(self.started);
        let messages = messages.iter().zip(states);
        let missing = messages.map(|(message, state)| {
            let is_known = message.time >= oldest;
            is_known.then_some(state.is_none())
        });
        Ok(missing.collect())
    }

    /// Id of an event. One that cannot be read was set aside under the id of its place.
    fn id_of(&self, message: &StoredMessage) -> String {
        let Marked {
            stream, created, ..
        } = self.marked;
        match message.read(stream, created) {
            Ok(incoming) => incoming.meta.id,
            Err(_) => format!("{stream}:{created}:{}", message.sequence),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(created: u64, last: u64) -> KnownStream {
        KnownStream { created, last }
    }

    #[test]
    fn a_stream_that_went_back_is_told_from_one_that_grew() {
        let known = KnownStream {
            created: 7,
            last: 100,
        };
        assert_eq!(lost("web", stream(7, 100), known), None);
        assert_eq!(lost("web", stream(7, 101), known), None);
        let shorter = lost("web", stream(7, 99), known).expect("it lost one");
        assert!(shorter.to_string().contains("ends at 99"));
        let anew = lost("web", stream(8, 500), known).expect("another one");
        assert!(anew.to_string().contains("made anew"));
    }
}
