//! The contract: events as they travel on the bus, and whatever a function's signature may name. No I/O.
//!
//! * [`Event`] is a message with a type, a schema and a key. `oncue-build` implements it from the `.proto` option.
//! * [`Trigger`] is what a function can act on: an event, one of several ([`events!`]), or nothing but time (`()`).
//! * [`Emit`] is what a function may return: `()`, an event, `Option`, `Vec`, tuples, one of several, [`Delayed`].
//! * [`event`] is an event as it travels: its identity, its headers, its subject.
//! * [`Contract`] is the descriptor set of the crate in which an event was made; it travels with the programs.
//! * [`text`] is what of others' text may be shown.
//! * [`Catalog`] knows every type of a descriptor set and turns payloads into JSON and back; [`compat`] compares two;
//!   [`TextField`] reads a field from text.

pub mod event;
mod signature;
mod transcode;
mod catalog;
pub mod compat;
mod contract;
mod field;
mod hand;
mod schema;
mod sensitive;
pub mod protobuf;
pub mod text;

pub use catalog::{Catalog, CatalogError, Entry, KeyReader};
pub use contract::{Contract, merge, merge_sets};
pub use field::TextField;
pub use sensitive::HIDDEN;
pub use signature::{Delayed, Draft, Emit, Trigger};

use prost::Message;
use serde::{Serialize, de::DeserializeOwned};

/// Generated code names this crate from outside and from within.
extern crate self as oncue_proto;

include!(concat!(env!("OUT_DIR"), "/events.rs"));

/// For the code that [`events!`] expands to, in crates that do not depend on it themselves.
#[doc(hidden)]
pub use bytes;

/// A fact with a name. Implemented by `oncue-build` for every message with the option `(oncue.v1.event)`.
pub trait Event: Message + Default + Serialize + DeserializeOwned + 'static {
    /// `web.page.viewed`: three dotted tokens, the first is the domain and names the stream.
    const TYPE: &'static str;
    /// Full name of the protobuf message, `web.PageViewed`.
    const SCHEMA: &'static str;
    /// Whether the contract names a key field; such an event must not have an empty key.
    const KEYED: bool;

    /// Text the event is about; empty when the contract names no key field.
    fn key(&self) -> &str;

    /// Contract of the crate that the event was made in. Default: an empty one, for an `impl` written by hand;
    /// programs that were not built with such an event cannot read it.
    fn contract() -> &'static Contract {
        &contract::NO_CONTRACT
    }
}

/// Type of a media type without its parameters, in small letters.
pub fn essence(media_type: &str) -> String {
    let essence = media_type.split(';').next().unwrap_or_default();
    essence.trim().to_ascii_lowercase()
}

/// How a payload is written. Protobuf is the default on the wire, JSON is always accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Binary protobuf, `application/protobuf`.
    Protobuf,
    /// Canonical proto3 JSON, `application/json`, in UTF-8.
    Json,
}

impl Format {
    /// From a media type; case does not matter, nor do parameters [RFC 9110 section 8.3.1], but for a charset: JSON is
    /// UTF-8 [RFC 8259 section 8.1]. `None` for any other type.
    pub fn of_media_type(media_type: &str) -> Option<Self> {
        let mut parameters = media_type.split(';').skip(1);
        if parameters.any(is_other_charset) {
            return None;
        }
        match essence(media_type).as_str() {
            "application/protobuf"
            | "application/x-protobuf"
            | "application/vnd.google.protobuf" => Some(Self::Protobuf),
            "application/json" | "text/json" => Some(Self::Json),
            other if other.starts_with("application/") && other.ends_with("+json") => {
                Some(Self::Json)
            }
            _ => None,
        }
    }

    /// For a message that does not say: `{` opens JSON and cannot open a proto3 message (it would be a group). White
    /// space can open both: a newline is also the tag of a first field that is text.
    pub fn sniff(payload: &[u8]) -> Self {
        if has_byte_order_mark(payload) {
            // Refused as JSON, with its name.
            return Self::Json;
        }
        let [b'{', rest @ ..] = payload.trim_ascii_start() else {
            return Self::Protobuf;
        };
        let opens_the_payload = rest.len() + 1 == payload.len();
        if opens_the_payload || serde_json::from_slice::<serde::de::IgnoredAny>(payload).is_ok() {
            Self::Json
        } else {
            Self::Protobuf
        }
    }

    /// Media type as it is written, in `ce-datacontenttype` and in `Content-Type`.
    pub fn media_type(self) -> &'static str {
        match self {
            Self::Protobuf => "application/protobuf",
            Self::Json => "application/json",
        }
    }
}

/// Whether a parameter of a media type names a charset that is not UTF-8.
fn is_other_charset(parameter: &str) -> bool {
    let Some((name, value)) = parameter.split_once('=') else {
        return false;
    };
    let value = value.trim().trim_matches('"');
    let is_utf8 = ["utf-8", "utf8", "us-ascii"]
        .iter()
        .any(|known| value.eq_ignore_ascii_case(known));
    name.trim().eq_ignore_ascii_case("charset") && !is_utf8
}

/// Byte order mark, which many editors write and JSON must not begin with [RFC 8259 section 8.1].
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";
/// Words for a payload that begins with one.
pub(crate) const BEGINS_WITH_MARK: &str = "it begins with a byte order mark, which JSON must not";

/// Whether a payload begins with a byte order mark.
pub(crate) fn has_byte_order_mark(payload: &[u8]) -> bool {
    payload.starts_with(BYTE_ORDER_MARK)
}

/// The payload is not a message of its type.
/// Text for people, which may quote the payload.
#[derive(Debug, Clone)]
pub struct DecodeError(pub String);

impl std::fmt::Display for DecodeError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for DecodeError {}

/// Decodes one event. Fields a newer producer added are ignored.
///
/// JSON is tried as the generated types read it, then by descriptor, then without its `null`s: the
/// first way is the fastest, and reads all that other producers of the platform write.
///
/// # Errors
/// The payload is not a message of this type; the text names the schema and the reason.
pub fn decode<E: Event>(format: Format, payload: &[u8]) -> Result<E, DecodeError> {
    match format {
        Format::Protobuf => E::decode(payload)
            .map_err(|e| DecodeError(format!("{} is not readable as protobuf: {e}", E::SCHEMA))),
        Format::Json if has_byte_order_mark(payload) => Err(DecodeError(format!(
            "{} is not readable as JSON: {BEGINS_WITH_MARK}",
            E::SCHEMA
        ))),
        Format::Json => serde_json::from_slice(payload)
            .or_else(|e| by_descriptor(payload).ok_or(e))
            .or_else(|e| without_nulls(payload).map_or(Err(e), serde_json::from_value))
            .map_err(|e| unreadable_json::<E>(&e)),
    }
}

/// Error of JSON. The reader quotes what it did not expect, which of an event with sensitive fields may be one.
fn unreadable_json<E: Event>(why: &serde_json::Error) -> DecodeError {
    let schema = E::SCHEMA;
    if E::contract().is_sensitive(E::TYPE) {
        let line = why.line();
        let column = why.column();
        return DecodeError(format!(
            "{schema} is not readable as JSON: why is not said, since it has sensitive fields; see line {line}, column {column}"
        ));
    }
    DecodeError(format!("{schema} is not readable as JSON: {why}"))
}

/// As the gateway reads it, which takes every spelling that proto3 JSON allows, such as `10.0` for a whole number:
/// what it accepts must be readable here, whichever repository the event is of.
fn by_descriptor<E: Event>(payload: &[u8]) -> Option<E> {
    let protobuf = E::contract().protobuf_of_json(E::TYPE, E::SCHEMA, payload)?;
    E::decode(&protobuf[..]).ok()
}

/// `null` stands for the default of any field [proto3 JSON], but the generated types know it for messages only.
fn without_nulls(payload: &[u8]) -> Option<serde_json::Value> {
    // Returns whether there was a `null` among the members; those in lists stay, since proto3 JSON
    // has none there.
    fn strip(value: &mut serde_json::Value) -> bool {
        match value {
            serde_json::Value::Object(fields) => {
                let before = fields.len();
                fields.retain(|_, value| !value.is_null());
                let stripped = fields.len() < before;
                fields
                    .values_mut()
                    .fold(stripped, |stripped, value| strip(value) | stripped)
            }
            serde_json::Value::Array(values) => values
                .iter_mut()
                .fold(false, |stripped, value| strip(value) | stripped),
            _ => false,
        }
    }
    let mut value = serde_json::from_slice(payload).ok()?;
    strip(&mut value).then_some(value)
}
