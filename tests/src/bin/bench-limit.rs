//! The limit that `make bench` measures Oncue against: what NATS and Redis give to a loop written by hand, with their
//! own clients and with nothing it can do without. No stored outputs, no row versions, no traces, no dead letters, no
//! drain; an event is counted once, its follow-up published with an id and awaited, and then it is acked.
//!
//! `bench-limit batched` takes greedy batches of up to 250, one script call each, publish acks as the client's own
//! futures, two batches under way; `bench-limit inbox` collects publish acks on one inbox and acks each event as its
//! publish ack comes; `bench-limit events` is `batched` whose follow-ups are CloudEvents, with the headers that Oncue's
//! have; `bench-limit gateway` is HTTP in, one publish out. What to read and write stands in `LIMIT_*`.

use std::collections::HashMap;
use std::error::Error;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

use async_nats::jetstream::Context;
use async_nats::{Client, HeaderMap, HeaderValue, Message, StatusCode, Subject, Subscriber};
use axum::extract::{Path, State};
use axum::http::StatusCode as Http;
use axum::routing::post;
use axum::serve::ListenerExt as _;
use bytes::Bytes;
use futures_util::{FutureExt as _, StreamExt as _};
use redis::IntoConnectionInfo as _;
use redis::aio::MultiplexedConnection;
use redis::io::tcp::TcpSettings;
use serde::Deserialize;
use tokio::sync::Semaphore;

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// Events in one batch; more bring nothing.
const BATCH: usize = 250;
/// Batches under way: the next is read while the acks of the last one are awaited.
const OVERLAP: usize = 2;
/// Events asked for and not yet here.
const WINDOW: usize = 1000;

/// One call for a batch: an event seen before counts for nothing and answers 0, another with its page's new count.
const SCRIPT: &str = "local out = {} \
    for i = 2, #ARGV, 2 do \
      if redis.call('SET', ARGV[1] .. ':' .. ARGV[i], 1, 'NX', 'EX', 259200) then \
        out[#out + 1] = redis.call('HINCRBY', ARGV[1], ARGV[i + 1], 1) \
      else out[#out + 1] = 0 end \
    end return out";

#[derive(Deserialize)]
struct Click<'a> {
    #[serde(borrow)]
    page: std::borrow::Cow<'a, str>,
}

#[derive(Clone)]
struct Limit {
    client: Client,
    jetstream: Context,
    redis: MultiplexedConnection,
    script: String,
    /// Also the name of its hash and the prefix of its seen marks.
    consumer: String,
    /// Subject of what follows; empty for nothing.
    output: String,
    /// At which count of a page it follows.
    every: u64,
    /// Whether it is a CloudEvent.
    events: bool,
}

impl Limit {
    async fn connect() -> Result<Self> {
        let client = async_nats::connect(var("ONCUE_NATS_URL")?).await?;
        // Its client leaves Nagle's algorithm on: of two calls in a row the second would wait for up to 40 ms.
        let address = var("ONCUE_REDIS_URL")?.into_connection_info()?;
        let address = address.set_tcp_settings(TcpSettings::default().set_nodelay(true));
        let mut redis = redis::Client::open(address)?
            .get_multiplexed_async_connection()
            .await?;
        let script = redis::cmd("SCRIPT")
            .arg("LOAD")
            .arg(SCRIPT)
            .query_async(&mut redis)
            .await?;
        Ok(Self {
            jetstream: async_nats::jetstream::new(client.clone()),
            client,
            redis,
            script,
            consumer: var("LIMIT_CONSUMER")?,
            output: std::env::var("LIMIT_OUTPUT").unwrap_or_default(),
            every: var("LIMIT_EVERY")?.parse()?,
            events: false,
        })
    }

    /// Counts a batch; the answer holds the new count of each event's page, or 0.
    async fn count(&self, batch: &[Message]) -> Result<Vec<u64>> {
        let mut call = redis::cmd("EVALSHA");
        call.arg(&self.script).arg(0).arg(&self.consumer);
        for message in batch {
            let click: Click = serde_json::from_slice(&message.payload)?;
            call.arg(id(message)?).arg(&*click.page);
        }
        Ok(call.query_async(&mut self.redis.clone()).await?)
    }

    /// What follows from an event. One seen before may have come for its follow-up, which NATS will tell from a new one.
    fn follow_up(&self, message: &Message, count: u64) -> Result<Option<(HeaderMap, Bytes)>> {
        if self.output.is_empty() || !count.is_multiple_of(self.every) {
            return Ok(None);
        }
        let click: Click = serde_json::from_slice(&message.payload)?;
        let (mut headers, cause) = (HeaderMap::new(), id(message)?);
        let id = format!("{cause}.1");
        if self.events {
            let kept = |name| {
                message
                    .headers
                    .as_ref()
                    .and_then(|all| all.get(name))
                    .map_or("", HeaderValue::as_str)
            };
            for (name, value) in [
                ("ce-specversion", "1.0"),
                ("ce-id", &id),
                ("ce-source", "/limit"),
                ("ce-type", &self.output),
                ("ce-time", kept("ce-time")),
                ("ce-subject", &click.page),
                ("ce-partitionkey", &click.page),
                ("ce-datacontenttype", "application/json"),
                ("ce-flowid", kept("ce-flowid")),
                ("ce-causationid", cause),
                ("ce-hopcount", "1"),
            ] {
                headers.insert(name, value);
            }
        }
        headers.insert("Nats-Msg-Id", id);
        let payload = serde_json::json!({ "page": click.page, "views": count }).to_string();
        Ok(Some((headers, payload.into())))
    }

    async fn ack(&self, reply: &Subject) -> Result<()> {
        Ok(self
            .client
            .publish(reply.clone(), Bytes::from_static(b"+ACK"))
            .await?)
    }

    /// The life of a batch where the client's futures stand for publish acks.
    async fn batched(&self, batch: Vec<Message>) -> Result<()> {
        let counts = self.count(&batch).await?;
        let mut acks = Vec::with_capacity(batch.len());
        for (message, count) in batch.iter().zip(counts) {
            if let Some((headers, payload)) = self.follow_up(message, count)? {
                acks.push(
                    self.jetstream
                        .publish_with_headers(self.output.clone(), headers, payload)
                        .await?,
                );
            }
        }
        for ack in acks {
            ack.await?;
        }
        for message in &batch {
            self.ack(reply(message)?).await?;
        }
        Ok(())
    }

    /// The same where they come to one inbox: nothing waits here for anything but Redis.
    async fn posted(&self, batch: Vec<Message>, waiting: &Waiting) -> Result<()> {
        let counts = self.count(&batch).await?;
        for (message, count) in batch.iter().zip(counts) {
            match self.follow_up(message, count)? {
                Some((headers, payload)) => {
                    let inbox = waiting.expect(reply(message)?.clone());
                    self.client
                        .publish_with_reply_and_headers(
                            self.output.clone(),
                            inbox,
                            headers,
                            payload,
                        )
                        .await?;
                }
                None => self.ack(reply(message)?).await?,
            }
        }
        Ok(())
    }
}

/// Acks to send, by the token of the publish ack they wait for.
struct Waiting {
    inbox: String,
    acks: Mutex<(u64, HashMap<u64, Subject>)>,
}

impl Waiting {
    fn expect(&self, ack: Subject) -> String {
        let mut acks = self.acks.lock().unwrap_or_else(PoisonError::into_inner);
        acks.0 += 1;
        let token = acks.0;
        acks.1.insert(token, ack);
        format!("{}.{token}", self.inbox)
    }

    fn take(&self, message: &Message) -> Result<Subject> {
        if !message.payload.starts_with(b"{\"stream\"") {
            return Err(format!(
                "not published: {}",
                String::from_utf8_lossy(&message.payload)
            )
            .into());
        }
        let token = message
            .subject
            .rsplit('.')
            .next()
            .ok_or("no token")?
            .parse()?;
        let mut acks = self.acks.lock().unwrap_or_else(PoisonError::into_inner);
        acks.1
            .remove(&token)
            .ok_or_else(|| "an ack for nothing".into())
    }
}

/// A running pull: what has come is taken at once, and asked for again when half is here.
struct Pull {
    client: Client,
    request: String,
    inbox: String,
    messages: Subscriber,
    outstanding: usize,
}

impl Pull {
    async fn start(client: &Client) -> Result<Self> {
        let inbox = client.new_inbox();
        let messages = client.subscribe(inbox.clone()).await?;
        let request = format!(
            "$JS.API.CONSUMER.MSG.NEXT.{}.{}",
            var("LIMIT_STREAM")?,
            var("LIMIT_CONSUMER")?
        );
        Ok(Self {
            client: client.clone(),
            request,
            inbox,
            messages,
            outstanding: 0,
        })
    }

    async fn next(&mut self) -> Result<Vec<Message>> {
        let mut batch = Vec::with_capacity(BATCH);
        while batch.is_empty() {
            if self.outstanding <= WINDOW / 2 {
                let body = format!(
                    "{{\"batch\":{},\"expires\":30000000000}}",
                    WINDOW - self.outstanding
                );
                self.client
                    .publish_with_reply(self.request.clone(), self.inbox.clone(), body.into())
                    .await?;
                self.outstanding = WINDOW;
            }
            let mut message = self.messages.next().await;
            while let Some(next) = message {
                match next.status {
                    None => {
                        self.outstanding = self.outstanding.saturating_sub(1);
                        batch.push(next);
                    }
                    Some(StatusCode::NO_RESPONDERS) => {
                        return Err("there is no such consumer".into());
                    }
                    // A request has ended with less than it asked for.
                    Some(_) => self.outstanding = 0,
                }
                message = if batch.len() < BATCH {
                    self.messages.next().now_or_never().flatten()
                } else {
                    None
                };
            }
        }
        Ok(batch)
    }
}

async fn run(limit: Limit, waiting: Option<Arc<Waiting>>) -> Result<()> {
    let mut pull = Pull::start(&limit.client).await?;
    let turns = Arc::new(Semaphore::new(OVERLAP));
    eprintln!("{{\"message\":\"ready\"}}");
    loop {
        let turn = turns.clone().acquire_owned().await?;
        let batch = pull.next().await?;
        let (limit, waiting) = (limit.clone(), waiting.clone());
        tokio::spawn(async move {
            let done = match waiting {
                Some(waiting) => limit.posted(batch, &waiting).await,
                None => limit.batched(batch).await,
            };
            drop(turn);
            done.unwrap_or_else(|e| give_up(&*e));
        });
    }
}

async fn inbox(limit: Limit) -> Result<()> {
    let inbox = limit.client.new_inbox();
    let mut answers = limit.client.subscribe(format!("{inbox}.*")).await?;
    let waiting = Arc::new(Waiting {
        inbox,
        acks: Mutex::default(),
    });
    let (acker, table) = (limit.clone(), waiting.clone());
    tokio::spawn(async move {
        while let Some(answer) = answers.next().await {
            let acked = match table.take(&answer) {
                Ok(reply) => acker.ack(&reply).await,
                Err(e) => Err(e),
            };
            acked.unwrap_or_else(|e| give_up(&*e));
        }
    });
    run(limit, Some(waiting)).await
}

/// HTTP in, one publish out, its ack awaited.
async fn gateway() -> Result<()> {
    let jetstream = async_nats::jetstream::new(async_nats::connect(var("ONCUE_NATS_URL")?).await?);
    let app = axum::Router::new()
        .route("/v1/events/{subject}", post(take))
        .with_state(jetstream);
    let listener = tokio::net::TcpListener::bind(var("LIMIT_LISTEN")?).await?;
    let listener = listener.tap_io(|socket| drop(socket.set_nodelay(true)));
    eprintln!("{{\"message\":\"ready\"}}");
    Ok(axum::serve(listener, app).await?)
}

async fn take(
    State(jetstream): State<Context>,
    Path(subject): Path<String>,
    request: axum::http::HeaderMap,
    body: Bytes,
) -> Http {
    let mut headers = HeaderMap::new();
    let Some(id) = request.get("ce-id").and_then(|id| id.to_str().ok()) else {
        return Http::BAD_REQUEST;
    };
    headers.insert("Nats-Msg-Id", id);
    let Ok(ack) = jetstream.publish_with_headers(subject, headers, body).await else {
        return Http::SERVICE_UNAVAILABLE;
    };
    if ack.await.is_ok() {
        Http::ACCEPTED
    } else {
        Http::SERVICE_UNAVAILABLE
    }
}

fn id(message: &Message) -> Result<&str> {
    let headers = message.headers.as_ref().ok_or("an event without headers")?;
    Ok(headers
        .get("Nats-Msg-Id")
        .ok_or("an event without id")?
        .as_str())
}

fn reply(message: &Message) -> Result<&Subject> {
    message
        .reply
        .as_ref()
        .ok_or_else(|| "an event that cannot be acked".into())
}

fn var(name: &str) -> Result<String> {
    std::env::var(name).map_err(|_| format!("{name} is not set").into())
}

fn give_up(e: &(dyn Error + Send + Sync)) -> ! {
    eprintln!("{e}");
    std::process::exit(1);
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let done = match std::env::args().nth(1).as_deref() {
        Some("batched") => async { run(Limit::connect().await?, None).await }.await,
        Some("events") => {
            async {
                run(
                    Limit {
                        events: true,
                        ..Limit::connect().await?
                    },
                    None,
                )
                .await
            }
            .await
        }
        Some("inbox") => async { inbox(Limit::connect().await?).await }.await,
        Some("gateway") => gateway().await,
        _ => Err("usage: bench-limit batched | inbox | events | gateway".into()),
    };
    done.unwrap_or_else(|e| give_up(&*e));
    ExitCode::SUCCESS
}
