//! Metrics as data, said once: `/metrics` writes them out, and for OTLP the SDK reads them when it sends. Only what has no
//! sum to read, times, is recorded twice where OTLP wants it.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry::metrics::{Histogram, Meter, MeterProvider as _};
use opentelemetry_otlp::{
    Compression, MetricExporter, Protocol, WithExportConfig as _, WithHttpConfig as _,
    WithTonicConfig as _,
};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::metrics::SdkMeterProvider;

use super::settings::Otlp;

/// Upper bounds in seconds [OpenTelemetry messaging, FaaS and HTTP metrics].
pub const BOUNDS: [f64; 14] = [
    0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
];

/// One metric with all its series.
pub struct Metric {
    /// By the conventions, with dots.
    pub name: &'static str,
    /// UCUM: `s`, `{message}`.
    pub unit: &'static str,
    pub help: &'static str,
    pub points: Points,
}

pub type Labels = Vec<(&'static str, String)>;

pub enum Points {
    /// Only ever grows.
    Sums(Vec<(Labels, u64)>),
    Gauges(Vec<(Labels, f64)>),
    Spreads(Vec<(Labels, Spread)>),
}

/// A histogram as it stands.
#[derive(Clone, Debug, Default)]
pub struct Spread {
    /// Upper bounds in seconds.
    pub bounds: Vec<f64>,
    /// Not cumulative, one more than bounds.
    pub counts: Vec<u64>,
    pub sum: f64,
    /// By bucket.
    pub exemplars: Vec<(usize, Exemplar)>,
}

/// A measurement whose trace can be looked at.
#[derive(Clone, Debug)]
pub struct Exemplar {
    pub trace: String,
    pub value: f64,
    /// Unix milliseconds.
    pub at: u64,
}

/// Whoever has metrics to show.
pub type Source = Arc<dyn Fn() -> Vec<Metric> + Send + Sync>;

static METER: OnceLock<Meter> = OnceLock::new();
static TIMINGS: OnceLock<Timings> = OnceLock::new();

pub(super) fn provider(how: Otlp, resource: Resource) -> Option<SdkMeterProvider> {
    let builder = MetricExporter::builder();
    let built = if how.grpc {
        let builder = builder.with_tonic();
        if how.gzip_instead {
            builder.with_compression(Compression::Gzip).build()
        } else {
            builder.build()
        }
    } else {
        let builder = builder.with_http().with_protocol(Protocol::HttpBinary);
        if how.gzip_instead {
            builder.with_compression(Compression::Gzip).build()
        } else {
            builder.build()
        }
    };
    match built {
        Ok(exporter) => {
            let provider = SdkMeterProvider::builder()
                .with_periodic_exporter(exporter)
                .with_resource(resource)
                .build();
            let _ = METER.set(provider.meter("oncue"));
            Some(provider)
        }
        Err(e) => {
            tracing::warn!(error = %e, "no metrics over OTLP");
            None
        }
    }
}

/// Where metrics are pushed: what records them.
pub fn meter() -> Option<&'static Meter> {
    METER.get()
}

/// Lets the SDK read sums and gauges of `source` whenever it sends.
pub fn observe(source: &Source) {
    let Some(meter) = meter() else { return };
    for (at, metric) in source().into_iter().enumerate() {
        let (source, name) = (source.clone(), metric.name);
        // The list is the same each time; only its numbers change.
        let now = move || {
            source()
                .into_iter()
                .nth(at)
                .filter(|metric| metric.name == name)
                .map(|metric| metric.points)
        };
        match metric.points {
            Points::Sums(_) => {
                let counter = meter
                    .u64_observable_counter(name)
                    .with_unit(metric.unit)
                    .with_description(metric.help);
                counter
                    .with_callback(move |observer| {
                        if let Some(Points::Sums(points)) = now() {
                            for (labels, value) in &points {
                                observer.observe(*value, &attributes(labels));
                            }
                        }
                    })
                    .build();
            }
            Points::Gauges(_) => {
                let gauge = meter
                    .f64_observable_gauge(name)
                    .with_unit(metric.unit)
                    .with_description(metric.help);
                gauge
                    .with_callback(move |observer| {
                        if let Some(Points::Gauges(points)) = now() {
                            for (labels, value) in &points {
                                observer.observe(*value, &attributes(labels));
                            }
                        }
                    })
                    .build();
            }
            Points::Spreads(_) => {}
        }
    }
}

fn attributes(labels: &Labels) -> Vec<KeyValue> {
    labels
        .iter()
        .map(|(name, value)| KeyValue::new(*name, value.clone()))
        .collect()
}

/// A histogram in seconds, where metrics are pushed.
pub fn seconds(name: &'static str, help: &'static str) -> Option<Histogram<f64>> {
    let builder = meter()?
        .f64_histogram(name)
        .with_unit("s")
        .with_description(help);
    Some(builder.with_boundaries(BOUNDS.to_vec()).build())
}

/// The times of a function, for OTLP.
pub struct Timings {
    process: Histogram<f64>,
    invoke: Histogram<f64>,
    operation: Histogram<f64>,
    /// Labels of runs by how they end, and of sends.
    runs: Vec<(&'static str, Vec<KeyValue>)>,
    sends: [Vec<KeyValue>; 2],
}

impl Timings {
    pub fn get() -> Option<&'static Self> {
        TIMINGS.get()
    }

    /// Prepared once: labels that are made for each event would cost more than the event.
    pub fn start(function: &str, ends: &[&'static str]) {
        let all = || {
            let with = |operation: &'static str, class: &'static str| {
                let mut labels = vec![
                    KeyValue::new("messaging.system", "nats"),
                    KeyValue::new("messaging.operation.name", operation),
                    KeyValue::new("messaging.consumer.group.name", function.to_owned()),
                ];
                labels.extend((!class.is_empty()).then(|| KeyValue::new("error.type", class)));
                labels
            };
            Some(Self {
                process: seconds("messaging.process.duration", PROCESS_HELP)?,
                invoke: seconds("faas.invoke_duration", INVOKE_HELP)?,
                operation: seconds("messaging.client.operation.duration", OPERATION_HELP)?,
                runs: ends
                    .iter()
                    .map(|end| (*end, with("process", end)))
                    .collect(),
                sends: [with("send", "publish"), with("send", "")],
            })
        };
        if let Some(timings) = all() {
            let _ = TIMINGS.set(timings);
        }
    }

    pub fn run(&self, elapsed: Duration, end: &str) {
        let Some((_, labels)) = self.runs.iter().find(|(name, _)| *name == end) else {
            return;
        };
        self.process.record(elapsed.as_secs_f64(), labels);
        self.invoke.record(
            elapsed.as_secs_f64(),
            &[KeyValue::new("faas.trigger", "pubsub")],
        );
    }

    pub fn send(&self, elapsed: Duration, ok: bool) {
        self.operation
            .record(elapsed.as_secs_f64(), &self.sends[usize::from(ok)]);
    }
}

pub const PROCESS_HELP: &str = "Time a handler ran on one event.";
pub const INVOKE_HELP: &str = "Time a function ran on one event.";
pub const OPERATION_HELP: &str = "Time until the stream acked what one event caused.";
