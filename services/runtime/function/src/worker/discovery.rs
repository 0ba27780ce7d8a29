//! Every worker answers the NATS services API, so `nats micro ls` sees it and no registry exists [NATS ADR-32].
//!
//! Written out rather than taken from the client library, whose answers lack the metadata and whose services are for
//! requests: a worker only says who it is and how it fares.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Value, json};

use crate::worker::Worker;
use crate::worker::counters::BOUNDS;
pub(crate) use crate::worker::counters::Counters;
use oncue_core::bus::{Bus, BusError};
use oncue_core::model::manifest::Manifest;
use oncue_proto::event;

/// Answers until the connection closes.
pub(crate) async fn answer(
    bus: Bus,
    worker: Arc<Worker>,
    manifest: Manifest,
    instance: String,
) -> Result<(), BusError> {
    let started = event::format_time(event::now_ms());
    let name = manifest.name.clone();
    for verb in ["PING", "INFO", "STATS"] {
        for subject in [
            format!("$SRV.{verb}"),
            format!("$SRV.{verb}.{name}"),
            format!("$SRV.{verb}.{name}.{instance}"),
        ] {
            let mut asked = bus.subscribe(&subject).await?;
            let (bus, worker, manifest) = (bus.clone(), worker.clone(), manifest.clone());
            let (instance, started) = (instance.clone(), started.clone());
            tokio::spawn(async move {
                while let Some(question) = asked.next().await {
                    let Some(reply) = question.reply else {
                        continue;
                    };
                    let mut body = common(&manifest, &instance, verb);
                    match verb {
                        "INFO" => info(&mut body, &manifest),
                        "STATS" => stats(&mut body, &manifest, &worker, &started),
                        _ => {}
                    }
                    let _ = bus.publish_plain(reply, body.to_string().into()).await;
                }
            });
        }
    }
    Ok(())
}

fn common(manifest: &Manifest, instance: &str, verb: &str) -> Value {
    json!({
        "type": format!("io.nats.micro.v1.{}_response", verb.to_lowercase()),
        "name": manifest.name,
        "id": instance,
        "version": manifest.version,
        "metadata": {
            "oncue.stream": manifest.stream,
            "oncue.triggers": manifest.triggers.join(","),
            "oncue.emits": manifest.emits.join(","),
            "oncue.table": manifest.table.clone().unwrap_or_default(),
            "oncue.pid": std::process::id().to_string(),
        },
    })
}

fn endpoint(manifest: &Manifest) -> Value {
    json!({ "name": manifest.name, "subject": manifest.filters[0], "queue_group": manifest.name })
}

fn info(body: &mut Value, manifest: &Manifest) {
    body["description"] = format!("acts on {}", manifest.triggers.join(", ")).into();
    let mut endpoint = endpoint(manifest);
    endpoint["metadata"] = json!({ "manifest": json!(manifest).to_string() });
    body["endpoints"] = json!([endpoint]);
}

fn stats(body: &mut Value, manifest: &Manifest, worker: &Worker, started: &str) {
    let counters = &worker.counters;
    let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let (counts, busy) = counters.runs();
    let runs: u64 = counts.iter().sum();
    let bounds: Vec<f64> = BOUNDS
        .iter()
        .map(|micros| *micros as f64 / 1000.0)
        .collect();
    let mut endpoint = endpoint(manifest);
    endpoint["num_requests"] = runs.into();
    endpoint["num_errors"] = (get(&counters.retried) + get(&counters.dead)).into();
    endpoint["last_error"] = counters.last_error().into();
    endpoint["processing_time"] = busy.into();
    endpoint["average_processing_time"] = busy.checked_div(runs).unwrap_or(0).into();
    endpoint["data"] = json!({
        "in_flight": worker.hand.count(),
        "delivered": get(&counters.delivered),
        "applied": get(&counters.applied),
        "duplicates": get(&counters.duplicates),
        "conflicts": get(&counters.conflicts),
        "retried": get(&counters.retried),
        "dead": get(&counters.dead),
        "duration_ms": { "bounds": bounds, "counts": counts },
    });
    body["started"] = started.into();
    body["endpoints"] = json!([endpoint]);
}
