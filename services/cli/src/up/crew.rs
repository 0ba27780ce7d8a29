//! The workers of one function.

use std::sync::Arc;

use oncue_core::config::{Config, Scale};
use oncue_core::model::manifest::Manifest;
use tokio_util::task::AbortOnDropHandle;

use super::house::House;
use super::process::{Phase, Spec, Vitals};
use super::scale::{self, History, Limits};
use crate::services::Instance;

pub struct Crew {
    pub name: String,
    pub stream: String,
    pub filters: Vec<String>,
    pub limits: Limits,
    pub history: History,
    /// The last reason to wait, so that it is said once.
    pub waits: Option<String>,
    /// Listens for the event that wakes it, while it sleeps.
    pub ear: Option<AbortOnDropHandle<()>>,
    spec: Spec,
    workers: Vec<Worker>,
}

#[derive(Clone)]
pub struct Worker {
    pub name: String,
    number: u32,
    pub vitals: Arc<Vitals>,
    retired: bool,
}

impl Crew {
    pub fn new(manifest: &Manifest, config: &Config, spec: Spec) -> Self {
        let limits = manifest.limits(config);
        Self {
            name: manifest.name.clone(),
            stream: manifest.stream.clone(),
            filters: manifest.filters.clone(),
            limits: Limits {
                scale: config.function(&manifest.name).scale(),
                concurrency: limits.concurrency as u64,
                reserved: u64::from(limits.reserved_concurrency),
            },
            history: History::default(),
            waits: None,
            ear: None,
            spec,
            workers: Vec::new(),
        }
    }

    /// All that run, with those that were told to stop and have not yet ended.
    pub fn workers(&self) -> &[Worker] {
        &self.workers
    }

    pub fn count(&self) -> scale::Crew {
        let active = self.workers.iter().filter(|worker| !worker.retired);
        let failing = active
            .clone()
            .filter(|worker| worker.vitals.phase() == Phase::Failing)
            .count();
        scale::Crew {
            have: active.count() as u32,
            failing: failing as u32,
        }
    }

    pub fn is_awake(&self) -> bool {
        self.count().have > 0
    }

    pub fn forget_the_gone(&mut self) {
        self.workers
            .retain(|worker| !worker.retired || worker.vitals.phase() != Phase::Gone);
    }

    /// Called `name`, or `name.1`, `name.2`... where there may be several.
    pub fn start(&mut self, house: &House) {
        self.forget_the_gone();
        let taken = |n: &u32| self.workers.iter().any(|worker| worker.number == *n);
        let number = (1..u32::MAX).find(|n| !taken(n)).unwrap_or(u32::MAX);
        let Scale { max, .. } = self.limits.scale;
        let name = if max == 1 && number == 1 {
            self.name.clone()
        } else {
            format!("{}.{number}", self.name)
        };
        let vitals = house.functions.run(Spec {
            name: name.clone(),
            ..self.spec.clone()
        });
        self.workers.push(Worker {
            name,
            number,
            vitals,
            retired: false,
        });
    }

    /// Workers that have nothing in hand by what they answer, and before them those that do not live anyway.
    pub fn idle(&self, answers: &[Instance]) -> Vec<u32> {
        let idle = |vitals: &Vitals| {
            let answer = answers
                .iter()
                .find(|answer| answer.pid() == Some(vitals.pid()));
            answer
                .and_then(oncue_admin::services::Worker::of)
                .is_some_and(|answer| answer.counters.stats.in_flight == 0)
        };
        let active = || self.workers.iter().filter(|worker| !worker.retired);
        let failing = active().filter(|worker| worker.vitals.phase() == Phase::Failing);
        let lives = |worker: &&Worker| matches!(worker.vitals.phase(), Phase::Starting | Phase::Up);
        let resting = active()
            .filter(lives)
            .filter(|worker| idle(&worker.vitals))
            .rev();
        failing.chain(resting).map(|worker| worker.number).collect()
    }

    pub fn retire(&mut self, numbers: &[u32]) {
        for worker in self
            .workers
            .iter_mut()
            .filter(|worker| numbers.contains(&worker.number))
        {
            worker.retired = true;
            worker.vitals.retire();
        }
    }
}
