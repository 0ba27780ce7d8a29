//! Observed topology: hops that events took, and functions that ever started on this Redis.

use std::borrow::Cow;
use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use crate::model::manifest::Manifest;

/// Hop that was seen: events of a type, from a source to a function.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Edge {
    /// `/FUNCTION`, `/gateway`, or `client` for anybody else.
    pub source: String,
    /// Type of the events.
    #[serde(rename = "type")]
    pub ty: String,
    /// Function that acted on them.
    pub function: String,
    /// Number of events, as far back as this Redis goes.
    pub count: u64,
    /// Unix milliseconds of the last one, where that is known.
    pub last: Option<u64>,
}

/// Function that has started on this Redis at least once; as JSON the value of `oncue:functions`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Registered {
    /// Manifest at its last start.
    #[serde(flatten)]
    pub manifest: Manifest,
    /// Unix milliseconds of its last start; 0 where that is not known.
    #[serde(default)]
    pub seen: u64,
}

/// Fields of a hash as Redis returns them: name and value.
pub type HashFields = Vec<(Vec<u8>, Vec<u8>)>;

fn text(bytes: &[u8]) -> Cow<'_, str> {
    String::from_utf8_lossy(bytes)
}

/// Hops from `oncue:edges` and `oncue:edges:at`: `SOURCE\tTYPE\tFUNCTION` -> count, and -> time. Sorted; a field in
/// another form is passed over.
pub fn edges(counts: HashFields, times: HashFields) -> Vec<Edge> {
    let times: HashMap<Vec<u8>, Vec<u8>> = times.into_iter().collect();
    let mut edges: Vec<Edge> = counts
        .into_iter()
        .filter_map(|(hop, count)| edge(&hop, &count, times.get(&hop)))
        .collect();
    edges.sort();
    edges
}

/// Hop of one field; `None` where the name is not three parts.
fn edge(hop: &[u8], count: &[u8], last: Option<&Vec<u8>>) -> Option<Edge> {
    let hop = text(hop);
    let mut parts = hop.split('\t').map(str::to_owned);
    let edge = Edge {
        source: parts.next()?,
        ty: parts.next()?,
        function: parts.next()?,
        count: text(count).parse().unwrap_or(0),
        last: last.and_then(|at| text(at).parse().ok()),
    };
    parts.next().is_none().then_some(edge)
}

/// Functions from `oncue:functions`: name -> [`Registered`] as JSON. Sorted by name.
pub fn functions(fields: HashFields) -> Vec<Registered> {
    let mut functions = Vec::with_capacity(fields.len());
    for (name, json) in fields {
        match serde_json::from_slice::<Registered>(&json) {
            Ok(function) => functions.push(function),
            // Of a version with another manifest, or not ours: the rest of the map is worth showing.
            Err(e) => {
                tracing::warn!(function = %text(&name), error = %e, "registered with an unreadable manifest");
            }
        }
    }
    functions.sort_by(|a, b| a.manifest.name.cmp(&b.manifest.name));
    functions
}
