//! What goes over the line of NATS, written down as it passes: who was given which message, and what was said of it
//! afterwards. The servers' own counts do not outlive them.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

const ACK: &str = "$JS.ACK.";

/// What was delivered and settled over this proxy.
#[derive(Debug, Clone, Default)]
pub struct Wire {
    pub deliveries: u64,
    /// Deliveries beyond the first of each message to each consumer.
    pub redeliveries: u64,
    /// Of these, those whose first delivery never came by: the server had set out to send it when its worker left.
    pub unsent: u64,
    /// The same by consumer.
    by_consumer: HashMap<String, u64>,
    pub acks: u64,
    pub naks: u64,
    pub terms: u64,
    /// NAKs sent when the server had not heard of the delivery for the ack wait, and may have given it to another.
    pub late_naks: u64,
    /// Of these, those whose worker had said that it is still at it, too late as well.
    pub late_naks_after_progress: u64,
    /// When connections were taken.
    pub accepted: Vec<Instant>,
}

impl Wire {
    pub fn redeliveries_of(&self, consumer: &str) -> u64 {
        self.by_consumer.get(consumer).copied().unwrap_or_default()
    }
}

/// A connection, and the port at which it was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Line {
    pub number: u64,
    pub door: u16,
}

pub struct Ledger {
    pub wire: Wire,
    pub ack_wait: Duration,
    /// Messages that were delivered before.
    known: HashSet<String>,
    /// Messages that are delivered and not settled, with the connection they went to last.
    hands: HashMap<String, Line>,
    open: HashSet<Line>,
    /// Deliveries of which the server had heard nothing for the ack wait, and whether progress was reported afterwards;
    /// no word revives them.
    expired: HashMap<String, bool>,
    /// When each delivery was last spoken of.
    heard: HashMap<String, Instant>,
}

impl Default for Ledger {
    fn default() -> Self {
        Self {
            wire: Wire::default(),
            ack_wait: Duration::MAX,
            known: HashSet::new(),
            hands: HashMap::new(),
            open: HashSet::new(),
            expired: HashMap::new(),
            heard: HashMap::new(),
        }
    }
}

impl Ledger {
    pub fn opened(&mut self, line: Line) {
        self.wire.accepted.push(Instant::now());
        self.open.insert(line);
    }

    pub fn closed(&mut self, line: Line) {
        self.open.remove(&line);
    }

    /// How many connections with a number below this one are open.
    pub fn open_before(&self, number: u64) -> usize {
        self.open.iter().filter(|line| line.number < number).count()
    }

    /// Messages in the hands of who is connected at this port.
    pub fn in_hand(&self, door: u16) -> usize {
        self.hands
            .values()
            .filter(|line| line.door == door && self.open.contains(line))
            .count()
    }

    /// A message on its way to a client.
    pub fn delivered(&mut self, reply: &str, line: Line) {
        let Some((message, attempt)) = message(reply) else {
            return;
        };
        self.wire.deliveries += 1;
        let known = !self.known.insert(message.clone());
        if known || attempt > 1 {
            self.wire.redeliveries += 1;
            self.wire.unsent += u64::from(!known);
            let consumer = message.split(' ').nth(1).unwrap_or_default();
            *self
                .wire
                .by_consumer
                .entry(consumer.to_owned())
                .or_default() += 1;
        }
        self.hands.insert(message, line);
        self.heard.insert(reply.to_owned(), Instant::now());
    }

    /// A client's word on a delivery.
    pub fn settled(&mut self, ticket: &str, word: &[u8]) {
        if self
            .heard
            .get(ticket)
            .is_some_and(|heard| heard.elapsed() > self.ack_wait)
        {
            self.expired.entry(ticket.to_owned()).or_insert(false);
        }
        let progress = word.starts_with(b"+WPI");
        match word.get(..4) {
            _ if progress => {
                self.expired
                    .entry(ticket.to_owned())
                    .and_modify(|progress| *progress = true);
                self.heard.insert(ticket.to_owned(), Instant::now());
            }
            Some(b"-NAK") => {
                self.wire.naks += 1;
                let expired = self.expired.get(ticket).copied();
                self.wire.late_naks += u64::from(expired.is_some());
                self.wire.late_naks_after_progress += u64::from(expired == Some(true));
            }
            Some(b"+TER" | b"-TER") => self.wire.terms += 1,
            _ => self.wire.acks += 1,
        }
        if !progress {
            self.heard.remove(ticket);
            if let Some((message, _)) = message(ticket) {
                self.hands.remove(&message);
            }
        }
    }
}

pub fn is_ticket(subject: &str) -> bool {
    subject.starts_with(ACK)
}

/// Which message a ticket is for, and which delivery of it, in both shapes of the subject [NATS ADR-15]. The time of the
/// message tells it from another one that took its place after a loss.
fn message(ticket: &str) -> Option<(String, u64)> {
    let tokens: Vec<&str> = ticket.strip_prefix(ACK)?.split('.').collect();
    let tokens = if tokens.len() >= 9 {
        &tokens[2..]
    } else {
        &tokens[..]
    };
    let [stream, consumer, attempt, sequence, _, time, ..] = tokens else {
        return None;
    };
    Some((
        format!("{stream} {consumer} {sequence} {time}"),
        attempt.parse().ok()?,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: Line = Line { number: 1, door: 7 };

    fn ticket(consumer: &str, attempt: u64, sequence: u64, time: u64) -> String {
        format!("$JS.ACK.web.{consumer}.{attempt}.{sequence}.9.{time}.0")
    }

    #[test]
    fn a_message_is_delivered_again_whatever_the_server_says_of_it() {
        let mut ledger = Ledger::default();
        ledger.delivered(&ticket("a", 1, 1, 5), HERE);
        ledger.delivered(&ticket("b", 1, 1, 5), HERE);
        ledger.delivered(&ticket("a", 1, 2, 6), HERE);
        assert_eq!((ledger.wire.deliveries, ledger.wire.redeliveries), (3, 0));
        ledger.delivered(&ticket("a", 2, 1, 5), HERE);
        ledger.delivered(&ticket("a", 1, 1, 5), HERE); // the server has forgotten
        ledger.delivered("$JS.ACK.hub.account.web.a.1.1.9.5.0.x", HERE);
        ledger.delivered(&ticket("a", 2, 3, 7), HERE); // the first was lost on its way
        assert_eq!((ledger.wire.redeliveries, ledger.wire.unsent), (4, 1));
        ledger.delivered(&ticket("a", 1, 1, 8), HERE); // another message in its place
        ledger.delivered("_INBOX.x", HERE);
        assert_eq!((ledger.wire.deliveries, ledger.wire.redeliveries), (8, 4));
        assert_eq!(
            (
                ledger.wire.redeliveries_of("a"),
                ledger.wire.redeliveries_of("b")
            ),
            (4, 0)
        );
    }

    #[test]
    fn in_hand_is_what_was_delivered_and_not_settled() {
        let mut ledger = Ledger::default();
        let other = Line { number: 2, door: 8 };
        ledger.opened(HERE);
        ledger.opened(other);
        for sequence in 1..=4 {
            ledger.delivered(&ticket("a", 1, sequence, 5), HERE);
        }
        ledger.settled(&ticket("a", 1, 1, 5), b"+ACK");
        ledger.settled(&ticket("a", 1, 2, 5), b"-NAK {\"delay\":1}");
        ledger.settled(&ticket("a", 1, 3, 5), b"+WPI");
        assert_eq!((ledger.in_hand(7), ledger.in_hand(8)), (2, 0));
        ledger.delivered(&ticket("a", 2, 3, 5), other);
        assert_eq!((ledger.in_hand(7), ledger.in_hand(8)), (1, 1));
        ledger.closed(HERE);
        assert_eq!(
            (
                ledger.in_hand(7),
                ledger.open_before(2),
                ledger.open_before(3)
            ),
            (0, 0, 1)
        );
    }
}
