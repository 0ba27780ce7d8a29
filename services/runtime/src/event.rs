//! An event as it travels: CloudEvents 1.0 in NATS headers (binary mode) or in a JSON body (structured mode), and
//! plain messages from clients that know nothing of either. Everything here is a pure function of the message, so
//! that a redelivery, a republished copy and a second function all see the same id, time and flow.

mod ids;
mod redrive;

use std::borrow::Cow;
use std::fmt::Write as _;
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use bytes::Bytes;
use chrono::DateTime;
use oncue_proto::Format;
use serde::{Deserialize, Serialize};

pub use self::ids::{
    check_id, dead_letter_id, hash, idempotency_key, new_id, output_id, partition, redrive_subject, stream_of_type,
    subject, type_of_subject,
};

/// Longest id accepted, in bytes; ids are hashed before they become part of a key.
pub const MAX_ID: usize = 128;
/// An event this many functions away from its root is dead-lettered: a loop, not a flow.
pub const MAX_HOPS: u32 = 64;
/// Number of virtual partitions, fixed at first start and kept in Redis.
pub const PARTITIONS: u32 = 256;

/// What is known of an event besides its payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meta {
    /// Unique for ever, for each (function, event) applied at most once.
    pub id: String,
    pub source: String,
    pub ty: String,
    /// Creation (or due) time, Unix milliseconds. The age fence hangs on it.
    pub time: u64,
    /// Whether every copy of the event has this `time`. Not so for one that came with an id but no time: it takes the
    /// stream's, and a resent copy another.
    pub timed: bool,
    /// Id of the root event; everything it causes shares it.
    pub flow: String,
    /// Id of the event that caused this one; empty for a root.
    pub cause: String,
    /// Functions between the root and this event.
    pub hops: u32,
    pub traceparent: Option<String>,
    pub tracestate: Option<String>,
    pub baggage: Option<String>,
    /// An operator's second chance for a dead letter.
    pub redrive: Option<Redrive>,
    /// Its flow has a ledger, and what follows from it is entered there.
    pub tracked: bool,
}

/// The order in which a dead letter was redriven, and when: the age fence hangs on that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Redrive {
    pub number: u32,
    /// Unix milliseconds.
    pub at: u64,
}

/// Header of a redriven event: what the function had made of the event when it set it aside, so that its identity
/// stays the same. Honoured on `<stream>.redrive.<function>` alone.
pub const REDRIVE: &str = "Oncue-Redrive";

/// Content of the [`REDRIVE`] header, as percent-encoded JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RedriveHeader {
    pub number: u32,
    /// Unix milliseconds.
    pub at: u64,
    pub id: String,
    #[serde(rename = "type")]
    pub ty: String,
    pub flow: String,
    /// Unix milliseconds.
    pub time: u64,
    pub timed: bool,
}

fn is_redrive(subject: &str) -> bool {
    subject.split('.').nth(1) == Some("redrive")
}

impl Meta {
    /// What can be said of a message that cannot be read.
    pub fn of_origin(origin: &Origin<'_>) -> Self {
        let id = origin.id();
        Self {
            source: format!("nats://{}", origin.stream),
            ty: type_of_subject(origin.subject).to_owned(),
            time: origin.published,
            timed: true,
            flow: id.clone(),
            cause: String::new(),
            hops: 0,
            traceparent: None,
            tracestate: None,
            baggage: None,
            redrive: None,
            tracked: false,
            id,
        }
    }
}

/// An event with its payload, as read from the bus.
#[derive(Clone, Debug)]
pub struct Incoming {
    pub meta: Meta,
    pub format: Format,
    pub payload: Bytes,
}

/// Where a message stands in its stream: what gives plain messages their identity.
#[derive(Clone, Debug)]
pub struct Origin<'a> {
    pub stream: &'a str,
    /// Creation time of the stream, Unix milliseconds: a recreated stream must not look like old events.
    pub stream_created: u64,
    pub sequence: u64,
    /// When the stream took the message, Unix milliseconds.
    pub published: u64,
    pub subject: &'a str,
}

impl Origin<'_> {
    /// Identity of a message that brings none.
    fn id(&self) -> String {
        format!("{}:{}:{}", self.stream, self.stream_created, self.sequence)
    }
}

/// Why a message is not an event: reason class and words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreadable {
    pub reason: &'static str,
    pub message: String,
}

fn unreadable(message: impl Into<String>) -> Unreadable {
    Unreadable { reason: "decode", message: message.into() }
}

/// Reads one message, in whichever of the three forms it comes, in one pass over its headers.
pub fn read<'h>(
    headers: impl Iterator<Item = (&'h str, &'h str)>,
    payload: Bytes,
    origin: &Origin<'_>,
) -> Result<Incoming, Unreadable> {
    let mut raw = Raw::default();
    for (name, value) in headers {
        raw.take(name, value)?;
    }
    let (mut payload, mut media_type) = (payload, raw.media_type.take());
    if raw.structured {
        (payload, media_type) = raw.take_structured(&payload)?;
    }
    let format = match media_type.as_deref() {
        None => Format::sniff(&payload),
        Some(ty) => Format::of_media_type(ty)
            .ok_or_else(|| unreadable(format!("data content type {ty:?} is neither protobuf nor JSON")))?,
    };
    Ok(Incoming { meta: raw.meta(origin)?, format, payload })
}

/// Header values as found, before they are completed from the stream.
#[derive(Default)]
struct Raw {
    id: Option<String>,
    msg_id: Option<String>,
    source: Option<String>,
    ty: Option<String>,
    time: Option<String>,
    flow: Option<String>,
    cause: Option<String>,
    hops: Option<String>,
    media_type: Option<String>,
    traceparent: Option<String>,
    tracestate: Option<String>,
    baggage: Option<String>,
    redrive: Option<String>,
    tracked: bool,
    structured: bool,
    /// When the stream first took it, where that is not the message at hand.
    published: Option<u64>,
}

impl Raw {
    /// Header names are compared without case: the server keeps what the client wrote [NATS ADR-4].
    fn take(&mut self, name: &str, value: &str) -> Result<(), Unreadable> {
        if name.len() > 3 && name.is_char_boundary(3) && name[..3].eq_ignore_ascii_case("ce-") {
            let value = percent_decode(value)
                .ok_or_else(|| unreadable(format!("header {name} is not percent-encoded UTF-8")))?;
            self.attribute(&name[3..].to_ascii_lowercase(), value);
        } else if name.eq_ignore_ascii_case("nats-msg-id") {
            self.msg_id = Some(value.to_owned());
        } else if name.eq_ignore_ascii_case(REDRIVE) {
            self.redrive = percent_decode(value);
        } else if name.eq_ignore_ascii_case("traceparent") {
            self.traceparent = Some(value.to_owned());
        } else if name.eq_ignore_ascii_case("tracestate") {
            self.tracestate = Some(value.to_owned());
        } else if name.eq_ignore_ascii_case("baggage") && value.len() <= 8192 {
            self.baggage = Some(value.to_owned());
        } else if name.eq_ignore_ascii_case("content-type") {
            self.structured =
                value.len() >= 23 && value.as_bytes()[..23].eq_ignore_ascii_case(b"application/cloudevents");
            if !self.structured && self.media_type.is_none() {
                self.media_type = Some(value.to_owned());
            }
        }
        Ok(())
    }

    fn attribute(&mut self, name: &str, value: String) {
        match name {
            "id" => self.id = Some(value),
            "source" => self.source = Some(value),
            "type" => self.ty = Some(value),
            "time" => self.time = Some(value),
            "datacontenttype" => self.media_type = Some(value),
            "flowid" => self.flow = Some(value),
            "causationid" => self.cause = Some(value),
            "hopcount" => self.hops = Some(value),
            "tracked" => self.tracked = value == "1",
            _ => {} // extensions we do not know stay in the raw envelope
        }
    }

    /// CloudEvents JSON format: attributes are members, the payload is `data` or `data_base64` [CloudEvents 1.0.2 JSON 3].
    fn take_structured(&mut self, body: &[u8]) -> Result<(Bytes, Option<String>), Unreadable> {
        let mut event: serde_json::Map<String, serde_json::Value> =
            serde_json::from_slice(body).map_err(|e| unreadable(format!("not a structured CloudEvent: {e}")))?;
        let data = event.remove("data");
        let data_base64 = event.remove("data_base64");
        self.media_type = None;
        for (name, value) in event {
            match value {
                serde_json::Value::Null => {}
                serde_json::Value::String(text) => self.attribute(&name, text),
                other => self.attribute(&name, other.to_string()),
            }
        }
        let media_type = self.media_type.take();
        match (data, data_base64) {
            (None, Some(serde_json::Value::String(text))) => {
                let bytes = base64::engine::general_purpose::STANDARD.decode(text);
                Ok((bytes.map_err(|e| unreadable(format!("data_base64: {e}")))?.into(), media_type))
            }
            (Some(data), None) => {
                Ok((data.to_string().into(), Some(media_type.unwrap_or_else(|| "application/json".into()))))
            }
            (None, None) => Ok((Bytes::new(), media_type)),
            _ => Err(unreadable("a structured CloudEvent has either data or data_base64")),
        }
    }

    fn meta(mut self, origin: &Origin<'_>) -> Result<Meta, Unreadable> {
        let redrive = self.redrive(origin.subject)?;
        let (id, derived) = match self.id.or(self.msg_id) {
            Some(id) => (check_id(id)?, false),
            None => (origin.id(), true),
        };
        let time = match &self.time {
            Some(text) => {
                Some(parse_time(text).ok_or_else(|| unreadable(format!("ce-time {text:?} is not RFC 3339")))?)
            }
            None => None,
        };
        Ok(Meta {
            ty: self.ty.unwrap_or_else(|| type_of_subject(origin.subject).to_owned()),
            source: self.source.unwrap_or_else(|| format!("nats://{}", origin.stream)),
            timed: derived || time.is_some(),
            time: time.or(self.published).unwrap_or(origin.published),
            flow: self.flow.filter(|f| !f.is_empty() && f.len() <= MAX_ID).unwrap_or_else(|| id.clone()),
            cause: self.cause.unwrap_or_default(),
            hops: self.hops.and_then(|h| h.parse().ok()).unwrap_or(0),
            traceparent: self.traceparent,
            tracestate: self.tracestate.filter(|t| t.len() <= 8192),
            baggage: self.baggage,
            redrive,
            tracked: self.tracked,
            id,
        })
    }

    /// The redrive's header rules over what the message itself says: an event without an id or a time took them from
    /// where it first stood, and must keep them.
    fn redrive(&mut self, subject: &str) -> Result<Option<Redrive>, Unreadable> {
        if !is_redrive(subject) {
            return Ok(None);
        }
        let header = self.redrive.as_deref().and_then(|json| serde_json::from_str::<RedriveHeader>(json).ok());
        let header =
            header.ok_or_else(|| unreadable(format!("{subject} takes only what `oncue dlq redrive` sends")))?;
        self.ty = Some(header.ty);
        self.flow = Some(header.flow);
        self.id = Some(header.id);
        self.time = header.timed.then(|| format_time(header.time));
        self.published = Some(header.time);
        Ok(Some(Redrive { number: header.number, at: header.at }))
    }
}

pub fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64)
}

/// RFC 3339 in UTC with milliseconds.
pub fn format_time(ms: u64) -> String {
    DateTime::from_timestamp_millis(ms as i64)
        .map_or_else(String::new, |t| t.to_rfc3339_opts(chrono::SecondsFormat::Millis, true))
}

/// RFC 3339 to Unix milliseconds; `None` for anything else and for times before 1970.
pub fn parse_time(text: &str) -> Option<u64> {
    u64::try_from(DateTime::parse_from_rfc3339(text).ok()?.timestamp_millis()).ok()
}

/// CloudEvents header encoding: space, quote, percent and all outside printable ASCII [CloudEvents 1.0.3-wip NATS 3.1.3].
pub fn percent_encode(text: &str) -> Cow<'_, str> {
    let plain = |b: u8| (0x21..=0x7e).contains(&b) && b != b'"' && b != b'%';
    if text.bytes().all(plain) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 8);
    for byte in text.bytes() {
        if plain(byte) {
            out.push(byte as char);
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
    Cow::Owned(out)
}

/// Decodes exactly once; `None` where the result is not UTF-8. A quoted value is unquoted first.
pub fn percent_decode(text: &str) -> Option<String> {
    let text = match text.strip_prefix('"').and_then(|t| t.strip_suffix('"')) {
        Some(inner) => Cow::Owned(inner.replace("\\\"", "\"").replace("\\\\", "\\")),
        None => Cow::Borrowed(text),
    };
    if !text.contains('%') {
        return Some(text.into_owned());
    }
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let digit = |at| bytes.get(at).and_then(|b| char::from(*b).to_digit(16));
        if let (b'%', Some(high), Some(low)) = (bytes[at], digit(at + 1), digit(at + 2)) {
            out.push((high * 16 + low) as u8);
            at += 3;
        } else {
            out.push(bytes[at]);
            at += 1;
        }
    }
    String::from_utf8(out).ok()
}

/// The headers of an event in binary mode. `key` goes into both `subject` and `partitionkey`.
pub fn headers(meta: &Meta, key: &str, format: Format) -> Vec<(&'static str, String)> {
    let mut headers = Vec::with_capacity(14);
    let mut put = |name: &'static str, value: &str| headers.push((name, percent_encode(value).into_owned()));
    put("ce-specversion", "1.0");
    put("ce-id", &meta.id);
    put("ce-source", &meta.source);
    put("ce-type", &meta.ty);
    if meta.timed {
        put("ce-time", &format_time(meta.time));
    }
    if !key.is_empty() {
        put("ce-subject", key);
        put("ce-partitionkey", key);
    }
    put("ce-datacontenttype", format.media_type());
    put("ce-flowid", &meta.flow);
    if !meta.cause.is_empty() {
        put("ce-causationid", &meta.cause);
    }
    put("ce-hopcount", itoa::Buffer::new().format(meta.hops));
    if meta.tracked {
        put("ce-tracked", "1");
    }
    put("Nats-Msg-Id", &meta.id);
    let context = [("traceparent", &meta.traceparent), ("tracestate", &meta.tracestate), ("baggage", &meta.baggage)];
    for (name, value) in context {
        if let Some(value) = value {
            headers.push((name, value.clone()));
        }
    }
    headers
}
