//! NATS, and the only place that names its client.
//!
//! The client's own JetStream layer waits for each publish ack with a subscription, a timer and a permit of its own.
//! Here all acks of a process come to one inbox, pulls are asked for by the free slot ([`pull`]), and streams and
//! consumers are compared as the JSON the server speaks ([`layout`]), so that a difference can be printed as such.

mod batch;
pub mod layout;
pub mod objects;
pub mod pull;
mod read;

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_nats::{Client, ConnectOptions, Event, HeaderMap, HeaderName, HeaderValue, Message, Subscriber};
use bytes::Bytes;
use futures::StreamExt;
use oncue_proto::oncue::v1::{Envelope, Header};
use serde::Deserialize;
use serde_json::Value;
use tokio::sync::{oneshot, watch};

pub use self::read::{Found, Slice};

/// The oldest server that has message schedules with cron, atomic batches and per-message TTL.
const OLDEST: (u64, u64) = (2, 14);
const ACK_TIMEOUT: Duration = Duration::from_secs(5);
const API_TIMEOUT: Duration = Duration::from_secs(10);

/// A connection to NATS. Cheap to clone; reconnects for ever.
#[derive(Clone)]
pub struct Bus {
    client: Client,
    acks: Arc<Acks>,
    /// Counts connections: a change means that the server has forgotten our pull requests.
    connections: watch::Receiver<u64>,
}

/// The stream took the message.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct PubAck {
    pub stream: String,
    #[serde(rename = "seq")]
    pub sequence: u64,
    /// The stream had taken a message of this id before, inside its duplicate window.
    #[serde(default)]
    pub duplicate: bool,
}

/// Why a message was not taken. In every case it may safely be published again under the same id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PublishError {
    /// Larger than the server or the stream accepts; it will never fit.
    TooLarge(String),
    /// No stream holds this subject.
    NoStream(String),
    /// The stream is at its limit: back-pressure, not loss.
    Full(String),
    /// No answer; it may or may not have been taken.
    Unknown(String),
    Refused(String),
}

impl fmt::Display for PublishError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLarge(why) | Self::NoStream(why) | Self::Full(why) | Self::Unknown(why) | Self::Refused(why) => {
                f.write_str(why)
            }
        }
    }
}

impl std::error::Error for PublishError {}

/// Anything else that went wrong between us and the server.
#[derive(Debug, Clone)]
pub struct BusError(pub String);

impl fmt::Display for BusError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for BusError {}

fn failed(what: impl fmt::Display, e: impl fmt::Display) -> BusError {
    BusError(format!("{what}: {e}"))
}

/// A plain message from a plain subscription.
#[derive(Debug, Clone)]
pub struct Note {
    pub subject: String,
    pub reply: Option<String>,
    pub headers: Vec<(String, String)>,
    pub payload: Bytes,
}

impl Bus {
    /// Connects and checks the server's version. `name` is what the server's monitoring shows.
    pub async fn connect(url: &str, name: &str) -> Result<Self, BusError> {
        let (connected, mut connections) = watch::channel(0);
        let client = ConnectOptions::new()
            .name(name)
            .ping_interval(Duration::from_secs(10))
            .request_timeout(Some(API_TIMEOUT))
            .event_callback(move |event| {
                match event {
                    Event::Connected => connected.send_modify(|n| *n += 1),
                    Event::Disconnected => tracing::warn!("NATS is away, reconnecting"),
                    // Permission violations come this way only: say them rather than wait for time-outs.
                    Event::ServerError(e) => tracing::error!(error = %e, "NATS refuses"),
                    other => tracing::debug!(event = %other, "NATS"),
                }
                std::future::ready(())
            })
            .connect(url)
            .await
            .map_err(|e| failed(format_args!("cannot reach NATS at {}", without_password(url)), e))?;
        check_version(&client.server_info().version)?;
        // The first connection is announced late; taken for a reconnect it would drop pulls that are under way.
        let _ = tokio::time::timeout(Duration::from_secs(1), connections.wait_for(|n| *n > 0)).await;
        let acks = Acks::listen(&client).await?;
        Ok(Self { client, acks, connections })
    }

    pub fn server_version(&self) -> String {
        self.client.server_info().version
    }

    /// Identity of the very server process; another one after each start.
    pub fn server_id(&self) -> String {
        self.client.server_info().server_id
    }

    /// Largest payload with headers, in bytes.
    pub fn max_payload(&self) -> usize {
        self.client.max_payload()
    }

    pub fn is_connected(&self) -> bool {
        self.client.connection_state() == async_nats::connection::State::Connected
    }

    /// Publishes and returns once the stream has stored the message, or says why not.
    pub async fn publish(&self, envelope: &Envelope) -> Result<PubAck, PublishError> {
        let headers = header_map(&envelope.headers)
            .map_err(|e| PublishError::Refused(format!("cannot be sent as NATS headers: {e}")))?;
        self.check_size(envelope)?;
        let waiting = self.acks.expect();
        let payload = envelope.payload.clone();
        self.client
            .publish_with_reply_and_headers(envelope.subject.clone(), waiting.inbox.clone(), headers, payload)
            .await
            .map_err(|e| PublishError::Unknown(format!("cannot publish to {}: {e}", envelope.subject)))?;
        match tokio::time::timeout(ACK_TIMEOUT, waiting).await {
            Ok(answer) => answer,
            Err(_) => {
                Err(PublishError::Unknown(format!("no publish ack for {} within {ACK_TIMEOUT:?}", envelope.subject)))
            }
        }
    }

    /// A message over `max_payload` would make the server drop the whole connection, with everybody's messages on it.
    fn check_size(&self, envelope: &Envelope) -> Result<(), PublishError> {
        let (size, limit) = (size(envelope), self.client.max_payload());
        if size > limit {
            return Err(PublishError::TooLarge(format!("{size} bytes with headers, the server takes {limit}")));
        }
        Ok(())
    }

    /// Publishes without waiting for anybody: answers, and messages nobody may be listening to.
    pub async fn tell(&self, subject: String, payload: Bytes) -> Result<(), BusError> {
        self.client.publish(subject, payload).await.map_err(|e| failed("cannot publish", e))
    }

    /// One request to the JetStream API; its error comes back as such.
    pub async fn api(&self, subject: &str, body: &Value) -> Result<Value, ApiError> {
        let payload = if body.is_null() { Bytes::new() } else { body.to_string().into() };
        let answer = self.client.request(format!("$JS.API.{subject}"), payload).await.map_err(|e| ApiError {
            code: 503,
            err_code: 0,
            description: format!("JetStream does not answer: {e}"),
        })?;
        let answer: Value = serde_json::from_slice(&answer.payload).map_err(|e| ApiError {
            code: 500,
            err_code: 0,
            description: format!("unreadable answer: {e}"),
        })?;
        match answer.get("error") {
            Some(error) => Err(ApiError::deserialize(error).unwrap_or_default()),
            None => Ok(answer),
        }
    }

    pub async fn subscribe(&self, subject: &str) -> Result<Notes, BusError> {
        let subscriber = self.client.subscribe(subject.to_owned()).await;
        Ok(Notes(subscriber.map_err(|e| failed(format_args!("cannot subscribe to {subject}"), e))?))
    }

    /// Asks everybody and collects what comes until nothing has come for `quiet`.
    pub async fn ask_all(&self, subject: &str, quiet: Duration) -> Result<Vec<Note>, BusError> {
        let inbox = self.client.new_inbox();
        let mut answers = self.subscribe(&inbox).await?;
        let asked = self.client.publish_with_reply(subject.to_owned(), inbox, Bytes::new()).await;
        asked.map_err(|e| failed("cannot publish", e))?;
        let mut notes = Vec::new();
        while let Ok(Some(note)) = tokio::time::timeout(quiet, answers.next()).await {
            notes.push(note);
        }
        Ok(notes)
    }

    /// Waits until all that was handed over has reached the server.
    pub async fn flush(&self) {
        if let Err(e) = self.client.flush().await {
            tracing::warn!(error = %e, "flush");
        }
    }
}

/// Bytes of a message on the wire, payload and headers, as the server counts them against `max_payload`.
pub fn size(envelope: &Envelope) -> usize {
    let headers: usize = envelope.headers.iter().map(|h| h.name.len() + h.value.len() + 4).sum();
    envelope.payload.len() + headers + 12
}

/// A plain subscription.
pub struct Notes(Subscriber);

impl Notes {
    pub async fn next(&mut self) -> Option<Note> {
        let message = self.0.next().await.filter(|m| m.status != Some(async_nats::StatusCode::NO_RESPONDERS))?;
        Some(Note {
            headers: headers(&message).map(|(n, v)| (n.to_owned(), v.to_owned())).collect(),
            subject: message.subject.into_string(),
            reply: message.reply.map(async_nats::Subject::into_string),
            payload: message.payload,
        })
    }
}

/// An error of the JetStream API.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct ApiError {
    pub code: u16,
    #[serde(default)]
    pub err_code: u64,
    #[serde(default)]
    pub description: String,
}

impl ApiError {
    pub fn is_not_found(&self) -> bool {
        self.code == 404
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}/{})", self.description, self.code, self.err_code)
    }
}

impl std::error::Error for ApiError {}

/// Publish acks of the whole process: one wildcard inbox, one map from the last token to who is waiting.
struct Acks {
    inbox: String,
    next: AtomicU64,
    waiting: Mutex<HashMap<u64, oneshot::Sender<Result<PubAck, PublishError>>>>,
}

impl Acks {
    async fn listen(client: &Client) -> Result<Arc<Self>, BusError> {
        let inbox = client.new_inbox();
        let mut answers =
            client.subscribe(format!("{inbox}.*")).await.map_err(|e| failed("cannot subscribe to the ack inbox", e))?;
        let acks = Arc::new(Self { inbox, next: AtomicU64::new(0), waiting: Mutex::default() });
        let weak = Arc::downgrade(&acks);
        tokio::spawn(async move {
            while let Some(message) = answers.next().await {
                let Some(acks) = weak.upgrade() else { break };
                let token = message.subject.rsplit('.').next().and_then(|t| t.parse().ok());
                if let Some(waiting) = token.and_then(|token| acks.lock().remove(&token)) {
                    let _ = waiting.send(publish_answer(&message));
                }
            }
        });
        Ok(acks)
    }

    fn expect(self: &Arc<Self>) -> Waiting {
        let token = self.next.fetch_add(1, Ordering::Relaxed);
        let (answer, answered) = oneshot::channel();
        self.lock().insert(token, answer);
        Waiting { inbox: format!("{}.{token}", self.inbox), token, answered, acks: self.clone() }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<u64, oneshot::Sender<Result<PubAck, PublishError>>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One awaited publish ack; gives its place back when dropped.
struct Waiting {
    inbox: String,
    token: u64,
    answered: oneshot::Receiver<Result<PubAck, PublishError>>,
    acks: Arc<Acks>,
}

impl Future for Waiting {
    type Output = Result<PubAck, PublishError>;

    fn poll(mut self: std::pin::Pin<&mut Self>, cx: &mut std::task::Context<'_>) -> std::task::Poll<Self::Output> {
        let gone = || Err(PublishError::Unknown("the connection was closed".into()));
        std::pin::Pin::new(&mut self.answered).poll(cx).map(|answer| answer.unwrap_or_else(|_| gone()))
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.acks.lock().remove(&self.token);
    }
}

fn publish_answer(message: &Message) -> Result<PubAck, PublishError> {
    #[derive(Deserialize)]
    struct Refusal {
        error: ApiError,
    }
    if message.status == Some(async_nats::StatusCode::NO_RESPONDERS) {
        return Err(PublishError::NoStream(
            "no stream takes this subject (is JetStream up, was `oncue apply` run?)".into(),
        ));
    }
    if let Ok(Refusal { error }) = serde_json::from_slice(&message.payload) {
        let text = error.to_string();
        return Err(match error.err_code {
            // maximum messages, bytes, per subject; insufficient storage; stream offline
            10047 | 10077 | 10122 | 10023 => PublishError::Full(text),
            10054 => PublishError::TooLarge(text),
            _ if error.code == 503 => PublishError::Full(text),
            _ if error.description.contains("maximum") => PublishError::Full(text),
            _ => PublishError::Refused(text),
        });
    }
    let ack: PubAck = serde_json::from_slice(&message.payload)
        .map_err(|e| PublishError::Unknown(format!("unreadable publish ack: {e}")))?;
    // A duplicate without a sequence was staged once and never stored (old clusters): not an ack.
    if ack.sequence == 0 { Err(PublishError::Unknown("publish ack without a sequence".into())) } else { Ok(ack) }
}

/// Built by parsing, since the plain `insert` panics on what a header may not hold.
fn header_map(headers: &[Header]) -> Result<HeaderMap, String> {
    let mut map = HeaderMap::new();
    for Header { name, value } in headers {
        let name: HeaderName = name.parse().map_err(|_| format!("name {name:?}"))?;
        let value: HeaderValue = value.parse().map_err(|_| format!("value of {name}"))?;
        map.append(name, value); // a header may stand there twice
    }
    Ok(map)
}

fn headers(message: &Message) -> impl Iterator<Item = (&str, &str)> {
    let all = message.headers.iter().flat_map(HeaderMap::iter);
    all.flat_map(|(name, values)| values.iter().map(move |value| (name.as_ref(), value.as_str())))
}

fn check_version(version: &str) -> Result<(), BusError> {
    let mut parts = version.split(['.', '-']).map(|part| part.parse().unwrap_or(0));
    if (parts.next().unwrap_or(0), parts.next().unwrap_or(0)) < OLDEST {
        let (major, minor) = OLDEST;
        return Err(BusError(format!(
            "nats-server is {version}; Oncue needs {major}.{minor} or later (message schedules)"
        )));
    }
    Ok(())
}

/// For messages: a password must not reach a log.
pub fn without_password(url: &str) -> String {
    match (url.find("://"), url.rfind('@')) {
        (Some(scheme), Some(at)) if at > scheme => format!("{}***{}", &url[..scheme + 3], &url[at..]),
        _ => url.to_owned(),
    }
}
