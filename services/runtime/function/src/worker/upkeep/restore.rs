//! Restoring: a NATS that was started anew may have lost what it had acked and not yet written to disk. Outputs of the function
//! that are kept in Redis are published again under their ids, once for all its workers; copies are known as such.
//!
//! A server that loses power may forget messages which it had acked since it last wrote to disk.
//! Redis keeps outputs for `keep_outputs` after they were published, 5 minutes by default, which is
//! longer than NATS may take to write. Where `oncue up` knows that the server before ended in order, it says so, and nothing is
//! published again. Only workers of the function forget them, so a function that slept through the
//! loss finds them all the same.

use oncue_core::store::{RESTORE_SECONDS, RESTORED_SECONDS, Store, StoreError};

use crate::worker::publisher::Publisher;

/// Restores what the server of this id may have lost of a function's outputs, unless another worker does or did.
///
/// After success the lease stays, so that no other worker does the work again.
///
/// # Errors
///
/// A stream refuses an output: the lease ends after a second, and this worker begins anew in a
/// later round. Redis refuses: the lease runs out by itself.
pub(super) async fn restore(
    store: &Store,
    publisher: &Publisher,
    function: &str,
    server: &str,
) -> Result<(), StoreError> {
    let lease = Store::restored(function, server);
    if !store.lease(&lease, RESTORE_SECONDS).await? {
        return Ok(());
    }
    let mut outputs = 0;
    let mut from = 0;
    loop {
        let kept = store.kept(function, 0, from).await?;
        if kept.is_empty() {
            break;
        }
        store.renew(&lease, RESTORE_SECONDS).await?;
        from += kept.len();
        for kept in kept {
            for published in publisher.publish_stored(&kept.frames, true).await {
                match published {
                    Ok(count) => outputs += count,
                    Err(e) => {
                        store.renew(&lease, 1).await?;
                        return Err(StoreError::refused(e.to_string()));
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
    store.renew(&lease, RESTORED_SECONDS).await
}
