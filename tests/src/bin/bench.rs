//! `make bench`: measures Oncue beside what NATS and Redis give to a loop written by hand, in turns, and checks every run.
//!
//! `bench [--quick] [--rounds N] [--json FILE] [CASE]...`

use std::process::ExitCode;
use std::time::Instant;

use oncue_tests::bench::cases::{CASES, Known};
use oncue_tests::bench::paint;
use oncue_tests::bench::plan::{Case, Plan};
use serde_json::json;

const USAGE: &str = "usage: bench [--quick] [--rounds N] [--json FILE] [CASE]...";

struct Options {
    plan: Plan,
    cases: Vec<&'static Known>,
    json: Option<String>,
}

fn options() -> Result<Options, String> {
    let (mut quick, mut rounds, mut json, mut cases) = (false, None, None, Vec::new());
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let mut value = || args.next().ok_or_else(|| format!("{arg} needs a value"));
        match arg.as_str() {
            "--quick" => quick = true,
            "--rounds" => {
                let n = value()?;
                rounds = Some(n.parse().ok().filter(|n| *n > 0).ok_or_else(|| format!("{n:?} rounds?"))?);
            }
            "--json" => json = Some(value()?),
            id => {
                let known: Vec<&str> = CASES.iter().map(|case| case.id).collect();
                let case = CASES.iter().find(|case| case.id == id);
                cases.push(case.ok_or_else(|| format!("there is no case {id:?}; there are {}", known.join(", ")))?);
            }
        }
    }
    if cases.is_empty() {
        cases = CASES.iter().collect();
    }
    Ok(Options { plan: Plan { rounds: rounds.unwrap_or(if quick { 2 } else { 5 }), quick }, cases, json })
}

fn main() -> ExitCode {
    let options = match options() {
        Ok(options) => options,
        Err(why) => {
            eprintln!("{why}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    let start = Instant::now();
    let mut cases: Vec<Case> = Vec::new();
    for known in &options.cases {
        let case = one(known, options.plan);
        paint::case(&case);
        cases.push(case);
        // After each case: who stops it has what there is.
        if let Some(path) = &options.json {
            let all = json!({ "quick": options.plan.quick, "rounds": options.plan.rounds, "cases": cases });
            std::fs::write(path, format!("{all:#}\n")).expect("the file is written");
        }
    }
    println!("\n{} s", start.elapsed().as_secs());
    if cases.iter().any(|case| case.failed.is_some()) { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// A check that fails panics: then this case has no figures, and the others go on.
fn one(known: &'static Known, plan: Plan) -> Case {
    let runs = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on((known.run)(plan))
    });
    let case = runs.join().unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string)).unwrap_or_default();
        Case { failed: Some(text), ..Case::default() }
    });
    Case { id: known.id.to_owned(), title: known.title.to_owned(), ..case }
}
