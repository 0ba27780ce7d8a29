//! Runs the fault table for as long as it is told. Rows take turns, each round with the next seed. At the end a table says
//! what happened to every event.

use std::io::IsTerminal as _;
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::time::{Duration, Instant};

use oncue_proto::event::{format_time, now_ms};
use oncue_tests::chaos::progress::Progress;
use oncue_tests::chaos::report::{Live, Plan, Report};
use oncue_tests::chaos::rows::{ROWS, Row, find};
use oncue_tests::chaos::table;
use serde_json::json;

const USAGE: &str = "usage: chaos [--minutes N] [--seed S] [--rate EVENTS_PER_SECOND] [--cuts N] [--row ID]... \
    [--seconds N] [--record FILE.md] [--json FILE] [--programs DIR]";

struct Options {
    minutes: f64,
    seed: u64,
    /// Events in a second.
    rate: u64,
    /// Power cuts in each row of them.
    cuts: Option<u64>,
    rows: Vec<&'static Row>,
    /// Load of each row; by default what the time allows.
    seconds: Option<u64>,
    record: Option<String>,
    json: Option<String>,
    /// Folder of the workers, if not ours.
    programs: Option<std::path::PathBuf>,
}

fn options() -> Result<Options, String> {
    let mut options = Options {
        minutes: 5.0,
        seed: fastrand::u64(..1 << 32),
        rate: 2000,
        cuts: None,
        rows: Vec::new(),
        seconds: None,
        record: None,
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
            "--rate" => options.rate = value.parse().map_err(|_| wrong())?,
            "--cuts" => options.cuts = Some(value.parse().map_err(|_| wrong())?),
            "--seconds" => options.seconds = Some(value.parse().map_err(|_| wrong())?),
            "--row" => options.rows.push(find(&value).ok_or_else(wrong)?),
            "--programs" => {
                options.programs = Some(std::fs::canonicalize(&value).map_err(|_| wrong())?);
            }
            "--record" => options.record = Some(value),
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
    println!(
        "seed {}, {} minutes, {}",
        options.seed,
        options.minutes,
        versions().join(", ")
    );
    let begun = now_ms();
    let reports = run(&options);
    print!(
        "{}",
        table::text(&options.rows, &reports, std::io::stdout().is_terminal())
    );
    let kept = keep(&options, &reports, begun);
    if let Err(why) = &kept {
        eprintln!("{why}");
    }
    let passed = reports.iter().all(Report::passed) && kept.is_ok();
    if passed {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// All rows once, then those that can take more, as long as there is time.
fn run(options: &Options) -> Vec<Report> {
    let (start, time) = (
        Instant::now(),
        Duration::from_secs_f64(options.minutes * 60.0),
    );
    let live = Arc::new(Live::default());
    let progress = Progress::start(live.clone(), start, time);
    let endless = options.rows.iter().filter(|row| row.endless).count() as u64;
    // About half of the time is their load; opening, draining, checking and the other rows take the rest.
    let share = (time.as_secs() / endless.max(1) / 2).clamp(3, 60);
    let mut reports: Vec<Option<Report>> = options.rows.iter().map(|_| None).collect();
    for round in 0.. {
        for (row, total) in options.rows.iter().zip(&mut reports) {
            let over = round > 0 && (start.elapsed() >= time || !row.endless);
            // One that cannot run here, or has failed, is not asked again.
            if over
                || total
                    .as_ref()
                    .is_some_and(|r| r.skipped.is_some() || !r.passed())
            {
                continue;
            }
            let seconds = options
                .seconds
                .unwrap_or(if row.endless { share } else { 8 })
                .max(row.short);
            let plan = Plan {
                seed: options.seed.wrapping_add(round),
                seconds,
                long: true,
                rate: options.rate,
                cuts: options.cuts,
                live: live.clone(),
                programs: options.programs.clone(),
                ..Plan::default()
            };
            progress.row(format!("round {}, {} {}", round + 1, row.id, row.what));
            let report = one(row, &plan);
            if !report.passed() {
                progress.clear();
                println!("{} failed: {}", row.id, report.failures.join("; "));
                println!(
                    "  again: chaos --row {} --seed {} --seconds {seconds} --rate {}",
                    row.id, plan.seed, plan.rate
                );
            }
            match total {
                Some(total) => total.add(report),
                None => *total = Some(report),
            }
        }
        let rows = options.rows.iter().zip(reports.iter().flatten());
        let open = rows
            .filter(|(row, report)| row.endless && report.skipped.is_none() && report.passed())
            .count();
        if start.elapsed() >= time || open == 0 {
            break;
        }
    }
    progress.clear();
    reports.into_iter().flatten().collect()
}

/// A row that panics has failed; the others go on.
fn one(row: &'static Row, plan: &Plan) -> Report {
    let (plan, start) = (plan.clone(), Instant::now());
    let runs = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        runtime.block_on((row.run)(plan))
    });
    let mut report = runs.join().unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        Report::failed(
            text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string))
                .unwrap_or_default(),
        )
    });
    report.seconds = start.elapsed().as_secs();
    report
}

fn keep(options: &Options, reports: &[Report], begun: u64) -> Result<(), String> {
    let write = |path: &str, text: String| {
        std::fs::write(path, text).map_err(|e| format!("cannot write {path}: {e}"))
    };
    if let Some(path) = &options.record {
        write(path, record(options, reports, begun))?;
    }
    if let Some(path) = &options.json {
        let rows: Vec<_> = options
            .rows
            .iter()
            .zip(reports)
            .map(|(row, report)| json!({ "id": row.id, "what": row.what, "report": report }))
            .collect();
        let all = json!({ "seed": options.seed, "versions": versions(), "rows": rows });
        write(path, format!("{all:#}\n"))?;
    }
    Ok(())
}

/// What somebody needs who wants to see the same.
fn record(options: &Options, reports: &[Report], begun: u64) -> String {
    let all = table::total(reports);
    let command: Vec<String> = std::env::args().skip(1).collect();
    let verdict = if all.passed() {
        "All rows passed"
    } else {
        "NOT all rows passed"
    };
    let facts = [
        ("begun", format_time(begun)),
        ("took", format!("{} s", (now_ms() - begun) / 1000)),
        ("seed", options.seed.to_string()),
        ("command", format!("`chaos {}`", command.join(" "))),
        ("versions", versions().join(", ")),
        ("machine", machine()),
    ];
    let facts: String = facts
        .iter()
        .map(|(name, value)| format!("| {name} | {value} |\n"))
        .collect();
    // Rows that take away what holds nothing without a disk say how many; any other row with a loss has not passed.
    let meant = if all.passed() && all.lost > 0 {
        " (by the row of a power cut without `durable`)"
    } else {
        ""
    };
    format!(
        "# A run of `make chaos`\n\n{verdict}: {} accepted events, {} injected faults, {} lost{meant}, {} doubled.\n\n\
         | | |\n|---|---|\n{facts}\n\
         `events` were acknowledged to the client; `faults` were injected and happened; `again` are deliveries beyond the \
         first of each message; the verdicts are per function, and the flow has two. `odd` was applied and asked for by \
         nobody.\n\n{}",
        all.operations,
        all.injected,
        all.lost,
        all.doubled,
        table::markdown(&options.rows, reports)
    )
}

fn said(program: &str, args: &[&str]) -> String {
    let output = Command::new(program)
        .args(args)
        .output()
        .map(|output| output.stdout)
        .unwrap_or_default();
    String::from_utf8_lossy(&output).trim().to_owned()
}

fn versions() -> Vec<String> {
    let commit = said(
        "git",
        &[
            "-C",
            env!("CARGO_MANIFEST_DIR"),
            "describe",
            "--always",
            "--dirty",
        ],
    );
    let oncue = format!("Oncue {} {commit}", env!("CARGO_PKG_VERSION"));
    let server = |name| {
        said(name, &["--version"])
            .split(" sha=")
            .next()
            .unwrap_or_default()
            .to_owned()
    };
    vec![
        oncue.trim().to_owned(),
        server("nats-server"),
        server("redis-server"),
    ]
}

fn machine() -> String {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let memory = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib = memory.lines().find_map(|line| {
        line.strip_prefix("MemTotal:")?
            .trim()
            .strip_suffix(" kB")?
            .parse()
            .ok()
    });
    let memory = kib.map_or_else(
        || "memory unknown".into(),
        |kib: u64| format!("{} GiB of memory", kib >> 20),
    );
    format!("{cores} cores, {memory}, {}", said("uname", &["-srm"]))
}
