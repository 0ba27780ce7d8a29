//! Giving letters back: of each group one first, as a canary; the rest only while the cause does not come back.

use std::fmt;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::envelope;
use super::letters::{Group, Letter};
use super::outcome::{Outcome, Sent, Watch};
use oncue_core::bus::layout::DLQ;
use oncue_core::bus::{ApiError, Bus, BusError};
use oncue_proto::event;

/// Between two looks at what became of the events.
const LOOK: Duration = Duration::from_secs(1);
/// The same while nothing else is to be done.
const CLOSE_LOOK: Duration = Duration::from_millis(200);

/// How fast letters are given back, and how long their outcomes are waited for.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// Letters a second, after the first of each group.
    pub rate: f64,
    /// Longest wait for outcomes.
    pub wait: Duration,
}

/// What happens meanwhile, for whoever watches.
pub enum Progress<'p> {
    /// How far the group is.
    Sent(&'p Group<'p>, &'p [Sent]),
    /// Something a person should know.
    Remark(String),
}

/// How it went with one group.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally {
    pub group: String,
    pub function: String,
    pub redriven: u64,
    pub done: u64,
    pub failed: u64,
    pub pending: u64,
    pub left: u64,
}

type Tell<'t> = &'t mut (dyn FnMut(Progress<'_>) + Send);

/// A letter with a successor was redriven before, by somebody who did not come to delete it: it goes now.
pub async fn without_outdated(
    bus: &Bus,
    chosen: Vec<Letter>,
    all: &[Letter],
    tell: Tell<'_>,
) -> Result<Vec<Letter>, ApiError> {
    let mut current = Vec::with_capacity(chosen.len());
    for letter in chosen {
        let (old, same) = (&letter.content, |l: &Letter| {
            l.content.function == letter.content.function
                && l.content.event_id == letter.content.event_id
        });
        match all
            .iter()
            .find(|later| same(later) && later.content.redrives > old.redrives)
        {
            Some(later) => {
                let (number, later) = (letter.number, later.number);
                tell(Progress::Remark(format!(
                    "#{number} was redriven before and became #{later}: taken away"
                )));
                bus.delete_message(DLQ, letter.number).await?;
            }
            None => current.push(letter),
        }
    }
    Ok(current)
}

/// One group, as far as it goes well.
pub async fn redrive(
    group: &Group<'_>,
    pace: &Pace,
    watch: &mut Watch<'_>,
    tell: Tell<'_>,
) -> Result<Tally, BusError> {
    let function = &group.letters[0].content.function;
    let mut tally = Tally {
        group: group.name.to_owned(),
        function: function.clone(),
        ..Tally::default()
    };
    let mut sent: Vec<Sent> = Vec::new();
    let (mut looked, mut rest) = (Instant::now(), group.letters.iter());
    while let Some(letter) = rest.next() {
        if let Err(why) = send(letter, &watch.bus, &mut sent, tell).await {
            tell(Progress::Remark(format!(
                "#{}: {why}; it stays where it is",
                letter.number
            )));
            tally.left += 1;
            continue;
        }
        let first = sent.len() == 1;
        if first && rest.len() > 0 {
            settle(&mut sent, watch, group, pace.wait, tell).await?; // the canary
        } else if looked.elapsed() > LOOK {
            watch.look(&mut sent).await?;
            looked = Instant::now();
        }
        tell(Progress::Sent(group, &sent));
        if came_back(&sent, group) {
            break;
        }
        if rest.len() > 0 && !first {
            tokio::time::sleep(Duration::from_secs_f64(1.0 / pace.rate)).await;
        }
    }
    tally.left += rest.len() as u64;
    settle(&mut sent, watch, group, pace.wait, tell).await?;
    if came_back(&sent, group) {
        let again = "failed again for the same cause";
        let left = if rest.len() > 0 {
            format!("; the other {} are left untouched", rest.len())
        } else {
            String::new()
        };
        tell(Progress::Remark(format!(
            "group {} of {function}: {again}{left}",
            group.name
        )));
    }
    let count =
        |is: &dyn Fn(&Outcome) -> bool| sent.iter().filter(|sent| is(&sent.outcome)).count() as u64;
    tally.redriven = sent.len() as u64;
    tally.done = count(&|outcome| *outcome == Outcome::Done);
    tally.pending = count(&|outcome| *outcome == Outcome::Pending);
    tally.failed = tally.redriven - tally.done - tally.pending;
    Ok(tally)
}

/// Publishes, and deletes the letter only once the stream has the event.
async fn send(
    letter: &Letter,
    bus: &Bus,
    sent: &mut Vec<Sent>,
    tell: Tell<'_>,
) -> Result<(), String> {
    heard(letter, bus).await?;
    let complete = envelope::complete(bus, &letter.content).await?;
    let envelope = envelope::redriven(&complete, event::now_ms());
    let ack = bus
        .publish(&envelope)
        .await
        .map_err(|e| format!("cannot be published: {e}"))?;
    sent.push(Sent {
        letter: letter.clone(),
        ack,
        outcome: Outcome::Pending,
    });
    if let Err(e) = bus.delete_message(DLQ, letter.number).await {
        tell(Progress::Remark(format!(
            "#{} was redriven but cannot be deleted: {e}",
            letter.number
        )));
    }
    Ok(())
}

/// An event that nobody is to hear would be lost: it would be in no dead letter any more.
async fn heard(letter: &Letter, bus: &Bus) -> Result<(), String> {
    let (stream, function) = (&letter.content.stream, &letter.content.function);
    let info = bus
        .api(&format!("CONSUMER.INFO.{stream}.{function}"), &Value::Null)
        .await;
    let info = info
        .map_err(|e| format!("{function} has no consumer on {stream} ({e}); run `oncue apply`"))?;
    let subject = event::redrive_subject(stream, function);
    let mut filters = info["config"]["filter_subjects"]
        .as_array()
        .into_iter()
        .flatten();
    if filters.any(|filter| filter == subject.as_str()) {
        return Ok(());
    }
    Err(format!(
        "the consumer of {function} does not hear {subject}; run `oncue apply`"
    ))
}

/// Waits until every outcome is known, the cause has come back, or the patience is at its end.
async fn settle(
    sent: &mut [Sent],
    watch: &mut Watch<'_>,
    group: &Group<'_>,
    patience: Duration,
    tell: Tell<'_>,
) -> Result<(), BusError> {
    let deadline = Instant::now() + patience;
    loop {
        watch.look(sent).await?;
        tell(Progress::Sent(group, sent));
        let waiting = sent.iter().any(Sent::is_pending);
        if !waiting || Instant::now() > deadline {
            return Ok(());
        }
        tokio::time::sleep(CLOSE_LOOK).await;
    }
}

fn came_back(sent: &[Sent], group: &Group<'_>) -> bool {
    sent.iter()
        .any(|sent| matches!(&sent.outcome, Outcome::Failed(cause) if cause == group.name))
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            group,
            redriven,
            done,
            failed,
            pending,
            left,
            ..
        } = self;
        write!(
            f,
            "{group}: {redriven} redriven, {done} done, {failed} failed again, {pending} pending, {left} left"
        )
    }
}
