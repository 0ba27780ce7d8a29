//! Relay: publishes outputs of the function that were committed and stayed unpublished, because their worker died or lost
//! its connection [transactional outbox].

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::future::join_all;
use oncue_core::backoff::spread;
use oncue_core::bus::Bus;
use oncue_core::store::{Store, StoreError, Unpublished};

use super::before;
use super::restore::restore;
use crate::worker::counters::Counters;
use crate::worker::publisher::{FinishedBatch, Publisher};

/// Relay of one worker, owned by its task. Without state in Redis of its own: the index of outboxes
/// says what is left.
pub(crate) struct Relay {
    pub bus: Bus,
    pub store: Store,
    /// Shared with the settler, for its counters and its marks.
    pub publisher: Arc<Publisher>,
    /// Age of outputs that are taken for left behind.
    pub age: Duration,
    /// Name of the function, whose outputs these are.
    pub function: &'static str,
    pub counters: Arc<Counters>,
}

impl Relay {
    /// Looks for as long as the process lives, ten times in the age after which outputs are taken for left behind.
    pub async fn run(self) {
        let mut restored = String::new();
        // Outputs that could not be published this time round: the next look begins behind them, so that a stream
        // which is full holds up no other.
        let mut passed = 0;
        loop {
            tokio::time::sleep(spread(self.age / 10)).await;
            // An absent Redis is no news here: the commits say so.
            passed = self.look(passed).await.unwrap_or(passed);
            self.restore(&mut restored).await;
        }
    }

    /// Restores what NATS may have lost, if it is another start of it than the `restored` one. The first look after the
    /// worker's own start counts as one too.
    async fn restore(&self, restored: &mut String) {
        if self.publisher.keep_outputs.is_zero() || !self.bus.is_connected() {
            return;
        }
        let server = self.bus.server_id();
        if server == *restored {
            return;
        }
        match restore(&self.store, &self.publisher, self.function, &server).await {
            Ok(()) => *restored = server,
            Err(e) => {
                tracing::warn!(error = %e, "cannot look for outputs that NATS may have lost");
            }
        }
    }

    /// Publishes some of what was left behind, and forgets what need not be kept. Returns how many to pass over next time.
    async fn look(&self, passed: u64) -> Result<u64, StoreError> {
        // Old enough for their own worker to have failed, and its event to have come again without success.
        let old = before(self.age);
        let left = self
            .store
            .unpublished(self.function, old, passed as usize)
            .await?;
        let is_end = left.is_empty();
        let waiting = self.publish_again(left).await;
        let waits = self.store.waiting_outputs(&[self.function], old).await?;
        let commits = waits.get(self.function).map_or(0, |waits| waits.commits);
        self.counters
            .waiting_outputs
            .store(commits, Ordering::Relaxed);
        let keep = before(self.publisher.keep_outputs);
        self.store.remove_published(self.function, keep).await?;
        Ok(if is_end { 0 } else { passed + waiting })
    }

    /// Publishes outputs that were left behind, and marks them. Some may reach their stream a
    /// second time: ids make the copy harmless, within the stream's duplicate window by the stream,
    /// beyond it by the receivers' marks. Returns how many commits stay behind once more.
    async fn publish_again(&self, left: Vec<Unpublished>) -> u64 {
        // All at once, so that a stream which is silent has all of them wait together.
        let stays = left.into_iter().map(|left| self.publish_left(left));
        let stays = join_all(stays).await.into_iter();
        stays.map(u64::from).sum()
    }

    /// Publishes one commit's outputs and marks them; whether some stay behind.
    async fn publish_left(&self, Unpublished { outbox_key, frames }: Unpublished) -> bool {
        tracing::info!(
            outbox = outbox_key,
            events = frames.len(),
            "publishing what stayed behind"
        );
        let results = self.publisher.publish_stored(&frames, false).await;
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
        let stays = !batch.unpublished.is_empty();
        // Waited for: what is counted afterwards is what really stays.
        self.publisher.mark(batch).await;
        stays
    }
}
