//! `make bench`: measures Oncue beside what NATS and Redis give to a loop written by hand, in turns, and checks every run.
//!
//! `bench [--quick] [--rounds N] [--json FILE] [CASE]...` measures; `bench --counts FILE [--record]` compares
//! instructions and allocations with those on record; `bench --report JSON PAGE` writes the page with its pictures.

use std::process::ExitCode;
use std::time::Instant;

use oncue_proto::event::{format_time, now_ms};
use oncue_tests::bench::cases::{CASES, Known, PEERS};
use oncue_tests::bench::counts::{self, Counts};
use oncue_tests::bench::machine::Machine;
use oncue_tests::bench::paint;
use oncue_tests::bench::plan::{Case, Plan};
use oncue_tests::bench::report::{self, Report};

const USAGE: &str = "usage: bench [--quick] [--rounds N] [--json FILE] [CASE]...\n       \
    bench --counts FILE [--record]\n       bench --report JSON PAGE";

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
                rounds = Some(
                    n.parse()
                        .ok()
                        .filter(|n| *n > 0)
                        .ok_or_else(|| format!("{n:?} rounds?"))?,
                );
            }
            "--json" => json = Some(value()?),
            id => {
                let all = CASES.iter().chain(PEERS);
                let known: Vec<&str> = all.clone().map(|case| case.id).collect();
                let case = all.clone().find(|case| case.id == id);
                cases.push(case.ok_or_else(|| {
                    format!("there is no case {id:?}; there are {}", known.join(", "))
                })?);
            }
        }
    }
    if cases.is_empty() {
        cases = CASES.iter().collect();
    }
    Ok(Options {
        plan: Plan {
            rounds: rounds.unwrap_or(if quick { 2 } else { 5 }),
            quick,
        },
        cases,
        json,
    })
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["--counts", file] => return gate(file, false),
        ["--counts", file, "--record"] => return gate(file, true),
        ["--report", json, page] => return write(json, page),
        _ => {}
    }
    let options = match options() {
        Ok(options) => options,
        Err(why) => {
            eprintln!("{why}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    let start = Instant::now();
    let mut report = Report {
        time: format_time(now_ms()),
        machine: Machine::describe(),
        quick: options.plan.quick,
        rounds: options.plan.rounds,
        cases: Vec::new(),
    };
    for known in &options.cases {
        let case = one(known, options.plan);
        paint::case(&case);
        report.cases.push(case);
        // After each case: who stops it has what there is.
        if let Some(path) = &options.json {
            let text = serde_json::to_string_pretty(&report).expect("figures are JSON");
            std::fs::write(path, text + "\n").expect("the file is written");
        }
    }
    println!("\n{} s", start.elapsed().as_secs());
    if report.cases.iter().any(|case| case.failed.is_some()) {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}

/// Fails if an event costs more than what is on record, in counts that do not depend on the time of day.
fn gate(file: &str, record: bool) -> ExitCode {
    if let Some(why) = counts::missing() {
        eprintln!("nothing is counted: {why}");
        return ExitCode::FAILURE;
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let recorded = std::fs::read(file).map_err(|e| e.to_string());
    let recorded = recorded
        .and_then(|text| serde_json::from_slice::<Counts>(&text).map_err(|e| e.to_string()));
    let mut counts = runtime.block_on(Counts::measure());
    // How events fall into batches is chance: what costs too much three times costs too much.
    for _ in 0..2 {
        if !record
            && recorded
                .as_ref()
                .is_ok_and(|recorded| !counts.above(recorded).is_empty())
        {
            counts = counts.least(&runtime.block_on(Counts::measure()));
        }
    }
    paint::progress("");
    let text = serde_json::to_string_pretty(&counts).expect("counts are JSON");
    println!("{text}");
    if record {
        std::fs::write(file, text + "\n").expect("the file is written");
        return ExitCode::SUCCESS;
    }
    let more = match recorded {
        Ok(recorded) => counts.above(&recorded),
        Err(e) => vec![format!("{file}: {e}")],
    };
    for line in &more {
        eprintln!("{line}");
    }
    if more.is_empty() {
        return ExitCode::SUCCESS;
    }
    eprintln!("if that is what it should cost, record it: make bench-counts RECORD=1");
    ExitCode::FAILURE
}

fn write(json: &str, page: &str) -> ExitCode {
    let read = std::fs::read(json).map_err(|e| e.to_string());
    let read =
        read.and_then(|text| serde_json::from_slice::<Report>(&text).map_err(|e| e.to_string()));
    let written =
        read.and_then(|report| report::write(&report, page.as_ref()).map_err(|e| e.to_string()));
    match written {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("{json} to {page}: {e}; run `make bench` first");
            ExitCode::FAILURE
        }
    }
}

/// A check that fails panics: then this case has no figures, and the others go on.
fn one(known: &'static Known, plan: Plan) -> Case {
    let runs = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        runtime.block_on((known.run)(plan))
    });
    let case = runs.join().unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text
            .or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string))
            .unwrap_or_default();
        Case {
            failed: Some(text),
            ..Case::default()
        }
    });
    Case {
        id: known.id.to_owned(),
        title: known.title.to_owned(),
        ..case
    }
}
