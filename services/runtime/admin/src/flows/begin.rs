//! An event made by hand, with which a flow begins: checked as strictly as a person's typing needs, and published under
//! an id that is known before the stream has it.

use bytes::Bytes;
use oncue_core::config::Bounds;
use oncue_proto::event::{self, Meta};
use oncue_proto::oncue::v1::{Envelope, Header};
use oncue_proto::{Entry, Format};
use serde_json::Value;

/// Event that may be sent.
#[derive(Debug, Clone)]
pub struct HandMadeEvent {
    /// Its id, which is the id of its flow too.
    pub id: String,
    /// Trace that it continues, or the one that workers derive from its flow.
    pub trace: String,
    /// Message as the stream takes it.
    pub envelope: Envelope,
}

/// Sender of an event, and what it wants of it.
#[derive(Debug, Clone, Copy)]
pub struct Sender<'s> {
    /// Source of the event, `/oncue/cli`.
    pub source: &'s str,
    /// Id of the event; none for a new one. A second event of one id is the same event, and counts once.
    pub id: Option<&'s str>,
    /// Trace to go on with [W3C Trace Context].
    pub traceparent: Option<&'s str>,
    /// How the payload travels.
    pub format: Format,
}

impl Sender<'_> {
    /// Event of a payload in JSON that [`check`] has taken.
    ///
    /// # Errors
    /// The id, the key or the payload is refused; a sentence for the sender.
    pub fn event(
        &self,
        entry: &Entry,
        payload: &Value,
        bounds: &Bounds,
    ) -> Result<HandMadeEvent, String> {
        let id = self.id.map(|id| event::check_id(id.to_owned())).transpose();
        id.map_err(|e| e.message)?;
        let json = payload.to_string().into_bytes();
        let bytes = match self.format {
            Format::Json => json,
            Format::Protobuf => entry
                .to_protobuf(Format::Json, &json)
                .map_err(|e| e.to_string())?,
        };
        let key = entry
            .check(self.format, &bytes)
            .map_err(|e| e.to_string())?;
        bounds.check_key(&key)?;
        Ok(self.wrapped(&entry.ty, &key, bytes.into()))
    }

    /// Event of a payload that was checked before.
    pub fn wrapped(&self, ty: &str, key: &str, payload: Bytes) -> HandMadeEvent {
        let id = self.id.map_or_else(event::new_id, str::to_owned);
        // Workers derive the trace from the flow where there is none, and so does whoever prints it.
        let derived = event::untraced(&id);
        let parent = self.traceparent.unwrap_or(&derived);
        let trace = parent.split('-').nth(1).unwrap_or_default().to_owned();
        let meta = Meta {
            id: id.clone(),
            source: self.source.to_owned(),
            ty: ty.to_owned(),
            time: event::now_ms(),
            // A second run under the same id is the same event, so the stream's time has to do.
            timed: self.id.is_none(),
            flow: id.clone(),
            cause: String::new(),
            hops: 0,
            traceparent: self.traceparent.map(str::to_owned),
            tracestate: None,
            baggage: None,
            redrive: None,
            tracked: false,
        };
        let headers = event::headers(&meta, key, self.format).into_iter();
        let headers = headers.map(|(name, value)| Header {
            name: name.to_owned(),
            value,
        });
        let envelope = Envelope {
            subject: event::subject(ty, key),
            headers: headers.collect(),
            payload,
        };
        HandMadeEvent {
            id,
            trace,
            envelope,
        }
    }
}

/// Checks in the order in which a mistake is explained best: JSON, an object, the contract, unknown fields.
///
/// A field that the contract does not know is most likely a slip of the hand, and a decoder would drop it in silence.
///
/// # Errors
/// A sentence for whoever typed it.
pub fn check(entry: &Entry, text: &str) -> Result<Value, String> {
    let value: Value = serde_json::from_str(text).map_err(|e| format!("not JSON: {e}"))?;
    let given = value.as_object().ok_or("the payload is a JSON object")?;
    entry
        .check(Format::Json, text.as_bytes())
        .map_err(|e| e.to_string())?;
    if entry.is_sensitive() {
        // Copied from where it was shown.
        let revealed = entry.reveal(&mut value.clone(), &Value::Null);
        revealed.map_err(|e| e.to_string())?;
    }
    let fields: Vec<String> = entry.field_names().collect();
    for name in given.keys() {
        if !fields.iter().any(|field| same_field(field, name)) {
            let schema = entry.schema();
            let fields = fields.join(", ");
            return Err(format!("{schema} has no field {name:?}; it has {fields}"));
        }
    }
    Ok(value)
}

/// Whether two spellings name one field: proto3 JSON takes `media_type` and `mediaType`.
fn same_field(one: &str, other: &str) -> bool {
    one.replace('_', "").to_lowercase() == other.replace('_', "").to_lowercase()
}
