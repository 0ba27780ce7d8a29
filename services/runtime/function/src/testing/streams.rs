//! Streams of the test kit: what JetStream keeps of an app, in memory.

use std::collections::{BTreeMap, HashSet};

use oncue_core::bus::layout::TIMER;
use oncue_core::bus::{Headers, Outbound};
use oncue_proto::event;

/// All streams, with the schedules that wait in them.
#[derive(Default)]
pub(super) struct Streams {
    /// Messages of all streams, in the order in which they came.
    log: Vec<Stored>,
    /// Ids that were published.
    ids: HashSet<String>,
    /// Messages to come, by the subject of their schedule.
    schedules: BTreeMap<String, Scheduled>,
}

/// A message as its stream holds it.
#[derive(Clone)]
pub(super) struct Stored {
    pub message: Outbound,
    /// Name of the stream.
    pub stream: String,
    /// Sequence in the stream.
    pub sequence: u64,
    /// When the stream took it, Unix milliseconds.
    pub published: u64,
}

/// A message that the server publishes at its time.
struct Scheduled {
    /// Unix milliseconds.
    due: u64,
    /// Milliseconds between two times, for one that recurs.
    every: Option<u64>,
    message: Outbound,
}

/// Header with the rule of a schedule, as [`scheduled`](oncue_core::bus::layout::scheduled) writes it.
const RULE: &str = "Nats-Schedule";

impl Streams {
    /// Takes a message, or its schedule. Returns its place in the log, unless its id was there before.
    pub fn publish(&mut self, message: Outbound, now: u64) -> Option<usize> {
        if let Some(rule) = header(&message, RULE) {
            let scheduled = Scheduled::read(rule, now, &message);
            self.schedules.insert(message.subject, scheduled);
            return None;
        }
        if let Some(id) = header(&message, "Nats-Msg-Id")
            && !self.ids.insert(id.to_owned())
        {
            return None;
        }
        Some(self.append(message, now))
    }

    /// Takes a message again, as a server does whose memory of ids is shorter than the pause between two publishes.
    pub fn publish_again(&mut self, place: usize, now: u64) -> usize {
        let message = self.log[place].message.clone();
        self.append(message, now)
    }

    fn append(&mut self, message: Outbound, now: u64) -> usize {
        let stream = event::stream_of_type(&message.subject).to_owned();
        let before = self.log.iter().filter(|stored| stored.stream == stream);
        let sequence = before.count() as u64 + 1;
        self.log.push(Stored {
            message,
            stream,
            sequence,
            published: now,
        });
        self.log.len() - 1
    }

    /// Messages of all streams, the oldest first.
    pub fn log(&self) -> &[Stored] {
        &self.log
    }

    /// Time at which the next schedule fires.
    pub fn next_due(&self) -> Option<u64> {
        self.schedules.values().map(|waits| waits.due).min()
    }

    /// Takes out what is due, the earliest first; what recurs waits for its next time.
    pub fn due(&mut self, now: u64) -> Vec<Outbound> {
        let is_due = self.schedules.iter().filter(|(_, waits)| waits.due <= now);
        let mut fired: Vec<(u64, String)> = is_due
            .map(|(subject, waits)| (waits.due, subject.clone()))
            .collect();
        fired.sort();
        let mut messages = Vec::new();
        for (_, subject) in fired {
            let Some(mut waits) = self.schedules.remove(&subject) else {
                continue;
            };
            messages.push(waits.message.clone());
            if let Some(every) = waits.every {
                waits.due += every;
                self.schedules.insert(subject, waits);
            }
        }
        messages
    }
}

impl Scheduled {
    /// Reads `@at TIME` or `@every 10s`, with the message that is to come then: the server drops the headers of the
    /// schedule, and the id that it goes by.
    fn read(rule: &str, now: u64, message: &Outbound) -> Self {
        let at = rule.strip_prefix("@at ").and_then(event::parse_time);
        let every = rule.strip_prefix("@every ").and_then(|every| {
            let seconds: u64 = every.strip_suffix('s')?.parse().ok()?;
            Some(seconds * 1000)
        });
        let target = header(message, "Nats-Schedule-Target").unwrap_or_default();
        let headers: Headers = message
            .headers
            .iter()
            .filter(|(name, _)| !name.starts_with("Nats-"))
            .collect();
        Self {
            due: at.unwrap_or(now + every.unwrap_or_default()),
            every,
            message: Outbound {
                // Its own stream takes it over from that of timers.
                subject: target
                    .strip_prefix(&format!("{TIMER}.due."))
                    .unwrap_or(target)
                    .to_owned(),
                headers,
                payload: message.payload.clone(),
            },
        }
    }
}

/// Value of a header, the first of its name.
pub(super) fn header<'m>(message: &'m Outbound, name: &str) -> Option<&'m str> {
    let mut headers = message.headers.iter();
    headers.find(|(known, _)| *known == name).map(|(_, v)| v)
}
