//! Back-pressure before a stream is full: how many events the slowest function of a stream has not yet handled.
//!
//! Asked for only where it can matter: between two looks the gateway counts what it took itself, so a look is due
//! when that could have reached the bound, or a second after the last one. Many requests share one look.

use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use oncue_core::bus::Bus;
use oncue_core::bus::info::ConsumerInfo;

use crate::problem::{BEHIND, Problem};

/// Age of a look beyond which it counts no more: others may have added what this gateway does not know of.
const MAX_LOOK_AGE: Duration = Duration::from_secs(1);
/// At the bound the consumers are not looked at more often than this.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);

/// Bound on how far functions may be behind, by stream.
pub struct Backlog {
    /// 0 for no bound.
    max: u64,
    streams: Mutex<BTreeMap<String, Arc<Stream>>>,
}

#[derive(Default)]
struct Stream {
    known: Mutex<Known>,
    /// Held while one request looks for all.
    looking: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct Known {
    looked: Option<Instant>,
    lag: u64,
    slowest: String,
    /// Let in since then.
    taken: u64,
}

impl Backlog {
    pub fn new(max: u64) -> Self {
        Self {
            max,
            streams: Mutex::default(),
        }
    }

    /// Lets one more event for the stream in, or says why not. `stream` is of the contract, so there are few.
    pub async fn admit(&self, bus: &Bus, stream: &str) -> Result<(), Problem> {
        if self.max == 0 {
            return Ok(());
        }
        let of = self
            .streams
            .lock()
            .entry(stream.to_owned())
            .or_default()
            .clone();
        if of.take(self.max, MAX_LOOK_AGE) {
            return Ok(());
        }
        let _looking = of.looking.lock().await;
        // Somebody may have looked while we waited.
        if of.take(self.max, MAX_LOOK_AGE) {
            return Ok(());
        }
        if !of.is_younger(LOOK_INTERVAL) {
            let consumers = bus.function_consumers(stream).await?;
            of.learn(&consumers);
        }
        if of.take(self.max, MAX_LOOK_AGE) {
            Ok(())
        } else {
            Err(of.refusal(self.max))
        }
    }
}

impl Stream {
    fn known(&self) -> parking_lot::MutexGuard<'_, Known> {
        self.known.lock()
    }

    fn is_younger(&self, than: Duration) -> bool {
        self.known()
            .looked
            .is_some_and(|looked| looked.elapsed() < than)
    }

    /// Takes a place below the bound, by what is known.
    fn take(&self, max: u64, fresh: Duration) -> bool {
        let young = self.is_younger(fresh);
        let mut known = self.known();
        let free = young && known.lag + known.taken < max;
        known.taken += u64::from(free);
        free
    }

    fn learn(&self, consumers: &[ConsumerInfo]) {
        let slowest = consumers.iter().max_by_key(|consumer| consumer.lag());
        *self.known() = Known {
            looked: Some(Instant::now()),
            lag: slowest.map_or(0, ConsumerInfo::lag),
            slowest: slowest
                .map(|consumer| consumer.name.clone())
                .unwrap_or_default(),
            taken: 0,
        };
    }

    fn refusal(&self, max: u64) -> Problem {
        let known = self.known();
        let behind = format!(
            "{} has {} events to handle, {max} are the most",
            known.slowest,
            known.lag + known.taken
        );
        Problem::new(BEHIND, format!("{behind}; nothing was taken"))
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
        let stream = Stream::default();
        assert!(!stream.take(10, MAX_LOOK_AGE), "nothing is known");
        stream.learn(&[consumer("fast", 0, 1), consumer("slow", 5, 2)]);
        let taken = (0..20).filter(|_| stream.take(10, MAX_LOOK_AGE)).count();
        assert_eq!(taken, 3);
        assert!(
            stream
                .refusal(10)
                .detail()
                .starts_with("slow has 10 events to handle, 10 are the most")
        );
        stream.learn(&[consumer("slow", 0, 0)]);
        assert!(stream.take(10, MAX_LOOK_AGE));
        assert!(!stream.take(10, Duration::ZERO), "known no longer");
        stream.learn(&[]);
        assert!(
            stream.take(10, MAX_LOOK_AGE),
            "nobody is behind where nobody acts"
        );
    }
}
