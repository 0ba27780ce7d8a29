//! The flow ledger in a map, field by field as Redis holds it.

use std::collections::BTreeMap;

use super::MapStore;
use oncue_core::model::flow::{self, Edge, Flow, Registered};
use oncue_core::store::{EDGES, EDGES_AT, FUNCTIONS, Keys, first_step, ledger_event};
use oncue_proto::event::Meta;

type Pairs = Vec<(Vec<u8>, Vec<u8>)>;

/// Sets a field that is not there yet; returns whether it was not.
fn put_new(ledger: &mut BTreeMap<Vec<u8>, Vec<u8>>, (field, value): (String, String)) -> bool {
    let is_new = !ledger.contains_key(field.as_bytes());
    if is_new {
        ledger.insert(field.into_bytes(), value.into_bytes());
    }
    is_new
}

impl MapStore {
    /// Writes a field of a plain hash, as `HSET` would.
    pub fn put(&self, key: &str, field: &str, value: &str) {
        let mut inner = self.lock();
        inner
            .hashes
            .entry(key.to_owned())
            .or_default()
            .insert(field.as_bytes().to_vec(), value.as_bytes().to_vec());
    }

    fn hash(&self, key: &str) -> Pairs {
        self.lock()
            .hashes
            .get(key)
            .into_iter()
            .flatten()
            .map(|(field, value)| (field.clone(), value.clone()))
            .collect()
    }

    pub fn flows(&self, ids: &[String]) -> Vec<Option<Flow>> {
        ids.iter()
            .map(|id| Flow::read(id, self.hash(&Keys::default().flow(id))))
            .collect()
    }

    pub fn edges(&self) -> Vec<Edge> {
        flow::edges(self.hash(EDGES), self.hash(EDGES_AT))
    }

    pub fn functions(&self) -> Vec<Registered> {
        flow::functions(self.hash(FUNCTIONS))
    }

    /// Listeners are the fields of a hash here; there are no sets besides those of blind operations.
    pub fn track(&self, meta: &Meta, key: &str) -> bool {
        let listeners = self.hash(&Keys::default().listeners(&meta.ty));
        let listeners: Vec<String> = listeners
            .iter()
            .map(|(name, _)| String::from_utf8_lossy(name).into_owned())
            .collect();
        let mut inner = self.lock();
        let now = inner.now();
        let ledger = inner
            .hashes
            .entry(Keys::default().flow(&meta.flow))
            .or_default();
        let new = put_new(ledger, ledger_event(meta, key));
        for function in &listeners {
            put_new(ledger, first_step(meta, function, now));
        }
        put_new(ledger, ("n".into(), listeners.len().to_string()));
        put_new(ledger, ("at".into(), now.to_string()));
        if listeners.is_empty() {
            put_new(ledger, ("end".into(), now.to_string()));
        }
        new
    }

    pub fn untrack(&self, flow: &str) {
        self.lock().hashes.remove(&Keys::default().flow(flow));
    }
}
