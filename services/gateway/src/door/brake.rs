//! Brake in front of authentication: whoever sends credentials that are none costs Redis and the issuer nothing more after a few,
//! and cannot guess. It is this gateway's own, since asking somebody else would be the very cost it saves.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use oncue_http::address::ClientAddress;
use parking_lot::Mutex;

use super::gcra::Rate;

/// Failures of one address.
const PER_ADDRESS: Rate = Rate {
    interval: Duration::from_millis(500),
    burst: 20,
};
/// Failures of all addresses together, for those who have many.
const IN_ALL: Rate = Rate {
    interval: Duration::from_millis(2),
    burst: 1000,
};
/// Addresses that are remembered. Beyond them those that have paid are forgotten, and then all: the brake on everybody holds.
const MOST_ADDRESSES: usize = 10_000;

/// Failures to come in, by address.
pub struct Brake {
    began: Instant,
    state: Mutex<Failures>,
}

#[derive(Default)]
struct Failures {
    all: Duration,
    /// None of them is a proxy, which speaks for many.
    addresses: HashMap<ClientAddress, Duration>,
}

impl Default for Brake {
    fn default() -> Self {
        Self {
            began: Instant::now(),
            state: Mutex::default(),
        }
    }
}

impl Brake {
    /// Whether there is a right to one failure; `Err` with the time until there is one again.
    pub fn check(&self, client: Option<ClientAddress>) -> Result<(), Duration> {
        let now = self.began.elapsed();
        let state = self.state.lock();
        // Copies: nothing is taken.
        let mut all = state.all;
        let paid = client.and_then(|client| state.addresses.get(&client));
        let mut paid = paid.copied().unwrap_or_default();
        for verdict in [PER_ADDRESS.take(&mut paid, now), IN_ALL.take(&mut all, now)] {
            if !verdict.allowed {
                return Err(verdict.retry);
            }
        }
        Ok(())
    }

    /// Takes the right to one failure in advance; `Err` with the time until there is one again.
    /// [`give_back`](Self::give_back) it after a success.
    pub fn take(&self, client: Option<ClientAddress>) -> Result<(), Duration> {
        let now = self.began.elapsed();
        let mut state = self.state.lock();
        if let Some(client) = client {
            if state.addresses.len() >= MOST_ADDRESSES && !state.addresses.contains_key(&client) {
                state.addresses.retain(|_, paid| *paid > now);
                if state.addresses.len() >= MOST_ADDRESSES {
                    state.addresses.clear();
                }
            }
            let verdict = PER_ADDRESS.take(state.addresses.entry(client).or_default(), now);
            if !verdict.allowed {
                return Err(verdict.retry);
            }
        }
        let verdict = IN_ALL.take(&mut state.all, now);
        if verdict.allowed {
            Ok(())
        } else {
            Err(verdict.retry)
        }
    }

    /// Gives back what was taken for a credential that turned out to be one.
    pub fn give_back(&self, client: Option<ClientAddress>) {
        let mut state = self.state.lock();
        state.all = state.all.saturating_sub(IN_ALL.interval);
        if let Some(paid) = client.and_then(|client| state.addresses.get_mut(&client)) {
            *paid = paid.saturating_sub(PER_ADDRESS.interval);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(number: u32) -> ClientAddress {
        ClientAddress::of(std::net::Ipv4Addr::from(number).into())
    }

    #[test]
    fn failures_of_one_address_end_and_others_go_on() {
        let brake = Brake::default();
        let taken = (0..100)
            .filter(|_| brake.take(Some(client(1))).is_ok())
            .count();
        assert!((20..25).contains(&taken), "{taken}");
        assert!(brake.take(Some(client(2))).is_ok());
    }

    #[test]
    fn successes_cost_nothing() {
        let brake = Brake::default();
        for _ in 0..10_000 {
            assert!(brake.take(Some(client(1))).is_ok());
            brake.give_back(Some(client(1)));
        }
    }

    #[test]
    fn many_addresses_are_held_together_and_not_all_remembered() {
        let brake = Brake::default();
        let taken = (0..50_000)
            .filter(|n| brake.take(Some(client(*n))).is_ok())
            .count();
        assert!(taken < 2_000, "{taken}");
        assert!(brake.state.lock().addresses.len() <= MOST_ADDRESSES);
    }
}
