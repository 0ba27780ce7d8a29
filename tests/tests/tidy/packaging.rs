//! The crates of an author can be published: their manifests are whole, they need none that is not published, and they carry
//! no tests.

use std::process::Command;

use crate::tree::{Metadata, Package, none, root, text};

/// What a registry and its readers want to know of a crate.
const FIELDS: [&str; 5] = ["description", "license", "repository", "readme", "include"];

fn manifest(package: &Package) -> toml::Table {
    let path = package.folder.join("Cargo.toml");
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    text.parse()
        .unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn is_published(package: &Package) -> bool {
    manifest(package)["package"]["publish"].as_bool() == Some(true)
}

/// Packages that can be published, of which there are some.
fn published(metadata: &Metadata) -> Vec<&Package> {
    let published: Vec<&Package> = metadata.members().filter(|one| is_published(one)).collect();
    let has_runtime = published.iter().any(|package| package.name == "oncue");
    assert!(has_runtime, "`oncue` cannot be published");
    published
}

#[test]
fn published_crates_have_whole_manifests() {
    let mut found = Vec::new();
    for package in published(&Metadata::read()) {
        let manifest = manifest(package);
        let missing = FIELDS
            .iter()
            .filter(|field| manifest["package"].get(**field).is_none());
        found.extend(missing.map(|field| format!("{}: {field} is missing", package.name)));
    }
    none(&found);
}

#[test]
fn published_crates_need_none_that_is_not() {
    let metadata = Metadata::read();
    let published: Vec<&str> = published(&metadata).iter().map(|p| &*p.name).collect();
    let ours: Vec<&str> = metadata.members().map(|p| &*p.name).collect();
    let mut found = Vec::new();
    for package in metadata.members() {
        if !published.contains(&&*package.name) {
            continue;
        }
        for (name, kind) in &package.asks_for {
            // What only tests need is left out of a package, as long as it is named without a version.
            let is_ours = ours.contains(&name.as_str()) && kind != "dev";
            if is_ours && !published.contains(&name.as_str()) {
                let needing = &package.name;
                found.push(format!("{needing} needs {name}, which is not published"));
            }
        }
    }
    none(&found);
}

#[test]
fn versions_of_published_crates_agree() {
    let workspace: toml::Table = text("Cargo.toml").parse().expect("Cargo.toml is TOML");
    let workspace = &workspace["workspace"];
    let version = workspace["package"]["version"].as_str().expect("a version");
    let mut found = Vec::new();
    for package in published(&Metadata::read()) {
        let named = workspace["dependencies"][&package.name].get("version");
        if named.and_then(toml::Value::as_str) != Some(version) {
            found.push(format!(
                "{}: [workspace.dependencies] names another version than {version}, which is that of the workspace",
                package.name
            ));
        }
    }
    none(&found);
}

#[test]
fn packages_carry_no_tests() {
    let mut found = Vec::new();
    for package in published(&Metadata::read()) {
        let listed = Command::new(env!("CARGO"))
            .args([
                "package",
                "--list",
                "--offline",
                "--locked",
                "--allow-dirty",
            ])
            .args(["-p", &package.name])
            .current_dir(root())
            .output()
            .expect("cargo runs");
        let stderr = String::from_utf8_lossy(&listed.stderr);
        assert!(listed.status.success(), "{}: {stderr}", package.name);
        let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
        for wanted in ["README.md", "LICENSE", "src/lib.rs"] {
            if !listed.lines().any(|file| file == wanted) {
                found.push(format!("{}: {wanted} is not in the package", package.name));
            }
        }
        let tests = listed.lines().filter(|file| file.starts_with("tests/"));
        found.extend(tests.map(|file| format!("{}: {file} is in the package", package.name)));
    }
    none(&found);
}
