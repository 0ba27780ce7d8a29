//! What a worker has done since it started: counts that cost an addition each, read by `$SRV.STATS`, `/metrics` and OTLP.

use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use opentelemetry::trace::TraceId;

use oncue_telemetry::SpanIds;
use oncue_telemetry::metrics::{Exemplar, Histogram, Timings};

/// How a handler's run ends; each has a histogram of its own. The first stands for none of the others.
const ENDS: [&str; 5] = ["", "error", "rejected", "panic", "timeout"];

/// Upper bounds in microseconds. Those of the conventions begin at 5 ms, where most handlers are long done; among these
/// are all of them.
pub(crate) const BOUNDS: [u64; 19] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 75_000, 100_000, 250_000, 500_000,
    750_000, 1_000_000, 2_500_000, 5_000_000, 7_500_000, 10_000_000,
];

#[derive(Default)]
pub(crate) struct Counters {
    pub delivered: AtomicU64,
    pub applied: AtomicU64,
    pub duplicates: AtomicU64,
    pub conflicts: AtomicU64,
    pub retried: AtomicU64,
    pub dead: AtomicU64,
    /// Messages waiting in the stream, as last heard.
    pub lag: AtomicU64,
    runs: [AtomicHistogram; ENDS.len()],
    sends: AtomicHistogram,
    failed_sends: AtomicHistogram,
    pub sent: AtomicU64,
    pub failed: Failures,
}

/// Failures by class, and the last one. They are rare, so a lock will do.
#[derive(Default)]
pub(crate) struct Failures {
    classes: Mutex<BTreeMap<&'static str, u64>>,
    reasons: Mutex<BTreeMap<&'static str, u64>>,
    last: Mutex<String>,
}

impl Counters {
    /// Counts a delivery and numbers it.
    pub fn delivered(&self) -> u64 {
        self.delivered.fetch_add(1, Ordering::Relaxed)
    }

    /// A handler ran; `class` is that of its error.
    pub fn ran(&self, elapsed: Duration, class: Option<&'static str>, ids: Option<&SpanIds>) {
        let end = class.map_or(0, |class| {
            ENDS.iter().position(|end| *end == class).unwrap_or(1)
        });
        self.runs[end].record(elapsed, ids);
        if let Some(timings) = Timings::get() {
            timings.run(elapsed, ENDS[end]);
        }
    }

    pub fn conflicts(&self, events: usize) {
        self.conflicts.fetch_add(events as u64, Ordering::Relaxed);
    }

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
        if let Some(timings) = Timings::get() {
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

    pub fn last_error(&self) -> String {
        self.failed.last.lock().clone()
    }

    pub fn classes(&self) -> Vec<(&'static str, u64)> {
        self.failed
            .classes
            .lock()
            .iter()
            .map(|(class, count)| (*class, *count))
            .collect()
    }

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
        let mut all = vec![0; BOUNDS.len() + 1];
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
    counts: [AtomicU64; BOUNDS.len() + 1],
    nanos: AtomicU64,
    /// The last sampled run, by bucket.
    exemplars: Mutex<BTreeMap<usize, Sampled>>,
}

/// Sampled run, not yet made into text.
struct Sampled {
    trace: TraceId,
    seconds: f64,
    /// Unix milliseconds.
    at: u64,
}

impl AtomicHistogram {
    fn record(&self, elapsed: Duration, ids: Option<&SpanIds>) {
        let micros = elapsed.as_nanos().div_ceil(1000) as u64;
        let bucket = BOUNDS.partition_point(|bound| *bound < micros);
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
            bounds: BOUNDS.iter().map(|micros| *micros as f64 / 1e6).collect(),
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
