//! Traces, logs and metrics of a process. Spans of the event path are built when they end, from ids they had from the
//! start: what is not sampled costs next to nothing, and yet is there when it fails. What authors write with `tracing`
//! joins the same trace through `tracing-opentelemetry`.
//!
//! `OTEL_*` rules; see `settings.rs` and `deploy/TELEMETRY.md`. `RUST_LOG` filters logs (default `info`); they are JSON
//! lines on stderr, or text on a terminal or with `ONCUE_LOG_FORMAT=text`.

mod export;
mod logs;
pub mod metrics;
mod place;
pub mod prometheus;
mod resource;
mod sampler;
mod settings;

use std::borrow::Cow;
use std::io::IsTerminal;
use std::sync::OnceLock;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime};

use opentelemetry::trace::{SpanKind, Status, TracerProvider as _};
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::metrics::SdkMeterProvider;
use opentelemetry_sdk::trace::{SdkTracerProvider, SpanData, SpanEvents, SpanLinks};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _};

use self::export::{Authors, Pipe, TALLY};
pub(crate) use self::logs::{InFlow, enter};
pub use self::place::{Carrier, Place, untraced};
pub(crate) use self::place::{Size, next_trace};
use self::settings::{Exporter, Settings};

/// Crates that trace themselves; an exporter tracing its own exports would never end.
const LIBRARIES: [&str; 8] = ["async_nats", "h2", "hyper", "hyper_util", "opentelemetry", "redis", "reqwest", "tonic"];

/// What holds for the whole process from its start.
struct Process {
    settings: Settings,
    /// Where spans go, if it traces.
    pipe: Option<&'static Pipe>,
    scope: InstrumentationScope,
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
    /// otherwise; a function says `is_function`. To be called inside the tokio runtime, which the gRPC exporter needs.
    pub fn start(service: &str, instance: &str, is_function: bool) -> Self {
        Self::with(Settings::of_environment(), service, instance, is_function)
    }

    fn with(settings: Settings, service: &str, instance: &str, is_function: bool) -> Self {
        let started = Instant::now();
        let named = |name: &'static str, value: &str| KeyValue::new(name, value.to_owned());
        let more = if is_function {
            vec![
                named("faas.name", service),
                named("faas.instance", instance),
                named("faas.version", env!("CARGO_PKG_VERSION")),
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
        let pipe: Option<&'static Pipe> =
            traced.then(|| &*Box::leak(Box::new(Pipe::new(settings.traces, settings.limits, resource.clone()))));
        start_logs(service, is_function, &settings, pipe);
        for warning in &settings.warnings {
            tracing::warn!("{warning}");
        }
        let meters = settings.metrics.and_then(|how| metrics::provider(how, resource));
        let scope = InstrumentationScope::builder("oncue").with_version(env!("CARGO_PKG_VERSION")).build();
        // A second start in one process (tests) keeps the first.
        let _ = PROCESS.set(Process { settings, pipe, scope, instance: instance.to_owned(), started });
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
        EnvFilter::new(format!("info,async_nats=warn,oncue::telemetry={own}"))
    });
    let text = std::env::var("ONCUE_LOG_FORMAT").map_or_else(|_| std::io::stderr().is_terminal(), |f| f == "text");
    let fmt = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let json = logs::Json { service: service.into(), function: is_function.then(|| service.to_owned()) };
    let lines = if text { fmt.boxed() } else { fmt.event_format(json).boxed() };
    let spans = pipe.map(|pipe| {
        let provider = SdkTracerProvider::builder()
            .with_sampler(settings.sampler.for_sdk())
            .with_span_processor(Authors(pipe))
            .build();
        let others = LIBRARIES.map(|library| (library, LevelFilter::OFF));
        tracing_opentelemetry::layer()
            .with_tracer(provider.tracer("oncue"))
            .with_filter(Targets::new().with_default(LevelFilter::INFO).with_targets(others))
    });
    let _ = tracing_subscriber::registry().with(lines.with_filter(filter)).with(spans).try_init();
}

/// Tells where the servers are; credentials in the addresses are left out.
pub fn set_peers(nats_url: &str, redis_url: &str) {
    let _ = PEERS.set(Peers { nats: address(nats_url, 4222), redis: address(redis_url, 6379) });
}

fn address(url: &str, port: i64) -> (String, i64) {
    let first = url.split(',').next().unwrap_or_default();
    let after = first.split_once("://").map_or(first, |(_, rest)| rest);
    let host = after.split(['/', '?']).next().unwrap_or_default();
    let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
    match host.rsplit_once(':').map(|(name, digits)| (name, digits.parse())) {
        Some((name, Ok(port))) => (name.trim_matches(['[', ']']).to_owned(), port),
        _ => (host.trim_matches(['[', ']']).to_owned(), port),
    }
}

/// Whether spans are made here.
pub fn is_tracing() -> bool {
    PROCESS.get().is_some_and(|process| process.pipe.is_some())
}

/// Since telemetry was started, first thing after the configuration.
pub(crate) fn uptime() -> Duration {
    PROCESS.get().map_or(Duration::ZERO, |process| process.started.elapsed())
}

/// The clock, where somebody wants to know.
pub(crate) fn clock() -> Option<Instant> {
    is_tracing().then(Instant::now)
}

/// Whether texts of errors and keys of events may be seen in traces and logs: they may quote what an event holds.
pub fn shows_messages() -> bool {
    PROCESS.get().is_some_and(|process| process.settings.messages)
}

pub(crate) fn budget() -> u64 {
    PROCESS.get().map_or(u64::MAX, |process| process.settings.budget)
}

pub(crate) fn listen() -> Option<&'static str> {
    PROCESS.get()?.settings.listen.as_deref()
}

/// The place of a span for what came with `traceparent`, sampled or not; `None` where nobody traces. A trace that begins
/// here is that of the flow, if it is known.
pub fn place(traceparent: Option<&str>, flow: Option<&str>) -> Option<Place> {
    let process = PROCESS.get().filter(|process| process.pipe.is_some())?;
    let parent = traceparent.filter(|_| process.settings.tracecontext).and_then(Place::after);
    let place = parent.unwrap_or_else(|| Place::root(flow.map_or_else(place::new_trace, place::trace_of)));
    let sampled = process.settings.sampler.keeps(place.trace, parent.map(|parent| parent.sampled()));
    Some(place.with_sampled(sampled))
}

/// What is passed on where nobody traces: the context that came, or the one everybody derives from the flow.
pub fn pass_on(came: &Carrier, flow: &str) -> Carrier {
    let traceparent = came.traceparent.as_deref().filter(|text| place::parse(text).is_some());
    propagated(Carrier {
        tracestate: came.tracestate.clone().filter(|_| traceparent.is_some()),
        traceparent: Some(traceparent.map_or_else(|| untraced(flow), str::to_owned)),
        baggage: came.baggage.clone(),
    })
}

/// As far as `OTEL_PROPAGATORS` lets it.
pub fn propagated(carrier: Carrier) -> Carrier {
    let Some(Process { settings, .. }) = PROCESS.get() else { return carrier };
    Carrier {
        traceparent: carrier.traceparent.filter(|_| settings.tracecontext),
        tracestate: carrier.tracestate.filter(|_| settings.tracecontext),
        baggage: carrier.baggage.filter(|_| settings.baggage),
    }
}

/// A span from `started` until now. It is exported whatever the sampler said, so who makes one has decided that.
pub fn span(
    place: &Place,
    kind: SpanKind,
    name: impl Into<Cow<'static, str>>,
    started: SystemTime,
    attributes: Vec<KeyValue>,
) -> SpanData {
    SpanData {
        span_context: place.with_sampled(true).span_context(),
        parent_span_id: place.parent,
        parent_span_is_remote: place.remote,
        span_kind: kind,
        name: name.into(),
        start_time: started,
        end_time: SystemTime::now().max(started),
        attributes,
        dropped_attributes_count: 0,
        events: SpanEvents::default(),
        links: SpanLinks::default(),
        status: Status::Unset,
        instrumentation_scope: PROCESS.get().map(|process| process.scope.clone()).unwrap_or_default(),
    }
}

/// Hands a finished span to the exporter; never waits.
pub fn export(span: SpanData) {
    if let Some(pipe) = PROCESS.get().and_then(|process| process.pipe) {
        pipe.put(span);
    }
}

/// What every span of a message says [OpenTelemetry messaging spans].
pub fn messaging(operation: &'static str, ty: &str, id: &str, flow: &str) -> Vec<KeyValue> {
    let mut attributes = Vec::with_capacity(26);
    attributes.extend([
        KeyValue::new("messaging.system", "nats"),
        KeyValue::new("messaging.operation.name", operation),
        KeyValue::new("messaging.operation.type", operation),
        KeyValue::new("messaging.destination.name", ty.to_owned()),
        KeyValue::new("messaging.message.id", id.to_owned()),
        KeyValue::new("messaging.message.conversation_id", flow.to_owned()),
        KeyValue::new("oncue.flow.id", flow.to_owned()),
    ]);
    if let Some(process) = PROCESS.get() {
        attributes.push(KeyValue::new("messaging.client.id", process.instance.as_str()));
    }
    if let Some(Peers { nats: (host, port), .. }) = PEERS.get() {
        attributes.push(KeyValue::new("server.address", host.as_str()));
        attributes.push(KeyValue::new("server.port", *port));
    }
    attributes
}

/// A finished call of Redis [OpenTelemetry Redis spans].
pub fn redis(parent: &Place, operation: &'static str, procedure: Option<&'static str>, started: Instant) {
    let mut attributes = vec![KeyValue::new("db.system.name", "redis"), KeyValue::new("db.operation.name", operation)];
    attributes.extend(procedure.map(|name| KeyValue::new("db.stored_procedure.name", name)));
    if let Some(Peers { redis: (host, port), .. }) = PEERS.get() {
        attributes.push(KeyValue::new("server.address", host.as_str()));
        attributes.push(KeyValue::new("server.port", *port));
    }
    export(span(&parent.child(), SpanKind::Client, operation, before(started), attributes));
}

/// The wall clock at an earlier moment.
fn before(started: Instant) -> SystemTime {
    SystemTime::now().checked_sub(started.elapsed()).unwrap_or_else(SystemTime::now)
}

/// Spans handed to the exporter, delivered, and given up by it. The rest is queued or, where the queue was full, lost.
pub fn spans_sent() -> [u64; 3] {
    [&TALLY.handed, &TALLY.delivered, &TALLY.failed].map(|count| count.load(Ordering::Relaxed))
}

/// Lets a test of the crate trace without an environment of its own.
#[cfg(test)]
pub(crate) fn start_unsampled() {
    let sampler = sampler::Sampler { root: sampler::Root::None, parent_based: true };
    let settings = Settings { sampler, traces: Exporter::Console, ..Settings::read(|_| None) };
    drop(Telemetry::with(settings, "test", "test", true));
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
