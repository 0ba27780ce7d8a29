//! Loops and frameworks of Python and TypeScript at the work of `bench-limit`: their programs, and the app whose functions do it
//! with Oncue. Installed by `make bench-peers` alone.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::arena::{Arena, Profile};
use crate::cluster::{Cluster, Process, built, in_repository};

/// Programs with their pinned dependencies, and the functions.
const SOURCES: &str = "tests/peers";
/// What `make bench-peers` installs.
const INSTALLED: &str = ".oncue/peers";
/// What `deploy/install.sh python` and `typescript` install.
const PYTHON: &str = ".oncue/venv/bin/python";
const TYPESCRIPT: &str = ".oncue/typescript/node_modules";

/// A loop by hand, or a handler in a framework.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    FastStream,
    NatsPy,
    NestJs,
    NatsJs,
}

impl Peer {
    pub fn name(self) -> &'static str {
        match self {
            Self::FastStream => "faststream",
            Self::NatsPy => "nats-py",
            Self::NestJs => "nestjs",
            Self::NatsJs => "nats.js",
        }
    }

    /// Its stream and consumer; a transport of NestJS names its own.
    pub fn consumer(self) -> &'static str {
        match self {
            Self::NestJs => "web.limit-web_page_viewed",
            _ => "web.limit",
        }
    }

    /// Starts it in the folder of the cluster.
    pub fn start(self, cluster: &Cluster) -> Process {
        let file = match self {
            Self::FastStream => "faststream_clicks.py",
            Self::NatsPy => "nats_py_clicks.py",
            Self::NestJs => "nest-clicks.mjs",
            Self::NatsJs => "nats-clicks.mjs",
        };
        let program = match self {
            Self::FastStream | Self::NatsPy => root().join(INSTALLED).join("venv/bin/python"),
            Self::NestJs | Self::NatsJs => PathBuf::from("node"),
        };
        let file = cluster.dir.join("peers").join(file);
        cluster.spawn_program(self.name(), &program, &[&file.display().to_string()])
    }
}

/// Why nothing of it can be measured here, if so.
pub fn missing() -> Option<String> {
    let venv = format!("{INSTALLED}/venv");
    let modules = format!("{INSTALLED}/node_modules");
    let needed = [PYTHON, TYPESCRIPT, &venv, &modules];
    let missing = needed.into_iter().find(|path| !root().join(path).exists());
    missing.map(|path| format!("{path} is not there; `make bench-peers` brings it"))
}

/// Servers, and the functions beside the programs of the peers.
pub async fn arena() -> Arena {
    let root = root();
    let config = format!(
        "[functions.bench-clicks-python]\nrun = [\"{}\", \"-m\", \"oncue\", \"peers/clicks.py\"]\n\
         env = {{ PYTHONPATH = \"{}\" }}\n\
         [functions.bench-clicks-typescript]\nrun = [\"node_modules/.bin/oncue-node\", \"functions/clicks.ts\"]\n\
         [streams.web]\nmax_bytes = \"4GiB\"\n",
        root.join(PYTHON).display(),
        root.join("services/runtime/python").display(),
    );
    let arena = Arena::with(Profile::Fast, &config).await;
    let folder = &arena.cluster.dir;
    let (peers, functions) = (folder.join("peers"), folder.join("functions"));
    copy(&in_repository(SOURCES), &peers);
    std::fs::create_dir_all(&functions).expect("a folder");
    std::fs::copy(peers.join("clicks.ts"), functions.join("clicks.ts")).expect("copied");
    std::fs::write(folder.join("package.json"), r#"{"type":"module"}"#).expect("written");
    symlink(root.join(TYPESCRIPT), folder.join("node_modules")).expect("linked");
    symlink(
        root.join(INSTALLED).join("node_modules"),
        peers.join("node_modules"),
    )
    .expect("linked");
    let made = Command::new("node_modules/.bin/oncue-node")
        .args(["generate", "gen"])
        .current_dir(folder)
        .env("ONCUE_HOST", built("oncue-host"))
        .status();
    assert!(made.expect("node").success(), "no types of the events");
    arena
}

/// Files of one folder; none of those below it.
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a folder");
    for entry in from.read_dir().expect("a folder") {
        let path = entry.expect("a file").path();
        if let Some(name) = path.file_name().filter(|_| path.is_file()) {
            std::fs::copy(&path, to.join(name)).expect("copied");
        }
    }
}

fn root() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    root.canonicalize().unwrap_or(root)
}
