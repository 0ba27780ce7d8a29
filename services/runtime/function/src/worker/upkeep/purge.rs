//! Purging the worker's own stream, and its seen-marks; and watching that nobody else purges what is still needed.
//!
//! JetStream's own `max_age` would drop messages that a consumer has not acked yet. Here age and
//! acks count together.

use std::time::Duration;

use oncue_core::agreement;
use oncue_core::backoff::spread;
use oncue_core::bus::{self, Bus, BusError};
use oncue_core::store::{Removed, Store};

/// Between two looks at what may be purged.
const PURGE_INTERVAL: Duration = Duration::from_mins(1);
/// Between two looks at the room that is left, and at what was removed.
const ROOM_INTERVAL: Duration = Duration::from_secs(10);

/// The worker's stream, which is this app's, and its function.
#[derive(Clone)]
pub(crate) struct OwnStream {
    pub bus: Bus,
    pub store: Store,
    pub name: String,
    pub function: &'static str,
}

impl OwnStream {
    /// Purges what is older than the replay window of the stream and done with by every consumer. Any number of workers may do
    /// it; if none does, the stream fills up and refuses, and loses nothing.
    pub async fn purge_for_ever(self, window: Duration) {
        loop {
            tokio::time::sleep(spread(PURGE_INTERVAL)).await;
            let below = bus::purgeable(&self.bus, &self.name, window).await;
            let below = below.map_err(|e| BusError(e.to_string()));
            let stream = &self.name;
            match self.purge_below(below).await {
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

    /// Gives space back early where it is short: better than to stop those who emit into the stream. Said aloud each time.
    pub async fn keep_room_for_ever(self, reserve: u64) {
        loop {
            tokio::time::sleep(spread(ROOM_INTERVAL)).await;
            let below = bus::purgeable_early(&self.bus, &self.name, reserve).await;
            let below = below.map_err(|e| BusError(e.to_string()));
            let stream = &self.name;
            match self.purge_below(below).await {
                Ok(0) => {}
                Ok(purged) => tracing::warn!(
                    stream,
                    purged,
                    "the stream is nearly full: purged what every function is done with before its time; should Redis \
                     lose state now, `oncue recover redis` cannot restore that part"
                ),
                Err(e) => {
                    tracing::debug!(stream, error = %e, "cannot look at the room that is left");
                }
            }
        }
    }

    /// Purges, once it is on record how far all functions are: what goes now was needed by none.
    async fn purge_below(&self, below: Result<Option<u64>, BusError>) -> Result<u64, BusError> {
        let Some(below) = below? else { return Ok(0) };
        agreement::watch_all_removed(&self.bus, &self.store, &self.name).await?;
        let purged = bus::purge(&self.bus, &self.name, below).await;
        purged.map_err(|e| BusError(e.to_string()))
    }

    /// Watches that nothing is taken out of the stream before the function is done with it.
    pub async fn watch_for_ever(self) {
        loop {
            let found = self.look().await;
            if let Err(e) = found {
                let stream = &self.name;
                tracing::debug!(stream, error = %e, "cannot look whether something was removed");
            }
            tokio::time::sleep(spread(ROOM_INTERVAL)).await;
        }
    }

    async fn look(&self) -> Result<(), BusError> {
        let found =
            agreement::watch_removed(&self.bus, &self.store, &self.name, self.function).await?;
        if let Some(Removed {
            from, to, messages, ..
        }) = found
        {
            tracing::error!(
                stream = self.name,
                from,
                to,
                messages,
                "somebody has removed messages before this function was done with them; `oncue audit` names them"
            );
        }
        Ok(())
    }
}

/// Drops seen-marks of `function` that have expired, bucket after bucket, each looked at some times a day. Any number of
/// workers may do it; they share the round.
pub(crate) async fn drop_expired_marks_for_ever(store: Store, function: &'static str) {
    loop {
        tokio::time::sleep(spread(PURGE_INTERVAL)).await;
        if let Err(e) = store.drop_expired_marks(function).await {
            tracing::debug!(error = %e, "cannot drop marks that have expired");
        }
    }
}
