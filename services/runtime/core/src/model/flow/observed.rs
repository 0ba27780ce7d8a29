//! What the house as a whole has been seen to do: which hops events took, and which functions ever started.

use serde::Serialize;

use crate::model::manifest::Manifest;

/// One hop that was seen: an event of a type, from where, to which function.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Edge {
    /// `/FUNCTION`, `/gateway`, or `client` for anybody else.
    pub source: String,
    #[serde(rename = "type")]
    pub ty: String,
    pub function: String,
    pub count: u64,
    /// Unix milliseconds of the last one, where that is known.
    pub last: Option<u64>,
}

/// A function that has started on this Redis at least once.
#[derive(Debug, Clone, Serialize)]
pub struct Registered {
    #[serde(flatten)]
    pub manifest: Manifest,
    /// Unix milliseconds of its last start.
    pub seen: u64,
}

type Pairs = Vec<(Vec<u8>, Vec<u8>)>;

fn text(bytes: &[u8]) -> std::borrow::Cow<'_, str> {
    String::from_utf8_lossy(bytes)
}

/// From `oncue:edges` and `oncue:edges:at`: `SOURCE\tTYPE\tFUNCTION` -> count, and -> time. Sorted.
pub fn edges(counts: Pairs, times: Pairs) -> Vec<Edge> {
    let times: std::collections::HashMap<Vec<u8>, Vec<u8>> = times.into_iter().collect();
    let edge = |(field, count): (Vec<u8>, Vec<u8>)| {
        let name = text(&field);
        let [source, ty, function] = name.split('\t').collect::<Vec<_>>()[..] else {
            return None;
        };
        Some(Edge {
            source: source.to_owned(),
            ty: ty.to_owned(),
            function: function.to_owned(),
            count: text(&count).parse().unwrap_or(0),
            last: times.get(&field).and_then(|at| text(at).parse().ok()),
        })
    };
    let mut edges: Vec<Edge> = counts.into_iter().filter_map(edge).collect();
    edges.sort();
    edges
}

/// From `oncue:functions`: name -> manifest and `seen`. Sorted by name.
pub fn functions(fields: Pairs) -> Vec<Registered> {
    let mut functions = Vec::with_capacity(fields.len());
    for (name, json) in fields {
        let value: serde_json::Value = serde_json::from_slice(&json).unwrap_or_default();
        let seen = value["seen"].as_u64().unwrap_or(0);
        match serde_json::from_value::<Manifest>(value) {
            Ok(manifest) => functions.push(Registered { manifest, seen }),
            // Of a version with another manifest, or not ours: the rest of the map is worth showing.
            Err(e) => {
                tracing::warn!(function = %text(&name), error = %e, "registered with an unreadable manifest")
            }
        }
    }
    functions.sort_by(|a, b| a.manifest.name.cmp(&b.manifest.name));
    functions
}
