//! Status of a function, over all its workers.

use std::collections::{BTreeMap, VecDeque};

use oncue_admin::consumers::Consumer;
use oncue_admin::functions::{Activity, FunctionState, FunctionStatus, SILENCE_MS};
use oncue_admin::services::counters::Counters;
use oncue_admin::services::{SupervisedFunction, Worker};
use oncue_core::bus::services::DurationHistogram;
use oncue_proto::event;
use serde::Serialize;
use serde_json::{Value, json};

use crate::history::{History, MINUTE_MS, Point, Work};

/// Weight of the newest look against those before.
pub const SMOOTHING: f64 = 0.5;
/// Time a failure stays in the colour.
const TROUBLE_MS: u64 = 60_000;
/// Seconds of work before a function counts as behind, and the smallest number of events that may.
const BEHIND_SECONDS: f64 = 10.0;
const BEHIND_EVENTS: u64 = 100;
/// Five-second steps of a lag that only grows.
const GROWING_STEPS: usize = 6;
/// Events per second that are shown as none.
const SMALLEST_RATE: f64 = 0.01;

/// One worker process, as last heard.
#[derive(Debug, Clone, Default)]
pub struct Instance {
    worker: Worker,
    seen: u64,
}

impl Instance {
    /// The worker as the page reads it.
    pub fn shown(&self) -> Value {
        let worker = &self.worker;
        let stats = &worker.counters.stats;
        json!({
            "id": worker.id,
            "version": worker.version,
            "started": worker.started,
            "delivered": stats.delivered,
            "applied": stats.applied,
            "duplicates": stats.duplicates,
            "conflicts": stats.conflicts,
            "retried": stats.retried,
            "dead": stats.dead,
            "in_flight": stats.in_flight,
            "last_error": worker.last_error,
        })
    }
}

/// Meaning of a colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Health {
    Ok,
    /// Works, and more comes than it does.
    Behind,
    /// Events failed within the last minute.
    Failing,
    /// Nobody runs it, and events wait.
    Stuck,
    /// Outputs that are committed find no room in the stream they go to, or no leader there.
    Blocked,
    /// Consumer paused: whoever runs gets no event.
    Paused,
    /// Nobody runs it, and nothing waits.
    Off,
    /// Nobody runs it, and `oncue up` starts it when an event comes.
    Asleep,
}

/// Failed attempts and dead letters.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Troubles {
    pub retried: u64,
    pub dead: u64,
}

#[derive(Debug, Clone, Default)]
pub struct Status {
    /// By id.
    pub instances: BTreeMap<String, Instance>,
    pub consumer: Option<Consumer>,
    asleep: bool,
    /// Bounds and processes, where some `oncue up` keeps it.
    pub supervised: Option<SupervisedFunction>,
    pub state: FunctionState,
    /// When the stream took the oldest event it is not done with, Unix milliseconds.
    pub oldest: Option<u64>,
    /// Dead letters that lie there.
    pub letters: u64,
    pub history: History,
    /// Troubles of the last minute, with when they were seen.
    troubles: VecDeque<(u64, Troubles)>,
    rate: f64,
    ms: f64,
    /// Work by version that is in no minute yet.
    work: BTreeMap<String, Work>,
}

impl Status {
    /// Takes in one look; without activity, no worker answered.
    pub fn look(&mut self, at: u64, found: &FunctionStatus<'_>, activity: Option<&Activity>) {
        for worker in &found.workers {
            let instance = Instance {
                worker: (*worker).clone(),
                seen: at,
            };
            self.instances.insert(worker.id.clone(), instance);
        }
        self.instances
            .retain(|_, instance| at.saturating_sub(instance.seen) < SILENCE_MS);
        self.consumer = found.consumer.cloned();
        self.asleep = found.supervised.is_some_and(SupervisedFunction::is_asleep);
        self.supervised = found.supervised.cloned();
        self.state = found.state();
        let activity = activity.cloned().unwrap_or_default();
        self.take_troubles(at, &activity.added);
        for (version, added) in &activity.by_version {
            let work = self.work.entry(version.clone()).or_default();
            work.add(&Work::of(added));
        }
        let per_second = activity.per_second;
        self.rate += (per_second.delivered - self.rate) * SMOOTHING;
        let ms = activity.added.average_ms();
        self.ms = ms.unwrap_or(self.ms);
        let point = Point {
            rate: per_second.delivered as f32,
            failed: per_second.retried as f32,
            dead: per_second.dead as f32,
            lag: self.lag(),
            in_flight: self.in_flight() as u32,
            ms: ms.unwrap_or(0.0) as f32,
        };
        self.history.push(at, point);
    }

    /// Work by version since it was taken last.
    pub fn take_work(&mut self) -> BTreeMap<String, Work> {
        std::mem::take(&mut self.work)
    }

    fn take_troubles(&mut self, at: u64, added: &Counters) {
        let new = Troubles {
            retried: added.stats.retried,
            dead: added.stats.dead,
        };
        if new != Troubles::default() {
            self.troubles.push_back((at, new));
        }
        self.troubles
            .retain(|(seen, _)| at.saturating_sub(*seen) < TROUBLE_MS);
    }

    /// Events handed to its workers, per second.
    pub fn rate(&self) -> f64 {
        if self.rate < SMALLEST_RATE {
            0.0
        } else {
            self.rate
        }
    }

    /// Events not yet handed to any worker.
    pub fn lag(&self) -> u64 {
        let consumer = self.consumer.as_ref();
        consumer.map_or(0, |consumer| consumer.info.num_pending)
    }

    /// Events that workers hold; where none answers, those that it was handed and is not done with.
    pub fn in_flight(&self) -> u64 {
        if self.instances.is_empty() {
            let consumer = self.consumer.as_ref();
            return consumer.map_or(0, |consumer| consumer.info.num_ack_pending);
        }
        self.total().stats.in_flight
    }

    fn is_paused(&self) -> bool {
        let consumer = self.consumer.as_ref();
        consumer.is_some_and(|consumer| consumer.info.paused)
    }

    /// Commits whose outputs are in no stream yet.
    pub fn waiting_outputs(&self) -> u64 {
        self.total().stats.waiting_outputs
    }

    /// Sum over its workers.
    fn total(&self) -> Counters {
        let mut total = Counters::default();
        for instance in self.instances.values() {
            total.add(&instance.worker.counters);
        }
        total
    }

    /// Failed attempts and dead letters of the last minute.
    pub fn troubles(&self) -> Troubles {
        let mut sum = Troubles::default();
        for (_, troubles) in &self.troubles {
            sum.retried += troubles.retried;
            sum.dead += troubles.dead;
        }
        sum
    }

    pub fn health(&self) -> Health {
        let lag = self.lag();
        if self.is_paused() {
            return Health::Paused;
        }
        if self.instances.is_empty() {
            return match (self.asleep, lag + self.in_flight()) {
                (true, _) => Health::Asleep,
                (false, 0) => Health::Off,
                (false, _) => Health::Stuck,
            };
        }
        if self.waiting_outputs() > 0 {
            return Health::Blocked;
        }
        if self.troubles() != Troubles::default() {
            return Health::Failing;
        }
        let is_slow = lag as f64 > BEHIND_SECONDS * self.rate;
        if lag > BEHIND_EVENTS && (is_slow || self.history.lag_grows(GROWING_STEPS)) {
            return Health::Behind;
        }
        Health::Ok
    }

    /// Whether its process ends on its own as soon as it is started.
    pub fn is_ending_again_and_again(&self) -> bool {
        let supervised = self.supervised.as_ref();
        supervised.is_some_and(|kept| kept.has("failing"))
    }

    /// [Sentence](Self::sentence) with the last error, which may quote an event: for whoever has logged in.
    pub fn reason(&self, function: &str) -> Option<String> {
        let said = self.sentence(function)?;
        let is_failing = self.health() == Health::Failing;
        match self.last_error().filter(|_| is_failing) {
            Some(last) => Some(format!("{said} Last: {last}")),
            None => Some(said),
        }
    }

    /// Sentence on what is wrong, with the way out; `None` where nothing is.
    pub fn sentence(&self, function: &str) -> Option<String> {
        let lag = self.lag();
        if self.is_ending_again_and_again() {
            return Some(format!(
                "Its process ends on its own again and again; `oncue logs {function}` has its last words."
            ));
        }
        let said = match self.health() {
            Health::Ok | Health::Off | Health::Asleep => return None,
            Health::Paused => {
                format!("It is paused, and its events wait: `oncue resume {function}`.")
            }
            Health::Stuck => format!(
                "{} events wait and no worker answers: start it with `oncue up`; where it runs, `oncue logs {function}` says why it does not start.",
                lag + self.in_flight()
            ),
            Health::Blocked => format!(
                "{} commits wait for a stream to take what follows: it is full, absent or without a leader; `oncue doctor` says which.",
                self.waiting_outputs()
            ),
            Health::Failing => {
                let Troubles { retried, dead } = self.troubles();
                format!(
                    "Within the last minute {retried} attempts failed and {dead} events were set aside."
                )
            }
            Health::Behind => {
                let seconds = lag as f64 / self.rate().max(SMALLEST_RATE);
                format!(
                    "{lag} events wait; at {:.1} a second that is {seconds:.0} s of work. Raise `max` or `concurrency` in oncue.toml.",
                    self.rate()
                )
            }
        };
        Some(said)
    }

    /// Workers that started within the minute from then on.
    pub fn started(&self, from: u64) -> usize {
        let times = self
            .instances
            .values()
            .filter_map(|one| event::parse_time(&one.worker.started));
        times
            .filter(|at| (from..from + MINUTE_MS).contains(at))
            .count()
    }

    fn last_error(&self) -> Option<&str> {
        let mut errors = self
            .instances
            .values()
            .map(|one| one.worker.last_error.as_str());
        errors.find(|error| !error.is_empty())
    }

    /// Durations of all workers together, if they count them.
    pub fn histogram(&self) -> Option<DurationHistogram> {
        let histogram = self.total().stats.duration_ms;
        (!histogram.counts.is_empty()).then_some(histogram)
    }

    /// Numbers a browser is told every second.
    pub fn row(&self, reserved: usize) -> Value {
        let troubles = self.troubles();
        json!([
            rounded(self.rate()),
            self.lag(),
            self.in_flight(),
            self.instances.len(),
            self.health(),
            rounded(self.ms),
            troubles.retried,
            troubles.dead,
            self.letters,
            reserved,
        ])
    }
}

/// Two digits behind the point.
pub fn rounded(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}
