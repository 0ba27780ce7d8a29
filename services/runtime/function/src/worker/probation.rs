//! Deliveries that ended with a plain failure and left the process alive: whichever worker has the event next need not
//! run it alone. Workers of a function tell each other by core NATS; what gets lost on the way costs a probation, no
//! more, and a delivery after which nobody says anything is taken for one that killed its process.

use parking_lot::Mutex;
use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Notify;

use oncue_core::bus::{Bus, BusError};
use oncue_core::failpoint::{self, Sabotage};

/// Deliveries remembered before the older half is forgotten.
const GENERATION: usize = 20_000;
/// What fails meanwhile is told at once; well below the shortest delay before the next try.
const GATHER: Duration = Duration::from_millis(50);
/// Stream sequence and attempt on the wire, each as 8 bytes, little end first.
const TOLD: usize = 16;

#[derive(Default)]
pub(crate) struct Survivors {
    /// The attempt that ended well, by stream sequence: this generation and the one before.
    known: Mutex<[HashMap<u64, u64>; 2]>,
    untold: Mutex<Vec<u8>>,
    more: Notify,
}

impl Survivors {
    /// A delivery has failed here, and the process lives.
    pub fn note(&self, sequence: u64, attempt: u64) {
        self.remember(sequence, attempt);
        let mut untold = self.untold.lock();
        untold.extend(sequence.to_le_bytes());
        untold.extend(attempt.to_le_bytes());
        self.more.notify_one();
    }

    /// Whether the delivery before this one ended so, here or elsewhere.
    pub fn take(&self, sequence: u64, attempt: u64) -> bool {
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
        if known[0].len() >= GENERATION {
            known[1] = std::mem::take(&mut known[0]);
        }
        known[0].insert(sequence, attempt);
    }

    fn hear(&self, told: &[u8]) {
        let number = |bytes: &[u8]| bytes.try_into().map(u64::from_le_bytes).unwrap_or_default();
        for one in told.chunks_exact(TOLD) {
            self.remember(number(&one[..8]), number(&one[8..]));
        }
    }

    /// Tells the other workers, and listens to them, from now on.
    pub async fn meet(
        &self,
        bus: Bus,
        function: &str,
    ) -> Result<impl Future<Output = ()>, BusError> {
        let subject = format!("oncue.survived.{function}");
        let mut others = bus.subscribe(&subject).await?;
        Ok(async move {
            let listen = async {
                while let Some(note) = others.next().await {
                    self.hear(&note.payload);
                }
            };
            let tell = async {
                loop {
                    self.more.notified().await;
                    tokio::time::sleep(GATHER).await;
                    let untold = std::mem::take(&mut *self.untold.lock());
                    // Far below what one message may hold, however much fails.
                    for part in Bytes::from(untold).chunks(TOLD * 1000) {
                        if let Err(e) = bus
                            .publish_plain(subject.clone(), Bytes::copy_from_slice(part))
                            .await
                        {
                            tracing::debug!(error = %e, "survivors");
                        }
                    }
                }
            };
            tokio::join!(listen, tell);
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_very_next_delivery_is_vouched_for_and_once() {
        let survivors = Survivors::default();
        survivors.note(7, 1);
        assert!(survivors.take(7, 2) && !survivors.take(7, 2));
        survivors.note(7, 1);
        assert!(
            !survivors.take(7, 3),
            "of the second delivery nobody said anything"
        );
    }

    #[test]
    fn what_one_tells_another_hears() {
        let (one, other) = (Survivors::default(), Survivors::default());
        one.note(7, 1);
        one.note(u64::MAX, 2);
        other.hear(&one.untold.lock());
        other.hear(b"cut off");
        assert!(other.take(7, 2) && other.take(u64::MAX, 3) && !other.take(8, 2));
    }

    #[test]
    fn the_oldest_are_forgotten() {
        let survivors = Survivors::default();
        for sequence in 0..=2 * GENERATION as u64 {
            survivors.remember(sequence, 1);
        }
        assert!(!survivors.take(0, 2) && survivors.take(GENERATION as u64, 2));
    }
}
