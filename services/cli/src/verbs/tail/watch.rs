//! Watch on one stream: an ephemeral consumer without acknowledgements, and the task that reads from it.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use oncue_core::bus::Bus;
use oncue_core::bus::pull::{Capacity, Pull};
use oncue_proto::event::{self, Origin};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::exit::{self, Failure};

/// Silence after which the server removes the consumer, for a watch that was killed.
const INACTIVE_THRESHOLD: Duration = Duration::from_secs(30);
/// Messages asked for at a time.
/// Enough to hide the round trip; what is asked for and not read is lost with the consumer, and nobody misses it.
const PULL_CAPACITY: Capacity = Capacity::of(500);

/// Start of a watch within its stream.
#[derive(Debug, PartialEq, Eq)]
pub enum StartPoint {
    New,
    Start,
    /// RFC 3339.
    Time(String),
}

impl StartPoint {
    pub fn parse(text: &str) -> Result<Self, String> {
        match text {
            "new" => return Ok(Self::New),
            "start" | "all" => return Ok(Self::Start),
            _ => {}
        }
        if let Some(ms) = event::parse_time(text) {
            return Ok(Self::Time(event::format_time(ms)));
        }
        let ago = humantime::parse_duration(text).map_err(|_| {
            format!(
                "--from {text:?} is none of `new`, `start`, a duration like `10min`, a time like `2026-01-31T12:00:00Z`"
            )
        })?;
        let at = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default()
            .saturating_sub(ago);
        Ok(Self::Time(event::format_time(at.as_millis() as u64)))
    }

    /// Fields of the consumer configuration that say so.
    fn policy(&self) -> Value {
        match self {
            Self::New => json!({ "deliver_policy": "new" }),
            Self::Start => json!({ "deliver_policy": "all" }),
            Self::Time(time) => {
                json!({ "deliver_policy": "by_start_time", "opt_start_time": time })
            }
        }
    }
}

/// Message as it stands in its stream.
pub struct StreamMessage {
    pub subject: String,
    pub headers: Vec<(String, String)>,
    pub payload: Bytes,
    pub stream: String,
    /// Unix milliseconds.
    pub stream_created: u64,
    pub sequence: u64,
    /// Unix milliseconds.
    pub published: u64,
}

impl StreamMessage {
    pub fn origin(&self) -> Origin<'_> {
        Origin {
            stream: &self.stream,
            stream_created: self.stream_created,
            sequence: self.sequence,
            published: self.published,
            subject: &self.subject,
        }
    }
}

/// Running watch; [`close`](Self::close) ends it.
pub struct Watch {
    stream: String,
    consumer: String,
    task: JoinHandle<()>,
}

impl Watch {
    /// Makes the consumer and begins to read. In memory and with one copy: it is worth nothing after this.
    pub async fn start(
        bus: &Bus,
        stream: &str,
        filters: &[String],
        from: &StartPoint,
        messages: mpsc::Sender<StreamMessage>,
    ) -> Result<Self, Failure> {
        let stream_created = bus.stream_created(stream).await.map_err(|_| {
            Failure::new(exit::SILENT, format_args!("there is no stream {stream:?}"))
                .advise("`oncue apply` makes those of the configuration; `oncue tail` without a type shows every event")
        })?;
        let consumer = format!("oncue-tail-{}", event::new_id());
        let mut config = json!({
            "name": consumer,
            "ack_policy": "none",
            "replay_policy": "instant",
            "filter_subjects": filters,
            "inactive_threshold": INACTIVE_THRESHOLD.as_nanos() as u64,
            "num_replicas": 1,
            "mem_storage": true,
        });
        if let (Some(config), Value::Object(policy)) = (config.as_object_mut(), from.policy()) {
            config.extend(policy);
        }
        let body = json!({ "stream_name": stream, "config": config, "action": "create" });
        bus.api(&format!("CONSUMER.CREATE.{stream}.{consumer}"), &body)
            .await
            .map_err(Failure::failed)?;
        let pull = bus
            .pull_from(stream, stream_created, &consumer)
            .await
            .map_err(Failure::silent)?;
        let task = tokio::spawn(pass_on(pull, stream_created, messages));
        Ok(Self {
            stream: stream.to_owned(),
            consumer,
            task,
        })
    }

    /// Whether it has ended by itself, with its consumer or its stream.
    pub fn is_over(&self) -> bool {
        self.task.is_finished()
    }

    /// Removes the consumer. Should this fail, the server does so by itself after [`INACTIVE_THRESHOLD`].
    pub async fn close(self, bus: &Bus) {
        self.task.abort();
        let request = format!("CONSUMER.DELETE.{}.{}", self.stream, self.consumer);
        let _ = bus.api(&request, &Value::Null).await;
    }
}

/// Passes messages on until nobody takes them any more, or the consumer is gone and its stream with it.
async fn pass_on(mut pull: Pull, stream_created: u64, messages: mpsc::Sender<StreamMessage>) {
    while pull.ask(PULL_CAPACITY).await.is_ok() {
        let Ok(deliveries) = pull.next().await else {
            return;
        };
        for delivery in deliveries {
            let message = StreamMessage {
                subject: delivery.subject().to_owned(),
                headers: delivery
                    .headers()
                    .map(|(n, v)| (n.to_owned(), v.to_owned()))
                    .collect(),
                payload: delivery.payload().clone(),
                stream: delivery.info.stream.to_string(),
                stream_created,
                sequence: delivery.info.sequence,
                published: delivery.info.published,
            };
            if messages.send(message).await.is_err() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::StartPoint;

    #[test]
    fn beginnings_are_read() {
        assert_eq!(StartPoint::parse("new"), Ok(StartPoint::New));
        assert_eq!(StartPoint::parse("start"), Ok(StartPoint::Start));
        assert_eq!(
            StartPoint::parse("2026-01-31T12:00:00Z"),
            Ok(StartPoint::Time("2026-01-31T12:00:00.000Z".into()))
        );
        assert!(matches!(
            StartPoint::parse("10min"),
            Ok(StartPoint::Time(_))
        ));
        assert!(StartPoint::parse("yesterday").is_err());
    }
}
