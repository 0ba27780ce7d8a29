//! The way out: finished spans go to the SDK's batch processor, whose queue is bounded and whose thread alone talks to the
//! collector. Both come to be with the first span, so an idle process has neither.

use std::fmt::Write as _;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use opentelemetry::trace::{SpanKind, Status};
use opentelemetry::{Context, KeyValue, Value};
use opentelemetry_otlp::{Compression, Protocol, WithExportConfig as _, WithHttpConfig as _, WithTonicConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::{OTelSdkError, OTelSdkResult};
use opentelemetry_sdk::trace::{BatchSpanProcessor, Span, SpanData, SpanExporter, SpanProcessor};
use tokio::runtime::Handle;

use super::settings::{Exporter, Limits, Otlp};

/// Spans handed over, delivered and given up, for the metrics.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub handed: AtomicU64,
    pub delivered: AtomicU64,
    pub failed: AtomicU64,
}

pub(super) static TALLY: Tally =
    Tally { handed: AtomicU64::new(0), delivered: AtomicU64::new(0), failed: AtomicU64::new(0) };

#[derive(Debug)]
pub(super) struct Pipe {
    exporter: Exporter,
    limits: Limits,
    resource: Resource,
    runtime: Handle,
    batch: OnceLock<BatchSpanProcessor>,
}

impl Pipe {
    /// To be called inside the tokio runtime, which the gRPC exporter needs.
    pub fn new(exporter: Exporter, limits: Limits, resource: Resource) -> Self {
        Self { exporter, limits, resource, runtime: Handle::current(), batch: OnceLock::new() }
    }

    /// Takes a finished span; never blocks. Where the queue is full it is lost.
    pub fn put(&self, mut span: SpanData) {
        cut(&mut span, self.limits);
        TALLY.handed.fetch_add(1, Ordering::Relaxed);
        self.batch.get_or_init(|| self.open()).on_end(span);
    }

    fn open(&self) -> BatchSpanProcessor {
        let way = Way {
            exporter: self.exporter,
            runtime: self.runtime.clone(),
            otlp: OnceLock::new(),
            down: AtomicBool::new(false),
            resource: self.resource.clone(),
        };
        BatchSpanProcessor::builder(way).build()
    }

    pub fn shut(&self, patience: Duration) {
        if let Some(batch) = self.batch.get() {
            let _ = batch.shutdown_with_timeout(patience);
        }
    }
}

/// The same pipe for the spans that authors make.
#[derive(Debug)]
pub(super) struct Authors(pub &'static Pipe);

impl SpanProcessor for Authors {
    fn on_start(&self, _: &mut Span, _: &Context) {}

    fn on_end(&self, span: SpanData) {
        if span.span_context.is_sampled() {
            self.0.put(span);
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.0.batch.get().map_or(Ok(()), SpanProcessor::force_flush)
    }

    fn shutdown_with_timeout(&self, patience: Duration) -> OTelSdkResult {
        self.0.shut(patience);
        Ok(())
    }
}

/// What the batch processor's thread calls.
#[derive(Debug)]
struct Way {
    exporter: Exporter,
    runtime: Handle,
    /// Made at the first export; a client costs time and memory.
    otlp: OnceLock<Result<opentelemetry_otlp::SpanExporter, String>>,
    /// Whether the last export failed, so that only changes are logged.
    down: AtomicBool,
    resource: Resource,
}

impl SpanExporter for Way {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let spans = batch.len() as u64;
        let sent = if let Exporter::Otlp(how) = self.exporter {
            self.send(how, batch).await
        } else {
            for span in &batch {
                println!("{}", line(span));
            }
            Ok(())
        };
        let tally = if sent.is_ok() { &TALLY.delivered } else { &TALLY.failed };
        tally.fetch_add(spans, Ordering::Relaxed);
        let was_down = self.down.swap(sent.is_err(), Ordering::Relaxed);
        match &sent {
            Err(e) if !was_down => {
                tracing::warn!(error = %e, spans, "spans cannot be delivered; they are lost until this ends");
            }
            Ok(()) if was_down => tracing::info!("spans are delivered again"),
            _ => {}
        }
        sent
    }

    fn shutdown_with_timeout(&self, patience: Duration) -> OTelSdkResult {
        match self.otlp.get() {
            Some(Ok(exporter)) => exporter.shutdown_with_timeout(patience),
            _ => Ok(()),
        }
    }
}

impl Way {
    async fn send(&self, how: Otlp, batch: Vec<SpanData>) -> OTelSdkResult {
        let exporter = self.otlp.get_or_init(|| {
            let _inside = how.grpc.then(|| self.runtime.enter());
            span_exporter(how, &self.resource)
        });
        let exporter = exporter.as_ref().map_err(|e| OTelSdkError::InternalFailure(e.clone()))?;
        let mut sending = Box::pin(exporter.export(batch));
        if !how.grpc {
            return sending.await;
        }
        // This thread is none of tokio's, and tonic's timers want to be.
        std::future::poll_fn(|cx| {
            let _inside = self.runtime.enter();
            sending.as_mut().poll(cx)
        })
        .await
    }
}

fn span_exporter(how: Otlp, resource: &Resource) -> Result<opentelemetry_otlp::SpanExporter, String> {
    let builder = opentelemetry_otlp::SpanExporter::builder();
    let built = if how.grpc {
        let mut builder = builder.with_tonic();
        if how.gzip_instead {
            builder = builder.with_compression(Compression::Gzip);
        }
        builder.build()
    } else {
        let mut builder = builder.with_http().with_protocol(Protocol::HttpBinary);
        if how.gzip_instead {
            builder = builder.with_compression(Compression::Gzip);
        }
        builder.build()
    };
    let mut exporter = built.map_err(|e| e.to_string())?;
    exporter.set_resource(resource);
    Ok(exporter)
}

/// Keeps to the limits of the environment; what is over is dropped and counted.
fn cut(span: &mut SpanData, limits: Limits) {
    span.dropped_attributes_count += keep(&mut span.attributes, limits.attributes);
    span.events.dropped_count += keep(&mut span.events.events, limits.events);
    span.links.dropped_count += keep(&mut span.links.links, limits.links);
    for event in &mut span.events.events {
        event.dropped_attributes_count += keep(&mut event.attributes, limits.event_attributes);
    }
    for link in &mut span.links.links {
        link.dropped_attributes_count += keep(&mut link.attributes, limits.link_attributes);
    }
    if limits.value_length < usize::MAX {
        span.attributes.iter_mut().for_each(|attribute| shorten(attribute, limits.value_length));
    }
}

fn keep<T>(items: &mut Vec<T>, most: usize) -> u32 {
    let over = items.len().saturating_sub(most);
    items.truncate(most);
    over as u32
}

fn shorten(attribute: &mut KeyValue, most: usize) {
    if let Value::String(text) = &attribute.value
        && text.as_str().chars().count() > most
    {
        let short: String = text.as_str().chars().take(most).collect();
        attribute.value = short.into();
    }
}

/// A span for a person, or a test, to read.
fn line(span: &SpanData) -> serde_json::Value {
    let context = &span.span_context;
    let micros = |time: SystemTime| time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as u64);
    let attributes: serde_json::Map<String, serde_json::Value> =
        span.attributes.iter().map(|kv| (kv.key.to_string(), kv.value.to_string().into())).collect();
    let kind = match span.span_kind {
        SpanKind::Client => "client",
        SpanKind::Server => "server",
        SpanKind::Producer => "producer",
        SpanKind::Consumer => "consumer",
        SpanKind::Internal => "internal",
    };
    let mut events = String::new();
    for event in &span.events.events {
        let _ = write!(events, "{}{}", if events.is_empty() { "" } else { " " }, event.name);
    }
    serde_json::json!({
        "span": span.name,
        "kind": kind,
        "trace_id": context.trace_id().to_string(),
        "span_id": context.span_id().to_string(),
        "parent_id": span.parent_span_id.to_string(),
        "start": crate::event::format_time(micros(span.start_time) / 1000),
        "microseconds": micros(span.end_time).saturating_sub(micros(span.start_time)),
        "error": matches!(span.status, Status::Error { .. }),
        "events": events,
        "attributes": attributes,
    })
}
