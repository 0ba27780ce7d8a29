//! One event onto the bus: a 202 stands on the ack this returns, and on nothing less.

use std::time::Instant;

use bytes::Bytes;
use oncue_core::bus::{Bus, PubAck, StoredMessage};
use oncue_proto::Format;
use oncue_proto::event::{self, Meta};
use oncue_proto::oncue::v1::{Envelope, Header};

use super::ledger::{EventFate, Ledger};
use crate::App;
use crate::observe::trace::Trace;
use crate::problem::{AWAY, BOUNDS, ID_REUSE, Problem, UNKNOWN, of_publish};

/// Header by which an event says that its flow has a ledger.
const TRACKED: &str = "ce-tracked";

/// An event that keeps to its contract and is in no stream yet.
pub struct NewEvent {
    pub meta: Meta,
    pub key: String,
    pub format: Format,
    pub payload: Bytes,
    /// The client asked for a ledger of the flow.
    pub track: bool,
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
    /// Begins the ledger, publishes, waits for the ack, and settles the ledger.
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
        } = event;
        let bounds = &self.bounds;
        let key_checked = bounds.check_key(&key);
        key_checked.map_err(|why| Problem::new(BOUNDS, why))?;
        let ledger = Ledger::begin(&self.store, &self.flows, &meta, &key, track).await?;
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

pub fn id_reuse(id: &str) -> Problem {
    Problem::new(
        ID_REUSE,
        format!("id {id:?} belongs to an event with another content; nothing was taken"),
    )
}
