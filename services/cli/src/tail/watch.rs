//! One stream being watched.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use oncue_core::bus::Bus;
use oncue_core::bus::pull::{Capacity, Pull};
use oncue_proto::event::{self, Origin};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::exit::{self, Failure};

/// The server removes the consumer of a watch that was killed after this much silence.
const INACTIVE: Duration = Duration::from_secs(30);
const ROOM: Capacity = Capacity::of(500);

/// Where a watch begins.
#[derive(Debug, PartialEq, Eq)]
pub enum Begin {
    New,
    Start,
    /// RFC 3339.
    Time(String),
}

impl Begin {
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

/// A message as it stands in its stream.
pub struct Seen {
    pub subject: String,
    pub headers: Vec<(String, String)>,
    pub payload: Bytes,
    pub stream: String,
    pub stream_created: u64,
    pub sequence: u64,
    pub published: u64,
}

impl Seen {
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

pub struct Watch {
    stream: String,
    consumer: String,
    task: JoinHandle<()>,
}

impl Watch {
    pub async fn start(
        bus: &Bus,
        stream: &str,
        filters: &[String],
        from: &Begin,
        found: mpsc::Sender<Seen>,
    ) -> Result<Self, Failure> {
        let missing = |_| {
            Failure::new(exit::SILENT, format_args!("there is no stream {stream:?}"))
                .advise("`oncue apply` makes those of the configuration; `oncue tail` without a type shows every event")
        };
        let stream_created = bus.stream_created(stream).await.map_err(missing)?;
        let consumer = format!("oncue-tail-{}", event::new_id());
        let mut config = json!({
            "name": consumer,
            "ack_policy": "none",
            "replay_policy": "instant",
            "filter_subjects": filters,
            "inactive_threshold": INACTIVE.as_nanos() as u64,
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
            .pull(stream, stream_created, &consumer)
            .await
            .map_err(Failure::silent)?;
        let task = tokio::spawn(pass_on(pull, stream_created, found));
        Ok(Self {
            stream: stream.to_owned(),
            consumer,
            task,
        })
    }

    /// Leaves nothing on the server; were this to fail, the server tidies up by itself.
    pub async fn close(self, bus: &Bus) {
        self.task.abort();
        let _ = bus
            .api(
                &format!("CONSUMER.DELETE.{}.{}", self.stream, self.consumer),
                &Value::Null,
            )
            .await;
    }
}

/// Until nobody listens any more, or the consumer is gone and its stream with it.
async fn pass_on(mut pull: Pull, stream_created: u64, found: mpsc::Sender<Seen>) {
    while pull.ask(ROOM).await.is_ok() {
        let Ok(deliveries) = pull.next().await else {
            return;
        };
        for delivery in deliveries {
            let seen = Seen {
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
            if found.send(seen).await.is_err() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Begin;

    #[test]
    fn beginnings_are_read() {
        assert_eq!(Begin::parse("new"), Ok(Begin::New));
        assert_eq!(Begin::parse("start"), Ok(Begin::Start));
        assert_eq!(
            Begin::parse("2026-01-31T12:00:00Z"),
            Ok(Begin::Time("2026-01-31T12:00:00.000Z".into()))
        );
        assert!(matches!(Begin::parse("10min"), Ok(Begin::Time(_))));
        assert!(Begin::parse("yesterday").is_err());
    }
}
