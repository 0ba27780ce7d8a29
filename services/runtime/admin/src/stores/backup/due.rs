//! Events that are due: what a schedule or a delay has fired lies in `timer` as `timer.due.TYPE` for three days, from where the stream
//! of its domain takes it over once. A stream that comes back does not know what it has taken, if `timer` is another one, and would
//! take all of it again. So `timer` is cleared of what each stream has before the stream goes on.

use std::collections::{BTreeMap, BTreeSet};

use oncue_core::bus::layout::TIMER;
use oncue_core::bus::{Bus, Slice};
use serde_json::json;

use super::{BackupError, SavedStream};
use crate::AdminError;

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
    ///
    /// # Errors
    /// NATS does not answer.
    pub async fn look(&mut self, bus: &Bus, saved: &SavedStream) -> Result<(), BackupError> {
        if !saved.snapshot.has_sources() {
            return Ok(());
        }
        let mut last = 0;
        let is_due = self.due.contains(&saved.name);
        let mut end = if is_due { saved.snapshot.last() + 1 } else { 0 };
        while end > 1 && last == 0 {
            let from = end.saturating_sub(AT_ONCE).max(1);
            let slice = Slice {
                from,
                since: None,
                subject: ">",
                messages: (end - from) as usize,
                bytes: 0,
            };
            let found = bus.read_slice(&saved.name, &slice).await?;
            let found = found.iter().filter(|message| message.sequence < end);
            let taken = found.map(|message| sequence_in(message.header(SOURCE)));
            last = taken.max().unwrap_or(0);
            end = from;
        }
        self.last.insert(saved.name.clone(), last);
        Ok(())
    }

    /// Whether a message of the former `timer` is due in one of these streams, and not taken.
    pub fn is_open(&self, subject: &str, sequence: u64) -> bool {
        let taken = domain_of(subject).and_then(|domain| self.last.get(domain));
        taken.is_some_and(|taken| sequence > *taken)
    }

    /// Clears `timer`, which has just been put back whole, of what these streams have, and of what is due in others: those are put
    /// back by whoever has them.
    ///
    /// # Errors
    /// NATS does not answer.
    pub async fn clear(&self, bus: &Bus) -> Result<(), AdminError> {
        let due = bus.stream_subjects(TIMER, "timer.due.>").await;
        let due = due.map_err(|e| AdminError::api(TIMER, e))?;
        let domains: BTreeSet<&str> = due
            .keys()
            .filter_map(|subject| domain_of(subject))
            .collect();
        for domain in domains {
            let mut purge = json!({ "filter": format!("timer.due.{domain}.>") });
            if let Some(taken) = self.last.get(domain) {
                // Up to this one, which stays.
                purge["seq"] = (taken + 1).into();
            }
            let purged = bus.api(&format!("STREAM.PURGE.{TIMER}"), &purge).await;
            purged.map_err(|e| AdminError::api(TIMER, e))?;
        }
        Ok(())
    }
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
