//! Hosts of functions in other languages, and their children: the second stage is one in Python.

use std::path::Path;

use super::Storm;
use crate::chaos::faults::Act;
use crate::chaos::report::{Plan, Report};
use crate::cluster::quoted;

/// Python with what functions need.
const PYTHON: &str = ".oncue/venv/bin/python";

pub async fn killed(plan: Plan) -> Report {
    run(Storm::new("H-1"), plan, &[Act::KillChild, Act::KillWorker]).await
}

pub async fn frozen(plan: Plan) -> Report {
    run(Storm::new("H-2"), plan, &[Act::FreezeChild]).await
}

/// Children whose answers are torn, and children that need more and more memory until they have none left.
pub async fn torn(plan: Plan) -> Report {
    let acts = [Act::TearChild, Act::LeakChild];
    run(Storm::new("H-3"), plan, &acts).await
}

async fn run(mut storm: Storm, plan: Plan, acts: &[Act]) -> Report {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    if !root.join(PYTHON).is_file() {
        return Report::skipped("no Python for functions; `deploy/install.sh python` brings it");
    }
    let root = root.canonicalize().unwrap_or(root);
    // A frozen child is known by its deadline.
    storm.setup.record_by = format!(
        "run = [{}, \"-m\", \"oncue\", {}]\nenv = {{ PYTHONPATH = {} }}\nprocesses = 2\ntimeout = \"1s\"\nmemory = \"256MiB\"\n",
        quoted(&root.join(PYTHON)),
        quoted(&root.join("tests/src/chaos/record.py")),
        quoted(&root.join("services/runtime/python"))
    );
    storm.run(plan, acts).await
}
