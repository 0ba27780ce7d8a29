//! Brake in front of authentication: whoever sends credentials that are none costs nobody anything more after a few, and cannot
//! guess. It is this process's own, since asking somebody else would be the very cost it saves.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::address::ClientAddress;
use crate::rate::Rate;

/// Addresses that are remembered. Beyond them those that have paid are forgotten, and then all: the brake on everybody holds.
const MOST_ADDRESSES: usize = 10_000;

/// Failures to come in, by address.
pub struct Brake {
    per_address: Rate,
    /// For those who have many addresses.
    in_all: Rate,
    began: Instant,
    state: Mutex<Failures>,
}

#[derive(Default)]
struct Failures {
    all: Duration,
    /// None of them is a proxy, which speaks for many.
    addresses: HashMap<ClientAddress, Duration>,
}

impl Brake {
    /// A brake that lets so many failures of one address through, and of all together.
    pub fn new(per_address: Rate, in_all: Rate) -> Self {
        Self {
            per_address,
            in_all,
            began: Instant::now(),
            state: Mutex::default(),
        }
    }

    /// Whether there is a right to one failure; `Err` with the time until there is one again.
    pub fn check(&self, client: Option<ClientAddress>) -> Result<(), Duration> {
        let now = self.began.elapsed();
        let state = self.state.lock();
        // Copies: nothing is taken.
        let mut all = state.all;
        let paid = client.and_then(|client| state.addresses.get(&client));
        let mut paid = paid.copied().unwrap_or_default();
        for verdict in [
            self.per_address.take(&mut paid, now),
            self.in_all.take(&mut all, now),
        ] {
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
            let verdict = self
                .per_address
                .take(state.addresses.entry(client).or_default(), now);
            if !verdict.allowed {
                return Err(verdict.retry);
            }
        }
        let verdict = self.in_all.take(&mut state.all, now);
        if verdict.allowed {
            Ok(())
        } else {
            Err(verdict.retry)
        }
    }

    /// Gives back what was taken for a credential that turned out to be one.
    pub fn give_back(&self, client: Option<ClientAddress>) {
        let mut state = self.state.lock();
        state.all = state.all.saturating_sub(self.in_all.interval);
        if let Some(paid) = client.and_then(|client| state.addresses.get_mut(&client)) {
            *paid = paid.saturating_sub(self.per_address.interval);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn brake() -> Brake {
        let per_address = Rate {
            interval: Duration::from_millis(500),
            burst: 20,
        };
        let in_all = Rate {
            interval: Duration::from_millis(2),
            burst: 1000,
        };
        Brake::new(per_address, in_all)
    }

    fn client(number: u32) -> ClientAddress {
        ClientAddress::of(std::net::Ipv4Addr::from(number).into())
    }

    #[test]
    fn failures_of_one_address_end_and_others_go_on() {
        let brake = brake();
        let taken = (0..100)
            .filter(|_| brake.take(Some(client(1))).is_ok())
            .count();
        assert!((20..25).contains(&taken), "{taken}");
        assert!(brake.take(Some(client(2))).is_ok());
    }

    #[test]
    fn successes_cost_nothing() {
        let brake = brake();
        for _ in 0..10_000 {
            assert!(brake.take(Some(client(1))).is_ok());
            brake.give_back(Some(client(1)));
        }
    }

    #[test]
    fn many_addresses_are_held_together_and_not_all_remembered() {
        let brake = brake();
        let taken = (0..50_000)
            .filter(|n| brake.take(Some(client(*n))).is_ok())
            .count();
        assert!(taken < 2_000, "{taken}");
        assert!(brake.state.lock().addresses.len() <= MOST_ADDRESSES);
    }
}
