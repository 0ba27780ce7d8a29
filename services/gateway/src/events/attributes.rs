//! Attributes of an event besides its payload: CloudEvents 1.0 over HTTP in binary mode (`ce-*` headers) or
//! structured mode (one JSON document), or a bare payload without any.

use std::collections::BTreeMap;

use axum::http::{HeaderMap, HeaderName, header};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use oncue_core::store::SKEW_MS;
use oncue_proto::Format;
use oncue_proto::event::{self, Meta};
use serde_json::value::RawValue;

use crate::problem::{CLOCK, MALFORMED, MEDIA_TYPE, Problem};
use crate::request::{check_id, text};

/// `source` of events whose client names none.
pub const SOURCE: &str = "/gateway";
const FORMS: &str = "application/json, application/protobuf or application/cloudevents+json";

/// How the body is to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// The body is the payload, in this form or in the one it looks like.
    Binary(Option<Format>),
    /// The body is a CloudEvent in JSON.
    Structured,
    /// The body is a list of them.
    Batch,
}

/// Detection in the order of [CloudEvents 1.0.2 HTTP 3]; batch first, since it shares its prefix with structured.
pub fn form(headers: &HeaderMap) -> Result<Form, Problem> {
    let Some(media_type) = text(headers, &header::CONTENT_TYPE)? else {
        // A CloudEvent may leave it out, and no page may send its headers without asking.
        if headers.contains_key("ce-specversion") {
            return Ok(Form::Binary(None));
        }
        // Besides, a page of any site may send what has none, without asking us first [Fetch, CORS-safelisted].
        let why = format!(
            "without a Content-Type; send {FORMS}, as curl does with -H 'content-type: application/json'"
        );
        return Err(Problem::new(MEDIA_TYPE, why));
    };
    let essence = oncue_proto::essence(media_type);
    if essence.starts_with("application/cloudevents-batch") {
        if essence == "application/cloudevents-batch+json" {
            return Ok(Form::Batch);
        }
        let why = format!("of batches only the JSON form is taken, not {essence:?}");
        return Err(Problem::new(MEDIA_TYPE, why));
    }
    if essence == "application/cloudevents+json" {
        return Ok(Form::Structured);
    }
    if essence.starts_with("application/cloudevents") {
        let why = format!("of structured CloudEvents only the JSON form is taken, not {essence:?}");
        return Err(Problem::new(MEDIA_TYPE, why));
    }
    let format = Format::of_media_type(media_type);
    let form = format.map(|format| Form::Binary(Some(format)));
    form.ok_or_else(|| {
        let why = format!("{media_type:?} is none of {FORMS}, in UTF-8");
        Problem::new(MEDIA_TYPE, why)
    })
}

/// The attributes a client may set. Key and flow are not among them: the contract and the gateway say those.
#[derive(Debug, Default)]
pub struct Attributes {
    id: Option<String>,
    source: Option<String>,
    ty: Option<String>,
    time: Option<String>,
    version: Option<String>,
}

/// Attributes and payload, wherever they stand. The payload stays as the client wrote it: fields a newer contract
/// knows are passed on.
#[derive(Debug)]
pub struct ReadEvent {
    pub attributes: Attributes,
    pub format: Format,
    pub payload: Bytes,
}

impl ReadEvent {
    pub fn of(form: Form, headers: &HeaderMap, body: Bytes) -> Result<Self, Problem> {
        let format = match form {
            Form::Structured | Form::Batch => return Self::of_document(&body),
            Form::Binary(Some(format)) => format,
            Form::Binary(None) => Format::sniff(&body),
        };
        Ok(Self {
            attributes: Attributes::of_headers(headers)?,
            format,
            payload: body,
        })
    }

    /// From a structured event, with the payload exactly as it stands in there [CloudEvents 1.0.2 JSON 3].
    pub fn of_document(body: &[u8]) -> Result<Self, Problem> {
        let mut members: Members<'_> = serde_json::from_slice(body)
            .map_err(|e| malformed(format!("not a structured CloudEvent: {e}")))?;
        let data = members.remove("data");
        let data_base64 = members.remove("data_base64");
        check_number(members.len())?;
        let attributes = Attributes::of_members(&mut members)?;
        let format = match take_string(&mut members, "datacontenttype")? {
            None if data_base64.is_some() => Format::Protobuf,
            None => Format::Json,
            Some(ty) => Format::of_media_type(&ty).ok_or_else(|| {
                let why = format!("datacontenttype {ty:?} is neither JSON nor protobuf");
                Problem::new(MEDIA_TYPE, why)
            })?,
        };
        let payload = match (data, data_base64) {
            (Some(data), None) if format == Format::Json => {
                Bytes::copy_from_slice(data.get().as_bytes())
            }
            (Some(_), None) => {
                return Err(malformed("protobuf goes into data_base64, not into data"));
            }
            (None, Some(text)) => decoded(text)?,
            (None, None) => return Err(malformed("there is neither data nor data_base64")),
            (Some(_), Some(_)) => return Err(malformed("there are both data and data_base64")),
        };
        Ok(Self {
            attributes,
            format,
            payload,
        })
    }
}

/// Members of a structured event, each as it was written.
type Members<'b> = BTreeMap<String, &'b RawValue>;

fn decoded(data_base64: &RawValue) -> Result<Bytes, Problem> {
    let text: String = serde_json::from_str(data_base64.get())
        .map_err(|_| malformed("data_base64 is not a string"))?;
    let bytes = STANDARD.decode(text);
    let bytes = bytes.map_err(|e| malformed(format!("data_base64: {e}")))?;
    Ok(bytes.into())
}

/// A member that is a string, if it is there; null is as good as absent.
fn take_string(members: &mut Members<'_>, name: &str) -> Result<Option<String>, Problem> {
    let Some(raw) = members.remove(name).filter(|raw| raw.get() != "null") else {
        return Ok(None);
    };
    let text = serde_json::from_str(raw.get());
    text.map(Some)
        .map_err(|_| malformed(format!("attribute {name} is not a string")))
}

/// A `ce-*` header, percent-decoded [CloudEvents 1.0.2 HTTP 3.1.3.2].
fn attribute_header(headers: &HeaderMap, name: &'static str) -> Result<Option<String>, Problem> {
    let Some(value) = text(headers, &HeaderName::from_static(name))? else {
        return Ok(None);
    };
    let decoded = event::percent_decode(value);
    decoded
        .map(Some)
        .ok_or_else(|| malformed(format!("header {name} is not percent-encoded UTF-8")))
}

/// Refuses more attributes than an event may have, those that are not known included.
fn check_number(attributes: usize) -> Result<(), Problem> {
    if attributes > event::MAX_ATTRIBUTES {
        let most = event::MAX_ATTRIBUTES;
        let why = format!("{attributes} attributes; an event has at most {most}");
        return Err(malformed(why));
    }
    Ok(())
}

fn malformed(why: impl Into<String>) -> Problem {
    Problem::new(MALFORMED, why)
}

impl Attributes {
    /// Id that the client gave it.
    pub fn id(&self) -> Option<&str> {
        self.id.as_deref()
    }

    /// Type that it says it is of.
    pub fn ty(&self) -> Option<&str> {
        self.ty.as_deref()
    }

    /// From `ce-*` headers; others are extensions nobody here knows.
    fn of_headers(headers: &HeaderMap) -> Result<Self, Problem> {
        let names = headers.keys().map(HeaderName::as_str);
        check_number(names.filter(|name| name.starts_with("ce-")).count())?;
        Ok(Self {
            id: attribute_header(headers, "ce-id")?,
            source: attribute_header(headers, "ce-source")?,
            ty: attribute_header(headers, "ce-type")?,
            time: attribute_header(headers, "ce-time")?,
            version: attribute_header(headers, "ce-specversion")?,
        })
    }

    /// From a structured event, which cannot do without its version.
    fn of_members(members: &mut Members<'_>) -> Result<Self, Problem> {
        let attributes = Self {
            id: take_string(members, "id")?,
            source: take_string(members, "source")?,
            ty: take_string(members, "type")?,
            time: take_string(members, "time")?,
            version: take_string(members, "specversion")?,
        };
        if attributes.version.is_none() {
            return Err(malformed("attribute specversion is missing"));
        }
        Ok(attributes)
    }

    /// Completes the attributes to those that travel; `key` is the id of an event that brings none. An id from the client means
    /// that it may send the event again, and without a time of its own every copy would get another: then none is given, which
    /// the seen-marks behind know how to handle.
    pub fn meta(self, ty: &str, key: Option<String>) -> Result<Meta, Problem> {
        if let Some(version) = self.version.filter(|version| version != "1.0") {
            return Err(malformed(format!("specversion {version:?} is not \"1.0\"")));
        }
        if let Some(said) = self.ty.filter(|said| said != ty) {
            return Err(malformed(format!(
                "the event says it is a {said:?}, the path says {ty:?}"
            )));
        }
        let source = self.source.unwrap_or_else(|| SOURCE.to_owned());
        event::check_source(&source).map_err(|e| malformed(e.message))?;
        let id = match self.id {
            Some(id) => Some(check_id(id)?),
            None => key,
        };
        let time = self.time.as_deref().map(check_time).transpose()?;
        let timed = time.is_some() || id.is_none();
        let id = id.unwrap_or_else(event::new_id);
        Ok(Meta {
            source,
            timed,
            time: time.unwrap_or_else(event::now_ms),
            ..root(id, ty)
        })
    }
}

/// A new root event of the gateway's own.
pub fn root(id: String, ty: &str) -> Meta {
    Meta::root(id, SOURCE.to_owned(), ty, event::now_ms())
}

fn check_time(text: &str) -> Result<u64, Problem> {
    let time = event::parse_time(text).ok_or_else(|| {
        Problem::new(
            MALFORMED,
            format!("time {text:?} is not RFC 3339, or before 1970"),
        )
    })?;
    if time > event::now_ms() + SKEW_MS {
        return Err(Problem::new(
            CLOCK,
            format!("time {text:?} is more than an hour in the future"),
        ));
    }
    Ok(time)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_structured_event_keeps_its_data_as_written() {
        let body =
            br#"{"specversion":"1.0","id":"a","type":"web.page.viewed","extra":1,"data": {"page": "/a", "n":1.50} }"#;
        let read = ReadEvent::of_document(body).unwrap();
        assert_eq!(
            (read.format, &read.payload[..]),
            (Format::Json, &br#"{"page": "/a", "n":1.50}"#[..])
        );
        let meta = read.attributes.meta("web.page.viewed", None).unwrap();
        assert_eq!(
            (meta.id.as_str(), meta.flow.as_str(), meta.timed),
            ("a", "a", false)
        );
    }

    #[test]
    fn attributes_are_bounded_in_both_modes() {
        for (extra, fits) in [(99, true), (100, false)] {
            let extensions: String = (0..extra).map(|n| format!(r#","x{n}":1"#)).collect();
            let body = format!(r#"{{"specversion":"1.0","data":{{}}{extensions}}}"#);
            let read = ReadEvent::of_document(body.as_bytes());
            assert_eq!(read.is_ok(), fits, "{extra}");
            let headers = (0..=extra).map(|n| {
                let name = HeaderName::from_bytes(format!("ce-x{n}").as_bytes());
                (name.unwrap(), "1".parse().unwrap())
            });
            let read = Attributes::of_headers(&headers.collect());
            assert_eq!(read.is_ok(), fits, "{extra}");
        }
    }

    #[test]
    fn forms() {
        let of = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_TYPE, value.parse().unwrap());
            form(&headers).map_err(|problem| problem.status().as_u16())
        };
        assert_eq!(
            of("application/json; charset=utf-8"),
            Ok(Form::Binary(Some(Format::Json)))
        );
        assert_eq!(
            of("application/vnd.acme+json"),
            Ok(Form::Binary(Some(Format::Json)))
        );
        assert_eq!(
            of("application/x-protobuf"),
            Ok(Form::Binary(Some(Format::Protobuf)))
        );
        assert_eq!(of("Application/CloudEvents+json"), Ok(Form::Structured));
        assert_eq!(of("application/cloudevents-batch+json"), Ok(Form::Batch));
        assert_eq!(of("application/cloudevents-batch+avro"), Err(415));
        assert_eq!(of("application/cloudevents+avro"), Err(415));
        assert_eq!(of("text/plain"), Err(415));
        assert_eq!(of("application/json; charset=utf-16le"), Err(415));
        assert_eq!(
            of("application/json;charset=\"UTF-8\""),
            Ok(Form::Binary(Some(Format::Json)))
        );
        assert_eq!(form(&HeaderMap::new()).unwrap_err().status(), 415);
        let mut event = HeaderMap::new();
        event.insert("ce-specversion", "1.0".parse().unwrap());
        assert_eq!(form(&event).unwrap(), Form::Binary(None));
    }
}
