//! Back-pressure before a stream is full: how many events the slowest function of a stream has not yet handled.
//!
//! Asked for only where it can matter: between two looks the gateway counts what it took itself, so a look is due
//! when that could have reached the bound, or a second after the last one. Many requests share one look.

use std::time::Duration;

use oncue_core::bus::Bus;
use oncue_core::bus::info::ConsumerInfo;

use super::looked::Looked;
use crate::problem::{BEHIND, Problem};

/// Age of a look beyond which it counts no more: others may have added what this gateway does not know of.
const MAX_LOOK_AGE: Duration = Duration::from_secs(1);
/// At the bound the consumers are not looked at more often than this.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);

/// Bound on how far functions may be behind, by stream.
pub struct Backlog {
    /// 0 for no bound.
    max: u64,
    streams: Looked<Slowest>,
}

/// Function of a stream that is furthest behind.
#[derive(Default)]
struct Slowest {
    name: String,
    lag: u64,
    /// Let in since the look.
    taken: u64,
}

impl Backlog {
    pub fn new(max: u64) -> Self {
        Self {
            max,
            streams: Looked::default(),
        }
    }

    /// Lets one more event for the stream in, or says why not.
    pub async fn admit(&self, bus: &Bus, stream: &str) -> Result<(), Problem> {
        if self.max == 0 {
            return Ok(());
        }
        let look = async {
            let consumers = bus.function_consumers(stream).await?;
            Ok(Slowest::of(&consumers))
        };
        let admitted = self
            .streams
            .admit(stream, |slowest, age| slowest.take(self.max, age), look);
        admitted.await
    }
}

impl Slowest {
    fn of(consumers: &[ConsumerInfo]) -> Self {
        let slowest = consumers.iter().max_by_key(|consumer| consumer.lag());
        slowest.map_or_else(Self::default, |consumer| Self {
            name: consumer.name.clone(),
            lag: consumer.lag(),
            taken: 0,
        })
    }

    /// Takes a place below the bound, or refuses; `None` where that was known too long ago.
    fn take(&mut self, max: u64, age: Duration) -> Option<Result<(), Problem>> {
        let behind = self.lag + self.taken;
        if age < MAX_LOOK_AGE && behind < max {
            self.taken += 1;
            return Some(Ok(()));
        }
        let why = format!(
            "{} has {behind} events to handle, {max} are the most; nothing was taken",
            self.name
        );
        (age < LOOK_INTERVAL).then(|| Err(Problem::new(BEHIND, why)))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn consumer(name: &str, pending: u64, in_flight: u64) -> ConsumerInfo {
        let info = json!({ "name": name, "num_pending": pending, "num_ack_pending": in_flight });
        serde_json::from_value(info).expect("a consumer")
    }

    #[test]
    fn the_slowest_function_counts_and_what_was_taken_since() {
        let mut slowest = Slowest::of(&[consumer("fast", 0, 1), consumer("slow", 5, 2)]);
        for _ in 0..3 {
            assert!(slowest.take(10, Duration::ZERO).unwrap().is_ok());
        }
        let refused = slowest.take(10, Duration::ZERO).unwrap().unwrap_err();
        let why = "slow has 10 events to handle, 10 are the most";
        assert!(refused.detail().starts_with(why));
        assert!(slowest.take(10, LOOK_INTERVAL).is_none(), "worth a look");
        let mut slowest = Slowest::of(&[consumer("slow", 0, 0)]);
        assert!(slowest.take(10, LOOK_INTERVAL).unwrap().is_ok());
        assert!(slowest.take(10, MAX_LOOK_AGE).is_none(), "known no longer");
        let mut nobody = Slowest::of(&[]);
        assert!(nobody.take(10, Duration::ZERO).unwrap().is_ok());
    }
}
