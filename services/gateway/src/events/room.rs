//! Reserve of a stream: the last of its bytes are for what functions emit, or one client that fills a stream would stop
//! everybody inside.
//!
//! One look at a stream serves all requests of a second; what the gateway takes in between it counts itself. Other gateways
//! and plain NATS clients may take room meanwhile, so the reserve is about as large as it says.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use oncue_core::bus::Bus;
use oncue_core::config::StreamConfig;
use parking_lot::Mutex;

use crate::problem::{FULL, Problem};

/// Age beyond which a look counts no more.
const MAX_LOOK_AGE: Duration = Duration::from_secs(1);
/// Bytes of a message besides its payload, as the gateway writes it: headers, subject, the stream's own.
const OVERHEAD: u64 = 700;

/// Room that clients have in each stream.
#[derive(Default)]
pub struct Room {
    streams: Mutex<BTreeMap<String, Arc<Filling>>>,
}

#[derive(Default)]
struct Filling {
    known: Mutex<Level>,
    /// Held while one request looks for all.
    looking: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct Level {
    looked: Option<Instant>,
    /// Bytes the stream held, and those let in since.
    used: u64,
    /// Most bytes that clients may fill.
    most: u64,
}

impl Room {
    /// Lets a payload of this size in, or says why not. A stream without a limit has room.
    pub async fn admit(
        &self,
        bus: &Bus,
        name: &str,
        config: &StreamConfig,
        payload: usize,
    ) -> Result<(), Problem> {
        let size = payload as u64 + OVERHEAD;
        let stream = {
            let mut streams = self.streams.lock();
            streams.entry(name.to_owned()).or_default().clone()
        };
        if let Some(taken) = stream.take(size) {
            return taken.then_some(()).ok_or_else(|| refusal(name, config));
        }
        let _looking = stream.looking.lock().await;
        // Somebody may have looked while we waited.
        let taken = match stream.take(size) {
            None => {
                let info = bus.stream_info(name).await?;
                // The server's own limit: a stream of another app has one that is not in our oncue.toml, or none.
                let max = u64::try_from(info.config.max_bytes).unwrap_or(u64::MAX);
                *stream.known.lock() = Level {
                    looked: Some(Instant::now()),
                    used: info.state.bytes,
                    most: max.saturating_sub(config.reserve()),
                };
                stream.take(size)
            }
            taken => taken,
        };
        match taken {
            Some(false) => Err(refusal(name, config)),
            _ => Ok(()),
        }
    }
}

impl Filling {
    /// Whether there is room for so many bytes more, which are taken then; `None` where that is not known.
    fn take(&self, size: u64) -> Option<bool> {
        let mut known = self.known.lock();
        let is_young = known
            .looked
            .is_some_and(|looked| looked.elapsed() < MAX_LOOK_AGE);
        if !is_young {
            return None;
        }
        let fits = known.used + size <= known.most;
        known.used += if fits { size } else { 0 };
        Some(fits)
    }
}

fn refusal(name: &str, config: &StreamConfig) -> Problem {
    let why = format!(
        "stream {name} is full but for {} that are kept for what functions emit ([streams.{name}] reserve in \
         oncue.toml); nothing was taken",
        bytes(config.reserve())
    );
    Problem::new(FULL, why)
}

fn bytes(size: u64) -> String {
    match size {
        size if size >= 1 << 20 => format!("{} MiB", size >> 20),
        size => format!("{} KiB", size >> 10),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_counts_until_the_next_look() {
        let stream = Filling::default();
        assert_eq!(stream.take(1), None, "nothing is known");
        *stream.known.lock() = Level {
            looked: Some(Instant::now()),
            used: 50,
            most: 100,
        };
        assert_eq!(stream.take(30), Some(true));
        assert_eq!(stream.take(30), Some(false));
        assert_eq!(stream.take(20), Some(true));
        assert_eq!(stream.take(1), Some(false));
    }
}
