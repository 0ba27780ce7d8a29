//! Traces, logs and metrics of a process.
//!
//! Spans of the event path are built when they end, from ids they had from the start: an event that is not sampled costs
//! next to nothing, and yet its spans are there when it fails. Spans that authors make with `tracing` join the same trace
//! through `tracing-opentelemetry`.
//!
//! Everything is governed by the environment: `OTEL_*`, `ONCUE_*` and `RUST_LOG`, listed in `deploy/TELEMETRY.md`.
//!
//! | feature | brings |
//! |---|---|
//! | none | OTLP over HTTP, `/metrics`, logs |
//! | `grpc` | OTLP over gRPC, and `gzip` |
//! | `gzip` | compressed requests |

mod process;
mod settings;
mod sampler;
mod resource;
mod spans;
mod otlp;
mod logs;
pub mod metrics;
pub mod prometheus;

use std::io::IsTerminal;
use std::sync::OnceLock;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime};

use oncue_proto::event;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::metrics::SdkMeterProvider;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing_subscriber::Layer as _;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

pub use self::logs::{InFlow, enter};
use self::process::{Address, Peers, Process};
use self::settings::{Built, Destination, Settings};
pub use self::spans::span_ids::{Carrier, Size, SpanIds, next_trace};
use self::spans::{AuthorSpans, FixedAttributes, SpanQueue, span_ids as ids};
pub use self::spans::{Kind, Span, Value};

/// Longest wait at the end of a process for what is queued: an absent collector must not hold it up.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// Crates that trace themselves; an exporter tracing its own exports would never end.
const LIBRARIES: [&str; 7] = [
    "async_nats",
    "h2",
    "hyper",
    "hyper_util",
    "opentelemetry",
    "redis",
    "tonic",
];

/// Service that a process is: `service.name` and `service.version`, unless the environment says otherwise.
#[derive(Debug, Clone, Copy)]
pub enum Service<'a> {
    /// Program of Oncue, at Oncue's own version.
    Program { name: &'a str },
    /// Function, at the version of the crate that its author wrote; these are `faas.name` and `faas.version` too.
    Function { name: &'a str, version: &'a str },
}

impl<'a> Service<'a> {
    fn name(self) -> &'a str {
        match self {
            Self::Program { name } | Self::Function { name, .. } => name,
        }
    }

    fn version(self) -> &'a str {
        match self {
            Self::Program { .. } => env!("CARGO_PKG_VERSION"),
            Self::Function { version, .. } => version,
        }
    }
}

/// Handle on the exporters; [`close`](Telemetry::close) sends what is still queued.
#[derive(Default)]
pub struct Telemetry {
    queue: Option<&'static SpanQueue>,
    meters: Option<SdkMeterProvider>,
}

impl Telemetry {
    /// Starts logs, traces and metrics of this process, as the environment wants them. `instance` is
    /// `service.instance.id`. Values that cannot be honoured are logged as warnings; nothing of them is fatal.
    pub fn start(service: Service<'_>, instance: &str) -> Self {
        Self::with(Settings::of_environment(), service, instance)
    }

    fn with(settings: Settings, service: Service<'_>, instance: &str) -> Self {
        let started = Instant::now();
        let traced = settings.traces != Destination::None;
        let resource = if traced || settings.metrics.is_some() {
            resource::resource(service, instance)
        } else {
            Resource::builder_empty().build()
        };
        // One for each process, until its end.
        let queue: Option<&'static SpanQueue> = traced.then(|| {
            let queue = SpanQueue::new(settings.traces.clone(), settings.queueing, &resource);
            &*Box::leak(Box::new(queue))
        });
        start_logs(service, &settings, queue);
        for warning in &settings.warnings {
            tracing::warn!("{warning}");
        }
        let meters = settings
            .metrics
            .clone()
            .map(|push| metrics::provider(push, resource));
        Process {
            settings,
            queue,
            meter: meters.as_ref().map(metrics::meter_of),
            instance: instance.to_owned(),
            started,
            peers: OnceLock::new(),
            timings: OnceLock::new(),
        }
        .set();
        Self { queue, meters }
    }

    /// Sends what is queued, for at most two seconds.
    pub async fn close(self) {
        let Self { queue, meters } = self;
        // Both block.
        let spans = tokio::task::spawn_blocking(move || {
            if let Some(queue) = queue {
                queue.close(CLOSE_TIMEOUT);
            }
        });
        let metrics = tokio::task::spawn_blocking(move || {
            if let Some(meters) = meters {
                let _ = meters.shutdown_with_timeout(CLOSE_TIMEOUT);
            }
        });
        let _ = tokio::join!(spans, metrics);
    }
}

fn start_logs(service: Service<'_>, settings: &Settings, queue: Option<&'static SpanQueue>) {
    let rust_log = std::env::var("RUST_LOG").ok();
    let filter = logs::Filter::read(rust_log.as_deref(), settings.log_level);
    let text = std::env::var("ONCUE_LOG_FORMAT")
        .map_or_else(|_| std::io::stderr().is_terminal(), |f| f == "text");
    let fmt = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let json = logs::Json {
        service: service.name().to_owned(),
        function: match service {
            Service::Function { name, .. } => Some(name.to_owned()),
            Service::Program { .. } => None,
        },
    };
    let lines = if text {
        fmt.boxed()
    } else {
        fmt.event_format(json).boxed()
    };
    let spans = queue.map(|queue| {
        let provider = SdkTracerProvider::builder()
            .with_sampler(settings.sampler.for_sdk())
            .with_span_processor(AuthorSpans {
                queue,
                limits: settings.limits,
            })
            .build();
        let libraries = LIBRARIES.map(|library| (library, LevelFilter::OFF));
        tracing_opentelemetry::layer()
            .with_tracer(provider.tracer("oncue"))
            .with_filter(
                Targets::new()
                    .with_default(LevelFilter::INFO)
                    .with_targets(libraries),
            )
    });
    let _ = tracing_subscriber::registry()
        .with(lines.with_filter(filter.targets))
        .with(spans)
        .try_init();
    if let Some(warning) = filter.warning {
        tracing::warn!("{warning}");
    }
}

/// Notes where the servers are, for the spans of their clients; credentials in the URLs are left out.
pub fn set_peers(nats_url: &str, redis_url: &str) {
    if let Some(process) = Process::get() {
        let _ = process.peers.set(Peers {
            nats: Address::of_url(nats_url, 4222),
            redis: Address::of_url(redis_url, 6379),
        });
    }
}

/// Whether spans are made here.
pub fn is_tracing() -> bool {
    Process::tracing().is_some()
}

/// Time since telemetry was started, first thing after the configuration.
pub fn uptime() -> Duration {
    Process::get().map_or(Duration::ZERO, |process| process.started.elapsed())
}

/// Time of day, where spans are made; a look at the clock is saved where none are.
pub fn clock() -> Option<SystemTime> {
    is_tracing().then(SystemTime::now)
}

/// Whether texts of errors and keys of events may be seen in traces and logs: they may quote what an event holds.
pub fn shows_messages() -> bool {
    Process::get().is_some_and(|process| process.settings.messages)
}

/// Whether sampled events may be traced by nats-server as well.
pub fn traces_broker() -> bool {
    Process::get().is_some_and(|process| process.settings.broker)
}

/// Spans in one trace, by estimate, before a flow goes on in a new one: `ONCUE_TRACE_BUDGET`.
pub fn budget() -> u64 {
    Process::get().map_or(u64::MAX, |process| process.settings.budget)
}

/// Address on which `/metrics` is to be answered, `host:port`.
pub fn listen() -> Option<&'static str> {
    Process::get()?.settings.listen.as_deref()
}

/// Ids of a span for what came with `traceparent`, sampled or not; `None` where nobody traces. A trace that begins here is
/// that of the flow, if it is known.
pub fn span_ids(traceparent: Option<&str>, flow: Option<&str>) -> Option<SpanIds> {
    let settings = &Process::tracing()?.settings;
    let parent = traceparent
        .filter(|_| settings.propagators.tracecontext)
        .and_then(SpanIds::after);
    let ids =
        parent.unwrap_or_else(|| SpanIds::root(flow.map_or_else(ids::new_trace, ids::trace_of)));
    let sampled = settings
        .sampler
        .keeps(ids.trace, parent.map(|parent| parent.sampled()));
    Some(ids.with_sampled(sampled))
}

/// Headers for what follows where nobody traces: the context that came, or the one that everybody derives from the flow.
pub fn pass_on(came: &Carrier, flow: &str) -> Carrier {
    let traceparent = came
        .traceparent
        .as_deref()
        .filter(|text| ids::parse(text).is_some());
    propagated(Carrier {
        tracestate: came.tracestate.clone().filter(|_| traceparent.is_some()),
        traceparent: Some(traceparent.map_or_else(|| event::untraced(flow), str::to_owned)),
        baggage: came.baggage.clone(),
    })
}

/// Headers as far as `OTEL_PROPAGATORS` lets them pass.
pub fn propagated(carrier: Carrier) -> Carrier {
    let Some(Process { settings, .. }) = Process::get() else {
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

/// Span from `started` on, its name in two parts, to be told more and then exported; `None` where nobody traces.
pub fn span(ids: &SpanIds, kind: Kind, name: [&str; 2], started: SystemTime) -> Option<Span> {
    let limits = Process::tracing()?.settings.limits;
    Some(Span::begin(ids, kind, name, started, limits))
}

/// Ends a span and hands it to the exporter; never waits.
pub fn export(span: Span) {
    if let Some(queue) = Process::get().and_then(|process| process.queue) {
        queue.put(&span.end());
    }
}

impl Span {
    /// Sets what every span of a message says [OpenTelemetry messaging spans].
    pub fn of_message(&mut self, operation: &str, ty: &str, id: &str, flow: &str) {
        static FIXED: OnceLock<FixedAttributes> = OnceLock::new();
        self.set_fixed(&FIXED, |fixed| {
            let process = Process::get();
            let peers = process.and_then(|process| process.peers.get());
            let fixed = fixed
                .of_server(peers.map(|peers| &peers.nats))
                .with("messaging.system", "nats");
            match process {
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

impl FixedAttributes {
    fn of_server(self, server: Option<&Address>) -> Self {
        match server {
            Some(server) => self
                .with("server.address", &server.host)
                .with("server.port", server.port),
            None => self,
        }
    }
}

/// Exports the span of a finished call of Redis [OpenTelemetry Redis spans].
pub fn redis(parent: &SpanIds, operation: &str, procedure: Option<&str>, started: SystemTime) {
    static FIXED: OnceLock<FixedAttributes> = OnceLock::new();
    let Some(mut span) = span(&parent.child(), Kind::Client, [operation, ""], started) else {
        return;
    };
    span.set_fixed(&FIXED, |fixed| {
        let peers = Process::get().and_then(|process| process.peers.get());
        fixed
            .of_server(peers.map(|peers| &peers.redis))
            .with("db.system.name", "redis")
    });
    span.set("db.operation.name", operation);
    if let Some(name) = procedure {
        span.set("db.stored_procedure.name", name);
    }
    export(span);
}

/// Spans handed to the exporter, delivered, and given up by it. The rest is queued or, where the queue was full, lost.
pub fn spans_sent() -> [u64; 3] {
    let Some(queue) = Process::get().and_then(|process| process.queue) else {
        return [0; 3];
    };
    let tally = queue.tally();
    [&tally.handed, &tally.delivered, &tally.failed].map(|count| count.load(Ordering::Relaxed))
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
        traces: Destination::Console,
        ..Settings::read(Built::HERE, |_| None)
    };
    let service = Service::Function {
        name: "test",
        version: "0.0.0",
    };
    drop(Telemetry::with(settings, service, "test"));
}
