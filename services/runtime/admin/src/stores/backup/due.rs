//! Events that are due: what a schedule or a delay has fired lies in `timer` as `timer.due.TYPE` for three days, from where the stream
//! of its domain takes it over once. A stream that comes back does not know what it has taken, if `timer` is another one, and would
//! take all of it again. So `timer` is cleared of what is due before the streams go on, and what they had not taken is published anew.
//! It has a file of its own in the backup: nats-server counts the three days from the first firing, and takes nothing out of a
//! snapshot that is older.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use oncue_core::bus::layout::TIMER;
use oncue_core::bus::{Bus, BusError, Outbound, Slice, StoredMessage};
use oncue_proto::oncue::v1::{Envelope, Header};
use serde_json::json;

use super::{BackupError, Checked, Contents, SavedDue, SavedStream, at, read_entry};
use crate::AdminError;

/// Age at which nothing is due any more, milliseconds: nats-server keeps it for [`FIRED_TTL`](oncue_core::bus::layout::FIRED_TTL),
/// three days, and here is one more.
const OVER: u64 = 96 * 3600 * 1000;
/// Messages in one question.
const AT_ONCE: u64 = 1000;
/// Events under way at a time.
const PUT_AT_ONCE: usize = 256;
/// Subjects of what is due.
const DUE: &str = "timer.due.>";
/// Header in which nats-server says where a message was taken from: stream, sequence and more.
const SOURCE: &str = "Nats-Stream-Source";

/// Beginnings of headers that were about the moment in which a message was stored first: what it had to find there, of which
/// message it would have been a copy, and what has fired it, which the server lets nobody say.
const OF_THEN: [&str; 4] = [
    "Nats-Expected-",
    "Nats-Msg-Id",
    "Nats-Scheduler",
    "Nats-Schedule-Next",
];

/// Knowledge of what streams have taken over.
#[derive(Debug, Default)]
pub(super) struct Taken {
    /// Domains in which anything is due.
    due: BTreeSet<String>,
    /// Last sequence of `timer` that the stream of each domain has; 0 where that is none, or nothing is due.
    last: BTreeMap<String, u64>,
    /// Last sequence from which any of these streams goes on, if only of a `timer` that there was before.
    behind: u64,
    /// Creation time of `timer`, Unix milliseconds: what was taken before came from another one.
    since: u64,
    /// Whether the backup holds apart what is due: of its `timer` nothing is open then.
    is_apart: bool,
}

impl Taken {
    /// Before a restore.
    pub fn by(contents: &Contents) -> Self {
        Self {
            is_apart: contents.due.is_some(),
            ..Self::default()
        }
    }

    /// Looks what is due in `timer`, which is, or was put back as, `stream`.
    ///
    /// # Errors
    /// NATS does not answer.
    pub async fn is_due_in(
        &mut self,
        bus: &Bus,
        timer: &SavedStream,
        stream: &str,
    ) -> Result<(), AdminError> {
        self.since = timer.snapshot.created().unwrap_or(0);
        self.due = domains_in(bus, stream).await?;
        Ok(())
    }

    /// Looks through a stream that has just been saved or put back, from its end on: for a domain in which nothing is due there is no
    /// need. `begun` is the time of the backup, Unix milliseconds.
    ///
    /// # Errors
    /// NATS does not answer.
    pub async fn look(
        &mut self,
        bus: &Bus,
        saved: &SavedStream,
        begun: u64,
    ) -> Result<(), BackupError> {
        if !saved.snapshot.has_sources() {
            return Ok(());
        }
        if self.is_apart {
            self.last.insert(saved.name.clone(), u64::MAX);
            return Ok(());
        }
        let since = self.since.max(begun.saturating_sub(OVER));
        let is_due = self.due.contains(&saved.name);
        let mut end = if is_due { saved.snapshot.last() + 1 } else { 0 };
        let mut found = Looked::default();
        while end > 1 && found.last == 0 && !found.is_old {
            let from = end.saturating_sub(AT_ONCE).max(1);
            found = look_between(bus, &saved.name, from, end, since).await?;
            end = from;
        }
        self.last.insert(saved.name.clone(), found.last);
        self.behind = self.behind.max(found.behind);
        Ok(())
    }

    /// Whether a message of the former `timer` is due in one of these streams, and not taken.
    pub fn is_open(&self, subject: &str, sequence: u64) -> bool {
        let taken = domain_of(subject).and_then(|domain| self.last.get(domain));
        taken.is_some_and(|taken| sequence > *taken)
    }

    /// Clears `timer`, which has just been put back whole up to `last`, of what these streams have, and of what is due in others: those
    /// are put back by whoever has them, and one that is `there` knows itself what it has taken. What `timer` has fired since stays.
    ///
    /// # Errors
    /// NATS does not answer.
    pub async fn clear(&self, bus: &Bus, last: u64, there: &[String]) -> Result<(), AdminError> {
        for domain in &self.due {
            let taken = self.last.get(domain).copied();
            if taken.is_some() || !there.contains(domain) {
                purge(bus, domain, Some(taken.unwrap_or(last).min(last))).await?;
            }
        }
        Ok(())
    }

    /// Clears a `timer` that others use too of what is due in these streams.
    ///
    /// # Errors
    /// NATS does not answer.
    pub async fn purge_own(&self, bus: &Bus) -> Result<(), AdminError> {
        for domain in self.last.keys() {
            purge(bus, domain, None).await?;
        }
        Ok(())
    }
}

/// Removes what is due in a domain up to a sequence, or all of it.
async fn purge(bus: &Bus, domain: &str, up_to: Option<u64>) -> Result<(), AdminError> {
    let mut purge = json!({ "filter": format!("timer.due.{domain}.>") });
    match up_to {
        // The server would take a bound of 1 for none.
        Some(0) => return Ok(()),
        // The first that stays.
        Some(last) => purge["seq"] = (last + 1).into(),
        None => {}
    }
    let purged = bus.api(&format!("STREAM.PURGE.{TIMER}"), &purge).await;
    purged.map_err(|e| AdminError::api(TIMER, e))?;
    Ok(())
}

/// Part of a stream that was looked through.
#[derive(Debug, Default, PartialEq, Eq)]
struct Looked {
    /// Sequence of `timer` of the last message that came from it.
    last: u64,
    /// Such a sequence, if only of a `timer` that there was before: the server goes on behind it.
    behind: u64,
    /// Whether it reaches back behind all that can still be due.
    is_old: bool,
}

impl Looked {
    /// Takes in the next message of the stream. Sequences fall where `timer` was made anew, so the last one counts.
    fn see(&mut self, time: u64, source: Option<&str>, since: u64) {
        let sequence = sequence_in(source);
        if sequence > 0 {
            self.behind = sequence;
        }
        if time < since {
            self.is_old = true;
        } else if sequence > 0 {
            self.last = sequence;
        }
    }
}

/// Looks at the messages from `from` on, below `end`.
async fn look_between(
    bus: &Bus,
    stream: &str,
    from: u64,
    end: u64,
    since: u64,
) -> Result<Looked, BackupError> {
    let mut found = Looked::default();
    let mut next = from;
    // The server ends an answer where it is large enough.
    while next < end {
        let slice = Slice {
            from: next,
            since: None,
            subject: ">",
            messages: (end - next) as usize,
            bytes: 0,
        };
        let messages = bus.read_slice(stream, &slice).await?;
        let Some(last) = messages.last() else { break };
        next = last.sequence + 1;
        for message in messages.iter().filter(|message| message.sequence < end) {
            found.see(message.time, message.header(SOURCE), since);
        }
    }
    Ok(found)
}

/// Writes into a file what is due in these streams, which have just been saved, and was not taken by them.
///
/// # Errors
/// NATS does not answer, or the file cannot be written.
pub(super) async fn keep(
    bus: &Bus,
    timer: &SavedStream,
    streams: &[SavedStream],
    begun: u64,
    path: &Path,
) -> Result<SavedDue, BackupError> {
    let mut taken = Taken::default();
    taken.is_due_in(bus, timer, TIMER).await?;
    for saved in streams {
        taken.look(bus, saved, begun).await?;
    }
    let mut file = Checked::create(path)?;
    let mut events = 0;
    let mut next = 1;
    while next <= timer.snapshot.last() {
        let slice = Slice {
            from: next,
            since: None,
            subject: DUE,
            messages: PUT_AT_ONCE,
            bytes: 0,
        };
        let messages = bus.read_slice(TIMER, &slice).await?;
        let Some(last) = messages.last() else { break };
        next = last.sequence + 1;
        for message in messages {
            let is_saved = message.sequence <= timer.snapshot.last();
            if is_saved && taken.is_open(&message.subject, message.sequence) {
                super::write_entry(&mut file, &again(message)).map_err(at(path))?;
                events += 1;
            }
        }
    }
    Ok(SavedDue {
        file: file.finish().map_err(at(path))?,
        events,
        behind: taken.behind,
    })
}

/// Publishes what was [kept](keep), to be due for as long as what is fired now.
///
/// # Errors
/// NATS does not take it, or the file cannot be read.
pub(super) async fn put_back(bus: &Bus, path: &Path) -> Result<(), BackupError> {
    let mut file = BufReader::new(File::open(path).map_err(at(path))?);
    let mut events: Vec<Outbound> = Vec::new();
    while let Some(event) = read_entry::<Envelope>(&mut file).map_err(at(path))? {
        events.push(event.into());
        if events.len() == PUT_AT_ONCE {
            publish(bus, std::mem::take(&mut events)).await?;
        }
    }
    publish(bus, events).await
}

async fn publish(bus: &Bus, events: Vec<Outbound>) -> Result<(), BackupError> {
    for stored in bus.publish_each(events).await {
        stored.map_err(|e| BusError(format!("{TIMER}: {e}")))?;
    }
    Ok(())
}

/// Whether streams that are none of the backup take over from `timer`, or anything is due for them.
///
/// # Errors
/// NATS does not answer.
pub(super) async fn is_for_others(bus: &Bus, contents: &Contents) -> Result<bool, AdminError> {
    let own: BTreeSet<&str> = contents
        .streams
        .iter()
        .map(|saved| saved.name.as_str())
        .collect();
    let streams = bus.streams().await;
    let streams = streams.map_err(|e| AdminError::api("streams", e))?;
    let mut settings = streams.iter().map(|info| &info.config);
    if settings.any(|other| other.takes_from(TIMER) && !own.contains(other.name.as_str())) {
        return Ok(true);
    }
    let due = domains_in(bus, TIMER).await?;
    Ok(due.iter().any(|domain| !own.contains(domain.as_str())))
}

/// Domains in which anything is due, by what a stream holds.
async fn domains_in(bus: &Bus, stream: &str) -> Result<BTreeSet<String>, AdminError> {
    let due = bus.stream_subjects(stream, DUE).await;
    let due = due.map_err(|e| AdminError::api(stream, e))?;
    let domains = due.keys().filter_map(|subject| domain_of(subject));
    Ok(domains.map(str::to_owned).collect())
}

/// Lets a stream take over again, which was put back without that.
///
/// # Errors
/// NATS does not answer or refuses.
pub(super) async fn go_on(bus: &Bus, saved: &SavedStream) -> Result<(), AdminError> {
    let name = &saved.name;
    let update = bus
        .api(&format!("STREAM.UPDATE.{name}"), &saved.snapshot.config)
        .await;
    update.map_err(|e| AdminError::api(name, e))?;
    Ok(())
}

/// Domain in a subject of what is due.
fn domain_of(subject: &str) -> Option<&str> {
    subject.strip_prefix("timer.due.")?.split('.').next()
}

/// Sequence of `timer` from which a message comes; 0 for one that was published.
fn sequence_in(source: Option<&str>) -> u64 {
    let mut words = source.unwrap_or_default().split(' ');
    // Behind the name stands a hash where the stream is of another account.
    let is_timer = words
        .next()
        .is_some_and(|name| name.split(':').next() == Some(TIMER));
    let sequence = words.next().and_then(|number| number.parse().ok());
    sequence.filter(|_| is_timer).unwrap_or(0)
}

/// A stored message, to be stored once more.
pub(super) fn again(message: StoredMessage) -> Envelope {
    let headers = message.headers.into_iter();
    let headers = headers.filter(|(name, _)| !OF_THEN.iter().any(|then| name.starts_with(then)));
    Envelope {
        subject: message.subject,
        headers: headers
            .map(|(name, value)| Header { name, value })
            .collect(),
        payload: message.payload,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_stream_has_taken_is_told_from_what_is_open() {
        let header = "timer 6 timer.due.shop.> shop.> timer.due.shop.order.placed SQ1aoAti";
        assert_eq!(sequence_in(Some(header)), 6);
        assert_eq!(sequence_in(Some("timer:abc 7 x")), 7);
        assert_eq!(sequence_in(Some("other 8 x")) + sequence_in(None), 0);
        let taken = Taken {
            last: BTreeMap::from([("shop".to_owned(), 6)]),
            ..Taken::default()
        };
        assert!(taken.is_open("timer.due.shop.order.placed", 7));
        assert!(!taken.is_open("timer.due.shop.order.placed", 6));
        assert!(!taken.is_open("timer.due.bank.order.placed", 7));
        assert!(!taken.is_open("timer.schedule.shop.x", 7));
    }
    /// Messages at these times, from these sequences of `timer`, and beside each a published one.
    fn seen(messages: &[(u64, u64)], since: u64) -> Looked {
        let mut found = Looked::default();
        for (time, sequence) in messages {
            let source = format!("timer {sequence} timer.due.shop.> shop.> x");
            found.see(*time, Some(&source), since);
            found.see(*time, None, since);
        }
        found
    }

    #[test]
    fn of_two_timers_the_later_one_counts() {
        let both = [(10, 900), (11, 901), (20, 3), (21, 4)];
        for since in [0, 15] {
            let found = seen(&both, since);
            let is_old = since > 0;
            assert_eq!(
                found,
                Looked {
                    last: 4,
                    behind: 4,
                    is_old
                }
            );
        }
        // Of the later one nothing was taken yet, and the server goes on behind the former.
        let found = seen(&both[..2], 15);
        assert_eq!(
            found,
            Looked {
                last: 0,
                behind: 901,
                is_old: true
            }
        );
    }
}
