//! Purging the worker's own stream.
//!
//! JetStream's own `max_age` would drop messages that a consumer has not acked yet. Here age and
//! acks count together.

use std::time::Duration;

use oncue_core::backoff::spread;
use oncue_core::bus::layout::{DLQ, TIMER};
use oncue_core::bus::{Bus, purge};

/// Between two looks at what may be purged.
const PURGE_INTERVAL: Duration = Duration::from_mins(1);

/// Purges what is older than the replay window of the stream and done with by every consumer. Any number of workers may do
/// it; if none does, the stream fills up and refuses, and loses nothing.
pub(crate) async fn purge_for_ever(bus: Bus, stream: String, window: Duration) {
    // Schedules wait for their time, dead letters for an operator: neither is done when it is old.
    if [TIMER, DLQ].contains(&stream.as_str()) {
        return;
    }
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
