//! Declared against observed: what a choreography nobody draws forgets.

use std::collections::{BTreeMap, BTreeSet};

use oncue::bus::layout::DLQ;
use oncue::event::stream_of_type;
use oncue::flow::Edge;
use oncue_proto::Event as _;
use oncue_proto::oncue::v1::TimerFired;
use serde::Serialize;

use crate::house::House;
use crate::when;

const DAY_MS: u64 = 24 * 3600 * 1000;
/// Last words of types that say that something did not go on.
const REJECTIONS: [&str; 7] = ["rejected", "refused", "declined", "denied", "failed", "cancelled", "canceled"];

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, clap::ValueEnum)]
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
    pub fn word(self) -> String {
        format!("{self:?}").to_lowercase()
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

fn finding(kind: Kind, what: String, advice: impl Into<String>) -> Finding {
    Finding { kind, what, advice: advice.into() }
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
    let types: BTreeSet<&str> =
        house.types().into_iter().chain(observed.published.iter().map(String::as_str)).collect();
    let unheard = types.into_iter().filter(|ty| stream_of_type(ty) != DLQ && house.listeners(ty).next().is_none());
    unheard
        .map(|ty| {
            let by = house.emitters(ty);
            let by = if by.is_empty() { "clients".to_owned() } else { by.join(", ") };
            let advice = "write the function that acts on it, stop emitting it, or accept it with --ignore unheard";
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
            let seen = observed.edges.iter().any(|edge| edge.ty == *ty && edge.function == manifest.name)
                || ty != TimerFired::TYPE && observed.published.contains(ty);
            if !declared && !seen {
                let what = format!("{} acts on {ty}, which nobody emits and nobody has published", manifest.name);
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
            (Some(at), _) if *at < since => format!("{name} last acted on an event {} ago", when::ago(*at, now)),
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
    for Edge { source, ty, function, count, .. } in edges {
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
        let Some(emitter) = source.strip_prefix('/').filter(|name| *name != "gateway") else { continue };
        let declared = house.functions.get(emitter).map(|known| known.manifest.emits.contains(ty));
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
        let followers = |emits: &'h [String]| emits.iter().flat_map(|ty| house.listeners(ty)).collect();
        Self { follows: house.manifests().map(|m| (m.name.as_str(), followers(&m.emits))).collect() }
    }

    /// Everything that can follow after one of these, themselves only if something leads back to them.
    fn after(&self, from: impl IntoIterator<Item = &'h str>) -> BTreeSet<&'h str> {
        let mut reached = BTreeSet::new();
        let mut next: Vec<&str> =
            from.into_iter().flat_map(|f| self.follows.get(f).into_iter().flatten().copied()).collect();
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
        let circle: BTreeSet<&str> =
            after.iter().copied().filter(|other| graph.after([*other]).contains(function)).collect();
        known.extend(circle.iter().copied());
        let leads_out = |ty: &String| {
            let mut listeners = house.listeners(ty).peekable();
            listeners.peek().is_none() || listeners.any(|listener| !circle.contains(listener))
        };
        let emitted =
            || circle.iter().filter_map(|name| house.functions.get(*name)).flat_map(|known| &known.manifest.emits);
        if !emitted().any(leads_out) {
            let names: Vec<&str> = circle.into_iter().collect();
            let advice = "a flow in it ends only as a dead letter after 64 hops, unless a function emits nothing: let one \
                          emit what leads out of it";
            findings.push(finding(Kind::Endless, format!("nothing leads out of {}", names.join(" -> ")), advice));
        }
    }
    findings
}

/// Where a step rejects, the state earlier steps have written stands, unless something after the rejection owns the
/// same table.
fn uncompensated(house: &House, graph: &Graph<'_>) -> Vec<Finding> {
    let mut findings = BTreeSet::new();
    let table = |name: &str| house.functions.get(name).and_then(|known| known.manifest.table.as_deref());
    for manifest in house.manifests() {
        let is_rejection = |ty: &&String| ty.rsplit('.').next().is_some_and(|word| REJECTIONS.contains(&word));
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
                let Some(written) = table(earlier).filter(|table| !mended.contains(table)) else { continue };
                let what = format!(
                    "{} may emit {ty} after {earlier} has written {written:?}, and nothing takes that back",
                    manifest.name
                );
                let advice = format!(
                    "let a function that owns {written:?} act on {ty}, or accept it with --ignore uncompensated"
                );
                findings.insert(finding(Kind::Uncompensated, what, advice));
            }
        }
    }
    findings.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::super::formats::tests::house;
    use super::*;

    const NOW: u64 = 100 * DAY_MS;

    fn edge(source: &str, ty: &str, function: &str, days_ago: u64) -> Edge {
        let [source, ty, function] = [source, ty, function].map(str::to_owned);
        Edge { source, ty, function, count: 1, last: Some(NOW - days_ago * DAY_MS) }
    }

    fn of(kind: Kind, house: &House, observed: &Observed) -> Vec<String> {
        let all = findings(house, observed, NOW, 7);
        all.into_iter().filter(|finding| finding.kind == kind).map(|finding| finding.what).collect()
    }

    #[test]
    fn events_nobody_hears_and_functions_nobody_calls() {
        let house = house(&[("f", &["a.b.in"], &["a.b.out"], None), ("g", &["a.b.never"], &[], None)]);
        let observed = Observed { published: BTreeSet::from(["a.b.in".into(), "a.b.stray".into()]), ..<_>::default() };
        assert_eq!(
            of(Kind::Unheard, &house, &observed),
            [
                "a.b.out, from f, has no function that acts on it",
                "a.b.stray, from clients, has no function that acts on it"
            ]
        );
        assert_eq!(
            of(Kind::Untriggered, &house, &observed),
            ["g acts on a.b.never, which nobody emits and nobody has published"]
        );
        let seen =
            Observed { edges: vec![edge("client", "a.b.never", "g", 0), edge("client", "a.b.in", "f", 0)], ..observed };
        assert!(of(Kind::Untriggered, &house, &seen).is_empty());
    }

    #[test]
    fn a_timer_cues_only_the_function_it_names() {
        let mut house = house(&[("f", &[TimerFired::TYPE], &[], None), ("g", &[TimerFired::TYPE], &[], None)]);
        house.schedules.push((TimerFired::TYPE.into(), Some("f".into())));
        let found = of(Kind::Untriggered, &house, &Observed::default());
        assert!(found.len() == 1 && found[0].starts_with("g acts on"), "{found:?}");
    }

    #[test]
    fn functions_that_are_not_used_any_more() {
        let mut house = house(&[
            ("old", &["a.b.c"], &[], None),
            ("new", &["a.b.c"], &[], None),
            ("fresh", &["a.b.c"], &[], None),
            ("idle", &["a.b.c"], &[], None),
        ]);
        house.functions.get_mut("fresh").unwrap().seen = Some(NOW - DAY_MS);
        house.functions.get_mut("idle").unwrap().seen = Some(NOW - 9 * DAY_MS);
        let observed = Observed {
            edges: vec![edge("client", "a.b.c", "old", 8), edge("client", "a.b.c", "new", 6)],
            ..<_>::default()
        };
        assert_eq!(
            of(Kind::Unused, &house, &observed),
            ["idle has never acted on an event", "old last acted on an event 8 d ago"]
        );
        assert!(of(Kind::Unused, &house, &Observed::default()).is_empty(), "where nothing is observed nothing is said");
    }

    #[test]
    fn edges_that_are_not_declared() {
        let house = house(&[("f", &["a.b.in"], &["a.b.out"], None), ("g", &["a.b.out"], &[], None)]);
        let good =
            [edge("client", "a.b.in", "f", 0), edge("/gateway", "a.b.in", "f", 0), edge("/f", "a.b.out", "g", 0)];
        assert!(of(Kind::Undeclared, &house, &Observed { edges: good.to_vec(), ..<_>::default() }).is_empty());
        let bad = vec![
            edge("/f", "a.b.in", "f", 0),
            edge("/gone", "a.b.out", "g", 0),
            edge("client", "a.b.other", "f", 0),
            edge("client", "a.b.in", "gone", 0),
        ];
        let found = of(Kind::Undeclared, &house, &Observed { edges: bad, ..<_>::default() });
        for part in ["f does not declare to emit a.b.in", "no function gone", "f does not act on a.b.other"] {
            assert!(found.iter().any(|what| what.contains(part)), "{part} in {found:?}");
        }
        assert_eq!(found.len(), 4);
    }

    #[test]
    fn circles_need_a_way_out() {
        let closed =
            [("ping", &["a.b.ping"][..], &["a.b.pong"][..], None), ("pong", &["a.b.pong"], &["a.b.ping"], None)];
        assert_eq!(of(Kind::Endless, &house(&closed), &Observed::default()), ["nothing leads out of ping -> pong"]);
        let open = [closed[0], ("pong", &["a.b.pong"][..], &["a.b.ping", "a.b.done"][..], None)];
        assert!(of(Kind::Endless, &house(&open), &Observed::default()).is_empty());
        let heard = [closed[0], closed[1], ("log", &["a.b.ping"][..], &[][..], None)];
        assert!(of(Kind::Endless, &house(&heard), &Observed::default()).is_empty());
        let itself = [("self", &["a.b.c"][..], &["a.b.c"][..], None)];
        assert_eq!(of(Kind::Endless, &house(&itself), &Observed::default()), ["nothing leads out of self"]);
    }

    #[test]
    fn state_before_a_rejection_is_taken_back_by_whoever_owns_it() {
        let booking = ("book", &["a.trip.wished"][..], &["a.trip.booked"][..], Some("seats"));
        let paying = ("pay", &["a.trip.booked"][..], &["a.trip.paid", "a.trip.rejected"][..], Some("accounts"));
        let found = of(Kind::Uncompensated, &house(&[booking, paying]), &Observed::default());
        assert_eq!(
            found,
            ["pay may emit a.trip.rejected after book has written \"seats\", and nothing takes that back"]
        );
        let release = ("release", &["a.trip.rejected"][..], &[][..], Some("seats"));
        assert!(of(Kind::Uncompensated, &house(&[booking, paying, release]), &Observed::default()).is_empty());
        let tell = ("tell", &["a.trip.rejected"][..], &[][..], Some("mails"));
        assert_eq!(of(Kind::Uncompensated, &house(&[booking, paying, tell]), &Observed::default()).len(), 1);
    }
}
