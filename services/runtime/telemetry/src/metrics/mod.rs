//! Metrics as data, described once: `/metrics` writes them out, and for OTLP the SDK reads them when it sends. Only
//! times, which have no sum to read, are recorded twice where OTLP wants them.
//!
//! Names are those of the conventions, with dots [OpenTelemetry messaging, FaaS and HTTP metrics]; ours begin with
//! `oncue.`.
//!
//! ```text
//! counts in the program --Source--> Vec<Metric> --render--> /metrics (at each scrape)
//!                                       |
//!                                    observe
//!                                       v
//! times --Timings, Seconds--> instruments of the SDK --> reader --> collector
//!         (as they happen)           (at each OTEL_METRIC_EXPORT_INTERVAL)
//! ```
//!
//! Code that counts keeps its own atomics and knows neither Prometheus nor OTLP: a [`Source`] is
//! called when somebody wants to know. The SDK has no observable histogram, hence the second way
//! for times.

mod push;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use opentelemetry::KeyValue;

pub use push::{Seconds, Timings, is_pushed, observe};
pub(super) use push::{meter_of, provider};

/// Upper bounds in seconds [OpenTelemetry messaging, FaaS and HTTP metrics].
/// Above the last one comes a bucket without a bound.
pub const BOUNDS: [f64; 14] = [
    0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
];

/// Help of `messaging.process.duration`.
pub const PROCESS_HELP: &str = "Time a handler ran on one event.";
/// Help of `faas.invoke_duration`.
pub const INVOKE_HELP: &str = "Time a function ran on one event.";
/// Help of `messaging.client.operation.duration`.
pub const OPERATION_HELP: &str = "Time until the stream acked what one event caused.";

/// Metrics of a process, as they stand when it is called: the same list each time, in the same order.
/// Called by the listener and by a thread of the SDK, so it must not block.
pub type Source = Arc<dyn Fn() -> Vec<Metric> + Send + Sync>;

/// Names and values; they must come from a bounded set, never from a client.
/// Each set of values is a series that Prometheus and collectors keep for long.
pub type Labels = Vec<(&'static str, String)>;

/// Metric with all its series.
pub struct Metric {
    /// Name by the conventions, with dots.
    pub name: &'static str,
    /// Unit in UCUM: `s`, `By`, `{message}`.
    pub unit: &'static str,
    /// Sentence for people, the same in every process.
    pub help: &'static str,
    /// Series, and by their kind the type of the metric.
    pub samples: Samples,
}

/// Values of a metric, by labels.
pub enum Samples {
    /// Counts since the start, which only ever grow.
    Sums(Vec<(Labels, u64)>),
    /// Values that rise and fall, as they stand.
    Gauges(Vec<(Labels, f64)>),
    /// Times in seconds; on `/metrics` alone, see [`Seconds`].
    Histograms(Vec<(Labels, Histogram)>),
}

impl Metric {
    /// Sum with one series.
    pub fn sum(
        name: &'static str,
        unit: &'static str,
        help: &'static str,
        labels: Labels,
        count: u64,
    ) -> Self {
        Self::sums(name, unit, help, vec![(labels, count)])
    }

    /// Sum with several series.
    pub fn sums(
        name: &'static str,
        unit: &'static str,
        help: &'static str,
        counts: Vec<(Labels, u64)>,
    ) -> Self {
        Self {
            name,
            unit,
            help,
            samples: Samples::Sums(counts),
        }
    }

    /// Gauge with one series.
    /// Prometheus and OTLP both take a float.
    pub fn gauge(
        name: &'static str,
        unit: &'static str,
        help: &'static str,
        labels: Labels,
        value: f64,
    ) -> Self {
        Self::gauges(name, unit, help, vec![(labels, value)])
    }

    /// Gauge with several series.
    pub fn gauges(
        name: &'static str,
        unit: &'static str,
        help: &'static str,
        values: Vec<(Labels, f64)>,
    ) -> Self {
        Self {
            name,
            unit,
            help,
            samples: Samples::Gauges(values),
        }
    }

    /// Histogram of times, in seconds.
    pub fn seconds(
        name: &'static str,
        help: &'static str,
        histograms: Vec<(Labels, Histogram)>,
    ) -> Self {
        Self {
            name,
            unit: "s",
            help,
            samples: Samples::Histograms(histograms),
        }
    }
}

/// Histogram of times as it stands.
///
/// Bounds may be finer than those of the conventions, as in a worker, whose run times `$SRV.STATS`
/// shows from 0.1 ms.
#[derive(Clone, Debug, Default)]
pub struct Histogram {
    /// Upper bounds in seconds, ascending; a value equal to a bound belongs below it.
    pub bounds: Vec<f64>,
    /// Counts by bucket, not cumulative; one more than bounds.
    pub counts: Vec<u64>,
    /// Seconds in all.
    pub sum: f64,
    /// At most one for each bucket.
    pub exemplars: Vec<Exemplar>,
}

impl Histogram {
    /// Empty histogram with the bounds of the conventions.
    pub fn of_conventions() -> Self {
        Self {
            bounds: BOUNDS.to_vec(),
            counts: vec![0; BOUNDS.len() + 1],
            ..Self::default()
        }
    }

    /// Counts one value, in seconds.
    ///
    /// # Panics
    /// Where `counts` is not one longer than `bounds`, as in a default histogram;
    /// [`of_conventions`](Self::of_conventions) makes one that can be recorded into.
    pub fn record(&mut self, seconds: f64) {
        let bucket = self.bounds.partition_point(|bound| *bound < seconds);
        self.counts[bucket] += 1;
        self.sum += seconds;
    }

    /// Adds another with the same bounds, without its exemplars. One that was never filled takes over its bounds.
    /// Nothing checks that the bounds are equal.
    pub fn add(&mut self, other: &Self) {
        if self.bounds.is_empty() {
            self.bounds.clone_from(&other.bounds);
        }
        self.counts.resize(other.counts.len(), 0);
        for (count, more) in self.counts.iter_mut().zip(&other.counts) {
            *count += more;
        }
        self.sum += other.sum;
    }

    /// Number of values recorded.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }
}

/// Measurement whose trace can be looked at.
///
/// Shown in OpenMetrics, where a dashboard turns it into a link from a slow bucket to a trace.
#[derive(Clone, Debug)]
pub struct Exemplar {
    /// Index of the bucket it fell into.
    pub bucket: usize,
    /// Trace id in hex.
    /// 32 digits, of a trace that is sampled: another could not be found.
    pub trace: String,
    /// Seconds.
    /// Measured value itself, within its bucket.
    pub value: f64,
    /// Unix milliseconds.
    pub at: u64,
}

/// Labels as OTLP has them.
fn attributes(labels: &Labels) -> Vec<KeyValue> {
    labels
        .iter()
        .map(|(name, value)| KeyValue::new(*name, value.clone()))
        .collect()
}

/// Headers of trace context that came and were not passed on, in this process: `tracestate`, `baggage`.
static DROPPED: [AtomicU64; 2] = [const { AtomicU64::new(0) }; 2];

/// Counts a header of trace context that broke a bound and goes no further: `tracestate` or `baggage`.
pub fn context_dropped(header: &'static str) {
    let count = &DROPPED[usize::from(header == "baggage")];
    count.fetch_add(1, Ordering::Relaxed);
}

/// Counts of [`context_dropped`], a metric of every process that passes events on.
pub fn dropped_contexts() -> Metric {
    let [state, baggage] = DROPPED
        .each_ref()
        .map(|count| count.load(Ordering::Relaxed));
    let counts = [("tracestate", state), ("baggage", baggage)];
    Metric::sums(
        "oncue.telemetry.context_dropped",
        "{header}",
        "Headers of trace context that broke a bound and were not passed on.",
        counts
            .map(|(header, count)| (vec![("header", header.to_owned())], count))
            .to_vec(),
    )
}
