//! Publishing with acks: messages of a whole run go out at once, and one wait ends when the stream has said of each what
//! became of it. All answers of the process come to one wildcard inbox.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_nats::client::PublishErrorKind;
use async_nats::{Client, HeaderMap, HeaderName, HeaderValue, Message};
use bytes::Bytes;
use futures::StreamExt;
use oncue_proto::oncue::v1::Envelope;
use serde::Deserialize;
use tokio::sync::Notify;

use super::{ApiError, Bus, BusError, PubAck, PublishError, failed};
use crate::{fault, telemetry};

pub(super) const ACK_TIMEOUT: Duration = Duration::from_secs(5);

/// A message to be published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outbound {
    pub subject: String,
    /// A name may stand there twice.
    pub headers: Vec<(Cow<'static, str>, String)>,
    pub payload: Bytes,
}

impl From<Envelope> for Outbound {
    fn from(envelope: Envelope) -> Self {
        let headers = envelope.headers.into_iter().map(|header| (header.name.into(), header.value));
        Self { subject: envelope.subject, headers: headers.collect(), payload: envelope.payload }
    }
}

impl Outbound {
    /// Bytes on the wire, payload and headers, as the server counts them against `max_payload`.
    pub fn size(&self) -> usize {
        let headers: usize = self.headers.iter().map(|(name, value)| name.len() + value.len() + 4).sum();
        // Room for the header that may be added on the way: what is committed must never turn out too large to publish.
        let quiet = if self.headers.iter().any(is_sampled) { QUIET } else { 0 };
        self.payload.len() + headers + quiet + 12
    }
}

/// Bytes of a message on the wire.
pub fn size(envelope: &Envelope) -> usize {
    let headers: usize = envelope.headers.iter().map(|h| h.name.len() + h.value.len() + 4).sum();
    envelope.payload.len() + headers + 12
}

impl Bus {
    /// Publishes and returns once the stream has stored the message, or says why not.
    pub async fn publish(&self, envelope: &Envelope) -> Result<PubAck, PublishError> {
        let mut answers = self.publish_each(vec![envelope.clone().into()]).await;
        answers.pop().unwrap_or_else(|| Err(PublishError::Unknown("no answer".into())))
    }

    /// Publishes all of them and returns, in order, what became of each once that is known of all.
    pub async fn publish_each(&self, messages: Vec<Outbound>) -> Vec<Result<PubAck, PublishError>> {
        if messages.is_empty() {
            return Vec::new();
        }
        let waiting = self.acks.expect(messages.len());
        for (at, message) in messages.into_iter().enumerate() {
            match self.send(message, Some(waiting.inbox(at))).await {
                Ok(()) => fault::point("publish.one"),
                Err(e) => waiting.answer(at, Err(e)),
            }
        }
        waiting.all().await
    }

    /// Hands a message over to the connection. `inbox` is where the stream answers.
    pub(super) async fn send(&self, message: Outbound, inbox: Option<String>) -> Result<(), PublishError> {
        // A message over `max_payload` would make the server drop the whole connection, with everybody's messages on it.
        let (size, limit) = (message.size(), self.client.max_payload());
        if size > limit {
            return Err(PublishError::TooLarge(format!("{size} bytes with headers, the server takes {limit}")));
        }
        let Outbound { subject, headers, payload } = message;
        let headers = header_map(headers, !telemetry::traces_broker())
            .map_err(|e| PublishError::Refused(format!("cannot be sent as NATS headers: {e}")))?;
        let sent = match inbox {
            Some(inbox) => self.client.publish_with_reply_and_headers(subject, inbox, headers, payload).await,
            None => self.client.publish_with_headers(subject, headers, payload).await,
        };
        sent.map_err(|e| match e.kind() {
            PublishErrorKind::MaxPayloadExceeded => PublishError::TooLarge(e.to_string()),
            _ => PublishError::Unknown(format!("cannot publish: {e}")),
        })
    }
}

/// Keeps nats-server's own message tracing off a message [NATS ADR-41].
const NO_BROKER_TRACE: (&str, &str) = ("Nats-Trace-Dest", "trace disabled");
const QUIET: usize = NO_BROKER_TRACE.0.len() + NO_BROKER_TRACE.1.len() + 4;

/// Built by checking first, since the plain `insert` panics on what a header may not hold. A sampled `traceparent` makes
/// the server look the message over for its own tracing, which costs it 3 us of 20 even where that is not set up, so it
/// is told not to, unless `quiet` is false.
fn header_map(headers: Vec<(Cow<'static, str>, String)>, quiet: bool) -> Result<HeaderMap, String> {
    let mut map = HeaderMap::new();
    if quiet && headers.iter().any(is_sampled) && !headers.iter().any(|(name, _)| name == NO_BROKER_TRACE.0) {
        map.append(HeaderName::from_static(NO_BROKER_TRACE.0), HeaderValue::from(NO_BROKER_TRACE.1));
    }
    for (name, value) in headers {
        if value.contains(['\r', '\n']) {
            return Err(format!("value of {name}"));
        }
        let value = HeaderValue::from(value);
        match name {
            // A name of ours stands there once, which needs no look.
            Cow::Borrowed(name) => map.insert(HeaderName::from_static(name), value),
            Cow::Owned(name) => {
                let parsed: HeaderName = name.parse().map_err(|_| format!("name {name:?}"))?;
                map.append(parsed, value); // others may stand there twice
            }
        }
    }
    Ok(map)
}

/// Whether a header is a sampled `traceparent`.
fn is_sampled((name, value): &(Cow<'_, str>, String)) -> bool {
    let flags = || value.rsplit('-').next().and_then(|flags| u8::from_str_radix(flags, 16).ok());
    name == "traceparent" && flags().is_some_and(|flags| flags & 1 == 1)
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
        let mut answers = lock(&self.answers);
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
        let mut answers =
            client.subscribe(format!("{inbox}.*")).await.map_err(|e| failed("cannot subscribe to the ack inbox", e))?;
        let acks = Arc::new(Self { inbox, waiting: Mutex::default() });
        let weak = Arc::downgrade(&acks);
        tokio::spawn(async move {
            while let Some(message) = answers.next().await {
                let Some(acks) = weak.upgrade() else { break };
                let Some(token) = message.subject.rsplit('.').next().and_then(|t| t.parse::<u64>().ok()) else {
                    continue;
                };
                let found = lock(&acks.waiting).1.range(..=token).next_back().map(|(first, who)| (*first, who.clone()));
                if let Some((first, who)) = found {
                    who.put((token - first) as usize, publish_answer(&message));
                }
            }
        });
        Ok(acks)
    }

    /// Room for the answers to so many messages.
    pub fn expect(self: &Arc<Self>, messages: usize) -> Waiting {
        let answers = (messages, (0..messages).map(|_| None).collect());
        let answers = Arc::new(Answers { answers: Mutex::new(answers), complete: Notify::new() });
        let mut waiting = lock(&self.waiting);
        let first = waiting.0;
        waiting.0 += messages as u64;
        waiting.1.insert(first, answers.clone());
        Waiting { first, answers, acks: self.clone() }
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
        let answers = std::mem::take(&mut lock(&self.answers.answers).1);
        let late = || Err(PublishError::Unknown(format!("no publish ack within {ACK_TIMEOUT:?}")));
        answers.into_iter().map(|answer| answer.unwrap_or_else(late)).collect()
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        lock(&self.acks.waiting).1.remove(&self.first);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
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
            String::from_utf8_lossy(&message.payload).chars().take(200).collect::<String>()
        )));
    };
    let text = error.to_string();
    Err(match error.err_code {
        // maximum messages, bytes, per subject; insufficient storage; stream offline
        10047 | 10077 | 10122 | 10023 => PublishError::Full(text),
        10054 => PublishError::TooLarge(text),
        _ if error.code == 503 => PublishError::Full(text),
        _ if error.description.contains("maximum") => PublishError::Full(text),
        _ => PublishError::Refused(text),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quiet(headers: &[(&'static str, &str)], quiet: bool) -> Vec<String> {
        let headers = headers.iter().map(|(name, value)| ((*name).into(), (*value).to_owned())).collect();
        let map = header_map(headers, quiet).expect("headers");
        map.get_all(NO_BROKER_TRACE.0).map(ToString::to_string).collect()
    }

    #[test]
    fn the_broker_is_told_not_to_trace_what_is_sampled() {
        let [sampled, other] =
            ["01", "00"].map(|flags| format!("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-{flags}"));
        assert_eq!(quiet(&[("traceparent", &sampled)], true), ["trace disabled"]);
        assert_eq!(quiet(&[("traceparent", &sampled), ("Nats-Trace-Dest", "here")], true), ["here"], "as it came");
        for (headers, how) in
            [(&[("traceparent", &*sampled)][..], false), (&[("traceparent", &*other)], true), (&[], true)]
        {
            assert!(quiet(headers, how).is_empty(), "{headers:?}");
        }
    }

    #[test]
    fn the_header_that_is_added_counts() {
        for flags in ["01", "00"] {
            let value = format!("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-{flags}");
            let headers = vec![("traceparent".into(), value)];
            let message = Outbound { subject: "a.b.c".into(), headers: headers.clone(), payload: Bytes::new() };
            let sent = header_map(headers, true).expect("headers");
            let lines =
                sent.iter().flat_map(|(name, values)| values.iter().map(move |value| format!("{name}: {value}\r\n")));
            let block = lines.fold("NATS/1.0\r\n\r\n".to_owned(), |block, line| block + &line);
            assert_eq!(message.size(), block.len(), "{block}");
        }
    }

    #[test]
    fn what_would_break_a_header_is_refused() {
        for value in ["a\r\nb: c", "a\nb"] {
            assert_eq!(header_map(vec![("x".into(), value.to_owned())], true), Err("value of x".to_owned()));
        }
        assert!(header_map(vec![("a b".to_owned().into(), String::new())], true).is_err());
    }
}
