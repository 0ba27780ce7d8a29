//! Traces and logs. Spans of the event path go straight to the OpenTelemetry API, which costs half of what they would
//! cost as `tracing` spans; what authors write with `tracing` joins the same trace through `tracing-opentelemetry`.
//!
//! `OTEL_*` rules. The SDK reads most of it; `OTEL_SDK_DISABLED`, `OTEL_TRACES_EXPORTER` and `OTEL_PROPAGATORS` it
//! leaves to us. `RUST_LOG` filters logs (default `info`); they are JSON lines on stderr, or text on a terminal or
//! with `ONCUE_LOG_FORMAT=text`.

use std::cell::Cell;
use std::fmt::{self, Write as _};
use std::io::IsTerminal;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use opentelemetry::propagation::{Extractor, Injector, TextMapCompositePropagator, TextMapPropagator};
use opentelemetry::trace::{
    SpanContext, SpanId, TraceContextExt, TraceFlags, TraceId, TraceState, TracerProvider as _,
};
use opentelemetry::{Context, KeyValue};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::{BaggagePropagator, TraceContextPropagator};
use opentelemetry_sdk::trace::{IdGenerator, RandomIdGenerator, SdkTracer, SdkTracerProvider};
use tracing::field::{Field, Visit};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _};

use crate::event;

static TRACER: OnceLock<SdkTracer> = OnceLock::new();

/// Keeps the exporter; [`close`](Telemetry::close) sends what is still queued.
#[derive(Default)]
pub struct Telemetry {
    provider: Option<SdkTracerProvider>,
}

/// The flow a piece of work belongs to, for its log lines.
#[derive(Clone)]
pub struct Flow(pub Arc<str>);

impl Telemetry {
    /// Starts logs and traces of this process. `service` is `service.name` unless the environment says otherwise. To be
    /// called inside the tokio runtime, which the gRPC exporter needs.
    pub fn start(service: &str, instance: &str) -> Self {
        let provider = tracing_wanted().then(|| provider(service, instance)).flatten();
        let tracer = provider.as_ref().map(|provider| provider.tracer("oncue"));
        let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| {
            EnvFilter::new("info,async_nats=warn,opentelemetry=off,opentelemetry_sdk=off,opentelemetry-otlp=off")
        });
        let text = std::env::var("ONCUE_LOG_FORMAT").map_or_else(|_| std::io::stderr().is_terminal(), |f| f == "text");
        let fmt = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
        let logs = if text { fmt.boxed() } else { fmt.event_format(Json { service: service.into() }).boxed() };
        let spans = tracer.clone().map(|tracer| tracing_opentelemetry::layer().with_tracer(tracer));
        // A second start in one process (tests) keeps the first.
        let _ = tracing_subscriber::registry().with(logs.with_filter(filter)).with(spans).try_init();
        if let Some(tracer) = tracer {
            let _ = TRACER.set(tracer);
        }
        Self { provider }
    }

    /// Sends what is queued, for at most two seconds: an absent collector must not hold up the end of a process.
    pub async fn close(self) {
        if let Some(provider) = self.provider {
            // Blocks, and the gRPC exporter needs this very runtime meanwhile.
            let _ = tokio::task::spawn_blocking(move || provider.shutdown_with_timeout(Duration::from_secs(2))).await;
        }
    }
}

fn tracing_wanted() -> bool {
    let is = |name: &str, value: &str| std::env::var(name).is_ok_and(|v| v.trim().eq_ignore_ascii_case(value));
    !is("OTEL_SDK_DISABLED", "true") && !is("OTEL_TRACES_EXPORTER", "none")
}

fn provider(service: &str, instance: &str) -> Option<SdkTracerProvider> {
    let exporter = match opentelemetry_otlp::SpanExporter::builder().build() {
        Ok(exporter) => exporter,
        Err(e) => {
            eprintln!("oncue: no traces: {e}");
            return None;
        }
    };
    let mut resource = Resource::builder().with_attributes([
        KeyValue::new("service.instance.id", instance.to_owned()),
        KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
        KeyValue::new("faas.name", service.to_owned()),
        KeyValue::new("faas.instance", instance.to_owned()),
    ]);
    if std::env::var("OTEL_SERVICE_NAME").is_err() {
        resource = resource.with_service_name(service.to_owned());
    }
    let builder = SdkTracerProvider::builder().with_resource(resource.build()).with_id_generator(Ids::default());
    Some(builder.with_batch_exporter(exporter).build())
}

/// The tracer of this process, if it traces.
pub fn tracer() -> Option<&'static SdkTracer> {
    TRACER.get()
}

thread_local! {
    static NEXT_TRACE: Cell<Option<TraceId>> = const { Cell::new(None) };
}

/// Random ids, except that a root may be told its trace id: all functions that act on one plain message, which brings
/// no trace, must agree on one.
#[derive(Debug, Default)]
struct Ids(RandomIdGenerator);

impl IdGenerator for Ids {
    fn new_trace_id(&self) -> TraceId {
        NEXT_TRACE.take().unwrap_or_else(|| self.0.new_trace_id())
    }

    fn new_span_id(&self) -> SpanId {
        self.0.new_span_id()
    }
}

/// Starts a span with `start`, which becomes the root of the flow's own trace if `parent` holds none.
pub fn in_flow_trace<T>(parent: &Context, flow: &str, start: impl FnOnce() -> T) -> T {
    if !parent.span().span_context().is_valid() {
        NEXT_TRACE.set(Some(TraceId::from_bytes(event::hash(&[b"trace", flow.as_bytes()]))));
    }
    let started = start();
    NEXT_TRACE.set(None);
    started
}

/// What a message or request says of the trace it belongs to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Carrier {
    pub traceparent: Option<String>,
    pub tracestate: Option<String>,
    pub baggage: Option<String>,
}

impl Extractor for Carrier {
    fn get(&self, key: &str) -> Option<&str> {
        match key {
            "traceparent" => self.traceparent.as_deref(),
            "tracestate" => self.tracestate.as_deref(),
            "baggage" => self.baggage.as_deref(),
            _ => None,
        }
    }

    fn keys(&self) -> Vec<&str> {
        vec!["traceparent", "tracestate", "baggage"]
    }
}

impl Injector for Carrier {
    fn set(&mut self, key: &str, value: String) {
        let slot = match key {
            "traceparent" => &mut self.traceparent,
            "tracestate" => &mut self.tracestate,
            "baggage" => &mut self.baggage,
            _ => return,
        };
        *slot = Some(value).filter(|value| !value.is_empty());
    }
}

fn propagator() -> &'static TextMapCompositePropagator {
    static PROPAGATOR: OnceLock<TextMapCompositePropagator> = OnceLock::new();
    PROPAGATOR.get_or_init(|| {
        let wanted = std::env::var("OTEL_PROPAGATORS").unwrap_or_else(|_| "tracecontext,baggage".into());
        let mut propagators: Vec<Box<dyn TextMapPropagator + Send + Sync>> = Vec::new();
        for name in wanted.split(',').map(str::trim) {
            match name {
                "tracecontext" => propagators.push(Box::new(TraceContextPropagator::new())),
                "baggage" => propagators.push(Box::new(BaggagePropagator::new())),
                "none" | "" => {}
                other => eprintln!("oncue: OTEL_PROPAGATORS: {other:?} is not supported (tracecontext, baggage, none)"),
            }
        }
        TextMapCompositePropagator::new(propagators)
    })
}

/// The context a message or request came with; anything malformed is ignored [W3C Trace Context 3.2].
pub fn extract(carrier: &Carrier) -> Context {
    propagator().extract_with_context(&Context::new(), carrier)
}

/// What to send along so that the receiver continues `context`.
pub fn inject(context: &Context) -> Carrier {
    let mut carrier = Carrier::default();
    propagator().inject_context(context, &mut carrier);
    carrier
}

/// A context for a flow nobody traces: unsampled, but with the trace id everybody would derive, so that ids in
/// answers and logs agree.
pub fn untraced(flow: &str) -> Context {
    let trace = TraceId::from_bytes(event::hash(&[b"trace", flow.as_bytes()]));
    let span = event::hash(&[b"span", flow.as_bytes()])[..8].try_into().unwrap_or([1; 8]);
    let context = SpanContext::new(trace, SpanId::from_bytes(span), TraceFlags::NOT_SAMPLED, true, TraceState::NONE);
    Context::new().with_remote_span_context(context)
}

/// One JSON object a line: what happened, and which trace, flow and function it belongs to.
struct Json {
    service: Arc<str>,
}

impl<S, N> FormatEvent<S, N> for Json
where
    S: tracing::Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut out: Writer<'_>, event: &tracing::Event<'_>) -> fmt::Result {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let context = Context::current();
        let span = context.span().span_context().clone();
        let meta = event.metadata();
        let time = event::format_time(event::now_ms());
        write!(out, r#"{{"time":"{time}","level":"{}","service":{}"#, meta.level(), quote(&self.service))?;
        if span.is_valid() {
            write!(out, r#","trace_id":"{}","span_id":"{}""#, span.trace_id(), span.span_id())?;
        }
        if let Some(Flow(flow)) = context.get::<Flow>() {
            write!(out, r#","flow_id":{}"#, quote(flow))?;
        }
        write!(out, r#","target":{},"message":{}{}}}"#, quote(meta.target()), quote(&fields.message), fields.rest)?;
        writeln!(out)
    }
}

fn quote(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[derive(Default)]
struct Fields {
    message: String,
    rest: String,
}

impl Fields {
    fn put(&mut self, field: &Field, json: &dyn fmt::Display) {
        let _ = write!(self.rest, ",{}:{json}", quote(field.name()));
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let text = format!("{value:?}");
        self.record_str(field, &text);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            value.clone_into(&mut self.message);
        } else {
            self.put(field, &quote(value));
        }
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, &value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, &value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, &value);
    }
}
