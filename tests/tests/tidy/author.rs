//! Few names to learn: the library that an author depends on shows what he needs and nothing else.

use crate::tree::text;

/// Public modules of `oncue`, and the names at its root.
const MODULES: [&str; 4] = ["error", "event", "files", "testing"];
const NAMES: [&str; 11] = [
    "Context", "Delayed", "Emit", "Event", "Function", "Result", "State", "Trigger", "events",
    "reject", "run",
];

/// Files whose public items an author can reach: the library's own, and of the house below what it shows.
const SHOWN: [&str; 8] = [
    "function", "context", "files", "state", "error", "testing", "event", "run",
];

/// Public items a documentation of the library lists at most.
const MOST: usize = 60;

fn source(name: &str) -> String {
    text(&format!("services/runtime/function/src/{name}.rs"))
}

#[test]
fn the_names_at_the_root_are_few() {
    let lib = source("lib");
    let mut modules: Vec<&str> = lib
        .lines()
        .filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';'))
        .collect();
    modules.sort_unstable();
    assert_eq!(modules, MODULES);

    let mut names: Vec<&str> = lib
        .lines()
        .filter_map(|line| line.strip_prefix("pub use ")?.strip_suffix(';'))
        .flat_map(|path| {
            let last = path.rfind("::").map_or(path, |at| &path[at + 2..]);
            last.trim_matches(['{', '}']).split(", ")
        })
        .collect();
    names.sort_unstable();
    assert_eq!(names, NAMES);
}

#[test]
fn the_items_an_author_sees_are_few() {
    const KINDS: [&str; 8] = [
        "pub fn ",
        "pub async fn ",
        "pub struct ",
        "pub enum ",
        "pub trait ",
        "pub type ",
        "pub const ",
        "pub use ",
    ];
    let items: Vec<String> = SHOWN
        .iter()
        .flat_map(|name| {
            source(name)
                .lines()
                .map(str::trim)
                .filter(|line| KINDS.iter().any(|kind| line.starts_with(kind)))
                .map(|line| format!("{name}: {line}"))
                .collect::<Vec<_>>()
        })
        .collect();
    assert!(items.len() > 30, "too few to be true: {items:#?}");
    assert!(items.len() + NAMES.len() <= MOST, "{items:#?}");
}
