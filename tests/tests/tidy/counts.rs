//! Habits of STYLE that are counted, each with a bound that only falls.

use std::collections::{BTreeMap, BTreeSet};

use crate::circles::tangled;
use crate::ratchet::Table;
use crate::source::{Source, bare, is_word, packages};

/// Modules a crate root may list without a word.
const MODULES_AT_A_ROOT: usize = 12;

const COLUMNS: [&str; 6] = ["tuples", "closures", "vague", "modules", "twice", "circles"];

/// By package: bindings of several values at once (`let (a, b) = (..)`), closures with a name (`let f = |..|`), docs that
/// begin with a vague word, modules at a crate root (12 or less count as 12), types called like another of their crate, and
/// files in import circles. The failing test prints the places of what is too much, and the new table: with a bound of 0 all
/// places are shown.
const BOUNDS: &str = "
#                    tuples closures vague modules twice circles
oncue                     0        0     0      12     0       0
oncue-admin               1        2     0      12     0       0
oncue-app-events          0        0     0      12     0       0
oncue-build               0        0     0      12     0       0
oncue-cli                 0        0     0      12     3       0
oncue-console             0        2     0      12     1       0
oncue-core                0        0     0      12     0       0
oncue-gateway             0        0     0      12     1       0
oncue-host                0        0     0      12     0       0
oncue-http                0        0     0      12     0       0
oncue-proto               0        0     0      12     0       0
oncue-telemetry           0        0     0      12     0       0
oncue-trace-viewer        0        0     0      12     0       0
oncue-workers             1        0     0      12     0       0
";

#[test]
fn density_and_names_only_get_better() {
    let mut today = Table::default();
    for package in packages() {
        let name = &package.package;
        let files = &package.files;
        today.found(name, "tuples", places(files, tuples));
        today.found(name, "closures", places(files, closures));
        today.found(name, "vague", places(files, vague));
        today.set(name, "modules", modules(files).max(MODULES_AT_A_ROOT));
        today.found(name, "twice", twice(files));
        today.found(name, "circles", tangled(files));
    }
    let bounds = Table::read(BOUNDS, &COLUMNS);
    bounds.hold(&today, &COLUMNS, "BOUNDS in tests/tests/tidy/counts.rs");
}

fn places(files: &[Source], counter: fn(&str) -> Vec<usize>) -> Vec<String> {
    let mut found = Vec::new();
    for file in files {
        let lines = counter(&file.text);
        found.extend(lines.iter().map(|line| format!("{}:{line}", file.path)));
    }
    found
}

/// Statements that begin with `let`, with their line, joined where rustfmt breaks after `=`.
fn bindings(text: &str) -> Vec<(usize, String)> {
    let mut lines = text.lines().map(str::trim).enumerate().peekable();
    let mut found = Vec::new();
    while let Some((number, line)) = lines.next() {
        let Some(binding) = line.strip_prefix("let ") else {
            continue;
        };
        let mut binding = binding.to_owned();
        if binding.ends_with(" =")
            && let Some((_, next)) = lines.peek()
        {
            binding = format!("{binding} {next}");
        }
        found.push((number + 1, binding));
    }
    found
}

/// Lines with `let (a, b) = (..)`.
fn tuples(text: &str) -> Vec<usize> {
    let mut found = Vec::new();
    for (line, binding) in bindings(text) {
        if binding.starts_with('(') && binding.contains(") = (") {
            found.push(line);
        }
    }
    found
}

/// Lines with `let f = |..|`, with or without `mut`, a type, `async` and `move`.
fn closures(text: &str) -> Vec<usize> {
    let mut found = Vec::new();
    for (line, binding) in bindings(text) {
        let Some((name, value)) = binding.split_once(" = ") else {
            continue;
        };
        let name = name.trim_start_matches("mut ").split(':').next();
        let named = name.is_some_and(|name| name.chars().all(is_word));
        let value = value
            .trim_start_matches("async ")
            .trim_start_matches("move ");
        if named && value.starts_with('|') {
            found.push(line);
        }
    }
    found
}

/// First words that say nothing of the thing.
const VAGUE: [&str; 9] = [
    "What", "Who", "Whom", "Whoever", "Those", "The same", "It", "Its", "They",
];

/// Lines where a doc begins with a vague word.
fn vague(text: &str) -> Vec<usize> {
    let mut found = Vec::new();
    let mut inside = false;
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        let doc = line
            .strip_prefix("///")
            .or_else(|| line.strip_prefix("//!"));
        if let Some(doc) = doc.filter(|_| !inside) {
            let doc = doc.trim_start();
            let begins = VAGUE.iter().any(|word| {
                let after = doc.strip_prefix(word);
                after.is_some_and(|after| !after.starts_with(is_word))
            });
            if begins {
                found.push(number + 1);
            }
        }
        inside = doc.is_some();
    }
    found
}

/// Crate a file belongs to: each program in `bin` is one of its own.
fn crate_of(file: &Source) -> &str {
    let program = file.name.strip_prefix("bin/");
    program.map_or("", |name| name.split('/').next().unwrap_or(name))
}

/// Most modules that a root of the package lists.
fn modules(files: &[Source]) -> usize {
    let roots = files
        .iter()
        .filter(|file| ["lib", "main"].contains(&file.name.as_str()) || !crate_of(file).is_empty());
    let listed = roots.map(|file| modules_in(&file.text));
    listed.max().unwrap_or_default()
}

fn modules_in(text: &str) -> usize {
    let lines = text.lines().map(|line| {
        line.trim_start_matches("pub(crate) ")
            .trim_start_matches("pub ")
    });
    lines.filter(|line| line.starts_with("mod ")).count()
}

/// Names that stand for more than one type of a crate, with their files.
fn twice(files: &[Source]) -> Vec<String> {
    let mut named: BTreeMap<(&str, String), Vec<&str>> = BTreeMap::new();
    for file in files {
        for name in types(&file.text) {
            named
                .entry((crate_of(file), name))
                .or_default()
                .push(&file.path);
        }
    }
    named.retain(|_, paths| paths.len() > 1);
    let found = named.iter();
    found
        .map(|((_, name), paths)| format!("{name}: {}", paths.join(", ")))
        .collect()
}

/// Names of the types that a file defines. A `type` further in belongs to a trait.
fn types(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for line in bare(text).lines() {
        let inner = line.starts_with(' ');
        let mut words = line
            .split(|c: char| !is_word(c))
            .filter(|word| !word.is_empty());
        let mut word = words.next().unwrap_or_default();
        while ["pub", "crate", "super", "unsafe"].contains(&word) {
            word = words.next().unwrap_or_default();
        }
        let defines = ["struct", "enum", "trait", "union"].contains(&word);
        if defines || word == "type" && !inner {
            found.extend(words.next().map(str::to_owned));
        }
    }
    found
}

#[test]
fn tuples_are_counted() {
    let found = "let (a, b) = (1, 2);\n    let (mut c, d) = (\n1, 2);\nlet (e, f) =\n    (x, y);";
    assert_eq!(tuples(found), [1, 2, 4]);
    let fine =
        "let (a, b) = pair();\nlet a = (1, 2);\n// let (a, b) = (1, 2);\nif let (a, b) = (c, d) {";
    assert_eq!(tuples(fine), [0; 0]);
}

#[test]
fn closures_with_names_are_counted() {
    let found = "let a = |x| x;\nlet mut b = move || 1;\nlet c: F = async |x| x;\nlet d =\n    async move |x| x;";
    assert_eq!(closures(found), [1, 2, 3, 4]);
    let fine = "a.map(|x| x);\nlet a = b.map(|x| x);\nlet a = b | c;\nlet (a, b) = |x| x;";
    assert_eq!(closures(fine), [0; 0]);
}

#[test]
fn vague_docs_are_counted() {
    let found = "//! What it is.\n\n/// The same, again.\nfn a() {}\n    /// It.\nlet b;";
    assert_eq!(vague(found), [1, 3, 5]);
    let fine = "/// Items.\n/// What goes on here is no first word.\nfn a() {}\n// What a comment.\n/// Itself.";
    assert_eq!(vague(fine), [0; 0]);
}

#[test]
fn modules_of_a_root_are_counted() {
    let root = "mod a;\npub mod b;\npub(crate) mod c {\n    mod inner;\n}\n// mod d;\nuse e;";
    assert_eq!(modules_in(root), 3);
}

#[test]
fn types_of_one_name_are_found() {
    let file = |name: &str, text: &str| Source {
        path: format!("{name}.rs"),
        name: name.to_owned(),
        text: text.to_owned(),
    };
    let files = [
        file(
            "a",
            "pub struct Job;\nimpl X for Y { \n    type Output = Z;\n}",
        ),
        file("b", "pub(crate) enum Job { A }\nstruct Other<T>(T);"),
        file(
            "c",
            "    type Output = W;\n// struct Other;\ntype Third = u8;",
        ),
        // Two programs of a package know nothing of each other.
        file("bin/one", "struct Other;\nstruct Mine;"),
        file("bin/two", "struct Mine;"),
    ];
    assert_eq!(twice(&files), ["Job: a.rs, b.rs"]);
    let all: BTreeSet<String> = files.iter().flat_map(|file| types(&file.text)).collect();
    assert_eq!(
        all.into_iter().collect::<Vec<_>>(),
        ["Job", "Mine", "Other", "Third"]
    );
}
