//! Graph of functions and of the event types between them. It changes when functions come and go; what
//! changes every second is told apart from it, as bare numbers.

use std::collections::BTreeSet;

use bytes::Bytes;
use serde_json::{Value, json};

use super::FunctionView;

#[derive(Debug, Clone, Default, PartialEq)]
pub struct Graph {
    pub functions: Vec<FunctionView>,
    pub types: Vec<String>,
    pub edges: Vec<Edge>,
}

/// Between a function and a type.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Edge {
    pub function: String,
    pub ty: String,
    /// From the function to the type; otherwise the function acts on it.
    pub emits: bool,
}

impl Edge {
    fn of(view: &FunctionView, ty: &str, emits: bool) -> Self {
        Self {
            function: view.name.clone(),
            ty: ty.to_owned(),
            emits,
        }
    }
}

impl Graph {
    pub fn of(views: &[&FunctionView]) -> Self {
        let mut edges = BTreeSet::new();
        for view in views {
            edges.extend(view.triggers.iter().map(|ty| Edge::of(view, ty, false)));
            edges.extend(view.emits.iter().map(|ty| Edge::of(view, ty, true)));
        }
        let types: BTreeSet<&String> = edges.iter().map(|edge| &edge.ty).collect();
        Self {
            functions: views.iter().map(|view| (*view).clone()).collect(),
            types: types.into_iter().cloned().collect(),
            edges: edges.into_iter().collect(),
        }
    }

    pub fn frame(&self, version: u64) -> Bytes {
        let edges: Vec<Value> = self
            .edges
            .iter()
            .map(|edge| json!([edge.function, edge.ty, edge.emits]))
            .collect();
        let graph = json!({ "version": version, "functions": self.functions, "types": self.types, "edges": edges });
        frame("graph", &graph)
    }
}

/// One server-sent event.
pub fn frame(name: &str, data: &Value) -> Bytes {
    format!("event: {name}\ndata: {data}\n\n").into()
}
