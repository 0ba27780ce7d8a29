//! Index of the dead letters: what a list needs of each, in memory, so that a page of a hundred thousand is found without
//! reading them again. Kept up with the stream by what has come and gone since the last look.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant};

use oncue_core::bus::Bus;
use oncue_core::bus::info::StreamInfo;
use oncue_core::bus::layout::DLQ;

use super::letters::Letter;
use crate::AdminError;

/// Sequences of the stream that are looked at, from its end. One letter takes some 300 bytes of memory.
const MOST: u64 = 500_000;
/// Characters of a message that are kept of each letter; the group has the whole of its last.
const MESSAGE: usize = 160;

/// Letters of the stream as lists show them.
#[derive(Debug, Default)]
pub struct LetterIndex {
    /// Creation time of the stream they are of; another stream begins anew.
    created: Option<u64>,
    /// First sequence not looked at yet.
    next: u64,
    letters: BTreeMap<u64, LetterSummary>,
    /// Messages that are no letters of the app.
    others: BTreeSet<u64>,
    /// Causes by their fingerprints.
    causes: BTreeMap<String, Cause>,
    /// Messages that lie before all that was looked at.
    before: u64,
    /// Sequences that the last look left for the next.
    unread: u64,
}

/// Letter in a list.
#[derive(Debug, Clone)]
pub struct LetterSummary {
    /// Fingerprint of its cause.
    pub group: String,
    /// When it was set aside, Unix milliseconds.
    pub at: u64,
    pub event: String,
    pub event_type: String,
    pub key: String,
    pub flow: String,
    pub attempts: u32,
    pub redrives: u32,
    /// Beginning of the message.
    pub message: String,
}

/// Cause that letters have in common, in the words of the last one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cause {
    pub function: String,
    pub reason: String,
    pub site: String,
    pub message: String,
}

/// Cause with the letters that have it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CauseCount {
    /// Fingerprint of the cause.
    pub name: String,
    pub cause: Cause,
    pub count: u64,
    /// When the first and the last of them were set aside, Unix milliseconds.
    pub first: u64,
    pub last: u64,
}

/// Order of the letters of a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LetterOrder {
    Age,
    Key,
    Attempts,
    Redrives,
}

/// Letters that somebody wants to see.
#[derive(Debug, Clone)]
pub struct LetterQuery<'q> {
    pub group: &'q str,
    /// Part of an event id, a flow id, a key or a message, without regard to case; empty for all.
    pub text: &'q str,
    /// Only letters up to this number: what came after somebody looked is not meant.
    pub through: u64,
}

impl LetterIndex {
    /// Takes in what has come and gone since the last look, as far as it gets within `budget`: a hundred thousand letters that
    /// nobody has looked at yet take several looks, between which [`unread`](Self::unread) says what is left.
    ///
    /// One `STREAM.INFO`, one request for 256 new messages; where something was deleted, another that names all that was. A look
    /// that is broken off has lost nothing.
    ///
    /// # Errors
    /// NATS does not answer. A missing stream is no error.
    pub async fn refresh(&mut self, bus: &Bus, budget: Duration) -> Result<(), AdminError> {
        let began = Instant::now();
        let info = match bus.stream_info(DLQ).await {
            Ok(info) => info,
            Err(e) if e.is_not_found() => {
                *self = Self::default();
                return Ok(());
            }
            Err(e) => return Err(AdminError::api(format!("stream {DLQ}"), e)),
        };
        let is_other = self.created != info.created_ms() || info.state.last_seq + 1 < self.next;
        if is_other {
            *self = Self {
                created: info.created_ms(),
                ..Self::default()
            };
        }
        let oldest = (info.state.last_seq + 1).saturating_sub(MOST);
        self.next = self.next.max(oldest).max(info.state.first_seq).max(1);
        while self.next <= info.state.last_seq {
            let batch = bus.read_stream(DLQ, self.next).await?;
            let Some(last) = batch.last().map(|message| message.sequence) else {
                break;
            };
            for message in &batch {
                match Letter::read(bus.app(), message) {
                    Some(letter) => self.insert(&letter),
                    None => {
                        self.others.insert(message.sequence);
                    }
                }
            }
            self.next = last + 1;
            if began.elapsed() > budget {
                break;
            }
        }
        self.unread = (info.state.last_seq + 1).saturating_sub(self.next);
        if self.unread > 0 {
            return Ok(());
        }
        self.forget(bus, &info).await
    }

    fn insert(&mut self, letter: &Letter) {
        let content = &letter.content;
        let cause = Cause {
            function: content.function.clone(),
            reason: content.reason.clone(),
            site: content.site.clone(),
            message: content.message.clone(),
        };
        self.causes.insert(letter.group.clone(), cause);
        let summary = LetterSummary {
            group: letter.group.clone(),
            at: letter.at(),
            event: content.event_id.clone(),
            event_type: content.event_type.clone(),
            key: content.key.clone(),
            flow: content.flow_id.clone(),
            attempts: content.attempts,
            redrives: content.redrives,
            message: content.message.chars().take(MESSAGE).collect(),
        };
        self.letters.insert(letter.number, summary);
    }

    /// Forgets what is out of the stream.
    async fn forget(&mut self, bus: &Bus, info: &StreamInfo) -> Result<(), AdminError> {
        let known = (self.letters.len() + self.others.len()) as u64;
        let first = self.letters.keys().chain(&self.others).min().copied();
        let is_whole = first.is_none_or(|first| first >= info.state.first_seq);
        if known <= info.state.messages && is_whole && known + self.before == info.state.messages {
            return Ok(());
        }
        let info = bus.stream_with_deleted(DLQ).await;
        let info = info.map_err(|e| AdminError::api(format!("stream {DLQ}"), e))?;
        let state = &info.state;
        for number in &state.deleted {
            self.letters.remove(number);
            self.others.remove(number);
        }
        self.letters = self.letters.split_off(&state.first_seq);
        self.others = self.others.split_off(&state.first_seq);
        let causes: BTreeSet<&String> = self.letters.values().map(|one| &one.group).collect();
        self.causes.retain(|name, _| causes.contains(name));
        // What came meanwhile is not known yet and lies behind, not before.
        let behind = (state.last_seq + 1).saturating_sub(self.next);
        let known = (self.letters.len() + self.others.len()) as u64;
        self.before = state.messages.saturating_sub(known + behind);
        Ok(())
    }

    /// Number of letters.
    pub fn len(&self) -> usize {
        self.letters.len()
    }

    /// Whether there is no letter.
    pub fn is_empty(&self) -> bool {
        self.letters.is_empty()
    }

    /// Messages of the stream that the last look has not come to.
    pub fn unread(&self) -> u64 {
        self.unread
    }

    /// Messages of the stream that lie before all that is known here.
    pub fn before(&self) -> u64 {
        self.before
    }

    /// Number of the last letter; 0 for none.
    pub fn last(&self) -> u64 {
        self.letters.keys().next_back().copied().unwrap_or(0)
    }

    /// Causes with their letters, the largest first.
    pub fn causes(&self) -> Vec<CauseCount> {
        let mut counts: HashMap<&str, CauseCount> = HashMap::new();
        for letter in self.letters.values() {
            let count = counts.entry(&letter.group).or_insert_with(|| CauseCount {
                name: letter.group.clone(),
                cause: self.causes.get(&letter.group).cloned().unwrap_or_default(),
                count: 0,
                first: letter.at,
                last: letter.at,
            });
            count.count += 1;
            count.first = count.first.min(letter.at);
            count.last = count.last.max(letter.at);
        }
        let mut all: Vec<CauseCount> = counts.into_values().collect();
        // By name where they are of one size, so that a list does not jump between two looks.
        all.sort_by(|a, b| (Reverse(a.count), &a.name).cmp(&(Reverse(b.count), &b.name)));
        all
    }

    /// Numbers of the letters that are meant, oldest first.
    pub fn numbers(&self, query: &LetterQuery<'_>) -> Vec<u64> {
        let text = query.text.to_lowercase();
        let meant = self
            .letters
            .range(..=query.through)
            .filter(|(_, letter)| letter.group == query.group && letter.has(&text));
        meant.map(|(number, _)| *number).collect()
    }

    /// Sorts letters, by default the largest first; those that are equal stand with the newest first.
    pub fn sort(&self, numbers: &mut [u64], order: LetterOrder, ascending: bool) {
        let letters = &self.letters;
        match order {
            LetterOrder::Age => numbers.sort_by_key(|number| Reverse(*number)),
            LetterOrder::Key => {
                numbers.sort_by(|a, b| (&letters[b].key, b).cmp(&(&letters[a].key, a)));
            }
            LetterOrder::Attempts => {
                numbers.sort_by_key(|number| Reverse((letters[number].attempts, *number)));
            }
            LetterOrder::Redrives => {
                numbers.sort_by_key(|number| Reverse((letters[number].redrives, *number)));
            }
        }
        if ascending {
            numbers.reverse();
        }
    }

    /// One letter, if it is still there.
    pub fn get(&self, number: u64) -> Option<&LetterSummary> {
        self.letters.get(&number)
    }

    /// Numbers of the letters of one event, of whichever function.
    pub fn of_event(&self, id: &str) -> Vec<u64> {
        let letters = self.letters.iter();
        let about = letters.filter(|(_, letter)| letter.event == id);
        about.map(|(number, _)| *number).collect()
    }

    /// Letters that a later redrive of the same event has ended in another one, each with that one's number: they were
    /// redriven by somebody who did not come to delete them.
    pub fn outdated(&self, numbers: &[u64]) -> BTreeMap<u64, u64> {
        let mut latest: HashMap<(&str, &str), (u32, u64)> = HashMap::new();
        for (number, letter) in &self.letters {
            let event = (self.function(letter), letter.event.as_str());
            let last = latest.entry(event).or_default();
            *last = (*last).max((letter.redrives, *number));
        }
        let found = numbers.iter().filter_map(|number| {
            let letter = self.letters.get(number)?;
            let event = (self.function(letter), letter.event.as_str());
            let (redrives, later) = latest.get(&event)?;
            (*redrives > letter.redrives).then_some((*number, *later))
        });
        found.collect()
    }

    fn function(&self, letter: &LetterSummary) -> &str {
        let cause = self.causes.get(&letter.group);
        cause.map_or("", |cause| &cause.function)
    }
}

impl LetterSummary {
    /// Whether some text of it has this part, which is in lower case.
    fn has(&self, part: &str) -> bool {
        let texts = [&self.event, &self.flow, &self.key, &self.message];
        part.is_empty() || texts.iter().any(|text| text.to_lowercase().contains(part))
    }
}

#[cfg(test)]
mod tests {
    use oncue_proto::oncue::v1::DeadLetter;

    use super::*;

    fn letter(number: u64, event: &str, key: &str, redrives: u32) -> Letter {
        let content = DeadLetter {
            function: "f".into(),
            reason: "rejected".into(),
            message: "no door".into(),
            site: "a.rs:1".into(),
            event_id: event.into(),
            key: key.into(),
            redrives,
            ..DeadLetter::default()
        };
        Letter::of(number, content, None)
    }

    fn find(index: &LetterIndex, text: &str, through: u64) -> Vec<u64> {
        let group = &index.causes()[0].name;
        index.numbers(&LetterQuery {
            group,
            text,
            through,
        })
    }

    fn index(letters: &[Letter]) -> LetterIndex {
        let mut index = LetterIndex::default();
        for letter in letters {
            index.insert(letter);
        }
        index
    }

    #[test]
    fn letters_are_found_by_text_and_number_and_sorted() {
        let index = index(&[
            letter(1, "e-1", "/b", 0),
            letter(2, "E-2", "/a", 3),
            letter(9, "e-3", "/a", 0),
        ]);
        let causes = index.causes();
        assert_eq!((causes.len(), causes[0].count), (1, 3));
        assert_eq!(find(&index, "", u64::MAX), [1, 2, 9]);
        assert_eq!(
            find(&index, "", 2),
            [1, 2],
            "what came after somebody looked is not meant"
        );
        assert_eq!(find(&index, "e-2", u64::MAX), [2]);
        assert_eq!(find(&index, "/A", u64::MAX), [2, 9]);
        let mut all = find(&index, "", u64::MAX);
        index.sort(&mut all, LetterOrder::Age, false);
        assert_eq!(all, [9, 2, 1]);
        index.sort(&mut all, LetterOrder::Redrives, false);
        assert_eq!(all[0], 2);
        index.sort(&mut all, LetterOrder::Key, true);
        assert_eq!(all, [2, 9, 1]);
    }

    #[test]
    fn a_letter_of_an_event_that_failed_again_is_outdated() {
        let index = index(&[
            letter(1, "e-1", "/b", 0),
            letter(2, "e-2", "/a", 0),
            letter(7, "e-1", "/b", 1),
        ]);
        assert_eq!(index.outdated(&[1, 2, 7]), BTreeMap::from([(1, 7)]));
    }
}
