//! NATS services API: workers that run, their counts since they started, and the answers of a worker [NATS ADR-32]. So
//! `nats micro ls` sees Oncue's workers and no registry process exists.
//!
//! Written out rather than taken from the client library, whose answers lack the metadata and whose services are for
//! requests: a worker only tells its identity and its counts.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Bus, BusError};
use crate::app::OWNER;

/// One running instance of a service, as it answers `$SRV.PING`, `$SRV.INFO` or `$SRV.STATS`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ServiceInstance {
    /// `io.nats.micro.v1.stats_response` and its like.
    #[serde(rename = "type")]
    pub response: String,
    /// Name of the service: the function, for a worker.
    pub name: String,
    /// Name of the instance, unique among those of the service.
    pub id: String,
    /// Semantic version.
    pub version: String,
    /// Sentence for people; only in INFO.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// Start time, RFC 3339; only in STATS.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub started: String,
    /// Anything else that the service tells, in all answers.
    pub metadata: BTreeMap<String, String>,
    /// Subjects that it serves; none in PING.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub endpoints: Vec<ServiceEndpoint>,
}

/// Subject that an instance serves.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ServiceEndpoint {
    /// Name among the endpoints of the service.
    pub name: String,
    /// Subject, which may hold wildcards.
    pub subject: String,
    /// Group whose members share the requests.
    pub queue_group: String,
    /// Anything else that the service tells of it; only in INFO.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
    /// Counts; only in STATS.
    #[serde(flatten)]
    pub stats: Option<ServiceStats>,
    /// Counts of the service's own kind: [`WorkerStats`] of a worker.
    #[serde(skip_serializing_if = "Value::is_null")]
    pub data: Value,
}

/// Counts of an endpoint since it started.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ServiceStats {
    /// Requests taken: runs of the handler, for a worker.
    pub num_requests: u64,
    /// Requests that failed.
    pub num_errors: u64,
    /// Text of the last failure.
    pub last_error: Option<String>,
    /// Nanoseconds spent on all requests.
    pub processing_time: u64,
    /// Nanoseconds spent on one request.
    pub average_processing_time: u64,
}

/// Counts of a worker since it started, but for `in_flight`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct WorkerStats {
    /// Events in flight now.
    pub in_flight: u64,
    /// Deliveries taken.
    pub delivered: u64,
    /// Events applied.
    pub applied: u64,
    /// Events that had been applied before.
    pub duplicates: u64,
    /// Commits refused because a row had changed.
    pub conflicts: u64,
    /// Deliveries given back to be tried again.
    pub retried: u64,
    /// Events dead-lettered.
    pub dead: u64,
    /// Commits of the function, by whichever worker, whose outputs are in no stream yet.
    pub waiting_outputs: u64,
    /// Durations of handlers.
    pub duration_ms: DurationHistogram,
}

/// Upper bounds of the durations that workers count, in microseconds. Those of the conventions begin at 5 ms, where most handlers
/// are long done; among these are all of them.
///
/// From 100 µs to 10 s; all 14 bounds that the messaging and FaaS conventions advise are among these 19.
pub const DURATION_BOUNDS: [u64; 19] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 75_000, 100_000, 250_000, 500_000,
    750_000, 1_000_000, 2_500_000, 5_000_000, 7_500_000, 10_000_000,
];

/// Histogram of durations: `counts[i]` of them took at most `bounds[i]` milliseconds and more than the bound before;
/// the last count, which has no bound, is of all that took longer.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct DurationHistogram {
    /// Upper bounds in milliseconds, ascending.
    pub bounds: Vec<f64>,
    /// One more than there are bounds.
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

    /// Process id, with which instances of ours end their name; `None` for others.
    pub fn pid(&self) -> Option<u32> {
        self.id.rsplit('-').next()?.parse().ok()
    }
}

impl Bus {
    /// Instances that answer on `subject` (`$SRV.STATS`, `$SRV.PING.NAME`, ...), until nothing has come for `gap`.
    /// Answers in another form are left out, and so are those for other apps.
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
            .filter(|instance| {
                let owner = instance.metadata.get(OWNER);
                owner.is_none_or(|owner| owner == self.app().as_str())
            })
            .collect())
    }

    /// Instances of the services of this name, as [`service_instances`](Self::service_instances) has them.
    pub async fn instances_of(
        &self,
        name: &str,
        gap: Duration,
    ) -> Result<Vec<ServiceInstance>, BusError> {
        self.service_instances(&format!("$SRV.PING.{name}"), gap)
            .await
    }

    /// Answers for the instance `id` of the service `name` until the connection closes, in tasks of its own; `answer`
    /// is given the verb (PING, INFO or STATS). The app is added to the metadata. Fails where the subjects cannot be subscribed to.
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
                        let mut answer = answer(verb);
                        let app = bus.app().to_string();
                        answer.metadata.insert(OWNER.to_owned(), app);
                        let body = serde_json::to_vec(&answer).unwrap_or_default();
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
