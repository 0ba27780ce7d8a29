//! Events that wait for a function: those above its consumer's ack floor that Redis has no mark of.

use std::collections::BTreeMap;

use crate::AdminError;
use oncue_core::bus::{Bus, Slice, StoredMessage};
use oncue_core::model::manifest::Manifest;
use oncue_core::store::{Mark, Store, payload_hash};
use oncue_proto::event::{Meta, Origin};

/// Messages for one request.
const AT_A_TIME: usize = 256;

/// Function whose events are looked for, with the stream of its consumer.
#[derive(Debug, Clone, Copy)]
pub struct Waiter<'w> {
    pub function: &'w str,
    pub stream: &'w str,
    /// Creation time of the stream, Unix milliseconds.
    pub created: u64,
    /// Sequence below which all is acked.
    pub floor: u64,
    /// H of the stream, milliseconds.
    pub horizon: u64,
}

/// An event that waits.
#[derive(Debug, Clone)]
pub struct WaitingEvent {
    pub message: StoredMessage,
    /// Identity as its headers say, or as its place in the stream makes it.
    pub meta: Meta,
    /// As of [`payload_hash`]; 0 for what cannot be read.
    pub payload_hash: u32,
}

impl Waiter<'_> {
    /// Next events of a subject, from `from` on, and where to go on; `None` at the end of the stream. What is in flight
    /// waits too, until it is applied.
    ///
    /// # Errors
    /// A server does not answer.
    pub async fn next(
        &self,
        bus: &Bus,
        store: &Store,
        subject: &str,
        from: u64,
    ) -> Result<Option<WaitingPage>, AdminError> {
        let slice = Slice {
            from: from.max(self.floor + 1),
            since: None,
            subject,
            messages: AT_A_TIME,
            bytes: 0,
        };
        let messages = bus.read_slice(self.stream, &slice).await?;
        let Some(last) = messages.last() else {
            return Ok(None);
        };
        let next = last.sequence + 1;
        let events = messages.into_iter().map(|message| self.event(message));
        let events: Vec<WaitingEvent> = events.collect();
        let marks: Vec<Mark> = events.iter().map(|event| self.mark(event)).collect();
        let states = store.settled(&marks).await?;
        let waiting = events.into_iter().zip(states);
        let waiting = waiting.filter(|(_, state)| state.is_none());
        Ok(Some(WaitingPage {
            events: waiting.map(|(event, _)| event).collect(),
            next,
        }))
    }

    /// Number of events of a subject that wait.
    ///
    /// # Errors
    /// A server does not answer.
    pub async fn count(&self, bus: &Bus, store: &Store, subject: &str) -> Result<u64, AdminError> {
        let mut count = 0;
        let mut from = 0;
        while let Some(page) = self.next(bus, store, subject, from).await? {
            count += page.events.len() as u64;
            from = page.next;
        }
        Ok(count)
    }

    /// Mark of an event. Its id stands in for the key, which only the function's program knows.
    pub fn mark(&self, WaitingEvent { message, meta, .. }: &WaitingEvent) -> Mark {
        Mark {
            sequence: message.sequence,
            ..Mark::new(self.function, &meta.id, meta, self.horizon)
        }
    }

    fn event(&self, message: StoredMessage) -> WaitingEvent {
        let Ok(incoming) = message.read(self.stream, self.created) else {
            return WaitingEvent {
                meta: self.unreadable(&message),
                message,
                payload_hash: 0,
            };
        };
        WaitingEvent {
            payload_hash: payload_hash(&incoming.meta.cause, &incoming.payload),
            meta: incoming.meta,
            message,
        }
    }

    /// Identity of what is no event: by its place.
    fn unreadable(&self, message: &StoredMessage) -> Meta {
        let origin = Origin {
            stream: self.stream,
            stream_created: self.created,
            sequence: message.sequence,
            published: message.time,
            subject: &message.subject,
        };
        let headers = message.headers.iter();
        let headers = headers.map(|(name, value)| (name.as_str(), value.as_str()));
        Meta::of_unreadable(headers, &origin)
    }
}

/// Part of the events that wait.
#[derive(Debug, Clone)]
pub struct WaitingPage {
    pub events: Vec<WaitingEvent>,
    /// Sequence to go on from.
    pub next: u64,
}

/// Number of events that wait for a function, by each of these subjects that has some.
///
/// # Errors
/// A server does not answer.
pub async fn by_subject(
    waiter: Waiter<'_>,
    subjects: &[String],
    bus: &Bus,
    store: &Store,
) -> Result<BTreeMap<String, u64>, AdminError> {
    let mut counts = BTreeMap::new();
    for subject in subjects {
        let count = waiter.count(bus, store, subject).await?;
        if count > 0 {
            counts.insert(subject.clone(), count);
        }
    }
    Ok(counts)
}

/// Subjects of what a consumer's filters have beyond those of the manifest.
pub fn given_up(filters: &[String], manifest: &Manifest) -> Vec<String> {
    let filters = filters.iter();
    let gone = filters.filter(|filter| !manifest.filters.contains(filter));
    gone.cloned().collect()
}
