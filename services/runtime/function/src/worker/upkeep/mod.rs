//! Upkeep: work that every worker does on the side for its function, slowly and without state of its own.
//!
//! * [`relay`] publishes outputs that stayed behind, and forgets those that need not be kept;
//! * [`restore`] publishes again what a NATS that was started anew may have lost;
//! * [`drop_expired_marks_for_ever`] takes marks that have expired out of Redis.
//!
//! What concerns more than the function's own outputs and marks is the operator's: `oncue up` and `oncue tend`.
//!
//! Nobody is elected for it; where one worker is enough, a lease in Redis keeps the others away.
//! Each loop waits for a random time around its interval, so many workers spread by themselves; two
//! that meet at the same work do it twice, which is safe everywhere here.

mod relay;
mod restore;

pub(crate) use self::relay::Relay;

use std::time::Duration;

use oncue_core::backoff::spread;
use oncue_core::store::Store;
use oncue_proto::event;

/// Between two looks at marks that may have expired.
const MARKS_INTERVAL: Duration = Duration::from_mins(1);

/// Unix milliseconds of `age` ago.
fn before(age: Duration) -> u64 {
    event::now_ms().saturating_sub(age.as_millis() as u64)
}

/// Drops seen-marks of `function` that have expired, bucket after bucket, each looked at some times a day. Any number of
/// workers may do it; they share the round.
pub(crate) async fn drop_expired_marks_for_ever(store: Store, function: &'static str) {
    loop {
        tokio::time::sleep(spread(MARKS_INTERVAL)).await;
        if let Err(e) = store.drop_expired_marks(function).await {
            tracing::debug!(error = %e, "cannot drop marks that have expired");
        }
    }
}
