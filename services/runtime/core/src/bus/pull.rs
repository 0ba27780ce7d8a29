//! Pulling by the free slot: a worker asks for as many events as it can start, never more, over one inbox that lives
//! as long as the worker. Messages that have come are taken greedily; nothing waits for a batch to fill.
//!
//! The client's own pull asks for batches of a fixed size and holds what it has not handed on: events that a slow
//! worker keeps from a fast one. Here nothing is asked for that cannot begin at once. Requests can get lost with a
//! connection, or with the server; so a worker hears a heartbeat while it waits, and asks anew after silence or a
//! reconnect.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use async_nats::{Message, StatusCode, Subject, Subscriber};
use bytes::Bytes;
use futures_util::{FutureExt, StreamExt};
use serde_json::json;
use tokio::sync::watch;
use tokio::time::Instant;

use super::{Bus, BusError, failed, headers};
use crate::backoff::spread;

/// Time after which the server ends a pull request.
const EXPIRES: Duration = Duration::from_secs(30);
/// Pause between two heartbeats of the server while a pull request waits.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// Silence after which the pull requests are taken for lost; clients are known to stall after a reconnect.
const LOST_AFTER: Duration = Duration::from_secs(12);
/// Longest time that a closing pull takes messages it had asked for.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(500);
/// Silence that ends this sooner.
const CLOSE_GAP: Duration = Duration::from_millis(50);
/// Longest wait for messages on their way when the subscription ends.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);
/// Silence of a consumer after which it is not there: longer than a server takes to recover its streams.
const GONE_AFTER: Duration = Duration::from_secs(15);
/// Pause before asking again where nobody answers for the consumer, on average.
const NO_CONSUMER_PAUSE: Duration = Duration::from_millis(500);
/// Pause before asking again while the connection is away, on average.
const NO_CONNECTION_PAUSE: Duration = Duration::from_millis(100);

/// Delivery of one message to this worker.
#[derive(Debug)]
pub struct Delivery {
    message: Message,
    /// Where the message stands, and how often it was delivered.
    pub info: DeliveryInfo,
}

/// Delivery as its ack subject describes it [NATS ADR-15].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeliveryInfo {
    /// Stream that holds the message; shared by all deliveries of a pull.
    pub stream: Arc<str>,
    /// Sequence of the message in the stream.
    pub sequence: u64,
    /// 1 for the first delivery.
    pub attempt: u32,
    /// When the stream took the message, Unix milliseconds.
    pub published: u64,
}

/// Room that a worker has for more events.
#[derive(Debug, Clone, Copy)]
pub struct Capacity {
    /// Events in flight at most, those that were asked for before included.
    pub events: usize,
    /// With less room than this nothing is asked for while something is on its way: fewer, fuller pulls cost the server
    /// less.
    pub least: usize,
    /// Most bytes that one request may bring: at least the largest message there can be.
    pub bytes: usize,
}

impl Capacity {
    /// Room for so many events of whatever size: NATS takes none of more than 64 MiB.
    pub const fn of(events: usize) -> Self {
        Self {
            events,
            least: events.div_ceil(4),
            bytes: 80 << 20,
        }
    }
}

impl Delivery {
    /// Delivery that no server has made, for the author's test kit.
    #[cfg(feature = "testing")]
    pub fn without_server(message: &super::Outbound, info: DeliveryInfo) -> Self {
        let mut headers = async_nats::HeaderMap::new();
        for (name, value) in message.headers.iter() {
            headers.append(name, value);
        }
        Self {
            message: Message {
                subject: message.subject.as_str().into(),
                reply: None,
                payload: message.payload.clone(),
                headers: Some(headers),
                status: None,
                description: None,
                length: message.size(),
            },
            info,
        }
    }

    /// Bytes of the message as they came, headers included.
    pub fn size(&self) -> usize {
        self.message.length
    }

    /// Subject of the message.
    pub fn subject(&self) -> &str {
        &self.message.subject
    }

    /// Payload of the message.
    pub fn payload(&self) -> &Bytes {
        &self.message.payload
    }

    /// Names and values of the headers, in no order.
    pub fn headers(&self) -> impl Iterator<Item = (&str, &str)> {
        headers(&self.message)
    }

    /// Ticket to settle the delivery with; identifies it, too.
    pub fn ticket(&self) -> Ticket {
        Ticket(
            self.message
                .reply
                .clone()
                .unwrap_or_else(|| Subject::from_static("")),
        )
    }
}

/// Right to settle one delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ticket(Subject);

impl Ticket {
    /// Subject of the answer.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Ticket that was written down as its subject; `None` for any other subject.
    pub fn from_text(subject: &str) -> Option<Self> {
        subject
            .starts_with("$JS.ACK.")
            .then(|| Self(subject.into()))
    }
}

impl Bus {
    /// Acks: the event is done. Sent once everything it caused is stored, so a late ack does no harm.
    pub async fn ack(&self, ticket: &Ticket) {
        self.settle(ticket, Bytes::from_static(b"+ACK")).await;
    }

    /// Gives a delivery back: to be delivered again, but not before `delay`.
    pub async fn retry(&self, ticket: &Ticket, delay: Duration) {
        self.settle(
            ticket,
            format!("-NAK {{\"delay\":{}}}", delay.as_nanos()).into(),
        )
        .await;
    }

    /// Starts the ack wait anew for an event that takes longer.
    pub async fn in_progress(&self, ticket: &Ticket) {
        self.settle(ticket, Bytes::from_static(b"+WPI")).await;
    }

    /// Publishes a settlement, without an ack of its own: a lost one is repaired by redelivery, so a failure is only
    /// worth a line in the log.
    async fn settle(&self, ticket: &Ticket, payload: Bytes) {
        if let Err(e) = self.client.publish(ticket.0.clone(), payload).await {
            tracing::warn!(error = %e, "cannot settle a delivery; it will come again");
        }
    }

    /// Starts pulling for a function of the app. Nothing is asked for until [`Pull::ask`]. `created` is the stream's
    /// creation time (Unix ms); a stream that is made anew ends the pull.
    pub async fn pull(&self, stream: &str, created: u64, function: &str) -> Result<Pull, BusError> {
        let consumer = self.app().consumer(function);
        self.pull_from(stream, created, &consumer).await
    }

    /// As [`pull`](Self::pull), from a consumer of this name, which is no function's.
    pub async fn pull_from(
        &self,
        stream: &str,
        created: u64,
        consumer: &str,
    ) -> Result<Pull, BusError> {
        let (inbox, messages) = self.pull_inbox().await?;
        let mut connections = self.connections.clone();
        connections.borrow_and_update();
        Ok(Pull {
            bus: self.clone(),
            request: self.api_subject(format_args!("CONSUMER.MSG.NEXT.{stream}.{consumer}")),
            inbox,
            messages,
            outstanding: 0,
            stream: stream.to_owned(),
            created,
            refused: false,
            unanswered_since: None,
            stale: false,
            heard: Instant::now(),
            connections,
            streams: HashMap::new(),
        })
    }

    /// New inbox, subscribed to.
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

/// Pull from one consumer, over one inbox at a time.
pub struct Pull {
    bus: Bus,
    /// Subject of pull requests.
    request: String,
    inbox: String,
    /// Subscription of the inbox.
    messages: Subscriber,
    /// Messages asked for that have neither come nor been refused.
    outstanding: usize,
    stream: String,
    /// Creation time of the stream, Unix milliseconds.
    created: u64,
    /// Whether nobody answered to the last request.
    refused: bool,
    /// Time since which nobody has answered for the consumer.
    unanswered_since: Option<Instant>,
    /// Whether the pull requests are taken for lost.
    stale: bool,
    /// When the server was last heard of.
    heard: Instant,
    /// Number of connections so far.
    connections: watch::Receiver<u64>,
    /// Names of streams, each allocated once.
    streams: HashMap<String, Arc<str>>,
}

/// The consumer is gone, with the reason for people; only a restart, which creates or reports it, can help.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Gone(pub String);

impl Pull {
    /// Asks for as many events as there is room for. Returns deliveries that an inbox which had to be given up still
    /// held.
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

    /// Sends a pull request if it is worth one.
    async fn ask_more(&mut self, room: Capacity) {
        if std::mem::take(&mut self.refused) {
            tokio::time::sleep(spread(NO_CONSUMER_PAUSE)).await; // no hot loop
        }
        let want = room.events.saturating_sub(self.outstanding);
        if want == 0 || (self.outstanding > 0 && want < room.least) {
            return;
        }
        // With heartbeats, a silent server can be told from an empty stream.
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

    /// Waits for events and returns all that have come; none when it is time to ask again. May be dropped at any time
    /// without losing an event.
    pub async fn next(&mut self) -> Result<Vec<Delivery>, Gone> {
        let silent = self.heard + LOST_AFTER;
        let mut message = tokio::select! {
            message = self.messages.next() => message,
            _ = self.connections.changed() => None,
            () = tokio::time::sleep_until(silent) => None,
        };
        if message.is_none() {
            // No restart here: the caller may drop this future, and half a restart would be none.
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

    /// Stops pulling and returns deliveries that the server had already sent. The client forgets a subscription once
    /// it has sent that it ends, without waiting for messages on their way; so where more wait, those asked for are taken
    /// first. One that nothing waits behind is the last on its way.
    pub async fn close(mut self) -> Vec<Delivery> {
        let mut rest = Vec::new();
        let end = Instant::now() + CLOSE_TIMEOUT;
        while self.outstanding > 0 {
            let gap_end = end.min(Instant::now() + CLOSE_GAP);
            let Ok(Some(message)) = tokio::time::timeout_at(gap_end, self.messages.next()).await
            else {
                break;
            };
            let waiting = message
                .reply
                .as_ref()
                .and_then(|reply| waiting_behind(reply));
            rest.extend(self.take(message).ok().flatten());
            if waiting == Some(0) {
                break;
            }
        }
        if self.messages.drain().await.is_err() {
            return rest;
        }
        let end = Instant::now() + DRAIN_TIMEOUT;
        while let Ok(Some(message)) = tokio::time::timeout_at(end, self.messages.next()).await {
            rest.extend(self.take(message).ok().flatten());
        }
        rest
    }

    /// Takes a new inbox: after a reconnect or a long silence the server may have forgotten the requests. Returns
    /// deliveries that were in the old one.
    async fn restart(&mut self) -> Result<Vec<Delivery>, Gone> {
        self.heard = Instant::now();
        if !self.bus.is_connected() {
            tokio::time::sleep(spread(NO_CONNECTION_PAUSE)).await;
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

    /// Takes a message: a delivery, or a status that says how many of the messages asked for will not come.
    fn take(&mut self, message: Message) -> Result<Option<Delivery>, Gone> {
        let Some(status) = message.status else {
            self.outstanding = self.outstanding.saturating_sub(1);
            self.unanswered_since = None;
            let info = message
                .reply
                .as_ref()
                .and_then(|reply| self.delivery_info(reply));
            return Ok(info.map(|info| Delivery { message, info }));
        };
        if status == StatusCode::IDLE_HEARTBEAT {
            self.unanswered_since = None;
            return Ok(None);
        }
        let why = message.description.clone().unwrap_or_default();
        if why.contains("Consumer Deleted") || why.contains("Consumer is push based") {
            return Err(Gone(why));
        }
        if status == StatusCode::NO_RESPONDERS {
            self.refused = true;
            let since = *self.unanswered_since.get_or_insert_with(Instant::now);
            if since.elapsed() > GONE_AFTER {
                return Err(Gone(format!(
                    "nobody has answered for it in {GONE_AFTER:?}"
                )));
            }
        }
        // A request that ends says how many of its messages it did not bring; without that, none of all will come.
        let unserved = headers(&message)
            .find(|(name, _)| *name == "Nats-Pending-Messages")
            .and_then(|(_, n)| n.parse().ok());
        self.outstanding = self
            .outstanding
            .saturating_sub(unserved.unwrap_or(self.outstanding));
        tracing::debug!(%status, why, outstanding = self.outstanding, "pull request ended");
        Ok(None)
    }

    fn delivery_info(&mut self, reply: &str) -> Option<DeliveryInfo> {
        let [stream, _, attempt, sequence, _, nanos, _] = ack_parts(reply)?;
        let stream = if let Some(known) = self.streams.get(stream) {
            known.clone()
        } else {
            let name: Arc<str> = Arc::from(stream);
            self.streams.insert(stream.to_owned(), name.clone());
            name
        };
        Some(DeliveryInfo {
            stream,
            sequence: sequence.parse().ok()?,
            attempt: attempt.parse().ok()?,
            published: nanos.parse::<u64>().ok()? / 1_000_000,
        })
    }
}

/// Parts of an ack subject: stream, consumer, attempt, sequence in the stream, of the consumer, time (ns), and messages that
/// wait behind this one. Reads both forms: nine tokens, or eleven and more with domain and account [NATS ADR-15].
fn ack_parts(reply: &str) -> Option<[&str; 7]> {
    let tokens = reply.strip_prefix("$JS.ACK.")?;
    let ahead = if tokens.split('.').count() >= 9 { 2 } else { 0 };
    let mut tokens = tokens.split('.').skip(ahead);
    let mut parts = [""; 7];
    for part in &mut parts {
        *part = tokens.next()?;
    }
    Some(parts)
}

/// Messages of the consumer that nobody had been given when this one was sent.
fn waiting_behind(reply: &str) -> Option<u64> {
    ack_parts(reply)?[6].parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ack_subject_is_read_in_both_forms() {
        let short = "$JS.ACK.web.app_count.1.42.7.1700000000000000000.3";
        let long = "$JS.ACK.hub.ACCOUNT.web.app_count.1.42.7.1700000000000000000.0.x1";
        for (subject, waiting) in [(short, 3), (long, 0)] {
            let parts = ack_parts(subject).expect("a whole one");
            assert_eq!(parts[..5], ["web", "app_count", "1", "42", "7"]);
            assert_eq!(waiting_behind(subject), Some(waiting));
        }
        assert_eq!(ack_parts("$JS.ACK.web.app_count.1.42.7"), None);
        assert_eq!(ack_parts("_INBOX.x"), None);
    }
}
