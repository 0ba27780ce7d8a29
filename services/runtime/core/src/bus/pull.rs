//! Pulling by the free slot: a worker asks for as many events as it can start, never more, over one inbox that lives
//! as long as the worker. What has come is taken greedily; nothing waits for a batch to fill.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use async_nats::{Message, StatusCode, Subject, Subscriber};
use bytes::Bytes;
use futures::{FutureExt, StreamExt};
use serde_json::json;
use tokio::sync::watch;
use tokio::time::Instant;

use super::{Bus, BusError, failed, headers};

const EXPIRES: Duration = Duration::from_secs(30);
const HEARTBEAT: Duration = Duration::from_secs(5);
/// Silence after which the pull requests are taken for lost; clients are known to stall after a reconnect.
const SILENCE: Duration = Duration::from_secs(12);
/// At the end what was asked for is taken for this long, or until nothing has come for a moment.
const LAST_CALL: Duration = Duration::from_millis(500);
const PAUSE: Duration = Duration::from_millis(50);
/// A consumer that nobody answers for this long is not there: longer than a server takes to recover its streams.
const GIVE_UP: Duration = Duration::from_secs(15);

/// One delivery of one message to this worker.
#[derive(Debug)]
pub struct Delivery {
    message: Message,
    pub info: DeliveryInfo,
}

/// What the ack subject says of a delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeliveryInfo {
    pub stream: Arc<str>,
    pub sequence: u64,
    /// 1 for the first delivery.
    pub attempt: u32,
    /// When the stream took the message, Unix milliseconds.
    pub published: u64,
}

/// How much a worker can take.
#[derive(Debug, Clone, Copy)]
pub struct Capacity {
    pub events: usize,
    /// With less room than this nothing is asked for while something is on its way: fewer, fuller pulls cost the server
    /// less.
    pub least: usize,
    /// What one request may bring, at least the largest message there can be.
    pub bytes: usize,
}

impl Capacity {
    /// For so many events of whatever size: NATS takes none of more than 64 MiB.
    pub const fn of(events: usize) -> Self {
        Self {
            events,
            least: events.div_ceil(4),
            bytes: 80 << 20,
        }
    }
}

impl Delivery {
    /// Bytes as they came.
    pub fn size(&self) -> usize {
        self.message.length
    }

    pub fn subject(&self) -> &str {
        &self.message.subject
    }

    pub fn payload(&self) -> &Bytes {
        &self.message.payload
    }

    pub fn headers(&self) -> impl Iterator<Item = (&str, &str)> {
        headers(&self.message)
    }

    /// Where to acknowledge; also what identifies the delivery.
    pub fn ticket(&self) -> Ticket {
        Ticket(
            self.message
                .reply
                .clone()
                .unwrap_or_else(|| Subject::from_static("")),
        )
    }
}

/// The right to settle one delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ticket(Subject);

impl Bus {
    /// The event is done. Sent once everything it caused is stored, so a late ack does no harm.
    pub async fn ack(&self, ticket: &Ticket) {
        self.settle(ticket, Bytes::from_static(b"+ACK")).await;
    }

    /// Please again, but not before `delay`.
    pub async fn retry(&self, ticket: &Ticket, delay: Duration) {
        self.settle(
            ticket,
            format!("-NAK {{\"delay\":{}}}", delay.as_nanos()).into(),
        )
        .await;
    }

    /// Still at it: starts the ack wait anew.
    pub async fn in_progress(&self, ticket: &Ticket) {
        self.settle(ticket, Bytes::from_static(b"+WPI")).await;
    }

    /// A lost settlement is repaired by redelivery, so a failure is only worth a line.
    async fn settle(&self, ticket: &Ticket, payload: Bytes) {
        if let Err(e) = self.client.publish(ticket.0.clone(), payload).await {
            tracing::warn!(error = %e, "cannot settle a delivery; it will come again");
        }
    }

    /// Starts pulling from a durable consumer.
    /// `created` is the stream's creation time; a stream made anew ends the pull.
    pub async fn pull(&self, stream: &str, created: u64, consumer: &str) -> Result<Pull, BusError> {
        let (inbox, messages) = self.pull_inbox().await?;
        let mut connections = self.connections.clone();
        connections.borrow_and_update();
        Ok(Pull {
            bus: self.clone(),
            request: format!("$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}"),
            inbox,
            messages,
            outstanding: 0,
            stream: stream.to_owned(),
            created,
            refused: false,
            alone_since: None,
            stale: false,
            heard: Instant::now(),
            connections,
            streams: HashMap::new(),
        })
    }

    async fn pull_inbox(&self) -> Result<(String, Subscriber), BusError> {
        let inbox = self.client.new_inbox();
        let messages = self
            .client
            .subscribe(inbox.clone())
            .await
            .map_err(|e| failed("cannot subscribe", e))?;
        Ok((inbox, messages))
    }
}

/// A running pull.
pub struct Pull {
    bus: Bus,
    request: String,
    inbox: String,
    messages: Subscriber,
    /// Messages asked for that have neither come nor been refused.
    outstanding: usize,
    stream: String,
    created: u64,
    refused: bool,
    /// Since when nobody has answered for the consumer.
    alone_since: Option<Instant>,
    /// The pull requests are taken for lost.
    stale: bool,
    heard: Instant,
    connections: watch::Receiver<u64>,
    streams: HashMap<String, Arc<str>>,
}

/// The consumer is gone; only a restart, which creates or reports it, can help.
#[derive(Debug)]
pub struct Gone(pub String);

impl Pull {
    /// Asks for what there is room for. Returns what an inbox that had to be given up still held.
    pub async fn ask(&mut self, room: Capacity) -> Result<Vec<Delivery>, Gone> {
        let rest = if self.stale {
            self.restart().await?
        } else {
            Vec::new()
        };
        let events = room.events.saturating_sub(rest.len());
        self.ask_more(Capacity { events, ..room }).await;
        Ok(rest)
    }

    async fn ask_more(&mut self, room: Capacity) {
        if std::mem::take(&mut self.refused) {
            tokio::time::sleep(Duration::from_millis(500)).await; // nobody there: no hot loop
        }
        let want = room.events.saturating_sub(self.outstanding);
        if want == 0 || (self.outstanding > 0 && want < room.least) {
            return;
        }
        let body = json!({
            "batch": want,
            "max_bytes": room.bytes,
            "expires": EXPIRES.as_nanos() as u64,
            "idle_heartbeat": HEARTBEAT.as_nanos() as u64,
        });
        let asked = self.bus.client.publish_with_reply(
            self.request.clone(),
            self.inbox.clone(),
            body.to_string().into(),
        );
        match asked.await {
            Ok(()) => self.outstanding += want,
            Err(e) => tracing::warn!(error = %e, "cannot ask for events"),
        }
    }

    /// Waits for events and returns all that have come, at least one; or nothing, when it is time to ask again.
    pub async fn next(&mut self) -> Result<Vec<Delivery>, Gone> {
        let silent = self.heard + SILENCE;
        let mut message = tokio::select! {
            message = self.messages.next() => message,
            _ = self.connections.changed() => None,
            () = tokio::time::sleep_until(silent) => None,
        };
        if message.is_none() {
            // Not here: whoever waits may drop this future, and half a restart would be none.
            self.stale = true;
            return Ok(Vec::new());
        }
        self.heard = Instant::now();
        let mut deliveries = Vec::new();
        while let Some(next) = message {
            match self.take(next)? {
                Some(delivery) => deliveries.push(delivery),
                None if deliveries.is_empty() => return Ok(deliveries),
                None => {}
            }
            message = self.messages.next().now_or_never().flatten();
        }
        Ok(deliveries)
    }

    /// Stops pulling and returns what the server had already sent. The client forgets a subscription once it has sent that
    /// it ends, without waiting for what is on its way; so under load what was asked for is taken first.
    pub async fn close(mut self) -> Vec<Delivery> {
        let mut rest = Vec::new();
        let end = Instant::now() + LAST_CALL;
        while self.outstanding > 0 {
            let quiet = end.min(Instant::now() + PAUSE);
            let Ok(Some(message)) = tokio::time::timeout_at(quiet, self.messages.next()).await
            else {
                break;
            };
            rest.extend(self.take(message).ok().flatten());
        }
        if self.messages.drain().await.is_err() {
            return rest;
        }
        let end = Instant::now() + Duration::from_secs(2);
        while let Ok(Some(message)) = tokio::time::timeout_at(end, self.messages.next()).await {
            rest.extend(self.take(message).ok().flatten());
        }
        rest
    }

    /// After a reconnect or a long silence the server may have forgotten what was asked.
    async fn restart(&mut self) -> Result<Vec<Delivery>, Gone> {
        self.heard = Instant::now();
        if !self.bus.is_connected() {
            tokio::time::sleep(Duration::from_millis(100)).await;
            return Ok(Vec::new());
        }
        // Plain messages take their identity from the stream's creation: on another stream it would be a false one.
        if self
            .bus
            .stream_created(&self.stream)
            .await
            .is_ok_and(|created| created != self.created)
        {
            return Err(Gone(format!("stream {} was made anew", self.stream)));
        }
        tracing::info!("asking for events anew");
        let (inbox, messages) = self
            .bus
            .pull_inbox()
            .await
            .map_err(|e| Gone(e.to_string()))?;
        let mut old = std::mem::replace(&mut self.messages, messages);
        self.inbox = inbox;
        self.stale = false;
        let mut rest = Vec::new();
        while let Some(Some(message)) = old.next().now_or_never() {
            rest.extend(self.take(message)?);
        }
        self.outstanding = 0;
        Ok(rest)
    }

    /// An event, or a status that says how many of the asked ones will not come.
    fn take(&mut self, message: Message) -> Result<Option<Delivery>, Gone> {
        let Some(status) = message.status else {
            self.outstanding = self.outstanding.saturating_sub(1);
            self.alone_since = None;
            let info = message
                .reply
                .as_ref()
                .and_then(|reply| self.delivery_info(reply));
            return Ok(info.map(|info| Delivery { message, info }));
        };
        if status == StatusCode::IDLE_HEARTBEAT {
            self.alone_since = None;
            return Ok(None);
        }
        let why = message.description.clone().unwrap_or_default();
        if why.contains("Consumer Deleted") || why.contains("Consumer is push based") {
            return Err(Gone(why));
        }
        if status == StatusCode::NO_RESPONDERS {
            self.refused = true;
            let since = *self.alone_since.get_or_insert_with(Instant::now);
            if since.elapsed() > GIVE_UP {
                return Err(Gone(format!("nobody has answered for it in {GIVE_UP:?}")));
            }
        }
        let unserved = headers(&message)
            .find(|(name, _)| *name == "Nats-Pending-Messages")
            .and_then(|(_, n)| n.parse().ok());
        self.outstanding = self
            .outstanding
            .saturating_sub(unserved.unwrap_or(self.outstanding));
        tracing::debug!(%status, why, outstanding = self.outstanding, "pull request ended");
        Ok(None)
    }

    /// Reads both shapes of the ack subject: nine tokens, or eleven and more with domain and account [NATS ADR-15].
    fn delivery_info(&mut self, reply: &str) -> Option<DeliveryInfo> {
        let tokens: Vec<&str> = reply.strip_prefix("$JS.ACK.")?.split('.').collect();
        let tokens = if tokens.len() >= 9 {
            &tokens[2..]
        } else {
            &tokens[..]
        };
        let [stream, _, attempt, sequence, _, nanos, ..] = tokens else {
            return None;
        };
        let stream = self
            .streams
            .entry((*stream).to_owned())
            .or_insert_with(|| Arc::from(*stream))
            .clone();
        Some(DeliveryInfo {
            stream,
            sequence: sequence.parse().ok()?,
            attempt: attempt.parse().ok()?,
            published: nanos.parse::<u64>().ok()? / 1_000_000,
        })
    }
}
