//! Answers of the JetStream API as structs: streams, consumers, pages of both. The one place that knows the names of the
//! server's fields; one that an older server leaves out takes its default.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use oncue_proto::event;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::{ApiError, Bus, StoredMessage};

/// Error codes of the JetStream API that are told apart [nats-server `errors.json`].
pub mod code {
    /// A message that was asked to be deleted is not there.
    pub const SEQUENCE_NOT_FOUND: u64 = 10057;
    /// The account or the server is out of file or memory storage.
    pub const INSUFFICIENT_RESOURCES: u64 = 10023;
    pub const STORAGE_EXCEEDED: u64 = 10047;
    /// The message is larger than the stream accepts.
    pub const MESSAGE_TOO_LARGE: u64 = 10054;
    /// The stream could not store the message; with `discard: new` that it is full.
    pub const STORE_FAILED: u64 = 10077;
    /// The account's limit of bytes in a stream is reached.
    pub const STREAM_BYTES_EXCEEDED: u64 = 10122;
}

/// `STREAM.INFO`: a stream as it is.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct StreamInfo {
    /// RFC 3339; see [`created_ms`](Self::created_ms).
    created: String,
    pub config: StreamSettings,
    pub state: StreamState,
}

/// Settings of a stream that somebody reads. [`layout`](super::layout) compares all of them, as the server's own JSON.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct StreamSettings {
    pub name: String,
    pub max_bytes: i64,
    pub num_replicas: u64,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct StreamState {
    pub messages: u64,
    pub bytes: u64,
    pub first_seq: u64,
    pub last_seq: u64,
    pub consumer_count: u64,
    first_ts: String,
    last_ts: String,
    /// Messages by subject, where they were asked for.
    pub subjects: BTreeMap<String, u64>,
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
    /// Creation time, Unix milliseconds: part of the identity of plain messages.
    pub fn created_ms(&self) -> Option<u64> {
        event::parse_time(&self.created)
    }
}

/// `CONSUMER.INFO`: a consumer as it is.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct ConsumerInfo {
    pub stream_name: String,
    pub name: String,
    created: String,
    pub config: ConsumerSettings,
    pub delivered: SequencePair,
    /// Below it everything is acked.
    pub ack_floor: SequencePair,
    /// Messages not yet delivered.
    pub num_pending: u64,
    /// Messages delivered and not acked.
    pub num_ack_pending: u64,
    pub num_redelivered: u64,
    pub paused: bool,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct ConsumerSettings {
    /// Functions have durable consumers; whoever only looks on has not.
    pub durable_name: Option<String>,
    pub deliver_policy: String,
    filter_subject: Option<String>,
    filter_subjects: Vec<String>,
    /// Nanoseconds.
    pub ack_wait: u64,
}

impl ConsumerSettings {
    /// Subjects it filters, however that is written; none for all of the stream.
    pub fn filters(&self) -> impl Iterator<Item = &str> {
        let many = self.filter_subjects.iter().chain(&self.filter_subject);
        many.map(String::as_str).filter(|filter| !filter.is_empty())
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct SequencePair {
    pub consumer_seq: u64,
    pub stream_seq: u64,
}

impl ConsumerInfo {
    /// Creation time, Unix milliseconds.
    pub fn created_ms(&self) -> Option<u64> {
        event::parse_time(&self.created)
    }

    /// Messages that wait or are in some worker's hands.
    pub fn lag(&self) -> u64 {
        self.num_pending + self.num_ack_pending
    }

    pub fn is_idle(&self) -> bool {
        self.lag() == 0
    }

    /// Whether the message at `sequence` needs no more of this consumer.
    pub fn is_past(&self, sequence: u64) -> bool {
        self.is_idle() || self.ack_floor.stream_seq >= sequence
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Page {
    total: u64,
    streams: Vec<Value>,
    consumers: Vec<Value>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Names {
    total: u64,
    streams: Vec<String>,
}

#[derive(Deserialize)]
struct MessageAnswer {
    message: RawMessage,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawMessage {
    seq: u64,
    subject: String,
    time: String,
    hdrs: String,
    data: String,
}

impl Bus {
    pub async fn stream_info(&self, stream: &str) -> Result<StreamInfo, ApiError> {
        self.ask(&format!("STREAM.INFO.{stream}"), &Value::Null)
            .await
    }

    /// How many messages the stream holds of each subject that `filter` matches.
    pub async fn stream_subjects(
        &self,
        stream: &str,
        filter: &str,
    ) -> Result<BTreeMap<String, u64>, ApiError> {
        let question = json!({ "subjects_filter": filter });
        let info: StreamInfo = self
            .ask(&format!("STREAM.INFO.{stream}"), &question)
            .await?;
        Ok(info.state.subjects)
    }

    /// Every stream of the account, 256 in one answer.
    pub async fn streams(&self) -> Result<Vec<StreamInfo>, ApiError> {
        self.pages("STREAM.LIST", |page| page.streams).await
    }

    /// Names of all streams of the account.
    pub async fn stream_names(&self) -> Result<Vec<String>, ApiError> {
        let mut all = Vec::new();
        loop {
            let question = json!({ "offset": all.len() });
            let page: Names = self.ask("STREAM.NAMES", &question).await?;
            let more = !page.streams.is_empty();
            all.extend(page.streams);
            if !more || all.len() as u64 >= page.total {
                return Ok(all);
            }
        }
    }

    pub async fn consumer_info(
        &self,
        stream: &str,
        consumer: &str,
    ) -> Result<ConsumerInfo, ApiError> {
        self.ask(&format!("CONSUMER.INFO.{stream}.{consumer}"), &Value::Null)
            .await
    }

    /// Every consumer of a stream, 256 in one answer.
    pub async fn consumers(&self, stream: &str) -> Result<Vec<ConsumerInfo>, ApiError> {
        self.pages(&format!("CONSUMER.LIST.{stream}"), |page| page.consumers)
            .await
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

    async fn ask<T: DeserializeOwned>(
        &self,
        request: &str,
        question: &Value,
    ) -> Result<T, ApiError> {
        let answer = self.api(request, question).await?;
        serde_json::from_value(answer).map_err(unreadable)
    }
}

#[allow(clippy::needless_pass_by_value)] // for `map_err`
fn unreadable(e: serde_json::Error) -> ApiError {
    ApiError {
        code: 500,
        err_code: 0,
        description: format!("unreadable answer: {e}"),
    }
}

impl From<RawMessage> for StoredMessage {
    fn from(message: RawMessage) -> Self {
        let plain = |text: &str| STANDARD.decode(text).unwrap_or_default();
        let headers = String::from_utf8_lossy(&plain(&message.hdrs)).into_owned();
        let headers = headers.lines().skip(1).filter_map(|line| {
            let (name, value) = line.split_once(':')?;
            Some((name.to_owned(), value.trim().to_owned()))
        });
        Self {
            sequence: message.seq,
            time: event::parse_time(&message.time).unwrap_or(0),
            subject: message.subject,
            headers: headers.collect(),
            payload: plain(&message.data).into(),
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
