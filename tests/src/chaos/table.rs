//! What became of every event, row by row: a table for the terminal, and a record to keep.

use std::fmt::Write as _;

use super::progress::grouped;
use super::report::Report;
use super::rows::{ABSENT, Row};

const HEADS: [&str; 9] = [
    "events", "faults", "again", "ok", "lost", "doubled", "dead", "odd", "seconds",
];
/// Reasons of dead letters that are shown; there is one for each row and message.
const REASONS: usize = 4;

fn numbers(report: &Report) -> [u64; 9] {
    let Report {
        operations,
        injected,
        redeliveries,
        ok,
        lost,
        doubled,
        dead,
        unexpected,
        seconds,
        ..
    } = report;
    [
        operations,
        injected,
        redeliveries,
        ok,
        lost,
        doubled,
        dead,
        unexpected,
        seconds,
    ]
    .map(|n| *n)
}

/// All rows taken together.
pub fn total(reports: &[Report]) -> Report {
    let mut total = Report::default();
    for report in reports {
        total.add(Report {
            notes: Vec::new(),
            skipped: None,
            ..report.clone()
        });
    }
    total
}

fn verdict(report: &Report) -> (u8, String) {
    match (&report.skipped, report.passed()) {
        (Some(why), true) => (33, format!("not here: {why}")),
        (_, true) => (32, "passed".into()),
        _ => (31, "FAILED".into()),
    }
}

/// What was felt of the faults, why letters are dead, and what else is worth knowing.
fn details(report: &Report) -> Vec<String> {
    let in_hand = |kind: &str| {
        report
            .in_hand
            .get(kind)
            .map_or(String::new(), |n| format!(" ({n} events in hand)"))
    };
    let kinds = report
        .faults
        .iter()
        .map(|(kind, times)| format!("{kind} {}{}", grouped(*times), in_hand(kind)));
    let kinds = kinds.collect::<Vec<String>>().join(", ");
    let reasons = report
        .reasons
        .iter()
        .map(|(reason, times)| format!("dead letter: {times} x {reason}"));
    let felt = Some(kinds).filter(|kinds| !kinds.is_empty()).into_iter();
    felt.chain(reasons.take(REASONS))
        .chain(report.notes.iter().cloned())
        .collect()
}

/// For the terminal.
pub fn text(rows: &[&Row], reports: &[Report], colour: bool) -> String {
    let paint = |code: u8, text: &str| {
        if colour {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    };
    let cells = |cells: [String; 9]| {
        cells
            .iter()
            .map(|cell| format!("{cell:>10}"))
            .collect::<String>()
    };
    let mut out = String::new();
    let heads = cells(HEADS.map(str::to_owned));
    let _ = writeln!(
        out,
        "{}",
        paint(1, &format!("{:<5} {:<60}{heads}  verdict", "row", "fault"))
    );
    for (row, report) in rows.iter().zip(reports) {
        let (code, verdict) = verdict(report);
        let numbers = cells(numbers(report).map(grouped));
        let _ = writeln!(
            out,
            "{:<5} {:<60}{numbers}  {}",
            row.id,
            row.what,
            paint(code, &verdict)
        );
        for line in details(report) {
            let _ = writeln!(out, "      {}", paint(2, &line));
        }
        for failure in &report.failures {
            let _ = writeln!(out, "      {}", paint(31, failure));
        }
    }
    let all = total(reports);
    let line = format!(
        "{:<5} {:<60}{}",
        "all",
        "",
        cells(numbers(&all).map(grouped))
    );
    let _ = writeln!(
        out,
        "{}  {}",
        paint(1, &line),
        paint(verdict(&all).0, &verdict(&all).1)
    );
    for (id, why) in ABSENT {
        let _ = writeln!(out, "{id:<5} {}", paint(2, &format!("not here: {why}")));
    }
    out
}

/// The same to be kept, as Markdown.
pub fn markdown(rows: &[&Row], reports: &[Report]) -> String {
    let mut out = format!(
        "| row | fault | {} | verdict |\n|---|---|{}---|\n",
        HEADS.join(" | "),
        "--:|".repeat(9)
    );
    let cells = |report: &Report| numbers(report).map(grouped).join(" | ");
    for (row, report) in rows.iter().zip(reports) {
        let _ = writeln!(
            out,
            "| {} | {} | {} | {} |",
            row.id,
            row.what,
            cells(report),
            verdict(report).1
        );
    }
    let all = total(reports);
    let _ = writeln!(
        out,
        "| **all** | | {} | **{}** |",
        cells(&all),
        verdict(&all).1
    );
    out.push_str("\n## What was felt of the faults\n\n");
    for (row, report) in rows.iter().zip(reports) {
        let lines: Vec<String> = details(report)
            .into_iter()
            .chain(report.failures.iter().map(|why| format!("**{why}**")))
            .collect();
        if !lines.is_empty() {
            let _ = writeln!(out, "* {}: {}", row.id, lines.join("; "));
        }
    }
    out.push_str("\n## Not played here\n\n");
    for (id, why) in ABSENT {
        let _ = writeln!(out, "* {id}: {why}");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::rows::find;
    use super::*;

    #[test]
    fn rows_are_summed_and_failures_stand_out() {
        let rows = [
            find("K-2").expect("a row"),
            find("C-1").expect("a row"),
            find("K-3").expect("a row"),
        ];
        let mut good = Report {
            operations: 1_000_000,
            seconds: 60,
            ..Report::default()
        };
        good.struck("kill -9 worker", 7);
        good.fault("cut", 40);
        let mut bad = Report {
            operations: 5,
            lost: 1,
            ..Report::default()
        };
        bad.must(false, "one event lost");
        let reports = [good, Report::skipped("no faketime"), bad];
        let text = text(&rows, &reports, false);
        for part in [
            "1,000,005",
            "cut 40, kill -9 worker 1 (7 events in hand)",
            "not here: no faketime",
            "FAILED",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
        let kept = markdown(&rows, &reports);
        assert!(
            kept.contains(
                "| **all** | | 1,000,005 | 2 | 0 | 0 | 1 | 0 | 0 | 0 | 60 | **FAILED** |"
            ),
            "{kept}"
        );
        assert!(kept.contains("* K-3: **one event lost**"), "{kept}");
        assert!(verdict(&total(&reports[..2])).1 == "passed");
    }
}
