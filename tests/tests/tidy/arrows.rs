//! Arrows between packages: which may depend on which.

use std::collections::{BTreeMap, BTreeSet};

use crate::tree::{Metadata, none, text};

/// Every package with the packages of this workspace it may depend on. Services meet on the bus, never in a manifest. The
/// events of the demo app are nothing to the platform but an example for its tests (`dev`).
const ARROWS: [(&str, &[(&str, &str)]); 15] = [
    ("oncue-build", &[]),
    (
        "oncue-proto",
        &[("oncue-build", "build"), ("oncue-app-events", "dev")],
    ),
    (
        "oncue-app-events",
        &[("oncue-build", "build"), ("oncue-proto", "normal")],
    ),
    ("oncue-core", &[("oncue-proto", "normal")]),
    ("oncue-telemetry", &[("oncue-proto", "normal")]),
    (
        "oncue",
        &[
            ("oncue-core", "normal"),
            ("oncue-proto", "normal"),
            ("oncue-telemetry", "normal"),
            ("oncue-app-events", "dev"),
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
            ("oncue-app-events", "dev"),
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
            ("oncue-app-events", "dev"),
        ],
    ),
    (
        "oncue-workers",
        &[
            ("oncue", "normal"),
            ("oncue-app-events", "normal"),
            ("oncue-proto", "normal"),
        ],
    ),
    (
        "oncue-host",
        &[
            ("oncue", "normal"),
            ("oncue-core", "normal"),
            ("oncue-proto", "normal"),
            ("oncue-telemetry", "normal"),
        ],
    ),
    (
        "oncue-cli",
        &[
            ("oncue-admin", "normal"),
            ("oncue-core", "normal"),
            ("oncue-proto", "normal"),
            ("oncue-app-events", "dev"),
        ],
    ),
    ("oncue-trace-viewer", &[]),
    // Tests may see everything; nobody may see tests.
    (
        "oncue-tests",
        &[
            ("oncue", "normal"),
            ("oncue-admin", "normal"),
            ("oncue-app-events", "normal"),
            ("oncue-console", "normal"),
            ("oncue-core", "normal"),
            ("oncue-gateway", "normal"),
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

#[test]
fn every_package_takes_what_the_workspace_decides() {
    let mut found = Vec::new();
    for package in Metadata::read().members() {
        let path = package.folder.join("Cargo.toml");
        let path = path
            .strip_prefix(crate::tree::root())
            .expect("in the repository")
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
        // What an app depends on may be published, and says so itself; see packaging.rs.
        let is_published = section.get("publish") == Some(&toml::Value::Boolean(true));
        for field in ["version", "edition", "rust-version", "license", "publish"] {
            let may_differ = field == "publish" && is_published;
            if !workspace(section.get(field)) && !may_differ {
                found.push(format!(
                    "{path}: write `{field}.workspace = true` under [package]"
                ));
            }
        }
    }
    none(&found);
}
