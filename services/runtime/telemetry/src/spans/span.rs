//! Span, written as OTLP from its first field on: an event costs one buffer a span and no tree of small strings, and
//! the way out has only to put buffers together. Fields may come in any order [Protocol Buffers encoding], so those
//! known last (the end, the status) stand last.
//!
//! | field of `Span` | number | written |
//! |---|---|---|
//! | `trace_id`, `span_id`, `parent_span_id` | 1, 2, 4 | at the beginning |
//! | `name`, `kind`, `start_time_unix_nano`, `flags` | 5, 6, 7, 16 | at the beginning |
//! | `attributes`, `events`, `links` | 9, 11, 13 | as they are set |
//! | `status` | 15 | on failure |
//! | `end_time_unix_nano`, `dropped_*_count` | 8, 10, 12, 14 | at the end |
//!
//! `trace_state` (3) is left out: it is for the next hop, and a reader of the trace can do without
//! it.

use std::borrow::Cow;
use std::sync::OnceLock;
use std::time::{SystemTime, UNIX_EPOCH};

use opentelemetry::trace::{SpanId, TraceId};
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint};

use super::span_ids::SpanIds;
use crate::settings::Limits;
use oncue_proto::protobuf::{put, put_bytes};

/// Bits of `flags` that say that the next one is valid, and that the parent is in another process [OTLP, SpanFlags].
///
/// With the second bit clear the parent is in this process; with the first clear nothing is known.
const HAS_IS_REMOTE: u32 = 0x100;
const IS_REMOTE: u32 = 0x200;
/// `STATUS_CODE_ERROR`.
const ERROR: u64 = 2;

/// Kind of a span, by its number in OTLP [OpenTelemetry trace API, SpanKind].
/// INTERNAL (1) is not among them: it is for authors' spans, which the SDK makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Request of a client, answered.
    Server = 2,
    /// Call of Redis.
    Client = 3,
    /// Event or dead letter, sent.
    Producer = 4,
    /// Event, processed.
    Consumer = 5,
}

/// Value of an attribute.
/// Doubles, bytes and lists of OTLP are missing, since no attribute of ours has such a value.
#[derive(Debug, Clone)]
pub enum Value<'a> {
    /// Text, cut at `OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT` characters.
    Text(Cow<'a, str>),
    /// Integer; OTLP has no other than signed ones of 64 bits.
    Number(i64),
    /// Boolean.
    Truth(bool),
}

impl<'a> From<&'a str> for Value<'a> {
    fn from(text: &'a str) -> Self {
        Self::Text(Cow::Borrowed(text))
    }
}

impl<'a> From<&'a String> for Value<'a> {
    fn from(text: &'a String) -> Self {
        Self::Text(Cow::Borrowed(text))
    }
}

impl From<String> for Value<'_> {
    fn from(text: String) -> Self {
        Self::Text(Cow::Owned(text))
    }
}

impl From<i64> for Value<'_> {
    fn from(number: i64) -> Self {
        Self::Number(number)
    }
}

impl From<bool> for Value<'_> {
    fn from(truth: bool) -> Self {
        Self::Truth(truth)
    }
}

/// Span under way until it is handed to [`export`](crate::export), which is when it ends. Every span is exported,
/// whatever the sampler said: the caller that makes one has decided that. Dropping it is therefore a way not to
/// export it.
#[derive(Debug)]
pub struct Span {
    /// Fields so far.
    bytes: Vec<u8>,
    /// Nanoseconds since 1970.
    started: u64,
    /// Limits of the environment, copied when the span begins.
    limits: Limits,
    /// Attributes of the span.
    attributes: Count,
    /// Events of the span.
    events: Count,
    /// Links of the span.
    links: Count,
}

/// Attributes that all spans of a sort share, encoded once for the process.
#[derive(Debug)]
pub(crate) struct FixedAttributes {
    /// Characters that a text may have.
    longest: usize,
    /// Number of attributes, for the limit.
    count: usize,
    /// Each as field 9 of `Span`.
    bytes: Vec<u8>,
}

impl FixedAttributes {
    /// These attributes and one more.
    pub fn with<'v>(mut self, name: &str, value: impl Into<Value<'v>>) -> Self {
        self.count += 1;
        attribute(9, name, &value.into(), self.longest, &mut self.bytes);
        self
    }
}

/// Count of one sort of thing that a span carries, against its limit.
#[derive(Debug, Default)]
struct Count {
    /// Written into the span.
    kept: usize,
    /// Over the limit; told to the collector in the `dropped_*_count` of the sort.
    dropped: u64,
}

impl Count {
    /// Whether there is room for one more.
    fn admits(&mut self, most: usize) -> bool {
        let room = self.kept < most;
        if room {
            self.kept += 1;
        } else {
            self.dropped += 1;
        }
        room
    }
}

impl Span {
    /// Begins a span; `name` is in two parts, so that a span named `process <type>` costs no string of its own.
    pub(crate) fn begin(
        ids: &SpanIds,
        kind: Kind,
        name: [&str; 2],
        started: SystemTime,
        limits: Limits,
    ) -> Self {
        let mut bytes = Vec::with_capacity(1024);
        put_bytes(1, &ids.trace.to_bytes(), &mut bytes);
        put_bytes(2, &ids.span.to_bytes(), &mut bytes);
        if ids.parent != SpanId::INVALID {
            put_bytes(4, &ids.parent.to_bytes(), &mut bytes);
        }
        put(5, name[0].len() + name[1].len(), &mut bytes);
        for part in name {
            bytes.extend_from_slice(part.as_bytes());
        }
        put_varint(6, kind as u64, &mut bytes);
        let started = nanos(started);
        put_fixed64(7, started, &mut bytes);
        let remote = if ids.remote { IS_REMOTE } else { 0 };
        put_fixed32(
            16,
            // A span that is exported says that it is sampled, also where only its failure is the
            // reason.
            u32::from(ids.with_sampled(true).flags.to_u8()) | HAS_IS_REMOTE | remote,
            &mut bytes,
        );
        Self {
            bytes,
            started,
            limits,
            attributes: Count::default(),
            events: Count::default(),
            links: Count::default(),
        }
    }

    /// Sets an attribute; over the limit it is dropped and counted. Setting one twice writes it twice.
    /// To be avoided, since keys must be unique [OpenTelemetry common, attribute collections].
    pub fn set<'v>(&mut self, name: &str, value: impl Into<Value<'v>>) {
        if self.attributes.admits(self.limits.attributes) {
            attribute(
                9,
                name,
                &value.into(),
                self.limits.value_length,
                &mut self.bytes,
            );
        }
    }

    /// Sets the attributes that every span of a sort has: all of them, or none where there is not room for all.
    /// The first span of the sort encodes them into `fixed`, all others copy the bytes.
    pub(crate) fn set_fixed(
        &mut self,
        fixed: &OnceLock<FixedAttributes>,
        write: impl FnOnce(FixedAttributes) -> FixedAttributes,
    ) {
        let longest = self.limits.value_length;
        let fixed = fixed.get_or_init(|| {
            write(FixedAttributes {
                longest,
                count: 0,
                bytes: Vec::new(),
            })
        });
        let count = &mut self.attributes;
        if count.kept + fixed.count > self.limits.attributes {
            count.dropped += fixed.count as u64;
            return;
        }
        count.kept += fixed.count;
        self.bytes.extend_from_slice(&fixed.bytes);
    }

    /// Adds an event at a time, with at most one attribute.
    /// The value is not cut: it is an id or a word.
    pub fn event(&mut self, name: &str, at: SystemTime, with: Option<(&str, &str)>) {
        if self.events.admits(self.limits.events) {
            let mut event = Vec::with_capacity(64);
            put_fixed64(1, nanos(at), &mut event);
            put_bytes(2, name.as_bytes(), &mut event);
            detail([3, 4], with, self.limits.event_attributes, &mut event);
            put_bytes(11, &event, &mut self.bytes);
        }
    }

    /// Adds a link to a span, with at most one attribute; `flags` are those of OTLP, see [`HAS_IS_REMOTE`].
    fn link(&mut self, to: (TraceId, SpanId), flags: u32, with: Option<(&str, &str)>) {
        if self.links.admits(self.limits.links) {
            let mut link = Vec::with_capacity(64);
            put_bytes(1, &to.0.to_bytes(), &mut link);
            put_bytes(2, &to.1.to_bytes(), &mut link);
            detail([4, 5], with, self.limits.link_attributes, &mut link);
            put_fixed32(6, flags, &mut link);
            put_bytes(13, &link, &mut self.bytes);
        }
    }

    /// Links to the span that published the message at hand, in another process.
    ///
    /// Traces are followed by parent, messages by link [OpenTelemetry messaging spans], so a
    /// `process` span has both.
    pub fn link_to_parent(&mut self, ids: &SpanIds) {
        self.link(
            (ids.trace, ids.parent),
            u32::from(ids.flags.to_u8()) | HAS_IS_REMOTE | IS_REMOTE,
            None,
        );
    }

    /// Links to a span of this process.
    /// `with` is an attribute that says why.
    pub fn link_to(&mut self, ids: &SpanIds, with: Option<(&str, &str)>) {
        self.link(
            (ids.trace, ids.span),
            u32::from(ids.flags.to_u8()) | HAS_IS_REMOTE,
            with,
        );
    }

    /// Sets the status to Error; to be called once. An empty text is left out.
    /// Texts of errors may quote an event: see [`shows_messages`](crate::shows_messages).
    pub fn fail(&mut self, text: &str) {
        let mut status = Vec::with_capacity(text.len() + 8);
        if !text.is_empty() {
            put_bytes(2, text.as_bytes(), &mut status);
        }
        put_varint(3, ERROR, &mut status);
        put_bytes(15, &status, &mut self.bytes);
    }

    /// Ends the span now, and no sooner than it began: clocks may be set back. The result is an encoded OTLP `Span`.
    pub(crate) fn end(mut self) -> Vec<u8> {
        put_fixed64(
            8,
            nanos(SystemTime::now()).max(self.started),
            &mut self.bytes,
        );
        for (field, dropped) in [
            (10, self.attributes.dropped),
            (12, self.events.dropped),
            (14, self.links.dropped),
        ] {
            if dropped > 0 {
                put_varint(field, dropped, &mut self.bytes);
            }
        }
        self.bytes
    }
}

/// Writes the one attribute of an event or link into the first of the fields, or into the second that it was dropped.
/// The values of `fields` are field numbers: attributes, and their dropped count.
fn detail(fields: [u32; 2], with: Option<(&str, &str)>, most: usize, bytes: &mut Vec<u8>) {
    match with {
        Some((name, value)) if most > 0 => {
            attribute(fields[0], name, &value.into(), usize::MAX, bytes);
        }
        Some(_) => put_varint(fields[1], 1, bytes),
        None => {}
    }
}

/// `KeyValue { key = 1, value = 2 }`, the value `AnyValue { string = 1, bool = 2, int = 3 }`.
/// Lengths come first, since each message stands behind its own.
fn attribute(field: u32, name: &str, value: &Value<'_>, longest: usize, bytes: &mut Vec<u8>) {
    let len = match value {
        Value::Text(text) => sized(first_chars(text, longest).len()),
        Value::Number(number) => 1 + encoded_len_varint(*number as u64),
        Value::Truth(_) => 2,
    };
    put(field, sized(name.len()) + sized(len), bytes);
    put_bytes(1, name.as_bytes(), bytes);
    put(2, len, bytes);
    match value {
        Value::Text(text) => put_bytes(1, first_chars(text, longest).as_bytes(), bytes),
        Value::Truth(truth) => put_varint(2, (*truth).into(), bytes),
        Value::Number(number) => put_varint(3, *number as u64, bytes),
    }
}

/// Length of a field of so many bytes, with its key and length.
/// The key takes one byte: it is used for field numbers below 16.
fn sized(len: usize) -> usize {
    1 + encoded_len_varint(len as u64) + len
}

/// The first so many characters.
/// Characters are Unicode scalar values, so no text is cut within one.
pub(crate) fn first_chars(text: &str, longest: usize) -> &str {
    if text.len() <= longest {
        return text; // without counting them
    }
    text.char_indices()
        .nth(longest)
        .map_or(text, |(end, _)| &text[..end])
}

/// Writes an integer, boolean or enum field.
fn put_varint(field: u32, number: u64, bytes: &mut Vec<u8>) {
    encode_key(field, WireType::Varint, bytes);
    encode_varint(number, bytes);
}

/// Writes a `fixed64` field: all times of OTLP.
fn put_fixed64(field: u32, number: u64, bytes: &mut Vec<u8>) {
    encode_key(field, WireType::SixtyFourBit, bytes);
    bytes.extend(number.to_le_bytes());
}

/// Writes a `fixed32` field: all flags of OTLP.
fn put_fixed32(field: u32, number: u32, bytes: &mut Vec<u8>) {
    encode_key(field, WireType::ThirtyTwoBit, bytes);
    bytes.extend(number.to_le_bytes());
}

/// Nanoseconds since 1970; 0 for times before.
fn nanos(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_nanos() as u64)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use opentelemetry::trace::TraceFlags;
    use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
    use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
    use opentelemetry_proto::tonic::trace::v1::Span as ProtoSpan;
    use prost::Message as _;

    use super::*;

    fn ids() -> SpanIds {
        SpanIds {
            trace: TraceId::from(7_u128 << 100),
            span: SpanId::from(8),
            parent: SpanId::from(9),
            remote: true,
            flags: TraceFlags::SAMPLED,
        }
    }

    fn limits() -> Limits {
        Limits {
            attributes: 9,
            value_length: 99,
            events: 9,
            links: 9,
            event_attributes: 9,
            link_attributes: 9,
        }
    }

    fn at(millis: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_millis(millis)
    }

    fn full(limits: Limits) -> ProtoSpan {
        let mut span = Span::begin(
            &ids(),
            Kind::Consumer,
            ["process ", "web.page.viewed"],
            at(5),
            limits,
        );
        span.set("text", "grün");
        span.set("number", -3);
        span.set("truth", true);
        span.set("empty", "");
        span.event("conflict", at(6), None);
        span.event("rollover", at(7), Some(("to", "there")));
        span.link_to_parent(&ids());
        span.link_to(&ids(), Some(("why", "rollover")));
        span.fail("out of luck");
        ProtoSpan::decode(&*span.end()).expect("a span as the official types read it")
    }

    fn pair(name: &str, value: Any) -> KeyValue {
        KeyValue {
            key: name.into(),
            value: Some(AnyValue { value: Some(value) }),
            ..KeyValue::default()
        }
    }

    fn text(value: &str) -> Any {
        Any::StringValue(value.into())
    }

    #[test]
    fn what_is_written_is_what_the_official_types_read() {
        let span = full(limits());
        assert_eq!(
            (span.trace_id.len(), &span.trace_id[..4]),
            (16, &[0, 0, 0, 0x70][..])
        );
        assert_eq!(
            (span.span_id, span.parent_span_id),
            (8_u64.to_be_bytes().into(), 9_u64.to_be_bytes().into())
        );
        assert_eq!(
            (span.name.as_str(), span.kind, span.flags),
            ("process web.page.viewed", 5, 0x301)
        );
        assert_eq!(span.start_time_unix_nano, 5_000_000);
        assert!(span.end_time_unix_nano > 1_700_000_000_000_000_000);
        let expected = [
            pair("text", text("grün")),
            pair("number", Any::IntValue(-3)),
            pair("truth", Any::BoolValue(true)),
            pair("empty", text("")),
        ];
        assert_eq!(span.attributes, expected);
        let events: Vec<_> = span
            .events
            .iter()
            .map(|e| (e.name.as_str(), e.time_unix_nano, &*e.attributes))
            .collect();
        let to = [pair("to", text("there"))];
        assert_eq!(
            events,
            [
                ("conflict", 6_000_000, &[][..]),
                ("rollover", 7_000_000, &to[..])
            ]
        );
        let links: Vec<_> = span
            .links
            .iter()
            .map(|l| (l.span_id[7], l.flags, l.attributes.len()))
            .collect();
        assert_eq!(links, [(9, 0x301, 0), (8, 0x101, 1)]);
        let status = span.status.expect("a status");
        assert_eq!((status.message.as_str(), status.code), ("out of luck", 2));
        assert_eq!(
            (
                span.dropped_attributes_count,
                span.dropped_events_count,
                span.dropped_links_count
            ),
            (0, 0, 0)
        );
    }

    #[test]
    fn what_is_over_a_limit_is_dropped_and_counted() {
        let few = Limits {
            attributes: 3,
            value_length: 3,
            events: 1,
            links: 2,
            event_attributes: 0,
            link_attributes: 0,
        };
        let span = full(few);
        assert_eq!(span.attributes[0], pair("text", text("grü")));
        assert_eq!(
            (span.attributes.len(), span.dropped_attributes_count),
            (3, 1)
        );
        assert_eq!((span.events.len(), span.dropped_events_count), (1, 1));
        assert_eq!(
            (
                span.links.len(),
                span.links[1].dropped_attributes_count,
                span.dropped_links_count
            ),
            (2, 1, 0)
        );
    }

    #[test]
    fn a_span_of_which_nothing_is_said_is_one_too_and_ends_no_sooner_than_it_began() {
        let later = SystemTime::now() + Duration::from_hours(1);
        let root = SpanIds {
            parent: SpanId::INVALID,
            remote: false,
            ..ids()
        };
        let span =
            ProtoSpan::decode(&*Span::begin(&root, Kind::Client, ["", ""], later, limits()).end())
                .unwrap();
        assert_eq!(
            (
                span.parent_span_id.len(),
                span.kind,
                span.flags,
                span.status
            ),
            (0, 3, 0x101, None)
        );
        assert_eq!(span.start_time_unix_nano, span.end_time_unix_nano);
    }
}
