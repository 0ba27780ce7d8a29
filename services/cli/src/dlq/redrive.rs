//! `oncue dlq redrive`: of each group one letter first, as a canary; the rest only while the cause does not come back.

use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use oncue::bus::Bus;
use oncue::bus::layout::DLQ;
use oncue::event;
use serde_json::Value;

use crate::exit::{self, Failure};
use crate::paint::{BAD, CHANGED, DIM, GOOD, NAME, progress, remark, say};
use crate::settings::Settings;
use crate::table::{self, Cell, number, text};
use crate::{confirm, when};

use super::letters::{self, Group, Letter, grouped};
use super::outcome::{Outcome, Sent, Watch};
use super::target::Selection;
use super::{dry_run, envelope};

#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    selection: Selection,
    /// Only show what the function would do with each letter now; nothing is published or deleted.
    #[arg(long)]
    dry_run: bool,
    /// Letters a second, after the first of each group.
    #[arg(long, default_value_t = 10.0, value_name = "R")]
    rate: f64,
    /// Longest wait for outcomes.
    #[arg(long, default_value = "60s", value_name = "DURATION", value_parser = when::span)]
    wait: Duration,
    /// Do not ask.
    #[arg(long, short)]
    yes: bool,
}

/// Between two looks at what became of the events.
const LOOK: Duration = Duration::from_secs(1);
/// The same while nothing else is to be done.
const CLOSE_LOOK: Duration = Duration::from_millis(200);

/// How it went with one group.
#[derive(Default)]
struct Tally {
    group: String,
    function: String,
    redriven: u64,
    done: u64,
    failed: u64,
    pending: u64,
    left: u64,
}

pub async fn run(args: &Args, settings: &Settings) -> Result<u8, Failure> {
    if args.rate.is_nan() || args.rate <= 0.0 {
        return Err(Failure::usage("--rate is a number of letters per second above zero"));
    }
    let bus = settings.bus().await?;
    let letters = letters::all(&bus).await?;
    let chosen = args.selection.choose(&letters)?;
    if chosen.is_empty() {
        say("no such dead letters");
        return Ok(exit::OK);
    }
    if args.dry_run {
        return dry_run::run(&chosen, &bus, settings).await;
    }
    if chosen.len() > 1 {
        confirm::ask(&question(&chosen), args.yes)?;
    }
    let chosen = without_outdated(&bus, chosen, &letters).await?;
    let next = letters.last().map_or(1, |letter| letter.number + 1);
    let mut watch = Watch::new(&bus, settings, next).await?;
    let mut tallies = Vec::new();
    for group in grouped(&chosen) {
        tallies.push(redrive(&group, args, &mut watch).await?);
    }
    say(table(&tallies));
    Ok(verdict(&tallies))
}

fn question(chosen: &[Letter]) -> String {
    let groups = grouped(chosen).len();
    format!("Redrive {} letters of {groups} group{}?", chosen.len(), if groups == 1 { "" } else { "s" })
}

/// A letter with a successor was redriven before, by somebody who did not come to delete it: it goes now.
async fn without_outdated(bus: &Bus, chosen: Vec<Letter>, all: &[Letter]) -> Result<Vec<Letter>, Failure> {
    let mut current = Vec::with_capacity(chosen.len());
    for letter in chosen {
        let (old, same) = (&letter.content, |l: &Letter| {
            l.content.function == letter.content.function && l.content.event_id == letter.content.event_id
        });
        match all.iter().find(|later| same(later) && later.content.redrives > old.redrives) {
            Some(later) => {
                remark(format_args!("#{} was redriven before and became #{}: taken away", letter.number, later.number));
                bus.delete_message(DLQ, letter.number).await.map_err(Failure::failed)?;
            }
            None => current.push(letter),
        }
    }
    Ok(current)
}

/// One group, as far as it goes well.
async fn redrive(group: &Group<'_>, args: &Args, watch: &mut Watch<'_>) -> Result<Tally, Failure> {
    let function = &group.letters[0].content.function;
    let mut tally = Tally { group: group.name.to_owned(), function: function.clone(), ..Tally::default() };
    let mut sent: Vec<Sent> = Vec::new();
    let (mut looked, mut rest) = (Instant::now(), group.letters.iter());
    while let Some(letter) = rest.next() {
        if let Err(why) = send(letter, &watch.bus, &mut sent).await {
            progress("");
            remark(format_args!("#{}: {why}; it stays where it is", letter.number));
            tally.left += 1;
            continue;
        }
        let first = sent.len() == 1;
        if first && rest.len() > 0 {
            settle(&mut sent, watch, group, args.wait).await?; // the canary
        } else if looked.elapsed() > LOOK {
            watch.look(&mut sent).await?;
            looked = Instant::now();
        }
        show(group, &sent);
        if came_back(&sent, group) {
            break;
        }
        if rest.len() > 0 && !first {
            tokio::time::sleep(Duration::from_secs_f64(1.0 / args.rate)).await;
        }
    }
    tally.left += rest.len() as u64;
    settle(&mut sent, watch, group, args.wait).await?;
    progress("");
    if came_back(&sent, group) {
        let again = "failed again for the same cause";
        let left =
            if rest.len() > 0 { format!("; the other {} are left untouched", rest.len()) } else { String::new() };
        remark(format_args!("group {} of {function}: {again}{left}", group.name));
    }
    let count = |is: &dyn Fn(&Outcome) -> bool| sent.iter().filter(|sent| is(&sent.outcome)).count() as u64;
    tally.redriven = sent.len() as u64;
    tally.done = count(&|outcome| *outcome == Outcome::Done);
    tally.pending = count(&|outcome| *outcome == Outcome::Pending);
    tally.failed = tally.redriven - tally.done - tally.pending;
    Ok(tally)
}

/// Publishes, and deletes the letter only once the stream has the event.
async fn send(letter: &Letter, bus: &Bus, sent: &mut Vec<Sent>) -> Result<(), String> {
    heard(letter, bus).await?;
    let complete = envelope::complete(bus, &letter.content).await?;
    let envelope = envelope::redriven(&complete, event::now_ms());
    let ack = bus.publish(&envelope).await.map_err(|e| format!("cannot be published: {e}"))?;
    sent.push(Sent { letter: letter.clone(), ack, outcome: Outcome::Pending });
    if let Err(e) = bus.delete_message(DLQ, letter.number).await {
        progress("");
        remark(format_args!("#{} was redriven but cannot be deleted: {e}", letter.number));
    }
    Ok(())
}

/// An event that nobody is to hear would be lost: it would be in no dead letter any more.
async fn heard(letter: &Letter, bus: &Bus) -> Result<(), String> {
    let (stream, function) = (&letter.content.stream, &letter.content.function);
    let info = bus.api(&format!("CONSUMER.INFO.{stream}.{function}"), &Value::Null).await;
    let info = info.map_err(|e| format!("{function} has no consumer on {stream} ({e}); run `oncue apply`"))?;
    let subject = event::redrive_subject(stream, function);
    let mut filters = info["config"]["filter_subjects"].as_array().into_iter().flatten();
    if filters.any(|filter| filter == subject.as_str()) {
        return Ok(());
    }
    Err(format!("the consumer of {function} does not hear {subject}; run `oncue apply`"))
}

/// Waits until every outcome is known, the cause has come back, or the patience is at its end.
async fn settle(
    sent: &mut [Sent],
    watch: &mut Watch<'_>,
    group: &Group<'_>,
    patience: Duration,
) -> Result<(), Failure> {
    let deadline = Instant::now() + patience;
    loop {
        watch.look(sent).await?;
        show(group, sent);
        let waiting = sent.iter().any(Sent::is_pending);
        if !waiting || Instant::now() > deadline {
            return Ok(());
        }
        tokio::time::sleep(CLOSE_LOOK).await;
    }
}

fn came_back(sent: &[Sent], group: &Group<'_>) -> bool {
    sent.iter().any(|sent| matches!(&sent.outcome, Outcome::Failed(cause) if cause == group.name))
}

fn show(group: &Group<'_>, sent: &[Sent]) {
    if !std::io::stderr().is_terminal() {
        return;
    }
    let count = |is: fn(&Sent) -> bool| sent.iter().filter(|sent| is(sent)).count();
    let (done, pending) = (count(|sent| sent.outcome == Outcome::Done), count(Sent::is_pending));
    let failed = sent.len() - done - pending;
    let (name, all) = (group.name, group.letters.len());
    progress(format_args!("{name}  {} of {all} redriven, {done} done, {failed} failed again", sent.len()));
}

fn table(tallies: &[Tally]) -> String {
    let some = |n: u64, style| number(n).style(if n > 0 { style } else { DIM });
    let row = |tally: &Tally| -> Vec<Cell> {
        vec![
            text(&tally.group).style(NAME),
            text(&tally.function),
            number(tally.redriven),
            some(tally.done, GOOD),
            some(tally.failed, BAD),
            some(tally.pending, CHANGED),
            some(tally.left, BAD),
        ]
    };
    let head = ["GROUP", "FUNCTION", "REDRIVEN", "DONE", "FAILED AGAIN", "PENDING", "LEFT"];
    table::render(&head, &tallies.iter().map(row).collect::<Vec<_>>())
}

fn verdict(tallies: &[Tally]) -> u8 {
    if tallies.iter().any(|tally| tally.failed + tally.left > 0) {
        return exit::FAILED;
    }
    if tallies.iter().any(|tally| tally.pending > 0) {
        remark("some are still pending: is their function running? see `oncue ps` and `oncue dlq ls`");
        return exit::SILENT;
    }
    exit::OK
}
