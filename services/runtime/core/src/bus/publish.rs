//! Publishing with acks: messages of a whole run go out at once, and one wait ends when the stream has said of each what
//! became of it. All answers of the process come to one wildcard inbox.

use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_nats::client::PublishErrorKind;
use async_nats::{Client, Message};
use bytes::Bytes;
use futures::StreamExt;
use oncue_proto::oncue::v1::Envelope;
use serde::Deserialize;
use tokio::sync::Notify;

use super::headers::Headers;
use super::info::code;
use super::{ApiError, Bus, BusError, PubAck, PublishError, failed};
use crate::failpoint;

pub(super) const ACK_TIMEOUT: Duration = Duration::from_secs(5);

/// A message to be published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outbound {
    pub subject: String,
    pub headers: Headers,
    pub payload: Bytes,
}

impl From<Envelope> for Outbound {
    fn from(envelope: Envelope) -> Self {
        let headers = envelope
            .headers
            .iter()
            .map(|header| (&header.name, &header.value))
            .collect();
        Self {
            subject: envelope.subject,
            headers,
            payload: envelope.payload,
        }
    }
}

impl Outbound {
    /// Bytes on the wire, payload and headers, as the server counts them against `max_payload`.
    pub fn size(&self) -> usize {
        self.payload.len() + self.headers.size()
    }
}

/// Bytes of a message on the wire.
pub fn size(envelope: &Envelope) -> usize {
    let headers: usize = envelope
        .headers
        .iter()
        .map(|h| h.name.len() + h.value.len() + 4)
        .sum();
    envelope.payload.len() + headers + 12
}

impl Bus {
    /// Publishes and returns once the stream has stored the message, or says why not.
    pub async fn publish(&self, envelope: &Envelope) -> Result<PubAck, PublishError> {
        let mut answers = self.publish_each(vec![envelope.clone().into()]).await;
        answers
            .pop()
            .unwrap_or_else(|| Err(PublishError::Unknown("no answer".into())))
    }

    /// Publishes all of them and returns, in order, what became of each once that is known of all.
    pub async fn publish_each(&self, messages: Vec<Outbound>) -> Vec<Result<PubAck, PublishError>> {
        if messages.is_empty() {
            return Vec::new();
        }
        let waiting = self.acks.expect(messages.len());
        for (at, message) in messages.into_iter().enumerate() {
            match self.send(message, Some(waiting.inbox(at))).await {
                Ok(()) => failpoint::point("publish.one"),
                Err(e) => waiting.answer(at, Err(e)),
            }
        }
        waiting.all().await
    }

    /// Hands a message over to the connection. `inbox` is where the stream answers.
    pub(super) async fn send(
        &self,
        message: Outbound,
        inbox: Option<String>,
    ) -> Result<(), PublishError> {
        // A message over `max_payload` would make the server drop the whole connection, with everybody's messages on it.
        let (size, limit) = (message.size(), self.client.max_payload());
        if size > limit {
            return Err(PublishError::TooLarge(format!(
                "{size} bytes with headers, the server takes {limit}"
            )));
        }
        let Outbound {
            subject,
            headers,
            payload,
        } = message;
        let headers = headers
            .sent(!self.broker_spans)
            .map_err(|e| PublishError::Refused(format!("cannot be sent as NATS headers: {e}")))?;
        let sent = match inbox {
            Some(inbox) => {
                self.client
                    .publish_with_reply_and_headers(subject, inbox, headers, payload)
                    .await
            }
            None => {
                self.client
                    .publish_with_headers(subject, headers, payload)
                    .await
            }
        };
        sent.map_err(|e| match e.kind() {
            PublishErrorKind::MaxPayloadExceeded => PublishError::TooLarge(e.to_string()),
            _ => PublishError::Unknown(format!("cannot publish: {e}")),
        })
    }
}

/// Publish acks of the whole process: one wildcard inbox, whose last token says which message is meant.
pub(super) struct Acks {
    inbox: String,
    /// The next token, and who waits from which token on.
    waiting: Mutex<(u64, BTreeMap<u64, Arc<Answers>>)>,
}

type Answer = Result<PubAck, PublishError>;

/// What has been answered to messages that were published together.
struct Answers {
    /// How many are awaited, and what has come.
    answers: Mutex<(usize, Vec<Option<Answer>>)>,
    complete: Notify,
}

impl Answers {
    /// The first answer to a message counts.
    fn put(&self, at: usize, answer: Result<PubAck, PublishError>) {
        let mut answers = self.answers.lock();
        let (left, slots) = &mut *answers;
        if let Some(slot @ None) = slots.get_mut(at) {
            *slot = Some(answer);
            *left -= 1;
            if *left == 0 {
                self.complete.notify_one();
            }
        }
    }
}

impl Acks {
    pub async fn listen(client: &Client) -> Result<Arc<Self>, BusError> {
        let inbox = client.new_inbox();
        let mut answers = client
            .subscribe(format!("{inbox}.*"))
            .await
            .map_err(|e| failed("cannot subscribe to the ack inbox", e))?;
        let acks = Arc::new(Self {
            inbox,
            waiting: Mutex::default(),
        });
        let weak = Arc::downgrade(&acks);
        tokio::spawn(async move {
            while let Some(message) = answers.next().await {
                let Some(acks) = weak.upgrade() else { break };
                let Some(token) = message
                    .subject
                    .rsplit('.')
                    .next()
                    .and_then(|t| t.parse::<u64>().ok())
                else {
                    continue;
                };
                let found = acks
                    .waiting
                    .lock()
                    .1
                    .range(..=token)
                    .next_back()
                    .map(|(first, who)| (*first, who.clone()));
                if let Some((first, who)) = found {
                    who.put((token - first) as usize, publish_answer(&message));
                }
            }
        });
        Ok(acks)
    }

    /// Capacity for the answers to so many messages.
    pub fn expect(self: &Arc<Self>, messages: usize) -> Waiting {
        let answers = (messages, (0..messages).map(|_| None).collect());
        let answers = Arc::new(Answers {
            answers: Mutex::new(answers),
            complete: Notify::new(),
        });
        let mut waiting = self.waiting.lock();
        let first = waiting.0;
        waiting.0 += messages as u64;
        waiting.1.insert(first, answers.clone());
        Waiting {
            first,
            answers,
            acks: self.clone(),
        }
    }
}

/// Awaited publish acks; gives its room back when dropped.
pub(super) struct Waiting {
    first: u64,
    answers: Arc<Answers>,
    acks: Arc<Acks>,
}

impl Waiting {
    pub fn inbox(&self, at: usize) -> String {
        let (inbox, mut digits) = (&self.acks.inbox, itoa::Buffer::new());
        let token = digits.format(self.first + at as u64);
        let mut name = String::with_capacity(inbox.len() + 1 + token.len());
        name.extend([inbox, ".", token]);
        name
    }

    fn answer(&self, at: usize, answer: Result<PubAck, PublishError>) {
        self.answers.put(at, answer);
    }

    /// Every answer; what has not come in time is unknown.
    pub async fn all(self) -> Vec<Result<PubAck, PublishError>> {
        let _ = tokio::time::timeout(ACK_TIMEOUT, self.answers.complete.notified()).await;
        let answers = std::mem::take(&mut self.answers.answers.lock().1);
        let late = || {
            Err(PublishError::Unknown(format!(
                "no publish ack within {ACK_TIMEOUT:?}"
            )))
        };
        answers
            .into_iter()
            .map(|answer| answer.unwrap_or_else(late))
            .collect()
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.acks.waiting.lock().1.remove(&self.first);
    }
}

fn publish_answer(message: &Message) -> Result<PubAck, PublishError> {
    #[derive(Deserialize)]
    struct Refusal {
        error: ApiError,
    }
    if message.status == Some(async_nats::StatusCode::NO_RESPONDERS) {
        return Err(PublishError::NoStream(
            "no stream takes this subject (is JetStream up, was `oncue apply` run?)".into(),
        ));
    }
    // A refusal may name the stream and a sequence of 0 as well.
    if let Ok(ack) = serde_json::from_slice::<PubAck>(&message.payload)
        && ack.sequence > 0
    {
        return Ok(ack);
    }
    let Ok(Refusal { error }) = serde_json::from_slice(&message.payload) else {
        // A duplicate without a sequence was staged once and never stored (old clusters): not an ack.
        return Err(PublishError::Unknown(format!(
            "unreadable publish ack: {}",
            String::from_utf8_lossy(&message.payload)
                .chars()
                .take(200)
                .collect::<String>()
        )));
    };
    let text = error.to_string();
    Err(match error.err_code {
        code::STORAGE_EXCEEDED
        | code::STORE_FAILED
        | code::STREAM_BYTES_EXCEEDED
        | code::INSUFFICIENT_RESOURCES => PublishError::Full(text),
        code::MESSAGE_TOO_LARGE => PublishError::TooLarge(text),
        _ if error.code == 503 => PublishError::Full(text),
        _ if error.description.contains("maximum") => PublishError::Full(text),
        _ => PublishError::Refused(text),
    })
}
