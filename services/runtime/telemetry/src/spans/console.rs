//! Spans on the console, `OTEL_TRACES_EXPORTER=console`: for a person, or a test, to read.
//!
//! Batches are decoded again, with the official types: the console is slow by nature, and so it
//! shows what a collector would see.

use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::trace::v1::{ScopeSpans, Span, status::StatusCode};
use prost::Message as _;

/// Prints the spans, a JSON object each.
///
/// # Errors
/// When the bytes are not `ScopeSpans.spans` fields.
pub(super) fn print(spans: &[u8]) -> Result<(), String> {
    let read = ScopeSpans::decode(spans).map_err(|e| e.to_string())?;
    for span in &read.spans {
        println!("{}", line(span));
    }
    Ok(())
}

/// Span as one JSON object: ids in hex, the start as RFC 3339 with milliseconds, the duration in
/// microseconds, names of its events in one text.
fn line(span: &Span) -> serde_json::Value {
    let attributes: serde_json::Map<String, serde_json::Value> =
        span.attributes.iter().map(attribute).collect();
    let events: Vec<&str> = span
        .events
        .iter()
        .map(|event| event.name.as_str())
        .collect();
    let kind = span.kind().as_str_name().trim_start_matches("SPAN_KIND_");
    let micros = span
        .end_time_unix_nano
        .saturating_sub(span.start_time_unix_nano)
        / 1000;
    let status = span.status.as_ref();
    serde_json::json!({
        "span": span.name,
        "kind": kind.to_ascii_lowercase(),
        "trace_id": hex(&span.trace_id),
        "span_id": hex(&span.span_id),
        "parent_id": parent(span),
        "start": oncue_proto::event::format_time(span.start_time_unix_nano / 1_000_000),
        "microseconds": micros,
        "error": status.is_some_and(|status| status.code() == StatusCode::Error),
        "events": events.join(" "),
        "attributes": attributes,
    })
}

/// Id of the parent; zeros for a root, so that the column is never empty.
fn parent(span: &Span) -> String {
    if span.parent_span_id.is_empty() {
        "0".repeat(16)
    } else {
        hex(&span.parent_span_id)
    }
}

/// Bytes in lower-case hex.
fn hex(id: &[u8]) -> String {
    id.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Attribute as a member, its value as text.
fn attribute(pair: &KeyValue) -> (String, serde_json::Value) {
    let text = pair.value.as_ref().map(text).unwrap_or_default();
    (pair.key.clone(), text.into())
}

/// Value as text; lists and other values that spans of the event path do not have are in debug
/// form.
fn text(value: &AnyValue) -> String {
    match &value.value {
        Some(Value::StringValue(text)) => text.clone(),
        Some(Value::BoolValue(truth)) => truth.to_string(),
        Some(Value::IntValue(number)) => number.to_string(),
        Some(Value::DoubleValue(number)) => number.to_string(),
        Some(other) => format!("{other:?}"),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry_proto::tonic::trace::v1::span::SpanKind;

    use super::*;

    #[test]
    fn a_line_tells_what_a_person_looks_for() {
        let mut read = Span {
            name: "send x".into(),
            trace_id: vec![0xab; 16],
            span_id: vec![1; 8],
            ..Span::default()
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
