//! Traces, logs and metrics of a process. Spans of the event path are built when they end, from ids they had from the
//! start: what is not sampled costs next to nothing, and yet is there when it fails. What authors write with `tracing`
//! joins the same trace through `tracing-opentelemetry`.
//!
//! `OTEL_*` rules; see `settings.rs` and `deploy/TELEMETRY.md`. `RUST_LOG` filters logs (default `info`); they are JSON
//! lines on stderr, or text on a terminal or with `ONCUE_LOG_FORMAT=text`.

mod export;
mod logs;
pub mod metrics;
mod otlp;
mod place;
pub mod prometheus;
mod resource;
mod sampler;
mod settings;
mod span;

use std::io::IsTerminal;
use std::sync::OnceLock;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime};

use oncue_proto::event;
use opentelemetry::KeyValue;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::metrics::SdkMeterProvider;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _};

use self::export::{Authors, Pipe, TALLY};
pub use self::logs::{InFlow, enter};
pub use self::place::{Carrier, SpanIds};
pub use self::place::{Size, next_trace};
use self::settings::{Exporter, Settings};
use self::span::Fixed;
pub use self::span::{Kind, Span, Value};

/// Crates that trace themselves; an exporter tracing its own exports would never end.
const LIBRARIES: [&str; 8] = [
    "async_nats",
    "h2",
    "hyper",
    "hyper_util",
    "opentelemetry",
    "redis",
    "reqwest",
    "tonic",
];

/// What holds for the whole process from its start.
struct Process {
    settings: Settings,
    /// Where spans go, if it traces.
    pipe: Option<&'static Pipe>,
    instance: String,
    started: Instant,
}

static PROCESS: OnceLock<Process> = OnceLock::new();
static PEERS: OnceLock<Peers> = OnceLock::new();

/// Addresses of the servers, for `server.address` and `server.port`.
struct Peers {
    nats: (String, i64),
    redis: (String, i64),
}

/// Keeps the exporters; [`close`](Telemetry::close) sends what is still queued.
#[derive(Default)]
pub struct Telemetry {
    pipe: Option<&'static Pipe>,
    meters: Option<SdkMeterProvider>,
}

impl Telemetry {
    /// Starts logs, traces and metrics of this process. `service` is `service.name` unless the environment says
    /// otherwise; `function` is the version of a function's own crate, `None` in other programs. To be called inside the
    /// tokio runtime, which the gRPC exporter needs.
    pub fn start(service: &str, instance: &str, function: Option<&str>) -> Self {
        Self::with(Settings::of_environment(), service, instance, function)
    }

    fn with(settings: Settings, service: &str, instance: &str, function: Option<&str>) -> Self {
        let started = Instant::now();
        let named = |name: &'static str, value: &str| KeyValue::new(name, value.to_owned());
        let more = if let Some(version) = function {
            vec![
                named("service.version", version),
                named("faas.name", service),
                named("faas.instance", instance),
                named("faas.version", version),
            ]
        } else {
            Vec::new()
        };
        let traced = settings.traces != Exporter::None;
        let resource = if traced || settings.metrics.is_some() {
            resource::resource(service, instance, more)
        } else {
            Resource::builder_empty().build()
        };
        // One for each process, until its end.
        let pipe: Option<&'static Pipe> = traced.then(|| {
            let pipe = Pipe::new(
                settings.traces.clone(),
                settings.limits,
                settings.queueing,
                &resource,
            );
            &*Box::leak(Box::new(pipe))
        });
        start_logs(service, function.is_some(), &settings, pipe);
        for warning in &settings.warnings {
            tracing::warn!("{warning}");
        }
        let meters = settings
            .metrics
            .and_then(|how| metrics::provider(how, resource));
        // A second start in one process (tests) keeps the first.
        let _ = PROCESS.set(Process {
            settings,
            pipe,
            instance: instance.to_owned(),
            started,
        });
        Self { pipe, meters }
    }

    /// Sends what is queued, for at most two seconds: an absent collector must not hold up the end of a process.
    pub async fn close(self) {
        const PATIENCE: Duration = Duration::from_secs(2);
        let Self { pipe, meters } = self;
        // Blocks, and the gRPC exporter needs this very runtime meanwhile.
        let spans = tokio::task::spawn_blocking(move || {
            if let Some(pipe) = pipe {
                pipe.shut(PATIENCE);
            }
        });
        let metrics = tokio::task::spawn_blocking(move || {
            if let Some(meters) = meters {
                let _ = meters.shutdown_with_timeout(PATIENCE);
            }
        });
        let _ = tokio::join!(spans, metrics);
    }
}

fn start_logs(service: &str, is_function: bool, settings: &Settings, pipe: Option<&'static Pipe>) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| {
        let own = settings.log_level;
        EnvFilter::new(format!("info,async_nats=warn,oncue_telemetry={own}"))
    });
    let text = std::env::var("ONCUE_LOG_FORMAT")
        .map_or_else(|_| std::io::stderr().is_terminal(), |f| f == "text");
    let fmt = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let json = logs::Json {
        service: service.into(),
        function: is_function.then(|| service.to_owned()),
    };
    let lines = if text {
        fmt.boxed()
    } else {
        fmt.event_format(json).boxed()
    };
    let spans = pipe.map(|pipe| {
        let provider = SdkTracerProvider::builder()
            .with_sampler(settings.sampler.for_sdk())
            .with_span_processor(Authors(pipe))
            .build();
        let others = LIBRARIES.map(|library| (library, LevelFilter::OFF));
        tracing_opentelemetry::layer()
            .with_tracer(provider.tracer("oncue"))
            .with_filter(
                Targets::new()
                    .with_default(LevelFilter::INFO)
                    .with_targets(others),
            )
    });
    let _ = tracing_subscriber::registry()
        .with(lines.with_filter(filter))
        .with(spans)
        .try_init();
}

/// Tells where the servers are; credentials in the addresses are left out.
pub fn set_peers(nats_url: &str, redis_url: &str) {
    let _ = PEERS.set(Peers {
        nats: address(nats_url, 4222),
        redis: address(redis_url, 6379),
    });
}

fn address(url: &str, port: i64) -> (String, i64) {
    let first = url.split(',').next().unwrap_or_default();
    let after = first.split_once("://").map_or(first, |(_, rest)| rest);
    let host = after.split(['/', '?']).next().unwrap_or_default();
    let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
    match host
        .rsplit_once(':')
        .map(|(name, digits)| (name, digits.parse()))
    {
        Some((name, Ok(port))) => (name.trim_matches(['[', ']']).to_owned(), port),
        _ => (host.trim_matches(['[', ']']).to_owned(), port),
    }
}

/// Whether spans are made here.
pub fn is_tracing() -> bool {
    PROCESS.get().is_some_and(|process| process.pipe.is_some())
}

/// Since telemetry was started, first thing after the configuration.
pub fn uptime() -> Duration {
    PROCESS
        .get()
        .map_or(Duration::ZERO, |process| process.started.elapsed())
}

/// The clock, where somebody wants to know.
pub fn clock() -> Option<SystemTime> {
    is_tracing().then(SystemTime::now)
}

/// Whether texts of errors and keys of events may be seen in traces and logs: they may quote what an event holds.
pub fn shows_messages() -> bool {
    PROCESS
        .get()
        .is_some_and(|process| process.settings.messages)
}

/// Whether sampled events may be traced by nats-server as well.
pub fn traces_broker() -> bool {
    PROCESS.get().is_some_and(|process| process.settings.broker)
}

pub fn budget() -> u64 {
    PROCESS
        .get()
        .map_or(u64::MAX, |process| process.settings.budget)
}

pub fn listen() -> Option<&'static str> {
    PROCESS.get()?.settings.listen.as_deref()
}

/// The place of a span for what came with `traceparent`, sampled or not; `None` where nobody traces. A trace that begins
/// here is that of the flow, if it is known.
pub fn place(traceparent: Option<&str>, flow: Option<&str>) -> Option<SpanIds> {
    let process = PROCESS.get().filter(|process| process.pipe.is_some())?;
    let parent = traceparent
        .filter(|_| process.settings.propagators.tracecontext)
        .and_then(SpanIds::after);
    let place = parent
        .unwrap_or_else(|| SpanIds::root(flow.map_or_else(place::new_trace, place::trace_of)));
    let sampled = process
        .settings
        .sampler
        .keeps(place.trace, parent.map(|parent| parent.sampled()));
    Some(place.with_sampled(sampled))
}

/// What is passed on where nobody traces: the context that came, or the one everybody derives from the flow.
pub fn pass_on(came: &Carrier, flow: &str) -> Carrier {
    let traceparent = came
        .traceparent
        .as_deref()
        .filter(|text| place::parse(text).is_some());
    propagated(Carrier {
        tracestate: came.tracestate.clone().filter(|_| traceparent.is_some()),
        traceparent: Some(traceparent.map_or_else(|| event::untraced(flow), str::to_owned)),
        baggage: came.baggage.clone(),
    })
}

/// As far as `OTEL_PROPAGATORS` lets it.
pub fn propagated(carrier: Carrier) -> Carrier {
    let Some(Process { settings, .. }) = PROCESS.get() else {
        return carrier;
    };
    Carrier {
        traceparent: carrier
            .traceparent
            .filter(|_| settings.propagators.tracecontext),
        tracestate: carrier
            .tracestate
            .filter(|_| settings.propagators.tracecontext),
        baggage: carrier.baggage.filter(|_| settings.propagators.baggage),
    }
}

/// A span from `started` on, its name in two parts, to be told more and then exported; `None` where nobody traces.
pub fn span(place: &SpanIds, kind: Kind, name: [&str; 2], started: SystemTime) -> Option<Span> {
    let process = PROCESS.get().filter(|process| process.pipe.is_some())?;
    Some(Span::begin(
        place,
        kind,
        name,
        started,
        process.settings.limits,
    ))
}

/// Ends a span and hands it to the exporter; never waits.
pub fn export(span: Span) {
    if let Some(pipe) = PROCESS.get().and_then(|process| process.pipe) {
        pipe.put(&span.end());
    }
}

impl Span {
    /// What every span of a message says [OpenTelemetry messaging spans].
    pub fn of_message(&mut self, operation: &str, ty: &str, id: &str, flow: &str) {
        static FIXED: OnceLock<Fixed> = OnceLock::new();
        self.set_fixed(&FIXED, |fixed| {
            let fixed = fixed
                .of_server(PEERS.get().map(|peers| &peers.nats))
                .with("messaging.system", "nats");
            match PROCESS.get() {
                Some(process) => fixed.with("messaging.client.id", &process.instance),
                None => fixed,
            }
        });
        self.set("messaging.operation.name", operation);
        self.set("messaging.operation.type", operation);
        self.set("messaging.destination.name", ty);
        self.set("messaging.message.id", id);
        self.set("messaging.message.conversation_id", flow);
        self.set("oncue.flow.id", flow);
    }
}

impl Fixed {
    fn of_server(self, peer: Option<&(String, i64)>) -> Self {
        let Some((host, port)) = peer else {
            return self;
        };
        self.with("server.address", host).with("server.port", *port)
    }
}

/// A finished call of Redis [OpenTelemetry Redis spans].
pub fn redis(parent: &SpanIds, operation: &str, procedure: Option<&str>, started: SystemTime) {
    static FIXED: OnceLock<Fixed> = OnceLock::new();
    let Some(mut span) = span(&parent.child(), Kind::Client, [operation, ""], started) else {
        return;
    };
    let redis = |fixed: Fixed| {
        fixed
            .of_server(PEERS.get().map(|peers| &peers.redis))
            .with("db.system.name", "redis")
    };
    span.set_fixed(&FIXED, redis);
    span.set("db.operation.name", operation);
    if let Some(name) = procedure {
        span.set("db.stored_procedure.name", name);
    }
    export(span);
}

/// Spans handed to the exporter, delivered, and given up by it. The rest is queued or, where the queue was full, lost.
pub fn spans_sent() -> [u64; 3] {
    [&TALLY.handed, &TALLY.delivered, &TALLY.failed].map(|count| count.load(Ordering::Relaxed))
}

/// Lets a unit test trace without an environment of its own.
#[doc(hidden)]
pub fn start_unsampled() {
    let sampler = sampler::Sampler {
        root: sampler::Root::None,
        parent_based: true,
    };
    let settings = Settings {
        sampler,
        traces: Exporter::Console,
        ..Settings::read(|_| None)
    };
    drop(Telemetry::with(settings, "test", "test", Some("1.2.3")));
}

#[cfg(test)]
mod tests {
    use super::address;

    #[test]
    fn an_address_is_told_without_its_credentials() {
        for (url, host, port) in [
            ("nats://user:secret@one:4333,nats://two", "one", 4333),
            ("redis://:secret@10.0.0.1/3", "10.0.0.1", 6379),
            ("redis://[::1]:7000", "::1", 7000),
            ("host", "host", 6379),
        ] {
            assert_eq!(address(url, 6379), (host.to_owned(), port), "{url}");
        }
    }
}
