//! Purging a stream of what is older than its replay window and done with by every consumer.

use std::time::Duration;

use oncue_proto::event;
use serde_json::{Value, json};

use super::{ApiError, Bus};

/// Purges once, and says how many messages went.
pub async fn purge(bus: &Bus, stream: &str, window: Duration) -> Result<u64, ApiError> {
    let before = event::now_ms().saturating_sub(window.as_millis() as u64);
    let Some(old) = bus.first_since(stream, before).await? else {
        return Ok(0);
    };
    let keep_from = old.min(first_needed(bus, stream).await?);
    let purged = bus
        .api(
            &format!("STREAM.PURGE.{stream}"),
            &json!({ "seq": keep_from }),
        )
        .await?;
    Ok(purged["purged"].as_u64().unwrap_or(0))
}

/// Sequence of the first message that some consumer of the stream is not done with.
async fn first_needed(bus: &Bus, stream: &str) -> Result<u64, ApiError> {
    // Asked first: what comes after it counts as needed.
    let info = bus
        .api(&format!("STREAM.INFO.{stream}"), &Value::Null)
        .await?;
    let last = info["state"]["last_seq"].as_u64().unwrap_or(0);
    let (mut done, mut offset) = (last, 0);
    loop {
        let page = bus
            .api(
                &format!("CONSUMER.LIST.{stream}"),
                &json!({ "offset": offset }),
            )
            .await?;
        let consumers = page["consumers"].as_array().cloned().unwrap_or_default();
        // The floor of one that has caught up may lie below what it does not filter.
        for consumer in consumers
            .iter()
            .filter(|c| c["num_pending"] != 0 || c["num_ack_pending"] != 0)
        {
            done = done.min(consumer["ack_floor"]["stream_seq"].as_u64().unwrap_or(0));
        }
        offset += consumers.len() as u64;
        if consumers.is_empty() || offset >= page["total"].as_u64().unwrap_or(0) {
            return Ok(done + 1);
        }
    }
}
