//! Snapshot of the moment: functions, event types, and what passes between them.

mod graph;
mod status;

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use oncue_admin::functions::RateMeter;
use oncue_admin::services::Worker;
use oncue_core::agreement::LostStream;
use oncue_core::bus::info::StreamInfo;
use oncue_core::config::Limits;
use oncue_core::model::manifest::Manifest;
use oncue_proto::event::now_ms;
use parking_lot::{Mutex, MutexGuard};
use serde::Serialize;
use serde_json::{Value, json};

use self::graph::{Edge, Graph, frame};
pub use self::status::{Health, Instance, Status};
use self::status::{SMOOTHING, rounded};
use crate::history::Minute;
use crate::sample::servers::Servers;
use crate::sample::{Declared, Look, RedisLook, TrafficMix, TrafficSource};

/// Events per second below which a source is forgotten, so that sources nobody knows do not add up.
/// Clients name their source themselves, and one that makes up a new one for each event would grow the map for
/// ever.
const FORGOTTEN_RATE: f64 = 0.001;

/// Shared by the task that looks and by everybody who asks.
#[derive(Default)]
pub struct Snapshot(Mutex<Seen>);

/// A function as far as somebody says what it is.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct FunctionView {
    pub name: String,
    pub stream: String,
    pub triggers: Vec<String>,
    pub emits: Vec<String>,
    pub table: Option<String>,
    pub version: String,
    /// Source of this: `worker`, `program`, or `consumer`, which knows no more than its filters.
    pub known: &'static str,
    /// Whether `oncue.toml` names it.
    pub declared: bool,
    #[serde(skip)]
    pub limits: Option<Limits>,
}

#[derive(Debug, Clone, Default)]
pub struct Function {
    pub view: FunctionView,
    pub manifest: Option<Manifest>,
    pub status: Status,
}

#[derive(Default)]
struct Seen {
    at: u64,
    /// Start of the console, and time of the last look that saw something, Unix milliseconds.
    begun: u64,
    looked: u64,
    /// Why nothing was seen at the last look.
    blind: Option<String>,
    functions: BTreeMap<String, Function>,
    meter: RateMeter,
    /// Events per second by source and type.
    traffic: BTreeMap<TrafficSource, f64>,
    streams: BTreeMap<String, StreamInfo>,
    /// As far as Redis has answered.
    redis: RedisLook,
    /// Sentence on what NATS has lost and Redis remembers, as far as both have answered.
    lost: Option<String>,
    servers: Servers,
    /// Raised whenever the graph is another one.
    version: u64,
    graph: Graph,
}

/// Copy of what is known, for whoever measures.
pub struct Measured {
    pub at: u64,
    /// Start of the console, Unix milliseconds.
    pub begun: u64,
    /// Time of the last look that saw something, Unix milliseconds; 0 for none.
    pub looked: u64,
    pub servers: Servers,
    /// Whether the last look at NATS failed.
    pub blind: bool,
    pub functions: BTreeMap<String, Function>,
    pub streams: BTreeMap<String, StreamInfo>,
    pub redis: RedisLook,
    /// Sentence on what NATS has lost and Redis remembers.
    pub lost: Option<String>,
}

/// News for browsers, ready to send.
#[derive(Clone, Default)]
pub struct News {
    pub version: u64,
    pub graph: Bytes,
    pub tick: Bytes,
}

impl Snapshot {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.0.lock()
    }

    /// Takes in the functions `oncue.toml` names.
    pub fn declare(&self, functions: Vec<Declared>) {
        let seen = &mut *self.seen();
        seen.begun = now_ms();
        for declared in functions {
            let function = seen.functions.entry(declared.name.clone()).or_default();
            function.view = FunctionView {
                name: declared.name,
                ..FunctionView::default()
            };
            if let Some(manifest) = declared.manifest {
                function.describe(manifest, "program");
            }
            function.view.declared = true;
        }
        seen.redraw();
    }

    /// Whether somebody runs whose manifest was never seen.
    pub fn has_strangers(&self, workers: &[Worker]) -> bool {
        let seen = self.seen();
        workers.iter().any(|worker| {
            let known = seen.functions.get(&worker.function);
            known.is_none_or(|function| {
                let is_heard = function.status.instances.contains_key(&worker.id);
                function.view.known != "worker" || !is_heard
            })
        })
    }

    /// Last sequence of each stream at the look before.
    pub fn ends(&self) -> BTreeMap<String, u64> {
        let seen = self.seen();
        let ends = seen.streams.iter();
        ends.map(|(name, stream)| (name.clone(), stream.state.last_seq))
            .collect()
    }

    /// A look that failed.
    pub fn blind(&self, at: u64, why: String) {
        let seen = &mut *self.seen();
        if seen.blind.is_none() {
            tracing::warn!("cannot see what goes on: {why}");
        }
        seen.at = at;
        seen.blind = Some(why);
    }

    /// The minute that began at `from` (Unix ms), of each function that was seen then.
    pub fn minutes(&self, from: u64) -> Vec<(String, Minute)> {
        let mut seen = self.seen();
        let functions = seen.functions.iter_mut();
        let minutes = functions.filter_map(|(name, function)| {
            let point = function.status.history.minute(from)?;
            let minute = Minute {
                work: function.status.take_work(),
                at: from,
                point,
                version: function.view.version.clone(),
                starts: function.status.started(from),
            };
            Some((name.clone(), minute))
        });
        minutes.collect()
    }

    /// Takes in which servers answer; says whether that is another answer than before.
    pub fn serve(&self, servers: Servers) -> bool {
        let seen = &mut *self.seen();
        let is_new = seen.servers != servers;
        seen.servers = servers;
        is_new
    }

    /// Everything there is to measure, of one moment.
    pub fn measured(&self) -> Measured {
        let seen = self.seen();
        Measured {
            at: seen.at,
            begun: seen.begun,
            looked: seen.looked,
            servers: seen.servers.clone(),
            blind: seen.blind.is_some(),
            functions: seen.functions.clone(),
            streams: seen.streams.clone(),
            redis: seen.redis.clone(),
            lost: seen.lost.clone(),
        }
    }

    /// Takes in a look.
    pub fn apply(&self, look: &Look) {
        let seen = &mut *self.seen();
        let overview = &look.overview;
        let elapsed = overview.at.saturating_sub(seen.at);
        // After a failure the known ends of the streams are older than the last look: a rate would be a peak that
        // never was.
        let seconds = if seen.at == 0 || seen.blind.is_some() {
            0.0
        } else {
            elapsed as f64 / 1000.0
        };
        seen.at = overview.at;
        seen.looked = overview.at;
        seen.blind = None;
        seen.take_views(look);
        seen.take_traffic(&look.mixes, seconds);
        let streams = overview.streams.iter();
        seen.streams = streams
            .map(|stream| (stream.config.name.clone(), stream.clone()))
            .collect();
        let activity = seen.meter.update(overview.at, &overview.workers);
        for (name, function) in &mut seen.functions {
            let found = overview.status(name);
            function
                .status
                .look(overview.at, &found, activity.get(name));
            if let Some(details) = &look.details {
                function.status.letters = details.letters.get(name).copied().unwrap_or(0);
                function.status.oldest = details.oldest.get(name).copied();
            }
        }
        if let Some(redis) = look
            .details
            .as_ref()
            .and_then(|details| details.redis.clone())
        {
            seen.redis = redis;
        }
        if let Some(details) = &look.details
            && let Some(lost) = &details.lost
        {
            seen.lost = sentence(lost);
        }
        // A function that is neither declared, nor runs, nor listens, is gone.
        seen.functions.retain(|name, function| {
            function.view.declared
                || !function.status.instances.is_empty()
                || overview.consumers.contains_key(name)
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

    /// Whether there is such a function.
    pub fn has_function(&self, name: &str) -> bool {
        self.seen().functions.contains_key(name)
    }

    /// Manifests of all functions that have told one.
    pub fn manifests(&self) -> Vec<Manifest> {
        let seen = self.seen();
        let functions = seen.functions.values();
        functions
            .filter_map(|function| function.manifest.clone())
            .collect()
    }

    /// Streams, as they were at the last look.
    pub fn streams(&self) -> Vec<String> {
        self.seen().streams.keys().cloned().collect()
    }

    /// Last sequence of a stream, as of the last look.
    pub fn end(&self, stream: &str) -> u64 {
        let seen = self.seen();
        seen.streams
            .get(stream)
            .map_or(0, |stream| stream.state.last_seq)
    }
}

impl Function {
    /// Takes what a manifest says of it.
    fn describe(&mut self, manifest: Manifest, known: &'static str) {
        self.view = FunctionView {
            name: manifest.name.clone(),
            stream: manifest.stream.clone(),
            triggers: manifest.triggers.clone(),
            emits: manifest.emits.clone(),
            table: manifest.table.clone(),
            version: manifest.version.clone(),
            known,
            declared: self.view.declared,
            limits: Some(manifest.limits.clone()),
        };
        self.manifest = Some(manifest);
    }
}

impl Seen {
    fn take_views(&mut self, look: &Look) {
        for manifest in &look.manifests {
            let function = self.functions.entry(manifest.name.clone()).or_default();
            function.describe(manifest.clone(), "worker");
        }
        for (name, consumer) in &look.overview.consumers {
            let function = self.functions.entry(name.clone()).or_default();
            // A consumer knows filters only, so it never takes the place of what a manifest said.
            if function.view.known.is_empty() || function.view.known == "consumer" {
                function.view = FunctionView {
                    name: name.clone(),
                    stream: consumer.stream.clone(),
                    triggers: consumer.triggers(),
                    known: "consumer",
                    declared: function.view.declared,
                    ..FunctionView::default()
                };
            }
        }
    }

    fn take_traffic(&mut self, mixes: &[TrafficMix], seconds: f64) {
        if seconds <= 0.0 {
            return;
        }
        let mut now: BTreeMap<TrafficSource, f64> = BTreeMap::new();
        for mix in mixes {
            let sampled: u64 = mix.shares.values().sum();
            for (source, share) in &mix.shares {
                let events = mix.taken as f64 * *share as f64 / sampled.max(1) as f64;
                *now.entry(source.clone()).or_default() += events / seconds;
            }
        }
        // A source that was not seen this time falls by half, so that a line on the page fades and does not
        // flicker.
        for (source, rate) in &mut self.traffic {
            *rate += (now.remove(source).unwrap_or(0.0) - *rate) * SMOOTHING;
        }
        let new = now.into_iter();
        self.traffic
            .extend(new.map(|(source, rate)| (source, rate * SMOOTHING)));
        self.traffic.retain(|_, rate| *rate > FORGOTTEN_RATE);
    }

    /// Makes the graph anew; its version rises only if it is another one.
    fn redraw(&mut self) {
        let functions = self.functions.values();
        let views: Vec<&FunctionView> = functions.map(|function| &function.view).collect();
        let graph = Graph::of(&views);
        if graph != self.graph {
            self.graph = graph;
            self.version += 1;
        }
    }

    /// Numbers in the order of the graph's functions, types and edges.
    fn tick(&self, watchers: usize) -> Value {
        let functions = self.graph.functions.iter().map(|view| {
            let reserved = view.limits.as_ref().map_or(0, |limits| limits.concurrency);
            self.functions[&view.name].status.row(reserved)
        });
        let types = self.graph.types.iter();
        let types: Vec<f64> = types.map(|ty| rounded(self.rate_of(ty))).collect();
        let edges = self.graph.edges.iter();
        let edges: Vec<f64> = edges.map(|edge| rounded(self.rate_along(edge))).collect();
        let streams = self.streams.values();
        json!({
            "version": self.version,
            "at": self.at,
            "away": self.servers.nats.as_ref().map(|away| &away.why).or(self.blind.as_ref()),
            "servers": self.servers,
            "regression": self.redis.regression,
            "lost": self.lost,
            "functions": functions.collect::<Vec<_>>(),
            "types": types,
            "edges": edges,
            "watchers": watchers,
            "stored": streams.clone().map(|stream| stream.state.messages).sum::<u64>(),
            "bytes": streams.map(|stream| stream.state.bytes).sum::<u64>(),
        })
    }

    fn rate_of(&self, ty: &str) -> f64 {
        let traffic = self.traffic.iter().filter(|(source, _)| source.ty == ty);
        traffic.map(|(_, rate)| rate).sum()
    }

    /// Into a type: what its source sends. Out of it: what the function was handed, shared by the traffic of its
    /// triggers.
    fn rate_along(&self, edge: &Edge) -> f64 {
        if edge.emits {
            let source = TrafficSource {
                source: format!("/{}", edge.function),
                ty: edge.ty.clone(),
            };
            return self.traffic.get(&source).copied().unwrap_or(0.0);
        }
        let function = &self.functions[&edge.function];
        let rate = function.status.rate();
        let triggers: BTreeSet<&String> = function.view.triggers.iter().collect();
        if triggers.len() < 2 {
            return rate;
        }
        // Workers count deliveries over all triggers; the share of each can only be told by what its stream took.
        let all: f64 = triggers.iter().map(|ty| self.rate_of(ty)).sum();
        if all > 0.0 {
            rate * self.rate_of(&edge.ty) / all
        } else {
            0.0
        }
    }
}

/// Sentence on streams that have lost something: of an emptied NATS all have, and one says what to do.
fn sentence(lost: &[LostStream]) -> Option<String> {
    let first = lost.first()?;
    Some(match lost.len() - 1 {
        0 => first.to_string(),
        more => format!("{first} ({more} more streams as well)"),
    })
}

#[cfg(test)]
mod tests;
