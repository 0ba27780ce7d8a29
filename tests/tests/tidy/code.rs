//! Files and functions that fit a screen or two; nothing left for later; no addresses of package registries.

use crate::tree::{files, none, rust_files};

const LONGEST_FILE: usize = 400;
const LONGEST_FUNCTION: usize = 50;

/// File, function, and why it is better whole.
const LONG_FUNCTIONS: [(&str, &str, &str); 2] = [
    ("services/gateway/tests/gateway/events.rs", "refusals", "one table of what is refused"),
    (
        "tests/tests/system/files.rs",
        "pictures_become_thumbnails_and_liars_go",
        "one house for every kind of picture; a house of its own for each would cost a minute",
    ),
];

#[test]
fn files_are_short() {
    let long = rust_files().into_iter().map(|(path, code)| (path, code.lines().count()));
    let long = long.filter(|(_, lines)| *lines > LONGEST_FILE);
    none(
        &long
            .map(|(path, lines)| format!("{path} has {lines} lines: split it, {LONGEST_FILE} are enough"))
            .collect::<Vec<_>>(),
    );
}

/// Name, first line and number of body lines of every function. Goes by indentation, which rustfmt guarantees.
fn functions(code: &str) -> Vec<(String, usize, usize)> {
    let lines: Vec<&str> = code.lines().collect();
    let indent = |line: &str| line.len() - line.trim_start().len();
    let mut found = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let Some(name) = function_name(line) else { continue };
        let here = indent(line);
        let ends = |line: &&str| indent(line) == here && line.ends_with(['{', '}', ';']);
        let Some(open) = lines[at..].iter().position(ends).map(|n| at + n) else { continue };
        let closing = format!("{}}}", " ".repeat(here));
        let close = lines[open..].iter().position(|line| *line == closing).map(|n| open + n);
        if let Some(close) = close.filter(|_| lines[open].ends_with('{')) {
            found.push((name.to_owned(), at + 1, close - open - 1));
        }
    }
    found
}

fn function_name(line: &str) -> Option<&str> {
    let mut rest = line.trim_start();
    if let Some(public) = rest.strip_prefix("pub(") {
        rest = public.split_once(") ")?.1;
    }
    for word in ["pub ", "const ", "async ", "unsafe "] {
        rest = rest.strip_prefix(word).unwrap_or(rest);
    }
    let name = rest.strip_prefix("fn ")?;
    name.find(|c: char| !c.is_alphanumeric() && c != '_').map(|end| &name[..end])
}

#[test]
fn functions_are_found_with_their_length() {
    let code = "pub(crate) async fn one(\n    a: u8,\n) -> u8\nwhere\n    u8: Copy,\n{\n    a;\n    b\n}\n\
                fn short() {}\ntrait T {\n    fn declared(&self);\n    fn two(&self) {\n        if x {\n            y\n        }\n    }\n}\n";
    let expected = [("one".to_owned(), 1, 2), ("two".to_owned(), 13, 3)];
    assert_eq!(functions(code), expected);
}

#[test]
fn functions_are_short() {
    let mut excused: Vec<(&str, &str)> = LONG_FUNCTIONS.iter().map(|(path, name, _)| (*path, *name)).collect();
    let (mut found, mut seen) = (Vec::new(), 0);
    for (path, code) in rust_files() {
        let functions = functions(&code);
        seen += functions.len();
        for (name, line, length) in functions.into_iter().filter(|(_, _, length)| *length > LONGEST_FUNCTION) {
            match excused.iter().position(|excuse| *excuse == (path.as_str(), name.as_str())) {
                Some(at) => drop(excused.remove(at)),
                None => found
                    .push(format!("{path}:{line}: {name} has {length} lines: split it, {LONGEST_FUNCTION} are enough")),
            }
        }
    }
    assert!(seen > 500, "only {seen} functions found");
    found.extend(excused.iter().map(|(path, name)| format!("LONG_FUNCTIONS: {name} of {path} is short now, or gone")));
    none(&found);
}

/// In two parts, so that this file does not hold them.
const UNFINISHED: [(&str, &str); 5] =
    [("TO", "DO"), ("FIX", "ME"), ("unimplemented", "!"), ("todo", "!("), ("#[ig", "nore")];

const REGISTRIES: [(&str, &str); 7] = [
    ("crates", ".io"),
    ("registry.npmjs", ".org"),
    ("npmjs", ".com"),
    ("pypi", ".org"),
    ("pythonhosted", ".org"),
    ("proxy.golang", ".org"),
    ("rubygems", ".org"),
];

/// Places of any of the words in a file. A word in letters is found as a whole word only.
fn places(path: &str, text: &str, words: &[(&str, &str)]) -> Vec<String> {
    let letter = |c: char| c.is_alphanumeric() || c == '_';
    let mut found = Vec::new();
    for word in words.iter().map(|(a, b)| format!("{a}{b}")) {
        let whole = |before: &str, after: &str| {
            let goes_on = word.ends_with(letter) && after.starts_with(letter);
            !goes_on && !before.ends_with(letter)
        };
        let holds = |line: &str| line.match_indices(&word).any(|(at, _)| whole(&line[..at], &line[at + word.len()..]));
        let lines = text.lines().enumerate().filter(|(_, line)| holds(line));
        found.extend(lines.map(|(number, line)| format!("{path}:{}: {word} in: {}", number + 1, line.trim())));
    }
    found
}

#[test]
fn nothing_is_left_for_later() {
    let marks = rust_files().iter().flat_map(|(path, code)| places(path, code, &UNFINISHED)).collect::<Vec<_>>();
    none(&marks);
}

#[test]
fn no_registry_is_named() {
    let files = files();
    let files = files.iter().filter(|(path, _)| path.as_str() != "Cargo.lock");
    none(&files.flat_map(|(path, text)| places(path, text, &REGISTRIES)).collect::<Vec<_>>());
}

#[test]
fn words_are_found_whole() {
    let word = &[("TO", "DO")];
    assert_eq!(places("f", concat!("a\n// TO", "DO: b\n"), word).len(), 1);
    assert!(places("f", concat!("TO", "DOS or MYTO", "DO"), word).is_empty());
}
