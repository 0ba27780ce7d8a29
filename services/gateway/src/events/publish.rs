//! One event onto the bus: a 202 stands on the ack this returns, and on nothing less.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use oncue_core::bus::{Bus, PubAck, StoredMessage};
use oncue_proto::Format;
use oncue_proto::event::{self, Meta};
use oncue_proto::oncue::v1::{Envelope, Header};

use super::attributes::SOURCE;
use super::ledger::{EventFate, Ledger};
use crate::App;
use crate::observe::trace::Trace;
use crate::problem::{AWAY, BOUNDS, ID_REUSE, INTERNAL, Problem, UNKNOWN, of_publish};
use crate::request::body::WholeBody;

/// Header by which an event says that its flow has a ledger.
const TRACKED: &str = "ce-tracked";

/// An event that keeps to its contract and is in no stream yet.
#[derive(Clone)]
pub struct NewEvent {
    pub meta: Meta,
    pub key: String,
    pub format: Format,
    pub payload: Bytes,
    /// The client asked for a ledger of the flow.
    pub track: bool,
    /// Body it came in, whose permits are held until the stream has answered.
    pub body: Option<Arc<WholeBody>>,
}

/// An event its stream has taken, now or before.
pub struct Published {
    pub ack: PubAck,
    /// Where the flow goes on; of an event that was taken before, where it went on then.
    pub traceparent: String,
    /// The message the stream holds, if it held it before. Whether it is the same event is the caller's to judge.
    pub earlier: Option<StoredMessage>,
    /// The flow has a ledger.
    pub tracked: bool,
}

/// Answer of the stream.
struct Sent {
    ack: PubAck,
    /// `None` where the event is new, or was purged since: then there is nothing to compare with.
    earlier: Option<StoredMessage>,
}

impl App {
    /// [`publish`](Self::publish) to its end, whatever the client does, and the comparison with an earlier event of the same id.
    pub(crate) async fn deliver(
        self: &Arc<Self>,
        trace: &Trace,
        event: NewEvent,
    ) -> Result<Published, Problem> {
        // A task of its own: when the client goes away in the middle, the handler is dropped wherever it stands, and a ledger that
        // was begun would wait for an event that nobody sends.
        let worker = self.clone();
        let sent = event.clone();
        let of_task = trace.clone();
        let published = trace.around(async move { worker.publish(&of_task, sent).await });
        let task = self.handle.tasks.spawn(published);
        let published = task
            .await
            .map_err(|e| Problem::new(INTERNAL, format!("the publish failed: {e}")))??;
        let earlier = published.earlier.as_ref();
        if earlier.is_some_and(|earlier| is_other(earlier, &event)) {
            return Err(id_reuse(&event.meta.id));
        }
        Ok(published)
    }

    /// Begins the ledger, publishes, waits for the ack, and settles the ledger. Only for a task that nobody drops.
    pub(crate) async fn publish(
        &self,
        trace: &Trace,
        event: NewEvent,
    ) -> Result<Published, Problem> {
        // While it reconnects, the client would keep the message and send it after we have answered 503.
        connected(&self.bus)?;
        let NewEvent {
            mut meta,
            key,
            format,
            payload,
            track,
            body: _held,
        } = event;
        let bounds = &self.bounds;
        let key_checked = bounds.check_key(&key);
        key_checked.map_err(|why| Problem::new(BOUNDS, why))?;
        let ledger = Ledger::begin(&self.store, &self.flows, &meta, &key, track).await?;
        if ledger.is_foreign() {
            return Err(id_reuse(&meta.id));
        }
        let started = Instant::now();
        let span = trace.publish(&meta);
        meta.traceparent.clone_from(&span.carrier.traceparent);
        meta.tracestate.clone_from(&span.carrier.tracestate);
        meta.baggage.clone_from(&span.carrier.baggage);
        meta.tracked = ledger.exists();
        let sent = self.send(&envelope(&meta, &key, format, payload)).await;
        let error = sent.as_ref().err().map(Problem::code);
        let duplicate = sent.as_ref().map(|sent| sent.ack.duplicate);
        span.finish(&meta, &key, duplicate.map_err(Problem::code));
        self.metrics.sent(error, started.elapsed());
        let tracked = ledger.settle(fate(&sent)).await;
        let Sent { ack, earlier } = sent?;
        let then = earlier
            .as_ref()
            .and_then(|earlier| earlier.header("traceparent"));
        Ok(Published {
            traceparent: then
                .map(str::to_owned)
                .or(meta.traceparent)
                .unwrap_or_default(),
            ack,
            earlier,
            tracked,
        })
    }

    async fn send(&self, envelope: &Envelope) -> Result<Sent, Problem> {
        let headers = envelope.headers.iter();
        let headers = headers.map(|header| header.name.len() + header.value.len() + 4);
        let checked = self.bounds.check_headers(headers.sum());
        checked.map_err(|why| Problem::new(BOUNDS, why))?;
        let ack = self.bus.publish(envelope).await.map_err(of_publish)?;
        let earlier = if ack.duplicate {
            self.bus.message_at(&ack.stream, ack.sequence).await?
        } else {
            None
        };
        Ok(Sent { ack, earlier })
    }
}

fn envelope(meta: &Meta, key: &str, format: Format, payload: Bytes) -> Envelope {
    let headers = event::headers(meta, key, format);
    let headers = headers.into_iter().map(|(name, value)| Header {
        name: name.to_owned(),
        value,
    });
    Envelope {
        subject: event::subject(&meta.ty, key),
        headers: headers.collect(),
        payload,
    }
}

fn fate(sent: &Result<Sent, Problem>) -> EventFate {
    match sent {
        Ok(sent) if sent.ack.duplicate => {
            let earlier = sent.earlier.as_ref();
            let tracked = earlier.is_some_and(|earlier| earlier.header(TRACKED).is_some());
            EventFate::TakenBefore { tracked }
        }
        Ok(_) => EventFate::Taken,
        Err(problem) if problem.kind() == UNKNOWN => EventFate::Unknown,
        Err(_) => EventFate::Refused,
    }
}

/// Refuses while NATS is away.
pub fn connected(bus: &Bus) -> Result<(), Problem> {
    if bus.is_connected() {
        Ok(())
    } else {
        Err(Problem::new(AWAY, "NATS is away; nothing was taken"))
    }
}

/// Whether the stream holds another event under the id. The key is part of the payload; by its source an event is known where its
/// client names one [CloudEvents 1.0.2 section 3.1].
fn is_other(earlier: &StoredMessage, event: &NewEvent) -> bool {
    let Meta { ty, source, .. } = &event.meta;
    if earlier.payload != event.payload || event::type_of_subject(&earlier.subject) != ty {
        return true;
    }
    let before = earlier.header("ce-source").and_then(event::percent_decode);
    source != SOURCE && before.is_some_and(|before| before != *source)
}

pub fn id_reuse(id: &str) -> Problem {
    Problem::new(
        ID_REUSE,
        format!(
            "id {id:?} belongs to an event of another type, source or content; nothing was taken"
        ),
    )
}
