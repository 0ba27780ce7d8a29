//! NATS JetStream: events between functions, dead letters, schedules, files. This folder is all that names the NATS
//! client.
//!
//! # Streams
//!
//! | stream | subjects | holds | full |
//! |---|---|---|---|
//! | `DOMAIN`, one for each first token of an event type | `DOMAIN.>` | events of that domain, kept for the replay window behind the slowest consumer ([`purge()`]) | refuses |
//! | `dlq` ([`layout::DLQ`]) | `dlq.APP.FUNCTION` | dead letters, until they are redriven or dropped | refuses |
//! | `timer` ([`layout::TIMER`]) | `timer.>` | schedules (`timer.schedule.APP.NAME`, and `timer.delayed.APP.FUNCTION.TYPE.ID` for each delayed event), and events that are due (`timer.due.TYPE`) until their own stream has taken them | never, it has no limit |
//! | `KV_oncue` ([`layout::VALUES`]) | `$KV.oncue.>` | what apps keep besides events, such as the [`secret`](crate::secret) | refuses |
//! | `OBJ_APP_files` ([`AppName::bucket`]) | `$O.APP_files.C.>`, `$O.APP_files.M.>` | files in chunks, and their descriptions [ADR-20] | refuses |
//!
//! # Subjects
//!
//! | subject | carries |
//! |---|---|
//! | `DOMAIN.NOUN.VERB` | an event of that type; the form in which streams hold all events |
//! | `DOMAIN.NOUN.VERB.KEY` | the same event as it is published, with its key (or the key's hash) for plain subscribers |
//! | `DOMAIN.redrive.FUNCTION` | a dead letter that is given to one function once more |
//! | `$SRV.PING`, `$SRV.INFO`, `$SRV.STATS` and below | questions to workers ([`services`]) |
//! | `_INBOX.>` | publish acks of a process, messages that a [`pull`] asked for, answers to requests |
//!
//! An event is CloudEvents 1.0 in binary mode: attributes in headers `ce-*`, the payload as protobuf or JSON
//! ([`oncue_proto::event`]).
//!
//! # Consumers
//!
//! Each function has one durable pull consumer, named after it and the app ([`AppName::consumer`]), on the stream of its domain, which all its workers
//! share ([`layout::consumer`]). It filters the types that the function acts on, asks for an explicit ack of each
//! event, and delivers for ever: attempts are counted in Redis, and the worker gives up, not the server.
//!
//! # Differences from the client's own JetStream layer
//!
//! The client waits for each publish ack with a subscription, a timer and a permit of its own. Here all acks of a
//! process come to one inbox, pulls are asked for by the free slot ([`pull`]), and streams and consumers are compared
//! as the JSON the server speaks ([`layout`]), so that a difference can be printed as such. Answers that are read
//! field by field are structs in [`info`] and [`services`].

mod batch;
mod credentials;
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
mod snapshot;
mod url;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_nats::{Client, Event, HeaderMap, Message, Subscriber};
use bytes::Bytes;
use futures_util::StreamExt;
use serde::Deserialize;
use serde_json::Value;
use tokio::sync::{Semaphore, watch};

pub use self::headers::Headers;
use self::publish::Acks;
pub use self::publish::{Outbound, size};
pub use self::purge::{purge, purgeable, purgeable_early};
pub use self::read::{ReadBatch, Slice, StoredMessage};
pub use self::snapshot::StreamSnapshot;
use crate::app::AppName;
use crate::config::NatsServer;

/// Major and minor version of the oldest server that has message schedules with cron, atomic batches and per-message
/// TTL.
const OLDEST: (u64, u64) = (2, 14);
/// Longest wait of a process that stops for its last messages to go out.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);
/// Longest wait for the first connection to be announced.
const ANNOUNCE_TIMEOUT: Duration = Duration::from_secs(1);
/// Pause between two pings of an idle connection.
const PING_EVERY: Duration = Duration::from_secs(10);
/// Longest wait for the answer to a request.
const API_TIMEOUT: Duration = Duration::from_secs(10);

/// Connection to NATS. Cheap to clone; reconnects for ever.
#[derive(Clone)]
pub struct Bus {
    client: Client,
    /// Publish acks of all clones.
    acks: Arc<Acks>,
    /// Number of connections so far: a change means that the server has forgotten our pull requests.
    connections: watch::Receiver<u64>,
    /// Whether the server may add spans of its own to the traces of what is published.
    broker_spans: bool,
    /// App whose functions are meant by their names.
    app: AppName,
    shared: Arc<Shared>,
}

/// Parts that never change. Apart, since a bus is cloned for each event.
struct Shared {
    /// Batches of chunks that may be on their way here at once.
    reads: Arc<Semaphore>,
    /// Beginning of the subjects of JetStream's API.
    api_prefix: String,
    /// Whether this process has shown no credentials.
    is_anonymous: bool,
}

/// Words for a process that is locked out.
const LOCKED_OUT: &str = "this NATS is locked, and there are no credentials for it: name some in [nats] credentials, or work in the \
                          folder of the app whose `oncue up` has started it";
/// Time for an answer to whoever may be locked out: a right that is missing brings silence.
const LOCKED_OUT_AFTER: Duration = Duration::from_secs(2);

/// Publish ack: the stream has stored the message.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct PubAck {
    /// Stream that took it.
    pub stream: String,
    /// Sequence in the stream; for a duplicate that of the first copy.
    #[serde(rename = "seq")]
    pub sequence: u64,
    /// Whether the stream had taken a message of this id before, inside its duplicate window.
    #[serde(default)]
    pub duplicate: bool,
}

/// Reason for which a message was not taken, with words for people. In every case it may safely be published again
/// under the same id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// Larger than the server or the stream accepts; it will never fit.
    #[error("{0}")]
    TooLarge(String),
    /// No stream holds this subject.
    #[error("{0}")]
    NoStream(String),
    /// The stream is at its limit: back-pressure, not loss.
    #[error("{0}")]
    Full(String),
    /// Not taken now, for another reason than a full stream: a limit of the account or the server, or one on a subject, or a
    /// server that is just starting. The words say which.
    #[error("{0}")]
    Unable(String),
    /// Not taken, since the last message of its subject is another one than its publisher has read.
    #[error("{0}")]
    Outdated(String),
    /// No answer; it may or may not have been taken.
    #[error("{0}")]
    Unknown(String),
    /// Anything else that the server or its client objects to.
    #[error("{0}")]
    Refused(String),
}

/// Any other failure between us and the server, in words for people.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub struct BusError(pub String);

/// Error of `what`, for the reason `e`.
fn failed(what: impl fmt::Display, e: impl fmt::Display) -> BusError {
    BusError(format!("{what}: {e}"))
}

/// Message from a plain subscription: nobody keeps it, nobody acks it.
#[derive(Debug, Clone)]
pub struct PlainMessage {
    /// Subject it was published to.
    pub subject: String,
    /// Subject to answer to, where an answer is wanted.
    pub reply: Option<String>,
    /// Names and values; a name may stand there twice.
    pub headers: Vec<(String, String)>,
    /// Payload as it was published.
    pub payload: Bytes,
}

impl Bus {
    /// Connects and checks the server's version. `url` may list the servers of a cluster, separated by commas; `name`
    /// is shown by the server's monitoring. Fails where no server can be reached, or the one that is reached is too
    /// old.
    pub async fn connect(server: impl Into<NatsServer>, name: &str) -> Result<Self, BusError> {
        let server = server.into();
        let url = &server.url;
        let (connected, mut connections) = watch::channel(0);
        let servers = url::servers(url)?;
        let before = connections.clone();
        let options = url::options(&server, &servers)?
            .name(name)
            .ping_interval(PING_EVERY)
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
            });
        // Large, and many wait for it inside larger ones.
        let client = Box::pin(options.connect(servers))
            .await
            .map_err(|e| failed(format_args!("cannot reach NATS at {url}"), e))?;
        check_version(&client.server_info().version)?;
        // The first connection is announced late; taken for a reconnect it would drop pulls that are under way.
        let _ = tokio::time::timeout(ANNOUNCE_TIMEOUT, connections.wait_for(|n| *n > 0)).await;
        let acks = Acks::listen(&client).await?;
        Ok(Self {
            client,
            acks,
            connections,
            broker_spans: false,
            app: AppName::default(),
            shared: Arc::new(Shared {
                reads: Arc::new(Semaphore::new(objects::READS)),
                is_anonymous: server.credentials.is_none() && server.url == server.url.anonymous(),
                api_prefix: server.api_prefix,
            }),
        })
    }

    /// Means the functions of this app from now on, in place of the default one's.
    #[must_use]
    pub fn of_app(self, app: &AppName) -> Self {
        Self {
            app: app.clone(),
            ..self
        }
    }

    /// App whose functions are meant by their names.
    pub fn app(&self) -> &AppName {
        &self.app
    }

    /// Lets the server add spans of its own to the traces of what is published [NATS ADR-41]. Default: it must not.
    #[must_use]
    pub fn with_broker_spans(self, broker_spans: bool) -> Self {
        Self {
            broker_spans,
            ..self
        }
    }

    /// Subject of a request to the JetStream API.
    fn api_subject(&self, request: impl fmt::Display) -> String {
        format!("{}.{request}", self.shared.api_prefix)
    }

    /// Version of the server that we are connected to.
    pub fn server_version(&self) -> String {
        self.client.server_info().version
    }

    /// Identity of the server process that we are connected to; another one after each start.
    pub fn server_id(&self) -> String {
        self.client.server_info().server_id
    }

    /// Largest payload with headers, in bytes.
    pub fn max_payload(&self) -> usize {
        self.client.max_payload()
    }

    /// Whether there is a connection just now.
    pub fn is_connected(&self) -> bool {
        self.client.connection_state() == async_nats::connection::State::Connected
    }

    /// Publishes without waiting for an ack: answers, and messages that nobody may be listening to.
    pub async fn publish_plain(&self, subject: String, payload: Bytes) -> Result<(), BusError> {
        self.client
            .publish(subject, payload)
            .await
            .map_err(|e| failed("cannot publish", e))
    }

    /// One request to the JetStream API, `$JS.API.SUBJECT` or as the account calls it, with a body or `null`. Fails with the server's own error,
    /// with [`ApiError::LOCKED_OUT`] where that is for want of credentials, with 503 where it does not answer in 10 s, with 500 where its answer is no JSON.
    pub async fn api(&self, subject: &str, body: &Value) -> Result<Value, ApiError> {
        let payload = if body.is_null() {
            Bytes::new()
        } else {
            body.to_string().into()
        };
        let request = self.client.request(self.api_subject(subject), payload);
        let answer = if self.may_be_locked_out() {
            let answered = tokio::time::timeout(LOCKED_OUT_AFTER, request).await;
            answered.map_err(|_| ApiError {
                code: ApiError::LOCKED_OUT,
                err_code: 0,
                description: LOCKED_OUT.to_owned(),
            })?
        } else {
            request.await
        };
        let answer = answer.map_err(|e| ApiError {
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

    /// Account and rights of this connection, as the server has them.
    pub async fn user_info(&self) -> Result<info::UserInfo, BusError> {
        let asked = self.client.request(info::USER_INFO, Bytes::new());
        let answer = tokio::time::timeout(LOCKED_OUT_AFTER, asked).await;
        let answer = answer.map_err(|_| failed("no answer", info::USER_INFO))?;
        let answer = answer.map_err(|e| failed("no answer", e))?;
        let mut answer: Value =
            serde_json::from_slice(&answer.payload).map_err(|e| failed("unreadable answer", e))?;
        info::UserInfo::deserialize(answer["data"].take())
            .map_err(|e| failed("unreadable answer", e))
    }

    /// Whether the server knows keys and this process has shown none: it may publish what is public then, and nobody answers it,
    /// unless the server gives everybody more.
    fn may_be_locked_out(&self) -> bool {
        self.shared.is_anonymous && !self.client.server_info().nonce.is_empty()
    }

    /// Subscribes to a subject, which may hold wildcards.
    pub async fn subscribe(&self, subject: &str) -> Result<Subscription, BusError> {
        let subscriber = self.client.subscribe(subject.to_owned()).await;
        Ok(Subscription(subscriber.map_err(|e| {
            failed(format_args!("cannot subscribe to {subject}"), e)
        })?))
    }

    /// Asks everybody who listens on `subject`, and collects answers until none has come for `gap`.
    pub async fn ask_all(
        &self,
        subject: &str,
        gap: Duration,
    ) -> Result<Vec<PlainMessage>, BusError> {
        let mut answers = self.question(subject, Bytes::new()).await?;
        let mut collected = Vec::new();
        while let Ok(Some(answer)) = tokio::time::timeout(gap, answers.next()).await {
            collected.push(answer);
        }
        Ok(collected)
    }

    /// Asks, and returns what answers come.
    pub async fn question(&self, subject: &str, payload: Bytes) -> Result<Subscription, BusError> {
        let inbox = self.client.new_inbox();
        let answers = self.subscribe(&inbox).await?;
        let asked = self
            .client
            .publish_with_reply(subject.to_owned(), inbox, payload)
            .await;
        asked.map_err(|e| failed("cannot publish", e))?;
        Ok(answers)
    }

    /// Waits until all messages handed over are on their way to the server, for at most 2 s.
    pub async fn flush(&self) {
        match tokio::time::timeout(FLUSH_TIMEOUT, self.client.flush()).await {
            Ok(Ok(())) => {}
            Ok(Err(e)) => tracing::warn!(error = %e, "what was sent last may not have arrived"),
            Err(_) => tracing::warn!("NATS is away; what was sent last may not have arrived"),
        }
    }
}

/// Plain subscription; ends when it is dropped.
pub struct Subscription(Subscriber);

impl Subscription {
    /// Next message; `None` when the connection is closed for good, or nobody listens to what was asked.
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

/// Error of the JetStream API.
#[derive(Debug, Clone, Default, Deserialize, thiserror::Error)]
#[error("{description} ({code}/{err_code})")]
pub struct ApiError {
    /// Class, as of HTTP: 404 not there, 503 not now.
    pub code: u16,
    /// Error itself; those that are told apart have names in [`info::code`].
    #[serde(default)]
    pub err_code: u64,
    /// Words of the server.
    #[serde(default)]
    pub description: String,
}

impl ApiError {
    /// Class of a request that nobody answers to whoever has no credentials.
    pub const LOCKED_OUT: u16 = 401;

    /// Whether the thing asked for is not there.
    pub fn is_not_found(&self) -> bool {
        self.code == 404
    }
}

/// Names and values of a message's headers.
fn headers(message: &Message) -> impl Iterator<Item = (&str, &str)> {
    let all = message.headers.iter().flat_map(HeaderMap::iter);
    all.flat_map(|(name, values)| {
        values
            .iter()
            .map(move |value| (name.as_ref(), value.as_str()))
    })
}

/// Refuses a server that is too old.
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
