//! What the console knows of the moment: functions, event types, and what passes between them.

mod graph;
mod vitals;

use parking_lot::{Mutex, MutexGuard};
use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use oncue_core::config::Limits;
use oncue_core::model::manifest::Manifest;
use serde::Serialize;
use serde_json::{Value, json};

#[cfg(test)]
pub use self::vitals::Health;
pub use self::vitals::Vitals;
use crate::sample::{Consumer, Mix, Running, Sample};

/// How much the newest look counts against those before.
const FRESH: f64 = 0.5;

/// Shared by the task that looks and by whoever asks.
#[derive(Default)]
pub struct Board(Mutex<Seen>);

/// What a function is, as far as somebody says so.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Card {
    pub name: String,
    pub stream: String,
    pub triggers: Vec<String>,
    pub emits: Vec<String>,
    pub table: Option<String>,
    pub version: String,
    /// Who says so: `worker`, `program`, or `consumer`, which knows no more than its filters.
    pub known: &'static str,
    /// Whether `oncue.toml` names it.
    pub declared: bool,
    #[serde(skip)]
    pub limits: Option<Limits>,
}

#[derive(Debug, Clone, Default)]
pub struct Function {
    pub card: Card,
    pub vitals: Vitals,
}

#[derive(Default)]
struct Seen {
    at: u64,
    /// Why nothing was seen at the last look.
    blind: Option<String>,
    functions: BTreeMap<String, Function>,
    /// Events per second by source and type.
    flows: BTreeMap<(String, String), f64>,
    /// Last sequence and messages of each stream.
    streams: BTreeMap<String, (u64, u64, u64)>,
    /// Raised whenever the graph is another one.
    version: u64,
    graph: graph::Graph,
}

/// What browsers are told, ready to send.
#[derive(Clone, Default)]
pub struct News {
    pub version: u64,
    pub graph: Bytes,
    pub tick: Bytes,
}

impl Board {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.0.lock()
    }

    /// Functions `oncue.toml` names, with what their programs say.
    pub fn declare(&self, functions: &[(String, Option<Manifest>)]) {
        let seen = &mut *self.seen();
        for (name, manifest) in functions {
            let card = manifest.as_ref().map_or_else(
                || Card {
                    name: name.clone(),
                    ..Card::default()
                },
                |m| card(m, "program"),
            );
            let function = seen.functions.entry(name.clone()).or_default();
            function.card = Card {
                declared: true,
                ..card
            };
        }
        seen.redraw();
    }

    /// Whether somebody runs whose manifest was never seen.
    pub fn has_strangers(&self, running: &[Running]) -> bool {
        let seen = self.seen();
        running.iter().any(|one| {
            let known = seen.functions.get(&one.function);
            known.is_none_or(|f| {
                f.card.known != "worker" || !f.vitals.instances.contains_key(&one.id)
            })
        })
    }

    /// Last sequence of each stream at the look before.
    pub fn ends(&self) -> BTreeMap<String, u64> {
        self.seen()
            .streams
            .iter()
            .map(|(name, (last, _, _))| (name.clone(), *last))
            .collect()
    }

    pub fn blind(&self, at: u64, why: String) {
        let seen = &mut *self.seen();
        if seen.blind.is_none() {
            tracing::warn!("cannot see what goes on: {why}");
        }
        (seen.at, seen.blind) = (at, Some(why));
    }

    pub fn apply(&self, sample: &Sample) {
        let seen = &mut *self.seen();
        let elapsed = sample.at.saturating_sub(seen.at);
        let seconds = if seen.at == 0 || seen.blind.is_some() {
            0.0
        } else {
            elapsed as f64 / 1000.0
        };
        (seen.at, seen.blind) = (sample.at, None);
        seen.take_cards(sample);
        seen.take_traffic(&sample.mixes, seconds);
        seen.streams = sample
            .streams
            .iter()
            .map(|s| (s.name.clone(), (s.last, s.messages, s.bytes)))
            .collect();
        let consumers: BTreeMap<&str, &Consumer> = sample
            .consumers
            .iter()
            .map(|c| (c.function.as_str(), c))
            .collect();
        let mut running: BTreeMap<&str, Vec<&Running>> = BTreeMap::new();
        for one in &sample.running {
            running.entry(&one.function).or_default().push(one);
        }
        for (name, function) in &mut seen.functions {
            let workers = running.get(name.as_str()).map_or(&[][..], Vec::as_slice);
            function
                .vitals
                .look(sample.at, workers, consumers.get(name.as_str()).copied());
            function.vitals.asleep = sample.asleep.contains(name);
            if let Some(letters) = &sample.letters {
                function.vitals.letters = letters.get(name).copied().unwrap_or(0);
            }
        }
        // Whoever is neither declared, nor runs, nor listens, is gone.
        seen.functions.retain(|name, function| {
            function.card.declared
                || !function.vitals.instances.is_empty()
                || consumers.contains_key(name.as_str())
        });
        seen.redraw();
    }

    /// The moment for browsers.
    pub fn news(&self, watchers: usize) -> News {
        let seen = self.seen();
        News {
            version: seen.version,
            graph: seen.graph.frame(seen.version),
            tick: frame("tick", &seen.tick(watchers)),
        }
    }

    pub fn function(&self, name: &str) -> Option<Function> {
        self.seen().functions.get(name).cloned()
    }

    pub fn cards(&self) -> Vec<Card> {
        self.seen()
            .functions
            .values()
            .map(|function| function.card.clone())
            .collect()
    }

    /// Streams with events, as they were at the last look.
    pub fn streams(&self) -> Vec<String> {
        self.seen().streams.keys().cloned().collect()
    }

    /// Last sequence of a stream, as of the last look.
    pub fn end(&self, stream: &str) -> u64 {
        self.seen()
            .streams
            .get(stream)
            .map_or(0, |(last, _, _)| *last)
    }

    /// Sequence of a stream up to which a function has acked everything, as of the last look.
    pub fn acked(&self, function: &str, stream: &str) -> u64 {
        let seen = self.seen();
        let consumer = seen
            .functions
            .get(function)
            .and_then(|function| function.vitals.consumer.as_ref());
        consumer
            .filter(|consumer| consumer.stream == stream)
            .map_or(0, |consumer| consumer.acked)
    }
}

impl Seen {
    fn take_cards(&mut self, sample: &Sample) {
        for manifest in &sample.manifests {
            let function = self.functions.entry(manifest.name.clone()).or_default();
            function.card = Card {
                declared: function.card.declared,
                ..card(manifest, "worker")
            };
        }
        for consumer in &sample.consumers {
            let function = self.functions.entry(consumer.function.clone()).or_default();
            if function.card.known.is_empty() || function.card.known == "consumer" {
                function.card = Card {
                    name: consumer.function.clone(),
                    stream: consumer.stream.clone(),
                    triggers: consumer.triggers.clone(),
                    known: "consumer",
                    declared: function.card.declared,
                    ..Card::default()
                };
            }
        }
    }

    fn take_traffic(&mut self, mixes: &[Mix], seconds: f64) {
        if seconds <= 0.0 {
            return;
        }
        let mut now: BTreeMap<(String, String), f64> = BTreeMap::new();
        for mix in mixes {
            let looked_at: u64 = mix.shares.values().sum();
            for (flow, share) in &mix.shares {
                let events = mix.taken as f64 * *share as f64 / looked_at.max(1) as f64;
                *now.entry(flow.clone()).or_default() += events / seconds;
            }
        }
        for (flow, rate) in &mut self.flows {
            *rate += (now.remove(flow).unwrap_or(0.0) - *rate) * FRESH;
        }
        self.flows
            .extend(now.into_iter().map(|(flow, rate)| (flow, rate * FRESH)));
        // What has died down for good is forgotten, so that sources nobody knows do not add up.
        self.flows.retain(|_, rate| *rate > 0.001);
    }

    /// Makes the graph anew; its version rises only if it is another one.
    fn redraw(&mut self) {
        let cards: Vec<&Card> = self
            .functions
            .values()
            .map(|function| &function.card)
            .collect();
        let graph = graph::Graph::of(&cards);
        if graph != self.graph {
            self.graph = graph;
            self.version += 1;
        }
    }

    /// Numbers in the order of the graph's functions, types and edges.
    fn tick(&self, watchers: usize) -> Value {
        let functions: Vec<Value> = self
            .graph
            .functions
            .iter()
            .map(|card| {
                self.functions[&card.name]
                    .vitals
                    .row(&self.functions[&card.name].card)
            })
            .collect();
        let types: Vec<f64> = self
            .graph
            .types
            .iter()
            .map(|ty| rounded(self.rate_of(ty)))
            .collect();
        let edges: Vec<f64> = self
            .graph
            .edges
            .iter()
            .map(|edge| rounded(self.rate_along(edge)))
            .collect();
        json!({
            "version": self.version,
            "at": self.at,
            "away": self.blind,
            "functions": functions,
            "types": types,
            "edges": edges,
            "watchers": watchers,
            "stored": self.streams.values().map(|(_, messages, _)| messages).sum::<u64>(),
            "bytes": self.streams.values().map(|(_, _, bytes)| bytes).sum::<u64>(),
        })
    }

    fn rate_of(&self, ty: &str) -> f64 {
        self.flows
            .iter()
            .filter(|((_, of), _)| of == ty)
            .map(|(_, rate)| rate)
            .sum()
    }

    /// Into a type: what its source sends. Out of it: what the function was handed, shared by the traffic of its triggers.
    fn rate_along(&self, edge: &graph::Edge) -> f64 {
        let (function, ty) = (&edge.function, &edge.ty);
        if edge.emits {
            return self
                .flows
                .get(&(format!("/{function}"), ty.clone()))
                .copied()
                .unwrap_or(0.0);
        }
        let function = &self.functions[function];
        let rate = function.vitals.rate();
        let triggers: BTreeSet<&String> = function.card.triggers.iter().collect();
        if triggers.len() < 2 {
            return rate;
        }
        let all: f64 = triggers.iter().map(|ty| self.rate_of(ty)).sum();
        if all > 0.0 {
            rate * self.rate_of(ty) / all
        } else {
            0.0
        }
    }
}

fn card(manifest: &Manifest, known: &'static str) -> Card {
    Card {
        name: manifest.name.clone(),
        stream: manifest.stream.clone(),
        triggers: manifest.triggers.clone(),
        emits: manifest.emits.clone(),
        table: manifest.table.clone(),
        version: manifest.version.clone(),
        known,
        declared: false,
        limits: Some(manifest.limits.clone()),
    }
}

pub fn rounded(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

/// One server-sent event.
pub fn frame(name: &str, data: &Value) -> Bytes {
    format!("event: {name}\ndata: {data}\n\n").into()
}

#[cfg(test)]
mod tests;
