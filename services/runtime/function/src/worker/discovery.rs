//! Discovery: every worker answers the NATS services API, so `nats micro ls` sees it and no registry exists [NATS ADR-32].
//!
//! `$SRV.PING`, `$SRV.INFO` and `$SRV.STATS`, each also by name and by instance. The function is
//! the service, the process is the instance. Fields that the ADR names keep its meaning; ours stand
//! in `metadata` and in `data`, which it leaves to services.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use oncue_core::bus::services::{
    DURATION_BOUNDS, DurationHistogram, ServiceEndpoint, ServiceInstance, ServiceStats, WorkerStats,
};
use oncue_core::bus::{Bus, BusError};
use oncue_core::model::manifest::Manifest;
use oncue_proto::event;
use serde_json::{Value, json};

use crate::worker::counters::Counters;
use crate::worker::in_flight::InFlight;

/// State that a worker's answers are made of.
///
/// All parts are shared pointers, so a clone costs next to nothing.
#[derive(Clone)]
struct Identity {
    /// The function as data; part of INFO as JSON.
    manifest: Arc<Manifest>,
    /// Name of this process, unique among the workers of the function.
    instance: Arc<str>,
    /// Time at which the worker began to answer, RFC 3339.
    started: Arc<str>,
    /// Counts of the worker, read for STATS.
    counters: Arc<Counters>,
    /// Only its count is read.
    in_flight: Arc<InFlight>,
}

/// Answers until the connection closes.
///
/// # Errors
///
/// A subscription to `$SRV` was refused.
pub(crate) async fn answer(
    bus: &Bus,
    manifest: &Manifest,
    instance: &str,
    counters: &Arc<Counters>,
    in_flight: &Arc<InFlight>,
) -> Result<(), BusError> {
    let identity = Identity {
        manifest: Arc::new(manifest.clone()),
        instance: instance.into(),
        started: event::format_time(event::now_ms()).into(),
        counters: counters.clone(),
        in_flight: in_flight.clone(),
    };
    bus.answer_services(&manifest.name, instance, move |verb| identity.answer(verb))
        .await
}

impl Identity {
    /// Answer to one verb: all have identity and metadata, INFO adds the manifest, STATS the
    /// counts.
    fn answer(&self, verb: &str) -> ServiceInstance {
        let manifest = &*self.manifest;
        let mut answer =
            ServiceInstance::new(verb, &manifest.name, &self.instance, &manifest.version);
        answer.metadata = metadata(manifest);
        match verb {
            "INFO" => {
                answer.description = format!("acts on {}", manifest.triggers.join(", "));
                let manifest = json!(manifest).to_string();
                let mut endpoint = self.endpoint();
                endpoint.metadata = BTreeMap::from([("manifest".to_owned(), manifest)]);
                answer.endpoints = vec![endpoint];
            }
            "STATS" => {
                answer.started = self.started.to_string();
                answer.endpoints = vec![self.stats()];
            }
            _ => {}
        }
        answer
    }

    /// A worker serves no request, but the ADR counts by endpoint: one, with the first filter of
    /// the consumer as its subject and the function as its queue group.
    fn endpoint(&self) -> ServiceEndpoint {
        ServiceEndpoint {
            name: self.manifest.name.clone(),
            subject: self.manifest.filters[0].clone(),
            queue_group: self.manifest.name.clone(),
            ..ServiceEndpoint::default()
        }
    }

    /// `num_requests` counts runs of the handler and `num_errors` deliveries that were retried or
    /// set aside; times are in nanoseconds, as the ADR has them. `data` holds [`WorkerStats`].
    fn stats(&self) -> ServiceEndpoint {
        let counters = &self.counters;
        let (counts, busy) = counters.runs();
        let runs: u64 = counts.iter().sum();
        let data = WorkerStats {
            in_flight: self.in_flight.count() as u64,
            delivered: get(&counters.delivered),
            applied: get(&counters.applied),
            duplicates: get(&counters.duplicates),
            conflicts: get(&counters.conflicts),
            retried: get(&counters.retried),
            dead: get(&counters.dead),
            waiting_outputs: get(&counters.waiting_outputs),
            duration_ms: DurationHistogram {
                bounds: DURATION_BOUNDS
                    .map(|micros| micros as f64 / 1000.0)
                    .to_vec(),
                counts,
            },
        };
        ServiceEndpoint {
            stats: Some(ServiceStats {
                num_requests: runs,
                num_errors: get(&counters.retried) + get(&counters.dead),
                last_error: Some(counters.last_error()),
                processing_time: busy,
                average_processing_time: busy.checked_div(runs).unwrap_or(0),
            }),
            data: serde_json::to_value(data).unwrap_or(Value::Null),
            ..self.endpoint()
        }
    }
}

/// Names with a prefix, as metadata of other services may stand beside them in one listing. Lists
/// are joined by commas, since values are strings [NATS ADR-32].
fn metadata(manifest: &Manifest) -> BTreeMap<String, String> {
    BTreeMap::from([
        ("oncue.stream".to_owned(), manifest.stream.clone()),
        ("oncue.triggers".to_owned(), manifest.triggers.join(",")),
        ("oncue.emits".to_owned(), manifest.emits.join(",")),
        (
            "oncue.table".to_owned(),
            manifest.table.clone().unwrap_or_default(),
        ),
        ("oncue.pid".to_owned(), std::process::id().to_string()),
    ])
}

fn get(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}
