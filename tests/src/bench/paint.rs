//! The table in the terminal, and the line that says what is being measured.

use std::io::{IsTerminal as _, Write as _};

use super::plan::{Case, Figure, Goal, Row};

/// What is going on, on one line that the next one replaces.
pub fn progress(line: &str) {
    if std::io::stderr().is_terminal() {
        eprint!("\r\x1b[2K{line}");
    } else if !line.is_empty() {
        eprintln!("{line}");
    }
    let _ = std::io::stderr().flush();
}

fn colour(code: u8, text: &str) -> String {
    if std::io::stdout().is_terminal() {
        format!("\x1b[{code}m{text}\x1b[0m")
    } else {
        text.to_owned()
    }
}

pub fn case(case: &Case) {
    progress("");
    println!("\n{} {}", colour(1, &case.id), case.title);
    if let Some(why) = &case.skipped {
        println!("  {}", colour(33, &format!("not measured: {why}")));
    }
    if let Some(why) = &case.failed {
        println!("  {}", colour(31, &format!("FAILED: {why}")));
    }
    let width = case
        .rows
        .iter()
        .map(|row| row.name.chars().count())
        .max()
        .unwrap_or(0);
    case.rows.iter().for_each(|one| row(one, width));
}

fn row(row: &Row, width: usize) {
    let cells: Vec<String> = row.figures.iter().map(figure).collect();
    println!("  {:<width$}  {}", row.name, cells.join("  "));
    let details: Vec<String> = row.details.iter().map(plain).collect();
    if !details.is_empty() {
        println!("  {:<width$}  {}", "", colour(2, &details.join(", ")));
    }
}

fn figure(figure: &Figure) -> String {
    let (value, range) = (number(figure.spread.median), range(figure));
    let (code, goal) = match figure.goal {
        None => (36, String::new()),
        Some(goal) => (
            if goal.is_met(figure.spread.median) {
                32
            } else {
                31
            },
            words(goal),
        ),
    };
    let unit = if figure.unit.is_empty() {
        String::new()
    } else {
        format!(" {}", figure.unit)
    };
    format!(
        "{} {}{unit}{}",
        figure.name,
        colour(code, &value),
        colour(2, &format!("{range}{goal}"))
    )
}

fn plain(figure: &Figure) -> String {
    let unit = if figure.unit.is_empty() {
        String::new()
    } else {
        format!(" {}", figure.unit)
    };
    format!("{} {}{unit}", figure.name, number(figure.spread.median))
}

fn range(figure: &Figure) -> String {
    let (low, high) = (number(figure.spread.low), number(figure.spread.high));
    if low == high {
        String::new()
    } else {
        format!(" ({low}-{high})")
    }
}

fn words(goal: Goal) -> String {
    match goal {
        Goal::AtLeast(value) => format!(" [at least {value}]"),
        Goal::AtMost(value) => format!(" [at most {value}]"),
    }
}

/// As many digits as mean something.
pub fn number(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        1000.0.. => {
            let digits = format!("{value:.0}");
            let grouped: Vec<&str> = digits
                .as_bytes()
                .rchunks(3)
                .rev()
                .map(|c| std::str::from_utf8(c).unwrap_or(""))
                .collect();
            grouped.join(",")
        }
        100.0.. => format!("{value:.0}"),
        10.0.. => format!("{value:.1}"),
        0.095.. => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}
