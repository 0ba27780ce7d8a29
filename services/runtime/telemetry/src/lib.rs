//! Traces, logs and metrics of a process.
//!
//! Spans of the event path are built when they end, from ids they had from the start: an event that is not sampled
//! costs next to nothing, and yet its spans are there when it fails. Spans that authors make with `tracing` join the
//! same trace through `tracing-opentelemetry`.
//!
//! Everything is governed by the environment: `OTEL_*`, `ONCUE_*` and `RUST_LOG`, listed in `deploy/TELEMETRY.md`.
//!
//! | feature | brings |
//! |---|---|
//! | none | OTLP over HTTP, `/metrics`, logs |
//! | `grpc` | OTLP over gRPC, and `gzip` |
//! | `gzip` | compressed requests |
//!
//! # Path of a span
//!
//! ```text
//! traceparent of the event --span_ids--> SpanIds --span--> Span --export--+
//!                            (sampler)              (one buffer)          |
//!                                                                         v
//! author's `tracing` span --> SDK --> processor (limits, encoding) --> span queue (bounded)
//!                                                                         | thread `spans`
//!                                                                         v
//!                                         stdout <--console-- exporter --OTLP--> collector
//! ```
//!
//! | step | by | when |
//! |---|---|---|
//! | ids are read from the headers, or drawn | [`span_ids`] | an event or a request arrives |
//! | ids are written into headers | [`SpanIds::traceparent`], [`propagated`] | something follows from it |
//! | the span is built | [`span`], then methods of [`Span`] | the work is over, and is sampled or has failed |
//! | the span is queued | [`export`] | at once; never waits |
//! | batches are sent | thread of the queue | a batch is full, or `OTEL_BSP_SCHEDULE_DELAY` is over |
//!
//! # Without telemetry
//!
//! Functions of this module may be called in any process. Where [`Telemetry::start`] was not
//! called, as in unit tests, they answer as if everything were off: no ids, no spans, no texts of
//! errors, no limit to a trace.

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
/// Spans and metrics have it side by side, so it bounds the whole of [`Telemetry::close`].
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// Crates that trace themselves; an exporter tracing its own exports would never end.
/// Off for spans alone; whether their log lines are shown is for `RUST_LOG` to say.
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
///
/// Name and version are attributes of the resource, under which a collector files all that the
/// process sends.
#[derive(Debug, Clone, Copy)]
pub enum Service<'a> {
    /// Program of Oncue, at Oncue's own version.
    Program { name: &'a str },
    /// Function, at the version of the crate that its author wrote; these are `faas.name` and `faas.version` too.
    Function { name: &'a str, version: &'a str },
}

impl<'a> Service<'a> {
    /// `service.name`, and `service` in log lines.
    fn name(self) -> &'a str {
        match self {
            Self::Program { name } | Self::Function { name, .. } => name,
        }
    }

    /// `service.version`. All packages of the workspace share one version, so that of this crate is
    /// Oncue's.
    fn version(self) -> &'a str {
        match self {
            Self::Program { .. } => env!("CARGO_PKG_VERSION"),
            Self::Function { version, .. } => version,
        }
    }
}

/// Handle on the exporters; [`close`](Telemetry::close) sends what is still queued.
///
/// Handle and state are two things: everything that the rest of the program asks for stands in the
/// state of the process and outlives the handle. A default one has started nothing, and closing it
/// does nothing.
#[derive(Default)]
pub struct Telemetry {
    /// Queue of finished spans; `None` where the process does not trace.
    queue: Option<&'static SpanQueue>,
    /// Provider whose reader pushes metrics; `None` where they are not pushed.
    meters: Option<SdkMeterProvider>,
}

impl Telemetry {
    /// Starts logs, traces and metrics of this process, as the environment wants them. `instance` is
    /// `service.instance.id`. Values that cannot be honoured are logged as warnings; nothing of them is fatal.
    ///
    /// To be called once, early in `main`: a second call in one process (tests) keeps the
    /// settings of the first, and the log subscriber that was there before stays. No connection is
    /// made here; the first span and the first export do that.
    pub fn start(service: Service<'_>, instance: &str) -> Self {
        Self::with(Settings::of_environment(), service, instance)
    }

    /// Start with settings that have been read; tests bring their own.
    fn with(settings: Settings, service: Service<'_>, instance: &str) -> Self {
        let started = Instant::now();
        let traced = settings.traces != Destination::None;
        // Looks at a handful of files, so only where somebody will read the result.
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
            target: resource::target(service, instance),
            started,
            peers: OnceLock::new(),
        }
        .set();
        Self { queue, meters }
    }

    /// Sends what is queued, for at most two seconds.
    ///
    /// Needs a tokio runtime. The reader of the SDK collects and exports a last time, so the
    /// metrics of the final seconds are not lost with a collector that answers. Spans that are
    /// finished later are lost.
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

/// Installs the subscriber of the process: log lines, and below them authors' spans where the
/// process traces.
///
/// | variable | default | effect |
/// |---|---|---|
/// | `RUST_LOG` | `info` | which lines are written; authors' spans are not affected |
/// | `ONCUE_LOG_FORMAT` | `text` on a terminal, else `json` | `text` is for people, every other value means JSON |
///
/// Lines go to standard error: standard output belongs to the program, and to spans on the console.
/// Authors' spans count from level INFO up, whatever `RUST_LOG` says: a quiet log is no reason to
/// lose a trace.
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
    // Fails where a subscriber is there already, as in tests: then that one goes on.
    let _ = tracing_subscriber::registry()
        .with(lines.with_filter(filter.targets))
        .with(spans)
        .try_init();
    if let Some(warning) = filter.warning {
        tracing::warn!("{warning}");
    }
}

/// Notes where the servers are, for the spans of their clients; credentials in the URLs are left out.
///
/// `server.address` and `server.port`, of the first server where a URL lists several. Ports that
/// are not named are 4222 and 6379. To be called before the first span: attributes of a server are
/// encoded once and shared by all its spans. Only the first call counts.
pub fn set_peers(nats_url: &str, redis_url: &str) {
    if let Some(process) = Process::get() {
        let _ = process.peers.set(Peers {
            nats: Address::of_url(nats_url, 4222),
            redis: Address::of_url(redis_url, 6379),
        });
    }
}

/// Whether spans are made here.
///
/// Says whether there is a destination (`OTEL_TRACES_EXPORTER`, `OTEL_SDK_DISABLED`), not whether a
/// trace is sampled.
pub fn is_tracing() -> bool {
    Process::tracing().is_some()
}

/// Time since telemetry was started, first thing after the configuration.
/// Zero where telemetry was not started.
pub fn uptime() -> Duration {
    Process::get().map_or(Duration::ZERO, |process| process.started.elapsed())
}

/// Time of day, where spans are made; a look at the clock is saved where none are.
///
/// Meant for the start of a [`span`] that may be built later, or of a call of Redis.
pub fn clock() -> Option<SystemTime> {
    is_tracing().then(SystemTime::now)
}

/// Whether texts of errors and keys of events may be seen in traces and logs: they may quote what an event holds.
///
/// `ONCUE_TRACE_MESSAGES`, `false` by default. Without it traces and logs name class and place of
/// an error, and the text stands in the dead letter alone, beside the event that it quotes.
pub fn shows_messages() -> bool {
    Process::get().is_some_and(|process| process.settings.messages)
}

/// Whether sampled events may be traced by nats-server as well.
///
/// `ONCUE_TRACE_BROKER`, `false` by default: the server spends time on each such message even where
/// it traces nothing.
pub fn traces_broker() -> bool {
    Process::get().is_some_and(|process| process.settings.broker)
}

/// Spans in one trace, by estimate, before a flow goes on in a new one: `ONCUE_TRACE_BUDGET`.
///
/// Default 10,000, never less than 1; without a limit where telemetry was not started. See
/// [`Size`], which makes the estimate.
pub fn budget() -> u64 {
    Process::get().map_or(u64::MAX, |process| process.settings.budget)
}

/// Address on which `/metrics` is to be answered, `host:port`.
///
/// From `ONCUE_METRICS_LISTEN`, or else from `OTEL_EXPORTER_PROMETHEUS_HOST` and `_PORT` where
/// `OTEL_METRICS_EXPORTER` names `prometheus`. `None`, the default, opens no port.
pub fn listen() -> Option<&'static str> {
    Process::get()?.settings.listen.as_deref()
}

/// Ids of a span for what came with `traceparent`, sampled or not; `None` where nobody traces. A trace that begins
/// here is that of the flow, if it is known.
///
/// | `traceparent` | flow | trace | sampled |
/// |---|---|---|---|
/// | well-formed | any | that of the header | by the sampler, which may follow the header's flag |
/// | absent or malformed | known | hash of the flow, the same in every process | by the sampler |
/// | absent or malformed | unknown | random | by the sampler |
///
/// A header counts as absent where `OTEL_PROPAGATORS` does not name `tracecontext`. Ids come for
/// unsampled traces too: they are logged, passed on, and used for the span of a failure.
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

/// Headers for what follows where nobody traces: the context that came, or the one that everybody derives from the
/// flow.
///
/// Without a well-formed `traceparent` the `tracestate` goes too, since it belongs to no trace [W3C
/// Trace Context 3.3]. Baggage stands on its own and stays. The derived context is unsampled.
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
///
/// Everything passes where telemetry was not started, and by default; `none` lets nothing pass.
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
///
/// `started` is the beginning of the work, mostly [`clock`] at that time; the end is the moment of
/// [`export`]. The sampler is not asked: a caller that wants the span of a failure makes it all the
/// same.
pub fn span(ids: &SpanIds, kind: Kind, name: [&str; 2], started: SystemTime) -> Option<Span> {
    let limits = Process::tracing()?.settings.limits;
    Some(Span::begin(ids, kind, name, started, limits))
}

/// Ends a span and hands it to the exporter; never waits.
///
/// Lost where the process has no queue; counted in [`spans_sent`] where it has.
pub fn export(span: Span) {
    if let Some(queue) = Process::get().and_then(|process| process.queue) {
        queue.put(&span.end());
    }
}

impl Span {
    /// Sets what every span of a message says [OpenTelemetry messaging spans].
    ///
    /// `operation` is `send` or `process`, both name and type of the operation; `ty` is the event
    /// type, which stands for the destination since a subject ends with a token of the key; `id` is
    /// the event's, `flow` that of its root. Server, system and client id are encoded once for the
    /// process.
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
    /// Adds `server.address` and `server.port`, where [`set_peers`] has told them.
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
///
/// Child of `parent`, from `started` until now. `operation` is the command, `FCALL` or `HGETALL`,
/// and the name of the span; `procedure` is the Redis function that `FCALL` names. Keys and values
/// are left out: they may hold parts of an event.
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

/// Spans handed to the exporter, delivered, and given up by it. The rest is queued or, where the queue was full,
/// lost.
///
/// In this order, counted since the start; zeros where the process does not trace.
pub fn spans_sent() -> [u64; 3] {
    let Some(queue) = Process::get().and_then(|process| process.queue) else {
        return [0; 3];
    };
    let tally = queue.tally();
    [&tally.handed, &tally.delivered, &tally.failed].map(|count| count.load(Ordering::Relaxed))
}

/// Lets a unit test trace without an environment of its own.
/// Spans of failures go to standard output, everything else is unsampled.
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
