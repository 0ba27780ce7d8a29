//! Atomic batches: many messages stored as one. Where the server writes to disk before it answers, an atomic batch
//! costs one write where its messages would cost one each [NATS ADR-50].

use std::collections::HashMap;

use super::layout::TIMER;
use super::{Bus, Outbound, PubAck, PublishError};
use oncue_proto::event;

/// Most messages in a batch. The server takes 1,000; fewer keep one from holding up the next.
const MAX_BATCH: usize = 500;

impl Bus {
    /// Publishes messages, those of one stream in atomic batches of up to 500; returns a result for each, in order, with the
    /// ack where the stream says that it had the message already. A
    /// batch that is refused, or whose answer is lost, is published again message by message: ids make that safe.
    /// Worth its while where the server writes to disk before it answers (`batch_publish` in `[nats]`).
    ///
    /// Never fails as a whole: each message has its own result, and one that has none in time is
    /// [`PublishError::Unknown`].
    pub async fn publish_all(
        &self,
        messages: Vec<Outbound>,
    ) -> Vec<Result<Option<PubAck>, PublishError>> {
        // Places of the messages of each stream, since a batch is for one stream.
        let mut streams: HashMap<String, Vec<usize>> = HashMap::new();
        for (at, message) in messages.iter().enumerate() {
            streams
                .entry(event::stream_of_type(&message.subject).to_owned())
                .or_default()
                .push(at);
        }
        let mut answers = vec![Ok(None); messages.len()];
        // Streams one after another: a batch waits for its ack before the next begins.
        for (stream, places) in streams {
            for places in places.chunks(MAX_BATCH) {
                let batch: Vec<Outbound> = places.iter().map(|at| messages[*at].clone()).collect();
                // Schedules replace each other by subject, which a batch does not allow.
                if batch.len() > 1 && stream != TIMER {
                    match self.publish_batch(&batch).await {
                        // All were stored, and the answers begin as `Ok`.
                        Ok(()) => continue,
                        Err(e) => {
                            tracing::info!(error = %e, messages = batch.len(), "no batch; publishing one by one");
                        }
                    }
                }
                for (at, answer) in places.iter().zip(self.publish_each(batch).await) {
                    answers[*at] = answer.map(|ack| ack.duplicate.then_some(ack));
                }
            }
        }
        answers
    }

    /// Publishes all messages or none. The server answers to the last one only.
    ///
    /// # Errors
    ///
    /// Nothing is stored, or, after [`PublishError::Unknown`], all or nothing is: the server stores
    /// a batch whole.
    async fn publish_batch(&self, messages: &[Outbound]) -> Result<(), PublishError> {
        let id = event::new_id();
        // The server answers to the commit, not to the messages before it.
        let waiting = self.acks.expect(1);
        let last = messages.len();
        for (number, message) in (1..).zip(messages) {
            let mut message = message.clone();
            message.headers.push("Nats-Batch-Id", &id);
            message
                .headers
                .push("Nats-Batch-Sequence", &number.to_string());
            if number == last {
                message.headers.push("Nats-Batch-Commit", "1");
            }
            self.send(message, (number == last).then(|| waiting.inbox(0)))
                .await?;
        }
        let mut answers = waiting.all().await;
        answers
            .pop()
            .unwrap_or_else(|| Err(PublishError::Unknown("no answer to a batch".into())))
            .map(|_| ())
    }
}
