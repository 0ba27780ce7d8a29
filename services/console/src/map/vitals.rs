//! How a function fares, over all its workers.

use std::collections::{BTreeMap, VecDeque};

use serde::Serialize;
use serde_json::{Value, json};

use super::{Card, FRESH, rounded};
use crate::history::{History, Point};
use crate::sample::{Consumer, Counts, Histogram, Running};

/// A worker that was silent for longer is gone; a busy one may miss a question or two.
const SILENT_MS: u64 = 8000;
/// What failed stays in the colour for this long.
const MINUTE_MS: u64 = 60_000;
/// Seconds of work before a function counts as behind, and the smallest number of events that may.
const BEHIND: f64 = 10.0;
const A_FEW: u64 = 100;
/// Five-second steps of a lag that only grows.
const GROWING: usize = 6;

/// One worker process.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Instance {
    pub version: String,
    pub started: String,
    #[serde(flatten)]
    pub counts: Counts,
    pub last_error: String,
    #[serde(skip)]
    pub histogram: Option<Histogram>,
    #[serde(skip)]
    seen: u64,
}

/// What a colour says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Health {
    Ok,
    /// It works, and more comes than it does.
    Behind,
    /// Events failed within the last minute.
    Failing,
    /// Nobody runs it, and events wait.
    Stuck,
    /// Nobody runs it, and nothing waits.
    Off,
    /// The same, and `oncue up` starts it when an event comes.
    Asleep,
}

#[derive(Debug, Clone, Default)]
pub struct Vitals {
    pub instances: BTreeMap<String, Instance>,
    pub consumer: Option<Consumer>,
    pub asleep: bool,
    /// Dead letters that lie there.
    pub letters: u64,
    pub history: History,
    /// Time, failed attempts and dead letters of the last minute.
    troubles: VecDeque<(u64, u64, u64)>,
    rate: f64,
    ms: f64,
}

impl Vitals {
    /// Takes in one look.
    pub fn look(&mut self, at: u64, workers: &[&Running], consumer: Option<&Consumer>) {
        let (mut handed, mut failed, mut dead, mut runs, mut busy) = (0.0, 0.0, 0.0, 0, 0);
        for worker in workers {
            let before = self.instances.get(&worker.id);
            let seconds =
                before.map_or(0.0, |before| at.saturating_sub(before.seen) as f64 / 1000.0);
            if let Some(before) = before.filter(|_| seconds > 0.0) {
                let more =
                    |of: fn(&Counts) -> u64| of(&worker.counts).saturating_sub(of(&before.counts));
                handed += more(|c| c.delivered) as f64 / seconds;
                failed += more(|c| c.retried) as f64 / seconds;
                dead += more(|c| c.dead) as f64 / seconds;
                (runs, busy) = (runs + more(|c| c.runs), busy + more(|c| c.busy_nanos));
                self.troubles
                    .push_back((at, more(|c| c.retried), more(|c| c.dead)));
            }
            self.instances
                .insert(worker.id.clone(), instance(worker, at));
        }
        self.instances
            .retain(|_, instance| at.saturating_sub(instance.seen) < SILENT_MS);
        self.troubles.retain(|(when, retried, dead)| {
            retried + dead > 0 && at.saturating_sub(*when) < MINUTE_MS
        });
        self.consumer = consumer.cloned();
        self.rate += (handed - self.rate) * FRESH;
        if runs > 0 {
            self.ms = busy as f64 / runs as f64 / 1e6;
        }
        let point = Point {
            rate: handed as f32,
            failed: failed as f32,
            dead: dead as f32,
            lag: self.lag(),
            in_flight: self.in_flight() as u32,
            ms: if runs > 0 { self.ms as f32 } else { 0.0 },
        };
        self.history.push(at, point);
    }

    /// Events handed to its workers, per second.
    pub fn rate(&self) -> f64 {
        if self.rate < 0.01 { 0.0 } else { self.rate }
    }

    pub fn lag(&self) -> u64 {
        self.consumer
            .as_ref()
            .map_or(0, |consumer| consumer.pending)
    }

    pub fn in_flight(&self) -> u64 {
        self.instances
            .values()
            .map(|instance| instance.counts.in_flight)
            .sum()
    }

    /// Failed attempts and dead letters of the last minute.
    pub fn troubles(&self) -> (u64, u64) {
        self.troubles
            .iter()
            .fold((0, 0), |(retried, dead), (_, r, d)| (retried + r, dead + d))
    }

    pub fn health(&self) -> Health {
        let lag = self.lag();
        if self.instances.is_empty() {
            return match (self.asleep, lag) {
                (true, _) => Health::Asleep,
                (false, 0) => Health::Off,
                (false, _) => Health::Stuck,
            };
        }
        if self.troubles() != (0, 0) {
            return Health::Failing;
        }
        let behind =
            lag > A_FEW && (lag as f64 > BEHIND * self.rate || self.history.lag_grows(GROWING));
        if behind { Health::Behind } else { Health::Ok }
    }

    /// Durations of all workers together, if they count them.
    pub fn histogram(&self) -> Option<Histogram> {
        let mut all = self
            .instances
            .values()
            .filter_map(|instance| instance.histogram.as_ref());
        let mut sum = all.next()?.clone();
        all.for_each(|more| sum.add(more));
        Some(sum)
    }

    /// The numbers a browser hears every second.
    pub fn row(&self, card: &Card) -> Value {
        let (retried, dead) = self.troubles();
        let reserved = card.limits.as_ref().map_or(0, |limits| limits.concurrency);
        json!([
            rounded(self.rate()),
            self.lag(),
            self.in_flight(),
            self.instances.len(),
            self.health(),
            rounded(self.ms),
            retried,
            dead,
            self.letters,
            reserved,
        ])
    }
}

fn instance(worker: &Running, at: u64) -> Instance {
    Instance {
        version: worker.version.clone(),
        started: worker.started.clone(),
        counts: worker.counts,
        last_error: worker.last_error.clone(),
        histogram: worker.histogram.clone(),
        seen: at,
    }
}
