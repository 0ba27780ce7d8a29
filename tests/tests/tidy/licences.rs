//! What comes from others: under which licences, and how often.

use std::collections::{BTreeMap, BTreeSet};

use crate::tree::{Metadata, Package, none};

/// Licences that ask for no more than to be named.
const ALLOWED: [&str; 13] = [
    "MIT",
    "MIT-0",
    "Apache-2.0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "ISC",
    "Zlib",
    "Unicode-3.0",
    "CC0-1.0",
    "0BSD",
    "BSL-1.0",
    "CDLA-Permissive-2.0",
    "Unlicense",
];

/// Package, its licence expression, and why it may stay all the same.
const LICENCE_EXCEPTIONS: [(&str, &str, &str); 0] = [];

/// Crate, its incompatible versions, and why they cannot be one.
const TWICE: [(&str, &[&str], &str); 8] = [
    (
        "base64",
        &["0.22", "0.23"],
        "jsonwebtoken is ahead of all others",
    ),
    (
        "cpufeatures",
        &["0.2", "0.3"],
        "const-hex of opentelemetry-proto and sha2 are behind chacha20",
    ),
    (
        "getrandom",
        &["0.2", "0.3", "0.4"],
        "ring is two behind, rand 0.9 one",
    ),
    (
        "rand",
        &["0.8", "0.9", "0.10"],
        "nkeys is behind opentelemetry_sdk, and that behind async-nats",
    ),
    (
        "rand_core",
        &["0.6", "0.9", "0.10"],
        "comes with the three of rand",
    ),
    (
        "rand_chacha",
        &["0.3", "0.9"],
        "comes with the older two of rand",
    ),
    (
        "signature",
        &["2", "3"],
        "jsonwebtoken is ahead of ed25519-dalek behind nkeys",
    ),
    (
        "unicode-width",
        &["0.1", "0.2"],
        "miette of prost-reflect is behind ratatui",
    ),
];

/// Crate and what to do without it.
const BANNED: [(&str, &str); 4] = [
    ("openssl", "TLS is rustls here: turn the feature off"),
    ("openssl-sys", "TLS is rustls here: turn the feature off"),
    ("native-tls", "TLS is rustls here: turn the feature off"),
    (
        "protoc-bin-vendored",
        "protox compiles .proto files without protoc",
    ),
];

/// Whether an SPDX expression can be satisfied with allowed licences alone. AND binds tighter than OR; the slash of old
/// manifests means OR.
fn permits(expression: &str) -> Result<bool, String> {
    let spaced = expression
        .replace('(', " ( ")
        .replace(')', " ) ")
        .replace('/', " OR ");
    let mut words = spaced.split_whitespace().peekable();
    let permitted = any(&mut words)?;
    words.next().map_or(Ok(permitted), |rest| {
        Err(format!("cannot read {expression:?} from {rest:?} on"))
    })
}

type Words<'a> = std::iter::Peekable<std::str::SplitWhitespace<'a>>;

fn any(words: &mut Words) -> Result<bool, String> {
    let mut permitted = all(words)?;
    while words.next_if_eq(&"OR").is_some() {
        permitted |= all(words)?;
    }
    Ok(permitted)
}

fn all(words: &mut Words) -> Result<bool, String> {
    let mut permitted = one(words)?;
    while words.next_if_eq(&"AND").is_some() {
        permitted &= one(words)?;
    }
    Ok(permitted)
}

fn one(words: &mut Words) -> Result<bool, String> {
    match words.next() {
        Some("(") => {
            let permitted = any(words)?;
            words
                .next_if_eq(&")")
                .map(|_| permitted)
                .ok_or_else(|| "a parenthesis is not closed".to_owned())
        }
        None | Some(")" | "AND" | "OR" | "WITH") => Err("a licence is missing".to_owned()),
        Some(licence) => {
            // An exception only ever allows more.
            if words.next_if_eq(&"WITH").is_some() {
                words.next().ok_or("an exception is missing")?;
            }
            Ok(ALLOWED.contains(&licence))
        }
    }
}

#[test]
fn expressions_are_evaluated() {
    for (expression, expected) in [
        ("MIT", true),
        ("GPL-3.0", false),
        ("GPL-3.0 OR MIT", true),
        ("GPL-3.0 AND MIT", false),
        ("GPL-3.0 AND MIT OR ISC", true),
        ("GPL-3.0 AND (MIT OR ISC)", false),
        ("(MIT OR Apache-2.0) AND Unicode-3.0", true),
        ("MIT/Apache-2.0", true),
        ("Apache-2.0 WITH LLVM-exception OR GPL-2.0", true),
        ("GPL-2.0 WITH Classpath-exception-2.0", false),
    ] {
        assert_eq!(permits(expression), Ok(expected), "{expression}");
    }
    for bad in [
        "",
        "MIT OR",
        "(MIT",
        "MIT)",
        "MIT Apache-2.0",
        "AND MIT",
        "MIT WITH",
    ] {
        assert!(permits(bad).is_err(), "{bad:?}");
    }
}

#[test]
fn licences_are_allowed() {
    let mut excepted: BTreeSet<(&str, &str)> = LICENCE_EXCEPTIONS
        .iter()
        .map(|(name, licence, _)| (*name, *licence))
        .collect();
    let (mut found, metadata) = (Vec::new(), Metadata::read());
    for package in metadata.packages.values() {
        let licence = package.licence.as_deref().unwrap_or("none");
        match permits(licence) {
            Ok(true) => {}
            _ if excepted.remove(&(package.name.as_str(), licence)) => {}
            Ok(false) => found.push(format!(
                "{} {} is under {licence}: do without it",
                package.name, package.version
            )),
            Err(e) => found.push(format!(
                "{} {}: {licence:?}: {e}",
                package.name, package.version
            )),
        }
    }
    found.extend(excepted.iter().map(|(name, licence)| {
        format!("LICENCE_EXCEPTIONS: {name} ({licence}) is not needed any more")
    }));
    none(&found);
}

/// What versions that may stand in for each other share: `1`, `0.4`, `0.0.3`.
fn compatible(version: &str) -> String {
    let parts: Vec<&str> = version.split('.').collect();
    let significant = parts.iter().position(|part| *part != "0").unwrap_or(2);
    parts[..=significant.min(2)].join(".")
}

/// Everything that ends up in a program: normal dependencies, without macros and what runs at build time.
fn shipped(metadata: &Metadata) -> Vec<&Package> {
    let ours = |id: &&String| {
        !["oncue-build", "oncue-tests"].contains(&metadata.packages[*id].name.as_str())
    };
    let members = metadata.members.iter().filter(ours);
    let mut seen: BTreeSet<&String> = members.collect();
    let mut open: Vec<&String> = seen.iter().copied().collect();
    while let Some(id) = open.pop() {
        for (to, kinds) in &metadata.packages[id].depends_on {
            let normal =
                kinds.iter().any(|kind| kind == "normal") && !metadata.packages[to].proc_macro;
            if normal && seen.insert(to) {
                open.push(to);
            }
        }
    }
    seen.into_iter().map(|id| &metadata.packages[id]).collect()
}

#[test]
fn no_crate_is_shipped_twice() {
    let metadata = Metadata::read();
    let shipped = shipped(&metadata);
    assert!(shipped.len() > 100, "only {} packages found", shipped.len());
    let mut versions: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for package in shipped {
        versions
            .entry(&package.name)
            .or_default()
            .insert(compatible(&package.version));
    }
    versions.retain(|_, versions| versions.len() > 1);
    let mut found = Vec::new();
    for (name, excused, _) in TWICE {
        let excused: BTreeSet<String> = excused
            .iter()
            .map(|version| (*version).to_owned())
            .collect();
        match versions.remove(name) {
            Some(versions) if versions == excused => {}
            Some(versions) => found.push(format!(
                "TWICE in tests/tests/tidy/licences.rs excuses {name} {excused:?}, but there are {versions:?}"
            )),
            None => found.push(format!("{name} comes once now: take it out of TWICE in tests/tests/tidy/licences.rs")),
        }
    }
    for (name, versions) in versions {
        found.push(format!("{name} comes in {versions:?}: choose versions that agree (cargo tree -d -e normal -i {name}), or excuse it in TWICE"));
    }
    none(&found);
}

#[test]
fn versions_are_compared_as_cargo_does() {
    for (version, expected) in [
        ("1.2.3", "1"),
        ("0.4.3", "0.4"),
        ("0.0.3", "0.0.3"),
        ("0.0.0", "0.0.0"),
        ("12.0.0-rc.1", "12"),
    ] {
        assert_eq!(compatible(version), expected);
    }
}

#[test]
fn banned_crates_stay_out() {
    let metadata = Metadata::read();
    let names: BTreeSet<&str> = metadata
        .packages
        .values()
        .map(|package| package.name.as_str())
        .collect();
    let found = BANNED.iter().filter(|(name, _)| names.contains(name));
    none(
        &found
            .map(|(name, instead)| format!("{name} has come in (cargo tree -i {name}): {instead}"))
            .collect::<Vec<_>>(),
    );
}
