//! NATS, and the only place that names its client.
//!
//! The client's own JetStream layer waits for each publish ack with a subscription, a timer and a permit of its own.
//! Here all acks of a process come to one inbox, pulls are asked for by the free slot ([`pull`]), and streams and
//! consumers are compared as the JSON the server speaks ([`layout`]), so that a difference can be printed as such.

mod batch;
pub mod info;
pub mod services;
mod headers;
pub mod wake;
pub mod layout;
pub mod objects;
mod publish;
pub mod pull;
mod purge;
mod read;
mod url;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_nats::{Client, Event, HeaderMap, Message, Subscriber};
use bytes::Bytes;
use futures::StreamExt;
use serde::Deserialize;
use serde_json::Value;
use tokio::sync::watch;

pub use self::headers::Headers;
use self::publish::Acks;
pub use self::publish::{Outbound, size};
pub use self::purge::purge;
pub use self::read::{Slice, StoredMessage};
use crate::config::ServerUrl;

/// The oldest server that has message schedules with cron, atomic batches and per-message TTL.
const OLDEST: (u64, u64) = (2, 14);
/// Whoever stops does not wait for long.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);
const API_TIMEOUT: Duration = Duration::from_secs(10);

/// A connection to NATS. Cheap to clone; reconnects for ever.
#[derive(Clone)]
pub struct Bus {
    client: Client,
    acks: Arc<Acks>,
    /// Counts connections: a change means that the server has forgotten our pull requests.
    connections: watch::Receiver<u64>,
    /// Whether the server may add spans of its own to the traces of what is published.
    broker_spans: bool,
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
            Self::TooLarge(why)
            | Self::NoStream(why)
            | Self::Full(why)
            | Self::Unknown(why)
            | Self::Refused(why) => f.write_str(why),
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
pub struct PlainMessage {
    pub subject: String,
    pub reply: Option<String>,
    pub headers: Vec<(String, String)>,
    pub payload: Bytes,
}

impl Bus {
    /// Connects and checks the server's version. `url` may list the servers of a cluster, separated by commas; `name` is
    /// what the server's monitoring shows.
    pub async fn connect(url: impl Into<ServerUrl>, name: &str) -> Result<Self, BusError> {
        let url = url.into();
        let (connected, mut connections) = watch::channel(0);
        let (servers, before) = (url::servers(&url)?, connections.clone());
        let client = url::options(&servers)
            .name(name)
            .ping_interval(Duration::from_secs(10))
            .reconnect_delay_callback(move |attempts| {
                url::connect_delay(attempts, *before.borrow() > 0)
            })
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
            .connect(servers)
            .await
            .map_err(|e| failed(format_args!("cannot reach NATS at {url}"), e))?;
        check_version(&client.server_info().version)?;
        // The first connection is announced late; taken for a reconnect it would drop pulls that are under way.
        let _ =
            tokio::time::timeout(Duration::from_secs(1), connections.wait_for(|n| *n > 0)).await;
        let acks = Acks::listen(&client).await?;
        Ok(Self {
            client,
            acks,
            connections,
            broker_spans: false,
        })
    }

    /// Lets the server add spans of its own to the traces of what is published [NATS ADR-41]. Default: it must not.
    #[must_use]
    pub fn with_broker_spans(self, broker_spans: bool) -> Self {
        Self {
            broker_spans,
            ..self
        }
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

    /// Publishes without waiting for anybody: answers, and messages nobody may be listening to.
    pub async fn publish_plain(&self, subject: String, payload: Bytes) -> Result<(), BusError> {
        self.client
            .publish(subject, payload)
            .await
            .map_err(|e| failed("cannot publish", e))
    }

    /// One request to the JetStream API; its error comes back as such.
    pub async fn api(&self, subject: &str, body: &Value) -> Result<Value, ApiError> {
        let payload = if body.is_null() {
            Bytes::new()
        } else {
            body.to_string().into()
        };
        let answer = self
            .client
            .request(format!("$JS.API.{subject}"), payload)
            .await
            .map_err(|e| ApiError {
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

    pub async fn subscribe(&self, subject: &str) -> Result<Subscription, BusError> {
        let subscriber = self.client.subscribe(subject.to_owned()).await;
        Ok(Subscription(subscriber.map_err(|e| {
            failed(format_args!("cannot subscribe to {subject}"), e)
        })?))
    }

    /// Asks everybody and collects what comes until nothing has come for `quiet`.
    pub async fn ask_all(
        &self,
        subject: &str,
        quiet: Duration,
    ) -> Result<Vec<PlainMessage>, BusError> {
        let inbox = self.client.new_inbox();
        let mut answers = self.subscribe(&inbox).await?;
        let asked = self
            .client
            .publish_with_reply(subject.to_owned(), inbox, Bytes::new())
            .await;
        asked.map_err(|e| failed("cannot publish", e))?;
        let mut notes = Vec::new();
        while let Ok(Some(note)) = tokio::time::timeout(quiet, answers.next()).await {
            notes.push(note);
        }
        Ok(notes)
    }

    /// Waits until all that was handed over is on its way to the server, if it is there.
    pub async fn flush(&self) {
        match tokio::time::timeout(FLUSH_TIMEOUT, self.client.flush()).await {
            Ok(Ok(())) => {}
            Ok(Err(e)) => tracing::warn!(error = %e, "what was sent last may not have arrived"),
            Err(_) => tracing::warn!("NATS is away; what was sent last may not have arrived"),
        }
    }
}

/// A plain subscription.
pub struct Subscription(Subscriber);

impl Subscription {
    pub async fn next(&mut self) -> Option<PlainMessage> {
        let message = self
            .0
            .next()
            .await
            .filter(|m| m.status != Some(async_nats::StatusCode::NO_RESPONDERS))?;
        Some(PlainMessage {
            headers: headers(&message)
                .map(|(n, v)| (n.to_owned(), v.to_owned()))
                .collect(),
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

fn headers(message: &Message) -> impl Iterator<Item = (&str, &str)> {
    let all = message.headers.iter().flat_map(HeaderMap::iter);
    all.flat_map(|(name, values)| {
        values
            .iter()
            .map(move |value| (name.as_ref(), value.as_str()))
    })
}

fn check_version(version: &str) -> Result<(), BusError> {
    let mut parts = version
        .split(['.', '-'])
        .map(|part| part.parse().unwrap_or(0));
    if (parts.next().unwrap_or(0), parts.next().unwrap_or(0)) < OLDEST {
        let (major, minor) = OLDEST;
        return Err(BusError(format!(
            "nats-server is {version}; Oncue needs {major}.{minor} or later (message schedules)"
        )));
    }
    Ok(())
}
