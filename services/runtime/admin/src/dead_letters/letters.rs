//! The dead letters as the stream `dlq` holds them, and which of them have one cause.

use std::collections::BTreeMap;

use oncue_proto::oncue::v1::{DeadLetter, Envelope};
use prost::Message;
use serde_json::Value;

use oncue_core::bus::layout::DLQ;
use oncue_core::bus::{Bus, BusError, StoredMessage};
use oncue_proto::event;

/// A dead letter and where it lies.
#[derive(Debug, Clone)]
pub struct Letter {
    /// Its sequence in the stream `dlq`, which names it.
    pub number: u64,
    pub content: DeadLetter,
    /// Fingerprint of its cause.
    pub group: String,
    /// Of the letter's own message: the trace in which the function failed.
    pub traceparent: Option<String>,
}

impl Letter {
    /// `None` for what is no letter: records of dropped ones, and whatever else somebody has published there.
    pub fn read(found: &StoredMessage) -> Option<Self> {
        let function = found.subject.strip_prefix(DLQ)?.strip_prefix('.')?;
        if function.contains('.') {
            return None;
        }
        let letter = DeadLetter::decode(&found.payload[..])
            .ok()
            .filter(|letter| !letter.function.is_empty())?;
        let traceparent = found.header("traceparent").map(str::to_owned);
        Some(Self {
            number: found.sequence,
            group: fingerprint(&letter),
            content: letter,
            traceparent,
        })
    }

    pub fn envelope(&self) -> Envelope {
        self.content.envelope.clone().unwrap_or_default()
    }

    pub fn trace_id(&self) -> Option<&str> {
        self.traceparent.as_deref()?.split('-').nth(1)
    }
}

/// Letters of one cause, oldest first.
pub struct Group<'l> {
    pub name: &'l str,
    pub letters: Vec<&'l Letter>,
}

/// Largest first.
pub fn grouped<'l>(letters: impl IntoIterator<Item = &'l Letter>) -> Vec<Group<'l>> {
    let mut groups: BTreeMap<&str, Vec<&Letter>> = BTreeMap::new();
    for letter in letters {
        groups.entry(&letter.group).or_default().push(letter);
    }
    let mut groups: Vec<Group> = groups
        .into_iter()
        .map(|(name, letters)| Group { name, letters })
        .collect();
    groups.sort_by_key(|group| std::cmp::Reverse(group.letters.len()));
    groups
}

/// Everything in the stream from `from` on; nothing where there is no such stream yet.
pub async fn read(bus: &Bus, from: u64) -> Result<Vec<StoredMessage>, BusError> {
    match bus.api(&format!("STREAM.INFO.{DLQ}"), &Value::Null).await {
        Ok(info)
            if info["state"]["last_seq"]
                .as_u64()
                .is_some_and(|last| last >= from) => {}
        Ok(_) => return Ok(Vec::new()),
        Err(e) if e.is_not_found() => return Ok(Vec::new()),
        Err(e) => return Err(BusError(format!("stream {DLQ}: {e}"))),
    }
    let (mut all, mut next) = (Vec::new(), from);
    loop {
        let batch = bus.read_stream(DLQ, next).await?;
        let Some(last) = batch.last() else {
            return Ok(all);
        };
        next = last.sequence + 1;
        all.extend(batch);
    }
}

/// All letters, oldest first.
pub async fn all(bus: &Bus) -> Result<Vec<Letter>, BusError> {
    Ok(read(bus, 1)
        .await?
        .iter()
        .filter_map(Letter::read)
        .collect())
}

/// The letters among the last `window` messages of the stream, oldest first, and how many messages lie before those.
pub async fn latest(bus: &Bus, window: u64) -> Result<(Vec<Letter>, u64), BusError> {
    let state = match bus.api(&format!("STREAM.INFO.{DLQ}"), &Value::Null).await {
        Ok(info) => info["state"].clone(),
        Err(e) if e.is_not_found() => return Ok((Vec::new(), 0)),
        Err(e) => return Err(BusError(format!("stream {DLQ}: {e}"))),
    };
    let number = |field: &str| state[field].as_u64().unwrap_or(0);
    if number("messages") == 0 {
        return Ok((Vec::new(), 0));
    }
    let from = (number("last_seq") + 1)
        .saturating_sub(window)
        .max(number("first_seq"));
    let found = read(bus, from).await?;
    let before = number("messages").saturating_sub(found.len() as u64);
    Ok((found.iter().filter_map(Letter::read).collect(), before))
}

/// Names a cause: the function, the class of the reason, and the line that failed; where no line is known, the message
/// without what differs from event to event.
pub fn fingerprint(letter: &DeadLetter) -> String {
    let place = if letter.site.is_empty() {
        blotted(&letter.message)
    } else {
        letter.site.clone()
    };
    let hash = event::hash(&[
        letter.function.as_bytes(),
        letter.reason.as_bytes(),
        place.as_bytes(),
    ]);
    hash[..4].iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A message with its numbers and ids blotted out.
fn blotted(message: &str) -> String {
    let word = |c: char| c.is_alphanumeric() || c == '-' || c == '_';
    let mut out = String::with_capacity(message.len());
    let mut rest = message;
    while let Some(first) = rest.chars().next() {
        let end = rest
            .find(|c: char| word(c) != word(first))
            .unwrap_or(rest.len());
        let (run, after) = rest.split_at(end);
        match word(first) {
            true if is_id(run) => out.push('#'),
            true => push_without_digits(&mut out, run),
            false => out.push_str(run),
        }
        rest = after;
    }
    out
}

/// Hexadecimal of some length, a UUID, or a long mixture of letters and digits.
fn is_id(word: &str) -> bool {
    let digits = word.bytes().any(|b| b.is_ascii_digit());
    let hex = word.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-');
    digits && (word.len() >= 16 || hex && word.len() >= 6) || hex && word.len() >= 16
}

fn push_without_digits(out: &mut String, word: &str) {
    let mut in_number = false;
    for c in word.chars() {
        match c.is_ascii_digit() {
            true if in_number => {}
            true => out.push('#'),
            false => out.push(c),
        }
        in_number = c.is_ascii_digit();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn letter(function: &str, reason: &str, site: &str, message: &str) -> DeadLetter {
        let [function, reason, site, message] =
            [function, reason, site, message].map(str::to_owned);
        DeadLetter {
            function,
            reason,
            site,
            message,
            ..DeadLetter::default()
        }
    }

    #[test]
    fn the_line_names_the_cause_whatever_the_message() {
        let at = |site, message| fingerprint(&letter("f", "attempts", site, message));
        assert_eq!(at("a.rs:1", "one"), at("a.rs:1", "two"));
        assert_ne!(at("a.rs:1", "one"), at("a.rs:2", "one"));
        assert_eq!(at("a.rs:1", "one").len(), 8);
        let one = |function, reason| fingerprint(&letter(function, reason, "a.rs:1", ""));
        assert_ne!(one("f", "attempts"), one("g", "attempts"));
        assert_ne!(one("f", "attempts"), one("f", "rejected"));
    }

    #[test]
    fn without_a_line_numbers_and_ids_do_not_matter() {
        let of = |message| fingerprint(&letter("f", "decode", "", message));
        assert_eq!(of("order 17 of 3 is late"), of("order 4 of 250 is late"));
        assert_eq!(
            of("no file 0190b4ae-91f3-7cc1-8d4e-0d1f2a3b4c5d"),
            of("no file abcdefab-abcd-abcd-abcd-abcdefabcdef")
        );
        assert_eq!(of("hash deadbeef01"), of("hash 77ff00aa12"));
        assert_eq!(
            of("id kN3sTq0V_x9-Lm2PzR7w1A lost"),
            of("id 8aB2cD4eF6gH8iJ0kL2mN4 lost")
        );
        assert_ne!(of("line is late"), of("line was lost"));
        assert_eq!(blotted("took 12ms, facade é7"), "took #ms, facade é#");
    }

    #[test]
    fn records_of_dropped_letters_are_no_letters() {
        let found = |subject: &str| StoredMessage {
            sequence: 7,
            time: 0,
            subject: subject.into(),
            headers: vec![("traceparent".into(), "00-abc-def-01".into())],
            payload: letter("f", "rejected", "", "no").encode_to_vec().into(),
        };
        assert!(Letter::read(&found("dlq.letter.dropped")).is_none());
        let read = Letter::read(&found("dlq.f")).unwrap();
        assert_eq!((read.number, read.trace_id()), (7, Some("abc")));
    }
}
