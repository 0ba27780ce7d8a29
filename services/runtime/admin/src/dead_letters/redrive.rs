//! Redrive: letters are given back to their function, of each group one first, as a canary; the rest only while the
//! cause does not come back.
//!
//! A letter that fails again becomes a new letter, with the number of its redrives one higher. Failing for another
//! cause than that of its group stops nothing: the cause this redrive is about may well be gone.
//!
//! Every letter costs five round trips (its consumer, itself and its mark once more, the event, the deletion), a sixth where it holds
//! no payload, and a look at the outcomes a second. Nothing is lost by stopping anywhere: what was sent is an event,
//! what was not is a letter.

use std::fmt;
use std::time::{Duration, Instant};

use super::letters::{Letter, LetterGroup};
use super::open::{check_open, check_taken};
use super::outcome::{Outcome, OutcomeCounts, Sent, Watch};
use super::{LetterError, envelope};
use crate::AdminError;
use oncue_core::bus::Bus;
use oncue_core::bus::layout::DLQ;
use oncue_proto::event;

/// Letters whose new number is told; of more nobody reads them.
const NAMED: usize = 5;
/// Between two looks at what became of the events.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// Between two looks while nothing else is to be done.
const WAITING_LOOK_INTERVAL: Duration = Duration::from_millis(200);

/// How fast letters are given back, and how long their outcomes are waited for.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// Letters a second, after the first of each group.
    /// Above 0: it is divided by.
    pub rate: f64,
    /// Longest wait for outcomes.
    /// For the canary, and once more for all of the group at its end.
    pub wait: Duration,
}

/// News of a redrive under way, for a view of it.
pub enum Progress<'p> {
    /// How far the group is.
    /// Comes after every letter and after every look; views may draw or leave it.
    Sent(&'p LetterGroup<'p>, &'p [Sent]),
    /// Something a person should know.
    Remark(String),
}

/// How it went with one group.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally {
    /// Fingerprint of the cause.
    pub group: String,
    pub function: String,
    /// Given back to the function; the others are outcomes of these.
    pub redriven: u64,
    pub done: u64,
    /// Set aside again, for whatever cause.
    pub failed: u64,
    /// Not finished when the wait was over.
    pub pending: u64,
    /// Left where they are: not sent, because the cause came back or because they cannot be.
    pub left: u64,
}

/// Where news of a redrive go.
type Report<'t> = &'t mut (dyn FnMut(Progress<'_>) + Send);

/// A letter with a successor was redriven before, by somebody who did not come to delete it: it goes now.
///
/// `all` are the letters of the stream. One deletion for each outdated letter; the rest costs nothing.
pub async fn without_outdated(
    bus: &Bus,
    chosen: Vec<Letter>,
    all: &[Letter],
    report: Report<'_>,
) -> Result<Vec<Letter>, AdminError> {
    let mut current = Vec::with_capacity(chosen.len());
    for letter in chosen {
        match successor(&letter, all) {
            Some(later) => {
                let number = letter.number;
                report(Progress::Remark(format!(
                    "#{number} was redriven before and became #{}: taken away",
                    later.number
                )));
                bus.delete_message(DLQ, number)
                    .await
                    .map_err(|e| AdminError::api(format!("letter #{number}"), e))?;
            }
            None => current.push(letter),
        }
    }
    Ok(current)
}

/// The letter that a redrive of this one has ended in.
fn successor<'l>(letter: &Letter, all: &'l [Letter]) -> Option<&'l Letter> {
    let old = &letter.content;
    all.iter().find(|later| {
        later.content.function == old.function
            && later.content.event_id == old.event_id
            && later.content.redrives > old.redrives
    })
}

/// Gives back the letters of one group, as far as it goes well: the first alone, and the rest while the cause does
/// not come back.
///
/// A letter that cannot be sent is left where it is and the next one is tried. While the canary is waited for no
/// other letter goes, so a cause that is still there costs one letter's attempts and not a thousand's. A canary
/// that is still pending when the wait is over holds nobody back.
///
/// # Errors
/// A server does not answer any more. Letters that were sent stay sent.
pub async fn redrive(
    group: &LetterGroup<'_>,
    pace: &Pace,
    watch: &mut Watch<'_>,
    report: Report<'_>,
) -> Result<Tally, AdminError> {
    let function = &group.letters[0].content.function;
    let mut tally = Tally {
        group: group.name.to_owned(),
        function: function.clone(),
        ..Tally::default()
    };
    let mut sent: Vec<Sent> = Vec::new();
    let mut looked = Instant::now();
    let mut rest = group.letters.iter();
    while let Some(letter) = rest.next() {
        if let Err(why) = send(letter, watch, &mut sent, report).await {
            // The others would be waited for as long.
            let why = match why {
                LetterError::Away(e) => return Err(AdminError::api("letters", e)),
                LetterError::Bus(e) => return Err(e.into()),
                LetterError::Store(e) => return Err(e.into()),
                why => why,
            };
            // By somebody else.
            let is_done = matches!(why, LetterError::Gone(_) | LetterError::Applied(_));
            report(Progress::Remark(if is_done {
                why.to_string()
            } else {
                format!("#{}: {why}; it stays where it is", letter.number)
            }));
            tally.left += u64::from(!is_done);
            continue;
        }
        let first = sent.len() == 1;
        if first && rest.len() > 0 {
            settle(&mut sent, watch, group, pace.wait, report).await?; // the canary
        } else if looked.elapsed() > LOOK_INTERVAL {
            watch.look(&mut sent).await?;
            looked = Instant::now();
        }
        report(Progress::Sent(group, &sent));
        if came_back(&sent, group) {
            break;
        }
        if rest.len() > 0 && !first {
            tokio::time::sleep(Duration::from_secs_f64(1.0 / pace.rate)).await;
        }
    }
    tally.left += rest.len() as u64;
    settle(&mut sent, watch, group, pace.wait, report).await?;
    if came_back(&sent, group) {
        let again = "failed again for the same cause";
        let left = if rest.len() > 0 {
            format!("; the other {} are left untouched", rest.len())
        } else {
            String::new()
        };
        report(Progress::Remark(format!(
            "group {} of {function}: {again}{left}",
            group.name
        )));
    }
    // A letter has the number of its place, and this one has another place now.
    let renamed = sent.iter().filter_map(|one| match one.outcome {
        Outcome::Failed { number, .. } => Some(format!("#{} is #{number} now", one.letter.number)),
        _ => None,
    });
    for words in renamed.take(NAMED) {
        report(Progress::Remark(words));
    }
    let counts = OutcomeCounts::of(&sent);
    tally.redriven = counts.sent;
    tally.done = counts.done;
    tally.pending = counts.pending;
    tally.failed = counts.failed;
    Ok(tally)
}

/// Publishes, and deletes the letter only once the stream has the event.
async fn send(
    letter: &Letter,
    watch: &Watch<'_>,
    sent: &mut Vec<Sent>,
    report: Report<'_>,
) -> Result<(), LetterError> {
    let bus = &watch.bus;
    // An output goes to its own stream, for whoever listens; it is done once that has taken it.
    let is_output = letter.is_of_output();
    let envelope = if is_output {
        letter.content.envelope.clone().unwrap_or_default()
    } else {
        check_consumer(letter, bus).await?;
        let complete = envelope::complete(bus, &letter.content).await?;
        envelope::redriven(bus.app(), &complete, event::now_ms())
    };
    check_open(letter, bus, &watch.store).await?;
    let ack = bus.publish(&envelope).await.map_err(LetterError::Publish)?;
    if !is_output {
        check_taken(letter, &envelope, &ack, bus).await?;
    }
    sent.push(Sent {
        letter: letter.clone(),
        ack,
        outcome: if is_output {
            Outcome::Done
        } else {
            Outcome::Pending
        },
    });
    if let Err(e) = bus.delete_message(DLQ, letter.number).await {
        report(Progress::Remark(format!(
            "#{} was redriven but cannot be deleted: {e}",
            letter.number
        )));
    }
    Ok(())
}

/// Whether somebody is to get the event. If not, it would be lost: it would be in no dead letter any more.
pub(super) async fn check_consumer(letter: &Letter, bus: &Bus) -> Result<(), LetterError> {
    let stream = &letter.content.stream;
    let function = &letter.content.function;
    let consumer = bus.consumer_info(stream, function).await;
    let consumer = consumer.map_err(|source| {
        if !source.is_not_found() {
            return LetterError::Away(source);
        }
        LetterError::NoConsumer {
            function: function.clone(),
            stream: stream.clone(),
            source,
        }
    })?;
    let subject = event::redrive_subject(stream, &bus.app().consumer(function));
    if consumer.config.filters().any(|filter| filter == subject) {
        return Ok(());
    }
    Err(LetterError::DeafConsumer {
        function: function.clone(),
        subject,
    })
}

/// Waits until every outcome is known or `wait` is over.
async fn settle(
    sent: &mut [Sent],
    watch: &mut Watch<'_>,
    group: &LetterGroup<'_>,
    wait: Duration,
    report: Report<'_>,
) -> Result<(), AdminError> {
    let deadline = Instant::now() + wait;
    loop {
        watch.look(sent).await?;
        report(Progress::Sent(group, sent));
        let waiting = sent.iter().any(Sent::is_pending);
        if !waiting || Instant::now() > deadline {
            return Ok(());
        }
        tokio::time::sleep(WAITING_LOOK_INTERVAL).await;
    }
}

/// Whether one of them failed again for the cause of its group.
fn came_back(sent: &[Sent], group: &LetterGroup<'_>) -> bool {
    sent.iter()
        .any(|sent| matches!(&sent.outcome, Outcome::Failed { group: cause, .. } if *cause == group.name))
}

impl Tally {
    /// Adds how it went with more letters of the same group.
    pub fn add(&mut self, more: Self) {
        self.group = more.group;
        self.function = more.function;
        self.redriven += more.redriven;
        self.done += more.done;
        self.failed += more.failed;
        self.pending += more.pending;
        self.left += more.left;
    }
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
