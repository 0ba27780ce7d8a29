//! Store of traces in memory, bounded by number and by bytes: when either is exceeded, the trace that began to arrive
//! first goes, whole.
//!
//! A trace that is looked at is not kept any longer for it. Spans that come after their trace has gone begin it
//! anew, so such a trace shows in part.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    num::NonZeroUsize,
    sync::Arc,
};

use opentelemetry_proto::tonic::{
    collector::trace::v1::{
        ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse,
    },
    common::v1::{InstrumentationScope, KeyValue, any_value::Value},
    resource::v1::Resource,
    trace::v1::Span,
};
use parking_lot::{Mutex, MutexGuard};
use prost::Message;

/// Bounds of the store.
#[derive(Clone, Debug, clap::Args)]
pub struct Limits {
    /// Traces kept; beyond that the oldest is dropped.
    #[arg(long = "max-traces", value_name = "N", env = "ONCUE_VIEWER_MAX_TRACES", default_value = "5000", value_parser = positive)]
    pub traces: usize,
    /// Memory for spans in MiB (an estimate); beyond that the oldest trace is dropped.
    #[arg(long = "max-mib", value_name = "N", env = "ONCUE_VIEWER_MAX_MIB", default_value = "256", value_parser = mebibytes)]
    pub bytes: usize,
    /// Spans kept of one trace, which also gets at most a quarter of the memory; further ones are refused, and the
    /// trace says so.
    #[arg(long, value_name = "N", env = "ONCUE_VIEWER_MAX_SPANS_PER_TRACE", default_value = "10000", value_parser = positive)]
    pub max_spans_per_trace: usize,
}

/// Share of the memory one trace may have, as its divisor: a trace without end must not push out all others.
const TRACE_SHARE: usize = 4;
/// Memory of a decoded message in multiples of its encoded size; see [`memory`].
const DECODED_SIZE_FACTOR: usize = 3;

fn positive(text: &str) -> Result<usize, String> {
    text.parse::<NonZeroUsize>()
        .map(usize::from)
        .map_err(|error| error.to_string())
}

fn mebibytes(text: &str) -> Result<usize, String> {
    positive(text)?
        .checked_mul(1024 * 1024)
        .ok_or_else(|| "too large".to_owned())
}

/// Sender of spans: the resource, with its service name taken out.
#[derive(Debug, PartialEq)]
pub struct Process {
    pub service: String,
    pub attributes: Vec<KeyValue>,
}

impl From<Resource> for Process {
    fn from(resource: Resource) -> Self {
        let (names, attributes): (Vec<_>, Vec<_>) = resource
            .attributes
            .into_iter()
            .partition(|attribute| attribute.key == "service.name");
        let service = names.into_iter().find_map(|name| match name.value?.value? {
            Value::StringValue(name) if !name.is_empty() => Some(name),
            _ => None,
        });
        Self {
            service: service.unwrap_or_else(|| "unknown_service".to_owned()),
            attributes,
        }
    }
}

impl Process {
    /// Counted once for each trace that names it, though all spans of a request share it.
    fn bytes(&self) -> usize {
        size_of::<Self>()
            + self
                .attributes
                .iter()
                .map(|attribute| memory(attribute.encoded_len()))
                .sum::<usize>()
    }
}

/// Estimate of the memory a decoded message takes, as every string, list and attribute is its own allocation. With
/// the usual short attributes the sum of these comes within a tenth of the memory measured; with values of kilobytes
/// it is twice that, which errs on the safe side.
fn memory(encoded: usize) -> usize {
    encoded * DECODED_SIZE_FACTOR
}

/// Span as it came, with its scope and sender.
pub struct StoredSpan {
    pub span: Span,
    pub scope: Arc<InstrumentationScope>,
    /// Index into [`Trace::processes`].
    pub process: usize,
    bytes: usize,
}

/// All spans of one trace id that came so far; nobody says when a trace is complete.
#[derive(Default)]
pub struct Trace {
    pub id: u128,
    /// Spans by id, so that a batch sent twice by an exporter that missed the answer shows once.
    pub spans: BTreeMap<u64, StoredSpan>,
    pub processes: Vec<Arc<Process>>,
    /// Spans refused because the trace was full.
    pub dropped: usize,
    bytes: usize,
}

impl Trace {
    pub fn process(&self, span: &StoredSpan) -> &Process {
        &self.processes[span.process]
    }

    /// Start of the first span, in nanoseconds since the epoch.
    pub fn start(&self) -> u64 {
        self.spans
            .values()
            .map(|stored| stored.span.start_time_unix_nano)
            .min()
            .unwrap_or(0)
    }

    /// Index of a process, which is added if it is new. A few services per trace, so a scan is quicker than a map.
    fn process_index(&mut self, process: &Arc<Process>) -> usize {
        let known = self
            .processes
            .iter()
            .position(|known| Arc::ptr_eq(known, process) || known == process);
        known.unwrap_or_else(|| {
            self.processes.push(Arc::clone(process));
            self.bytes += process.bytes();
            self.processes.len() - 1
        })
    }

    /// Adds a span, or puts it in the place of one of the same id, and keeps the sum of the bytes.
    fn put(
        &mut self,
        id: u64,
        span: Span,
        process: &Arc<Process>,
        scope: &Arc<InstrumentationScope>,
    ) {
        let process = self.process_index(process);
        // The scope is shared, but a sender may open one per span.
        let bytes = size_of::<StoredSpan>() + memory(span.encoded_len() + scope.encoded_len());
        let replaced = self.spans.insert(
            id,
            StoredSpan {
                span,
                scope: Arc::clone(scope),
                process,
                bytes,
            },
        );
        self.bytes += bytes;
        self.bytes -= replaced.map_or(0, |span| span.bytes);
    }
}

/// Reason why a span was not kept. Neither is worth a retry.
#[derive(Clone, Copy)]
enum SpanRefusal {
    /// Wrong length, or all zero, which OTLP forbids.
    BadId,
    /// At its bound of spans or of bytes.
    TraceFull,
}

/// Size of the store; the bytes are an estimate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoreSize {
    pub traces: usize,
    pub spans: usize,
    pub bytes: usize,
}

pub struct Store {
    limits: Limits,
    traces: HashMap<u128, Trace>,
    /// Ids of the traces, in the order in which their first spans came.
    arrival: VecDeque<u128>,
    bytes: usize,
}

impl Store {
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            traces: HashMap::new(),
            arrival: VecDeque::new(),
            bytes: 0,
        }
    }

    /// Keeps the spans there is room for and says in the answer how many it could not keep, and why not the first of
    /// them.
    pub fn insert(&mut self, request: ExportTraceServiceRequest) -> ExportTraceServiceResponse {
        let mut refused = Vec::new();
        for resource_spans in request.resource_spans {
            let process = Arc::new(Process::from(resource_spans.resource.unwrap_or_default()));
            for scope_spans in resource_spans.scope_spans {
                let scope = Arc::new(scope_spans.scope.unwrap_or_default());
                let spans = scope_spans.spans.into_iter();
                refused.extend(
                    spans.filter_map(|span| self.insert_span(span, &process, &scope).err()),
                );
            }
        }
        ExportTraceServiceResponse {
            partial_success: self.partial_success(&refused),
        }
    }

    fn insert_span(
        &mut self,
        span: Span,
        process: &Arc<Process>,
        scope: &Arc<InstrumentationScope>,
    ) -> Result<(), SpanRefusal> {
        let (id, span_id) = trace_id(&span.trace_id)
            .zip(span_id(&span.span_id))
            .ok_or(SpanRefusal::BadId)?;
        let trace = self.traces.entry(id).or_insert_with(|| {
            self.arrival.push_back(id);
            Trace {
                id,
                ..Trace::default()
            }
        });
        let before = trace.bytes;
        let full = trace.spans.len() >= self.limits.max_spans_per_trace
            || trace.bytes >= self.limits.bytes / TRACE_SHARE;
        // A span that is there already is taken once more: it replaces its copy and needs no room.
        if full && !trace.spans.contains_key(&span_id) {
            trace.dropped += 1;
            return Err(SpanRefusal::TraceFull);
        }
        trace.put(span_id, span, process, scope);
        self.bytes = self.bytes + trace.bytes - before;
        self.evict();
        Ok(())
    }

    /// Drops traces by arrival and not by start: clocks of senders differ, and a late trace is still news.
    fn evict(&mut self) {
        while self.traces.len() > self.limits.traces || self.bytes > self.limits.bytes {
            let Some(oldest) = self.arrival.pop_front() else {
                return;
            };
            self.bytes -= self.traces.remove(&oldest).map_or(0, |trace| trace.bytes);
        }
    }

    fn partial_success(&self, refused: &[SpanRefusal]) -> Option<ExportTracePartialSuccess> {
        let error_message = match refused.first()? {
            SpanRefusal::BadId => {
                "a trace id has 16 bytes and a span id 8, not all of them zero".to_owned()
            }
            SpanRefusal::TraceFull => format!(
                "a trace keeps at most {} spans and {} bytes here",
                self.limits.max_spans_per_trace,
                self.limits.bytes / TRACE_SHARE
            ),
        };
        Some(ExportTracePartialSuccess {
            rejected_spans: refused.len() as i64,
            error_message,
        })
    }

    pub fn trace(&self, id: u128) -> Option<&Trace> {
        self.traces.get(&id)
    }

    pub fn traces(&self) -> impl Iterator<Item = &Trace> {
        self.traces.values()
    }

    /// Services with a stored span, not only those that begin traces.
    pub fn services(&self) -> BTreeSet<&str> {
        self.traces()
            .flat_map(|trace| &trace.processes)
            .map(|process| process.service.as_str())
            .collect()
    }

    /// Name and kind of the operations of one service.
    /// Reads every span of the store, which is bounded: an index would cost more with each span than it saves.
    pub fn operations(&self, service: &str) -> BTreeSet<(&str, i32)> {
        let own = self
            .spans()
            .filter(|(process, _)| process.service == service);
        own.map(|(_, stored)| (stored.span.name.as_str(), stored.span.kind))
            .collect()
    }

    fn spans(&self) -> impl Iterator<Item = (&Process, &StoredSpan)> {
        self.traces().flat_map(|trace| {
            trace
                .spans
                .values()
                .map(move |stored| (trace.process(stored), stored))
        })
    }

    /// Calls between services among the spans that started in the given nanoseconds: parent, child, count.
    pub fn dependencies(&self, from: u64, until: u64) -> BTreeMap<(&str, &str), usize> {
        let mut calls = BTreeMap::new();
        for trace in self.traces() {
            for stored in trace.spans.values() {
                if !(from..=until).contains(&stored.span.start_time_unix_nano) {
                    continue;
                }
                let child = trace.process(stored).service.as_str();
                for parent in self
                    .callers(trace, stored)
                    .into_iter()
                    .filter(|parent| *parent != child)
                {
                    *calls.entry((parent, child)).or_default() += 1;
                }
            }
        }
        calls
    }

    /// Services that called: the parent's. Only without a parent do the links count: a consumer is often both child
    /// of its producer and linked to it, and that is one call.
    fn callers(&self, trace: &Trace, stored: &StoredSpan) -> BTreeSet<&str> {
        if let Some(parent) = self.service_of(trace.id, &stored.span.parent_span_id) {
            return BTreeSet::from([parent]);
        }
        let links = stored.span.links.iter();
        links
            .filter_map(|link| self.service_of(trace_id(&link.trace_id)?, &link.span_id))
            .collect()
    }

    /// Service of a span; `None` where it did not come or has gone.
    fn service_of(&self, trace: u128, span: &[u8]) -> Option<&str> {
        let trace = self.trace(trace)?;
        Some(&trace.process(trace.spans.get(&span_id(span)?)?).service)
    }

    pub fn size(&self) -> StoreSize {
        StoreSize {
            traces: self.traces.len(),
            spans: self.traces().map(|trace| trace.spans.len()).sum(),
            bytes: self.bytes,
        }
    }
}

fn trace_id(bytes: &[u8]) -> Option<u128> {
    Some(u128::from_be_bytes(bytes.try_into().ok()?)).filter(|id| *id != 0)
}

fn span_id(bytes: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(bytes.try_into().ok()?)).filter(|id| *id != 0)
}

/// Store shared by the servers.
#[derive(Clone)]
pub struct SharedStore(Arc<Mutex<Store>>);

impl SharedStore {
    pub fn new(limits: Limits) -> Self {
        Self(Arc::new(Mutex::new(Store::new(limits))))
    }

    /// Locks the store. Never held across an await, so a blocking mutex is right. A panic while it was held cost at
    /// most one request's spans: what is there is still worth showing, hence no poisoning.
    pub fn lock(&self) -> MutexGuard<'_, Store> {
        self.0.lock()
    }
}
