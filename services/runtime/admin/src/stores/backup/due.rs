//! Events that are due: what a schedule or a delay has fired lies in `timer` as `timer.due.TYPE` for three days, from where the stream
//! of its domain takes it over once. A stream that comes back does not know what it has taken, if `timer` is another one, and would
//! take all of it again. So `timer` is cleared of what each stream has before the stream goes on.

use std::collections::{BTreeMap, BTreeSet};

use oncue_core::bus::layout::TIMER;
use oncue_core::bus::{Bus, Slice};
use serde_json::json;

use super::{BackupError, SavedStream};
use crate::AdminError;

/// Age at which nothing is due any more, milliseconds: nats-server keeps it for [`FIRED_TTL`](oncue_core::bus::layout::FIRED_TTL),
/// three days, and here is one more.
const OVER: u64 = 96 * 3600 * 1000;
/// Messages in one question.
const AT_ONCE: u64 = 1000;
/// Header in which nats-server says where a message was taken from: stream, sequence and more.
const SOURCE: &str = "Nats-Stream-Source";

/// Knowledge of what streams have taken over.
#[derive(Debug, Default)]
pub(super) struct Taken {
    /// Domains in which anything is due.
    due: BTreeSet<String>,
    /// Last sequence of `timer` that the stream of each domain has; 0 where that is none, or nothing is due.
    last: BTreeMap<String, u64>,
}

impl Taken {
    /// Looks what is due by the saved `timer`, which is put back as `stream`.
    ///
    /// # Errors
    /// NATS does not answer.
    pub async fn is_due_in(&mut self, bus: &Bus, stream: &str) -> Result<(), AdminError> {
        let due = bus.stream_subjects(stream, "timer.due.>").await;
        let due = due.map_err(|e| AdminError::api(stream, e))?;
        let domains = due.keys().filter_map(|subject| domain_of(subject));
        self.due = domains.map(str::to_owned).collect();
        Ok(())
    }

    /// Looks through a stream that has just been put back, from its end on: for a domain in which nothing is due there is no need.
    /// `begun` is the time of the backup, Unix milliseconds.
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
        let is_due = self.due.contains(&saved.name);
        let mut end = if is_due { saved.snapshot.last() + 1 } else { 0 };
        let mut found = Looked::default();
        while end > 1 && found.last == 0 && !found.is_old {
            let from = end.saturating_sub(AT_ONCE).max(1);
            found = look_between(bus, &saved.name, from, end, begun).await?;
            end = from;
        }
        self.last.insert(saved.name.clone(), found.last);
        Ok(())
    }

    /// Whether a message of the former `timer` is due in one of these streams, and not taken.
    pub fn is_open(&self, subject: &str, sequence: u64) -> bool {
        let taken = domain_of(subject).and_then(|domain| self.last.get(domain));
        taken.is_some_and(|taken| sequence > *taken)
    }

    /// Clears `timer`, which has just been put back whole up to `last`, of what these streams have, and of what is due in others: those
    /// are put back by whoever has them. What it has fired since stays.
    ///
    /// # Errors
    /// NATS does not answer.
    pub async fn clear(&self, bus: &Bus, last: u64) -> Result<(), AdminError> {
        for domain in &self.due {
            let taken = self.last.get(domain).copied().unwrap_or(last).min(last);
            purge(bus, domain, Some(taken)).await?;
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
#[derive(Default)]
struct Looked {
    /// Highest sequence of `timer` in it.
    last: u64,
    /// Whether it reaches back behind all that can still be due.
    is_old: bool,
}

/// Looks at the messages from `from` on, below `end`.
async fn look_between(
    bus: &Bus,
    stream: &str,
    from: u64,
    end: u64,
    begun: u64,
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
            found.last = found.last.max(sequence_in(message.header(SOURCE)));
            found.is_old |= message.time + OVER < begun;
        }
    }
    Ok(found)
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
}
