//! What a worker has in hand: deliveries the server believes to be with it. How many they are and how many bytes they
//! take is bounded, so that neither many events nor large ones fill the memory.

use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use oncue_core::bus::pull::{Capacity, Delivery, Ticket};

/// Bytes of events in hand, as they were sent. What is on its way comes on top: as much again in all.
const MOST_BYTES: usize = 32 << 20;
/// What a message takes besides its payload and headers.
const ENVELOPE: usize = 64 << 10;

pub(crate) struct Hand {
    most: usize,
    /// Bytes that one request may bring.
    request: usize,
    held: Mutex<HashMap<u64, Held>>,
    events: AtomicUsize,
    bytes: AtomicUsize,
    freed: Notify,
}

struct Held {
    ticket: Ticket,
    bytes: usize,
    /// When the server last heard that it is with us.
    heard: Instant,
}

impl Hand {
    /// For so many events, none of which is larger.
    pub fn new(most: usize, largest: usize) -> Self {
        let (request, held) = ((MOST_BYTES / 4).max(largest + ENVELOPE), Mutex::default());
        Self {
            most,
            request,
            held,
            events: AtomicUsize::new(0),
            bytes: AtomicUsize::new(0),
            freed: Notify::new(),
        }
    }

    pub fn take(&self, number: u64, delivery: &Delivery, heard: Instant) {
        let bytes = delivery.size();
        self.events.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.held.lock().insert(
            number,
            Held {
                ticket: delivery.ticket(),
                bytes,
                heard,
            },
        );
    }

    /// Called when a delivery is settled, in whatever way.
    pub fn release(&self, number: u64) {
        let Some(held) = self.held.lock().remove(&number) else {
            return;
        };
        self.events.fetch_sub(1, Ordering::Relaxed);
        self.bytes.fetch_sub(held.bytes, Ordering::Relaxed);
        self.freed.notify_one();
    }

    /// Events in hand.
    pub fn count(&self) -> usize {
        self.events.load(Ordering::Relaxed)
    }

    /// What else may come.
    pub fn room(&self) -> Capacity {
        let bytes_free = MOST_BYTES
            .max(self.request)
            .saturating_sub(self.bytes.load(Ordering::Relaxed));
        let events = if bytes_free < self.request {
            0
        } else {
            self.most.saturating_sub(self.count())
        };
        Capacity {
            events,
            least: self.most.div_ceil(4),
            bytes: self.request,
        }
    }

    pub async fn freed(&self) {
        self.freed.notified().await;
    }

    /// Whether the server has heard within `patience` that a delivery is with us.
    pub fn is_ours(&self, number: u64, patience: Duration) -> bool {
        self.held
            .lock()
            .get(&number)
            .is_some_and(|held| held.heard.elapsed() < patience)
    }

    /// Deliveries of which the server has last heard so long ago. It is going to hear of them now.
    pub fn due(&self, silent: std::ops::Range<Duration>) -> Vec<Ticket> {
        let now = Instant::now();
        let mut held = self.held.lock();
        let mut due = Vec::new();
        for held in held
            .values_mut()
            .filter(|held| silent.contains(&(now - held.heard)))
        {
            held.heard = now;
            due.push(held.ticket.clone());
        }
        due
    }
}
