//! Processes that answer on the NATS services API [NATS ADR-32]: workers, with their counters, and every `oncue up`,
//! with the workers it keeps. No registry exists; whoever runs answers.
//!
//! Answers are read in the typed form of [`oncue_core::bus::services`]. A worker has one endpoint, whose `data` are
//! its [`WorkerStats`]; the endpoint of `oncue up` has a [`SupervisedFunction`] for each function.
//!
//! Functions of this file only read answers that somebody has collected with
//! [`service_instances`](oncue_core::bus::Bus::service_instances): no question is asked, nothing fails. An answer
//! in another form is passed over, since anybody may answer on `$SRV`. A worker that was too busy to answer in time
//! is not among them, so a missing one proves nothing.

pub mod bounds;
pub mod counters;
pub mod restart;

use std::collections::BTreeMap;
use std::time::Duration;

use oncue_core::bus::Bus;
use oncue_core::bus::services::{ServiceInstance, WorkerStats};
use oncue_core::model::manifest::Manifest;
use serde::{Deserialize, Serialize};

use self::counters::Counters;
use crate::AdminError;

/// Name under which every `oncue up` answers.
pub const SUPERVISOR: &str = "oncue-up";

/// Silence after which every `oncue up` has answered.
const REPLY_GAP: Duration = Duration::from_millis(300);

/// Ids of the `oncue up`s of the app that answer, each unique on its machine.
///
/// # Errors
/// NATS does not answer.
pub async fn supervisors(bus: &Bus) -> Result<Vec<String>, AdminError> {
    let found = bus.instances_of(SUPERVISOR, REPLY_GAP).await?;
    Ok(found.into_iter().map(|instance| instance.id).collect())
}

/// One worker process, as it says of itself.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Worker {
    /// Name of the service it answers as.
    pub function: String,
    /// Instance id, `HOST-PID` unless the environment names it.
    pub id: String,
    /// Of the program, as its manifest has it.
    pub version: String,
    /// When it started, RFC 3339.
    /// A worker that is restarted under the same id is known by another time here.
    pub started: String,
    /// Counted since it started.
    /// A worker keeps them in memory alone, so they begin at 0 and end with the process.
    pub counters: Counters,
    /// Empty where nothing has failed.
    /// Text of the last run that failed, or its class where it had no text; runs that went well since do not clear
    /// it.
    pub last_error: String,
}

impl Worker {
    /// `None` for services of another kind: `oncue up`, or somebody's own, which handle no event.
    /// Reads an answer to `$SRV.STATS`; one to `$SRV.PING` or `$SRV.INFO` holds no counters and is `None` too. A
    /// worker is known by the counters `applied` or `delivered` in its endpoint's `data`, by no name.
    pub fn of(instance: &ServiceInstance) -> Option<Self> {
        let endpoint = instance.endpoints.first()?;
        if endpoint.data.get("applied").is_none() && endpoint.data.get("delivered").is_none() {
            return None;
        }
        let stats = endpoint.stats.clone().unwrap_or_default();
        Some(Self {
            function: instance.name.clone(),
            id: instance.id.clone(),
            version: instance.version.clone(),
            started: instance.started.clone(),
            counters: Counters {
                stats: WorkerStats::deserialize(&endpoint.data).ok()?,
                runs: stats.num_requests,
                failed: stats.num_errors,
                busy_nanos: stats.processing_time,
            },
            last_error: stats.last_error.unwrap_or_default(),
        })
    }
}

/// All workers among those that answered `$SRV.STATS`. Services of another kind, of ours or of somebody else, are
/// passed over: they are no reason to fail. In the order of the answers, which is the order of nothing: sort before
/// showing.
pub fn workers(instances: &[ServiceInstance]) -> Vec<Worker> {
    instances.iter().filter_map(Worker::of).collect()
}

/// Manifests among the answers to `$SRV.INFO`, one for each worker.
/// A function with three workers is there three times, in two forms while a new version is rolled out. Workers put
/// the manifest as JSON into the metadata `manifest` of their endpoint; one that cannot be read is passed over.
pub fn manifests(instances: &[ServiceInstance]) -> Vec<Manifest> {
    let texts = instances
        .iter()
        .filter_map(|instance| instance.endpoints.first()?.metadata.get("manifest"));
    texts
        .filter_map(|text| serde_json::from_str(text).ok())
        .collect()
}

/// Workers of one function that some `oncue up` keeps, or several of them together; also the form in which it
/// answers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SupervisedFunction {
    /// Bounds within which it scales.
    /// Fewest processes; 0 for a function that sleeps while no event waits.
    pub min: u32,
    /// Most processes, whatever waits.
    pub max: u32,
    /// Processes it should have now, for what waits; between the bounds. A supervisor of an earlier version says 0.
    pub wanted: u32,
    /// Processes there are, those that end among them.
    /// Processes that have not answered on `$SRV` yet are among them as well: a supervisor knows its children, not
    /// their words.
    pub workers: Vec<SupervisedWorker>,
}

/// A worker process as its supervisor sees it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SupervisedWorker {
    /// Process id on the supervisor's machine.
    pub pid: u32,
    /// `starting`, `up`, `failing`, `stopping` or `gone`.
    /// A word and not an enum, so that a supervisor of a later version may tell of phases that are not known here.
    pub phase: String,
}

impl SupervisedFunction {
    /// Whether some worker is in this phase.
    pub fn has(&self, phase: &str) -> bool {
        self.workers.iter().any(|worker| worker.phase == phase)
    }

    /// Whether no process runs, and one is started when an event comes.
    pub fn is_asleep(&self) -> bool {
        self.workers.is_empty() && self.min == 0 && self.max > 0
    }
}

/// Functions that are kept by `oncue up`, from the answers of all of them to `$SRV.STATS`. Several of them may keep
/// the same function, each on its own machine: bounds and workers are added up.
pub fn supervised(instances: &[ServiceInstance]) -> BTreeMap<String, SupervisedFunction> {
    let mut all: BTreeMap<String, SupervisedFunction> = BTreeMap::new();
    let answers = instances
        .iter()
        .filter(|instance| instance.name == SUPERVISOR)
        .flat_map(|instance| &instance.endpoints);
    let answers = answers.filter_map(|endpoint| {
        BTreeMap::<String, SupervisedFunction>::deserialize(&endpoint.data).ok()
    });
    for (name, one) in answers.flatten() {
        let together = all.entry(name).or_default();
        together.min += one.min;
        together.max += one.max;
        together.wanted += one.wanted;
        together.workers.extend(one.workers);
    }
    all
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn instance(answer: Value) -> ServiceInstance {
        serde_json::from_value(answer).expect("an instance")
    }

    #[expect(clippy::needless_pass_by_value, reason = "made at the call")]
    fn kept(min: u32, workers: Value) -> Value {
        json!({ "min": min, "max": 2, "workers": workers })
    }

    #[test]
    fn workers_are_read_and_strangers_passed_over() {
        let ours = json!({ "type": "io.nats.micro.v1.stats_response", "name": "f", "id": "host-1", "version": "0.1.0",
            "started": "2026-01-01T00:00:00Z", "endpoints": [{ "num_requests": 3, "processing_time": 9000, "last_error": "",
            "data": { "delivered": 4, "applied": 3, "in_flight": 1, "duration_ms": { "bounds": [1, 5.0], "counts": [1, 2, 0] } } }] });
        let stranger = json!({ "name": "x", "id": "y", "endpoints": [{ "num_requests": 1 }] });
        let supervisor = json!({ "name": SUPERVISOR, "id": "u", "endpoints": [{ "data": { "f": kept(0, json!([])) } }] });
        let read = workers(&[ours, stranger, supervisor].map(instance));
        assert_eq!(read.len(), 1);
        let counters = &read[0].counters;
        assert_eq!((counters.stats.delivered, counters.runs), (4, 3));
        assert_eq!(counters.stats.dead, 0, "left out");
        assert_eq!(counters.stats.duration_ms.counts, [1, 2, 0]);
    }

    #[test]
    fn several_supervisors_are_taken_together() {
        let up = |pid: u32| {
            let data = json!({ "f": kept(0, json!([{ "pid": pid, "phase": "up" }])), "g": kept(0, json!([])), "h": kept(1, json!([])) });
            instance(json!({ "name": SUPERVISOR, "id": "u", "endpoints": [{ "data": data }] }))
        };
        let all = supervised(&[up(1), up(2)]);
        assert_eq!((all["f"].max, all["f"].workers.len()), (4, 2));
        let asleep: Vec<&String> = all
            .iter()
            .filter(|(_, function)| function.is_asleep())
            .map(|(name, _)| name)
            .collect();
        assert_eq!(asleep, ["g"], "one runs, one is started at once");
    }
}
