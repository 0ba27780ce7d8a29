//! Many messages stored as one: where the server writes to disk before it answers, an atomic batch costs one write where
//! its messages would cost one each [NATS ADR-50].

use std::collections::HashMap;

use futures::future::join_all;
use oncue_proto::oncue::v1::{Envelope, Header};

use super::layout::TIMER;
use super::{ACK_TIMEOUT, Bus, PublishError, header_map};
use crate::event;

/// The server takes 1,000 messages in a batch; fewer keep one from holding up the next.
const MOST: usize = 500;

impl Bus {
    /// Publishes all of them, as an atomic batch for each stream where there is more than one for it. A batch that is
    /// refused, or whose answer is lost, is published again message by message: ids make that safe.
    pub async fn publish_all(&self, envelopes: &[Envelope]) -> Vec<Result<(), PublishError>> {
        let mut streams: HashMap<&str, Vec<usize>> = HashMap::new();
        for (at, envelope) in envelopes.iter().enumerate() {
            streams.entry(event::stream_of_type(&envelope.subject)).or_default().push(at);
        }
        let mut answers: Vec<Result<(), PublishError>> = envelopes.iter().map(|_| Ok(())).collect();
        for (stream, places) in streams {
            for places in places.chunks(MOST) {
                let batch: Vec<&Envelope> = places.iter().map(|at| &envelopes[*at]).collect();
                // Schedules replace each other by subject, which a batch does not allow.
                if batch.len() > 1 && stream != TIMER {
                    match self.publish_batch(&batch).await {
                        Ok(()) => continue,
                        Err(e) => tracing::info!(error = %e, messages = batch.len(), "no batch; publishing one by one"),
                    }
                }
                let single = join_all(batch.into_iter().map(|envelope| self.publish(envelope))).await;
                for (at, answer) in places.iter().zip(single) {
                    answers[*at] = answer.map(|_| ());
                }
            }
        }
        answers
    }

    async fn publish_batch(&self, envelopes: &[&Envelope]) -> Result<(), PublishError> {
        let id = event::new_id();
        let waiting = self.acks.expect();
        let last = envelopes.len();
        for (number, envelope) in (1..).zip(envelopes) {
            let mut headers = envelope.headers.clone();
            headers.extend([header("Nats-Batch-Id", &id), header("Nats-Batch-Sequence", &number.to_string())]);
            if number == last {
                headers.push(header("Nats-Batch-Commit", "1"));
            }
            let size = Envelope { headers: headers.clone(), ..(*envelope).clone() };
            self.check_size(&size)?;
            let map = header_map(&headers).map_err(PublishError::Refused)?;
            let (subject, payload) = (envelope.subject.clone(), envelope.payload.clone());
            let sent = if number == last {
                self.client.publish_with_reply_and_headers(subject, waiting.inbox.clone(), map, payload).await
            } else {
                self.client.publish_with_headers(subject, map, payload).await
            };
            sent.map_err(|e| PublishError::Unknown(e.to_string()))?;
        }
        match tokio::time::timeout(ACK_TIMEOUT, waiting).await {
            Ok(answer) => answer.map(|_| ()),
            Err(_) => Err(PublishError::Unknown(format!("no answer to a batch of {last} within {ACK_TIMEOUT:?}"))),
        }
    }
}

fn header(name: &str, value: &str) -> Header {
    Header { name: name.to_owned(), value: value.to_owned() }
}
