//! Topology as text, Mermaid, DOT and JSON.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::terminal::paint::{BOLD, DIM, GOOD, NAME, brief, paint};
use oncue_admin::topology::{KnownFunction, Topology};

/// A tree from the types nobody among the functions emits to whatever follows; what was drawn before is only named
/// again.
pub fn text(topology: &Topology) -> String {
    let mut tree = Tree {
        topology,
        drawn: BTreeSet::new(),
        lines: Vec::new(),
    };
    let types = topology.types();
    let (roots, others): (Vec<&str>, Vec<&str>) =
        types.into_iter().partition(|ty| is_root(topology, ty));
    // Circles have no root: whatever no root leads to begins somewhere.
    for ty in roots.into_iter().chain(others) {
        if !tree.drawn.contains(ty) {
            tree.ty(ty, "", "");
        }
    }
    tree.lines.join("\n")
}

/// Whether no function emits a type.
fn is_root(topology: &Topology, ty: &str) -> bool {
    !topology
        .manifests()
        .any(|m| m.emits.iter().any(|t| t == ty))
}

struct Tree<'t> {
    topology: &'t Topology,
    /// Types and functions whose children have been drawn.
    drawn: BTreeSet<&'t str>,
    lines: Vec<String>,
}

impl<'t> Tree<'t> {
    /// Draws a type and what follows from it. Each type is drawn in full only once, so circles end.
    fn ty(&mut self, ty: &'t str, first: &str, rest: &str) {
        let mut line = format!("{first}{}", paint(BOLD, brief(ty, 128)));
        let outside = self
            .topology
            .emitters(ty)
            .into_iter()
            .filter(|by| !self.topology.functions.contains_key(by));
        let outside: Vec<String> = outside.collect();
        if first.is_empty() {
            let from = if outside.is_empty() {
                "clients".to_owned()
            } else {
                outside.join(", ")
            };
            line += &paint(DIM, format_args!("  from {from}"));
        }
        let listeners: Vec<&str> = self.topology.listeners(ty).collect();
        if !self.drawn.insert(ty) {
            let more = if listeners.is_empty() {
                ""
            } else {
                "  (see above)"
            };
            return self.lines.push(line + &paint(DIM, more));
        }
        if listeners.is_empty() {
            line += &paint(DIM, "  nobody listens");
        }
        self.lines.push(line);
        for (at, function) in listeners.iter().enumerate() {
            let (branch, below) = branches(at + 1 == listeners.len());
            self.function(
                function,
                &format!("{rest}{branch}"),
                &format!("{rest}{below}"),
            );
        }
    }

    fn function(&mut self, name: &str, first: &str, rest: &str) {
        let Some((name, known)) = self.topology.functions.get_key_value(name) else {
            return;
        };
        let state = match known {
            KnownFunction { running: 0, .. } if self.topology.on_demand.contains(name) => {
                paint(DIM, "asleep or not running")
            }
            KnownFunction {
                running: 0,
                built: true,
                ..
            } => paint(DIM, "not running"),
            KnownFunction { running: 0, .. } => paint(DIM, "not running, no program here"),
            KnownFunction { running, .. } => paint(GOOD, format_args!("{running} running")),
        };
        let table = known
            .manifest
            .table
            .as_ref()
            .map_or_else(String::new, |t| paint(DIM, format_args!("  [{t}]")));
        let line = format!("{first}{}{table}  {state}", paint(NAME, brief(name, 128)));
        let emits = &known.manifest.emits;
        if !self.drawn.insert(name) {
            let more = if emits.is_empty() {
                ""
            } else {
                "  (see above)"
            };
            return self.lines.push(line + &paint(DIM, more));
        }
        self.lines.push(line);
        for (at, ty) in emits.iter().enumerate() {
            let (branch, below) = branches(at + 1 == emits.len());
            self.ty(ty, &format!("{rest}{branch}"), &format!("{rest}{below}"));
        }
    }
}

/// Lines in front of an item, and of all that stands below it.
fn branches(last: bool) -> (&'static str, &'static str) {
    if last {
        ("└─ ", "   ")
    } else {
        ("├─ ", "│  ")
    }
}

/// Nodes by a short name, and arrows between them.
struct Graph<'t> {
    types: BTreeMap<&'t str, String>,
    functions: BTreeMap<&'t str, String>,
    arrows: Vec<(String, String)>,
}

impl<'t> Graph<'t> {
    fn of(topology: &'t Topology) -> Self {
        let types: BTreeMap<&str, String> = topology
            .types()
            .into_iter()
            .enumerate()
            .map(|(at, ty)| (ty, format!("t{at}")))
            .collect();
        let functions: BTreeMap<&str, String> = topology
            .functions
            .keys()
            .enumerate()
            .map(|(at, name)| (name.as_str(), format!("f{at}")))
            .collect();
        let mut arrows = Vec::new();
        for manifest in topology.manifests() {
            let function = &functions[manifest.name.as_str()];
            arrows.extend(
                manifest
                    .triggers
                    .iter()
                    .map(|ty| (types[ty.as_str()].clone(), function.clone())),
            );
            arrows.extend(
                manifest
                    .emits
                    .iter()
                    .map(|ty| (function.clone(), types[ty.as_str()].clone())),
            );
        }
        Self {
            types,
            functions,
            arrows,
        }
    }
}

/// A name inside quotes, as Mermaid has them.
fn mermaid_name(name: &str) -> String {
    brief(name, 128).replace('"', "#quot;")
}

/// Flowchart from left to right: types round, functions square.
pub fn mermaid(topology: &Topology) -> String {
    let graph = Graph::of(topology);
    let mut out = String::from("flowchart LR");
    for (ty, node) in &graph.types {
        let _ = write!(out, "\n    {node}([\"{}\"])", mermaid_name(ty));
    }
    for (function, node) in &graph.functions {
        let _ = write!(out, "\n    {node}[\"{}\"]", mermaid_name(function));
    }
    for (from, to) in &graph.arrows {
        let _ = write!(out, "\n    {from} --> {to}");
    }
    out
}

/// A name inside quotes, as Graphviz has them.
fn dot_name(name: &str) -> String {
    brief(name, 128).replace('\\', "\\\\").replace('"', "\\\"")
}

/// Directed graph with the shapes of [`mermaid`]'s.
pub fn dot(topology: &Topology) -> String {
    let graph = Graph::of(topology);
    let mut out = String::from("digraph oncue {\n    rankdir=LR;");
    for (ty, node) in &graph.types {
        let _ = write!(
            out,
            "\n    {node} [shape=ellipse,label=\"{}\"];",
            dot_name(ty)
        );
    }
    for (function, node) in &graph.functions {
        let _ = write!(
            out,
            "\n    {node} [shape=box,label=\"{}\"];",
            dot_name(function)
        );
    }
    for (from, to) in &graph.arrows {
        let _ = write!(out, "\n    {from} -> {to};");
    }
    out + "\n}"
}

/// Types with both their ends, and every function with its manifest and who knows of it.
pub fn json(topology: &Topology) -> Value {
    let types = topology.types().into_iter().map(|ty| {
        json!({ "type": ty, "emitted_by": topology.emitters(ty), "consumed_by": topology.listeners(ty).collect::<Vec<_>>() })
    });
    let functions = topology.functions.values().map(|known| {
        let KnownFunction {
            manifest,
            running,
            built,
            seen,
        } = known;
        json!({ "manifest": manifest, "running": running, "built": built, "seen": seen })
    });
    json!({ "types": types.collect::<Vec<_>>(), "functions": functions.collect::<Vec<_>>() })
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// Name, triggers, emissions, table.
    type Declared<'d> = (&'d str, &'d [&'d str], &'d [&'d str], Option<&'d str>);

    pub fn topology(functions: &[Declared<'_>]) -> Topology {
        let mut topology = Topology::default();
        for (name, triggers, emits, table) in functions {
            let manifest = json!({ "name": name, "version": "1", "stream": "web", "triggers": triggers, "filters": triggers,
                "table": table, "emits": emits, "limits": { "concurrency": 1, "reserved_concurrency": 1, "timeout": "1s",
                "attempts": 1, "ack_wait": "1s", "start": "all" } });
            topology.add(serde_json::from_value(manifest).expect("a manifest"));
        }
        topology
    }

    #[test]
    fn a_tree_names_everything_once_and_ends_in_circles() {
        let mut topology = topology(&[
            ("count", &["a.b.seen"], &["a.b.counted"], Some("rows")),
            (
                "again",
                &["a.b.counted"],
                &["a.b.counted", "a.b.done"],
                None,
            ),
            ("ping", &["x.y.pinged"], &["x.y.ponged"], None),
            ("pong", &["x.y.ponged"], &["x.y.pinged"], None),
        ]);
        topology.functions.get_mut("count").unwrap().running = 2;
        let shown = anstream::adapter::strip_str(&text(&topology)).to_string();
        assert_eq!(
            shown,
            "a.b.seen  from clients\n\
             └─ count  [rows]  2 running\n   \
                └─ a.b.counted\n      \
                   └─ again  not running, no program here\n         \
                      ├─ a.b.counted  (see above)\n         \
                      └─ a.b.done  nobody listens\n\
             x.y.pinged  from clients\n\
             └─ ping  not running, no program here\n   \
                └─ x.y.ponged\n      \
                   └─ pong  not running, no program here\n         \
                      └─ x.y.pinged  (see above)"
        );
    }

    #[test]
    fn graphs_have_a_node_for_each_and_survive_odd_names() {
        let topology = topology(&[("f\"]\n;", &["a.b.c"], &["a.b.\"d"], None)]);
        let mermaid = mermaid(&topology);
        assert_eq!(mermaid.lines().count(), 6, "{mermaid}");
        assert!(
            mermaid.contains("f0[\"f#quot;] ;\"]") && mermaid.contains("t1 --> f0"),
            "{mermaid}"
        );
        assert!(
            dot(&topology).contains("f0 [shape=box,label=\"f\\\"] ;\"];"),
            "{}",
            dot(&topology)
        );
        assert_eq!(json(&topology)["types"][1]["consumed_by"][0], "f\"]\n;");
    }
}
