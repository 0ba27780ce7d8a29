//! What every worker does on the side, slowly and without state of its own: publish outputs that stayed behind, forget
//! those that need not be kept, publish again what a stream may have lost, purge what nobody needs any more.

use std::sync::Arc;
use std::time::Duration;

use crate::worker::Worker;
use crate::worker::outputs::{self, Output};
use crate::worker::settler::publish;
use oncue_core::bus::layout::{DLQ, TIMER};
use oncue_core::bus::{Bus, PublishError, purge};
use oncue_core::store::{StoreError, StoredOutputs, Unpublished};
use oncue_proto::event::{self, PARTITIONS};

/// Partitions looked at in one step.
const STEP: u32 = 16;
/// How long one worker has the sole right to publish again what may be lost, unless it renews it.
const LEASE: u64 = 60;
/// Between two looks at what may be purged.
const JANITOR: Duration = Duration::from_mins(1);

impl Worker {
    /// Starts everything it does on the side.
    pub(crate) fn keep_house(self: &Arc<Self>, stream: String, replay_window: Duration) {
        tokio::spawn(self.clone().keep_alive());
        tokio::spawn(self.clone().sweep());
        tokio::spawn(self.clone().report_hops());
        tokio::spawn(self.clone().tidy_up(stream, replay_window));
    }

    /// Goes round all partitions, a few at a time.
    pub(crate) async fn sweep(self: Arc<Self>) {
        let age = (self.limits.ack_wait.0 * 2).max(Duration::from_secs(5));
        let mut from = fastrand::u32(..PARTITIONS / STEP) * STEP;
        let mut server = String::new();
        loop {
            tokio::time::sleep((age / 10).mul_f64(0.5 + fastrand::f64())).await;
            let now = event::now_ms();
            let before = |age: Duration| now.saturating_sub(age.as_millis() as u64);
            let partitions = from..from + STEP;
            if let Ok(left) = self
                .store
                .unpublished(partitions.clone(), before(age))
                .await
            {
                self.publish_again(left).await;
            }
            // An absent Redis is no news here: the commits say so.
            let _ = self
                .store
                .remove_published(partitions, before(self.keep_outputs))
                .await;
            if !self.keep_outputs.is_zero()
                && self.bus.is_connected()
                && self.bus.server_id() != server
            {
                let id = self.bus.server_id();
                match self.restore(&id).await {
                    Ok(()) => server = id,
                    Err(e) => {
                        tracing::warn!(error = %e, "cannot look for outputs that NATS may have lost")
                    }
                }
            }
            from = (from + STEP) % PARTITIONS;
        }
    }

    async fn publish_again(self: &Arc<Self>, left: Vec<Unpublished>) {
        for Unpublished { outbox_key, frames } in left {
            tracing::info!(
                outbox = outbox_key,
                events = frames.len(),
                "publishing what stayed behind"
            );
            let published = publish_frames(&self.bus, &frames).await;
            let (done, left): (Vec<_>, Vec<_>) = frames
                .into_iter()
                .zip(published)
                .partition(|(_, published)| published.is_ok());
            let frames = |parts: Vec<(StoredOutputs, _)>| {
                parts
                    .into_iter()
                    .map(|(frame, _)| frame)
                    .collect::<Vec<_>>()
            };
            let (worker, left, done) = (self.clone(), frames(left), frames(done));
            tokio::spawn(async move { worker.mark(outbox_key, left, done).await });
        }
    }

    /// A server that was started anew may have lost what it had acked and not yet written to disk. What is kept is
    /// published again under the same ids, once for all workers; copies are known as such.
    async fn restore(&self, server: &str) -> Result<(), StoreError> {
        let (lease, keep) = (format!("oncue:restored:{server}"), self.keep_outputs);
        if !self.store.lease(&lease, LEASE).await? {
            return Ok(());
        }
        let since = event::now_ms().saturating_sub(keep.as_millis() as u64);
        let mut outputs = 0;
        for partition in 0..PARTITIONS {
            self.store.renew(&lease, LEASE).await?;
            let mut from = 0;
            loop {
                let kept = self.store.kept(partition, since, from).await?;
                if kept.is_empty() {
                    break;
                }
                from += kept.len();
                for kept in kept {
                    for published in publish_frames(&self.bus, &kept.frames).await {
                        match published {
                            Ok(count) => outputs += count,
                            Err(e) => {
                                self.store.renew(&lease, 1).await?;
                                return Err(StoreError::refused(e.to_string()));
                            }
                        }
                    }
                }
            }
        }
        if outputs > 0 {
            tracing::info!(
                server,
                outputs,
                "NATS was started anew: published again what it may have lost"
            );
        }
        self.store.renew(&lease, 2 * keep.as_secs() + LEASE).await
    }

    /// Purges what is older than the replay window of the stream and done with by every consumer. Any number of workers
    /// may do it; if none does, the stream fills up and refuses, and loses nothing.
    pub(crate) async fn tidy_up(self: Arc<Self>, stream: String, window: Duration) {
        // Schedules wait for their time, dead letters for an operator: neither is done when it is old.
        if [TIMER, DLQ].contains(&stream.as_str()) {
            return;
        }
        loop {
            tokio::time::sleep(JANITOR.mul_f64(0.5 + fastrand::f64())).await;
            match purge(&self.bus, &stream, window).await {
                Ok(0) => {}
                Ok(purged) => tracing::info!(
                    stream,
                    purged,
                    "purged what is done and older than {window:?}"
                ),
                Err(e) => tracing::debug!(stream, error = %e, "cannot purge"),
            }
        }
    }
}

/// Publishes what followed from the events of a commit, all at once; for each event how much that was, or what failed.
async fn publish_frames(bus: &Bus, frames: &[StoredOutputs]) -> Vec<Result<usize, PublishError>> {
    let outputs: Vec<Vec<Output>> = frames
        .iter()
        .map(|frame| outputs::decode(frame.outputs.clone()))
        .collect();
    let counts: Vec<usize> = outputs.iter().map(Vec::len).collect();
    let mut answers = publish(bus, outputs.into_iter().flatten().collect())
        .await
        .into_iter();
    let of_event = |count: usize| {
        // All of its answers are taken, whatever the first of them says: the next are another event's.
        let own: Vec<Result<(), PublishError>> = answers.by_ref().take(count).collect();
        own.into_iter()
            .collect::<Result<Vec<()>, _>>()
            .map(|all| all.len())
    };
    counts.into_iter().map(of_event).collect()
}
