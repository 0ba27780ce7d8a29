//! Places for connections. One that has no request in hand gives way to a newcomer once there is no place left, or none
//! left for its client: whoever only holds connections open holds up nobody. nginx does the same with idle
//! connections (`ngx_drain_connections`); here those that have not yet sent a whole head count among them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use crate::address::ClientAddress;
use crate::counts::Counts;
use crate::shares::{Full, Share, Shares};

/// Places of one listener.
pub(crate) struct Places {
    shares: Arc<Shares>,
    /// Connections without a request in hand, the one that has waited longest first.
    idle: Mutex<BTreeMap<u64, Idle>>,
    next_ticket: AtomicU64,
    counts: Arc<Counts>,
}

/// Connection without a request in hand. Its share lies here, so that taking it out frees the place at once.
struct Idle {
    share: Share,
    signals: Signals,
}

/// Signals between a connection and those who look at it.
#[derive(Clone, Default)]
pub(crate) struct Signals {
    /// Cancelled when the connection has to end.
    pub(crate) close: CancellationToken,
    /// The client has not yet taken all that was written for it.
    pub(crate) writing: Arc<AtomicBool>,
}

/// Place of one connection, from accept to end.
pub(crate) struct Place {
    places: Arc<Places>,
    pub(crate) signals: Signals,
    state: Mutex<State>,
}

enum State {
    /// Without a request in hand; the share lies among the idle ones, under this ticket.
    Idle(u64),
    /// So many requests in hand: more than one where the next head is read before the last answer was let go.
    Busy(Share, usize),
    /// Closed, since it had to give way.
    Closed,
}

/// A request in hand, from its head to the end of its answer.
pub(crate) struct InHand(Arc<Place>);

impl Places {
    pub(crate) fn new(connections: usize, per_address: usize, counts: Arc<Counts>) -> Arc<Self> {
        Arc::new(Self {
            shares: Shares::new(connections, per_address),
            idle: Mutex::default(),
            next_ticket: AtomicU64::default(),
            counts,
        })
    }

    /// Takes a place for a new connection, if need be that of an idle one.
    pub(crate) fn open(
        self: &Arc<Self>,
        client: Option<ClientAddress>,
    ) -> Result<Arc<Place>, Full> {
        loop {
            match self.shares.take(client) {
                Ok(share) => return Ok(self.place(share)),
                Err(full) if self.close_idle(full, client) => {}
                Err(full) => return Err(full),
            }
        }
    }

    /// Waits until [`open`](Self::open) could have another answer.
    pub(crate) async fn freed(&self) {
        self.shares.freed().await;
    }

    fn place(self: &Arc<Self>, share: Share) -> Arc<Place> {
        let signals = Signals::default();
        Arc::new(Place {
            state: Mutex::new(State::Idle(self.wait(share, signals.clone()))),
            places: self.clone(),
            signals,
        })
    }

    /// Puts a connection behind all that wait, and returns its ticket.
    fn wait(&self, share: Share, signals: Signals) -> u64 {
        let ticket = self.next_ticket.fetch_add(1, Ordering::Relaxed);
        self.idle.lock().insert(ticket, Idle { share, signals });
        ticket
    }

    /// Ends the connection that has waited longest, of this client if it is the one that has too many.
    fn close_idle(&self, full: Full, client: Option<ClientAddress>) -> bool {
        let mut idle = self.idle.lock();
        let mut candidates = idle.iter().filter(|(_, idle)| {
            let is_ours = full == Full::All || idle.share.client == client;
            // The end of an answer may still lie here, unsent.
            is_ours && !idle.signals.writing.load(Ordering::Relaxed)
        });
        let Some(ticket) = candidates.next().map(|(ticket, _)| *ticket) else {
            return false;
        };
        let closed = idle.remove(&ticket);
        drop(idle);
        if let Some(closed) = closed {
            closed.signals.close.cancel();
            self.counts.gave_way.fetch_add(1, Ordering::Relaxed);
        }
        true
    }
}

impl Place {
    /// A head has come. `None` where the connection had to give way meanwhile, and is about to end.
    pub(crate) fn begin(self: &Arc<Self>) -> Option<InHand> {
        let mut state = self.state.lock();
        match &mut *state {
            State::Idle(ticket) => {
                let idle = self.places.idle.lock().remove(ticket);
                *state = idle.map_or(State::Closed, |idle| State::Busy(idle.share, 1));
            }
            State::Busy(_, requests) => *requests += 1,
            State::Closed => {}
        }
        matches!(*state, State::Busy(..)).then(|| InHand(self.clone()))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let State::Idle(ticket) = self.state.get_mut() {
            self.places.idle.lock().remove(ticket);
        }
    }
}

impl Drop for InHand {
    fn drop(&mut self) {
        let place = &self.0;
        let mut state = place.state.lock();
        *state = match std::mem::replace(&mut *state, State::Closed) {
            State::Busy(share, 1) => State::Idle(place.places.wait(share, place.signals.clone())),
            State::Busy(share, requests) => State::Busy(share, requests - 1),
            other => other,
        };
        // Whoever waits for a place may have this one.
        place.places.shares.wake();
    }
}
