//! What `oncue up` answers on the NATS services API, as the service `oncue-up` [NATS ADR-32]: which workers it runs of
//! each function. So `oncue ps`, another process, knows who sleeps, and no file has to be kept.

use std::sync::Arc;

use oncue_core::bus::Bus;
use serde_json::{Map, Value, json};

use super::autoscaler::Pools;
use super::process::Phase;
use crate::exit::Failure;

pub use crate::ps::UP as NAME;

/// Answers until the connection closes.
pub async fn answer(bus: &Bus, crews: &Pools) -> Result<(), Failure> {
    let id = format!("{NAME}-{}", std::process::id());
    for verb in ["PING", "INFO", "STATS"] {
        for subject in [
            format!("$SRV.{verb}"),
            format!("$SRV.{verb}.{NAME}"),
            format!("$SRV.{verb}.{NAME}.{id}"),
        ] {
            let mut asked = bus.subscribe(&subject).await.map_err(Failure::silent)?;
            let (bus, crews, id) = (bus.clone(), Arc::clone(crews), id.clone());
            tokio::spawn(async move {
                while let Some(question) = asked.next().await {
                    let Some(reply) = question.reply else {
                        continue;
                    };
                    let _ = bus
                        .publish_plain(reply, body(verb, &id, &crews).to_string().into())
                        .await;
                }
            });
        }
    }
    Ok(())
}

fn body(verb: &str, id: &str, crews: &Pools) -> Value {
    let mut body = json!({
        "type": format!("io.nats.micro.v1.{}_response", verb.to_lowercase()),
        "name": NAME,
        "id": id,
        "version": env!("CARGO_PKG_VERSION"),
        "metadata": { "oncue.pid": std::process::id().to_string() },
    });
    let endpoint = || json!({ "name": "functions", "subject": format!("$SRV.STATS.{NAME}"), "queue_group": "" });
    match verb {
        "INFO" => {
            body["description"] = "runs functions on this machine".into();
            body["endpoints"] = json!([endpoint()]);
        }
        "STATS" => {
            let mut endpoint = endpoint();
            endpoint["data"] = functions(crews);
            body["endpoints"] = json!([endpoint]);
        }
        _ => {}
    }
    body
}

/// Each function with its bounds and its workers.
fn functions(crews: &Pools) -> Value {
    let crews = crews.lock();
    let functions = crews.iter().map(|(name, crew)| {
        let workers = crew
            .workers()
            .iter()
            .map(|worker| (worker.status.pid(), word(worker.status.phase())));
        let workers: Vec<Value> = workers
            .map(|(pid, phase)| json!({ "pid": pid, "phase": phase }))
            .collect();
        let scale = crew.limits.scale;
        (
            name.clone(),
            json!({ "min": scale.min, "max": scale.max, "workers": workers }),
        )
    });
    Value::Object(functions.collect::<Map<String, Value>>())
}

fn word(phase: Phase) -> &'static str {
    match phase {
        Phase::Starting => "starting",
        Phase::Up => "up",
        Phase::Failing => "failing",
        Phase::Stopping => "stopping",
        Phase::Gone => "gone",
    }
}
