//! Jaeger's JSON, as its UI 2.14 reads it, built from OTLP spans. Field names are Jaeger's [jaeger
//! `model/json/model.go`].
//!
//! Everything borrows from the store: a trace is written out while the store is locked, and nothing is copied before.

use std::{borrow::Cow, collections::BTreeMap};

use base64::{Engine, engine::general_purpose::STANDARD};
use opentelemetry_proto::tonic::{
    common::v1::{AnyValue, KeyValue, any_value::Value},
    trace::v1::{Span, span::SpanKind, status::StatusCode},
};
use serde::Serialize;
use serde_json::json;

use crate::store::{Process, StoredSpan, Trace};

/// Largest whole number JavaScript reads exactly (`Number.MAX_SAFE_INTEGER`); larger ones travel as text.
const MAX_SAFE_INTEGER: u64 = (1 << 53) - 1;

/// Trace: its spans by start, and the processes they name.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct JaegerTrace<'a> {
    #[serde(rename = "traceID")]
    trace_id: String,
    spans: Vec<JaegerSpan<'a>>,
    processes: BTreeMap<String, JaegerProcess<'a>>,
    warnings: Option<Vec<String>>,
}

/// Sender of spans, named once in a trace and by its id in each span.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct JaegerProcess<'a> {
    service_name: &'a str,
    tags: Vec<Tag<'a>>,
}

/// Span; times are in microseconds since the epoch, its duration too.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct JaegerSpan<'a> {
    #[serde(rename = "traceID")]
    trace_id: String,
    #[serde(rename = "spanID")]
    span_id: String,
    operation_name: &'a str,
    references: Vec<Reference>,
    start_time: u64,
    duration: u64,
    tags: Vec<Tag<'a>>,
    logs: Vec<Log<'a>>,
    #[serde(rename = "processID")]
    process_id: String,
    warnings: Option<Vec<String>>,
}

/// Parent of a span, or a span it is linked to.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Reference {
    ref_type: &'static str,
    #[serde(rename = "traceID")]
    trace_id: String,
    #[serde(rename = "spanID")]
    span_id: String,
}

/// Event of a span, in OTLP's word; its time is in microseconds since the epoch.
#[derive(Serialize)]
struct Log<'a> {
    timestamp: u64,
    fields: Vec<Tag<'a>>,
}

/// Key and value of a span, a process or a log entry, with its type in Jaeger's words.
#[derive(Serialize)]
pub struct Tag<'a> {
    pub key: &'a str,
    r#type: &'static str,
    pub value: TagValue<'a>,
}

/// Value as JSON has it; the type beside it tells Jaeger how it is meant.
#[derive(Serialize)]
#[serde(untagged)]
pub enum TagValue<'a> {
    Text(Cow<'a, str>),
    Bool(bool),
    Int(i64),
    Float(f64),
}

impl TagValue<'_> {
    /// Value as a person types it into the search form.
    pub fn text(&self) -> Cow<'_, str> {
        match self {
            Self::Text(text) => Cow::Borrowed(text),
            Self::Bool(value) => value.to_string().into(),
            Self::Int(value) => value.to_string().into(),
            Self::Float(value) => value.to_string().into(),
        }
    }
}

impl<'a> From<&'a Trace> for JaegerTrace<'a> {
    fn from(trace: &'a Trace) -> Self {
        let mut stored: Vec<_> = trace.spans.values().collect();
        // The store has them by id; the UI draws them in the order in which they come.
        stored.sort_by_key(|stored| stored.span.start_time_unix_nano);
        let mut spans: Vec<_> = stored.into_iter().map(JaegerSpan::from).collect();
        let warnings = (trace.dropped > 0).then(|| {
            vec![format!(
                "{} spans of this trace were not kept: the trace is full",
                trace.dropped
            )]
        });
        // The UI shows warnings of spans only.
        if let Some(first) = spans.first_mut() {
            first.warnings.clone_from(&warnings);
        }
        let processes = trace.processes.iter().enumerate();
        Self {
            trace_id: hex(&trace.id.to_be_bytes()),
            spans,
            processes: processes
                .map(|(index, process)| (process_id(index), JaegerProcess::from(&**process)))
                .collect(),
            warnings,
        }
    }
}

impl<'a> From<&'a Process> for JaegerProcess<'a> {
    fn from(process: &'a Process) -> Self {
        Self {
            service_name: &process.service,
            tags: process_tags(process).collect(),
        }
    }
}

impl<'a> From<&'a StoredSpan> for JaegerSpan<'a> {
    fn from(stored: &'a StoredSpan) -> Self {
        let span = &stored.span;
        Self {
            trace_id: hex(&span.trace_id),
            span_id: hex(&span.span_id),
            operation_name: &span.name,
            references: references(span),
            start_time: span.start_time_unix_nano / 1000,
            duration: duration(span) / 1000,
            tags: span_tags(stored),
            logs: span
                .events
                .iter()
                .map(|event| Log {
                    timestamp: event.time_unix_nano / 1000,
                    fields: fields(event).collect(),
                })
                .collect(),
            process_id: process_id(stored.process),
            warnings: None,
        }
    }
}

/// Duration of a span in nanoseconds; zero for a span that ends before it starts.
pub fn duration(span: &Span) -> u64 {
    span.end_time_unix_nano
        .saturating_sub(span.start_time_unix_nano)
}

/// Attributes of the sender, without its service name.
pub fn process_tags(process: &Process) -> impl Iterator<Item = Tag<'_>> {
    process.attributes.iter().map(Tag::from)
}

/// Fields of a span's log entries, with the event's name among them.
pub fn fields(
    event: &opentelemetry_proto::tonic::trace::v1::span::Event,
) -> impl Iterator<Item = Tag<'_>> {
    let name = (!event.name.is_empty()).then(|| Tag::text("event", &event.name));
    name.into_iter()
        .chain(event.attributes.iter().map(Tag::from))
}

/// Tags of a span: its attributes, and what OTLP keeps in fields of its own. An attribute of the same name wins.
pub fn span_tags(stored: &StoredSpan) -> Vec<Tag<'_>> {
    let mut tags: Vec<_> = stored.span.attributes.iter().map(Tag::from).collect();
    for tag in derived_tags(stored) {
        if !tags.iter().any(|known| known.key == tag.key) {
            tags.push(tag);
        }
    }
    tags
}

/// Tags under the names that Jaeger's own translation from OTLP gives them, so that searches and colours of the UI
/// work.
fn derived_tags(stored: &StoredSpan) -> impl Iterator<Item = Tag<'_>> {
    let StoredSpan { span, scope, .. } = stored;
    let status = span.status.as_ref();
    let code = status.map(opentelemetry_proto::tonic::trace::v1::Status::code);
    let failed = code == Some(StatusCode::Error);
    let error = failed.then_some(Tag {
        key: "error",
        r#type: "bool",
        value: TagValue::Bool(true),
    });
    let texts = [
        ("span.kind", span_kind(span.kind)),
        ("otel.scope.name", &scope.name),
        ("otel.scope.version", &scope.version),
        ("otel.status_code", status_code(code)),
        (
            "otel.status_description",
            status.map_or("", |status| &status.message),
        ),
        ("w3c.tracestate", &span.trace_state),
    ];
    error.into_iter().chain(
        texts
            .into_iter()
            .filter(|(_, text)| !text.is_empty())
            .map(|(key, text)| Tag::text(key, text)),
    )
}

/// Word for a status; empty for none, as an unset status says nothing.
fn status_code(code: Option<StatusCode>) -> &'static str {
    match code {
        Some(StatusCode::Error) => "ERROR",
        Some(StatusCode::Ok) => "OK",
        Some(StatusCode::Unset) | None => "",
    }
}

/// Jaeger's word for an OTLP span kind; empty for none.
pub fn span_kind(kind: i32) -> &'static str {
    match SpanKind::try_from(kind).unwrap_or_default() {
        SpanKind::Unspecified => "",
        SpanKind::Internal => "internal",
        SpanKind::Server => "server",
        SpanKind::Client => "client",
        SpanKind::Producer => "producer",
        SpanKind::Consumer => "consumer",
    }
}

/// Parent and links of a span.
fn references(span: &Span) -> Vec<Reference> {
    let parent = (!span.parent_span_id.is_empty())
        .then(|| reference("CHILD_OF", &span.trace_id, &span.parent_span_id));
    // A link to the parent says nothing new, and the UI would count two references.
    let links = span
        .links
        .iter()
        .filter(|link| link.trace_id != span.trace_id || link.span_id != span.parent_span_id);
    parent
        .into_iter()
        .chain(links.map(|link| reference("FOLLOWS_FROM", &link.trace_id, &link.span_id)))
        .collect()
}

fn reference(ref_type: &'static str, trace: &[u8], span: &[u8]) -> Reference {
    Reference {
        ref_type,
        trace_id: hex(trace),
        span_id: hex(span),
    }
}

/// Counted from 1, as in Jaeger; by position, so it means something within one trace only.
fn process_id(index: usize) -> String {
    format!("p{}", index + 1)
}

/// Lower case, two digits for each byte.
fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 15])
        .filter_map(|digit| char::from_digit(digit.into(), 16))
        .collect()
}

impl<'a> Tag<'a> {
    fn text(key: &'a str, text: &'a str) -> Self {
        Self {
            key,
            r#type: "string",
            value: TagValue::Text(text.into()),
        }
    }
}

impl<'a> From<&'a KeyValue> for Tag<'a> {
    fn from(attribute: &'a KeyValue) -> Self {
        let (r#type, value) = typed_value(attribute.value.as_ref());
        Self {
            key: &attribute.key,
            r#type,
            value,
        }
    }
}

/// Jaeger's type and value of an attribute. A list or map, which Jaeger has not, is shown as JSON text.
fn typed_value(value: Option<&AnyValue>) -> (&'static str, TagValue<'_>) {
    match value.and_then(|value| value.value.as_ref()) {
        Some(Value::StringValue(text)) => ("string", TagValue::Text(text.into())),
        Some(Value::BoolValue(value)) => ("bool", TagValue::Bool(*value)),
        Some(Value::IntValue(value)) if value.unsigned_abs() <= MAX_SAFE_INTEGER => {
            ("int64", TagValue::Int(*value))
        }
        Some(Value::IntValue(value)) => ("int64", TagValue::Text(value.to_string().into())),
        Some(Value::DoubleValue(value)) if value.is_finite() => {
            ("float64", TagValue::Float(*value))
        }
        // JSON has no NaN.
        Some(Value::DoubleValue(value)) => ("float64", TagValue::Text(value.to_string().into())),
        Some(Value::BytesValue(bytes)) => ("binary", TagValue::Text(STANDARD.encode(bytes).into())),
        nested => (
            "string",
            TagValue::Text(
                nested
                    .map_or_else(String::new, |value| plain(value).to_string())
                    .into(),
            ),
        ),
    }
}

/// Null for an attribute without a value, which OTLP allows.
fn plain_or_null(value: Option<&AnyValue>) -> serde_json::Value {
    value
        .and_then(|value| value.value.as_ref())
        .map_or(serde_json::Value::Null, plain)
}

/// Value as plain JSON: lists and maps become the JSON that they look like, bytes base64.
fn plain(value: &Value) -> serde_json::Value {
    match value {
        Value::StringValue(text) => json!(text),
        Value::BoolValue(value) => json!(value),
        Value::IntValue(value) => json!(value),
        Value::DoubleValue(value) => json!(value),
        Value::BytesValue(bytes) => json!(STANDARD.encode(bytes)),
        Value::ArrayValue(array) => array
            .values
            .iter()
            .map(|value| plain_or_null(Some(value)))
            .collect(),
        Value::KvlistValue(list) => list
            .values
            .iter()
            .map(|pair| (pair.key.clone(), plain_or_null(pair.value.as_ref())))
            .collect(),
        // Only profiles use this one.
        Value::StringValueStrindex(_) => json!(null),
    }
}
