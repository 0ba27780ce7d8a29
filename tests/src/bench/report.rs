//! `deploy/BENCH.md` and its pictures, from what a run has written down.

use std::fmt::Write as _;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::cases::PEERS;
use super::machine::Machine;
use super::paint::number;
use super::plan::{Case, Figure, Goal};
use super::svg;

/// Everything one run has found.
#[derive(Debug, Serialize, Deserialize)]
pub struct Report {
    /// When it began, RFC 3339.
    pub time: String,
    pub machine: Machine,
    pub quick: bool,
    pub rounds: usize,
    pub cases: Vec<Case>,
}

/// Units that make a picture; of the others the table says enough.
const DRAWN: [(&str, &str); 3] = [("/s", "rate"), ("ms", "time"), ("us", "cpu")];

const INTRODUCTION: &str = "# Measured\n\n\
    Written by `make bench && make bench-report`; nothing here is typed by hand. *oncue* is a worker as any author would \
    write it, at its full promise: rows with versions, stored outputs, seen-marks. *limit* is a loop written by hand on the same \
    servers in the same minutes, in turns with it: greedy batches of 250, one script call for each, publish acks as \
    futures, two batches under way, no stored outputs, no versions, no spans \
    ([tests/src/bin/bench-limit.rs](../tests/src/bin/bench-limit.rs)); *inbox* is the same with all publish acks on one inbox, \
    *events* is *limit* with follow-ups that are CloudEvents: twelve headers, as Oncue's have, a JSON payload, one subject. \
    Ratios are taken round by round. *by CPU* is the ratio of the processor time that an event costs nats-server, \
    redis-server and worker together: it holds where other programs share the machine. Every run was checked: each follow-up in the \
    stream once, counts in Redis exact, nothing un-acked, nothing delivered twice. [LIMITS.md](LIMITS.md) says where the difference goes.\n";

const PEERS_INTRODUCTION: &str = "# Functions in Python and TypeScript, measured\n\n\
    Written by `make bench-peers && make bench-report`; nothing here is typed by hand. *oncue* is a function of a few lines \
    ([Python](../tests/peers/clicks.py), [TypeScript](../tests/peers/clicks.ts)) behind one host with one child, at its full promise; *rust* \
    is the same function in Rust. The others do the same work at least once, on the same servers in the same minutes, in turns with it: the \
    frameworks with a handler for one event ([FastStream](../tests/peers/faststream_clicks.py), [NestJS](../tests/peers/nest-clicks.mjs)), \
    the loops with greedy batches of 250 and one script call for each ([nats-py](../tests/peers/nats_py_clicks.py), \
    [nats.js](../tests/peers/nats-clicks.mjs)). Their versions are pinned in [tests/peers](../tests/peers/). Ratios are taken round by round. Every run was \
    checked: each follow-up in the stream once, counts in Redis exact, nothing un-acked, nothing delivered twice.\n";

/// Writes the page and one SVG for each picture beside it, in a folder of the page's name.
pub fn write(report: &Report, page: &Path) -> std::io::Result<()> {
    let pictures = page.file_stem().unwrap_or_default().to_ascii_lowercase();
    let folder = page.parent().unwrap_or(Path::new(".")).join(&pictures);
    let pictures = pictures.display();
    if folder.exists() {
        std::fs::remove_dir_all(&folder)?;
    }
    std::fs::create_dir_all(&folder)?;
    let is_of_peers = report
        .cases
        .iter()
        .any(|case| PEERS.iter().any(|known| known.id == case.id));
    let mut text = if is_of_peers {
        String::from(PEERS_INTRODUCTION)
    } else {
        String::from(INTRODUCTION)
    };
    text.push_str(&place(report));
    for case in &report.cases {
        let _ = write!(text, "\n## {}: {}\n\n", case.id, case.title);
        if let Some(why) = case.skipped.as_ref().or(case.failed.as_ref()) {
            let _ = writeln!(
                text,
                "Not measured: {}",
                why.lines().next().unwrap_or_default()
            );
            continue;
        }
        for (unit, name) in DRAWN {
            // What an event costs in each process stands among the details.
            let mut rows = case.rows.clone();
            if unit == "us" {
                for row in &mut rows {
                    row.figures = row.details.clone();
                }
            }
            let title = if unit == "us" {
                "CPU for each event"
            } else {
                &case.title
            };
            if let Some(picture) = svg::bars(title, unit, &rows) {
                let file = format!("{}-{name}.svg", case.id);
                std::fs::write(folder.join(&file), picture)?;
                let _ = write!(text, "![{title}]({pictures}/{file})\n\n");
            }
        }
        table(case, &mut text);
    }
    std::fs::write(page, text)
}

fn place(report: &Report) -> String {
    let machine = &report.machine;
    let mut text = format!(
        "\nMeasured {} on {} cores ({}), {} GiB, Linux {}, {}; commit {}; {} rounds{}.",
        report.time,
        machine.cores,
        machine.cpu,
        machine.memory_gib,
        machine.kernel,
        machine.servers.join(", "),
        machine.commit,
        report.rounds,
        if report.quick {
            ", in the short form (`QUICK=1`)"
        } else {
            ""
        },
    );
    if machine.is_shared() {
        let _ = write!(
            text,
            " **The machine was shared**: {} processes wanted to run when it began. Absolute figures are those of a \
             small part of it; trust ratios, and most of all those by CPU.",
            number(machine.load_before)
        );
    }
    text.push('\n');
    text
}

fn table(case: &Case, text: &mut String) {
    text.push_str("| | figure | median | range | goal |\n|---|---|---|---|---|\n");
    for row in &case.rows {
        for (at, figure) in row.figures.iter().chain(&row.details).enumerate() {
            let name = if at == 0 { row.name.as_str() } else { "" };
            let _ = writeln!(
                text,
                "| {name} | {} | {} | {} | {} |",
                figure.name,
                value(figure),
                range(figure),
                goal(figure)
            );
        }
    }
}

fn value(figure: &Figure) -> String {
    format!("{} {}", number(figure.spread.median), figure.unit)
        .trim()
        .to_owned()
}

fn range(figure: &Figure) -> String {
    let (low, high) = (number(figure.spread.low), number(figure.spread.high));
    if low == high {
        String::new()
    } else {
        format!("{low} to {high}")
    }
}

fn goal(figure: &Figure) -> String {
    let Some(goal) = figure.goal else {
        return String::new();
    };
    let met = if goal.is_met(figure.spread.median) {
        "met"
    } else {
        "**missed**"
    };
    match goal {
        Goal::AtLeast(value) => format!("at least {value}: {met}"),
        Goal::AtMost(value) => format!("at most {value}: {met}"),
    }
}
