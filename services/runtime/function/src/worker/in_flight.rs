//! The in-flight set: deliveries that the server believes to be with this worker. Their number and their bytes are bounded,
//! so that neither many events nor large ones fill the memory.
//!
//! A delivery enters when it is pulled and leaves when it is settled, whatever becomes of it. In
//! between the server may take it back by its ack wait alone, so the set also knows when the server
//! last heard of each.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use oncue_core::bus::Bus;
use oncue_core::bus::pull::{Capacity, Delivery, Ticket};
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::worker::ack_budget::{AckBudget, Pulse};
use crate::worker::hands::Hands;

/// Bytes of events in flight, as they were sent. As much again in all may be on its way from the server.
///
/// 32 MiB: what was pulled, before decoding.
const MAX_BYTES: usize = 32 << 20;
/// Bytes that a message takes besides its payload and headers, at the most.
///
/// Subject, reply subject and protocol line: 64 KiB are more than any of them has.
const ENVELOPE_BYTES: usize = 64 << 10;

/// Set of deliveries in flight, bounded by count and bytes. Shared by the worker, the settler,
/// discovery and metrics. The two numbers stand beside the map so that they are read without its
/// lock.
pub(crate) struct InFlight {
    /// Ack wait of the consumer, and its parts.
    pub budget: AckBudget,
    /// Limit `concurrency` of the function, 2,000 by default.
    max_events: usize,
    /// Bytes that one pull request may bring.
    max_request: usize,
    /// By number of the delivery.
    deliveries: Mutex<HashMap<u64, Held>>,
    /// Deliveries in the map.
    events: AtomicUsize,
    /// Bytes of these, headers included.
    bytes: AtomicUsize,
    /// Signal at each release, for the pull and for the stop.
    released: Notify,
    /// Pulse, which tells whether what is read now was sent just now.
    pulse: Pulse,
    /// Where deliveries are written down, if anywhere.
    hands: Option<Hands>,
}

/// One delivery in the set.
struct Held {
    /// Reply subject of the delivery, for heartbeats.
    ticket: Ticket,
    /// Size as it came, to be given back.
    bytes: usize,
    /// When the server last heard that the delivery is with us.
    heard: Instant,
}

impl InFlight {
    /// Room for `max_events` events, none of which has more than `max_payload` bytes.
    pub fn new(max_events: usize, max_payload: usize, budget: AckBudget) -> Self {
        Self {
            budget,
            max_events,
            max_request: (MAX_BYTES / 4).max(max_payload + ENVELOPE_BYTES),
            deliveries: Mutex::default(),
            events: AtomicUsize::new(0),
            bytes: AtomicUsize::new(0),
            released: Notify::new(),
            pulse: Pulse::new(budget),
            hands: Hands::open(),
        }
    }

    /// Writes deliveries down for whoever starts in the place of this process, should it die.
    pub fn note(&self, deliveries: &[Delivery]) {
        if let Some(hands) = self.hands.as_ref().filter(|_| !deliveries.is_empty()) {
            hands.note(deliveries);
        }
    }

    /// Gives back what the process before this one had in hand.
    pub async fn give_back_left(&self, bus: &Bus) {
        if let Some(hands) = &self.hands {
            hands.give_back_left(bus, self.budget.0).await;
        }
    }

    /// Nothing is left to be given back.
    pub fn emptied(&self) {
        if let Some(hands) = &self.hands {
            hands.empty();
        }
    }

    /// Takes a delivery in, before anything else is done with it, so that heartbeats cover it from
    /// the start.
    pub fn insert(&self, number: u64, delivery: &Delivery) {
        let bytes = delivery.size();
        let held = Held {
            ticket: delivery.ticket(),
            bytes,
            heard: self.pulse.heard(),
        };
        self.events.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.deliveries.lock().insert(number, held);
    }

    /// Called once for each delivery, when it is settled, in whatever way.
    ///
    /// A second release of a number does nothing.
    pub fn release(&self, number: u64) {
        let Some(held) = self.deliveries.lock().remove(&number) else {
            return;
        };
        self.events.fetch_sub(1, Ordering::Relaxed);
        self.bytes.fetch_sub(held.bytes, Ordering::Relaxed);
        self.released.notify_one();
    }

    /// Events in flight.
    pub fn count(&self) -> usize {
        self.events.load(Ordering::Relaxed)
    }

    /// Room for more deliveries.
    ///
    /// No room at all while a whole request could not be held: a request brings as many bytes as it
    /// may, and nobody can send some of them back. While something is on its way, less than a
    /// quarter of the events is not asked for: fewer, fuller pulls cost the server less.
    pub fn capacity(&self) -> Capacity {
        let limit = MAX_BYTES.max(self.max_request);
        let bytes_free = limit.saturating_sub(self.bytes.load(Ordering::Relaxed));
        let events = if bytes_free < self.max_request {
            0
        } else {
            self.max_events.saturating_sub(self.count())
        };
        Capacity {
            events,
            least: self.max_events.div_ceil(4),
            bytes: self.max_request,
        }
    }

    /// Waits until a delivery is released.
    pub async fn released(&self) {
        self.released.notified().await;
    }

    /// Whether the server surely still believes the delivery to be ours: later it may have gone to another worker, whom a
    /// negative ack would rob of it.
    pub fn is_ours(&self, number: u64) -> bool {
        let ownership = self.budget.ownership();
        let deliveries = self.deliveries.lock();
        let held = deliveries.get(&number);
        held.is_some_and(|held| held.heard.elapsed() < ownership)
    }

    /// Starts a round of heartbeats: deliveries of which the server has not heard for a while, and is going to hear now. One
    /// that was silent for too long (the process was frozen) may be another worker's by now, and is left to it.
    pub fn heartbeats_due(&self) -> Vec<Ticket> {
        self.pulse.beat();
        let due = self.budget.heartbeat_due()..self.budget.ownership();
        let now = Instant::now();
        let mut tickets = Vec::new();
        for held in self.deliveries.lock().values_mut() {
            if due.contains(&(now - held.heard)) {
                held.heard = now;
                tickets.push(held.ticket.clone());
            }
        }
        tickets
    }

    /// Waits until nothing is in flight.
    ///
    /// Looks again every 100 ms at the latest, so nothing hangs on a wake-up.
    pub async fn drained(&self) {
        while self.count() > 0 {
            let _ = tokio::time::timeout(Duration::from_millis(100), self.released()).await;
        }
    }
}
