//! Circles of imports between the files of a crate, read from paths: `use crate::a::b`, `super::c()`, `self::d`. A module
//! and its own children may name each other; any other circle counts.

use std::collections::{BTreeMap, BTreeSet};

use crate::source::{Source, bare, is_word};

/// Modules of a crate by path (`a::b`; the root is empty), each with the modules it names.
type Graph = BTreeMap<String, BTreeSet<String>>;

/// Files in circles, by crate of the package: the library and program, and each program in `bin`.
pub fn tangled(files: &[Source]) -> Vec<String> {
    let mut crates: BTreeMap<&str, Vec<(String, &str)>> = BTreeMap::new();
    for file in files {
        let program = file.name.strip_prefix("bin/");
        let (root, rest) = program.map_or(("", file.name.as_str()), |name| {
            name.split_once('/').unwrap_or((name, "main"))
        });
        let modules = crates.entry(root).or_default();
        modules.push((module(rest), &file.text));
    }
    let graphs = crates.values().map(|modules| graph(modules));
    graphs
        .flat_map(|graph| {
            let all = graph.keys().cloned().collect();
            circles(&graph, &all)
        })
        .collect()
}

/// Path of the module in a file: `a/mod` and `a` are `a`, `a/b` is `a::b`.
fn module(file: &str) -> String {
    let file = file.strip_suffix("/mod").unwrap_or(file);
    match file {
        "lib" | "main" | "mod" => String::new(),
        file => file.replace('/', "::"),
    }
}

fn graph(modules: &[(String, &str)]) -> Graph {
    let names: BTreeSet<&str> = modules.iter().map(|(name, _)| name.as_str()).collect();
    let mut graph = Graph::new();
    for (from, text) in modules {
        let named = graph.entry(from.clone()).or_default();
        for path in paths(&bare(text)) {
            named.extend(resolve(from, &path, &names));
        }
        named.remove(from);
    }
    graph
}

/// Deepest module that a path leads to, as seen from `from`; `None` for a path out of the crate.
fn resolve(from: &str, path: &[String], names: &BTreeSet<&str>) -> Option<String> {
    let mut at: Vec<&str> = from.split("::").filter(|part| !part.is_empty()).collect();
    let mut rest = path;
    while let Some((first, after)) = rest.split_first() {
        match first.as_str() {
            "crate" => at.clear(),
            "self" => {}
            "super" => {
                at.pop();
            }
            _ => break,
        }
        rest = after;
    }
    let local = rest.len() < path.len();
    let mut deepest = at.join("::");
    for part in rest {
        at.push(part);
        let next = at.join("::");
        if !names.contains(next.as_str()) {
            break;
        }
        deepest = next;
    }
    (local || deepest != from).then_some(deepest)
}

/// All paths of two parts and more in bare code, those of `use {..}` one by one.
pub fn paths(code: &str) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    let mut rest = code;
    while let Some(start) = rest.find(is_word) {
        // A field or a method is no path; `pub(in ..)` names nothing.
        let before = rest[..start].trim_end();
        let skipped = before.ends_with('.') && !before.ends_with("..");
        rest = &rest[start..];
        let mut all = Vec::new();
        let restricted = rest.starts_with("in ") && before.ends_with('(');
        rest = path(rest, &[], &mut all);
        if restricted {
            rest = path(rest.trim_start(), &[], &mut Vec::new());
        }
        if !skipped {
            found.extend(all.into_iter().filter(|path| path.len() > 1));
        }
    }
    found
}

/// Reads one path after `prefix`, with all branches of a group, and returns what is left.
fn path<'a>(code: &'a str, prefix: &[String], all: &mut Vec<Vec<String>>) -> &'a str {
    let mut parts = prefix.to_vec();
    let mut rest = code;
    loop {
        if let Some(group) = rest.strip_prefix('{') {
            return branches(group, &parts, all);
        }
        let length = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
        if length == 0 {
            // A star, or the turbofish of a type.
            all.push(parts);
            return rest;
        }
        parts.push(rest[..length].to_owned());
        rest = &rest[length..];
        let Some(after) = rest.strip_prefix("::") else {
            all.push(parts);
            return rest;
        };
        rest = after;
    }
}

fn branches<'a>(group: &'a str, prefix: &[String], all: &mut Vec<Vec<String>>) -> &'a str {
    let mut rest = group.trim_start();
    while !rest.is_empty() {
        if let Some(after) = rest.strip_prefix('}') {
            return after;
        }
        let before = rest.len();
        rest = path(rest, prefix, all);
        rest = rest.trim_start();
        if let Some(renamed) = rest.strip_prefix("as ") {
            rest = renamed.trim_start_matches(is_word).trim_start();
        }
        rest = rest.trim_start_matches([',', '*']).trim_start();
        if rest.len() == before {
            return rest;
        }
    }
    rest
}

/// Members of circles among `nodes` that a module and its children do not explain.
fn circles(graph: &Graph, nodes: &BTreeSet<String>) -> Vec<String> {
    let mut found = Vec::new();
    for mut circle in components(graph, nodes) {
        let head = circle
            .iter()
            .find(|head| circle.iter().all(|node| node == *head || below(node, head)))
            .cloned();
        match head {
            // The children may still have a circle without it.
            Some(head) => {
                circle.remove(&head);
                found.extend(circles(graph, &circle));
            }
            None => found.extend(circle),
        }
    }
    found
}

fn below(node: &str, head: &str) -> bool {
    let rest = node.strip_prefix(head);
    rest.is_some_and(|rest| head.is_empty() || rest.starts_with("::"))
}

/// Strongly connected components of more than one node: who reaches whom both ways.
fn components(graph: &Graph, nodes: &BTreeSet<String>) -> Vec<BTreeSet<String>> {
    let reach: BTreeMap<&String, BTreeSet<&String>> = nodes
        .iter()
        .map(|node| (node, reached(graph, nodes, node)))
        .collect();
    let mut found: Vec<BTreeSet<String>> = Vec::new();
    for node in nodes {
        if found.iter().any(|component| component.contains(node)) {
            continue;
        }
        let mutual = reach[node].iter().filter(|to| reach[*to].contains(node));
        let component: BTreeSet<String> = mutual.map(|to| (*to).clone()).collect();
        if component.len() > 1 {
            found.push(component);
        }
    }
    found
}

fn reached<'a>(graph: &'a Graph, nodes: &BTreeSet<String>, from: &String) -> BTreeSet<&'a String> {
    let mut seen = BTreeSet::new();
    let mut open = vec![from];
    while let Some(node) = open.pop() {
        for to in graph[node].iter().filter(|to| nodes.contains(*to)) {
            if seen.insert(to) {
                open.push(to);
            }
        }
    }
    seen
}

#[cfg(test)]
fn files(sources: &[(&str, &str)]) -> Vec<Source> {
    let files = sources.iter().map(|(name, text)| Source {
        path: format!("src/{name}.rs"),
        name: (*name).to_owned(),
        text: (*text).to_owned(),
    });
    files.collect()
}

#[test]
fn paths_are_read_with_all_their_branches() {
    let code = "use crate::a::{self, b::{C, d::*}, E as F};\nlet x = super::g::<T>(y.z);\npub(in crate::h) fn i() {}";
    let read: Vec<String> = paths(code).iter().map(|path| path.join("::")).collect();
    let expected = [
        "crate::a::self",
        "crate::a::b::C",
        "crate::a::b::d",
        "crate::a::E",
        "super::g",
    ];
    assert_eq!(read, expected);
}

#[test]
fn circles_between_files_are_found() {
    let two = files(&[
        ("lib", "mod a;\nmod b;"),
        ("a", "use crate::b::B;"),
        ("b", "fn f() { super::a::g() }"),
    ]);
    assert_eq!(tangled(&two), ["a", "b"]);
    let three = files(&[
        ("main", "mod a; mod b;"),
        ("a/mod", "pub mod c; use crate::b;\nuse b::x;"),
        ("a/c", "use super::A;"),
        ("b", "use crate::{a::c::C, z};"),
    ]);
    assert_eq!(tangled(&three), ["a", "a::c", "b"]);
    let siblings = files(&[
        ("lib", "mod a;"),
        ("a", "mod b; mod c; use self::b::B; use c::C;"),
        ("a/b", "use super::c::C; use super::A;"),
        ("a/c", "use super::{A, b::B};"),
    ]);
    assert_eq!(tangled(&siblings), ["a::b", "a::c"]);
    let program = files(&[
        ("bin/one/main", "mod a; mod b;"),
        ("bin/one/a", "use crate::b::B;"),
        ("bin/one/b", "use crate::a::A;"),
    ]);
    assert_eq!(tangled(&program), ["a", "b"]);
}

#[test]
fn a_module_and_its_children_are_no_circle() {
    let family = files(&[
        ("lib", "pub mod a; mod e; pub use a::b::B; pub struct R;"),
        ("a/mod", "mod b; mod c; use b::B; fn f() { c::g() }"),
        ("a/b", "use super::A; use crate::R;"),
        ("a/c", "use super::{A, b::B};"),
        (
            "e",
            "use crate::a::A; // use crate::e\nconst X: &str = \"crate::a\";",
        ),
    ]);
    assert_eq!(tangled(&family), [""; 0]);
    let apart = files(&[
        ("bin/one", "use crate::x; use std::a;"),
        ("bin/two", "use crate::y;"),
    ]);
    assert_eq!(tangled(&apart), [""; 0]);
}
