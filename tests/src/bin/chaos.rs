//! Runs the fault table for as long as it is told: `chaos [--minutes N] [--seed S] [--row ID]... [--seconds N] [--json FILE]
//! [--programs DIR]`.
//!
//! Rows take turns, each round with the next seed. At the end a table says what happened to every event.

use std::io::{IsTerminal as _, Write as _};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use oncue_tests::chaos::report::{Plan, Report};
use oncue_tests::chaos::rows::{ABSENT, ROWS, Row, find};
use serde_json::json;

struct Options {
    minutes: f64,
    seed: u64,
    rows: Vec<&'static Row>,
    /// Load of each row; by default what the time allows.
    seconds: Option<u64>,
    json: Option<String>,
    /// Folder of the workers, if not ours.
    programs: Option<std::path::PathBuf>,
}

const USAGE: &str = "usage: chaos [--minutes N] [--seed S] [--row ID]... [--seconds N] [--json FILE] [--programs DIR]";

fn options() -> Result<Options, String> {
    let mut options = Options {
        minutes: 5.0,
        seed: fastrand::u64(..1 << 32),
        rows: Vec::new(),
        seconds: None,
        json: None,
        programs: None,
    };
    let mut args = std::env::args().skip(1);
    while let Some(name) = args.next() {
        let value = args.next().ok_or_else(|| format!("{name} needs a value"))?;
        let wrong = || format!("{name} cannot be {value:?}");
        match name.as_str() {
            "--minutes" => options.minutes = value.parse().map_err(|_| wrong())?,
            "--seed" => options.seed = value.parse().map_err(|_| wrong())?,
            "--seconds" => options.seconds = Some(value.parse().map_err(|_| wrong())?),
            "--row" => options.rows.push(find(&value).ok_or_else(wrong)?),
            "--programs" => options.programs = Some(std::fs::canonicalize(&value).map_err(|_| wrong())?),
            "--json" => options.json = Some(value),
            _ => return Err(format!("unknown argument {name:?}")),
        }
    }
    if options.rows.is_empty() {
        options.rows = ROWS.iter().collect();
    }
    Ok(options)
}

fn main() -> ExitCode {
    let options = match options() {
        Ok(options) => options,
        Err(why) => {
            eprintln!("{why}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    println!("seed {}, {} minutes, {}", options.seed, options.minutes, versions().join(", "));
    let reports = run(&options);
    let failed = reports.iter().any(|report| !report.passed());
    print(&options.rows, &reports);
    if let Some(path) = &options.json {
        let rows: Vec<_> = options
            .rows
            .iter()
            .zip(&reports)
            .map(|(row, report)| json!({ "id": row.id, "what": row.what, "report": report }))
            .collect();
        let absent: Vec<_> = ABSENT.iter().map(|(id, why)| json!({ "id": id, "why": why })).collect();
        let all = json!({ "seed": options.seed, "versions": versions(), "rows": rows, "absent": absent });
        std::fs::write(path, format!("{all:#}\n")).expect("the file is written");
    }
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// All rows once, then again as long as there is time.
fn run(options: &Options) -> Vec<Report> {
    let (start, time) = (Instant::now(), Duration::from_secs_f64(options.minutes * 60.0));
    // About a third of a row's time is load, the rest is opening, draining and checking.
    let share = (time.as_secs() / options.rows.len() as u64 / 3).clamp(3, 60);
    let mut reports: Vec<Option<Report>> = options.rows.iter().map(|_| None).collect();
    for round in 0.. {
        for (row, total) in options.rows.iter().zip(&mut reports) {
            let late = start.elapsed() >= time;
            // One that cannot run here, or has failed, is not asked again.
            if (round > 0 && late) || total.as_ref().is_some_and(|r| r.skipped.is_some() || !r.passed()) {
                continue;
            }
            let plan = Plan {
                seed: options.seed.wrapping_add(round),
                seconds: options.seconds.unwrap_or(share).max(row.short),
                long: true,
                programs: options.programs.clone(),
                ..Plan::default()
            };
            progress(&format!("{:>4} s  round {}  {} {}", start.elapsed().as_secs(), round + 1, row.id, row.what));
            let report = one(row, &plan);
            if !report.passed() {
                progress("");
                println!("{} failed: {}", row.id, report.failures.join("; "));
                println!("  again: chaos --row {} --seed {} --seconds {}", row.id, plan.seed, plan.seconds);
            }
            match total {
                Some(total) => total.add(report),
                None => *total = Some(report),
            }
        }
        let open = reports.iter().flatten().any(|report| report.skipped.is_none() && report.passed());
        if start.elapsed() >= time || !open {
            break;
        }
    }
    progress("");
    reports.into_iter().flatten().collect()
}

/// A row that panics has failed; the others go on.
fn one(row: &'static Row, plan: &Plan) -> Report {
    let plan = plan.clone();
    let runs = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on((row.run)(plan))
    });
    runs.join().unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        Report::failed(text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string)).unwrap_or_default())
    })
}

fn progress(line: &str) {
    if std::io::stderr().is_terminal() {
        eprint!("\r\x1b[2K{line}");
    } else if !line.is_empty() {
        eprintln!("{line}");
    }
    let _ = std::io::stderr().flush();
}

fn versions() -> Vec<String> {
    ["nats-server", "redis-server"]
        .into_iter()
        .map(|server| {
            let output = Command::new(server).arg("--version").output().map(|output| output.stdout).unwrap_or_default();
            String::from_utf8_lossy(&output).trim().split(" sha=").next().unwrap_or_default().to_owned()
        })
        .collect()
}

fn print(rows: &[&Row], reports: &[Report]) {
    let colour = std::io::stdout().is_terminal();
    let paint = |code: u8, text: &str| if colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() };
    let heads = ["events", "faults", "again", "ok", "lost", "doubled", "dead", "odd"];
    let heads: String = heads.iter().map(|head| format!("{head:>9}")).collect();
    println!("{}", paint(1, &format!("{:<5} {:<58}{heads}  verdict", "row", "fault")));
    for (row, report) in rows.iter().zip(reports) {
        let (code, verdict) = match (&report.skipped, report.passed()) {
            (Some(why), true) => (33, why.as_str()),
            (_, true) => (32, "passed"),
            _ => (31, "FAILED"),
        };
        let faults = report.faults.values().sum();
        let numbers = [
            report.operations,
            faults,
            report.redeliveries,
            report.ok,
            report.lost,
            report.doubled,
            report.dead,
            report.unexpected,
        ];
        let numbers: String = numbers.iter().map(|n| format!("{n:>9}")).collect();
        println!("{:<5} {:<58}{numbers}  {}", row.id, row.what, paint(code, verdict));
        let in_hand = |kind: &str| report.in_hand.get(kind).map_or(String::new(), |n| format!(" ({n} events in hand)"));
        let kinds: Vec<String> =
            report.faults.iter().map(|(kind, times)| format!("{kind} {times}{}", in_hand(kind))).collect();
        let reasons = report.reasons.iter().map(|(reason, times)| format!("dead letter: {times} x {reason}"));
        let details = Some(kinds.join(", ")).filter(|kinds| !kinds.is_empty()).into_iter().chain(reasons.take(4));
        for line in details.chain(report.notes.iter().cloned()) {
            println!("      {}", paint(2, &line));
        }
        for failure in &report.failures {
            println!("      {}", paint(31, failure));
        }
    }
    for (id, why) in ABSENT {
        println!("{:<5} {}", id, paint(2, &format!("not here: {why}")));
    }
}
