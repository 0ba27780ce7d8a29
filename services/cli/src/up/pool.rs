//! Worker pool of one function.

use std::sync::Arc;

use oncue_core::bus::services::{ServiceInstance, WorkerStats};
use oncue_core::config::Config;
use oncue_core::model::manifest::Manifest;
use serde::Deserialize as _;
use tokio_util::task::AbortOnDropHandle;

use super::process::{Phase, ProcessSpec, ProcessStatus};
use super::scale::{History, PoolLimits, WorkerCount};
use super::supervisor::Supervisor;

/// Workers of a function, with what the autoscaler remembers of it.
pub struct Pool {
    pub name: String,
    pub stream: String,
    pub filters: Vec<String>,
    pub limits: PoolLimits,
    pub history: History,
    /// Last reason to wait, so that it is said once.
    pub waits: Option<String>,
    /// Listens for the event that wakes the function, while it sleeps.
    pub wake_listener: Option<AbortOnDropHandle<()>>,
    spec: ProcessSpec,
    workers: Vec<Worker>,
}

/// Worker that is about to take the place of another.
pub struct Replacement {
    pub old: Worker,
    pub new: Worker,
}

/// Process of the pool, from its start until it has ended.
#[derive(Clone)]
pub struct Worker {
    pub name: String,
    /// Number within the pool, from 1; free again once the worker has ended.
    number: u32,
    pub status: Arc<ProcessStatus>,
    retired: bool,
}

impl Pool {
    pub fn new(manifest: &Manifest, config: &Config, spec: ProcessSpec) -> Self {
        let limits = manifest.limits(config);
        Self {
            name: manifest.name.clone(),
            stream: manifest.stream.clone(),
            filters: manifest.filters.clone(),
            limits: PoolLimits {
                scale: config.function(&manifest.name).scale(),
                concurrency: limits.concurrency as u64,
                reserved: u64::from(limits.reserved_concurrency),
            },
            history: History::default(),
            waits: None,
            wake_listener: None,
            spec,
            workers: Vec::new(),
        }
    }

    /// Has workers that begin from now on be of this program. How many there may be stays as somebody has set it.
    pub fn renew(&mut self, manifest: &Manifest, config: &Config, spec: ProcessSpec) {
        let scale = self.limits.scale;
        let renewed = Self::new(manifest, config, spec);
        if self.filters != renewed.filters {
            // It listens for other events from now on.
            self.wake_listener = None;
        }
        self.filters = renewed.filters;
        self.spec = renewed.spec;
        self.limits = PoolLimits {
            scale,
            ..renewed.limits
        };
    }

    /// Workers that run, with those that were told to stop and have not yet ended.
    pub fn workers(&self) -> &[Worker] {
        &self.workers
    }

    /// Counts without those that were told to stop: they take no more work.
    pub fn count(&self) -> WorkerCount {
        let failing = self
            .active()
            .filter(|worker| worker.status.phase() == Phase::Failing);
        WorkerCount {
            have: self.active().count() as u32,
            failing: failing.count() as u32,
        }
    }

    pub fn is_awake(&self) -> bool {
        self.count().have > 0
    }

    /// Whether there are as many as there may be.
    pub fn is_within_bounds(&self) -> bool {
        let scale = self.limits.scale;
        (scale.min..=scale.max).contains(&self.count().have)
    }

    /// Tells those to stop that are more than there may be, the newest first; they finish what they have in flight. Returns how many.
    pub fn retire_surplus(&mut self) -> u32 {
        let max = self.limits.scale.max as usize;
        let surplus: Vec<u32> = self.active().skip(max).map(|one| one.number).collect();
        self.retire(&surplus);
        surplus.len() as u32
    }

    /// Whether there is nobody, and there may be somebody once there is work.
    pub fn is_asleep(&self) -> bool {
        !self.is_awake() && !self.limits.scale.is_fixed()
    }

    /// Frees the numbers of workers that were told to stop and have ended. One that ended on its own keeps its
    /// number, since it is started again.
    pub fn remove_ended(&mut self) {
        self.workers
            .retain(|worker| !worker.retired || worker.status.phase() != Phase::Gone);
    }

    /// Starts a worker called `name`, or `name.1`, `name.2`... where there may be several.
    pub fn start(&mut self, supervisor: &Supervisor) {
        self.remove_ended();
        let number = self.free_number();
        let name = if self.limits.scale.max == 1 && number == 1 {
            self.name.clone()
        } else {
            format!("{}.{number}", self.name)
        };
        let status = supervisor.functions.run(ProcessSpec {
            name: name.clone(),
            ..self.spec.clone()
        });
        self.workers.push(Worker {
            name,
            number,
            status,
            retired: false,
        });
    }

    /// Numbers of the workers that were not told to stop.
    pub fn numbers(&self) -> Vec<u32> {
        self.active().map(|worker| worker.number).collect()
    }

    /// Starts a worker in place of another, which counts no more from now on and goes on until it is retired. `None` where
    /// that one has gone.
    pub fn replace(&mut self, number: u32, supervisor: &Supervisor) -> Option<Replacement> {
        let old = self
            .workers
            .iter_mut()
            .find(|worker| worker.number == number && !worker.retired)?;
        old.retired = true;
        let old = old.clone();
        self.start(supervisor);
        let new = self.workers.last()?.clone();
        Some(Replacement { old, new })
    }

    /// Lets the old one count again, and retires the new one.
    pub fn take_back(&mut self, replacement: &Replacement) {
        self.retire(&[replacement.new.number]);
        let mut workers = self.workers.iter_mut();
        if let Some(old) = workers.find(|worker| worker.number == replacement.old.number) {
            old.retired = false;
        }
    }

    /// Lowest number nobody has, so that names stay short and a log can be followed by name.
    fn free_number(&self) -> u32 {
        let mut number = 1;
        while self.workers.iter().any(|worker| worker.number == number) {
            number += 1;
        }
        number
    }

    /// Numbers of the workers that may go, in the order in which they should: first those that do not live anyway,
    /// then those with nothing in flight by what they answer, the newest first. A worker that does not answer is
    /// busy.
    pub fn idle(&self, answers: &[ServiceInstance]) -> Vec<u32> {
        let failing = self
            .active()
            .filter(|worker| worker.status.phase() == Phase::Failing);
        let idle = self
            .active()
            .filter(|worker| worker.lives() && worker.has_nothing_in_flight(answers))
            // The oldest stay, since rows are in their caches.
            .rev();
        failing.chain(idle).map(|worker| worker.number).collect()
    }

    /// Tells workers to stop. They stay in the list until they have ended, since they still hold events.
    pub fn retire(&mut self, numbers: &[u32]) {
        for worker in &mut self.workers {
            if numbers.contains(&worker.number) {
                worker.retired = true;
                worker.status.retire();
            }
        }
    }

    /// Workers that were not told to stop.
    fn active(&self) -> impl DoubleEndedIterator<Item = &Worker> {
        self.workers.iter().filter(|worker| !worker.retired)
    }
}

impl Worker {
    fn lives(&self) -> bool {
        matches!(self.status.phase(), Phase::Starting | Phase::Up)
    }

    fn has_nothing_in_flight(&self, answers: &[ServiceInstance]) -> bool {
        answers
            .iter()
            .find(|answer| answer.pid() == Some(self.status.pid()))
            // By process id: others on the bus may run workers of this function too.
            .is_some_and(|answer| in_flight(answer) == 0)
    }
}

/// Events in flight over all endpoints of a worker.
fn in_flight(answer: &ServiceInstance) -> u64 {
    let stats = answer
        .endpoints
        .iter()
        .filter_map(|endpoint| WorkerStats::deserialize(&endpoint.data).ok());
    stats.map(|stats| stats.in_flight).sum()
}
