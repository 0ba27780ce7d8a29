//! Answers of `oncue up` on the NATS services API, as the service `oncue-up` [NATS ADR-32]: which workers it runs of each
//! function. So `oncue ps`, another process, knows which function sleeps, and no file has to be kept.

use std::collections::BTreeMap;
use std::sync::Arc;

use oncue_admin::services::{SUPERVISOR, SupervisedFunction, SupervisedWorker};
use oncue_core::bus::Bus;
use oncue_core::bus::services::{ServiceEndpoint, ServiceInstance};
use serde_json::json;

use super::crew::Crew;
use super::elastic::Crews;
use super::process::Phase;
use crate::exit::Failure;

/// Answers until the connection closes.
pub async fn answer(bus: &Bus, crews: &Crews) -> Result<(), Failure> {
    let pid = std::process::id();
    let id = format!("{SUPERVISOR}-{pid}");
    let crews = Arc::clone(crews);
    let name = id.clone();
    bus.answer_services(SUPERVISOR, &id, move |verb| instance(verb, &name, &crews))
        .await
        .map_err(Failure::silent)
}

fn instance(verb: &str, id: &str, crews: &Crews) -> ServiceInstance {
    let mut instance = ServiceInstance::new(verb, SUPERVISOR, id, env!("CARGO_PKG_VERSION"));
    let pid = std::process::id().to_string();
    instance.metadata = BTreeMap::from([("oncue.pid".to_owned(), pid)]);
    let mut endpoint = ServiceEndpoint {
        name: "functions".to_owned(),
        subject: format!("$SRV.STATS.{SUPERVISOR}"),
        ..ServiceEndpoint::default()
    };
    match verb {
        "INFO" => {
            instance.description = "runs functions on this machine".to_owned();
            instance.endpoints = vec![endpoint];
        }
        "STATS" => {
            endpoint.data = json!(functions(crews));
            instance.endpoints = vec![endpoint];
        }
        _ => {}
    }
    instance
}

/// Each function with its bounds and its workers.
fn functions(crews: &Crews) -> BTreeMap<String, SupervisedFunction> {
    let crews = crews.lock();
    crews
        .iter()
        .map(|(name, crew)| (name.clone(), function(crew)))
        .collect()
}

fn function(crew: &Crew) -> SupervisedFunction {
    let workers = crew.workers().iter().map(|worker| SupervisedWorker {
        pid: worker.vitals.pid(),
        phase: word(worker.vitals.phase()).to_owned(),
    });
    SupervisedFunction {
        min: crew.limits.scale.min,
        max: crew.limits.scale.max,
        workers: workers.collect(),
    }
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
