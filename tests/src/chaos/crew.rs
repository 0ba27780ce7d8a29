//! Worker processes, and what befalls them. Whoever dies is replaced, as any process manager would.

use oncue::bus::Bus;
use serde_json::Value;
use std::time::{Duration, Instant};

use crate::house::{House, Process};

/// Between two starts of one worker: one that cannot start must not be started without end.
const PATIENCE: Duration = Duration::from_millis(300);

pub struct Crew {
    workers: Vec<Process>,
    started: Vec<Instant>,
    /// Frozen by SIGSTOP.
    frozen: Vec<u32>,
    /// Ended by themselves, with what they said last.
    pub gone: Vec<String>,
}

impl Crew {
    pub async fn start(house: &House, binaries: &[&str]) -> Self {
        let workers = house.start_all(binaries).await;
        Self { started: vec![Instant::now(); workers.len()], workers, frozen: Vec::new(), gone: Vec::new() }
    }

    pub fn len(&self) -> usize {
        self.workers.len()
    }

    pub fn is_empty(&self) -> bool {
        self.workers.is_empty()
    }

    pub fn logs(&self) -> impl Iterator<Item = String> + '_ {
        self.workers.iter().map(Process::log)
    }

    /// Replaces whoever has ended.
    pub fn tend(&mut self, house: &House) {
        for (worker, started) in self.workers.iter_mut().zip(&mut self.started) {
            if !worker.is_alive() && started.elapsed() > PATIENCE {
                *started = Instant::now();
                let log = worker.log();
                let last = log.lines().last().unwrap_or("without a word");
                self.gone.push(format!("{}: {}", worker.name, last.chars().take(200).collect::<String>()));
                *worker = house.spawn(&worker.name.clone(), &[]);
            }
        }
    }

    /// kill -9 of any worker, and a new one in its place.
    pub fn kill_one(&mut self, house: &House, rng: &mut fastrand::Rng) {
        let at = rng.usize(..self.workers.len());
        let name = self.workers[at].name.clone();
        self.workers[at].kill();
        self.workers[at] = house.spawn(&name, &[]);
    }

    /// kill -9 of all of a function's workers; `tend` brings others.
    pub fn kill_all(&mut self) {
        self.workers.iter_mut().for_each(Process::kill);
    }

    /// SIGSTOP of any worker.
    pub fn freeze_one(&mut self, rng: &mut fastrand::Rng) {
        let worker = &self.workers[rng.usize(..self.workers.len())];
        worker.signal("STOP");
        self.frozen.push(worker.pid());
    }

    pub fn thaw(&mut self) {
        for worker in self.workers.iter().filter(|worker| self.frozen.contains(&worker.pid())) {
            worker.signal("CONT");
        }
        self.frozen.clear();
    }

    /// SIGTERM of one after the other, each replaced before the next; returns exit codes.
    pub async fn roll(&mut self, house: &House) -> Vec<Option<i32>> {
        let mut codes = Vec::new();
        for worker in &mut self.workers {
            codes.push(worker.stop().await);
            *worker = house.start(&worker.name.clone()).await;
        }
        codes
    }

    /// A counter of `$SRV.STATS`, summed over all workers of a function that live.
    pub async fn counter(&self, bus: &Bus, function: &str, counter: &str) -> u64 {
        let answers = bus.ask_all(&format!("$SRV.STATS.{function}"), Duration::from_secs(1)).await;
        let read = |payload: &[u8]| {
            let stats: Value = serde_json::from_slice(payload).unwrap_or_default();
            stats["endpoints"][0]["data"][counter].as_u64().unwrap_or_default()
        };
        answers.unwrap_or_default().iter().map(|note| read(&note.payload)).sum()
    }
}
