//! The NATS services API: who runs, what it has done since it started, and the answers to that [NATS ADR-32]. So
//! `nats micro ls` sees Oncue's workers and no registry process exists.
//!
//! Written out rather than taken from the client library, whose answers lack the metadata and whose services are for
//! requests: a worker only says who it is and how it fares.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Bus, BusError};

/// One running instance of a service, as it answers `$SRV.PING`, `$SRV.INFO` or `$SRV.STATS`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ServiceInstance {
    /// `io.nats.micro.v1.stats_response` and its like.
    #[serde(rename = "type")]
    pub response: String,
    pub name: String,
    pub id: String,
    pub version: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub description: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub started: String,
    pub metadata: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub endpoints: Vec<ServiceEndpoint>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ServiceEndpoint {
    pub name: String,
    pub subject: String,
    pub queue_group: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
    #[serde(flatten)]
    pub stats: Option<ServiceStats>,
    /// What the service adds of its own: [`WorkerStats`] of a worker.
    #[serde(skip_serializing_if = "Value::is_null")]
    pub data: Value,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ServiceStats {
    pub num_requests: u64,
    pub num_errors: u64,
    pub last_error: Option<String>,
    /// Nanoseconds.
    pub processing_time: u64,
    /// Nanoseconds.
    pub average_processing_time: u64,
}

/// What a worker has done since it started, but for `in_flight`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct WorkerStats {
    pub in_flight: u64,
    pub delivered: u64,
    pub applied: u64,
    pub duplicates: u64,
    pub conflicts: u64,
    pub retried: u64,
    pub dead: u64,
    pub duration_ms: DurationHistogram,
}

/// Durations of handlers: `counts[i]` runs took at most `bounds[i]` milliseconds, the last of them longer than all bounds.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct DurationHistogram {
    pub bounds: Vec<f64>,
    pub counts: Vec<u64>,
}

impl ServiceInstance {
    /// Common part of every answer; `verb` is PING, INFO or STATS.
    pub fn new(verb: &str, name: &str, id: &str, version: &str) -> Self {
        Self {
            response: format!("io.nats.micro.v1.{}_response", verb.to_lowercase()),
            name: name.to_owned(),
            id: id.to_owned(),
            version: version.to_owned(),
            ..Self::default()
        }
    }

    /// Process id, with which instances of ours end their name.
    pub fn pid(&self) -> Option<u32> {
        self.id.rsplit('-').next()?.parse().ok()
    }
}

impl Bus {
    /// Instances that answer on `subject` (`$SRV.STATS`, `$SRV.PING.NAME`, ...), until nothing has come for `gap`. Whoever
    /// answers in another form is left out.
    pub async fn service_instances(
        &self,
        subject: &str,
        gap: Duration,
    ) -> Result<Vec<ServiceInstance>, BusError> {
        let answers = self.ask_all(subject, gap).await?;
        let instances = answers
            .iter()
            .filter_map(|answer| serde_json::from_slice::<ServiceInstance>(&answer.payload).ok());
        Ok(instances
            .filter(|instance| !instance.name.is_empty())
            .collect())
    }

    /// Answers for the instance `id` of the service `name` until the connection closes; `answer` is given the verb.
    pub async fn answer_services<F>(&self, name: &str, id: &str, answer: F) -> Result<(), BusError>
    where
        F: Fn(&str) -> ServiceInstance + Clone + Send + 'static,
    {
        for verb in ["PING", "INFO", "STATS"] {
            for subject in [
                format!("$SRV.{verb}"),
                format!("$SRV.{verb}.{name}"),
                format!("$SRV.{verb}.{name}.{id}"),
            ] {
                let mut questions = self.subscribe(&subject).await?;
                let bus = self.clone();
                let answer = answer.clone();
                tokio::spawn(async move {
                    while let Some(question) = questions.next().await {
                        let Some(reply) = question.reply else {
                            continue;
                        };
                        let body = serde_json::to_vec(&answer(verb)).unwrap_or_default();
                        let _ = bus.publish_plain(reply, body.into()).await;
                    }
                });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn services_of_others_are_read_as_well() {
        let other: ServiceInstance = serde_json::from_value(json!({
            "type": "io.nats.micro.v1.stats_response", "name": "x", "id": "host-12", "endpoints": [{ "name": "e", "num_requests": 3 }]
        }))
        .expect("an instance");
        assert_eq!(other.pid(), Some(12));
        let stats = other.endpoints[0].stats.as_ref().expect("stats");
        assert_eq!((stats.num_requests, stats.last_error.clone()), (3, None));
        assert!(other.endpoints[0].data.is_null());
    }

    #[test]
    fn what_is_left_out_is_not_written() {
        let ping = json!(ServiceInstance::new("PING", "f", "h-1", "0.1.0"));
        let fields: Vec<&String> = ping.as_object().expect("an object").keys().collect();
        assert_eq!(fields, ["id", "metadata", "name", "type", "version"]);
    }
}
