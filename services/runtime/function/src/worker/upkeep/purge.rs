//! Purging the worker's own stream, and its seen-marks.
//!
//! JetStream's own `max_age` would drop messages that a consumer has not acked yet. Here age and
//! acks count together.

use std::time::Duration;

use oncue_core::backoff::spread;
use oncue_core::bus::{Bus, purge, purge_early};
use oncue_core::store::Store;

/// Between two looks at what may be purged.
const PURGE_INTERVAL: Duration = Duration::from_mins(1);
/// Between two looks at the room that is left.
const ROOM_INTERVAL: Duration = Duration::from_secs(10);

/// Purges what is older than the replay window of the stream and done with by every consumer. Any number of workers may do
/// it; if none does, the stream fills up and refuses, and loses nothing.
pub(crate) async fn purge_for_ever(bus: Bus, stream: String, window: Duration) {
    loop {
        tokio::time::sleep(spread(PURGE_INTERVAL)).await;
        match purge(&bus, &stream, window).await {
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
pub(crate) async fn keep_room_for_ever(bus: Bus, stream: String, reserve: u64) {
    loop {
        tokio::time::sleep(spread(ROOM_INTERVAL)).await;
        match purge_early(&bus, &stream, reserve).await {
            Ok(0) => {}
            Ok(purged) => tracing::warn!(
                stream,
                purged,
                "the stream is nearly full: purged what every function is done with before its time; should Redis lose \
                 state now, `oncue recover redis` cannot restore that part"
            ),
            Err(e) => tracing::debug!(stream, error = %e, "cannot look at the room that is left"),
        }
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
