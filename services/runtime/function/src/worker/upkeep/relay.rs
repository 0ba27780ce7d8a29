//! Relay: publishes outputs that were committed and stayed unpublished, because their worker died or lost its connection
//! [transactional outbox]. It goes round all partitions, a few at a time.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use oncue_core::backoff::spread;
use oncue_core::bus::Bus;
use oncue_core::store::{Keys, Store, Unpublished};
use oncue_proto::event::PARTITIONS;

use super::before;
use super::restore::restore;
use crate::worker::counters::Counters;
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
    /// Name of the function, whose waiting outputs are counted.
    pub function: &'static str,
    pub counters: Arc<Counters>,
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
        // Commits of this function that are still unpublished, by round.
        let mut waiting = vec![0; rounds as usize];
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
                waiting[round as usize] = self.publish_again(left).await;
                let all: u64 = waiting.iter().sum();
                self.counters.waiting_outputs.store(all, Ordering::Relaxed);
            }
            // An absent Redis is no news here: the commits say so.
            let _ = self.store.remove_published(partitions, before(keep)).await;
            if !keep.is_zero() && self.bus.is_connected() {
                // Another id is another start of nats-server. The first look after the worker's own
                // start counts as one too; copies are harmless.
                let server = self.bus.server_id();
                if server != restored_server {
                    match restore(&self.store, &self.publisher, &server).await {
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
    /// beyond it by the receivers' marks. Returns how many commits of this function stay behind once more.
    async fn publish_again(&self, left: Vec<Unpublished>) -> u64 {
        let mut waiting = 0;
        for Unpublished { outbox_key, frames } in left {
            tracing::info!(
                outbox = outbox_key,
                events = frames.len(),
                "publishing what stayed behind"
            );
            let results = self.publisher.publish_stored(&frames).await;
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
            let own = Keys::function_of(&batch.key) == self.function;
            waiting += u64::from(own && !batch.unpublished.is_empty());
            let publisher = self.publisher.clone();
            tokio::spawn(async move { publisher.mark(batch).await });
        }
        waiting
    }
}
