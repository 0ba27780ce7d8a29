//! Answers that nobody takes. Over HTTP/2 a client need not read: it gives no window, and the connection itself stays quiet, so
//! [`PatientStream`](crate::patient::PatientStream) sees nothing.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Answers of one connection that wait for their client.
#[derive(Clone, Default)]
pub(crate) struct Stalls(Arc<Mutex<Waiting>>);

#[derive(Default)]
struct Waiting {
    next: u64,
    since: BTreeMap<u64, Instant>,
}

/// One answer among them.
pub(crate) struct Answering {
    stalls: Stalls,
    number: u64,
}

impl Stalls {
    /// An answer that its client has not begun to take.
    pub(crate) fn begin(&self) -> Answering {
        let mut waiting = self.0.lock();
        let number = waiting.next;
        waiting.next += 1;
        waiting.since.insert(number, Instant::now());
        Answering {
            stalls: self.clone(),
            number,
        }
    }

    /// Waits until a client has taken nothing of an answer for `limit`.
    pub(crate) async fn stalled(&self, limit: Duration) {
        loop {
            tokio::time::sleep(limit / 4).await;
            let waiting = self.0.lock();
            if waiting.since.values().any(|since| since.elapsed() > limit) {
                return;
            }
        }
    }
}

impl Answering {
    /// A part was handed over: from now on the client is waited for.
    pub(crate) fn handed(&self) {
        let mut waiting = self.stalls.0.lock();
        waiting.since.insert(self.number, Instant::now());
    }

    /// The client is ready, and there is nothing for it yet.
    pub(crate) fn pending(&self) {
        self.stalls.0.lock().since.remove(&self.number);
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.pending();
    }
}
