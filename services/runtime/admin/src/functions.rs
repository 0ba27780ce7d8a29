//! How functions fare: one look at the bus ([`Overview`]), one function over all its workers ([`FunctionStatus`]),
//! and rates between two looks ([`RateMeter`]).
//!
//! Three sources say three things, and none of them is asked to keep anything for us:
//!
//! | source | says |
//! |---|---|
//! | consumer on the bus | events not yet handed out, events in flight, redeliveries; also of functions nobody runs |
//! | worker on `$SRV.STATS` | counters since it started, durations, last error |
//! | `oncue up` on `$SRV.STATS` | which processes it keeps and in which phase: who sleeps, who keeps failing |
//!
//! Counters begin at 0 with each worker and are lost with it. Totals are therefore those of the workers that answer
//! now; sums over all time are what `oncue audit` is for.
//!
//! One look costs one question on `$SRV.STATS` and, at the same time, one `STREAM.LIST`; then one `CONSUMER.LIST`
//! for each stream, all at once. [`FunctionStatus`] and [`RateMeter`] ask nothing: they compute from looks.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use oncue_core::bus::Bus;
use oncue_core::bus::info::StreamInfo;
use oncue_proto::event;
use serde::Serialize;

use crate::AdminError;
use crate::consumers::{self, Consumer};
use crate::services::counters::Counters;
use crate::services::{self, SupervisedFunction, Worker};

/// A worker that was silent for longer is gone; a busy one may miss a question or two. Milliseconds.
pub const SILENCE_MS: u64 = 8000;

/// Everything the bus and those who answer say at one moment.
#[derive(Debug, Default)]
pub struct Overview {
    /// When the workers had answered, Unix milliseconds: rates are told from what was counted then.
    pub at: u64,
    /// Streams with events, by name.
    /// Streams of dead letters and timers are among them, buckets and object stores are not.
    pub streams: Vec<StreamInfo>,
    /// Durable consumers by function. One function has one consumer: the domain of its triggers is one stream.
    pub consumers: BTreeMap<String, Consumer>,
    /// Workers that answered, of whatever function.
    /// One that was too busy to answer is missing, and workers of functions that `oncue.toml` does not name are
    /// there.
    pub workers: Vec<Worker>,
    /// Supervised functions by name, from every `oncue up` that answers.
    /// Empty where functions run in containers or by hand: nobody supervises them here.
    pub supervised: BTreeMap<String, SupervisedFunction>,
}

impl Overview {
    /// Asks the bus and everybody on it. Answers are waited for until none has come for `gap`: workers answer within
    /// milliseconds, and one that is busy for longer is missed once.
    ///
    /// Takes `gap` longer than the slowest answer, and then the time of the consumers' lists. Consumers are read
    /// last: what a worker has finished after it answered may already be gone from their lag.
    ///
    /// # Errors
    /// NATS or JetStream does not answer. Nobody answering on `$SRV` is no error.
    pub async fn read(bus: &Bus, gap: Duration) -> Result<Self, AdminError> {
        let stats = bus.service_instances("$SRV.STATS", gap);
        let (instances, streams) = tokio::join!(stats, consumers::event_streams(bus));
        let instances = instances?;
        let at = event::now_ms();
        let streams = streams?;
        Ok(Self {
            at,
            consumers: consumers::of_streams(bus, &streams).await?,
            streams,
            workers: services::workers(&instances),
            supervised: services::supervised(&instances),
        })
    }

    /// Functions that somebody runs, and that have a consumer.
    /// Workers without a consumer are left out: before `oncue apply` they get no events.
    pub fn running(&self) -> BTreeSet<&String> {
        let running = self.workers.iter().map(|worker| &worker.function);
        running
            .filter(|name| self.consumers.contains_key(*name))
            .collect()
    }

    /// Status of one function; of one that nobody knows, that it is stopped.
    /// Asks nothing and never fails.
    pub fn status(&self, function: &str) -> FunctionStatus<'_> {
        FunctionStatus {
            consumer: self.consumers.get(function),
            workers: self
                .workers
                .iter()
                .filter(|worker| worker.function == function)
                .collect(),
            supervised: self.supervised.get(function),
        }
    }
}

/// One function over all its workers.
#[derive(Debug, Clone, Default)]
pub struct FunctionStatus<'o> {
    /// `None` before `oncue apply`, and once it was removed.
    pub consumer: Option<&'o Consumer>,
    /// Processes that answered.
    pub workers: Vec<&'o Worker>,
    /// `None` where its workers run under somebody else's care: a container engine, or a shell.
    pub supervised: Option<&'o SupervisedFunction>,
}

impl FunctionStatus<'_> {
    /// Sum over its workers.
    /// Falls when a worker ends, since its counters end with it; rates come from [`RateMeter`] and not from two
    /// totals.
    pub fn total(&self) -> Counters {
        let mut total = Counters::default();
        for worker in &self.workers {
            total.add(&worker.counters);
        }
        total
    }

    /// Last error of the first worker that had one.
    /// First in the order of the answers, not of time: workers do not say when it happened.
    pub fn last_error(&self) -> Option<&str> {
        let mut errors = self.workers.iter().map(|worker| worker.last_error.as_str());
        errors.find(|error| !error.is_empty())
    }

    /// State of the function as a whole. One that answers runs; the rest is known to `oncue up` alone, which sees
    /// processes that are too young or too busy to answer.
    ///
    /// Phases count in this order: failing, paused, running, starting, stopping, asleep. One failing process of many makes
    /// the function failing, because somebody should look.
    #[allow(clippy::match_same_arms)] // in the order in which phases count
    pub fn state(&self) -> FunctionState {
        let answers = !self.workers.is_empty();
        let is_paused = self.consumer.is_some_and(|consumer| consumer.info.paused);
        match self.supervised {
            Some(kept) if kept.has("failing") => FunctionState::Failing,
            _ if is_paused => FunctionState::Paused,
            None if answers => FunctionState::Running,
            None => FunctionState::Stopped,
            // One that does not answer is too busy to.
            Some(kept) if answers || kept.has("up") => FunctionState::Running,
            Some(kept) if kept.has("starting") => FunctionState::Starting,
            Some(kept) if kept.has("stopping") => FunctionState::Stopping,
            Some(kept) if kept.is_asleep() => FunctionState::Asleep,
            Some(kept) if kept.max > 0 => FunctionState::Starting,
            Some(_) => FunctionState::Stopped,
        }
    }
}

/// State of a function as a whole.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum FunctionState {
    /// No process, and `oncue up` starts one when an event comes.
    Asleep,
    /// A process was started and has not answered yet.
    Starting,
    /// At least one process works.
    Running,
    /// A process ended on its own and is started again after a pause.
    Failing,
    /// A consumer that is paused: whoever runs gets no event.
    Paused,
    /// The last processes finish what they have in flight.
    Stopping,
    /// No process, and nobody who would start one.
    /// Without an `oncue up` nobody can tell it from a function whose workers are only too busy to answer.
    #[default]
    Stopped,
}

impl FunctionState {
    /// Every state there is.
    pub const ALL: [Self; 7] = [
        Self::Asleep,
        Self::Starting,
        Self::Running,
        Self::Failing,
        Self::Paused,
        Self::Stopping,
        Self::Stopped,
    ];

    /// Word for a table; the same as in JSON.
    pub fn word(self) -> &'static str {
        match self {
            Self::Asleep => "asleep",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Failing => "failing",
            Self::Paused => "paused",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
        }
    }
}

/// Rates from the differences between looks. Each worker is compared with itself: workers come, go and begin anew,
/// and the sum over a function would fall and jump with them.
///
/// Of a first look there are no rates. A worker that misses a look is compared with what it said before, over the
/// longer time; one that misses more than [`SILENCE_MS`] is forgotten. Memory: the counters of each worker that was
/// heard within [`SILENCE_MS`].
#[derive(Debug, Default)]
pub struct RateMeter {
    last_look: Option<u64>,
    /// By function and instance.
    workers: BTreeMap<(String, String), LastCount>,
}

/// Counters of a worker as last heard.
#[derive(Debug)]
struct LastCount {
    at: u64,
    counters: Counters,
}

/// One function's work between two looks, over all its workers.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Activity {
    /// Workers that answered.
    /// At this look alone; workers that were silent do not count.
    pub workers: usize,
    /// Since the workers started.
    pub total: Counters,
    /// Since the look before.
    pub added: Counters,
    /// Since the look before, by the version of the workers.
    pub by_version: BTreeMap<String, Counters>,
    /// Sum of the workers' own rates, each over the time since that worker was last heard.
    pub per_second: Rates,
    /// Last error of the first worker that had one; empty for none.
    pub last_error: String,
}

/// Events per second; `failed` counts runs.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Rates {
    /// Handed to the workers, again and again those that are tried again.
    pub delivered: f64,
    /// Done, with their effect.
    pub applied: f64,
    /// Failed and put back.
    pub retried: f64,
    /// Set aside as dead letters.
    pub dead: f64,
    /// Runs of the handler that failed, for whatever reason.
    pub failed: f64,
}

impl Rates {
    /// Adds the work of one worker over its own interval.
    fn add(&mut self, added: &Counters, seconds: f64) {
        self.delivered += added.stats.delivered as f64 / seconds;
        self.applied += added.stats.applied as f64 / seconds;
        self.retried += added.stats.retried as f64 / seconds;
        self.dead += added.stats.dead as f64 / seconds;
        self.failed += added.failed as f64 / seconds;
    }
}

impl RateMeter {
    /// Takes in the workers that answered at `at` (Unix ms); returns the activity of each function among them.
    /// Functions of which no worker answered are not in the result.
    pub fn update(&mut self, at: u64, workers: &[Worker]) -> BTreeMap<String, Activity> {
        let mut functions: BTreeMap<String, Activity> = BTreeMap::new();
        for worker in workers {
            let activity = functions.entry(worker.function.clone()).or_default();
            activity.workers += 1;
            activity.total.add(&worker.counters);
            if activity.last_error.is_empty() {
                activity.last_error.clone_from(&worker.last_error);
            }
            if let Some(before) = self.before(worker) {
                let added = worker.counters.since(&before.counters);
                let seconds = at.saturating_sub(before.at).max(1) as f64 / 1000.0;
                activity.per_second.add(&added, seconds);
                activity.added.add(&added);
                let of_version = activity.by_version.entry(worker.version.clone());
                of_version.or_default().add(&added);
            }
        }
        for worker in workers {
            let name = (worker.function.clone(), worker.id.clone());
            let counters = worker.counters.clone();
            self.workers.insert(name, LastCount { at, counters });
        }
        self.workers
            .retain(|_, last| at.saturating_sub(last.at) < SILENCE_MS);
        self.last_look = Some(at);
        functions
    }

    /// Counters a worker is compared with: its own of the look before; none at all for one that has started since.
    /// `None` for one that was there and not heard: when it did what it has done is not known.
    fn before(&self, worker: &Worker) -> Option<LastCount> {
        let name = (worker.function.clone(), worker.id.clone());
        if let Some(last) = self.workers.get(&name) {
            return Some(LastCount {
                at: last.at,
                counters: last.counters.clone(),
            });
        }
        let last_look = self.last_look?;
        let started = event::parse_time(&worker.started)?;
        (started >= last_look).then(|| LastCount {
            at: last_look,
            counters: Counters::default(),
        })
    }
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "rates of these tests are exact fractions")]
mod tests {
    use oncue_core::bus::services::{DurationHistogram, WorkerStats};

    use crate::services::counters::quantile;

    use super::*;
    use crate::services::SupervisedWorker;

    fn worker(id: &str, done: u64, counts: &[u64]) -> Worker {
        Worker {
            function: "f".into(),
            id: id.into(),
            counters: Counters {
                stats: WorkerStats {
                    delivered: done,
                    applied: done,
                    dead: 1,
                    duration_ms: histogram(&[1.0, 10.0, 100.0], counts),
                    ..WorkerStats::default()
                },
                runs: done,
                failed: 2,
                busy_nanos: done * 3_000_000,
            },
            last_error: "no disk".into(),
            ..Worker::default()
        }
    }

    fn histogram(bounds: &[f64], counts: &[u64]) -> DurationHistogram {
        DurationHistogram {
            bounds: bounds.to_vec(),
            counts: counts.to_vec(),
        }
    }

    #[test]
    fn rates_are_what_came_between_two_looks() {
        let mut meter = RateMeter::default();
        let first = meter.update(1000, &[worker("a", 10, &[])]).remove("f");
        let first = first.expect("f");
        assert_eq!(
            first.per_second,
            Rates::default(),
            "of a first look nothing"
        );
        assert_eq!((first.total.stats.dead, first.total.failed), (1, 2));
        let durations = first.total.durations();
        assert_eq!((durations.p99, durations.average), (Some(3.0), true));
        assert_eq!(first.last_error, "no disk");
        // One goes on, one has started since, one was there and not heard.
        let new = Worker {
            started: "1970-01-01T00:00:02Z".into(),
            ..worker("b", 4, &[])
        };
        let old = Worker {
            started: "1970-01-01T00:00:00Z".into(),
            ..worker("c", 1000, &[])
        };
        let second = meter.update(3000, &[worker("a", 30, &[]), new, old]);
        assert_eq!(second["f"].per_second.applied, 12.0);
        assert_eq!(second["f"].workers, 3);
        // Under its old name it has begun anew.
        let third = meter.update(4000, &[worker("a", 6, &[])]);
        assert_eq!(third["f"].per_second.applied, 6.0);
        // A silence is no pause in which nothing was done.
        let fourth = meter.update(4000 + SILENCE_MS, &[worker("a", 9, &[])]);
        assert_eq!(fourth["f"].per_second.applied, 3.0 / 8.0);
    }

    #[test]
    fn quantiles_come_from_the_histogram_of_the_last_interval() {
        let bounds = [1.0, 10.0, 100.0];
        let of = |counts: &[u64], q| quantile(&histogram(&bounds, counts), q);
        assert_eq!(of(&[0, 100, 0, 0], 0.5), Some(5.5));
        assert_eq!(of(&[50, 49, 0, 1], 0.99), Some(10.0));
        assert_eq!(of(&[0, 0, 0, 5], 0.5), Some(100.0));
        assert_eq!(of(&[0, 0], 0.5), None);
        assert_eq!(quantile(&histogram(&[], &[5]), 0.5), None);
        let mut meter = RateMeter::default();
        meter.update(0, &[worker("a", 100, &[100, 0, 0, 0])]);
        let second = meter.update(1000, &[worker("a", 110, &[100, 0, 10, 0])]);
        let durations = second["f"].added.durations();
        assert_eq!((durations.p50, durations.average), (Some(55.0), false));
    }

    #[test]
    fn durations_in_other_buckets_are_left_out() {
        let mut sum = worker("a", 3, &[1, 2, 0, 0]).counters;
        sum.add(&worker("b", 3, &[1, 2, 0, 0]).counters);
        let mut other = worker("c", 9, &[]).counters;
        other.stats.duration_ms = histogram(&[7.0], &[9, 9]);
        sum.add(&other);
        assert_eq!(sum.stats.duration_ms.counts, [2, 4, 0, 0]);
        assert_eq!(sum.stats.applied, 15);
    }

    #[test]
    fn states() {
        let worker = Worker::default();
        for (phases, answers, expected) in [
            (&[][..], false, FunctionState::Asleep),
            (&["starting"], false, FunctionState::Starting),
            (&["starting"], true, FunctionState::Running),
            (&["up", "stopping"], false, FunctionState::Running), // too busy to answer
            (&["up", "failing"], true, FunctionState::Failing),
            (&["stopping"], false, FunctionState::Stopping),
        ] {
            let workers = phases.iter().map(|phase| SupervisedWorker {
                pid: 1,
                phase: (*phase).to_owned(),
            });
            let kept = SupervisedFunction {
                min: 0,
                max: 2,
                workers: workers.collect(),
                ..SupervisedFunction::default()
            };
            let status = FunctionStatus {
                supervised: Some(&kept),
                workers: if answers { vec![&worker] } else { Vec::new() },
                ..FunctionStatus::default()
            };
            assert_eq!(status.state(), expected, "{phases:?}");
        }
        let none = SupervisedFunction::default();
        let off = FunctionStatus {
            supervised: Some(&none),
            ..FunctionStatus::default()
        };
        assert_eq!(off.state(), FunctionState::Stopped);
        assert_eq!(FunctionStatus::default().state(), FunctionState::Stopped);
        let alone = FunctionStatus {
            workers: vec![&worker],
            ..FunctionStatus::default()
        };
        assert_eq!(alone.state(), FunctionState::Running);
    }
}
