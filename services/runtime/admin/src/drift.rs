//! Drift between what is declared and what is observed: the mistakes a choreography that nobody draws hides.
//!
//! | kind | declared | observed |
//! |---|---|---|
//! | unheard | somebody emits it, nobody acts on it | or it lies in a stream |
//! | untriggered | somebody acts on it, nobody else emits it | and none was ever seen |
//! | unused | a function | that acted on nothing for some days |
//! | removed | not in `oncue.toml` | a consumer, for which events wait |
//! | undeclared | not | an edge that workers counted |
//! | endless | a circle of functions nothing leads out of | |
//! | uncompensated | a rejection after another function's state | |
//!
//! Findings are questions to a person: each says what to do about it, and each kind can be accepted with `--ignore`.
//!
//! Declared is the [`Topology`]. Observed are two things: hops that workers count in Redis, `oncue:edges` (how
//! many) and `oncue:edges:at` (when last), and types of which a stream still holds an event. [`Observed::read`]
//! asks for both, and [`findings`] is a pure function of what was read.
//!
//! Counts lag some seconds behind, and hops collected by a worker that is killed are lost: good evidence that
//! something happened, weak evidence that it did not. Streams let old events go, so a type can have been published
//! and not be seen.

use std::collections::{BTreeMap, BTreeSet};

use oncue_proto::oncue::v1::TimerFired;
use oncue_proto::{Catalog, Event as _};
use serde::Serialize;

use crate::topology::{self, Topology};
use crate::{AdminError, consumers};
use oncue_core::bus::Bus;
use oncue_core::bus::info::StreamInfo;
use oncue_core::bus::layout::DLQ;
use oncue_core::model::flow::Edge;
use oncue_core::store::Store;
use oncue_proto::event::stream_of_type;

const DAY_MS: u64 = 24 * 3600 * 1000;
/// Senders that have a name of their own and are no functions; a redriven event keeps its source.
const NO_FUNCTIONS: [&str; 2] = ["gateway", "schedule"];
/// Last words of types that say that something did not go on.
/// By convention only: nothing in an event says so, and a rejection under another word is not found.
const REJECTIONS: [&str; 7] = [
    "rejected",
    "refused",
    "declined",
    "denied",
    "failed",
    "cancelled",
    "canceled",
];

/// Kind of a finding, in the order in which they are listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// An event nobody consumes: it is stored, and nothing follows.
    Unheard,
    /// A function whose trigger nobody publishes: a typing error, or an emitter that has left.
    Untriggered,
    /// A function not used for some days.
    Unused,
    /// A function that `oncue.toml` does not name and nobody runs, whose consumer is still there: events wait for it, and are
    /// kept for it.
    Removed,
    /// An edge that was seen but is not declared: another version of a function did it, or a client under its name.
    Undeclared,
    /// A circle of functions that nothing leads out of: its flows end as dead letters at the hop limit.
    Endless,
    /// State that nobody takes back where a later step rejects. A choreography has no transaction over several
    /// functions; compensation is one more function.
    Uncompensated,
}

impl Kind {
    /// Every kind, in the order of the list.
    pub const ALL: [Self; 7] = [
        Self::Unheard,
        Self::Untriggered,
        Self::Unused,
        Self::Removed,
        Self::Undeclared,
        Self::Endless,
        Self::Uncompensated,
    ];

    /// Word for the command line; the same as in JSON.
    pub fn word(self) -> &'static str {
        match self {
            Self::Unheard => "unheard",
            Self::Untriggered => "untriggered",
            Self::Unused => "unused",
            Self::Removed => "removed",
            Self::Undeclared => "undeclared",
            Self::Endless => "endless",
            Self::Uncompensated => "uncompensated",
        }
    }
}

/// One thing that somebody should know of, with what to do about it.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Finding {
    pub kind: Kind,
    /// In words; names the function or the type.
    /// Stable from run to run but for counts and days, so that two lists can be compared.
    pub what: String,
    /// Sentence on what to do, without a full stop.
    pub advice: String,
}

/// Hops and events that were seen.
#[derive(Debug, Default)]
pub struct Observed {
    /// Hops from a source over a type to a function, as workers counted them.
    /// Each with its number of events, and with the time of the last.
    pub edges: Vec<Edge>,
    /// Types of which their stream holds an event.
    /// From the streams, at the time of reading.
    pub published: BTreeSet<String>,
    /// When the first of the app's streams was made, Unix milliseconds: before that nothing could be used. `None` where
    /// that is not known.
    pub since: Option<u64>,
    /// Events that wait for each function that has a consumer.
    pub waiting: BTreeMap<String, u64>,
}

impl Observed {
    /// Reads the edges from Redis, and of every known type whether its stream holds an event.
    ///
    /// One round trip to Redis, one or two `STREAM.MSG.GET` for each type of the catalog and the topology, all at once,
    /// and three questions for each stream.
    ///
    /// # Errors
    /// Redis does not answer. A stream that does not answer counts as empty.
    pub async fn read(
        catalog: &Catalog,
        topology: &Topology,
        bus: &Bus,
        store: &Store,
    ) -> Result<Self, AdminError> {
        let types = catalog
            .entries()
            .map(|entry| entry.ty.as_str())
            .chain(topology.types());
        let mut published = topology::published(bus, types.collect()).await;
        // What nobody knows, and lies there all the same: a typing error, or an event of a version that is gone.
        published.extend(consumers::unheard(bus).await?.into_keys());
        let streams = consumers::event_streams(bus).await?;
        let consumers = consumers::all(bus).await?.into_iter();
        let waiting = consumers.map(|(name, consumer)| (name, consumer.info.num_pending));
        Ok(Self {
            edges: store.edges().await?,
            waiting: waiting.collect(),
            published,
            since: streams
                .iter()
                .filter(|stream| stream.config.is_of(bus.app()))
                .filter_map(StreamInfo::created_ms)
                .min(),
        })
    }
}

/// A finding from its parts.
fn finding(kind: Kind, what: String, advice: impl Into<String>) -> Finding {
    Finding {
        kind,
        what,
        advice: advice.into(),
    }
}

/// All findings, by kind and then by text, so that two runs can be compared. `now` is in Unix milliseconds; a
/// function is used if it acted on an event within the last `days`.
///
/// As long as Redis has no edge at all, nothing is said about use and undeclared hops: nothing has run here yet.
///
/// Reads no clock and asks nobody: the same arguments give the same list, whatever the order of the topology.
pub fn findings(topology: &Topology, observed: &Observed, now: u64, days: u64) -> Vec<Finding> {
    let graph = Graph::of(topology);
    let mut findings = unheard(topology, observed);
    findings.extend(untriggered(topology, observed));
    findings.extend(removed(topology, observed));
    if !observed.edges.is_empty() {
        // A young app has not had the time to use all that it has.
        let is_old = observed
            .since
            .is_none_or(|since| since + days * DAY_MS <= now);
        if is_old {
            findings.extend(unused(topology, &observed.edges, now, days));
        }
        findings.extend(undeclared(topology, &observed.edges));
    }
    findings.extend(endless(topology, &graph));
    findings.extend(uncompensated(topology, &graph));
    findings.sort();
    findings
}

/// Types that are emitted or published, and that no function acts on. Dead letters are for people.
fn unheard(topology: &Topology, observed: &Observed) -> Vec<Finding> {
    let types: BTreeSet<&str> = topology
        .types()
        .into_iter()
        .chain(observed.published.iter().map(String::as_str))
        .collect();
    let unheard = types
        .into_iter()
        .filter(|ty| stream_of_type(ty) != DLQ && !topology.heard.contains(*ty))
        .filter(|ty| topology.listeners(ty).next().is_none());
    unheard
        .map(|ty| {
            let by = topology.emitters(ty);
            let by = if by.is_empty() {
                "which somebody has published".to_owned()
            } else {
                format!("from {}", by.join(", "))
            };
            let advice = "write the function that acts on it, let clients hear it ([gateway] stream), stop emitting it, or accept it \
                          with `oncue map --drift --ignore unheard`";
            finding(Kind::Unheard, format!("{ty}, {by}, has no function that acts on it"), advice)
        })
        .collect()
}

/// Triggers that nobody else declares to emit and of which no event was seen.
fn untriggered(topology: &Topology, observed: &Observed) -> Vec<Finding> {
    let mut findings = Vec::new();
    for manifest in topology.manifests() {
        for ty in &manifest.triggers {
            let declared = match ty.as_str() {
                TimerFired::TYPE => topology.is_scheduled(ty, &manifest.name),
                ty => topology.emitters(ty).iter().any(|by| *by != manifest.name),
            };
            let seen = observed
                .edges
                .iter()
                .any(|edge| edge.ty == *ty && edge.function == manifest.name)
                || ty != TimerFired::TYPE && observed.published.contains(ty);
            if !declared && !seen {
                let what = format!(
                    "{} acts on {ty}, which nobody emits and nobody has published",
                    manifest.name
                );
                findings.push(finding(
                    Kind::Untriggered,
                    what,
                    "publish one, declare who emits it, or remove the function",
                ));
            }
        }
    }
    findings
}

/// Functions that acted on no event for some days, or never started.
fn unused(topology: &Topology, edges: &[Edge], now: u64, days: u64) -> Vec<Finding> {
    let mut last: BTreeMap<&str, u64> = BTreeMap::new();
    for edge in edges {
        let at = last.entry(&edge.function).or_default();
        *at = (*at).max(edge.last.unwrap_or(0));
    }
    let since = now.saturating_sub(days * DAY_MS);
    let mut findings = Vec::new();
    for (name, known) in &topology.functions {
        let what = match (last.get(name.as_str()), known.seen) {
            (Some(at), _) if *at < since => format!(
                "{name} last acted on an event {} days ago",
                (now - at) / DAY_MS
            ),
            (None, Some(seen)) if seen < since => format!("{name} has never acted on an event"),
            (None, None) => format!("{name} has never started here"),
            _ => continue,
        };
        findings.push(finding(
            Kind::Unused,
            what,
            format!("not used for {days} days: remove it, or see why its events stay away"),
        ));
    }
    findings
}

/// Functions that somebody has taken out of `oncue.toml`, and that are on the servers all the same.
fn removed(topology: &Topology, observed: &Observed) -> Vec<Finding> {
    if topology.declared.is_empty() {
        return Vec::new();
    }
    let consumers = observed.waiting.iter();
    consumers
        .filter(|(name, _)| !topology.declared.contains(*name) && !topology.runs(name))
        .map(|(name, waiting)| {
            finding(
                Kind::Removed,
                format!("{name} is not in oncue.toml, and {waiting} events wait for it"),
                format!("put it back, or take it off the servers with `oncue remove {name}`"),
            )
        })
        .collect()
}

/// Hops that were seen, of which one end does not declare its part.
fn undeclared(topology: &Topology, edges: &[Edge]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for Edge {
        source,
        ty,
        function,
        count,
        ..
    } in edges
    {
        let edge = format!("{source} -> {ty} -> {function} was seen {count} times");
        match topology.functions.get(function) {
            None => findings.push(finding(
                Kind::Undeclared,
                format!("{edge}, but there is no function {function}"),
                "it was taken out of oncue.toml or renamed; put it back, or have it forgotten with `oncue remove`",
            )),
            Some(known) if !known.manifest.triggers.contains(ty) => findings.push(finding(
                Kind::Undeclared,
                format!("{edge}, but {function} does not act on {ty}"),
                "another version of the function did; run `oncue ps` to see which versions run",
            )),
            Some(_) => {}
        }
        let Some(emitter) = source
            .strip_prefix('/')
            .filter(|name| !NO_FUNCTIONS.contains(name))
        else {
            continue;
        };
        let declared = topology
            .functions
            .get(emitter)
            .map(|known| known.manifest.emits.contains(ty));
        match declared {
            Some(true) => {}
            Some(false) => findings.push(finding(
                Kind::Undeclared,
                format!("{edge}, but {emitter} does not declare to emit {ty}"),
                "another version of the function did, or a client writes under its name",
            )),
            None => findings.push(finding(
                Kind::Undeclared,
                format!("{edge}, but there is no function {emitter}"),
                "it was removed or renamed, or a client writes under its name",
            )),
        }
    }
    findings
}

/// Functions that follow one another through an event.
struct Graph<'t> {
    follows: BTreeMap<&'t str, BTreeSet<&'t str>>,
}

impl<'t> Graph<'t> {
    /// Edges from each function to those that act on what it emits.
    fn of(topology: &'t Topology) -> Self {
        let follows = topology.manifests().map(|manifest| {
            let emits = manifest.emits.iter();
            let followers = emits.flat_map(|ty| topology.listeners(ty)).collect();
            (manifest.name.as_str(), followers)
        });
        Self {
            follows: follows.collect(),
        }
    }

    /// Everything that can follow after one of these, themselves only if something leads back to them.
    /// Terminates in circles too: a function is gone on from only once.
    fn after(&self, from: impl IntoIterator<Item = &'t str>) -> BTreeSet<&'t str> {
        let mut reached = BTreeSet::new();
        let mut next: Vec<&str> = from
            .into_iter()
            .flat_map(|f| self.follows.get(f).into_iter().flatten().copied())
            .collect();
        while let Some(function) = next.pop() {
            if reached.insert(function) {
                next.extend(self.follows.get(function).into_iter().flatten());
            }
        }
        reached
    }

    /// Functions that follow from one and lead back to it, itself among them; none where nothing leads back.
    fn circle(&self, function: &str) -> BTreeSet<&'t str> {
        let Some((function, _)) = self.follows.get_key_value(function) else {
            return BTreeSet::new();
        };
        let mut after = self.after([*function]);
        if !after.contains(function) {
            return BTreeSet::new();
        }
        after.retain(|other| self.after([*other]).contains(function));
        after
    }
}

/// Circles of functions out of which no type leads.
fn endless(topology: &Topology, graph: &Graph<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut known = BTreeSet::new();
    for function in graph.follows.keys().copied() {
        if known.contains(function) {
            continue;
        }
        let circle = graph.circle(function);
        if circle.is_empty() {
            continue;
        }
        known.extend(circle.iter().copied());
        let mut emitted = circle
            .iter()
            .filter_map(|name| topology.functions.get(*name))
            .flat_map(|known| &known.manifest.emits);
        if emitted.any(|ty| leads_out(topology, &circle, ty)) {
            continue;
        }
        let names: Vec<&str> = circle.into_iter().collect();
        let advice = "a flow in it ends only as a dead letter after 64 hops, unless a function emits nothing: let one \
                      emit what leads out of it";
        findings.push(finding(
            Kind::Endless,
            format!("nothing leads out of {}", names.join(" -> ")),
            advice,
        ));
    }
    findings
}

/// Whether a type is acted on by somebody outside of a circle of functions, or by nobody.
fn leads_out(topology: &Topology, circle: &BTreeSet<&str>, ty: &str) -> bool {
    let mut listeners = topology.listeners(ty).peekable();
    listeners.peek().is_none() || listeners.any(|listener| !circle.contains(listener))
}

/// Where a step rejects, the state earlier steps have written stands, unless something after the rejection owns the
/// same table.
/// Coarse on purpose: which rows were written is known only at run time, so tables stand for them.
fn uncompensated(topology: &Topology, graph: &Graph<'_>) -> Vec<Finding> {
    let mut findings = BTreeSet::new();
    for manifest in topology.manifests() {
        for ty in manifest.emits.iter().filter(|ty| is_rejection(ty)) {
            let listeners: Vec<&str> = topology.listeners(ty).collect();
            let mut after = graph.after(listeners.iter().copied());
            after.extend(listeners);
            let mended: BTreeSet<&str> = after
                .iter()
                .filter_map(|name| table(topology, name))
                .collect();
            let before = graph
                .follows
                .keys()
                .copied()
                .filter(|f| *f != manifest.name && graph.after([*f]).contains(&*manifest.name));
            for earlier in before {
                let Some(written) =
                    table(topology, earlier).filter(|table| !mended.contains(table))
                else {
                    continue;
                };
                let what = format!(
                    "{} may emit {ty} after {earlier} has written {written:?}, and nothing takes that back",
                    manifest.name
                );
                let advice = format!(
                    "let a function that owns {written:?} act on {ty}, or accept it with `--ignore uncompensated`"
                );
                findings.insert(finding(Kind::Uncompensated, what, advice));
            }
        }
    }
    findings.into_iter().collect()
}

/// Whether a type says that something did not go on.
fn is_rejection(ty: &str) -> bool {
    ty.rsplit('.')
        .next()
        .is_some_and(|word| REJECTIONS.contains(&word))
}

/// State table a function owns rows of.
fn table<'t>(topology: &'t Topology, function: &str) -> Option<&'t str> {
    let known = topology.functions.get(function)?;
    known.manifest.table.as_deref()
}

#[cfg(test)]
mod tests;
