//! Declared against observed: what a choreography nobody draws forgets.

use std::collections::{BTreeMap, BTreeSet};

use oncue_proto::oncue::v1::TimerFired;
use oncue_proto::{Catalog, Event as _};
use serde::Serialize;

use crate::topology::{self, House};
use oncue_core::bus::Bus;
use oncue_core::bus::layout::DLQ;
use oncue_core::model::flow::Edge;
use oncue_core::store::{Store, StoreError};
use oncue_proto::event::stream_of_type;

const DAY_MS: u64 = 24 * 3600 * 1000;
/// Who sends events under a name of its own and is no function; what a redrive sends keeps its source.
const NO_FUNCTIONS: [&str; 2] = ["gateway", "schedule"];
/// Last words of types that say that something did not go on.
const REJECTIONS: [&str; 7] = [
    "rejected",
    "refused",
    "declined",
    "denied",
    "failed",
    "cancelled",
    "canceled",
];

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// An event nobody consumes.
    Unheard,
    /// A function whose trigger nobody publishes.
    Untriggered,
    /// A function not used for some days.
    Unused,
    /// An edge that was seen but is not declared.
    Undeclared,
    /// A circle of functions that nothing leads out of.
    Endless,
    /// State that nobody takes back where a later step rejects.
    Uncompensated,
}

impl Kind {
    pub const ALL: [Self; 6] = [
        Self::Unheard,
        Self::Untriggered,
        Self::Unused,
        Self::Undeclared,
        Self::Endless,
        Self::Uncompensated,
    ];

    pub fn word(self) -> &'static str {
        match self {
            Self::Unheard => "unheard",
            Self::Untriggered => "untriggered",
            Self::Unused => "unused",
            Self::Undeclared => "undeclared",
            Self::Endless => "endless",
            Self::Uncompensated => "uncompensated",
        }
    }
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Finding {
    pub kind: Kind,
    pub what: String,
    pub advice: String,
}

/// What was seen to happen.
#[derive(Debug, Default)]
pub struct Observed {
    pub edges: Vec<Edge>,
    /// Types of which their stream holds an event.
    pub published: BTreeSet<String>,
}

impl Observed {
    pub async fn ask(
        catalog: &Catalog,
        house: &House,
        bus: &Bus,
        store: &Store,
    ) -> Result<Self, StoreError> {
        let types = catalog
            .entries()
            .map(|entry| entry.ty.as_str())
            .chain(house.types());
        Ok(Self {
            edges: store.edges().await?,
            published: topology::published(bus, types.collect()).await,
        })
    }
}

fn finding(kind: Kind, what: String, advice: impl Into<String>) -> Finding {
    Finding {
        kind,
        what,
        advice: advice.into(),
    }
}

/// All findings, by kind.
pub fn findings(house: &House, observed: &Observed, now: u64, days: u64) -> Vec<Finding> {
    let graph = Graph::of(house);
    let mut findings = unheard(house, observed);
    findings.extend(untriggered(house, observed));
    if !observed.edges.is_empty() {
        findings.extend(unused(house, &observed.edges, now, days));
        findings.extend(undeclared(house, &observed.edges));
    }
    findings.extend(endless(house, &graph));
    findings.extend(uncompensated(house, &graph));
    findings.sort();
    findings
}

fn unheard(house: &House, observed: &Observed) -> Vec<Finding> {
    let types: BTreeSet<&str> = house
        .types()
        .into_iter()
        .chain(observed.published.iter().map(String::as_str))
        .collect();
    let unheard = types
        .into_iter()
        .filter(|ty| stream_of_type(ty) != DLQ && house.listeners(ty).next().is_none());
    unheard
        .map(|ty| {
            let by = house.emitters(ty);
            let by = if by.is_empty() { "clients".to_owned() } else { by.join(", ") };
            let advice = "write the function that acts on it, stop emitting it, or accept it with `oncue map --drift --ignore unheard`";
            finding(Kind::Unheard, format!("{ty}, from {by}, has no function that acts on it"), advice)
        })
        .collect()
}

fn untriggered(house: &House, observed: &Observed) -> Vec<Finding> {
    let mut findings = Vec::new();
    for manifest in house.manifests() {
        for ty in &manifest.triggers {
            let own = |function: &str| function != manifest.name;
            let declared = match ty.as_str() {
                TimerFired::TYPE => house.is_scheduled(ty, &manifest.name),
                ty => house.emitters(ty).iter().any(|by| own(by)),
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

fn unused(house: &House, edges: &[Edge], now: u64, days: u64) -> Vec<Finding> {
    let mut last: BTreeMap<&str, u64> = BTreeMap::new();
    for edge in edges {
        let at = last.entry(&edge.function).or_default();
        *at = (*at).max(edge.last.unwrap_or(0));
    }
    let since = now.saturating_sub(days * DAY_MS);
    let mut findings = Vec::new();
    for (name, known) in &house.functions {
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

fn undeclared(house: &House, edges: &[Edge]) -> Vec<Finding> {
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
        match house.functions.get(function) {
            None => findings.push(finding(
                Kind::Undeclared,
                format!("{edge}, but there is no function {function}"),
                "it was removed or renamed; build it here, or wait until the edge is forgotten",
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
        let declared = house
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
struct Graph<'h> {
    follows: BTreeMap<&'h str, BTreeSet<&'h str>>,
}

impl<'h> Graph<'h> {
    fn of(house: &'h House) -> Self {
        let followers =
            |emits: &'h [String]| emits.iter().flat_map(|ty| house.listeners(ty)).collect();
        Self {
            follows: house
                .manifests()
                .map(|m| (m.name.as_str(), followers(&m.emits)))
                .collect(),
        }
    }

    /// Everything that can follow after one of these, themselves only if something leads back to them.
    fn after(&self, from: impl IntoIterator<Item = &'h str>) -> BTreeSet<&'h str> {
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
}

fn endless(house: &House, graph: &Graph<'_>) -> Vec<Finding> {
    let (mut findings, mut known) = (Vec::new(), BTreeSet::new());
    for function in graph.follows.keys().copied() {
        let after = graph.after([function]);
        if !after.contains(function) || known.contains(function) {
            continue;
        }
        let circle: BTreeSet<&str> = after
            .iter()
            .copied()
            .filter(|other| graph.after([*other]).contains(function))
            .collect();
        known.extend(circle.iter().copied());
        let leads_out = |ty: &String| {
            let mut listeners = house.listeners(ty).peekable();
            listeners.peek().is_none() || listeners.any(|listener| !circle.contains(listener))
        };
        let emitted = || {
            circle
                .iter()
                .filter_map(|name| house.functions.get(*name))
                .flat_map(|known| &known.manifest.emits)
        };
        if !emitted().any(leads_out) {
            let names: Vec<&str> = circle.into_iter().collect();
            let advice = "a flow in it ends only as a dead letter after 64 hops, unless a function emits nothing: let one \
                          emit what leads out of it";
            findings.push(finding(
                Kind::Endless,
                format!("nothing leads out of {}", names.join(" -> ")),
                advice,
            ));
        }
    }
    findings
}

/// Where a step rejects, the state earlier steps have written stands, unless something after the rejection owns the
/// same table.
fn uncompensated(house: &House, graph: &Graph<'_>) -> Vec<Finding> {
    let mut findings = BTreeSet::new();
    let table = |name: &str| {
        house
            .functions
            .get(name)
            .and_then(|known| known.manifest.table.as_deref())
    };
    for manifest in house.manifests() {
        let is_rejection = |ty: &&String| {
            ty.rsplit('.')
                .next()
                .is_some_and(|word| REJECTIONS.contains(&word))
        };
        for ty in manifest.emits.iter().filter(is_rejection) {
            let listeners: Vec<&str> = house.listeners(ty).collect();
            let mut after = graph.after(listeners.iter().copied());
            after.extend(listeners);
            let mended: BTreeSet<&str> = after.iter().filter_map(|name| table(name)).collect();
            let before = graph
                .follows
                .keys()
                .copied()
                .filter(|f| *f != manifest.name && graph.after([*f]).contains(&*manifest.name));
            for earlier in before {
                let Some(written) = table(earlier).filter(|table| !mended.contains(table)) else {
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

#[cfg(test)]
mod tests;
