//! Purging a stream of messages that are older than its replay window and done with by every consumer.

use std::time::Duration;

use oncue_proto::event;
use serde::Deserialize;
use serde_json::json;

use super::{ApiError, Bus};

/// Answer to `STREAM.PURGE`.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Purged {
    /// Number of messages.
    purged: u64,
}

/// Sequence below which a stream may be purged: older than `window`, and no consumer needs it. `None` where nothing is.
pub async fn purgeable(bus: &Bus, stream: &str, window: Duration) -> Result<Option<u64>, ApiError> {
    let before = event::now_ms().saturating_sub(window.as_millis() as u64);
    let Some(old) = bus.first_since(stream, before).await? else {
        return Ok(None);
    };
    let below = old.min(first_needed(bus, stream).await?);
    let first = bus.stream_info(stream).await?.state.first_seq;
    Ok((below > first).then_some(below))
}

/// Sequence below which a stream may be purged at once, whatever its age, since it has less room left than `reserve`. What
/// goes cannot be delivered again any more: a Redis that loses state is restored without it.
pub async fn purgeable_early(
    bus: &Bus,
    stream: &str,
    reserve: u64,
) -> Result<Option<u64>, ApiError> {
    let info = bus.stream_info(stream).await?;
    let most = info.config.max_bytes;
    if most <= 0 || info.state.bytes + reserve <= most as u64 {
        return Ok(None);
    }
    let below = first_needed(bus, stream).await?;
    Ok((below > info.state.first_seq).then_some(below))
}

/// Purges a stream below a sequence; returns how many messages went.
pub async fn purge(bus: &Bus, stream: &str, below: u64) -> Result<u64, ApiError> {
    let question = json!({ "seq": below });
    let answer = bus
        .api(&format!("STREAM.PURGE.{stream}"), &question)
        .await?;
    Ok(Purged::deserialize(answer).unwrap_or_default().purged)
}

/// Sequence of the first message that some consumer of the stream is not done with.
async fn first_needed(bus: &Bus, stream: &str) -> Result<u64, ApiError> {
    // Asked first: what comes after it counts as needed.
    let last = bus.stream_info(stream).await?.state.last_seq;
    let consumers = bus.consumers(stream).await?;
    // The floor of one that has caught up may lie below what it does not filter.
    let behind = consumers.iter().filter(|consumer| !consumer.is_idle());
    let floors = behind.map(|consumer| consumer.ack_floor.stream_seq);
    Ok(floors.min().unwrap_or(last).min(last) + 1)
}
