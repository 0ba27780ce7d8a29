//! An event as it travels: CloudEvents 1.0 in NATS headers (binary mode) or in a JSON body (structured mode), and
//! plain messages from clients that know nothing of either. Everything here is a pure function of the message, so
//! that a redelivery, a republished copy and a second function all see the same id, time and flow.
//!
//! | form | told by | attributes from | payload |
//! |---|---|---|---|
//! | binary | headers `ce-*` | headers, percent-encoded | body |
//! | structured | `Content-Type: application/cloudevents+json` | members of the body | `data` or `data_base64` |
//! | plain | neither | stream, sequence and subject | body |

mod ids;
mod percent;
mod redrive;

use std::borrow::Cow;
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use bytes::Bytes;
use chrono::DateTime;
use serde::{Deserialize, Serialize};

pub use self::ids::{
    IdSecret, PLATFORM_DOMAINS, check_id, hash, idempotency_key, new_id, partition,
    redrive_subject, stream_of_type, subject, trace_id, traceparent, type_of_subject, untraced,
};
use crate::Format;
use crate::oncue::v1::Header;

use self::percent::decoded;
pub use self::percent::{percent_decode, percent_encode};

/// Longest id accepted, in bytes; ids are hashed before they become part of a key.
pub const MAX_ID: usize = 128;
/// Most attributes of an event, those that are not known included.
pub const MAX_ATTRIBUTES: usize = 100;
/// An event this many functions away from its root is dead-lettered: a loop, not a flow.
pub const MAX_HOPS: u32 = 64;
/// Number of virtual partitions, fixed at first start and kept in Redis.
pub const PARTITIONS: u32 = 256;

/// Attributes of an event, completed from its stream: all that is known of it besides its payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meta {
    /// Unique for ever, for each (function, event) applied at most once.
    pub id: String,
    /// `/FUNCTION`, `/gateway`, or any URI reference of a client.
    pub source: String,
    /// Type, three dotted tokens: `web.page.viewed`.
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
    /// Trace that it belongs to [W3C Trace Context], as it came.
    pub traceparent: Option<String>,
    /// State of that trace, at most 8 KiB, as it came.
    pub tracestate: Option<String>,
    /// Baggage of that trace [W3C Baggage], at most 8 KiB, as it came.
    pub baggage: Option<String>,
    /// An operator's second chance for a dead letter.
    pub redrive: Option<Redrive>,
    /// Whether its flow has a ledger, in which all that follows from it is entered.
    pub tracked: bool,
}

/// Order by which a dead letter was redriven, and its time, which the age fence measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Redrive {
    /// 1 for the first one of the dead letter; 0 for an event in place of the letter's, which was nowhere before.
    pub number: u32,
    /// Unix milliseconds.
    pub at: u64,
}

/// Header of a redriven event: the identity that the event had when it was dead-lettered, so that it stays the same.
/// Honoured on `<stream>.redrive.<function>` alone.
pub const REDRIVE: &str = "Oncue-Redrive";

/// Content of the [`REDRIVE`] header, as percent-encoded JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RedriveHeader {
    /// See [`Redrive::number`].
    pub number: u32,
    /// See [`Redrive::at`].
    pub at: u64,
    /// See [`Meta::id`].
    pub id: String,
    /// See [`Meta::ty`].
    #[serde(rename = "type")]
    pub ty: String,
    /// See [`Meta::flow`].
    pub flow: String,
    /// See [`Meta::time`].
    pub time: u64,
    /// See [`Meta::timed`].
    pub timed: bool,
}

/// Whether a subject is one on which a function hears its redriven events.
fn is_redrive(subject: &str) -> bool {
    subject.split('.').nth(1) == Some("redrive")
}

impl Meta {
    /// Whether the event was in a stream before, as it first came.
    pub fn is_again(&self) -> bool {
        self.redrive.is_some_and(|redrive| redrive.number > 0)
    }

    /// Attributes of a message that cannot be read, from where it stands.
    pub fn of_origin(origin: &Origin<'_>) -> Self {
        let source = format!("nats://{}", origin.stream);
        let ty = type_of_subject(origin.subject);
        Self::root(origin.id(), source, ty, origin.published)
    }

    /// Attributes of an event that nothing has caused and that begins a flow, without a trace and without a ledger.
    pub fn root(id: String, source: String, ty: &str, time: u64) -> Self {
        Self {
            source,
            ty: ty.to_owned(),
            time,
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

/// Event with its payload, as read from the bus.
#[derive(Clone, Debug)]
pub struct Incoming {
    /// Attributes.
    pub meta: Meta,
    /// Form of the payload.
    pub format: Format,
    /// Payload, not decoded.
    pub payload: Bytes,
    /// Headers of trace context that were left out, since they broke a bound.
    pub dropped: Vec<&'static str>,
}

/// Most bytes of `tracestate` or `baggage` that are passed on; W3C asks for 512 and 8,192.
const MAX_CONTEXT: usize = 8192;
/// Most members of a `tracestate` [W3C Trace Context 3.3.1.1].
const MAX_MEMBERS: usize = 32;

/// Whether a `tracestate` may be passed on. One with more members than there may be is invalid as a whole.
pub fn is_tracestate(text: &str) -> bool {
    let members = text.split(',').filter(|member| !member.trim().is_empty());
    text.len() <= MAX_CONTEXT && members.count() <= MAX_MEMBERS
}

/// Whether a `baggage` may be passed on.
pub fn is_baggage(text: &str) -> bool {
    text.len() <= MAX_CONTEXT
}

/// Position of a message in its stream, from which plain messages take their identity.
#[derive(Clone, Debug)]
pub struct Origin<'a> {
    /// Name of the stream.
    pub stream: &'a str,
    /// Creation time of the stream, Unix milliseconds: a recreated stream must not look like old events.
    pub stream_created: u64,
    /// Sequence in the stream.
    pub sequence: u64,
    /// When the stream took the message, Unix milliseconds.
    pub published: u64,
    /// Subject under which the stream holds it.
    pub subject: &'a str,
}

impl Origin<'_> {
    /// Identity of a message that brings none.
    fn id(&self) -> String {
        format!("{}:{}:{}", self.stream, self.stream_created, self.sequence)
    }
}

/// Reason for which a message is not an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreadable {
    /// Class of the reason, a constant word: `decode`.
    pub reason: &'static str,
    /// Words for people.
    pub message: String,
}

/// Error of a message that does not hold what it says it holds.
fn unreadable(message: impl Into<String>) -> Unreadable {
    Unreadable {
        reason: "decode",
        message: message.into(),
    }
}

/// Reads one message, in whichever of the three forms it comes, in one pass over its headers. Fails for a message
/// that says it is an event and is none.
pub fn read<'h>(
    headers: impl Iterator<Item = (&'h str, &'h str)>,
    payload: Bytes,
    origin: &Origin<'_>,
) -> Result<Incoming, Unreadable> {
    let mut raw = Raw::default();
    for (name, value) in headers {
        raw.take(name, value)?;
    }
    let (payload, media_type) = if raw.structured {
        raw.take_structured(&payload)?
    } else {
        (payload, raw.media_type.take())
    };
    let format = match media_type.as_deref() {
        None => Format::sniff(&payload),
        Some(ty) => Format::of_media_type(ty).ok_or_else(|| {
            unreadable(format!(
                "data content type {ty:?} is neither protobuf nor JSON in UTF-8"
            ))
        })?,
    };
    let dropped = std::mem::take(&mut raw.dropped);
    Ok(Incoming {
        meta: raw.meta(origin)?,
        format,
        payload,
        dropped,
    })
}

/// Header values as found, before they are completed from the stream.
#[derive(Default)]
struct Raw<'h> {
    /// `ce-specversion`.
    version: Option<Cow<'h, str>>,
    /// `ce-id`.
    id: Option<Cow<'h, str>>,
    /// `Nats-Msg-Id`: the id of a message without `ce-id`.
    msg_id: Option<Cow<'h, str>>,
    /// `ce-source`.
    source: Option<Cow<'h, str>>,
    /// `ce-type`.
    ty: Option<Cow<'h, str>>,
    /// `ce-time`, RFC 3339.
    time: Option<Cow<'h, str>>,
    /// `ce-flowid`.
    flow: Option<Cow<'h, str>>,
    /// `ce-causationid`.
    cause: Option<Cow<'h, str>>,
    /// `ce-hopcount`; what is no number counts as 0.
    hops: Option<Cow<'h, str>>,
    /// `ce-datacontenttype`, or else `Content-Type`.
    media_type: Option<Cow<'h, str>>,
    /// Subject of the schedule that has fired the message.
    scheduler: Option<&'h str>,
    traceparent: Option<&'h str>,
    tracestate: Option<&'h str>,
    baggage: Option<&'h str>,
    /// See [`Incoming::dropped`].
    dropped: Vec<&'static str>,
    /// JSON of a [`RedriveHeader`].
    redrive: Option<Cow<'h, str>>,
    /// `ce-tracked` is `1`.
    tracked: bool,
    /// Whether the body is a whole CloudEvent, which then says all.
    structured: bool,
    /// When the stream first took the event, for one that is redriven.
    published: Option<u64>,
    /// Names of the headers that mean something, as they came; the fields above hold one value each.
    names: Vec<&'h str>,
}

impl<'h> Raw<'h> {
    /// Header names are compared without case: the server keeps what the client wrote [NATS ADR-4].
    fn take(&mut self, name: &'h str, value: &'h str) -> Result<(), Unreadable> {
        self.take_name(name)?;
        if name.len() > 3 && name.is_char_boundary(3) && name[..3].eq_ignore_ascii_case("ce-") {
            let value = decoded(value)
                .ok_or_else(|| unreadable(format!("header {name} is not percent-encoded UTF-8")))?;
            let mut lower = [0; "datacontenttype".len()];
            if let Some(lower) = lower.get_mut(..name.len() - 3) {
                lower.copy_from_slice(&name.as_bytes()[3..]);
                lower.make_ascii_lowercase();
                self.attribute(lower, value);
            }
        } else if name.eq_ignore_ascii_case("nats-msg-id") {
            self.msg_id = Some(value.into());
        } else if name.eq_ignore_ascii_case(SCHEDULER) {
            self.scheduler = Some(value);
        } else if name.eq_ignore_ascii_case(REDRIVE) {
            self.redrive = decoded(value);
        } else if name.eq_ignore_ascii_case("traceparent") {
            self.traceparent = Some(value);
        } else if name.eq_ignore_ascii_case("tracestate") {
            if is_tracestate(value) {
                self.tracestate = Some(value);
            } else {
                self.dropped.push("tracestate");
            }
        } else if name.eq_ignore_ascii_case("baggage") {
            if is_baggage(value) {
                self.baggage = Some(value);
            } else {
                self.dropped.push("baggage");
            }
        } else if name.eq_ignore_ascii_case("content-type") {
            self.structured = value.len() >= 23
                && value.as_bytes()[..23].eq_ignore_ascii_case(b"application/cloudevents");
            if !self.structured && self.media_type.is_none() {
                self.media_type = Some(value.into());
            }
        }
        Ok(())
    }

    /// Refuses a message that says one thing twice, under one name or under two that differ in case: headers have no
    /// order, so each delivery could take another value.
    fn take_name(&mut self, name: &'h str) -> Result<(), Unreadable> {
        if !is_read(name) {
            return Ok(());
        }
        let mut before = self.names.iter();
        if let Some(other) = before.find(|other| other.eq_ignore_ascii_case(name)) {
            return Err(unreadable(format!(
                "the headers {other} and {name} are one, and a message may have only one of them"
            )));
        }
        if self.names.len() == MAX_ATTRIBUTES {
            return Err(unreadable(format!("more than {MAX_ATTRIBUTES} attributes")));
        }
        self.names.push(name);
        Ok(())
    }

    /// Takes an attribute by its name in lower case.
    fn attribute(&mut self, name: &[u8], value: Cow<'h, str>) {
        match name {
            b"specversion" => self.version = Some(value),
            b"id" => self.id = Some(value),
            b"source" => self.source = Some(value),
            b"type" => self.ty = Some(value),
            b"time" => self.time = Some(value),
            b"datacontenttype" => self.media_type = Some(value),
            b"flowid" => self.flow = Some(value),
            b"causationid" => self.cause = Some(value),
            b"hopcount" => self.hops = Some(value),
            b"tracked" => self.tracked = value == "1",
            _ => {} // extensions we do not know stay in the raw envelope
        }
    }

    /// CloudEvents JSON format: attributes are members, the payload is `data` or `data_base64` [CloudEvents 1.0.2
    /// JSON 3].
    fn take_structured(
        &mut self,
        body: &[u8],
    ) -> Result<(Bytes, Option<Cow<'h, str>>), Unreadable> {
        let mut event: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(body)
            .map_err(|e| unreadable(format!("not a structured CloudEvent: {e}")))?;
        let data = event.remove("data");
        let data_base64 = event.remove("data_base64");
        self.media_type = None;
        for (name, value) in event {
            match value {
                serde_json::Value::Null => {}
                serde_json::Value::String(text) => self.attribute(name.as_bytes(), text.into()),
                _ if CORE_ATTRIBUTES.contains(&&*name) => {
                    return Err(unreadable(format!("attribute {name} is not a string")));
                }
                other => self.attribute(name.as_bytes(), other.to_string().into()),
            }
        }
        if self.version.is_none() {
            return Err(unreadable("attribute specversion is missing"));
        }
        let media_type = self.media_type.take();
        match (data, data_base64) {
            (None, Some(serde_json::Value::String(text))) => {
                let bytes = base64::engine::general_purpose::STANDARD.decode(text);
                Ok((
                    bytes
                        .map_err(|e| unreadable(format!("data_base64: {e}")))?
                        .into(),
                    media_type,
                ))
            }
            (Some(data), None) => Ok((
                data.to_string().into(),
                Some(media_type.unwrap_or_else(|| "application/json".into())),
            )),
            (None, None) => Ok((Bytes::new(), media_type)),
            _ => Err(unreadable(
                "a structured CloudEvent has either data or data_base64",
            )),
        }
    }

    /// Completes the attributes from where the message stands: id, type, source, time and flow of one that brings
    /// none.
    fn meta(mut self, origin: &Origin<'_>) -> Result<Meta, Unreadable> {
        if let Some(version) = self.version.as_ref().filter(|version| **version != "1.0") {
            return Err(unreadable(format!(
                "specversion {version:?} is not \"1.0\""
            )));
        }
        if let Some(source) = &self.source {
            check_source(source)?;
        }
        if let Some(scheduler) = self.scheduler {
            check_scheduler(scheduler, origin.subject)?;
        }
        let redrive = self.redrive(origin.subject)?;
        let (id, derived) = match self.id.or(self.msg_id) {
            Some(id) => (check_id(id.into_owned())?, false),
            None => (origin.id(), true),
        };
        let time = match &self.time {
            Some(text) => Some(
                parse_time(text)
                    .ok_or_else(|| unreadable(format!("ce-time {text:?} is not RFC 3339")))?,
            ),
            None => None,
        };
        let flow = self.flow.filter(|f| !f.is_empty() && f.len() <= MAX_ID);
        Ok(Meta {
            ty: self.ty.map_or_else(
                || type_of_subject(origin.subject).to_owned(),
                Cow::into_owned,
            ),
            source: self
                .source
                .map_or_else(|| format!("nats://{}", origin.stream), Cow::into_owned),
            timed: derived || time.is_some(),
            time: time.or(self.published).unwrap_or(origin.published),
            flow: flow.map_or_else(|| id.clone(), Cow::into_owned),
            cause: self.cause.map_or_else(String::new, Cow::into_owned),
            hops: self.hops.and_then(|h| h.parse().ok()).unwrap_or(0),
            traceparent: self.traceparent.map(str::to_owned),
            tracestate: self.tracestate.map(str::to_owned),
            baggage: self.baggage.map(str::to_owned),
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
        let header = self
            .redrive
            .as_deref()
            .and_then(|json| serde_json::from_str::<RedriveHeader>(json).ok());
        let header = header.ok_or_else(|| {
            unreadable(format!(
                "{subject} takes only what `oncue dlq redrive` sends"
            ))
        })?;
        self.ty = Some(header.ty.into());
        self.flow = Some(header.flow.into());
        self.id = Some(header.id.into());
        self.time = header.timed.then(|| format_time(header.time).into());
        self.published = Some(header.time);
        Ok(Some(Redrive {
            number: header.number,
            at: header.at,
        }))
    }
}

/// Header in which nats-server says which schedule has fired a message.
const SCHEDULER: &str = "nats-scheduler";

/// Refuses what a delay of a function has fired under another subject than that of its type: rights say what a function may delay,
/// and no server looks at where its schedules fire to.
fn check_scheduler(scheduler: &str, subject: &str) -> Result<(), Unreadable> {
    let Some(delay) = scheduler.strip_prefix("timer.delayed.") else {
        return Ok(());
    };
    // `APP.FUNCTION.TYPE.ID`
    let (_, rest) = delay.split_once('.').unwrap_or_default();
    let (_, rest) = rest.split_once('.').unwrap_or_default();
    // An id alone: of a version that did not write the type, whose events may wait for long.
    let Some((ty, _)) = rest.rsplit_once('.') else {
        return Ok(());
    };
    if type_of_subject(subject) == ty && !is_redrive(subject) {
        return Ok(());
    }
    Err(unreadable(format!(
        "{scheduler} may fire {ty}, and fired {subject}"
    )))
}

/// Attributes that are strings wherever they stand [CloudEvents 1.0.2 section 3].
const CORE_ATTRIBUTES: [&str; 6] = [
    "specversion",
    "id",
    "source",
    "type",
    "time",
    "datacontenttype",
];

/// Checks the source of an event: 1 to 1024 bytes without control characters.
///
/// # Errors
///
/// It is something else.
pub fn check_source(source: &str) -> Result<(), Unreadable> {
    if source.is_empty() || source.len() > 1024 || source.chars().any(char::is_control) {
        return Err(unreadable(
            "the source must be 1 to 1024 bytes without control characters",
        ));
    }
    Ok(())
}

/// Whether a header means something to us.
fn is_read(name: &str) -> bool {
    const READ: [&str; 7] = [
        "nats-msg-id",
        SCHEDULER,
        "traceparent",
        "tracestate",
        "baggage",
        "content-type",
        REDRIVE,
    ];
    let start = name.get(..3).unwrap_or_default();
    start.eq_ignore_ascii_case("ce-") || READ.iter().any(|read| read.eq_ignore_ascii_case(name))
}

/// Time of this machine, Unix milliseconds.
/// 0 where the clock stands before 1970.
pub fn now_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| d.as_millis() as u64)
}

/// Unix milliseconds as RFC 3339 in UTC with milliseconds; empty for a time beyond all calendars.
pub fn format_time(ms: u64) -> String {
    DateTime::from_timestamp_millis(ms as i64).map_or_else(String::new, |t| {
        t.to_rfc3339_opts(chrono::SecondsFormat::Millis, true)
    })
}

/// RFC 3339 to Unix milliseconds; `None` for anything else and for times before 1970.
pub fn parse_time(text: &str) -> Option<u64> {
    u64::try_from(DateTime::parse_from_rfc3339(text).ok()?.timestamp_millis()).ok()
}

/// Headers of an event in binary mode, percent-encoded, in the order in which they are sent. `key` goes into both
/// `subject` and `partitionkey`.
pub fn headers(meta: &Meta, key: &str, format: Format) -> Vec<(&'static str, String)> {
    let mut headers = Vec::with_capacity(14);
    each_header(meta, key, format, |name, value| {
        headers.push((name, value.to_owned()));
    });
    headers
}

/// [`headers`] as an [`Envelope`](crate::oncue::v1::Envelope) has them.
pub fn envelope_headers(meta: &Meta, key: &str, format: Format) -> Vec<Header> {
    let headers = headers(meta, key, format).into_iter();
    let headers = headers.map(|(name, value)| Header {
        name: name.to_owned(),
        value,
    });
    headers.collect()
}

/// Hands the headers of an event in binary mode to `put` one by one, as [`headers`] collects them.
pub fn each_header(
    meta: &Meta,
    key: &str,
    format: Format,
    mut put: impl FnMut(&'static str, &str),
) {
    put_encoded(&mut put, "ce-specversion", "1.0");
    put_encoded(&mut put, "ce-id", &meta.id);
    put_encoded(&mut put, "ce-source", &meta.source);
    put_encoded(&mut put, "ce-type", &meta.ty);
    if meta.timed {
        put_encoded(&mut put, "ce-time", &format_time(meta.time));
    }
    if !key.is_empty() {
        put_encoded(&mut put, "ce-subject", key);
        put_encoded(&mut put, "ce-partitionkey", key);
    }
    put_encoded(&mut put, "ce-datacontenttype", format.media_type());
    put_encoded(&mut put, "ce-flowid", &meta.flow);
    if !meta.cause.is_empty() {
        put_encoded(&mut put, "ce-causationid", &meta.cause);
    }
    put_encoded(
        &mut put,
        "ce-hopcount",
        itoa::Buffer::new().format(meta.hops),
    );
    if meta.tracked {
        put_encoded(&mut put, "ce-tracked", "1");
    }
    put_encoded(&mut put, "Nats-Msg-Id", &meta.id);
    let context = [
        ("traceparent", &meta.traceparent),
        ("tracestate", &meta.tracestate),
        ("baggage", &meta.baggage),
    ];
    for (name, value) in context {
        if let Some(value) = value {
            put(name, value);
        }
    }
}

/// Hands over one header, with its value percent-encoded.
fn put_encoded(put: &mut impl FnMut(&'static str, &str), name: &'static str, value: &str) {
    put(name, &percent_encode(value));
}
