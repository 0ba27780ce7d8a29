//! The way out: finished spans wait in a bounded queue, and a thread of its own, which alone talks to the collector, takes
//! them from there a batch at a time. The thread comes to be with the first span, so an idle process has none.

use parking_lot::Mutex;
use std::collections::VecDeque;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use opentelemetry::Context;
use opentelemetry_proto::tonic::common::v1::InstrumentationScope;
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{Span as Read, status::StatusCode};
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{Span, SpanData, SpanProcessor};
use prost::Message as _;
use tokio::sync::Notify;

use super::otlp::Otlp;
use super::settings::{Exporter, Limits, Queueing};
use super::span::cut as shortened;
use oncue_proto::protobuf::{put, put_bytes};

/// Spans handed over, delivered and given up, for the metrics.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub handed: AtomicU64,
    pub delivered: AtomicU64,
    pub failed: AtomicU64,
}

pub(super) static TALLY: Tally = Tally {
    handed: AtomicU64::new(0),
    delivered: AtomicU64::new(0),
    failed: AtomicU64::new(0),
};

#[derive(Debug)]
pub(super) struct Pipe {
    exporter: Exporter,
    limits: Limits,
    resource: Vec<u8>,
    queue: Arc<Queue>,
    /// Hears when the thread has ended.
    thread: OnceLock<Mutex<Receiver<()>>>,
}

/// Spans as fields of an OTLP message, one behind the other.
#[derive(Debug, Default)]
struct Batch {
    spans: usize,
    bytes: Vec<u8>,
}

#[derive(Debug)]
struct Queue {
    how: Queueing,
    /// Full batches, behind them the one being filled, and how many spans that makes.
    waiting: Mutex<(VecDeque<Batch>, usize)>,
    /// Bytes of the largest batch so far, so that the next one need not grow.
    largest: AtomicUsize,
    /// A batch is full, or the end has come.
    ready: Notify,
    closing: AtomicBool,
}

impl Queue {
    fn new(how: Queueing) -> Self {
        let (waiting, largest) = (Mutex::default(), AtomicUsize::new(0));
        Self {
            how,
            waiting,
            largest,
            ready: Notify::new(),
            closing: AtomicBool::new(false),
        }
    }

    /// Takes a finished span; where there is no room it is lost.
    fn put(&self, span: &[u8]) {
        let mut waiting = self.waiting.lock();
        let (batches, spans) = &mut *waiting;
        if *spans >= self.how.most {
            return;
        }
        *spans += 1;
        if batches
            .back()
            .is_none_or(|batch| batch.spans >= self.how.batch)
        {
            let bytes = Vec::with_capacity(self.largest.load(Ordering::Relaxed));
            batches.push_back(Batch { spans: 0, bytes });
        }
        if let Some(batch) = batches.back_mut() {
            batch.spans += 1;
            put_bytes(2, span, &mut batch.bytes);
            if batch.spans == self.how.batch {
                self.ready.notify_one();
            }
        }
    }

    /// The next batch, which must be full unless `any` will do.
    fn take(&self, any: bool) -> Option<Batch> {
        let mut waiting = self.waiting.lock();
        let batch = waiting
            .0
            .pop_front_if(|batch| any || batch.spans >= self.how.batch)?;
        waiting.1 -= batch.spans;
        self.largest.fetch_max(batch.bytes.len(), Ordering::Relaxed);
        Some(batch)
    }
}

impl Pipe {
    pub fn new(
        exporter: Exporter,
        limits: Limits,
        queueing: Queueing,
        resource: &opentelemetry_sdk::Resource,
    ) -> Self {
        let resource = Resource {
            attributes: resource.iter().map(Into::into).collect(),
            ..Resource::default()
        };
        Self {
            exporter,
            limits,
            resource: resource.encode_to_vec(),
            queue: Arc::new(Queue::new(queueing)),
            thread: OnceLock::new(),
        }
    }

    /// Takes a finished span; never blocks.
    pub fn put(&self, span: &[u8]) {
        TALLY.handed.fetch_add(1, Ordering::Relaxed);
        self.queue.put(span);
        self.thread.get_or_init(|| {
            let (ended, hears) = channel();
            let (queue, way) = (
                self.queue.clone(),
                Way::new(self.exporter.clone(), &self.resource),
            );
            let begun = std::thread::Builder::new()
                .name("spans".into())
                .spawn(move || {
                    run(&queue, way);
                    drop(ended);
                });
            if let Err(e) = begun {
                tracing::warn!(error = %e, "no thread to send spans; they are lost");
            }
            Mutex::new(hears)
        });
    }

    pub fn shut(&self, patience: Duration) {
        if let Some(thread) = self.thread.get() {
            self.queue.closing.store(true, Ordering::Release);
            self.queue.ready.notify_one();
            if thread.lock().recv_timeout(patience) == Err(RecvTimeoutError::Timeout) {
                tracing::warn!("spans are still on their way; they are lost");
            }
        }
    }
}

/// The whole life of the thread.
fn run(queue: &Queue, mut way: Way) {
    let runtime = match tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(e) => return tracing::warn!(error = %e, "no runtime to send spans; they are lost"),
    };
    runtime.block_on(async {
        let mut open = true;
        while open {
            let due = tokio::time::timeout(queue.how.delay, queue.ready.notified())
                .await
                .is_err();
            open = !queue.closing.load(Ordering::Acquire);
            while let Some(batch) = queue.take(due || !open) {
                let was_full = batch.spans >= queue.how.batch;
                way.export(batch).await;
                if open && !was_full {
                    break; // what has come meanwhile waits for its own time
                }
            }
        }
    });
}

/// The same pipe for the spans that authors make.
#[derive(Debug)]
pub(super) struct Authors(pub &'static Pipe);

impl SpanProcessor for Authors {
    fn on_start(&self, _: &mut Span, _: &Context) {}

    fn on_end(&self, mut span: SpanData) {
        if span.span_context.is_sampled() {
            cut(&mut span, self.0.limits);
            self.0.put(&Read::from(span).encode_to_vec());
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, patience: Duration) -> OTelSdkResult {
        self.0.shut(patience);
        Ok(())
    }
}

/// What the thread does with a batch.
struct Way {
    /// `None` writes to the console.
    otlp: Option<Otlp>,
    /// What stands before the spans of every request: whose they are.
    resource: Vec<u8>,
    scope: Vec<u8>,
    /// Whether the last export failed, so that only changes are logged.
    down: bool,
}

impl Way {
    fn new(exporter: Exporter, resource: &[u8]) -> Self {
        let otlp = if let Exporter::Otlp(how) = exporter {
            Some(Otlp::new(how))
        } else {
            None
        };
        let (name, version) = ("oncue".to_owned(), env!("CARGO_PKG_VERSION").to_owned());
        let scope = InstrumentationScope {
            name,
            version,
            ..InstrumentationScope::default()
        }
        .encode_to_vec();
        let field = |content: &[u8]| {
            let mut field = Vec::new();
            put_bytes(1, content, &mut field);
            field
        };
        Self {
            otlp,
            resource: field(resource),
            scope: field(&scope),
            down: false,
        }
    }

    async fn export(&mut self, batch: Batch) {
        let spans = batch.spans as u64;
        let request = self.request(&batch);
        let sent = match &mut self.otlp {
            Some(otlp) => otlp.send(request).await,
            None => write(&batch),
        };
        let refused = sent.as_ref().map_or(spans, |refused| spans.min(*refused));
        TALLY.failed.fetch_add(refused, Ordering::Relaxed);
        TALLY
            .delivered
            .fetch_add(spans - refused, Ordering::Relaxed);
        let was_down = std::mem::replace(&mut self.down, refused > 0);
        match sent {
            Err(e) if !was_down => {
                tracing::warn!(
                    error = e,
                    spans,
                    "spans cannot be delivered; they are lost until this ends"
                );
            }
            Ok(1..) if !was_down => {
                tracing::warn!(spans, refused, "the collector refuses spans; they are lost")
            }
            Ok(0) if was_down => tracing::info!("spans are delivered again"),
            _ => {}
        }
    }

    /// `ExportTraceServiceRequest { ResourceSpans = 1 { resource = 1, ScopeSpans = 2 { scope = 1, spans = 2 } } }`.
    fn request(&self, batch: &Batch) -> Vec<u8> {
        let scope_spans = self.scope.len() + batch.bytes.len();
        let mut head = Vec::with_capacity(8);
        put(2, scope_spans, &mut head);
        let all = self.resource.len() + head.len() + scope_spans;
        let mut request = Vec::with_capacity(all + 8);
        put(1, all, &mut request);
        for part in [&self.resource, &head, &self.scope, &batch.bytes] {
            request.extend_from_slice(part);
        }
        request
    }
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
    for attribute in &mut span.attributes {
        if let opentelemetry::Value::String(text) = &attribute.value
            && let short = shortened(text.as_str(), limits.value_length)
            && short.len() < text.as_str().len()
        {
            attribute.value = short.to_owned().into();
        }
    }
}

fn keep<T>(items: &mut Vec<T>, most: usize) -> u32 {
    let over = items.len().saturating_sub(most);
    items.truncate(most);
    over as u32
}

/// The spans, a line each, on the console.
fn write(batch: &Batch) -> Result<u64, String> {
    use opentelemetry_proto::tonic::trace::v1::ScopeSpans;
    let read = ScopeSpans::decode(&*batch.bytes).map_err(|e| e.to_string())?;
    for span in &read.spans {
        println!("{}", line(span));
    }
    Ok(0)
}

/// A span for a person, or a test, to read.
fn line(span: &Read) -> serde_json::Value {
    use opentelemetry_proto::tonic::common::v1::any_value::Value;
    let text = |value: Value| match value {
        Value::StringValue(text) => text,
        Value::BoolValue(truth) => truth.to_string(),
        Value::IntValue(number) => number.to_string(),
        Value::DoubleValue(number) => number.to_string(),
        other => format!("{other:?}"),
    };
    let attributes = span.attributes.iter().map(|pair| {
        let value = pair
            .value
            .clone()
            .and_then(|value| value.value)
            .map(text)
            .unwrap_or_default();
        (pair.key.clone(), value.into())
    });
    let attributes: serde_json::Map<String, serde_json::Value> = attributes.collect();
    let mut events = String::new();
    for event in &span.events {
        let _ = write!(
            events,
            "{}{}",
            if events.is_empty() { "" } else { " " },
            event.name
        );
    }
    let hex = |id: &[u8]| {
        id.iter()
            .fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
    };
    serde_json::json!({
        "span": span.name,
        "kind": span.kind().as_str_name().trim_start_matches("SPAN_KIND_").to_ascii_lowercase(),
        "trace_id": hex(&span.trace_id),
        "span_id": hex(&span.span_id),
        "parent_id": if span.parent_span_id.is_empty() { "0".repeat(16) } else { hex(&span.parent_span_id) },
        "start": oncue_proto::event::format_time(span.start_time_unix_nano / 1_000_000),
        "microseconds": span.end_time_unix_nano.saturating_sub(span.start_time_unix_nano) / 1000,
        "error": span.status.as_ref().is_some_and(|status| status.code() == StatusCode::Error),
        "events": events,
        "attributes": attributes,
    })
}

#[cfg(test)]
mod tests {
    use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
    use opentelemetry_proto::tonic::trace::v1::span::SpanKind;

    use super::*;

    fn queue(most: usize, batch: usize) -> Queue {
        Queue::new(Queueing {
            most,
            batch,
            delay: Duration::from_hours(1),
        })
    }

    fn span(name: &str) -> Vec<u8> {
        Read {
            name: name.into(),
            ..Read::default()
        }
        .encode_to_vec()
    }

    #[test]
    fn what_does_not_fit_is_lost_and_nothing_else() {
        let queue = queue(5, 2);
        for name in ["a", "b", "c", "d", "e", "f"] {
            queue.put(&span(name));
        }
        let sizes: Vec<usize> = std::iter::from_fn(|| queue.take(false))
            .map(|batch| batch.spans)
            .collect();
        assert_eq!(sizes, [2, 2]);
        queue.put(&span("g"));
        assert_eq!(
            queue.take(false).map(|batch| batch.spans),
            Some(2),
            "there is room again"
        );
        queue.put(&span("h"));
        assert!(queue.take(false).is_none(), "not full");
        assert_eq!(queue.take(true).map(|batch| batch.spans), Some(1));
        assert!(queue.take(true).is_none());
    }

    #[test]
    fn a_request_is_what_the_official_types_read() {
        let queue = queue(9, 9);
        queue.put(&span("a"));
        queue.put(&span("b"));
        let resource = opentelemetry_sdk::Resource::builder_empty()
            .with_attribute(opentelemetry::KeyValue::new("service.name", "count"))
            .build();
        let pipe = Pipe::new(Exporter::Console, Limits::NONE, queue.how, &resource);
        let request = Way::new(Exporter::Console, &pipe.resource)
            .request(&queue.take(true).expect("a batch"));
        let read = ExportTraceServiceRequest::decode(&*request).expect("a request");
        let [of_resource] = &read.resource_spans[..] else {
            panic!("{read:?}")
        };
        assert_eq!(
            of_resource
                .resource
                .as_ref()
                .map(|resource| resource.attributes[0].key.as_str()),
            Some("service.name")
        );
        let [of_scope] = &of_resource.scope_spans[..] else {
            panic!("{read:?}")
        };
        assert_eq!(
            of_scope.scope.as_ref().map(|scope| scope.name.as_str()),
            Some("oncue")
        );
        let names: Vec<&str> = of_scope
            .spans
            .iter()
            .map(|span| span.name.as_str())
            .collect();
        assert_eq!(names, ["a", "b"]);
    }

    #[test]
    fn a_line_tells_what_a_person_looks_for() {
        let mut read = Read {
            name: "send x".into(),
            trace_id: vec![0xab; 16],
            span_id: vec![1; 8],
            ..Read::default()
        };
        read.set_kind(SpanKind::Producer);
        let line = line(&read);
        assert_eq!(
            (&line["span"], &line["kind"], &line["error"]),
            (&"send x".into(), &"producer".into(), &false.into())
        );
        assert_eq!(
            (&line["trace_id"], &line["parent_id"]),
            (&"ab".repeat(16).into(), &"0".repeat(16).into())
        );
    }
}
