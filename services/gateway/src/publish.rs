//! One event onto the bus: a 202 stands on the ack this returns, and on nothing less.

use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use oncue_core::bus::{Bus, PubAck};
use oncue_proto::Format;
use oncue_proto::event::{self, Meta};
use oncue_proto::oncue::v1::{Envelope, Header};
use serde_json::json;

use crate::App;
use crate::problem::{AWAY, ID_REUSE, Problem, UNKNOWN};
use crate::trace::Trace;

/// Taken by its stream.
pub struct Published {
    pub ack: PubAck,
    /// Where the flow goes on; of an event that was taken before, where it went on then.
    pub traceparent: String,
    /// The message the stream holds, if it held it before.
    pub earlier: Option<Stored>,
    /// Its flow has a ledger.
    pub tracked: bool,
}

/// A message as it lies in a stream.
pub struct Stored {
    pub subject: String,
    pub payload: Vec<u8>,
    traceparent: Option<String>,
    tracked: bool,
}

/// Whether the flow of an event has a ledger.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ledger {
    None,
    /// Begun just now.
    Begun,
    /// It had one.
    Known,
}

/// What the platform says of an event whose flow has a ledger.
const TRACKED: &str = "ce-tracked";
/// Redis answers in a millisecond or is away.
const PATIENCE: Duration = Duration::from_secs(3);

impl App {
    /// Publishes and waits for the ack; `asked` = with a ledger of its flow. The caller judges `earlier`.
    pub async fn publish(
        &self,
        trace: &Trace,
        mut meta: Meta,
        key: &str,
        format: Format,
        payload: Bytes,
        asked: bool,
    ) -> Result<Published, Problem> {
        // While it reconnects, the client would keep the message and send it after we have answered 503.
        connected(&self.bus)?;
        let ledger = self.track(&meta, key, asked).await?;
        let flow = meta.flow.clone();
        let started = Instant::now();
        let sending = trace.publish(&meta);
        let carried = sending.carrier.clone();
        (meta.traceparent, meta.tracestate, meta.baggage) =
            (carried.traceparent, carried.tracestate, carried.baggage);
        meta.tracked = ledger != Ledger::None;
        let headers = event::headers(&meta, key, format)
            .into_iter()
            .map(|(name, value)| Header {
                name: name.to_owned(),
                value,
            });
        let envelope = Envelope {
            subject: event::subject(&meta.ty, key),
            headers: headers.collect(),
            payload,
        };
        let sent = self.send(&envelope).await;
        let class = sent.as_ref().err().map(Problem::code);
        sending.finish(
            &meta,
            key,
            sent.as_ref()
                .map(|(ack, _)| ack.duplicate)
                .map_err(Problem::code),
        );
        self.metrics.sent(class, started.elapsed());
        match sent {
            Ok((ack, earlier)) => {
                let then = earlier
                    .as_ref()
                    .and_then(|stored| stored.traceparent.clone());
                // Taken before and without a ledger: nobody will ever write into the one that has just begun.
                let tracked = ledger != Ledger::None
                    && (!ack.duplicate || earlier.as_ref().is_some_and(|e| e.tracked));
                if ledger == Ledger::Begun && !tracked {
                    self.untrack(&flow).await;
                }
                Ok(Published {
                    ack,
                    traceparent: then.or(meta.traceparent).unwrap_or_default(),
                    earlier,
                    tracked,
                })
            }
            Err(problem) => {
                if ledger == Ledger::Begun && problem.code() != UNKNOWN.code {
                    self.untrack(&flow).await;
                }
                Err(problem)
            }
        }
    }

    /// Begins the ledger, before anybody can act on the event. Who asked for one is refused without it; who did not is
    /// not held up.
    async fn track(&self, meta: &Meta, key: &str, asked: bool) -> Result<Ledger, Problem> {
        if !asked && !self.flows.track.wants(&meta.flow) {
            return Ok(Ledger::None);
        }
        let begun =
            tokio::time::timeout(PATIENCE, self.store.track(meta, key, self.flows.keep.0)).await;
        match begun
            .map_err(|_| "Redis does not answer".to_owned())
            .and_then(|begun| begun.map_err(|e| e.to_string()))
        {
            Ok(true) => Ok(Ledger::Begun),
            Ok(false) => Ok(Ledger::Known),
            Err(why) if asked => {
                let why = format!(
                    "{why}, so the flow cannot be tracked; nothing was taken: send it again, or without"
                );
                Err(Problem::new(AWAY, why))
            }
            Err(why) => {
                tracing::warn!(flow = meta.flow, error = why, "a flow goes untracked");
                Ok(Ledger::None)
            }
        }
    }

    async fn untrack(&self, flow: &str) {
        if let Err(e) = self.store.untrack(flow).await {
            tracing::warn!(flow, error = %e, "cannot take back the ledger of a flow that did not begin");
        }
    }

    async fn send(&self, envelope: &Envelope) -> Result<(PubAck, Option<Stored>), Problem> {
        let ack = self.bus.publish(envelope).await?;
        let earlier = if ack.duplicate {
            self.stored(&ack).await?
        } else {
            None
        };
        Ok((ack, earlier))
    }

    /// `None` where it was purged since: then there is nothing to compare with.
    async fn stored(&self, ack: &PubAck) -> Result<Option<Stored>, Problem> {
        let answer = match self
            .bus
            .api(
                &format!("STREAM.MSG.GET.{}", ack.stream),
                &json!({ "seq": ack.sequence }),
            )
            .await
        {
            Ok(answer) => answer,
            Err(e) if e.is_not_found() => return Ok(None),
            Err(e) => return Err(e.into()),
        };
        let message = &answer["message"];
        let part = |name: &str| {
            STANDARD
                .decode(message[name].as_str().unwrap_or_default())
                .unwrap_or_default()
        };
        let headers = String::from_utf8_lossy(&part("hdrs")).into_owned();
        let traceparent = headers
            .lines()
            .find_map(|line| line.strip_prefix("traceparent: "));
        Ok(Some(Stored {
            subject: message["subject"].as_str().unwrap_or_default().to_owned(),
            payload: part("data"),
            traceparent: traceparent.map(|value| value.trim().to_owned()),
            tracked: headers.lines().any(|line| line.starts_with(TRACKED)),
        }))
    }
}

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
