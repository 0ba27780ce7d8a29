//! Reserve of a stream: the last of its bytes are for what functions emit, or one client that fills a stream would stop
//! everybody inside.
//!
//! One look at a stream serves all requests of a second; what the gateway takes in between it counts itself. Other gateways
//! and plain NATS clients may take room meanwhile, so the reserve is about as large as it says.

use std::time::Duration;

use oncue_core::bus::Bus;
use oncue_core::config::StreamConfig;

use super::looked::Looked;
use crate::problem::{FULL, Problem};

/// Age beyond which a look counts no more.
const MAX_LOOK_AGE: Duration = Duration::from_secs(1);
/// Bytes of a message besides its payload, as the gateway writes it: headers, subject, the stream's own.
const OVERHEAD: u64 = 700;

/// Room that clients have in each stream.
#[derive(Default)]
pub struct Room {
    streams: Looked<Level>,
}

struct Level {
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
        let look = async {
            let info = bus.stream_info(name).await?;
            // The server's own limit: a stream of another app has one that is not in our oncue.toml, or none.
            let max = u64::try_from(info.config.max_bytes).unwrap_or(u64::MAX);
            Ok(Level {
                used: info.state.bytes,
                most: max.saturating_sub(config.reserve()),
            })
        };
        let admitted = self.streams.admit(
            name,
            |level, age| {
                let fits = (age < MAX_LOOK_AGE).then(|| level.take(size))?;
                Some(fits.then_some(()).ok_or_else(|| refusal(name, config)))
            },
            look,
        );
        admitted.await
    }
}

impl Level {
    /// Whether there is room for so many bytes more, which are taken then.
    fn take(&mut self, size: u64) -> bool {
        let fits = self.used + size <= self.most;
        self.used += if fits { size } else { 0 };
        fits
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
        let mut level = Level {
            used: 50,
            most: 100,
        };
        assert!(level.take(30));
        assert!(!level.take(30));
        assert!(level.take(20));
        assert!(!level.take(1));
    }
}
