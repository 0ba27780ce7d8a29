//! What `OTEL_*` and `ONCUE_*` variables say of telemetry. The SDK reads part of them itself (queue sizes, endpoints,
//! headers, time-outs); the rest is read here, and what cannot be honoured is said, never passed over in silence.
//! `deploy/TELEMETRY.md` lists them all.

use std::str::FromStr;
use std::time::Duration;

use super::otlp::{headers, url};
use super::sampler::{Root, Sampler};

/// Where spans go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Exporter {
    None,
    Console,
    Otlp(Target),
}

/// The collector that spans are sent to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Target {
    pub grpc: bool,
    pub gzip: bool,
    pub url: String,
    pub headers: Vec<(String, String)>,
    pub timeout: Duration,
}

/// How spans wait until they are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Queueing {
    /// How many wait at most.
    pub most: usize,
    pub batch: usize,
    /// After which a batch need not be full.
    pub delay: Duration,
}

/// How metrics are sent; the rest the SDK reads itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Otlp {
    pub grpc: bool,
    /// The environment asks for a compression that is not built in.
    pub gzip_instead: bool,
}

/// Most that a span may carry [OpenTelemetry common, attribute limits].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Limits {
    pub attributes: usize,
    pub value_length: usize,
    pub events: usize,
    pub links: usize,
    pub event_attributes: usize,
    pub link_attributes: usize,
}

/// What of a trace is passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Propagators {
    pub tracecontext: bool,
    pub baggage: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Settings {
    pub traces: Exporter,
    pub metrics: Option<Otlp>,
    /// Address on which to answer Prometheus.
    pub listen: Option<String>,
    pub sampler: Sampler,
    pub limits: Limits,
    pub queueing: Queueing,
    pub propagators: Propagators,
    /// Whether texts of errors and keys of events may be seen.
    pub messages: bool,
    /// Whether sampled events may be traced by nats-server as well.
    pub broker: bool,
    /// Spans in one trace.
    pub budget: u64,
    /// Of what telemetry says of itself.
    pub log_level: &'static str,
    /// What could not be honoured.
    pub warnings: Vec<String>,
}

/// Read by nobody here; whoever sets one should know.
const UNSUPPORTED: [(&str, &str); 8] = [
    ("OTEL_CONFIG_FILE", "only environment variables are read"),
    (
        "OTEL_BSP_EXPORT_TIMEOUT",
        "OTEL_EXPORTER_OTLP_TIMEOUT limits each request",
    ),
    (
        "OTEL_EXPORTER_OTLP_CERTIFICATE",
        "TLS is not built in; send to a collector beside the process",
    ),
    (
        "OTEL_EXPORTER_OTLP_CLIENT_KEY",
        "TLS is not built in; send to a collector beside the process",
    ),
    (
        "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE",
        "TLS is not built in; send to a collector beside the process",
    ),
    (
        "OTEL_EXPORTER_ZIPKIN_ENDPOINT",
        "Zipkin is not supported; send OTLP",
    ),
    (
        "OTEL_METRICS_EXEMPLAR_FILTER",
        "exemplars are on /metrics alone, and always of sampled traces",
    ),
    (
        "OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION",
        "histograms have the buckets of the conventions",
    ),
];

/// One reading of the environment.
struct Reader<G> {
    get: G,
    warnings: Vec<String>,
}

impl Settings {
    pub fn of_environment() -> Self {
        Self::read(|name| std::env::var(name).ok())
    }

    pub fn read(get: impl Fn(&str) -> Option<String>) -> Self {
        let mut from = Reader {
            get,
            warnings: Vec::new(),
        };
        for (name, why) in UNSUPPORTED {
            if from.text(name).is_some() {
                from.warnings
                    .push(format!("{name} is set but has no effect: {why}"));
            }
        }
        let disabled = from.truth("OTEL_SDK_DISABLED");
        let traces = if disabled {
            Exporter::None
        } else {
            from.traces()
        };
        let (metrics, asked) = if disabled {
            (None, None)
        } else {
            from.metrics()
        };
        from.logs();
        Self {
            traces,
            metrics,
            listen: from.text("ONCUE_METRICS_LISTEN").or(asked),
            sampler: from.sampler(),
            limits: from.limits(),
            queueing: from.queueing(),
            propagators: from.propagators(),
            messages: from.truth("ONCUE_TRACE_MESSAGES"),
            broker: from.truth("ONCUE_TRACE_BROKER"),
            budget: from.number("ONCUE_TRACE_BUDGET", 10_000).max(1),
            log_level: from.log_level(),
            warnings: from.warnings,
        }
    }
}

impl Limits {
    #[cfg(test)]
    pub const NONE: Self = {
        let most = usize::MAX;
        Self {
            attributes: most,
            value_length: most,
            events: most,
            links: most,
            event_attributes: most,
            link_attributes: most,
        }
    };
}

impl<G: Fn(&str) -> Option<String>> Reader<G> {
    /// Empty means unset.
    fn text(&self, name: &str) -> Option<String> {
        (self.get)(name)
            .map(|value| value.trim().to_owned())
            .filter(|value| !value.is_empty())
    }

    fn truth(&mut self, name: &str) -> bool {
        match self
            .text(name)
            .map(|value| value.to_ascii_lowercase())
            .as_deref()
        {
            None | Some("false") => false,
            Some("true") => true,
            Some(other) => {
                self.warnings.push(format!(
                    "{name}={other:?} is neither true nor false; taken as false"
                ));
                false
            }
        }
    }

    fn number<T: FromStr + std::fmt::Display>(&mut self, name: &str, default: T) -> T {
        let Some(text) = self.text(name) else {
            return default;
        };
        text.parse().unwrap_or_else(|_| {
            self.warnings.push(format!(
                "{name}={text:?} is not a number; {default} is used"
            ));
            default
        })
    }

    fn traces(&mut self) -> Exporter {
        match self.text("OTEL_TRACES_EXPORTER").as_deref() {
            None | Some("otlp") => Exporter::Otlp(self.target()),
            Some("none") => Exporter::None,
            Some("console") => Exporter::Console,
            Some(other) => {
                self.warnings.push(format!(
                    "OTEL_TRACES_EXPORTER={other:?} is not supported (otlp, console, none); otlp is used"
                ));
                Exporter::Otlp(self.target())
            }
        }
    }

    /// Metrics are pushed only where asked for: the default of the specification would send them to places that, like
    /// Jaeger, take none.
    fn metrics(&mut self) -> (Option<Otlp>, Option<String>) {
        let (mut otlp, mut listen) = (None, None);
        let wanted = self.text("OTEL_METRICS_EXPORTER").unwrap_or_default();
        for name in wanted.split(',').map(str::trim) {
            match name {
                "otlp" => {
                    self.timeout("METRICS"); // the SDK reads it too, but says nothing
                    otlp = Some(self.otlp("METRICS"));
                }
                "prometheus" => {
                    let host = self
                        .text("OTEL_EXPORTER_PROMETHEUS_HOST")
                        .unwrap_or_else(|| "localhost".into());
                    let port: u16 = self.number("OTEL_EXPORTER_PROMETHEUS_PORT", 9464);
                    listen = Some(format!("{host}:{port}"));
                }
                "none" | "" => {}
                other => self.warnings.push(format!(
                    "OTEL_METRICS_EXPORTER: {other:?} is not supported (otlp, prometheus, none)"
                )),
            }
        }
        (otlp, listen)
    }

    fn logs(&mut self) {
        if let Some(other) = self
            .text("OTEL_LOGS_EXPORTER")
            .filter(|name| name != "none" && name != "console")
        {
            self.warnings.push(format!(
                "OTEL_LOGS_EXPORTER={other:?} has no effect: logs are JSON lines on stderr, with trace and flow, for a collector to read"
            ));
        }
    }

    fn otlp(&mut self, signal: &str) -> Otlp {
        let endpoint = self.either(signal, "ENDPOINT").unwrap_or_default();
        if endpoint.starts_with("https:") {
            self.warnings.push(format!(
                "OTLP endpoint {endpoint:?}: TLS is not built in, nothing will arrive; send to a collector beside the process"
            ));
        }
        let grpc = match self.either(signal, "PROTOCOL").as_deref() {
            None | Some("http/protobuf") => false,
            Some("grpc") => true,
            Some(other) => {
                self.warnings.push(format!(
                    "OTLP protocol {other:?} is not supported (grpc, http/protobuf); http/protobuf is used"
                ));
                false
            }
        };
        let gzip_instead = match self.either(signal, "COMPRESSION").as_deref() {
            None | Some("gzip" | "none") => false,
            Some(other) => {
                self.warnings.push(format!(
                    "OTLP compression {other:?} is not supported (gzip, none); gzip is used"
                ));
                true
            }
        };
        Otlp { grpc, gzip_instead }
    }

    fn target(&mut self) -> Target {
        let Otlp { grpc, gzip_instead } = self.otlp("TRACES");
        Target {
            grpc,
            gzip: gzip_instead || self.either("TRACES", "COMPRESSION").as_deref() == Some("gzip"),
            url: url(
                self.text("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT").as_deref(),
                self.text("OTEL_EXPORTER_OTLP_ENDPOINT").as_deref(),
                grpc,
                self.either("TRACES", "INSECURE")
                    .is_some_and(|insecure| insecure.eq_ignore_ascii_case("true")),
            ),
            headers: headers(&self.either("TRACES", "HEADERS").unwrap_or_default()),
            timeout: self.timeout("TRACES"),
        }
    }

    fn timeout(&mut self, signal: &str) -> Duration {
        let general = self.number("OTEL_EXPORTER_OTLP_TIMEOUT", 10_000);
        Duration::from_millis(self.number(&format!("OTEL_EXPORTER_OTLP_{signal}_TIMEOUT"), general))
    }

    fn queueing(&mut self) -> Queueing {
        let most = self.number("OTEL_BSP_MAX_QUEUE_SIZE", 2048).max(1);
        let batch = self
            .number("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", 512)
            .clamp(1, most);
        Queueing {
            most,
            batch,
            delay: Duration::from_millis(self.number("OTEL_BSP_SCHEDULE_DELAY", 5000)),
        }
    }

    fn either(&self, signal: &str, what: &str) -> Option<String> {
        let own = self.text(&format!("OTEL_EXPORTER_OTLP_{signal}_{what}"));
        own.or_else(|| self.text(&format!("OTEL_EXPORTER_OTLP_{what}")))
    }

    fn sampler(&mut self) -> Sampler {
        let name = self
            .text("OTEL_TRACES_SAMPLER")
            .unwrap_or_else(|| "parentbased_always_on".into());
        let root = match name.strip_prefix("parentbased_").unwrap_or(&name) {
            "always_on" => Root::All,
            "always_off" => Root::None,
            "traceidratio" => {
                let ratio: f64 = self.number("OTEL_TRACES_SAMPLER_ARG", 1.0);
                if (0.0..=1.0).contains(&ratio) {
                    Root::Ratio(ratio)
                } else {
                    self.warnings.push(format!(
                        "OTEL_TRACES_SAMPLER_ARG={ratio} is not within 0 and 1; 1 is used"
                    ));
                    Root::All
                }
            }
            _ => {
                self.warnings.push(format!(
                    "OTEL_TRACES_SAMPLER={name:?} is not supported; parentbased_always_on is used"
                ));
                return Sampler {
                    root: Root::All,
                    parent_based: true,
                };
            }
        };
        Sampler {
            root,
            parent_based: name.starts_with("parentbased_"),
        }
    }

    fn limits(&mut self) -> Limits {
        let attributes = self.number("OTEL_ATTRIBUTE_COUNT_LIMIT", 128);
        let value_length = self.number("OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT", usize::MAX);
        Limits {
            attributes: self.number("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", attributes),
            value_length: self.number("OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT", value_length),
            events: self.number("OTEL_SPAN_EVENT_COUNT_LIMIT", 128),
            links: self.number("OTEL_SPAN_LINK_COUNT_LIMIT", 128),
            event_attributes: self.number("OTEL_EVENT_ATTRIBUTE_COUNT_LIMIT", attributes),
            link_attributes: self.number("OTEL_LINK_ATTRIBUTE_COUNT_LIMIT", attributes),
        }
    }

    fn propagators(&mut self) -> Propagators {
        let wanted = self
            .text("OTEL_PROPAGATORS")
            .unwrap_or_else(|| "tracecontext,baggage".into());
        let (mut tracecontext, mut baggage) = (false, false);
        for name in wanted.split(',').map(str::trim) {
            match name {
                "tracecontext" => tracecontext = true,
                "baggage" => baggage = true,
                "none" | "" => {}
                other => self.warnings.push(format!(
                    "OTEL_PROPAGATORS: {other:?} is not supported (tracecontext, baggage, none)"
                )),
            }
        }
        Propagators {
            tracecontext,
            baggage,
        }
    }

    fn log_level(&mut self) -> &'static str {
        match self
            .text("OTEL_LOG_LEVEL")
            .map(|level| level.to_ascii_lowercase())
            .as_deref()
        {
            None | Some("info") => "info",
            Some("none" | "off") => "off",
            Some("error") => "error",
            Some("warn" | "warning") => "warn",
            Some("debug") => "debug",
            Some("trace" | "verbose" | "all") => "trace",
            Some(other) => {
                self.warnings.push(format!(
                    "OTEL_LOG_LEVEL={other:?} is not a level; info is used"
                ));
                "info"
            }
        }
    }
}

#[cfg(test)]
mod tests;
