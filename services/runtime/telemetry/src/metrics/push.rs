//! Metrics over OTLP: the SDK collects them at its interval, and the client that sends spans sends them.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry::metrics::{Histogram as Instrument, Meter, MeterProvider as _};
use opentelemetry_proto::tonic::collector::metrics::v1::{
    ExportMetricsServiceRequest, ExportMetricsServiceResponse,
};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::{OTelSdkError, OTelSdkResult};
use opentelemetry_sdk::metrics::SdkMeterProvider;
use opentelemetry_sdk::metrics::Temporality;
use opentelemetry_sdk::metrics::data::ResourceMetrics;
use opentelemetry_sdk::metrics::exporter::PushMetricExporter;
use prost::Message as _;

use super::{
    BOUNDS, INVOKE_HELP, Labels, OPERATION_HELP, PROCESS_HELP, Samples, Source, attributes,
};
use crate::otlp::Client;
use crate::process::Process;
use crate::settings::MetricsPush;

/// Provider whose reader, a thread of the SDK, exports at `OTEL_METRIC_EXPORT_INTERVAL`.
/// Default 60 s, and 30 s for `OTEL_METRIC_EXPORT_TIMEOUT`, both read by the SDK. No connection is
/// made before the first export.
pub(crate) fn provider(push: MetricsPush, resource: Resource) -> SdkMeterProvider {
    SdkMeterProvider::builder()
        .with_periodic_exporter(MetricsExporter {
            push,
            down: AtomicBool::new(false),
        })
        .with_resource(resource)
        .build()
}

/// Meter under whose name (`oncue`, the instrumentation scope) all instruments of this process
/// stand.
pub(crate) fn meter_of(provider: &SdkMeterProvider) -> Meter {
    provider.meter("oncue")
}

/// Exporter of the SDK that encodes with the official types and sends with the client of the spans.
struct MetricsExporter {
    /// Collector and temporality.
    push: MetricsPush,
    /// Whether the last export failed, so that only changes are logged.
    down: AtomicBool,
}

impl MetricsExporter {
    /// Sends a request from the reader's thread, which is nobody's runtime, and waits. Runtime and connection are
    /// made anew each time: between two exports lies a minute, longer than most servers keep a connection.
    ///
    /// # Errors
    /// A sentence for the log: no runtime, no answer, an error as answer, or data points refused
    /// [OTLP, partial success].
    fn send(&self, request: Vec<u8>) -> Result<(), String> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|e| e.to_string())?;
        runtime.block_on(async {
            let mut client = Client::new(self.push.target.clone());
            let answer: ExportMetricsServiceResponse = client.send(request).await?;
            match answer.partial_success {
                Some(part) if part.rejected_data_points > 0 => Err(format!(
                    "the collector refuses {} data points: {}",
                    part.rejected_data_points, part.error_message
                )),
                _ => Ok(()),
            }
        })
    }
}

impl PushMetricExporter for MetricsExporter {
    fn export(&self, metrics: &ResourceMetrics) -> impl Future<Output = OTelSdkResult> + Send {
        // Nothing is sent twice: cumulative sums are made up by the next export.
        let request = ExportMetricsServiceRequest::from(metrics).encode_to_vec();
        let sent = self.send(request);
        let was_down = self.down.swap(sent.is_err(), Ordering::Relaxed);
        match &sent {
            Err(e) if !was_down => tracing::warn!(error = e, "metrics cannot be delivered"),
            Ok(()) if was_down => tracing::info!("metrics are delivered again"),
            _ => {}
        }
        std::future::ready(sent.map_err(OTelSdkError::InternalFailure))
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }

    fn temporality(&self) -> Temporality {
        self.push.temporality
    }
}

/// Whether this process pushes its metrics.
/// `OTEL_METRICS_EXPORTER=otlp`, not the default.
pub fn is_pushed() -> bool {
    meter().is_some()
}

/// Meter of the process; `None` where metrics are not pushed.
fn meter() -> Option<&'static Meter> {
    Process::get()?.meter.as_ref()
}

/// One metric of a source, by its place in the list.
#[derive(Clone)]
struct Observed {
    /// Source that is called anew for each export.
    source: Source,
    /// Index of the metric in the source's list.
    at: usize,
    /// Name that must stand there, as a guard against a list that does change.
    name: &'static str,
}

impl Observed {
    /// Samples as they stand now; the list is the same each time, only its numbers change.
    fn samples(&self) -> Option<Samples> {
        let metric = (self.source)().into_iter().nth(self.at)?;
        (metric.name == self.name).then_some(metric.samples)
    }
}

/// Lets the SDK read sums and gauges of `source` whenever it sends. Histograms it cannot read: see [`Seconds`].
/// Does nothing where metrics are not pushed. The source is called once for each metric and export.
pub fn observe(source: &Source) {
    let Some(meter) = meter() else { return };
    for (at, metric) in source().into_iter().enumerate() {
        let observed = Observed {
            source: source.clone(),
            at,
            name: metric.name,
        };
        match metric.samples {
            Samples::Sums(_) => {
                meter
                    .u64_observable_counter(metric.name)
                    .with_unit(metric.unit)
                    .with_description(metric.help)
                    .with_callback(move |observer| {
                        if let Some(Samples::Sums(sums)) = observed.samples() {
                            for (labels, count) in &sums {
                                observer.observe(*count, &attributes(labels));
                            }
                        }
                    })
                    .build();
            }
            Samples::Gauges(_) => {
                meter
                    .f64_observable_gauge(metric.name)
                    .with_unit(metric.unit)
                    .with_description(metric.help)
                    .with_callback(move |observer| {
                        if let Some(Samples::Gauges(gauges)) = observed.samples() {
                            for (labels, value) in &gauges {
                                observer.observe(*value, &attributes(labels));
                            }
                        }
                    })
                    .build();
            }
            Samples::Histograms(_) => {}
        }
    }
}

/// Histogram of the SDK, in seconds and with the bounds of the conventions.
///
/// For times of any process; those of a function's runs are in [`Timings`], which prepares its
/// labels.
pub struct Seconds(Instrument<f64>);

impl Seconds {
    /// `None` where metrics are not pushed.
    pub fn new(name: &'static str, help: &'static str) -> Option<Self> {
        let builder = meter()?
            .f64_histogram(name)
            .with_unit("s")
            .with_description(help);
        Some(Self(builder.with_boundaries(BOUNDS.to_vec()).build()))
    }

    /// Records one time under these labels, which are converted each time.
    pub fn record(&self, elapsed: Duration, labels: &Labels) {
        self.record_prepared(elapsed, &attributes(labels));
    }

    /// Records one time under labels that the SDK can take as they are.
    fn record_prepared(&self, elapsed: Duration, labels: &[KeyValue]) {
        self.0.record(elapsed.as_secs_f64(), labels);
    }
}

/// Times of a function, for OTLP. Labels are prepared once: made for each event, they would cost more than the event.
pub struct Timings {
    /// `messaging.process.duration`: run time of the handler.
    process: Seconds,
    /// `faas.invoke_duration`: the same time by the conventions of FaaS.
    invoke: Seconds,
    /// `messaging.client.operation.duration`: until the stream acked what one event caused.
    operation: Seconds,
    /// One for each class; few, so a search from the front is quick.
    runs: Vec<RunEnd>,
    /// Label of `invoke`.
    trigger: [KeyValue; 1],
    /// Labels of `operation` where the stream acked.
    sent: Vec<KeyValue>,
    /// Labels of `operation` where publishing failed: `error.type` is `publish`.
    not_sent: Vec<KeyValue>,
}

/// Way in which runs end, with its labels.
struct RunEnd {
    /// Class of the error, `error.type`; empty for success.
    class: &'static str,
    labels: Vec<KeyValue>,
}

impl Timings {
    /// Instruments of `function`, whose runs end in one of these classes; the empty one stands for success. `None` where
    /// metrics are not pushed.
    pub fn new(function: &str, classes: &[&'static str]) -> Option<Self> {
        let runs = classes.iter().map(|class| RunEnd {
            class,
            labels: labels(function, "process", class),
        });
        Some(Self {
            process: Seconds::new("messaging.process.duration", PROCESS_HELP)?,
            invoke: Seconds::new("faas.invoke_duration", INVOKE_HELP)?,
            operation: Seconds::new("messaging.client.operation.duration", OPERATION_HELP)?,
            runs: runs.collect(),
            trigger: [KeyValue::new("faas.trigger", "pubsub")],
            sent: labels(function, "send", ""),
            not_sent: labels(function, "send", "publish"),
        })
    }

    /// Records a run of the handler that ended in `class`.
    /// A class that was not named at the start is not recorded.
    pub fn run(&self, elapsed: Duration, class: &str) {
        let Some(end) = self.runs.iter().find(|end| end.class == class) else {
            return;
        };
        self.process.record_prepared(elapsed, &end.labels);
        self.invoke.record_prepared(elapsed, &self.trigger);
    }

    /// Records how long what one event caused took to be acked, or to fail.
    pub fn send(&self, elapsed: Duration, ok: bool) {
        let labels = if ok { &self.sent } else { &self.not_sent };
        self.operation.record_prepared(elapsed, labels);
    }
}

/// Labels of an operation on messages; an empty class means success, and has no `error.type`.
fn labels(function: &str, operation: &'static str, class: &'static str) -> Vec<KeyValue> {
    let mut labels = vec![
        KeyValue::new("messaging.system", "nats"),
        KeyValue::new("messaging.operation.name", operation),
        KeyValue::new("messaging.consumer.group.name", function.to_owned()),
    ];
    if !class.is_empty() {
        labels.push(KeyValue::new("error.type", class));
    }
    labels
}
