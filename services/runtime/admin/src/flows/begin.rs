//! An event made by hand, with which a flow begins: checked as strictly as a person's typing needs, and published under
//! an id that is known before the stream has it.

use bytes::Bytes;
use oncue_core::config::Bounds;
use oncue_proto::event::{self, Meta};
use oncue_proto::oncue::v1::Envelope;
use oncue_proto::{Entry, Format};
use serde_json::Value;

/// Event that may be sent.
#[derive(Debug, Clone)]
pub struct HandMadeEvent {
    /// Id of the event, and of its flow.
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
    /// Event of a payload in JSON that [`Entry::read_by_hand`] has taken.
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
        let envelope = Envelope {
            subject: event::subject(ty, key),
            headers: event::envelope_headers(&meta, key, self.format),
            payload,
        };
        HandMadeEvent {
            id,
            trace,
            envelope,
        }
    }
}
