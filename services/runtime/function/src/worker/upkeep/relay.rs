//! Relay: publishes outputs that were committed and stayed unpublished, because their worker died or lost its connection
//! [transactional outbox]. It goes round all partitions, a few at a time.

use std::sync::Arc;
use std::time::Duration;

use oncue_core::backoff::spread;
use oncue_core::bus::{Bus, PublishError};
use oncue_core::store::{Store, StoredOutputs, Unpublished};
use oncue_proto::event::{self, PARTITIONS};

use super::restore::restore;
use crate::worker::outputs::{self, Output};
use crate::worker::publisher::{FinishedBatch, Publisher};

/// Partitions looked at in one round trip.
///
/// All 256 are seen in 16 rounds.
const PARTITIONS_AT_ONCE: u32 = 16;

/// Relay of one worker, owned by its task. Without state in Redis of its own: the index of outboxes
/// says what is left.
pub(crate) struct Relay {
    pub bus: Bus,
    pub store: Store,
    /// Shared with the settler, for its counters and its marks.
    pub publisher: Arc<Publisher>,
    /// Age of outputs that are taken for left behind.
    pub age: Duration,
}

impl Relay {
    /// Goes round the partitions for as long as the process lives. A round takes a tenth of the age
    /// on average, so all partitions are seen about every 1.6 ages. Workers begin anywhere, so that
    /// they do not look at the same ones.
    pub async fn run(self) {
        let keep = self.publisher.keep_outputs;
        let rounds = PARTITIONS / PARTITIONS_AT_ONCE;
        let mut round = fastrand::u32(..rounds);
        let mut restored_server = String::new();
        loop {
            tokio::time::sleep(spread(self.age / 10)).await;
            let from = round * PARTITIONS_AT_ONCE;
            let partitions = from..from + PARTITIONS_AT_ONCE;
            let left_behind = before(self.age);
            // Old enough for their own worker to have failed, and its event to have come again
            // without success.
            if let Ok(left) = self
                .store
                .unpublished(partitions.clone(), left_behind)
                .await
            {
                self.publish_again(left).await;
            }
            // An absent Redis is no news here: the commits say so.
            let _ = self.store.remove_published(partitions, before(keep)).await;
            if !keep.is_zero() && self.bus.is_connected() {
                // Another id is another start of nats-server. The first look after the worker's own
                // start counts as one too; copies are harmless.
                let server = self.bus.server_id();
                if server != restored_server {
                    match restore(&self, &server).await {
                        Ok(()) => restored_server = server,
                        Err(e) => {
                            tracing::warn!(error = %e, "cannot look for outputs that NATS may have lost");
                        }
                    }
                }
            }
            round = (round + 1) % rounds;
        }
    }

    /// Publishes outputs that were left behind, and marks them. Some may reach their stream a
    /// second time: ids make the copy harmless, within the stream's duplicate window by the stream,
    /// beyond it by the receivers' marks.
    async fn publish_again(&self, left: Vec<Unpublished>) {
        for Unpublished { outbox_key, frames } in left {
            tracing::info!(
                outbox = outbox_key,
                events = frames.len(),
                "publishing what stayed behind"
            );
            let results = self.publish(&frames).await;
            let mut batch = FinishedBatch {
                key: outbox_key,
                published: Vec::new(),
                unpublished: Vec::new(),
            };
            for (outputs, result) in frames.into_iter().zip(results) {
                match result {
                    Ok(_) => batch.published.push(outputs),
                    Err(_) => batch.unpublished.push(outputs),
                }
            }
            let publisher = self.publisher.clone();
            tokio::spawn(async move { publisher.mark(batch).await });
        }
    }

    /// Publishes what followed from the events of a commit, all at once; for each event how much that was, or what failed.
    pub(super) async fn publish(
        &self,
        events: &[StoredOutputs],
    ) -> Vec<Result<usize, PublishError>> {
        let mut outputs: Vec<Output> = Vec::new();
        let mut counts = Vec::with_capacity(events.len());
        for event in events {
            let own = outputs::decode(event.outputs.clone());
            counts.push(own.len());
            outputs.extend(own);
        }
        let mut answers = self.publisher.publish_each(outputs).await.into_iter();
        let mut results = Vec::with_capacity(counts.len());
        for count in counts {
            // All of its answers are taken, whatever the first of them says: the next are another event's.
            let own: Vec<Result<(), PublishError>> = answers.by_ref().take(count).collect();
            let own: Result<Vec<()>, PublishError> = own.into_iter().collect();
            results.push(own.map(|all| all.len()));
        }
        results
    }
}

/// Unix milliseconds of `age` ago.
pub(super) fn before(age: Duration) -> u64 {
    event::now_ms().saturating_sub(age.as_millis() as u64)
}
