//! Discovery: every worker answers the NATS services API, so `nats micro ls` sees it and no registry exists [NATS ADR-32].

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use oncue_core::bus::services::{
    DurationHistogram, ServiceEndpoint, ServiceInstance, ServiceStats, WorkerStats,
};
use oncue_core::bus::{Bus, BusError};
use oncue_core::model::manifest::Manifest;
use oncue_proto::event;
use serde_json::{Value, json};

use crate::worker::counters::{BOUNDS, Counters};
use crate::worker::in_flight::InFlight;

/// State that a worker's answers are made of.
#[derive(Clone)]
struct Identity {
    manifest: Arc<Manifest>,
    instance: Arc<str>,
    started: Arc<str>,
    counters: Arc<Counters>,
    in_flight: Arc<InFlight>,
}

/// Answers until the connection closes.
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

    fn endpoint(&self) -> ServiceEndpoint {
        ServiceEndpoint {
            name: self.manifest.name.clone(),
            subject: self.manifest.filters[0].clone(),
            queue_group: self.manifest.name.clone(),
            ..ServiceEndpoint::default()
        }
    }

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
            duration_ms: DurationHistogram {
                bounds: BOUNDS.map(|micros| micros as f64 / 1000.0).to_vec(),
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
