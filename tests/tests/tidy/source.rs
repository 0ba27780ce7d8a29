//! Rust source, seen without a compiler: the files of a package, without tests, comments and texts.

use std::path::Path;

use crate::tree::{Metadata, Package, root, rust_files};

/// A file of a package that ends up in a program or library.
pub struct Source {
    /// Within the repository.
    pub path: String,
    /// Within the package's `src`, without `.rs`.
    pub name: String,
    /// Everything up to its own tests.
    pub text: String,
}

/// A package with its sources. The package of the tests is none: there density and names follow what is tested.
pub struct Sources {
    pub package: String,
    pub files: Vec<Source>,
}

pub fn packages() -> Vec<Sources> {
    let metadata = Metadata::read();
    let files = rust_files();
    let members = metadata
        .members()
        .filter(|package| package.name != "oncue-tests");
    members
        .map(|package| Sources {
            package: package.name.clone(),
            files: sources(package, &files),
        })
        .collect()
}

fn sources(package: &Package, files: &std::collections::BTreeMap<String, String>) -> Vec<Source> {
    let folder = package
        .folder
        .strip_prefix(root())
        .expect("in the repository");
    let folder = folder.join("src");
    let mut found = Vec::new();
    for (path, text) in files {
        let Ok(name) = Path::new(path).strip_prefix(&folder) else {
            continue;
        };
        let name = name.with_extension("").display().to_string();
        if name == "tests" || name.ends_with("/tests") || name.contains("tests/") {
            continue;
        }
        found.push(Source {
            path: path.clone(),
            name,
            text: without_tests(text).to_owned(),
        });
    }
    found
}

/// Text up to the module of tests, which stands at the end of a file.
pub fn without_tests(text: &str) -> &str {
    let end = text.find("\n#[cfg(test)]\nmod ");
    end.map_or(text, |end| &text[..=end])
}

/// Code with comments, texts and characters blanked; lines and columns stay.
pub fn bare(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(next) = rest.chars().next() {
        let length = match blank(rest) {
            0 if is_word(next) => {
                let length = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
                out.push_str(&rest[..length]);
                rest = &rest[length..];
                continue;
            }
            0 => {
                out.push(next);
                rest = &rest[next.len_utf8()..];
                continue;
            }
            length => length,
        };
        let lines = rest[..length].chars();
        out.extend(lines.map(|c| if c == '\n' { '\n' } else { ' ' }));
        rest = &rest[length..];
    }
    out
}

pub fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Length of the comment, text or character at the start; 0 where there is none.
fn blank(rest: &str) -> usize {
    if rest.starts_with("//") {
        return rest.find('\n').unwrap_or(rest.len());
    }
    if rest.starts_with("/*") {
        return rest.find("*/").map_or(rest.len(), |end| end + 2);
    }
    let raw = rest.trim_start_matches(['b', 'c']);
    let prefix = rest.len() - raw.len();
    if prefix <= 1 && raw.starts_with("r\"") || raw.starts_with("r#") {
        let hashes = raw[1..].len() - raw[1..].trim_start_matches('#').len();
        if raw[1 + hashes..].starts_with('"') {
            let end = format!("\"{}", "#".repeat(hashes));
            let start = prefix + hashes + 2;
            let close = rest[start..].find(&end);
            return close.map_or(rest.len(), |at| start + at + end.len());
        }
    }
    if prefix <= 1 && raw.starts_with('"') {
        return prefix + quoted(raw, '"');
    }
    // A character, and no lifetime: closed after one, or escaped.
    let mut chars = raw.strip_prefix('\'').unwrap_or_default().chars();
    match (chars.next(), chars.next()) {
        (Some('\\'), _) => prefix + quoted(raw, '\''),
        (Some(one), Some('\'')) => prefix + one.len_utf8() + 2,
        _ => 0,
    }
}

fn quoted(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        if c == quote && !escaped {
            return at + c.len_utf8();
        }
        escaped = c == '\\' && !escaped;
    }
    text.len()
}

#[test]
fn only_code_is_left() {
    for (text, expected) in [
        ("a // b\nc", "a     \nc"),
        ("a /* b */ c", "a         c"),
        (r#"a("b \" c", d)"#, "a(        , d)"),
        ("a(r#\"b \" c\"#, d)", "a(          , d)"),
        ("a(b\"c\")", "a(    )"),
        (
            "fn f<'a>(b: &'a str) { 'c'; '\\''; '\"' }",
            "fn f<'a>(b: &'a str) {    ;     ;     }",
        ),
        ("number(bar\"x\")", "number(bar   )"),
    ] {
        assert_eq!(bare(text), expected, "{text}");
    }
    assert_eq!(without_tests("a\n#[cfg(test)]\nmod tests {\n b }"), "a\n");
}
