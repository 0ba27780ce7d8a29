//! Answers of `oncue up` on the NATS services API, as the service `oncue-up` [NATS ADR-32]: which workers it runs of
//! each function. So `oncue ps`, another process, knows which function sleeps, and no file has to be kept.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use oncue_admin::services::{SUPERVISOR, SupervisedFunction, SupervisedWorker};
use oncue_core::bus::Bus;
use oncue_core::bus::services::{ServiceEndpoint, ServiceInstance};
use oncue_proto::event;
use serde_json::json;

use super::autoscaler::Pools;
use super::pool::Pool;
use super::process::Phase;
use crate::exit::Failure;

/// Id under which this process answers. Its process id alone would be that of others, in containers above all.
pub fn id() -> String {
    static ID: LazyLock<String> =
        LazyLock::new(|| format!("{SUPERVISOR}-{}-{}", std::process::id(), event::new_id()));
    ID.clone()
}

/// Answers until the connection closes.
pub async fn answer(bus: &Bus, pools: &Pools) -> Result<(), Failure> {
    let id = id();
    let pools = Arc::clone(pools);
    let name = id.clone();
    bus.answer_services(SUPERVISOR, &id, move |verb| instance(verb, &name, &pools))
        .await
        .map_err(Failure::silent)
}

fn instance(verb: &str, id: &str, pools: &Pools) -> ServiceInstance {
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
            "runs functions on this machine".clone_into(&mut instance.description);
            instance.endpoints = vec![endpoint];
        }
        "STATS" => {
            // Made anew for each question, under the lock for as long as it takes to copy some words.
            endpoint.data = json!(functions(pools));
            instance.endpoints = vec![endpoint];
        }
        _ => {}
    }
    instance
}

/// Each function with its bounds and its workers.
fn functions(pools: &Pools) -> BTreeMap<String, SupervisedFunction> {
    let pools = pools.lock();
    pools
        .iter()
        .map(|(name, pool)| (name.clone(), function(pool)))
        .collect()
}

fn function(pool: &Pool) -> SupervisedFunction {
    let workers = pool.workers().iter().map(|worker| SupervisedWorker {
        pid: worker.status.pid(),
        phase: word(worker.status.phase()).to_owned(),
    });
    SupervisedFunction {
        min: pool.limits.scale.min,
        max: pool.limits.scale.max,
        wanted: pool.history.wanted().unwrap_or(pool.limits.scale.min),
        workers: workers.collect(),
    }
}

/// Words of the answer, which `oncue ps` of another version may read: they stay as they are.
fn word(phase: Phase) -> &'static str {
    match phase {
        Phase::Starting => "starting",
        Phase::Up => "up",
        Phase::Failing => "failing",
        Phase::Stopping => "stopping",
        Phase::Gone => "gone",
    }
}
