//! Publishing with acks: messages of a whole run go out at once, and one wait ends when the stream has answered to
//! each. All answers of the process come to one wildcard inbox, `INBOX.TOKEN`, with a token for each message.

use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_nats::client::PublishErrorKind;
use async_nats::{Client, Message};
use bytes::Bytes;
use futures_util::StreamExt;
use oncue_proto::oncue::v1::Envelope;
use serde::Deserialize;
use tokio::sync::Notify;

use super::headers::Headers;
use super::info::code;
use super::{ApiError, Bus, BusError, PubAck, PublishError, failed};
use crate::failpoint;

/// Longest wait for publish acks; after it whether a message was taken is not known.
pub(super) const ACK_TIMEOUT: Duration = Duration::from_secs(5);

/// Message to be published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outbound {
    /// Subject, without wildcards.
    pub subject: String,
    /// Headers, in the order in which they are sent.
    pub headers: Headers,
    /// Payload as it is sent.
    pub payload: Bytes,
}

/// Message as it waits in an outbox, to be sent.
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

/// Bytes of a message on the wire, payload and headers: of each header its name, its value, a colon, a space and a
/// line break, and twelve for the block around them.
pub fn size(envelope: &Envelope) -> usize {
    let headers: usize = envelope
        .headers
        .iter()
        .map(|h| h.name.len() + h.value.len() + 4)
        .sum();
    envelope.payload.len() + headers + 12
}

impl Bus {
    /// Publishes a message and returns once the stream has stored it. After an error it may be published again under
    /// the same id.
    pub async fn publish(&self, envelope: &Envelope) -> Result<PubAck, PublishError> {
        let mut answers = self.publish_each(vec![envelope.clone().into()]).await;
        answers
            .pop()
            .unwrap_or_else(|| Err(PublishError::Unknown("no answer".into())))
    }

    /// Publishes messages at once, and returns when there is an answer to each: a result for each, in order. Answers
    /// that do not come within 5 s are [`PublishError::Unknown`]. Dropping the future loses the acks, not the
    /// messages.
    pub async fn publish_each(&self, messages: Vec<Outbound>) -> Vec<Result<PubAck, PublishError>> {
        // Without this there would be nothing that ends the wait.
        if messages.is_empty() {
            return Vec::new();
        }
        // Expected before the first is sent: the ack may be here before the send returns.
        let waiting = self.acks.expect(messages.len());
        for (at, message) in messages.into_iter().enumerate() {
            match self.send(message, Some(waiting.inbox(at))).await {
                // Handed over and not acked yet; a crash here may leave any part of them in their
                // streams.
                Ok(()) => failpoint::point("publish.one"),
                Err(e) => waiting.answer(at, Err(e)),
            }
        }
        waiting.all().await
    }

    /// Hands a message over to the connection. `inbox` is where the stream answers; `None` for no answer. Fails for a
    /// message that would not be taken, without sending it.
    pub(super) async fn send(
        &self,
        message: Outbound,
        inbox: Option<String>,
    ) -> Result<(), PublishError> {
        // A message over `max_payload` would make the server drop the whole connection, with everybody's messages on it.
        let size = message.size();
        let limit = self.client.max_payload();
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
            .to_header_map(self.broker_spans)
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
            // The client looks as well.
            PublishErrorKind::MaxPayloadExceeded => PublishError::TooLarge(e.to_string()),
            _ => PublishError::Unknown(format!("cannot publish: {e}")),
        })
    }
}

/// Publish acks of the whole process: one wildcard inbox, whose last token says which message is meant. Tokens count
/// up for as long as the process lives, so an ack that comes late can never be taken for another one's.
pub(super) struct Acks {
    /// Subject of the inbox, without the token.
    inbox: String,
    /// Groups that wait. Locked for a look-up, by the task that takes answers and by those that
    /// publish.
    waiting: Mutex<AwaitedAcks>,
}

/// Messages whose acks are awaited. A group has as many tokens in a row as it has messages.
#[derive(Default)]
struct AwaitedAcks {
    /// Token of the next message.
    next: u64,
    /// Messages published together, by the token of the first.
    groups: BTreeMap<u64, Arc<Answers>>,
}

/// Answers to messages that were published together.
struct Answers {
    /// Answers by message, as they come.
    slots: Mutex<AnswerSlots>,
    /// Told when the last answer has come.
    complete: Notify,
}

/// Room for an answer to each message.
struct AnswerSlots {
    /// Messages without an answer.
    missing: usize,
    /// Answers by message.
    answers: Vec<Option<Result<PubAck, PublishError>>>,
}

impl Answers {
    /// Takes the answer to one message. Its first answer counts: a message that could not be sent is answered here,
    /// too.
    fn put(&self, at: usize, answer: Result<PubAck, PublishError>) {
        let mut slots = self.slots.lock();
        // Of a group that is gone, or for a token beyond it, an answer finds no slot and is left
        // out.
        if let Some(slot @ None) = slots.answers.get_mut(at) {
            *slot = Some(answer);
            slots.missing -= 1;
            if slots.missing == 0 {
                self.complete.notify_one();
            }
        }
    }
}

impl Acks {
    /// Subscribes to a new inbox and takes the answers that come to it, until this is dropped.
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
        // The task must not keep the connection alive by itself.
        let weak = Arc::downgrade(&acks);
        tokio::spawn(async move {
            while let Some(message) = answers.next().await {
                let Some(acks) = weak.upgrade() else { break };
                let token = message.subject.rsplit('.').next();
                let Some(token) = token.and_then(|token| token.parse().ok()) else {
                    continue;
                };
                acks.take(token, &message);
            }
        });
        Ok(acks)
    }

    /// Hands an answer to the group of its message, if somebody still waits for it.
    fn take(&self, token: u64, message: &Message) {
        let group = {
            let waiting = self.waiting.lock();
            // The group whose first token is the last one not above it.
            let mut groups = waiting.groups.range(..=token);
            groups
                .next_back()
                .map(|(first, group)| (*first, group.clone()))
        };
        if let Some((first, group)) = group {
            group.put((token - first) as usize, publish_answer(message));
        }
    }

    /// Reserves tokens for so many messages, and a place for their acks, before anything is sent: an ack may come at
    /// once.
    pub fn expect(self: &Arc<Self>, messages: usize) -> Waiting {
        let answers = Arc::new(Answers {
            slots: Mutex::new(AnswerSlots {
                missing: messages,
                answers: (0..messages).map(|_| None).collect(),
            }),
            complete: Notify::new(),
        });
        let mut waiting = self.waiting.lock();
        let first = waiting.next;
        waiting.next += messages as u64;
        waiting.groups.insert(first, answers.clone());
        Waiting {
            first,
            answers,
            acks: self.clone(),
        }
    }
}

/// Awaited acks of messages that are published together; nobody waits for them any more once this is dropped.
pub(super) struct Waiting {
    /// Token of the first message.
    first: u64,
    /// Shared with the task that takes the answers.
    answers: Arc<Answers>,
    /// Inbox of the process, from which the group is taken out at the end.
    acks: Arc<Acks>,
}

impl Waiting {
    /// Subject to which the stream answers to the message number `at`.
    pub fn inbox(&self, at: usize) -> String {
        let inbox = &self.acks.inbox;
        let mut digits = itoa::Buffer::new();
        let token = digits.format(self.first + at as u64);
        let mut name = String::with_capacity(inbox.len() + 1 + token.len());
        name.extend([inbox, ".", token]);
        name
    }

    /// Answers in place of the stream, for a message that could not be sent.
    fn answer(&self, at: usize, answer: Result<PubAck, PublishError>) {
        self.answers.put(at, answer);
    }

    /// Answers to all messages, in order; one that has not come in [`ACK_TIMEOUT`] is [`PublishError::Unknown`].
    pub async fn all(self) -> Vec<Result<PubAck, PublishError>> {
        let _ = tokio::time::timeout(ACK_TIMEOUT, self.answers.complete.notified()).await;
        let answers = std::mem::take(&mut self.answers.slots.lock().answers);
        answers
            .into_iter()
            .map(|answer| answer.unwrap_or_else(no_ack))
            .collect()
    }
}

/// Answer to a message whose ack has not come in time.
fn no_ack() -> Result<PubAck, PublishError> {
    let why = format!("no publish ack within {ACK_TIMEOUT:?}");
    Err(PublishError::Unknown(why))
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.acks.waiting.lock().groups.remove(&self.first);
    }
}

/// Answer of a stream to a publish: an ack, or an error by its code.
fn publish_answer(message: &Message) -> Result<PubAck, PublishError> {
    /// Error in place of an ack.
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
    Err(refusal(&error))
}

/// Descriptions of a stream that has reached its own limit; any other limit is called by its name.
const FULL_STREAM: [&str; 2] = ["maximum bytes exceeded", "maximum messages exceeded"];

/// Error of a stream by its code. A request that is wrong stays wrong; whatever else a server says, it may say something else
/// later: that it is full, or, in a cluster, that it is about to store the first copy of the same message.
fn refusal(error: &ApiError) -> PublishError {
    let text = error.to_string();
    let is_at_limit = FULL_STREAM.contains(&error.description.as_str());
    match error.err_code {
        _ if is_at_limit => PublishError::Full(text),
        code::MESSAGE_TOO_LARGE => PublishError::TooLarge(text),
        code::WRONG_LAST_SEQUENCE | code::WRONG_LAST_SEQUENCE_NOW => PublishError::Outdated(text),
        code::STORAGE_EXCEEDED
        | code::STORE_FAILED
        | code::STREAM_BYTES_EXCEEDED
        | code::INSUFFICIENT_RESOURCES
        | code::ACCOUNT_RESOURCES_EXCEEDED => PublishError::Unable(text),
        _ if error.code == 503 => PublishError::Unable(text),
        _ if error.description.contains("maximum") => PublishError::Unable(text),
        _ if error.code == 400 => PublishError::Refused(text),
        _ => PublishError::Unknown(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_wrong_is_refused_for_good() {
        let said = |code: u16, err_code: u64, description: &str| {
            refusal(&ApiError {
                code,
                err_code,
                description: description.to_owned(),
            })
        };
        assert!(matches!(
            said(400, 10190, "schedule target"),
            PublishError::Refused(_)
        ));
        assert!(matches!(
            said(400, 10054, "too large"),
            PublishError::TooLarge(_)
        ));
        assert!(matches!(
            said(503, 10077, "maximum bytes exceeded"),
            PublishError::Full(_)
        ));
        for (code, err_code, description) in [
            (503, 10077, "maximum messages per subject exceeded"),
            (500, 10047, "insufficient storage resources available"),
            (503, 10023, "insufficient resources"),
            (503, 10008, "JetStream system temporarily unavailable"),
            (400, 10122, "account maximum bytes"),
            (400, 10002, "resource limits exceeded for account"),
        ] {
            let said = said(code, err_code, description);
            assert!(matches!(said, PublishError::Unable(_)), "{said:?}");
        }
        // A cluster that has the first copy of a message in hand and no majority yet.
        let conflict = said(409, 10158, "duplicate message id is in process");
        assert!(matches!(conflict, PublishError::Unknown(_)));
        assert!(matches!(said(500, 1, "anything"), PublishError::Unknown(_)));
    }
}
