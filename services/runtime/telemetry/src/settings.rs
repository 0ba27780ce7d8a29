//! Settings of telemetry, from `OTEL_*` and `ONCUE_*` variables. Only how often metrics are sent
//! (`OTEL_METRIC_EXPORT_*`) is left to the SDK; the rest is read here. A value that cannot be honoured becomes a
//! warning, never silence. `deploy/TELEMETRY.md` lists them all.
//!
//! Names, defaults and precedence are those of the specification [OpenTelemetry environment variables; OTLP
//! exporter].
//!
//! How a variable is honoured:
//!
//! | variable | result |
//! |---|---|
//! | unset, or empty | default |
//! | for one signal (`OTEL_EXPORTER_OTLP_TRACES_TIMEOUT`) | beats the general one (`OTEL_EXPORTER_OTLP_TIMEOUT`) |
//! | value not understood | warning; default |
//! | gRPC wanted, but not built in | warning; the signal is not sent |
//! | known to the specification, without effect here | warning with the reason |
//!
//! Defaults that differ from the specification: metrics are not pushed unless
//! `OTEL_METRICS_EXPORTER` says so, and logs are never exported, since they are JSON lines that a
//! collector can read.
//!
//! Reading takes a function in place of the environment, so a test brings its own variables and
//! races with no other.

use std::str::FromStr;
use std::time::Duration;

use opentelemetry_sdk::metrics::Temporality;

use super::otlp::{Signal, Target, headers, url};
use super::sampler::{Root, Sampler};

/// Destination of spans, `OTEL_TRACES_EXPORTER`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Destination {
    /// Process does not trace: `none`, `OTEL_SDK_DISABLED=true`, or a protocol that is not built
    /// in.
    None,
    /// JSON lines on stdout.
    Console,
    /// Collector, the default.
    Otlp(Target),
}

/// Push of metrics over OTLP, `OTEL_METRICS_EXPORTER=otlp`.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct MetricsPush {
    /// Collector, by the variables of metrics and the general ones.
    pub target: Target,
    /// Sums since the start, or since the last export; `cumulative` by default.
    pub temporality: Temporality,
}

/// Bounds of the queue of finished spans, `OTEL_BSP_*`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Queueing {
    /// Spans that wait at most; more are lost.
    /// Default 2048, at least 1.
    pub most: usize,
    /// Spans in one request.
    /// Default 512, at least 1 and never more than the queue holds.
    pub batch: usize,
    /// Time after which a batch is sent even if it is not full.
    /// Default 5 s; a full batch goes at once.
    pub delay: Duration,
}

/// Transports compiled into this program: see the features of this package.
#[derive(Debug, Clone, Copy)]
pub(super) struct Built {
    /// Feature `grpc`: OTLP over gRPC.
    pub grpc: bool,
    /// Feature `gzip`, which `grpc` brings along: compressed requests.
    pub gzip: bool,
}

impl Built {
    /// Transports of the program that is running. Tests ask for others, to see the warnings.
    pub const HERE: Self = Self {
        grpc: cfg!(feature = "grpc"),
        gzip: cfg!(feature = "gzip"),
    };
}

/// Limits of what a span carries, each a count except `value_length`, which is in characters [OpenTelemetry common,
/// attribute limits].
///
/// More than a limit is dropped and counted in the span, longer values are cut. Variables for spans
/// (`OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT`) beat the general ones (`OTEL_ATTRIBUTE_COUNT_LIMIT`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Limits {
    /// Attributes of a span, 128 by default.
    pub attributes: usize,
    /// Characters of a text that is an attribute of a span; unlimited by default.
    pub value_length: usize,
    /// Events of a span, 128 by default.
    pub events: usize,
    /// Links of a span, 128 by default.
    pub links: usize,
    /// Attributes of each event, 128 by default.
    pub event_attributes: usize,
    /// Attributes of each link, 128 by default.
    pub link_attributes: usize,
}

/// Headers by which a trace is passed on, `OTEL_PROPAGATORS`.
///
/// Both by default; a header that is not named is neither read nor passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Propagators {
    /// `traceparent` and `tracestate` [W3C Trace Context].
    pub tracecontext: bool,
    /// `baggage` [W3C Baggage].
    pub baggage: bool,
}

/// Everything the environment says of telemetry, read once at the start.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Settings {
    /// Spans, of the event path and of authors alike.
    pub traces: Destination,
    /// `None` unless asked for.
    pub metrics: Option<MetricsPush>,
    /// Address on which to answer Prometheus, `host:port`.
    pub listen: Option<String>,
    /// `OTEL_TRACES_SAMPLER` and `_ARG`; `parentbased_always_on` by default.
    pub sampler: Sampler,
    pub limits: Limits,
    pub queueing: Queueing,
    pub propagators: Propagators,
    /// Whether texts of errors and keys of events may be seen.
    /// `ONCUE_TRACE_MESSAGES`, `false` by default.
    pub messages: bool,
    /// Whether sampled events may be traced by nats-server as well.
    /// `ONCUE_TRACE_BROKER`, `false` by default.
    pub broker: bool,
    /// Spans in one trace, by estimate, before a flow goes on in a new one.
    /// `ONCUE_TRACE_BUDGET`, 10,000 by default.
    pub budget: u64,
    /// Level of what telemetry logs about itself.
    /// `OTEL_LOG_LEVEL`, `info` by default. Without effect where `RUST_LOG` is set.
    pub log_level: &'static str,
    /// Sentences about values that could not be honoured, for the log.
    pub warnings: Vec<String>,
}

/// Variables of the specification that have no effect here, each with the reason that the log gives.
/// Someone who sets one of them expects something of it, and should not have to find out by its
/// absence.
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

/// One reading of the environment; collects warnings on the way.
struct Reader<G> {
    /// Value of a variable by its name; `None` for unset.
    get: G,
    /// Transports that may be chosen.
    built: Built,
    /// In the order in which the variables are read.
    warnings: Vec<String>,
}

impl Settings {
    /// Settings of this process.
    pub fn of_environment() -> Self {
        Self::read(Built::HERE, |name| std::env::var(name).ok())
    }

    /// Settings from variables that `get` looks up, for a program with the transports in `built`.
    pub fn read(built: Built, get: impl Fn(&str) -> Option<String>) -> Self {
        let mut from = Reader {
            get,
            built,
            warnings: Vec::new(),
        };
        for (name, why) in UNSUPPORTED {
            if from.text(name).is_some() {
                from.warnings
                    .push(format!("{name} is set but has no effect: {why}"));
            }
        }
        // Contexts are passed on all the same, as the specification asks: it disables the SDK, not
        // the propagators.
        let disabled = from.truth("OTEL_SDK_DISABLED");
        let mut settings = Self {
            traces: Destination::None,
            metrics: None,
            listen: None,
            sampler: from.sampler(),
            limits: from.limits(),
            queueing: from.queueing(),
            propagators: from.propagators(),
            messages: from.truth("ONCUE_TRACE_MESSAGES"),
            broker: from.truth("ONCUE_TRACE_BROKER"),
            budget: from.number("ONCUE_TRACE_BUDGET", 10_000).max(1),
            log_level: from.log_level(),
            warnings: Vec::new(),
        };
        if !disabled {
            settings.traces = from.traces();
            from.metrics(&mut settings);
        }
        // Ours goes on without the SDK, and wins over the address of the specification.
        settings.listen = from.text("ONCUE_METRICS_LISTEN").or(settings.listen);
        from.logs();
        settings.warnings = from.warnings;
        settings
    }
}

impl<G: Fn(&str) -> Option<String>> Reader<G> {
    /// Value of a variable; empty counts as unset [OpenTelemetry environment variables, parsing empty value].
    fn text(&self, name: &str) -> Option<String> {
        (self.get)(name)
            .map(|value| value.trim().to_owned())
            .filter(|value| !value.is_empty())
    }

    /// `true` or `false` in any case; unset is false, and so is everything else, with a warning
    /// [OpenTelemetry environment variables, Boolean].
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

    /// Number of the type that the setting has, so a fraction or a sign where none belongs is a
    /// mistake too; the default holds then, with a warning [OpenTelemetry environment variables,
    /// Numeric].
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

    /// Destination of spans: `otlp` by default. Lists are not known, since a span goes to one
    /// place.
    fn traces(&mut self) -> Destination {
        match self.text("OTEL_TRACES_EXPORTER").as_deref() {
            None | Some("otlp") => {}
            Some("none") => return Destination::None,
            Some("console") => return Destination::Console,
            Some(other) => self.warnings.push(format!(
                "OTEL_TRACES_EXPORTER={other:?} is not supported (otlp, console, none); otlp is used"
            )),
        }
        self.target(Signal::Traces)
            .map_or(Destination::None, Destination::Otlp)
    }

    /// Metrics are pushed only where asked for: the default of the specification would send them to places that, like
    /// Jaeger, take none.
    ///
    /// A list, so both `otlp` and `prometheus` may be named; the latter is by default at
    /// `localhost:9464`.
    fn metrics(&mut self, settings: &mut Settings) {
        let wanted = self.text("OTEL_METRICS_EXPORTER").unwrap_or_default();
        for name in wanted.split(',').map(str::trim) {
            match name {
                "otlp" => {
                    let temporality = self.temporality();
                    settings.metrics = self.target(Signal::Metrics).map(|target| MetricsPush {
                        target,
                        temporality,
                    });
                }
                "prometheus" => {
                    let host = self
                        .text("OTEL_EXPORTER_PROMETHEUS_HOST")
                        .unwrap_or_else(|| "localhost".into());
                    let port: u16 = self.number("OTEL_EXPORTER_PROMETHEUS_PORT", 9464);
                    settings.listen = Some(format!("{host}:{port}"));
                }
                "none" | "" => {}
                other => self.warnings.push(format!(
                    "OTEL_METRICS_EXPORTER: {other:?} is not supported (otlp, prometheus, none)"
                )),
            }
        }
    }

    /// Temporality of sums and histograms over OTLP [OpenTelemetry metrics exporter, OTLP]. After
    /// an export that fails, cumulative sums are made up by the next; deltas are lost.
    fn temporality(&mut self) -> Temporality {
        let name = "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE";
        match self
            .text(name)
            .map(|value| value.to_ascii_lowercase())
            .as_deref()
        {
            None | Some("cumulative") => Temporality::Cumulative,
            Some("delta") => Temporality::Delta,
            Some("lowmemory") => Temporality::LowMemory,
            Some(other) => {
                self.warnings.push(format!(
                    "{name}={other:?} is not supported (cumulative, delta, lowmemory); cumulative is used"
                ));
                Temporality::Cumulative
            }
        }
    }

    /// Warns where an exporter of logs is wanted; `none` and `console` are what happens anyway.
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

    /// Collector of a signal. `None` where the program cannot speak the protocol that is asked for: another one would
    /// knock at the wrong port.
    fn target(&mut self, signal: Signal) -> Option<Target> {
        let grpc = self.protocol(signal)?;
        let endpoint = self.either(signal, "ENDPOINT").unwrap_or_default();
        if endpoint.starts_with("https:") {
            self.warnings.push(format!(
                "OTLP endpoint {endpoint:?}: TLS is not built in, nothing will arrive; send to a collector beside the process"
            ));
        }
        let insecure = self
            .either(signal, "INSECURE")
            .is_some_and(|insecure| insecure.eq_ignore_ascii_case("true"));
        Some(Target {
            signal,
            grpc,
            gzip: self.gzip(signal),
            url: url(
                signal,
                self.text(&signal.variable("ENDPOINT")).as_deref(),
                self.text("OTEL_EXPORTER_OTLP_ENDPOINT").as_deref(),
                grpc,
                insecure,
            ),
            headers: headers(&self.either(signal, "HEADERS").unwrap_or_default()),
            timeout: self.timeout(signal),
        })
    }

    /// Whether the signal goes over gRPC; `None` where it should and cannot.
    fn protocol(&mut self, signal: Signal) -> Option<bool> {
        match self.either(signal, "PROTOCOL").as_deref() {
            None | Some("http/protobuf") => Some(false),
            Some("grpc") if self.built.grpc => Some(true),
            Some("grpc") => {
                self.warnings.push(format!(
                    "OTLP protocol \"grpc\" is not built into this program: no {signal} are sent. Build it with the feature \"grpc\" of the crate oncue, or set OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf and the collector's port for HTTP (4318)"
                ));
                None
            }
            Some(other) => {
                self.warnings.push(format!(
                    "OTLP protocol {other:?} is not supported (grpc, http/protobuf); http/protobuf is used"
                ));
                Some(false)
            }
        }
    }

    /// Compression of requests, `none` by default. Where it is wanted and not built in requests go
    /// as they are: a collector reads both, and telemetry that arrives is worth more than its size.
    fn gzip(&mut self, signal: Signal) -> bool {
        let wanted = self.either(signal, "COMPRESSION");
        let name = match wanted.as_deref() {
            None | Some("none") => return false,
            Some(name) => name,
        };
        if !self.built.gzip {
            self.warnings.push(format!(
                "OTLP compression {name:?} is not built into this program: {signal} are sent as they are. Build it with the feature \"grpc\" of the crate oncue, which brings gzip"
            ));
        } else if name != "gzip" {
            self.warnings.push(format!(
                "OTLP compression {name:?} is not supported (gzip, none); gzip is used"
            ));
        }
        self.built.gzip
    }

    /// Time-out of one request, from milliseconds; that of the signal wins.
    /// Default 10 s [OTLP exporter].
    fn timeout(&mut self, signal: Signal) -> Duration {
        let general = self.number("OTEL_EXPORTER_OTLP_TIMEOUT", 10_000);
        Duration::from_millis(self.number(&signal.variable("TIMEOUT"), general))
    }

    /// Bounds of the queue, put right where they contradict each other: a batch larger than the
    /// queue would never be full.
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

    /// Variable of the signal, or else the general one.
    fn either(&self, signal: Signal, what: &str) -> Option<String> {
        self.text(&signal.variable(what))
            .or_else(|| self.text(&format!("OTEL_EXPORTER_OTLP_{what}")))
    }

    /// Sampler by name [OpenTelemetry environment variables, General SDK configuration]:
    /// `always_on`, `always_off`, `traceidratio`, each also behind `parentbased_`. A ratio outside
    /// 0 to 1 counts as 1: too many spans are noticed, none are not.
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

    /// Limits, each from its own variable or else from the general one for attributes.
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

    /// Propagators from a list with commas; names that are not known are warned of and left out,
    /// the others hold.
    fn propagators(&mut self) -> Propagators {
        let wanted = self
            .text("OTEL_PROPAGATORS")
            .unwrap_or_else(|| "tracecontext,baggage".into());
        let mut propagators = Propagators {
            tracecontext: false,
            baggage: false,
        };
        for name in wanted.split(',').map(str::trim) {
            match name {
                "tracecontext" => propagators.tracecontext = true,
                "baggage" => propagators.baggage = true,
                "none" | "" => {}
                other => self.warnings.push(format!(
                    "OTEL_PROPAGATORS: {other:?} is not supported (tracecontext, baggage, none)"
                )),
            }
        }
        propagators
    }

    /// Level for the target `oncue_telemetry`, in the words of `RUST_LOG`; several spellings are
    /// taken.
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
