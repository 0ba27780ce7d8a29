//! Answers of the JetStream API as structs: streams, consumers, pages of both. The one place that knows the names of
//! the server's fields; one that an older server leaves out takes its default.

use std::collections::{BTreeMap, BTreeSet};

use crate::app::{AppName, OWNER};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use oncue_proto::event;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::layout::{CREATED, KEY};
use super::{ApiError, Bus, StoredMessage};

/// Error codes of the JetStream API that are told apart [nats-server `errors.json`].
pub mod code {
    /// A message that was asked to be deleted is not there.
    pub const SEQUENCE_NOT_FOUND: u64 = 10057;
    /// The last message of a subject is another one than the publisher expects; the second of a cluster, which says no more.
    pub const WRONG_LAST_SEQUENCE: u64 = 10071;
    pub const WRONG_LAST_SEQUENCE_NOW: u64 = 10164;
    /// The account has no room left; an operator may give it some.
    pub const ACCOUNT_RESOURCES_EXCEEDED: u64 = 10002;
    /// The account or the server is out of resources.
    pub const INSUFFICIENT_RESOURCES: u64 = 10023;
    /// The account or the server is out of file or memory storage.
    pub const STORAGE_EXCEEDED: u64 = 10047;
    /// The message is larger than the stream accepts.
    pub const MESSAGE_TOO_LARGE: u64 = 10054;
    /// The stream could not store the message; with `discard: new` that it is full.
    pub const STORE_FAILED: u64 = 10077;
    /// The account's limit of bytes in a stream is reached.
    pub const STREAM_BYTES_EXCEEDED: u64 = 10122;
}

/// Subjects that are asked for twice where a stream tells them in parts: far more than go between two answers.
const SUBJECTS_TWICE: u64 = 1000;

/// Subject on which a server tells a client who it is, and nothing of others.
pub const USER_INFO: &str = "$SYS.REQ.USER.INFO";

/// Answer to [`USER_INFO`].
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct UserInfo {
    /// Public key or name of the user.
    pub user: String,
    /// Account that it is in.
    pub account: String,
    /// Rights that it has; empty for all.
    pub permissions: UserPermissions,
}

/// Subjects that a user may publish and subscribe to.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct UserPermissions {
    pub publish: Allowed,
    pub subscribe: Allowed,
}

/// Subjects that are allowed, and those that are not all the same.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Allowed {
    pub allow: BTreeSet<String>,
    pub deny: BTreeSet<String>,
}

impl UserInfo {
    /// Whether nothing restricts it in its account.
    pub fn may_everything(&self) -> bool {
        let UserPermissions { publish, subscribe } = &self.permissions;
        [publish, subscribe]
            .iter()
            .all(|part| part.allow.is_empty() && part.deny.is_empty())
    }
}

/// Answer to `STREAM.INFO`: a stream as it is.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct StreamInfo {
    /// RFC 3339; see [`created_ms`](Self::created_ms).
    created: String,
    /// Settings that it has.
    pub config: StreamSettings,
    /// Messages that it holds.
    pub state: StreamState,
    cluster: ClusterInfo,
}

/// Followers of a stream's leader; none for a stream on one server.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct ClusterInfo {
    replicas: Vec<ReplicaInfo>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct ReplicaInfo {
    /// Whether the replica has all that the leader has.
    current: bool,
    offline: bool,
}

/// Settings of a stream that somebody reads. [`layout`](super::layout) compares all of them, as the server's own JSON.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct StreamSettings {
    /// Name of the stream: the domain, for those of events.
    pub name: String,
    /// Most bytes it may hold; -1 for any number.
    pub max_bytes: i64,
    /// Notes of whoever made it, and of the server.
    metadata: BTreeMap<String, String>,
    /// Servers that hold a copy.
    pub num_replicas: u64,
    sources: Vec<SourceSettings>,
}

/// Stream from which another one takes messages over.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct SourceSettings {
    name: String,
}

/// Messages in a stream, as of the answer.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct StreamState {
    /// Number of messages.
    pub messages: u64,
    /// Bytes on disk, with headers and the server's own.
    pub bytes: u64,
    /// Sequence of the first message that is still there.
    pub first_seq: u64,
    /// Sequence of the last message ever taken; 0 for none.
    pub last_seq: u64,
    /// Number of consumers, durable or not.
    pub consumer_count: u64,
    first_ts: String,
    last_ts: String,
    /// Messages by subject, where they were asked for.
    pub subjects: BTreeMap<String, u64>,
    /// Messages between the first and the last that are not there any more.
    pub num_deleted: u64,
    /// Their sequences in order, where they were asked for.
    pub deleted: Vec<u64>,
}

impl StreamState {
    /// When the stream took its first message, Unix milliseconds; 0 where it cannot be told.
    pub fn first_ms(&self) -> u64 {
        event::parse_time(&self.first_ts).unwrap_or(0)
    }

    /// When the stream took its last message, Unix milliseconds; 0 where it cannot be told.
    pub fn last_ms(&self) -> u64 {
        event::parse_time(&self.last_ts).unwrap_or(0)
    }
}

impl StreamInfo {
    /// Creation time, Unix milliseconds: part of the identity of plain messages. Of a stream that was restored from a backup
    /// that of the one in the backup, since its messages are the same.
    pub fn created_ms(&self) -> Option<u64> {
        let noted = self.config.metadata.get(CREATED);
        let noted = noted.and_then(|noted| noted.parse().ok());
        noted.or_else(|| event::parse_time(&self.created))
    }

    /// Copies that have all of the stream, the leader's among them: it answers.
    pub fn current_copies(&self) -> u64 {
        let replicas = self.cluster.replicas.iter();
        let current = replicas.filter(|replica| replica.current && !replica.offline);
        current.count() as u64 + 1
    }
}

/// Answer to `CONSUMER.INFO`: a consumer as it is.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct ConsumerInfo {
    /// Stream that it reads.
    pub stream_name: String,
    /// Name of the function, for one of ours.
    pub name: String,
    /// RFC 3339; see [`created_ms`](Self::created_ms).
    created: String,
    /// Settings that it has.
    pub config: ConsumerSettings,
    /// Last message that was delivered.
    pub delivered: SequencePair,
    /// Last message below which everything is acked.
    pub ack_floor: SequencePair,
    /// Messages not yet delivered.
    pub num_pending: u64,
    /// Messages delivered and not acked.
    pub num_ack_pending: u64,
    /// Messages delivered more than once and not acked.
    pub num_redelivered: u64,
    /// Whether it delivers nothing for now.
    pub paused: bool,
}

/// Settings of a consumer that somebody reads.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct ConsumerSettings {
    /// Functions have durable consumers; programs that only look on have not.
    pub durable_name: Option<String>,
    /// `all`, `new` or another word of the server: where in the stream it began.
    pub deliver_policy: String,
    /// Filter of a consumer that was made with one.
    filter_subject: Option<String>,
    /// Filters of a consumer that was made with several.
    filter_subjects: Vec<String>,
    /// Nanoseconds without an ack after which a message is delivered again.
    pub ack_wait: u64,
    /// RFC 3339; see [`pause_end_ms`](Self::pause_end_ms).
    pause_until: Option<String>,
    metadata: BTreeMap<String, String>,
}

impl StreamSettings {
    /// Whether a stream is this app's, or nobody's.
    pub fn is_of(&self, app: &AppName) -> bool {
        let owner = self.metadata.get(OWNER);
        owner.is_none_or(|owner| owner == app.as_str())
    }

    /// Whether the stream takes messages over from this one.
    pub fn takes_from(&self, stream: &str) -> bool {
        self.sources.iter().any(|source| source.name == stream)
    }

    /// App that a stream says it is of.
    pub fn owner(&self) -> Option<&str> {
        self.metadata.get(OWNER).map(String::as_str)
    }

    /// Whether a stream says that it is this app's.
    pub fn is_owned_by(&self, app: &AppName) -> bool {
        let owner = self.metadata.get(OWNER);
        owner.is_some_and(|owner| owner == app.as_str())
    }
}

impl ConsumerSettings {
    /// End of its last pause, Unix milliseconds.
    pub fn pause_end_ms(&self) -> Option<u64> {
        event::parse_time(self.pause_until.as_deref()?)
    }

    /// Name of the key that its function gives its events; `None` for their own.
    pub fn key(&self) -> Option<&str> {
        let key = self.metadata.get(KEY)?.as_str();
        (!key.is_empty()).then_some(key)
    }

    /// Subjects it filters, however that is written; none for all of the stream.
    pub fn filters(&self) -> impl Iterator<Item = &str> {
        let many = self.filter_subjects.iter().chain(&self.filter_subject);
        many.map(String::as_str).filter(|filter| !filter.is_empty())
    }
}

/// Position of a message, twice.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct SequencePair {
    /// Among the deliveries of the consumer, from 1.
    pub consumer_seq: u64,
    /// In the stream.
    pub stream_seq: u64,
}

impl ConsumerInfo {
    /// Creation time, Unix milliseconds.
    pub fn created_ms(&self) -> Option<u64> {
        event::parse_time(&self.created)
    }

    /// Time since which it is given messages, Unix milliseconds; 0 where it was given all that its stream held.
    pub fn began_ms(&self) -> u64 {
        match self.config.deliver_policy.as_str() {
            "new" => self.created_ms().unwrap_or(0),
            _ => 0,
        }
    }

    /// Messages that wait or are in flight.
    pub fn lag(&self) -> u64 {
        self.num_pending + self.num_ack_pending
    }

    /// Whether nothing waits and nothing is in flight.
    pub fn is_idle(&self) -> bool {
        self.lag() == 0
    }

    /// Whether the message at `sequence` needs no more of this consumer.
    pub fn is_past(&self, sequence: u64) -> bool {
        self.is_idle() || self.ack_floor.stream_seq >= sequence
    }
}

/// Page of a list; `total` counts the whole list.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Page {
    total: u64,
    streams: Vec<Value>,
    consumers: Vec<Value>,
}

/// Page of the list of names.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Names {
    total: u64,
    /// `null` where there is none.
    streams: Option<Vec<String>>,
}

/// Part of the subjects of a stream.
#[derive(Deserialize)]
struct SubjectsAnswer {
    /// Subjects that match, in all parts.
    #[serde(default)]
    total: u64,
    state: StreamState,
}

/// Subjects of a stream, which the server tells in parts of 100,000, each from an offset into what it has in order then.
#[derive(Default)]
struct SubjectParts {
    subjects: BTreeMap<String, u64>,
    /// Offset of the next part.
    offset: u64,
}

impl SubjectParts {
    /// Takes a part in, and says whether there are no more.
    fn is_last(&mut self, part: SubjectsAnswer, twice: u64) -> bool {
        let subjects = part.state.subjects;
        let end = self.offset + subjects.len() as u64;
        let is_last = subjects.is_empty() || end >= part.total;
        self.subjects.extend(subjects);
        // Some twice, since what goes meanwhile moves the others forward; but further on each time, or it would not end where
        // more come.
        self.offset = end.saturating_sub(twice).max(self.offset + 1);
        is_last
    }
}

#[derive(Deserialize)]
/// Answer to `STREAM.MSG.GET`.
struct MessageAnswer {
    message: RawMessage,
}

/// Message of a stream as the server writes it.
#[derive(Default, Deserialize)]
#[serde(default)]
struct RawMessage {
    seq: u64,
    subject: String,
    /// RFC 3339.
    time: String,
    /// Header block, in base64.
    hdrs: String,
    /// Payload, in base64.
    data: String,
}

impl Bus {
    /// Stream by its name; a 404 where there is none.
    pub async fn stream_info(&self, stream: &str) -> Result<StreamInfo, ApiError> {
        self.ask(&format!("STREAM.INFO.{stream}"), &Value::Null)
            .await
    }

    /// The stream with the sequences of what was deleted inside it.
    pub async fn stream_with_deleted(&self, stream: &str) -> Result<StreamInfo, ApiError> {
        let info = self.stream_info(stream).await?;
        if info.state.num_deleted == 0 {
            return Ok(info);
        }
        let question = json!({ "deleted_details": true });
        self.ask(&format!("STREAM.INFO.{stream}"), &question).await
    }

    /// Messages that the stream holds of each subject that `filter` matches. A subject that comes or goes meanwhile may be there
    /// or not; one that stays is there.
    pub async fn stream_subjects(
        &self,
        stream: &str,
        filter: &str,
    ) -> Result<BTreeMap<String, u64>, ApiError> {
        let mut found = SubjectParts::default();
        loop {
            let question = json!({ "subjects_filter": filter, "offset": found.offset });
            let part = self
                .ask(&format!("STREAM.INFO.{stream}"), &question)
                .await?;
            if found.is_last(part, SUBJECTS_TWICE) {
                return Ok(found.subjects);
            }
        }
    }

    /// Every stream of the account. The server sends 256 in one answer.
    pub async fn streams(&self) -> Result<Vec<StreamInfo>, ApiError> {
        self.pages("STREAM.LIST", |page| page.streams).await
    }

    /// Names of all streams of the account.
    pub async fn stream_names(&self) -> Result<Vec<String>, ApiError> {
        let mut all = Vec::new();
        loop {
            let question = json!({ "offset": all.len() });
            let page: Names = self.ask("STREAM.NAMES", &question).await?;
            let names = page.streams.unwrap_or_default();
            let more = !names.is_empty();
            all.extend(names);
            if !more || all.len() as u64 >= page.total {
                return Ok(all);
            }
        }
    }

    /// Names of the streams that hold a subject; several only where they mirror each other.
    pub async fn streams_of_subject(&self, subject: &str) -> Result<Vec<String>, ApiError> {
        let question = json!({ "subject": subject });
        let answer: Value = self.ask("STREAM.NAMES", &question).await?;
        // `null` where there is none.
        let names = answer["streams"].as_array().cloned().unwrap_or_default();
        let names = names.iter().filter_map(Value::as_str);
        Ok(names.map(str::to_owned).collect())
    }

    /// Consumer of a function of the app; a 404 where there is none.
    pub async fn consumer_info(
        &self,
        stream: &str,
        function: &str,
    ) -> Result<ConsumerInfo, ApiError> {
        let consumer = self.app().consumer(function);
        self.ask(&format!("CONSUMER.INFO.{stream}.{consumer}"), &Value::Null)
            .await
    }

    /// Every consumer of a stream. The server sends 256 in one answer.
    pub async fn consumers(&self, stream: &str) -> Result<Vec<ConsumerInfo>, ApiError> {
        self.pages(&format!("CONSUMER.LIST.{stream}"), |page| page.consumers)
            .await
    }

    /// Consumers of the app's functions on a stream, each with the function as its name: not those of other apps, nor of
    /// whoever only looks on.
    pub async fn function_consumers(&self, stream: &str) -> Result<Vec<ConsumerInfo>, ApiError> {
        let consumers = self.consumers(stream).await?;
        let named = consumers.into_iter().filter_map(|mut info| {
            let durable = info.config.durable_name.as_deref()?;
            info.name = self.app().function_of(durable)?.to_owned();
            Some(info)
        });
        Ok(named.collect())
    }

    /// Whether a function has a consumer, that is, whether anybody will ever act on what waits for it.
    pub async fn has_consumer(&self, stream: &str, function: &str) -> Result<bool, ApiError> {
        match self.consumer_info(stream, function).await {
            Ok(_) => Ok(true),
            Err(e) if e.is_not_found() => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// First message at or after `sequence` whose subject `filter` matches; `None` when there is none.
    pub async fn next_message(
        &self,
        stream: &str,
        sequence: u64,
        filter: &str,
    ) -> Result<Option<StoredMessage>, ApiError> {
        let question = json!({ "seq": sequence, "next_by_subj": filter });
        self.stored_message(stream, &question).await
    }

    /// Last message of a subject; `None` when there is none.
    pub async fn last_message(
        &self,
        stream: &str,
        subject: &str,
    ) -> Result<Option<StoredMessage>, ApiError> {
        let question = json!({ "last_by_subj": subject });
        self.stored_message(stream, &question).await
    }

    /// The message at a sequence, from the stream's leader, which has all that was acked; `None` when it is gone.
    pub async fn message_at(
        &self,
        stream: &str,
        sequence: u64,
    ) -> Result<Option<StoredMessage>, ApiError> {
        self.stored_message(stream, &json!({ "seq": sequence }))
            .await
    }

    /// Message that a question to `STREAM.MSG.GET` leads to; `None` when there is none.
    async fn stored_message(
        &self,
        stream: &str,
        question: &Value,
    ) -> Result<Option<StoredMessage>, ApiError> {
        let request = format!("STREAM.MSG.GET.{stream}");
        match self.ask::<MessageAnswer>(&request, question).await {
            Ok(answer) => Ok(Some(answer.message.into())),
            Err(e) if e.is_not_found() => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// All items of a list that comes in pages.
    async fn pages<T: DeserializeOwned>(
        &self,
        request: &str,
        part: fn(Page) -> Vec<Value>,
    ) -> Result<Vec<T>, ApiError> {
        let mut all = Vec::new();
        loop {
            let page: Page = self.ask(request, &json!({ "offset": all.len() })).await?;
            let total = page.total;
            let part = part(page);
            let more = !part.is_empty();
            for item in part {
                all.push(serde_json::from_value(item).map_err(unreadable)?);
            }
            if !more || all.len() as u64 >= total {
                return Ok(all);
            }
        }
    }

    /// One request to the JetStream API, with its answer as `T`; 500 where it is of another form.
    pub(super) async fn ask<T: DeserializeOwned>(
        &self,
        request: &str,
        question: &Value,
    ) -> Result<T, ApiError> {
        let answer = self.api(request, question).await?;
        serde_json::from_value(answer).map_err(unreadable)
    }
}

/// Error of an answer in another form than the server's API has.
#[allow(clippy::needless_pass_by_value)] // for `map_err`
fn unreadable(e: serde_json::Error) -> ApiError {
    ApiError {
        code: 500,
        err_code: 0,
        description: format!("unreadable answer: {e}"),
    }
}

/// Bytes of a part; none of one that is not base64.
fn decode_base64(text: &str) -> Vec<u8> {
    STANDARD.decode(text).unwrap_or_default()
}

impl From<RawMessage> for StoredMessage {
    fn from(message: RawMessage) -> Self {
        let block = decode_base64(&message.hdrs);
        let headers = String::from_utf8_lossy(&block);
        let headers = headers.lines().skip(1).filter_map(|line| {
            let (name, value) = line.split_once(':')?;
            Some((name.to_owned(), value.trim().to_owned()))
        });
        Self {
            sequence: message.seq,
            time: event::parse_time(&message.time).unwrap_or(0),
            subject: message.subject,
            headers: headers.collect(),
            payload: decode_base64(&message.data).into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_left_out_take_their_defaults() {
        let stream: StreamInfo =
            serde_json::from_value(json!({ "state": { "last_seq": 7 } })).expect("a stream");
        assert_eq!((stream.state.last_seq, stream.state.bytes), (7, 0));
        assert_eq!(stream.created_ms(), None);
        let consumer: ConsumerInfo = serde_json::from_value(
            json!({ "name": "f", "num_pending": 2, "num_ack_pending": 1, "ack_floor": { "stream_seq": 5 } }),
        )
        .expect("a consumer");
        assert_eq!((consumer.lag(), consumer.is_past(5)), (3, true));
        assert!(!consumer.is_past(6));
    }

    /// Asks for subjects three at a time, one of them twice, of a stream that `change` changes after each answer.
    fn asked(
        there: &mut BTreeSet<String>,
        mut change: impl FnMut(&mut BTreeSet<String>),
    ) -> BTreeMap<String, u64> {
        let mut found = SubjectParts::default();
        for _ in 0..100 {
            let part = there.iter().skip(found.offset as usize).take(3);
            let state = StreamState {
                subjects: part.map(|subject| (subject.clone(), 1)).collect(),
                ..StreamState::default()
            };
            let total = there.len() as u64;
            if found.is_last(SubjectsAnswer { total, state }, 1) {
                return found.subjects;
            }
            change(there);
        }
        panic!("it goes on and on");
    }

    fn subjects(numbers: std::ops::Range<u64>) -> BTreeSet<String> {
        numbers.map(|n| format!("s{n:04}")).collect()
    }

    #[test]
    fn subjects_come_to_an_end_while_more_come() {
        let stay = subjects(500..520);
        let mut first = 500;
        let found = asked(&mut stay.clone(), |there| {
            first -= 1;
            there.extend(subjects(first..first + 1));
        });
        assert!(
            stay.iter().all(|stays| found.contains_key(stays)),
            "{found:?}"
        );
    }

    #[test]
    fn a_subject_that_stays_is_found_while_others_go() {
        let mut there = subjects(0..20);
        let found = asked(&mut there, |there| {
            there.pop_first();
        });
        assert!(
            there.iter().all(|stays| found.contains_key(stays)),
            "{found:?}"
        );
    }

    #[test]
    fn a_stored_message_is_read_with_its_headers() {
        let headers = STANDARD.encode("NATS/1.0\r\nce-id: a\r\nx: b:c\r\n\r\n");
        let raw: RawMessage = serde_json::from_value(json!({
            "seq": 3, "subject": "web.page.viewed", "time": "2026-01-01T00:00:00Z",
            "hdrs": headers, "data": STANDARD.encode("{}"),
        }))
        .expect("a message");
        let message = StoredMessage::from(raw);
        assert_eq!(
            (message.header("CE-ID"), message.header("x")),
            (Some("a"), Some("b:c"))
        );
        assert_eq!((message.sequence, &message.payload[..]), (3, &b"{}"[..]));
    }
}
