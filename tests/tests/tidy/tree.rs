//! The files of the repository and what cargo says of its packages.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// The repository.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("tests/ lies in the repository")
        .to_owned()
}

pub fn text(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

/// Every tracked text file, by path, or every file where git is absent.
pub fn files() -> BTreeMap<String, String> {
    let git = Command::new("git")
        .args(["ls-files", "-z"])
        .current_dir(root())
        .output();
    let names = match git {
        Ok(output) if output.status.success() => String::from_utf8(output.stdout)
            .expect("UTF-8")
            .split_terminator('\0')
            .map(str::to_owned)
            .collect(),
        _ => walk(&root(), &root()),
    };
    assert!(names.len() > 50, "only {} files found", names.len());
    // What is not text is no file of ours to read; what git knows but is deleted is on its way out.
    let read = |name: String| {
        Some((
            name.clone(),
            std::fs::read_to_string(root().join(name)).ok()?,
        ))
    };
    names.into_iter().filter_map(read).collect()
}

fn walk(root: &Path, folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let paths = entries.map(|entry| entry.expect("an entry").path());
    let kept = paths.filter(|path| {
        !["target", ".git", ".oncue"]
            .iter()
            .any(|skipped| path.file_name().is_some_and(|name| name == *skipped))
    });
    kept.flat_map(|path| {
        if path.is_dir() {
            return walk(root, &path);
        }
        let name = path.strip_prefix(root).expect("below the root");
        vec![name.to_str().expect("UTF-8").to_owned()]
    })
    .collect()
}

pub fn rust_files() -> BTreeMap<String, String> {
    let mut files = files();
    files.retain(|name, _| {
        Path::new(name)
            .extension()
            .is_some_and(|extension| extension == "rs")
    });
    files
}

/// What `cargo metadata` knows, of what is built on Linux.
pub struct Metadata {
    pub packages: BTreeMap<String, Package>,
    pub members: Vec<String>,
}

pub struct Package {
    pub name: String,
    pub version: String,
    pub licence: Option<String>,
    pub folder: PathBuf,
    pub proc_macro: bool,
    /// As written in its manifest: name and kind (`normal`, `build`, `dev`).
    pub asks_for: Vec<(String, String)>,
    /// As resolved: id and kinds.
    pub depends_on: Vec<(String, Vec<String>)>,
}

impl Metadata {
    pub fn read() -> Self {
        let offline = metadata(&["--offline"]);
        // A machine that never built for Linux may lack a manifest or two.
        let answer = offline
            .or_else(|_| metadata(&[]))
            .unwrap_or_else(|e| panic!("cargo metadata: {e}"));
        let nodes = answer["resolve"]["nodes"].as_array().expect("nodes");
        let edges: BTreeMap<&str, &Value> = nodes
            .iter()
            .map(|node| (text_of(&node["id"]), &node["deps"]))
            .collect();
        let resolved = |package: &&Value| edges.contains_key(text_of(&package["id"]));
        let packages = answer["packages"]
            .as_array()
            .expect("packages")
            .iter()
            .filter(resolved);
        let packages = packages.map(|package| {
            let id = text_of(&package["id"]);
            (id.to_owned(), Package::read(package, edges[id]))
        });
        let members = answer["workspace_members"]
            .as_array()
            .expect("members")
            .iter()
            .map(text_of);
        Self {
            packages: packages.collect(),
            members: members.map(str::to_owned).collect(),
        }
    }

    pub fn members(&self) -> impl Iterator<Item = &Package> {
        self.members.iter().map(|id| &self.packages[id])
    }
}

impl Package {
    fn read(package: &Value, edges: &Value) -> Self {
        let kind = |value: &Value| value.as_str().unwrap_or("normal").to_owned();
        let asked = package["dependencies"]
            .as_array()
            .expect("dependencies")
            .iter();
        let edges = edges.as_array().expect("edges").iter();
        let proc_macro = |target: &Value| {
            target["kind"]
                .as_array()
                .is_some_and(|kinds| kinds.iter().any(|k| k == "proc-macro"))
        };
        Self {
            name: text_of(&package["name"]).to_owned(),
            version: text_of(&package["version"]).to_owned(),
            licence: package["license"].as_str().map(str::to_owned),
            folder: Path::new(text_of(&package["manifest_path"]))
                .parent()
                .expect("a folder")
                .to_owned(),
            proc_macro: package["targets"]
                .as_array()
                .expect("targets")
                .iter()
                .any(proc_macro),
            asks_for: asked
                .map(|d| (text_of(&d["name"]).to_owned(), kind(&d["kind"])))
                .collect(),
            depends_on: edges
                .map(|edge| {
                    let kinds = edge["dep_kinds"]
                        .as_array()
                        .expect("kinds")
                        .iter()
                        .map(|k| kind(&k["kind"]));
                    (text_of(&edge["pkg"]).to_owned(), kinds.collect())
                })
                .collect(),
        }
    }
}

fn metadata(options: &[&str]) -> Result<Value, String> {
    let always = [
        "metadata",
        "--format-version",
        "1",
        "--locked",
        "--filter-platform",
        "x86_64-unknown-linux-gnu",
    ];
    let mut cargo = Command::new(env!("CARGO"));
    let output = cargo
        .args(always)
        .args(options)
        .current_dir(root())
        .output()
        .map_err(|e| e.to_string())?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    serde_json::from_slice(&output.stdout).map_err(|e| e.to_string())
}

fn text_of(value: &Value) -> &str {
    value.as_str().expect("text")
}

/// Fails with all that was found, a line each.
#[track_caller]
pub fn none(found: &[String]) {
    assert!(found.is_empty(), "\n  {}\n", found.join("\n  "));
}
