//! Reading streams without a consumer: for audits, dead letters, recovery, and searches by time.

use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use serde::Deserialize as _;
use serde_json::{Value, json};

use super::info::{ConsumerInfo, code};
use super::{ApiError, Bus, BusError, failed, headers};
use oncue_proto::event::{self, Incoming, Origin};

/// Messages for one request.
const MESSAGES_AT_A_TIME: usize = 256;
/// Longest wait for the next message of an answer.
const MESSAGE_TIMEOUT: Duration = Duration::from_secs(10);

/// Message as a stream holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredMessage {
    /// Sequence in the stream, from 1.
    pub sequence: u64,
    /// When the stream took it, Unix milliseconds.
    pub time: u64,
    /// Subject under which the stream holds it, after its transforms.
    pub subject: String,
    /// Names and values; a name may stand there twice.
    pub headers: Vec<(String, String)>,
    /// Payload as it was published.
    pub payload: Bytes,
}

/// Messages of one answer, in order.
#[derive(Debug, Default)]
pub struct ReadBatch {
    pub messages: Vec<StoredMessage>,
    /// Messages of the subject behind the last one.
    pub left: u64,
}

impl StoredMessage {
    /// First value of a header, whose name is compared without case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(n, _)| n.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    /// Event that the message is, in a stream made at `stream_created` (Unix ms), which is part of the identity of
    /// plain messages. Fails with the reason for people.
    pub fn read(&self, stream: &str, stream_created: u64) -> Result<Incoming, String> {
        let origin = Origin {
            stream,
            stream_created,
            sequence: self.sequence,
            published: self.time,
            subject: &self.subject,
        };
        let headers = self
            .headers
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()));
        event::read(headers, self.payload.clone(), &origin).map_err(|e| e.message)
    }
}

/// Part of a stream to read.
#[derive(Debug, Clone)]
pub struct Slice<'s> {
    /// First sequence; does not count where `since` is set.
    pub from: u64,
    /// Only what the stream took then or later, Unix milliseconds.
    pub since: Option<u64>,
    /// Only of this subject; may hold wildcards.
    pub subject: &'s str,
    /// Most messages.
    pub messages: usize,
    /// Most bytes, 0 for any number: the server stops once it has sent this much.
    pub bytes: usize,
}

impl Bus {
    /// Up to 256 messages from sequence `from` on, in order; none at the end of the stream.
    pub async fn read_stream(
        &self,
        stream: &str,
        from: u64,
    ) -> Result<Vec<StoredMessage>, BusError> {
        self.read_slice(
            stream,
            &Slice {
                from,
                since: None,
                subject: ">",
                messages: MESSAGES_AT_A_TIME,
                bytes: 0,
            },
        )
        .await
    }

    /// First messages of a slice, in order; none where there are none. One request, one answer for each message; any
    /// replica answers, and one may lag behind. Fails where the next message does not come within 10 s.
    pub async fn read_slice(
        &self,
        stream: &str,
        slice: &Slice<'_>,
    ) -> Result<Vec<StoredMessage>, BusError> {
        Ok(self.read_batch(stream, slice).await?.messages)
    }

    /// As [`read_slice`](Self::read_slice), with what the server says is left: it ends a batch before its number is reached
    /// where the bytes are too many for it.
    pub async fn read_batch(&self, stream: &str, slice: &Slice<'_>) -> Result<ReadBatch, BusError> {
        let mut query = json!({ "next_by_subj": slice.subject, "batch": slice.messages });
        match slice.since {
            Some(time) => query["start_time"] = event::format_time(time).into(),
            None => query["seq"] = slice.from.max(1).into(),
        }
        if slice.bytes > 0 {
            query["max_bytes"] = slice.bytes.into();
        }
        let inbox = self.client.new_inbox();
        let mut answers = self
            .client
            .subscribe(inbox.clone())
            .await
            .map_err(|e| failed(stream, e))?;
        let request = self.api_subject(format_args!("DIRECT.GET.{stream}"));
        let asked = self
            .client
            .publish_with_reply(request, inbox, query.to_string().into())
            .await;
        asked.map_err(|e| failed(stream, e))?;
        let mut batch = ReadBatch::default();
        loop {
            let answer = tokio::time::timeout(MESSAGE_TIMEOUT, answers.next()).await;
            let answer = answer
                .map_err(|e| failed(stream, e))?
                .ok_or_else(|| failed(stream, "connection closed"))?;
            // A message has no status; the end of the batch is one.
            match answer.status.map(|status| status.as_u16()) {
                None => {}
                Some(204 | 404) => return Ok(batch), // end of batch, nothing there
                Some(other) => {
                    return Err(failed(
                        stream,
                        format_args!("{other} {}", answer.description.unwrap_or_default()),
                    ));
                }
            }
            let mut found = StoredMessage::empty(answer.payload.clone());
            for (name, value) in headers(&answer) {
                match name {
                    "Nats-Sequence" => found.sequence = value.parse().unwrap_or(0),
                    "Nats-Time-Stamp" => found.time = event::parse_time(value).unwrap_or(0),
                    "Nats-Subject" => value.clone_into(&mut found.subject),
                    "Nats-Num-Pending" => batch.left = value.parse().unwrap_or(0),
                    "Nats-Stream" | "Nats-Last-Sequence" => {}
                    _ => found.headers.push((name.to_owned(), value.to_owned())),
                }
            }
            batch.messages.push(found);
        }
    }

    /// Payload of the last message of a subject, from any replica; `None` where there is none.
    pub async fn last_by_subject(
        &self,
        stream: &str,
        subject: &str,
    ) -> Result<Option<Bytes>, BusError> {
        let request = self.api_subject(format_args!("DIRECT.GET.{stream}.{subject}"));
        let answer = self.client.request(request, Bytes::new()).await;
        let answer = answer.map_err(|e| failed(stream, e))?;
        match answer.status.map(|status| status.as_u16()) {
            None => Ok(Some(answer.payload)),
            Some(404) => Ok(None),
            Some(other) => {
                let why = answer.description.unwrap_or_default();
                Err(failed(stream, format_args!("{other} {why}")))
            }
        }
    }

    /// Message by its sequence, from any replica; `None` when it is gone. [`message_at`](Self::message_at) asks the
    /// leader.
    pub async fn read_message(
        &self,
        stream: &str,
        sequence: u64,
    ) -> Result<Option<StoredMessage>, BusError> {
        let slice = Slice {
            from: sequence,
            since: None,
            subject: ">",
            messages: 1,
            bytes: 0,
        };
        let batch = self.read_slice(stream, &slice).await?;
        Ok(batch
            .into_iter()
            .next()
            .filter(|found| found.sequence == sequence))
    }

    /// Deletes one message from its stream, without overwriting its bytes on disk; one that is not there is deleted
    /// already.
    pub async fn delete_message(&self, stream: &str, sequence: u64) -> Result<(), ApiError> {
        let body = json!({ "seq": sequence, "no_erase": true });
        match self
            .api(&format!("STREAM.MSG.DELETE.{stream}"), &body)
            .await
        {
            Err(e) if e.err_code == code::SEQUENCE_NOT_FOUND || e.is_not_found() => Ok(()), // gone already
            other => other.map(|_| ()),
        }
    }

    /// Sequence of the first message that the stream took at `since` (Unix ms) or later, one past the last if there
    /// is none; `None` for an empty stream. A binary search, about 30 requests for a billion messages: times grow
    /// with sequences.
    pub async fn first_since(&self, stream: &str, since: u64) -> Result<Option<u64>, ApiError> {
        let state = self.stream_info(stream).await?.state;
        if state.messages == 0 {
            return Ok(None);
        }
        let mut low = state.first_seq;
        let mut high = state.last_seq + 1;
        while low < high {
            let middle = low.midpoint(high);
            // The first message at or after it that is still there.
            match self.next_message(stream, middle, ">").await? {
                Some(message) if message.time < since => low = message.sequence + 1,
                _ => high = middle,
            }
        }
        Ok(Some(low))
    }

    /// Lets the consumer of a function begin again at `sequence`: messages that were acked from there on are delivered once more.
    /// Returns their number.
    pub async fn rewind(
        &self,
        stream: &str,
        function: &str,
        sequence: u64,
    ) -> Result<u64, ApiError> {
        let consumer = self.app().consumer(function);
        let answer = self
            .api(
                &format!("CONSUMER.RESET.{stream}.{consumer}"),
                &json!({ "seq": sequence }),
            )
            .await?;
        let info = ConsumerInfo::deserialize(answer).unwrap_or_default();
        Ok(info.num_pending)
    }

    /// Has the consumer of a function hand out nothing until a moment, Unix milliseconds; from now on again for `None`. What was
    /// handed out before goes on, and all else waits in the stream. Returns whether it is paused then, by the server's clock.
    ///
    /// # Errors
    /// 404 for a function without a consumer on this stream; others as of [`Bus::api`].
    pub async fn pause(
        &self,
        stream: &str,
        function: &str,
        until: Option<u64>,
    ) -> Result<bool, ApiError> {
        let consumer = self.app().consumer(function);
        let body = match until {
            Some(until) => json!({ "pause_until": event::format_time(until) }),
            None => Value::Null,
        };
        let request = format!("CONSUMER.PAUSE.{stream}.{consumer}");
        let answer = self.api(&request, &body).await?;
        Ok(answer["paused"].as_bool().unwrap_or(false))
    }
}

impl StoredMessage {
    /// Message of which only the payload is known yet.
    fn empty(payload: Bytes) -> Self {
        Self {
            sequence: 0,
            time: 0,
            subject: String::new(),
            headers: Vec::new(),
            payload,
        }
    }
}
