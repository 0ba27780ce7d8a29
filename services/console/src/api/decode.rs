//! A stored message as a person reads it.

use oncue_admin::flows::search::key_of;
use oncue_core::bus::StoredMessage;
use oncue_proto::Catalog;
use oncue_proto::event::Incoming;
use serde_json::{Value, json};

/// Bytes of a payload that is shown: larger ones are described, a page is no place for them.
const MAX_PAYLOAD: usize = 64 << 10;

/// Stream a message lies in, and what its identity takes from there.
#[derive(Debug, Clone, Copy)]
pub struct StreamOrigin<'o> {
    pub stream: &'o str,
    /// Creation time of the stream: part of the identity of plain messages.
    pub created: u64,
}

impl StreamOrigin<'_> {
    pub fn read(&self, found: &StoredMessage) -> Result<Incoming, String> {
        found.read(self.stream, self.created)
    }

    /// Everything but what is too large; what cannot be read says why.
    pub fn show(&self, found: &StoredMessage, catalog: &Catalog) -> Value {
        let mut shown = json!({
            "stream": self.stream,
            "sequence": found.sequence,
            "stored": found.time,
            "subject": found.subject,
            "bytes": found.payload.len(),
        });
        let incoming = match self.read(found) {
            Ok(incoming) => incoming,
            Err(why) => {
                shown["error"] = why.into();
                return shown;
            }
        };
        let meta = &incoming.meta;
        let trace = meta
            .traceparent
            .as_deref()
            .and_then(|t| t.split('-').nth(1));
        for (name, value) in [
            ("id", json!(meta.id)),
            ("type", json!(meta.ty)),
            ("source", json!(meta.source)),
            ("time", json!(meta.time)),
            ("flow", json!(meta.flow)),
            ("cause", json!(meta.cause)),
            ("hops", json!(meta.hops)),
            ("trace", json!(trace)),
            (
                "redriven",
                json!(meta.redrive.map(|redrive| redrive.number)),
            ),
        ] {
            shown[name] = value;
        }
        shown["key"] = key_of(&incoming, catalog).into();
        match data(&incoming, catalog) {
            Ok(data) => shown["data"] = data,
            Err(why) => shown["undecoded"] = why.into(),
        }
        shown
    }
}

fn data(incoming: &Incoming, catalog: &Catalog) -> Result<Value, String> {
    if incoming.payload.len() > MAX_PAYLOAD {
        return Err(format!(
            "{} bytes are not shown here; `oncue tail --json` has them",
            incoming.payload.len()
        ));
    }
    match catalog.get(&incoming.meta.ty) {
        Ok(entry) => entry
            .to_view(incoming.format, &incoming.payload)
            .map_err(|e| e.to_string()),
        Err(e) => serde_json::from_slice(&incoming.payload).map_err(|_| e.to_string()),
    }
}
