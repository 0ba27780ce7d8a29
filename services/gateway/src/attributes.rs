//! What a client says of its event besides the payload: CloudEvents 1.0 over HTTP, binary mode (`ce-*` headers) or
//! structured mode (one JSON document), or nothing at all.

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
use crate::request::{check_id, idempotency_key, text};

/// `source` of events whose client names none.
pub const SOURCE: &str = "/gateway";
const FORMS: &str = "application/json, application/protobuf or application/cloudevents+json";

/// How the body is to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// The body is the payload.
    Binary(Format),
    /// The body is the payload, and does not say in which format.
    Unsaid,
    /// The body is a CloudEvent in JSON.
    Structured,
}

/// Detection in the order of [CloudEvents 1.0.2 HTTP 3]; batch first, since it shares its prefix with structured.
pub fn form(headers: &HeaderMap) -> Result<Form, Problem> {
    let Some(media_type) = text(headers, &header::CONTENT_TYPE)? else {
        return Ok(Form::Unsaid);
    };
    let essence = media_type
        .split(';')
        .next()
        .unwrap_or_default()
        .trim()
        .to_ascii_lowercase();
    let refused = |why: String| Err(Problem::new(MEDIA_TYPE, why));
    if essence.starts_with("application/cloudevents-batch") {
        return refused(
            "batches are not taken: an answer stands for one event; send them one by one".into(),
        );
    }
    if essence == "application/cloudevents+json" {
        return Ok(Form::Structured);
    }
    if essence.starts_with("application/cloudevents") {
        return refused(format!(
            "of structured CloudEvents only the JSON form is taken, not {essence:?}"
        ));
    }
    match Format::of_media_type(&essence) {
        Some(format) => Ok(Form::Binary(format)),
        None => refused(format!("{essence:?} is none of {FORMS}")),
    }
}

/// The attributes a client may set. Key and flow are not among them: the contract and the gateway say those.
#[derive(Debug, Default)]
pub struct Attributes {
    id: Option<String>,
    source: Option<String>,
    ty: Option<String>,
    time: Option<String>,
    version: Option<String>,
    format: Option<String>,
}

impl Attributes {
    /// From `ce-*` headers; others are extensions nobody here knows.
    pub fn of_headers(headers: &HeaderMap) -> Result<Self, Problem> {
        let get = |name: &'static str| -> Result<Option<String>, Problem> {
            let Some(value) = text(headers, &HeaderName::from_static(name))? else {
                return Ok(None);
            };
            let bad = || {
                Problem::new(
                    MALFORMED,
                    format!("header {name} is not percent-encoded UTF-8"),
                )
            };
            event::percent_decode(value).ok_or_else(bad).map(Some)
        };
        Ok(Self {
            id: get("ce-id")?,
            source: get("ce-source")?,
            ty: get("ce-type")?,
            time: get("ce-time")?,
            version: get("ce-specversion")?,
            format: None,
        })
    }

    /// From a structured event, with the payload exactly as it stands in there [CloudEvents 1.0.2 JSON 3].
    pub fn of_document(body: &[u8]) -> Result<(Self, Format, Bytes), Problem> {
        let bad = |why: String| Problem::new(MALFORMED, why);
        let mut members: BTreeMap<String, &RawValue> = serde_json::from_slice(body)
            .map_err(|e| bad(format!("not a structured CloudEvent: {e}")))?;
        let data = (members.remove("data"), members.remove("data_base64"));
        let mut take = |name: &str| -> Result<Option<String>, Problem> {
            let Some(raw) = members.remove(name).filter(|raw| raw.get() != "null") else {
                return Ok(None);
            };
            serde_json::from_str(raw.get())
                .map(Some)
                .map_err(|_| bad(format!("attribute {name} is not a string")))
        };
        let attributes = Self {
            id: take("id")?,
            source: take("source")?,
            ty: take("type")?,
            time: take("time")?,
            version: take("specversion")?,
            format: take("datacontenttype")?,
        };
        if attributes.version.is_none() {
            return Err(bad("attribute specversion is missing".into()));
        }
        let format = match &attributes.format {
            None if data.1.is_some() => Format::Protobuf,
            None => Format::Json,
            Some(ty) => Format::of_media_type(ty).ok_or_else(|| {
                Problem::new(
                    MEDIA_TYPE,
                    format!("datacontenttype {ty:?} is neither JSON nor protobuf"),
                )
            })?,
        };
        let payload = match (data, format) {
            ((Some(data), None), Format::Json) => Bytes::copy_from_slice(data.get().as_bytes()),
            ((Some(_), None), Format::Protobuf) => {
                return Err(bad("protobuf goes into data_base64, not into data".into()));
            }
            ((None, Some(text)), _) => {
                let text: String = serde_json::from_str(text.get())
                    .map_err(|_| bad("data_base64 is not a string".into()))?;
                STANDARD
                    .decode(text)
                    .map_err(|e| bad(format!("data_base64: {e}")))?
                    .into()
            }
            ((None, None), _) => return Err(bad("there is neither data nor data_base64".into())),
            ((Some(_), Some(_)), _) => {
                return Err(bad("there are both data and data_base64".into()));
            }
        };
        Ok((attributes, format, payload))
    }

    /// Completes them to what travels. An id from the client means that it may send the event again, and without a time
    /// of its own every copy would get another: then none is given, which the seen-marks behind know how to handle.
    pub fn meta(self, ty: &str, headers: &HeaderMap) -> Result<Meta, Problem> {
        let bad = |why: String| Problem::new(MALFORMED, why);
        if let Some(version) = self.version.filter(|version| version != "1.0") {
            return Err(bad(format!("specversion {version:?} is not \"1.0\"")));
        }
        if let Some(said) = self.ty.filter(|said| said != ty) {
            return Err(bad(format!(
                "the event says it is a {said:?}, the path says {ty:?}"
            )));
        }
        let source = self.source.unwrap_or_else(|| SOURCE.to_owned());
        if source.is_empty() || source.len() > 1024 || source.chars().any(char::is_control) {
            return Err(bad(
                "the source must be 1 to 1024 bytes without control characters".into(),
            ));
        }
        let id = match self.id {
            Some(id) => Some(check_id(id)?),
            None => idempotency_key(headers)?,
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
    Meta {
        source: SOURCE.to_owned(),
        ty: ty.to_owned(),
        time: event::now_ms(),
        timed: true,
        flow: id.clone(),
        id,
        cause: String::new(),
        hops: 0,
        traceparent: None,
        tracestate: None,
        baggage: None,
        redrive: None,
        tracked: false,
    }
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
        let (attributes, format, payload) = Attributes::of_document(body).unwrap();
        assert_eq!(
            (format, &payload[..]),
            (Format::Json, &br#"{"page": "/a", "n":1.50}"#[..])
        );
        let meta = attributes
            .meta("web.page.viewed", &HeaderMap::new())
            .unwrap();
        assert_eq!(
            (meta.id.as_str(), meta.flow.as_str(), meta.timed),
            ("a", "a", false)
        );
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
            Ok(Form::Binary(Format::Json))
        );
        assert_eq!(
            of("application/vnd.acme+json"),
            Ok(Form::Binary(Format::Json))
        );
        assert_eq!(
            of("application/x-protobuf"),
            Ok(Form::Binary(Format::Protobuf))
        );
        assert_eq!(of("Application/CloudEvents+json"), Ok(Form::Structured));
        assert_eq!(of("application/cloudevents-batch+json"), Err(415));
        assert_eq!(of("application/cloudevents+avro"), Err(415));
        assert_eq!(of("text/plain"), Err(415));
        assert_eq!(form(&HeaderMap::new()).unwrap(), Form::Unsaid);
    }
}
