//! `oncue dlq redrive`: of each group one letter first, as a canary; the rest only while the cause does not come
//! back.

use std::io::IsTerminal as _;
use std::time::Duration;

use anstyle::Style;
use oncue_admin::dead_letters::{
    self, Letter, LetterGroup, Network, OutcomeCounts, Pace, Progress, Sent, Tally, Watch, grouped,
    without_outdated,
};

use crate::exit::{self, Failure};
use crate::settings::Settings;
use crate::terminal::confirm;
use crate::terminal::paint::{BAD, CHANGED, DIM, GOOD, NAME, progress, remark, say};
use crate::terminal::table::{self, Cell, number, text};
use crate::verbs::publish::rate;
use crate::when;

use super::dry_run;
use super::target::Selection;

/// Longest wait for outcomes that may be asked for.
const MAX_WAIT: Duration = Duration::from_hours(24);

#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    selection: Selection,
    /// Only show what the function would do with each letter now; nothing is published or deleted, and the handler's
    /// process is kept off the network.
    #[arg(long)]
    dry_run: bool,
    /// With --dry-run: let the handler reach the network. What it does there is done.
    #[arg(long, requires = "dry_run")]
    allow_network: bool,
    /// Letters a second, after the first of each group.
    #[arg(long, default_value_t = 10.0, value_name = "R", value_parser = rate)]
    rate: f64,
    /// Longest wait for outcomes.
    #[arg(long, default_value = "60s", value_name = "DURATION", value_parser = wait)]
    wait: Duration,
    /// Do not ask.
    #[arg(long, short)]
    yes: bool,
}

fn wait(text: &str) -> Result<Duration, String> {
    let wait = when::span(text)?;
    if wait > MAX_WAIT {
        return Err("outcomes are waited for a day (24h) at most".to_owned());
    }
    Ok(wait)
}

pub async fn run(args: &Args, settings: &Settings) -> Result<u8, Failure> {
    let bus = settings.bus().await?;
    let letters = dead_letters::all(&bus).await.map_err(Failure::silent)?;
    let chosen = args.selection.choose(&letters)?;
    if chosen.is_empty() {
        return args.selection.none(&letters, settings, &bus).await;
    }
    if args.dry_run {
        let network = if args.allow_network {
            Network::Allowed
        } else {
            Network::HeldBack
        };
        return dry_run::run(&chosen, &bus, settings, network).await;
    }
    if chosen.len() > 1 {
        confirm::ask(&question(&chosen), args.yes)?;
    }
    let chosen = without_outdated(&bus, chosen, &letters, &mut report)
        .await
        .map_err(Failure::failed)?;
    // Outcomes are new letters, so those that were there before need not be read again.
    let next = letters.last().map_or(1, |letter| letter.number + 1);
    let store = settings.store().await?;
    let mut watch = Watch::new(&bus, store, &settings.config, next);
    let pace = Pace {
        rate: args.rate,
        wait: args.wait,
    };
    let mut tallies = Vec::new();
    for group in grouped(&chosen) {
        tallies.push(
            dead_letters::redrive(&group, &pace, &mut watch, &mut report)
                .await
                .map_err(Failure::silent)?,
        );
        progress("");
    }
    say(table(&tallies));
    Ok(verdict(&tallies))
}

fn question(chosen: &[Letter]) -> String {
    let groups = grouped(chosen).len();
    format!(
        "Redrive {} letters of {groups} group{}?",
        chosen.len(),
        if groups == 1 { "" } else { "s" }
    )
}

/// News meanwhile: one line that is written over, and remarks that stay.
fn report(happened: Progress<'_>) {
    match happened {
        Progress::Sent(group, sent) => show(group, sent),
        Progress::Remark(text) => {
            progress("");
            remark(text);
        }
    }
}

fn show(group: &LetterGroup<'_>, sent: &[Sent]) {
    // A line that is written over is a line for each letter in a file.
    if !std::io::stderr().is_terminal() {
        return;
    }
    let counts = OutcomeCounts::of(sent);
    progress(format_args!(
        "{}  {} of {} redriven, {} done, {} failed again",
        group.name,
        counts.sent,
        group.letters.len(),
        counts.done,
        counts.failed
    ));
}

/// A number in a colour, unless it is 0.
fn coloured(n: u64, style: Style) -> Cell {
    number(n).style(if n > 0 { style } else { DIM })
}

fn row(tally: &Tally) -> Vec<Cell> {
    vec![
        text(&tally.group).style(NAME),
        text(&tally.function),
        number(tally.redriven),
        coloured(tally.done, GOOD),
        coloured(tally.failed, BAD),
        coloured(tally.pending, CHANGED),
        coloured(tally.left, BAD),
    ]
}

fn table(tallies: &[Tally]) -> String {
    let head = [
        "GROUP",
        "FUNCTION",
        "REDRIVEN",
        "DONE",
        "FAILED AGAIN",
        "PENDING",
        "LEFT",
    ];
    table::render(&head, &tallies.iter().map(row).collect::<Vec<_>>())
}

/// Exit code: a letter that failed or stayed needs somebody, one that is pending needs time.
fn verdict(tallies: &[Tally]) -> u8 {
    if tallies.iter().any(|tally| tally.failed + tally.left > 0) {
        return exit::FAILED;
    }
    if tallies.iter().any(|tally| tally.pending > 0) {
        remark(
            "some are still pending: is their function running? see `oncue ps` and `oncue dlq ls`",
        );
        return exit::SILENT;
    }
    exit::OK
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_is_a_day_at_most() {
        assert_eq!(wait("24h"), Ok(MAX_WAIT));
        assert!(wait("24h 1s").is_err() && wait("400000000000y").is_err());
    }
}
