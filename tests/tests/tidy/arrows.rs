//! Who may depend on whom, and who may name what.

use std::collections::{BTreeMap, BTreeSet};

use crate::tree::{Metadata, none, rust_files, text};

/// Every package with the packages of this house it may depend on. Services meet on the bus, never in a manifest.
const ARROWS: [(&str, &[(&str, &str)]); 13] = [
    ("oncue-build", &[]),
    ("oncue-proto", &[("oncue-build", "build")]),
    ("oncue-core", &[("oncue-proto", "normal")]),
    ("oncue-telemetry", &[("oncue-proto", "normal")]),
    (
        "oncue",
        &[
            ("oncue-core", "normal"),
            ("oncue-proto", "normal"),
            ("oncue-telemetry", "normal"),
        ],
    ),
    (
        "oncue-admin",
        &[("oncue-core", "normal"), ("oncue-proto", "normal")],
    ),
    (
        "oncue-http",
        &[
            ("oncue-core", "normal"),
            ("oncue-proto", "normal"),
            ("oncue-telemetry", "normal"),
        ],
    ),
    (
        "oncue-gateway",
        &[
            ("oncue-core", "normal"),
            ("oncue-http", "normal"),
            ("oncue-proto", "normal"),
            ("oncue-telemetry", "normal"),
        ],
    ),
    (
        "oncue-console",
        &[
            ("oncue-admin", "normal"),
            ("oncue-core", "normal"),
            ("oncue-http", "normal"),
            ("oncue-proto", "normal"),
            ("oncue-telemetry", "normal"),
        ],
    ),
    (
        "oncue-workers",
        &[("oncue", "normal"), ("oncue-proto", "normal")],
    ),
    (
        "oncue-cli",
        &[
            ("oncue-admin", "normal"),
            ("oncue-core", "normal"),
            ("oncue-proto", "normal"),
        ],
    ),
    ("oncue-trace-viewer", &[]),
    // Tests may see everything; nobody may see tests.
    (
        "oncue-tests",
        &[
            ("oncue", "normal"),
            ("oncue-admin", "normal"),
            ("oncue-core", "normal"),
            ("oncue-proto", "normal"),
            ("oncue-telemetry", "normal"),
            ("oncue-workers", "normal"),
            // As a foreign repository would: see tests/build.rs.
            ("oncue-build", "build"),
        ],
    ),
];

#[test]
fn dependencies_point_one_way() {
    let metadata = Metadata::read();
    let arrows: BTreeMap<&str, BTreeSet<(&str, &str)>> = ARROWS
        .iter()
        .map(|(name, to)| (*name, to.iter().copied().collect()))
        .collect();
    let ours: BTreeSet<&str> = metadata
        .members()
        .map(|package| package.name.as_str())
        .collect();
    let mut found = Vec::new();
    for package in metadata.members() {
        let Some(allowed) = arrows.get(package.name.as_str()) else {
            found.push(format!(
                "{} is new: add it to ARROWS in tests/tests/tidy/arrows.rs",
                package.name
            ));
            continue;
        };
        let asked = package
            .asks_for
            .iter()
            .map(|(name, kind)| (name.as_str(), kind.as_str()));
        for (name, kind) in asked.filter(|asked| ours.contains(asked.0) && !allowed.contains(asked))
        {
            let place = package.folder.join("Cargo.toml");
            found.push(format!(
                "{} must not depend ({kind}) on {name}: take it out of {}",
                package.name,
                place.display()
            ));
        }
    }
    let gone = arrows.keys().filter(|name| !ours.contains(**name));
    found.extend(gone.map(|name| {
        format!("{name} is gone: take it out of ARROWS in tests/tests/tidy/arrows.rs")
    }));
    none(&found);
}

/// A crate that is wrapped in one place, and that place.
const WRAPPED: [(&str, &str, &str); 2] = [
    ("async-nats", "async_nats", "services/runtime/core/src/bus/"),
    ("redis", "redis", "services/runtime/core/src/store/redis"),
];

/// A file that may name them all the same, with the package it is in, and why.
const UNWRAPPED: (&str, &str, &str) = (
    "oncue-tests",
    "tests/src/bin/bench-limit.rs",
    "the hand-written loop that `make bench` measures the runtime against must not go through the runtime",
);

#[test]
fn nats_and_redis_are_named_in_one_place_each() {
    let mut found = Vec::new();
    for (krate, name, place) in WRAPPED {
        for package in Metadata::read()
            .members()
            .filter(|package| !["oncue-core", UNWRAPPED.0].contains(&package.name.as_str()))
        {
            if package.asks_for.iter().any(|(asked, _)| asked == krate) {
                found.push(format!(
                    "{} depends on {krate}; only the package oncue-core may, in {place}",
                    package.name
                ));
            }
        }
        for (path, code) in rust_files() {
            let lines = code
                .lines()
                .enumerate()
                .filter(|(_, line)| names(line, name));
            for (number, line) in lines.filter(|_| !path.starts_with(place) && path != UNWRAPPED.1)
            {
                found.push(format!(
                    "{path}:{} names {name}, which belongs in {place}: {}",
                    number + 1,
                    line.trim()
                ));
            }
        }
    }
    none(&found);
}

/// Whether a line of code names the crate, not a module or a word that is called the same.
fn names(line: &str, name: &str) -> bool {
    let code = line.split("//").next().unwrap_or_default();
    let word = |c: char| c.is_alphanumeric() || c == '_' || c == '"';
    code.match_indices(name).any(|(at, _)| {
        let (before, after) = (&code[..at], &code[at + name.len()..]);
        let own = !before.ends_with(word) && (!before.ends_with("::") || before.ends_with(" ::"));
        let imported =
            before.trim_end().ends_with("use") || before.trim_end().ends_with("extern crate");
        own && (after.starts_with("::") || (imported && !after.starts_with(word)))
    })
}

#[test]
fn names_are_told_from_modules_and_words() {
    for code in [
        "use cloud::Client;",
        "cloud::cmd(x)",
        "use cloud;",
        "fn f(_: ::cloud::Value)",
        "extern crate cloud;",
    ] {
        assert!(names(code, "cloud"), "{code}");
    }
    for code in [
        "mod cloud;",
        "pub use self::cloud::CloudStore;",
        "my_cloud::x()",
        "// cloud::x",
        "\"cloud://x\"",
        "cloud_cli()",
    ] {
        assert!(!names(code, "cloud"), "{code}");
    }
}

#[test]
fn every_package_takes_what_the_workspace_decides() {
    let mut found = Vec::new();
    for package in Metadata::read().members() {
        let path = package.folder.join("Cargo.toml");
        let path = path
            .strip_prefix(crate::tree::root())
            .expect("in the house")
            .display()
            .to_string();
        let manifest: toml::Table = text(&path)
            .parse()
            .unwrap_or_else(|e| panic!("{path}: {e}"));
        let workspace = |value: Option<&toml::Value>| {
            value
                .and_then(|value| value.get("workspace"))
                .and_then(toml::Value::as_bool)
                == Some(true)
        };
        if !workspace(manifest.get("lints")) {
            found.push(format!("{path}: add\n    [lints]\n    workspace = true"));
        }
        let section = manifest["package"].as_table().expect("a package");
        for field in ["version", "edition", "rust-version", "license", "publish"] {
            if !workspace(section.get(field)) {
                found.push(format!(
                    "{path}: write `{field}.workspace = true` under [package]"
                ));
            }
        }
    }
    none(&found);
}
