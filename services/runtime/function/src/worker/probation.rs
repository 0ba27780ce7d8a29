//! Probation: an event whose last delivery ended with its process may have killed it, so it runs with no other beside it.
//!
//! A delivery that ended with a plain failure and left the process alive is vouched for, and whichever worker has the event
//! next need not run it alone. Workers of a function vouch to each other by core NATS; what gets lost on the way costs a
//! probation, no more, and a delivery after which nobody says anything is taken for one that killed its process.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use oncue_core::bus::pull::DeliveryInfo;
use oncue_core::bus::{Bus, BusError, Subscription};
use oncue_core::failpoint::{self, Sabotage};
use parking_lot::Mutex;
use tokio::sync::{Notify, RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::worker::invocation::BoxedInvocation;

/// Deliveries remembered before the older half is forgotten.
const GENERATION_SIZE: usize = 20_000;
/// Vouchers that come meanwhile are sent together; well below the shortest delay before the next try.
const SEND_LINGER: Duration = Duration::from_millis(50);
/// Stream sequence and attempt on the wire, each as 8 bytes, little end first.
const VOUCHER_BYTES: usize = 16;

#[derive(Default)]
pub(crate) struct Probation {
    /// Held from the read to the commit: shared by ordinary events, alone by one on probation. One that kills the process
    /// then takes no neighbour with it.
    gate: RwLock<()>,
    vouchers: Vouchers,
}

/// Pass through the gate, until it is dropped.
pub(crate) enum Pass<'p> {
    Shared(#[expect(dead_code, reason = "held, not read")] RwLockReadGuard<'p, ()>),
    Alone(#[expect(dead_code, reason = "held, not read")] RwLockWriteGuard<'p, ()>),
}

impl Probation {
    /// Waits until events may run: on probation when no other does, and with others when none is on probation.
    pub async fn enter(&self, events: &[BoxedInvocation]) -> Pass<'_> {
        if events.iter().any(|event| event.on_probation) {
            Pass::Alone(self.gate.write().await)
        } else {
            Pass::Shared(self.gate.read().await)
        }
    }

    /// Whether this delivery of an event runs alone: delivered before, and nobody vouches for the delivery before this one.
    pub fn applies_to(&self, info: &DeliveryInfo) -> bool {
        let attempt = u64::from(info.attempt);
        info.attempt > 1 && !self.vouchers.take(info.sequence, attempt)
    }

    /// A delivery has failed here, and the process lives.
    pub fn vouch(&self, sequence: u64, attempt: u64) {
        self.vouchers.add(sequence, attempt);
    }

    /// Exchanges vouchers with the other workers of the function for as long as the future is polled.
    pub async fn exchange(
        self: Arc<Self>,
        bus: Bus,
        function: &str,
    ) -> Result<impl Future<Output = ()> + use<>, BusError> {
        let subject = format!("oncue.survived.{function}");
        let others = bus.subscribe(&subject).await?;
        Ok(async move {
            tokio::join!(
                self.vouchers.receive_from(others),
                self.vouchers.send_to(&bus, &subject)
            );
        })
    }
}

/// Deliveries that ended without harm.
#[derive(Default)]
struct Vouchers {
    /// Attempt that ended well, by stream sequence: this generation and the one before.
    known: Mutex<[HashMap<u64, u64>; 2]>,
    /// Encoded vouchers that the other workers do not know yet.
    unsent: Mutex<Vec<u8>>,
    more: Notify,
}

impl Vouchers {
    fn add(&self, sequence: u64, attempt: u64) {
        self.remember(sequence, attempt);
        let mut unsent = self.unsent.lock();
        unsent.extend(sequence.to_le_bytes());
        unsent.extend(attempt.to_le_bytes());
        self.more.notify_one();
    }

    /// Whether the delivery before this one ended so, here or elsewhere.
    fn take(&self, sequence: u64, attempt: u64) -> bool {
        let known = self
            .known
            .lock()
            .iter_mut()
            .find_map(|generation| generation.remove(&sequence));
        known.is_some_and(|known| known + 1 == attempt)
            || failpoint::sabotaged(Sabotage::VouchForAll)
    }

    fn remember(&self, sequence: u64, attempt: u64) {
        let mut known = self.known.lock();
        if known[0].len() >= GENERATION_SIZE {
            known[1] = std::mem::take(&mut known[0]);
        }
        known[0].insert(sequence, attempt);
    }

    fn receive(&self, encoded: &[u8]) {
        for voucher in encoded.chunks_exact(VOUCHER_BYTES) {
            self.remember(number(&voucher[..8]), number(&voucher[8..]));
        }
    }

    async fn receive_from(&self, mut others: Subscription) {
        while let Some(message) = others.next().await {
            self.receive(&message.payload);
        }
    }

    async fn send_to(&self, bus: &Bus, subject: &str) {
        loop {
            self.more.notified().await;
            tokio::time::sleep(SEND_LINGER).await;
            let unsent = std::mem::take(&mut *self.unsent.lock());
            // Far below what one message may hold, however much fails.
            for part in Bytes::from(unsent).chunks(VOUCHER_BYTES * 1000) {
                let part = Bytes::copy_from_slice(part);
                if let Err(e) = bus.publish_plain(subject.to_owned(), part).await {
                    tracing::debug!(error = %e, "cannot vouch for deliveries");
                }
            }
        }
    }
}

fn number(bytes: &[u8]) -> u64 {
    bytes.try_into().map(u64::from_le_bytes).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_very_next_delivery_is_vouched_for_and_once() {
        let vouchers = Vouchers::default();
        vouchers.add(7, 1);
        assert!(vouchers.take(7, 2) && !vouchers.take(7, 2));
        vouchers.add(7, 1);
        assert!(
            !vouchers.take(7, 3),
            "of the second delivery nobody said anything"
        );
    }

    #[test]
    fn what_one_tells_another_hears() {
        let (one, other) = (Vouchers::default(), Vouchers::default());
        one.add(7, 1);
        one.add(u64::MAX, 2);
        other.receive(&one.unsent.lock());
        other.receive(b"cut off");
        assert!(other.take(7, 2) && other.take(u64::MAX, 3) && !other.take(8, 2));
    }

    #[test]
    fn the_oldest_are_forgotten() {
        let vouchers = Vouchers::default();
        for sequence in 0..=2 * GENERATION_SIZE as u64 {
            vouchers.remember(sequence, 1);
        }
        assert!(!vouchers.take(0, 2) && vouchers.take(GENERATION_SIZE as u64, 2));
    }
}
