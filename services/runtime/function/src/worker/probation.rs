//! Probation: an event whose deliveries ended with their process may have killed it, so it runs with no other beside it.
//!
//! A delivery that ended with a plain failure and left the process alive is vouched for, and whichever worker has the event
//! next need not run it alone. Workers of a function vouch to each other by core NATS; what gets lost on the way costs a
//! probation, no more, and a delivery after which nobody says anything is taken for one that killed its process.
//!
//! Without probation a poison event that kills its process would take its neighbours with it at
//! every attempt, and they would use up their own attempts.

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
///
/// Two such generations, two numbers for each delivery, take a megabyte or so however long the
/// worker runs.
const GENERATION_SIZE: usize = 20_000;
/// Vouchers that come meanwhile are sent together; well below the shortest delay before the next try.
const SEND_LINGER: Duration = Duration::from_millis(50);
/// Attempts of which an event can lose two to a neighbour that ends the process, and have two left.
const SPARE_ATTEMPTS: u32 = 4;
/// Stream sequence and attempt on the wire, each as 8 bytes, little end first.
const VOUCHER_BYTES: usize = 16;

/// Gate of the worker, and the vouchers by which it decides. Shared by the worker, which asks and
/// enters, and the settler, which vouches.
#[derive(Default)]
pub(crate) struct Probation {
    /// Held from the read to the commit: shared by ordinary events, alone by one on probation. One that kills the process
    /// then takes no neighbour with it.
    ///
    /// Tokio's lock is fair: one that waits to be alone is not overtaken for ever by those that
    /// share.
    gate: RwLock<()>,
    /// Deliveries known to have left their process alive, here or elsewhere.
    vouchers: Vouchers,
}

/// Pass through the gate, until it is dropped.
pub(crate) enum Pass<'p> {
    /// Ordinary events run beside each other.
    Shared(#[expect(dead_code, reason = "held, not read")] RwLockReadGuard<'p, ()>),
    /// One key with one event, and nothing beside it between read and commit.
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
    ///
    /// As a rule a process was ended from outside, and all that it had in hand would run one after the other for nothing. So
    /// where `attempts` leave room for it, a second delivery runs beside others, and alone runs what has lost two processes.
    pub fn applies_to(&self, info: &DeliveryInfo, attempts: u32) -> bool {
        let is_suspect =
            info.attempt > 1 && !self.vouchers.take(info.sequence, u64::from(info.attempt));
        is_suspect && (info.attempt > 2 || attempts < SPARE_ATTEMPTS)
    }

    /// A delivery has failed here, and the process lives.
    pub fn vouch(&self, sequence: u64, attempt: u64) {
        self.vouchers.add(sequence, attempt);
    }

    /// Exchanges vouchers with the other workers of the function for as long as the future is polled.
    ///
    /// Plain core NATS, subject `oncue.survived.<app>_<function>`: no stream, no ack. The future does not
    /// end by itself: its sending half waits for the next voucher.
    ///
    /// # Errors
    ///
    /// The subscription was refused.
    pub async fn exchange(
        self: Arc<Self>,
        bus: Bus,
        function: &str,
    ) -> Result<impl Future<Output = ()> + use<>, BusError> {
        let subject = format!("oncue.survived.{}", bus.app().consumer(function));
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
    /// Signal to the half that sends.
    more: Notify,
}

impl Vouchers {
    /// Remembers a voucher of this worker, and queues it for the others.
    fn add(&self, sequence: u64, attempt: u64) {
        self.remember(sequence, attempt);
        let mut unsent = self.unsent.lock();
        unsent.extend(sequence.to_le_bytes());
        unsent.extend(attempt.to_le_bytes());
        self.more.notify_one();
    }

    /// Whether the delivery before this one ended so, here or elsewhere.
    ///
    /// A voucher is used up by being asked for, so a copy that comes later stands for itself.
    fn take(&self, sequence: u64, attempt: u64) -> bool {
        let known = self
            .known
            .lock()
            .iter_mut()
            .find_map(|generation| generation.remove(&sequence));
        known.is_some_and(|known| known + 1 == attempt)
            || failpoint::sabotaged(Sabotage::VouchForAll)
    }

    /// Remembers a voucher, of this worker or of another. A full generation becomes the older one,
    /// and the one before it is forgotten.
    fn remember(&self, sequence: u64, attempt: u64) {
        let mut known = self.known.lock();
        if known[0].len() >= GENERATION_SIZE {
            known[1] = std::mem::take(&mut known[0]);
        }
        known[0].insert(sequence, attempt);
    }

    /// Vouchers of another worker; a torn one at the end is left out.
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

    /// At most a thousand vouchers in a message, 16 KB.
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

/// Eight bytes, little end first; 0 for fewer.
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
    fn alone_runs_what_may_have_ended_two_processes() {
        let probation = Probation::default();
        let cases = [(1, 3), (2, 3), (3, 3), (1, 6), (2, 6), (3, 6)];
        let alone = cases.map(|(attempt, attempts)| {
            let info = DeliveryInfo {
                stream: "web".into(),
                sequence: 7,
                attempt,
                published: 0,
            };
            probation.applies_to(&info, attempts)
        });
        assert_eq!(alone, [false, true, true, false, false, true]);
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
