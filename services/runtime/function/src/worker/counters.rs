//! Counters of a worker since it started. Each costs an addition. Read by `$SRV.STATS` [NATS ADR-32],
//! by `/metrics` in the Prometheus text format, and by OTLP.
//!
//! Names and units of the conventions are given where they go out, in [`metrics`](super::metrics)
//! and [`discovery`](super::discovery).

use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use opentelemetry::trace::TraceId;

use oncue_core::bus::services::DURATION_BOUNDS;
use oncue_telemetry::SpanIds;
use oncue_telemetry::metrics::{Exemplar, Histogram, Timings};

/// How a handler's run ends; each has a histogram of its own. The first stands for none of the others.
///
/// Values of `error.type` [OpenTelemetry, recording errors], success being the absence of it. A
/// class of the author counts as `error`, so that the number of series is bounded.
const ENDS: [&str; 5] = ["", "error", "rejected", "panic", "timeout"];

/// Counts of one worker, shared by all its parts. Atomics are relaxed: each number is right by
/// itself, and two that are read together may be an event apart.
#[derive(Default)]
pub(crate) struct Counters {
    /// Deliveries taken from the pull. `messaging.client.consumed.messages`.
    pub delivered: AtomicU64,
    /// Events applied and acked here. `faas.invocations`.
    pub applied: AtomicU64,
    /// Deliveries of events that were settled before. `oncue.duplicates`.
    pub duplicates: AtomicU64,
    /// Events that had to run again because their row had changed. `oncue.conflicts`.
    pub conflicts: AtomicU64,
    /// Deliveries given back. `oncue.retries`.
    pub retried: AtomicU64,
    /// Events set aside here.
    pub dead: AtomicU64,
    /// Messages waiting in the stream, as last heard.
    pub lag: AtomicU64,
    /// Commits of the function whose outputs are in no stream yet, as its relay last found them.
    /// `oncue.outputs.waiting`.
    pub waiting_outputs: AtomicU64,
    /// Durations of runs by their end. `messaging.process.duration`, and all together
    /// `faas.invoke_duration`.
    runs: [AtomicHistogram; ENDS.len()],
    /// Durations of publishes, all of whose outputs were taken.
    /// `messaging.client.operation.duration`.
    sends: AtomicHistogram,
    /// Durations of publishes that lacked an ack, under `error.type` `publish`.
    failed_sends: AtomicHistogram,
    /// Messages tried to publish. `messaging.client.sent.messages`.
    pub sent: AtomicU64,
    /// Failed attempts and dead letters.
    pub failed: Failures,
    /// Durations once more, for OTLP: its SDK takes values and not finished histograms. `None` where metrics are not
    /// pushed.
    timings: Option<Timings>,
}

/// Failures by class, and the last one. They are rare, so a lock will do.
#[derive(Default)]
pub(crate) struct Failures {
    /// Failed attempts by class. `faas.errors`, and of class `timeout` `faas.timeouts`.
    classes: Mutex<BTreeMap<&'static str, u64>>,
    /// Dead letters by reason. `oncue.dead_letters`.
    reasons: Mutex<BTreeMap<&'static str, u64>>,
    /// Text of the last failure, as far as it may be shown. `last_error` of `$SRV.STATS`.
    last: Mutex<String>,
}

impl Counters {
    /// Counters of a worker of `function`, all at 0. Telemetry has been started.
    pub fn new(function: &str) -> Self {
        Self {
            timings: Timings::new(function, &ENDS),
            ..Self::default()
        }
    }

    /// Counts a delivery and numbers it.
    ///
    /// The number, from 0, names the delivery in the in-flight set.
    pub fn delivered(&self) -> u64 {
        self.delivered.fetch_add(1, Ordering::Relaxed)
    }

    /// A handler ran; `class` is that of its error.
    ///
    /// `ids` are for the exemplar of its bucket.
    pub fn ran(&self, elapsed: Duration, class: Option<&'static str>, ids: Option<&SpanIds>) {
        let end = class.map_or(0, |class| {
            ENDS.iter().position(|end| *end == class).unwrap_or(1)
        });
        self.runs[end].record(elapsed, ids);
        if let Some(timings) = &self.timings {
            timings.run(elapsed, ENDS[end]);
        }
    }

    /// Counts events whose run lost a race, or was put off by a neighbour.
    pub fn conflicts(&self, events: usize) {
        self.conflicts.fetch_add(events as u64, Ordering::Relaxed);
    }

    /// `outcome` is a text of [`Outcome`](super::invocation::Outcome).
    pub fn settled(&self, outcome: &str) {
        let counter = match outcome {
            "applied" => &self.applied,
            "duplicate" => &self.duplicates,
            "retried" => &self.retried,
            _ => &self.dead,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// `events` were published together, or were not.
    pub fn sent(&self, events: usize, elapsed: Duration, ok: bool) {
        self.sent.fetch_add(events as u64, Ordering::Relaxed);
        (if ok { &self.sends } else { &self.failed_sends }).record(elapsed, None);
        if let Some(timings) = &self.timings {
            timings.send(elapsed, ok);
        }
    }

    /// An attempt failed; `text` is what may be shown of it.
    pub fn failed(&self, class: &'static str, text: &str) {
        *self.failed.classes.lock().entry(class).or_default() += 1;
        let mut last = self.failed.last.lock();
        last.clear();
        last.push_str(if text.is_empty() { class } else { text });
    }

    /// An event is set aside.
    pub fn buried(&self, reason: &'static str) {
        *self.failed.reasons.lock().entry(reason).or_default() += 1;
    }

    /// Empty while nothing has failed.
    pub fn last_error(&self) -> String {
        self.failed.last.lock().clone()
    }

    /// Failed attempts by class, sorted; only classes that have come up.
    pub fn classes(&self) -> Vec<(&'static str, u64)> {
        self.failed
            .classes
            .lock()
            .iter()
            .map(|(class, count)| (*class, *count))
            .collect()
    }

    /// Dead letters by reason, sorted; only reasons that have come up.
    pub fn reasons(&self) -> Vec<(&'static str, u64)> {
        self.failed
            .reasons
            .lock()
            .iter()
            .map(|(reason, count)| (*reason, *count))
            .collect()
    }

    /// All runs: how many in each bucket, and nanoseconds in sum.
    pub fn runs(&self) -> (Vec<u64>, u64) {
        let mut all = vec![0; DURATION_BOUNDS.len() + 1];
        let mut nanos = 0;
        for histogram in &self.runs {
            nanos += histogram.nanos.load(Ordering::Relaxed);
            all.iter_mut()
                .zip(&histogram.counts)
                .for_each(|(sum, count)| *sum += count.load(Ordering::Relaxed));
        }
        (all, nanos)
    }

    /// Runs by how they ended.
    pub fn run_histograms(&self) -> Vec<(&'static str, Histogram)> {
        ENDS.iter()
            .zip(&self.runs)
            .map(|(end, histogram)| (*end, histogram.snapshot()))
            .collect()
    }

    /// Publishes: good ones and failed ones.
    pub fn send_histograms(&self) -> [Histogram; 2] {
        [self.sends.snapshot(), self.failed_sends.snapshot()]
    }
}

/// Histogram that costs an event two additions.
#[derive(Default)]
struct AtomicHistogram {
    /// Not cumulative; the last is for what is longer than every bound.
    counts: [AtomicU64; DURATION_BOUNDS.len() + 1],
    /// Nanoseconds in sum.
    nanos: AtomicU64,
    /// The last sampled run, by bucket.
    ///
    /// Kept for `/metrics` alone [OpenMetrics 1.0, exemplars].
    exemplars: Mutex<BTreeMap<usize, Sampled>>,
}

/// Sampled run, not yet made into text.
///
/// Only the last of a bucket is ever shown, and only when somebody asks.
struct Sampled {
    trace: TraceId,
    seconds: f64,
    /// Unix milliseconds.
    at: u64,
}

impl AtomicHistogram {
    /// Rounds up to the microsecond, so a value equal to a bound falls below it, as Prometheus has
    /// it.
    fn record(&self, elapsed: Duration, ids: Option<&SpanIds>) {
        let micros = elapsed.as_nanos().div_ceil(1000) as u64;
        let bucket = DURATION_BOUNDS.partition_point(|bound| *bound < micros);
        self.counts[bucket].fetch_add(1, Ordering::Relaxed);
        self.nanos
            .fetch_add(elapsed.as_nanos() as u64, Ordering::Relaxed);
        if let Some(ids) = ids.filter(|ids| ids.sampled() && oncue_telemetry::listen().is_some()) {
            let sampled = Sampled {
                trace: ids.trace,
                seconds: elapsed.as_secs_f64(),
                at: oncue_proto::event::now_ms(),
            };
            self.exemplars.lock().insert(bucket, sampled);
        }
    }

    /// In seconds, the unit of every duration in the conventions.
    fn snapshot(&self) -> Histogram {
        let counts = self.counts.iter();
        let exemplars = self.exemplars.lock();
        let exemplars = exemplars.iter().map(|(bucket, sampled)| Exemplar {
            bucket: *bucket,
            trace: sampled.trace.to_string(),
            value: sampled.seconds,
            at: sampled.at,
        });
        Histogram {
            bounds: DURATION_BOUNDS
                .iter()
                .map(|micros| *micros as f64 / 1e6)
                .collect(),
            counts: counts.map(|count| count.load(Ordering::Relaxed)).collect(),
            sum: self.nanos.load(Ordering::Relaxed) as f64 / 1e9,
            exemplars: exemplars.collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_falls_into_the_bucket_of_its_time_and_its_end() {
        let counters = Counters::default();
        for micros in [100, 101, 5_000, 10_000_001] {
            counters.ran(Duration::from_micros(micros), None, None);
        }
        counters.ran(Duration::from_millis(1), Some("panic"), None);
        counters.ran(Duration::from_millis(1), Some("a class of its own"), None);
        let (counts, nanos) = counters.runs();
        assert_eq!(
            (counts[0], counts[1], counts[3], counts[5], counts[19]),
            (1, 1, 2, 1, 1)
        );
        assert_eq!(nanos, (100 + 101 + 5_000 + 10_000_001 + 2_000) * 1000);
        let ends: Vec<u64> = counters
            .run_histograms()
            .iter()
            .map(|(_, histogram)| histogram.count())
            .collect();
        assert_eq!(ends, [4, 1, 0, 1, 0]);
    }

    #[test]
    fn the_last_error_is_what_may_be_shown() {
        let counters = Counters::default();
        counters.failed("rejected", "rejected at src/a.rs:1");
        counters.failed("redis", "");
        assert_eq!(counters.last_error(), "redis");
        assert_eq!(counters.classes(), [("redis", 1), ("rejected", 1)]);
    }
}
