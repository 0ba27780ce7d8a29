//! Functions, the event types between them, and who sends and hears what. It changes when functions come and go; what
//! changes every second is told apart from it, as bare numbers.

use std::collections::BTreeSet;

use bytes::Bytes;
use serde_json::{Value, json};

use super::{Card, frame};

#[derive(Debug, Clone, Default, PartialEq)]
pub struct Graph {
    pub functions: Vec<Card>,
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

impl Graph {
    pub fn of(cards: &[&Card]) -> Self {
        let mut edges = BTreeSet::new();
        for card in cards {
            let edge = |ty: &String, emits| Edge {
                function: card.name.clone(),
                ty: ty.clone(),
                emits,
            };
            edges.extend(card.triggers.iter().map(|ty| edge(ty, false)));
            edges.extend(card.emits.iter().map(|ty| edge(ty, true)));
        }
        let types: BTreeSet<&String> = edges.iter().map(|edge| &edge.ty).collect();
        Self {
            functions: cards.iter().map(|card| (*card).clone()).collect(),
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
