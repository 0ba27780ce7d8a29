//! Values of a request as a route names them, and the event made of them.

use std::collections::BTreeMap;

use axum::http::HeaderName;
use axum::http::request::Parts;
use bytes::Bytes;
use oncue_core::config::{BoundField, Origin, RequestPart};
use oncue_proto::TextField;
use serde_json::Value;
use serde_json::value::{RawValue, to_raw_value};

use super::live::Found;
use crate::door::identity::Identity;
use crate::door::insufficient;
use crate::problem::{MALFORMED, Problem};
use crate::request::{path_piece, text};

/// A request as routes see it.
pub struct Values<'r> {
    found: &'r Found,
    head: &'r Parts,
    /// JSON of the body; `None` where there is none.
    body: Option<&'r RawValue>,
}

/// Members of a JSON object, each as it was written.
type BodyMembers<'b> = BTreeMap<String, &'b RawValue>;

impl<'r> Values<'r> {
    pub fn new(found: &'r Found, head: &'r Parts) -> Self {
        Self {
            found,
            head,
            body: None,
        }
    }

    /// Adds the body, which is JSON unless it is empty.
    pub fn with_body(self, bytes: &'r [u8]) -> Result<Self, Problem> {
        if bytes.trim_ascii().is_empty() {
            return Ok(self);
        }
        let body = serde_json::from_slice(bytes);
        let body = body.map_err(|e| malformed(format!("the body is no JSON: {e}")))?;
        Ok(Self {
            body: Some(body),
            ..self
        })
    }

    /// Texts of a part of the request; only a query and a claim can hold several.
    pub fn texts(&self, part: &RequestPart) -> Result<Vec<String>, Problem> {
        match part {
            RequestPart::Path(name) => {
                let raw = self.found.parameters().get(name);
                let decoded = raw.map(|raw| path_piece(raw)).transpose()?;
                Ok(decoded.into_iter().collect())
            }
            RequestPart::Query(name) => {
                let query = self.head.uri.query().unwrap_or_default();
                let pairs = form_urlencoded::parse(query.as_bytes());
                let named = pairs.filter(|(key, _)| key == name);
                Ok(named.map(|(_, value)| value.into_owned()).collect())
            }
            RequestPart::Header(name) => {
                let name = HeaderName::from_bytes(name.as_bytes());
                let name = name.map_err(|e| malformed(e.to_string()))?;
                let value = text(&self.head.headers, &name)?;
                Ok(value.map(str::to_owned).into_iter().collect())
            }
            RequestPart::Claim(name) => {
                let identity = self.head.extensions.get::<Identity>();
                Ok(identity.map_or_else(Vec::new, |identity| identity.claim_texts(name)))
            }
            RequestPart::Body(_) => Ok(Vec::new()),
        }
    }

    /// The one text of a part; `None` where the request has none.
    pub fn text(&self, part: &RequestPart) -> Result<Option<String>, Problem> {
        let mut texts = self.texts(part)?;
        if texts.len() > 1 {
            return Err(malformed(format!("{part} is there {} times", texts.len())));
        }
        Ok(texts.pop())
    }

    /// JSON of the event: the fields of a route over the members of the body, where those are fields too. A field that
    /// the route sets is never taken from the body by its name.
    pub fn payload(&self, fields: &[BoundField], merges_body: bool) -> Result<Bytes, Problem> {
        let mut members: BTreeMap<String, Box<RawValue>> = BTreeMap::new();
        if let Some(body) = self.body.filter(|_| merges_body) {
            let given: BodyMembers<'_> = serde_json::from_str(body.get())
                .map_err(|_| malformed("the body is no JSON object"))?;
            members.extend(given.into_iter().map(|(name, raw)| (name, raw.to_owned())));
        }
        for field in fields {
            for name in &field.names {
                members.remove(name);
            }
            if let Some(value) = self.value(field)? {
                members.insert(field.name.clone(), value);
            }
        }
        let json = serde_json::to_vec(&members).map_err(|e| malformed(e.to_string()))?;
        Ok(json.into())
    }

    /// Value of a field; `None` where the request has none, which leaves the field at the default of its type.
    fn value(&self, field: &BoundField) -> Result<Option<Box<RawValue>>, Problem> {
        let (given, default) = match &field.origin {
            Origin::Constant(value) => (None, Some(value)),
            Origin::Member { names, default } => (self.member(names), default.as_ref()),
            Origin::Text {
                part,
                field: reader,
                default,
            } => {
                let value = if reader.is_list() {
                    let texts = self.texts(part)?;
                    let values: Result<Vec<Value>, Problem> =
                        texts.iter().map(|text| read(reader, part, text)).collect();
                    Some(Value::Array(values?)).filter(|_| !texts.is_empty())
                } else {
                    let text = self.text(part)?;
                    text.map(|text| read(reader, part, &text)).transpose()?
                };
                (
                    value.map(|value| raw(&value)).transpose()?,
                    default.as_ref(),
                )
            }
        };
        match (given, default, &field.origin) {
            (Some(value), _, _) => Ok(Some(value)),
            (None, Some(default), _) => Ok(Some(raw(default)?)),
            (
                None,
                None,
                Origin::Text {
                    part: part @ RequestPart::Claim(_),
                    ..
                },
            ) => Err(unclaimed(part)),
            (None, None, _) => Ok(None),
        }
    }

    /// Member of the body, as it was written; null is as good as absent.
    fn member(&self, names: &[String]) -> Option<Box<RawValue>> {
        let mut value = self.body?;
        for name in names {
            let mut members: BodyMembers<'_> = serde_json::from_str(value.get()).ok()?;
            value = members.remove(name)?;
        }
        (value.get() != "null").then(|| value.to_owned())
    }
}

/// Value of a text, as the contract reads it.
fn read(field: &TextField, part: &RequestPart, text: &str) -> Result<Value, Problem> {
    let value = field.read(text);
    value.map_err(|why| malformed(format!("field {}: {part} {why}", field.name())))
}

fn raw(value: &Value) -> Result<Box<RawValue>, Problem> {
    to_raw_value(value).map_err(|e| malformed(e.to_string()))
}

/// Problem of a credential without a claim that the route needs: an event of nobody would be worse than none.
pub fn unclaimed(part: &RequestPart) -> Problem {
    insufficient("", format!("the credential has no {part}"))
}

fn malformed(why: impl Into<String>) -> Problem {
    Problem::new(MALFORMED, why)
}
