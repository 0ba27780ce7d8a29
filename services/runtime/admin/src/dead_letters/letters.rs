//! The dead letters as the stream `dlq` holds them, in groups of one cause.
//!
//! Reads go straight to the stream, 256 messages in one request, without a consumer. Any replica answers, and one
//! may lag behind by a moment: a letter that was written just now may be missing, and one that was deleted just now
//! may still be there.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use oncue_proto::oncue::v1::{DeadLetter, Envelope};
use prost::Message as _;

use super::fingerprint::fingerprint;
use super::ms;
use crate::AdminError;
use oncue_core::app::AppName;
use oncue_core::bus::info::StreamState;
use oncue_core::bus::layout::DLQ;
use oncue_core::bus::{Bus, BusError, StoredMessage};

/// Reason of the letter of an output that no stream would take.
const UNPUBLISHABLE: &str = "unpublishable";

/// A dead letter and its place.
#[derive(Debug, Clone)]
pub struct Letter {
    /// Sequence in the stream `dlq`, which names it.
    pub number: u64,
    /// The letter itself: the event, and why it was set aside.
    /// Protobuf `oncue.v1.DeadLetter`, whole and as the worker wrote it.
    pub content: DeadLetter,
    /// Fingerprint of its cause.
    /// Eight hexadecimal digits; computed here and stored nowhere, so a new rule regroups old letters too.
    pub group: String,
    /// Of the letter's own message: the trace in which the function failed.
    /// W3C form; `None` where the letter came without one.
    pub traceparent: Option<String>,
}

impl Letter {
    /// A letter with the fingerprint of its cause.
    pub fn of(number: u64, content: DeadLetter, traceparent: Option<String>) -> Self {
        Self {
            number,
            group: fingerprint(&content),
            content,
            traceparent,
        }
    }

    /// Whether it holds an output that no stream took, and no event for its function.
    pub fn is_of_output(&self) -> bool {
        self.content.reason == UNPUBLISHABLE
    }

    /// `None` for what is no letter of the app: one of another app, records of dropped ones, and whatever else somebody
    /// has published there.
    pub fn read(app: &AppName, message: &StoredMessage) -> Option<Self> {
        app.function_of_letter(&message.subject)?;
        let letter = DeadLetter::decode(&message.payload[..])
            .ok()
            .filter(|letter| !letter.function.is_empty())?;
        let traceparent = message.header("traceparent").map(str::to_owned);
        Some(Self::of(message.sequence, letter, traceparent))
    }

    /// The message as it came, without its payload where the letter was too large to hold it.
    pub fn envelope(&self) -> Envelope {
        self.content.envelope.clone().unwrap_or_default()
    }

    /// Trace in which the function failed, if it was sampled.
    pub fn trace_id(&self) -> Option<&str> {
        self.traceparent.as_deref()?.split('-').nth(1)
    }

    /// When it was set aside, Unix milliseconds.
    pub fn at(&self) -> u64 {
        ms(self.content.at.as_ref())
    }
}

pub use oncue_core::model::letter::message_of;

/// Which letters somebody asks for; by default all.
#[derive(Debug, Clone, Default)]
pub struct LetterFilter {
    /// Only letters of this function.
    pub function: Option<String>,
    /// Only letters with this class of reason.
    pub reason: Option<String>,
}

impl LetterFilter {
    /// Whether it asks for this letter.
    pub fn passes(&self, letter: &Letter) -> bool {
        let function = self.function.as_ref();
        let reason = self.reason.as_ref();
        function.is_none_or(|wanted| *wanted == letter.content.function)
            && reason.is_none_or(|wanted| *wanted == letter.content.reason)
    }
}

/// Letters a person means by a word: a number (`12`, `#12`) comes before a group, that before an event id, and that before a function.
/// Empty where nothing is meant. An event that failed in two functions has two letters, and both are meant.
pub fn meant_by<'l>(target: &str, letters: &'l [Letter]) -> Vec<&'l Letter> {
    // As written, so that a group of digits with zeros in front is a group.
    let number = target.strip_prefix('#').unwrap_or(target);
    let ways: [fn(&Letter) -> String; 4] = [
        |letter| letter.number.to_string(),
        |letter| letter.group.clone(),
        |letter| letter.content.event_id.clone(),
        |letter| letter.content.function.clone(),
    ];
    for (name, wanted) in ways.into_iter().zip([number, target, target, target]) {
        let found: Vec<&Letter> = letters.iter().filter(|l| name(l) == wanted).collect();
        if !found.is_empty() {
            return found;
        }
    }
    Vec::new()
}

/// Letters of one cause, oldest first; never none.
pub struct LetterGroup<'l> {
    /// Fingerprint of the cause.
    pub name: &'l str,
    pub letters: Vec<&'l Letter>,
}

impl LetterGroup<'_> {
    /// The letter that came last: it speaks for the group.
    pub fn latest(&self) -> &Letter {
        self.letters[self.letters.len() - 1]
    }

    /// When the first and the last of them were set aside, Unix milliseconds.
    pub fn span(&self) -> (u64, u64) {
        let times = || self.letters.iter().map(|letter| letter.at());
        (times().min().unwrap_or(0), times().max().unwrap_or(0))
    }
}

/// Groups of one cause each, the largest first.
/// Groups of one size stand by their fingerprints, so that a list does not jump between two looks.
pub fn grouped<'l>(letters: impl IntoIterator<Item = &'l Letter>) -> Vec<LetterGroup<'l>> {
    let mut groups: BTreeMap<&str, Vec<&Letter>> = BTreeMap::new();
    for letter in letters {
        groups.entry(&letter.group).or_default().push(letter);
    }
    let mut groups: Vec<LetterGroup> = groups
        .into_iter()
        .map(|(name, letters)| LetterGroup { name, letters })
        .collect();
    groups.sort_by_key(|group| Reverse(group.letters.len()));
    groups
}

/// The newest letters.
#[derive(Debug, Default)]
pub struct LatestLetters {
    /// Oldest first.
    pub letters: Vec<Letter>,
    /// Messages of the stream that lie before those.
    /// Records of dropped letters are counted among them.
    pub before: u64,
}

/// State of the stream; nothing where there is no such stream yet.
async fn state(bus: &Bus) -> Result<StreamState, AdminError> {
    match bus.stream_info(DLQ).await {
        Ok(info) => Ok(info.state),
        Err(e) if e.is_not_found() => Ok(StreamState::default()),
        Err(e) => Err(AdminError::api(format!("stream {DLQ}"), e)),
    }
}

/// Every message of the stream from sequence `from` on.
pub(super) async fn read(bus: &Bus, from: u64) -> Result<Vec<StoredMessage>, AdminError> {
    if state(bus).await?.last_seq < from {
        return Ok(Vec::new());
    }
    Ok(read_to_end(bus, from).await?)
}

/// Messages from `from` to the end, a few hundred at a time.
async fn read_to_end(bus: &Bus, from: u64) -> Result<Vec<StoredMessage>, BusError> {
    let mut all = Vec::new();
    let mut next = from;
    loop {
        let batch = bus.read_stream(DLQ, next).await?;
        let Some(last) = batch.last() else {
            return Ok(all);
        };
        next = last.sequence + 1;
        all.extend(batch);
    }
}

/// Whether letters of a reason are about an event whose id another one has, or about an output: the mark of the id is not theirs.
pub(super) fn says_nothing_of_its_id(reason: &str) -> bool {
    ["id_reuse", "unpublishable"].contains(&reason)
}

/// All letters, oldest first; none where there is no stream of them yet.
///
/// The whole stream in memory: one request for 256 letters, each with the event it holds. For programs that end;
/// one that stays asks for the [`latest`].
///
/// # Errors
/// NATS does not answer. A missing stream is no error.
pub async fn all(bus: &Bus) -> Result<Vec<Letter>, AdminError> {
    let messages = read(bus, 1).await?;
    Ok(messages
        .iter()
        .filter_map(|message| Letter::read(bus.app(), message))
        .collect())
}

/// The letters among the last `window` messages of the stream.
///
/// Costs as much as `window` allows, however many letters there are. Fewer than `window` come back where letters
/// were deleted or records lie among them: the window counts sequences.
pub async fn latest(bus: &Bus, window: u64) -> Result<LatestLetters, AdminError> {
    let state = state(bus).await?;
    if state.messages == 0 {
        return Ok(LatestLetters::default());
    }
    let from = (state.last_seq + 1)
        .saturating_sub(window)
        .max(state.first_seq);
    let messages = read_to_end(bus, from).await?;
    Ok(LatestLetters {
        letters: messages
            .iter()
            .filter_map(|message| Letter::read(bus.app(), message))
            .collect(),
        before: state.messages.saturating_sub(messages.len() as u64),
    })
}

/// Number of letters of each function; the server counts them by subject.
///
/// One `STREAM.INFO` with a subject filter and no message read, so it may be asked every few seconds. Only
/// functions with a letter are in it.
pub async fn counts(bus: &Bus) -> Result<BTreeMap<String, u64>, AdminError> {
    let app = bus.app();
    match bus.stream_subjects(DLQ, &app.letters("*")).await {
        Ok(subjects) => Ok(subjects
            .into_iter()
            .filter_map(|(subject, count)| {
                Some((app.function_of_letter(&subject)?.to_owned(), count))
            })
            .collect()),
        Err(e) if e.is_not_found() => Ok(BTreeMap::new()),
        Err(e) => Err(AdminError::api(format!("stream {DLQ}"), e)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn letter(number: u64, event: &str, group: &str) -> Letter {
        let content = DeadLetter {
            function: "f".into(),
            event_id: event.into(),
            ..DeadLetter::default()
        };
        Letter {
            group: group.into(),
            ..Letter::of(number, content, None)
        }
    }

    #[test]
    fn a_target_is_a_number_a_group_or_an_event() {
        let letters = [
            letter(1, "e-1", "00000012"),
            letter(12, "e-2", "00000012"),
            letter(13, "1", "ab12cd34"),
        ];
        let meant = |target| {
            let found = meant_by(target, &letters);
            found.iter().map(|letter| letter.number).collect::<Vec<_>>()
        };
        assert_eq!(meant("12"), [12]);
        assert_eq!(meant("#13"), [13]);
        assert_eq!(meant("ab12cd34"), [13]);
        assert_eq!(meant("e-1"), [1]);
        assert_eq!(meant("1"), [1], "the letter, not the event called 1");
        assert_eq!(
            meant("00000012"),
            [1, 12],
            "a group, for no number has zeros in front"
        );
        assert!(meant("nobody").is_empty());
    }

    #[test]
    fn records_of_dropped_letters_are_no_letters() {
        let app = AppName::default();
        let message = |subject: &str| StoredMessage {
            sequence: 7,
            time: 0,
            subject: subject.into(),
            headers: vec![("traceparent".into(), "00-abc-def-01".into())],
            payload: letter(7, "e", "").content.encode_to_vec().into(),
        };
        assert!(Letter::read(&app, &message("dlq.letter.dropped")).is_none());
        let read = Letter::read(&app, &message("dlq.app.f")).unwrap();
        assert!(Letter::read(&app, &message("dlq.shop.f")).is_none());
        assert_eq!((read.number, read.trace_id()), (7, Some("abc")));
    }
}
