//! The parts of an ack wait. The server redelivers an event when it has heard nothing of it for the ack wait, so everything
//! that is done in the meantime has its share of it:
//!
//! heartbeat interval + age at which one is due < ownership < ack wait, or 1/6 + 1/4 < 2/3 < 1.
//!
//! A round of heartbeats comes every sixth, and is sent for what the server has not heard of for a quarter: by then at most
//! 5/12 have passed. A negative ack is sent only within two thirds: what is left, a third, is more than it takes to arrive.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// An ack wait and its parts.
///
/// The whole is `ack_wait` of the function, 30 s by default: then a round of heartbeats comes every
/// 5 s, a heartbeat is due after 7.5 s of silence, ownership ends after 20 s, and a relay waits for
/// a minute.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AckBudget(pub Duration);

impl AckBudget {
    /// Between two rounds of heartbeats.
    pub fn heartbeat_interval(self) -> Duration {
        self.0 / 6
    }

    /// Silence after which a heartbeat is due.
    pub fn heartbeat_due(self) -> Duration {
        self.0 / 4
    }

    /// Silence within which a delivery is surely still ours.
    ///
    /// Counted from when the server last heard of it, by the clock of this process. What is left of
    /// the ack wait is the margin for a message that is slow to arrive.
    pub fn ownership(self) -> Duration {
        self.0 * 2 / 3
    }

    /// Silence of the heartbeats themselves after which the process is taken for having been frozen.
    ///
    /// Three rounds of heartbeats, and less than ownership: a process that wakes up must notice
    /// before it believes in what it holds.
    pub fn frozen(self) -> Duration {
        self.0 / 2
    }

    /// Age of outputs before another worker publishes them again: their own worker has failed by then.
    ///
    /// Two ack waits: one for the event to be delivered again, one for that delivery to publish. At
    /// least 5 s, however short the ack wait is.
    pub fn relay_age(self) -> Duration {
        (self.0 * 2).max(Duration::from_secs(5))
    }
}

/// Tells whether the process was frozen lately: what it then finds in its sockets was sent long ago, and may be another
/// worker's by now.
///
/// Owned by the in-flight set. Fed by heartbeats, asked for every delivery.
pub(crate) struct Pulse {
    budget: AckBudget,
    state: Mutex<PulseState>,
}

struct PulseState {
    /// Last round of heartbeats. An `Instant` goes on while the process is stopped, which is what
    /// is measured here.
    last_beat: Instant,
    /// Until when deliveries count as old.
    stale_until: Instant,
}

impl Pulse {
    pub fn new(budget: AckBudget) -> Self {
        let now = Instant::now();
        let state = PulseState {
            last_beat: now,
            stale_until: now,
        };
        Self {
            budget,
            state: Mutex::new(state),
        }
    }

    /// To be called in each round of heartbeats.
    pub fn beat(&self) {
        let now = Instant::now();
        let mut state = self.state.lock();
        self.look(now, &mut state);
        state.last_beat = now;
    }

    /// When the server sent what is read now: just now, or too long ago to say anything but that it is done.
    pub fn heard(&self) -> Instant {
        let now = Instant::now();
        let mut state = self.state.lock();
        self.look(now, &mut state);
        if now < state.stale_until {
            now.checked_sub(self.budget.0).unwrap_or(now)
        } else {
            now
        }
    }

    /// Looks for a freeze: a late beat is noticed by whoever comes first, the heartbeat or a
    /// delivery. Stale for a while, since the sockets may hold more than one read brings.
    fn look(&self, now: Instant, state: &mut PulseState) {
        if now - state.last_beat > self.budget.frozen() {
            state.stale_until = now + self.budget.frozen();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_fit_into_the_whole() {
        let budget = AckBudget(Duration::from_mins(1));
        let heard_again = budget.heartbeat_interval() + budget.heartbeat_due();
        assert!(heard_again < budget.frozen() && budget.frozen() < budget.ownership());
        assert!(budget.ownership() < budget.0 && budget.0 < budget.relay_age());
    }

    #[test]
    fn a_frozen_process_takes_what_it_reads_for_old() {
        let pulse = Pulse::new(AckBudget(Duration::from_millis(40)));
        assert!(pulse.heard().elapsed() < Duration::from_millis(20), "alive");
        std::thread::sleep(Duration::from_millis(60));
        assert!(
            pulse.heard().elapsed() >= Duration::from_millis(40),
            "frozen"
        );
        pulse.beat();
        assert!(
            pulse.heard().elapsed() >= Duration::from_millis(40),
            "for a while"
        );
    }
}
