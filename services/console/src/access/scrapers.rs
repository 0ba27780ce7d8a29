//! Brake on tokens that come to `/metrics`. It is another than that of logins, and scrapers that are known pass by the one
//! that strangers share: whoever guesses tokens must not blind those who watch the app.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use oncue_http::address::ClientAddress;
use oncue_http::brake::Brake;
use parking_lot::Mutex;

use super::{IN_ALL, PER_ADDRESS};

/// Time for which an address is known after it has sent the right token; scrapes are seconds to minutes apart.
const KNOWN_FOR: Duration = Duration::from_mins(10);
/// Addresses that are known at once. Each of them has the token.
const MAX_KNOWN: usize = 1000;

/// Tries of scrapers.
pub struct Scrapers {
    strangers: Brake,
    known: Brake,
    /// Moments at which the right token came; of a proxy that speaks for itself, without an address.
    seen: Mutex<HashMap<Option<ClientAddress>, Instant>>,
}

impl Default for Scrapers {
    fn default() -> Self {
        Self {
            strangers: Brake::new(PER_ADDRESS, IN_ALL),
            known: Brake::new(PER_ADDRESS, IN_ALL),
            seen: Mutex::default(),
        }
    }
}

impl Scrapers {
    /// Whether a token is right; `Err` with the time until one is looked at again. As with logins, nobody is told while the
    /// brake holds.
    pub fn check(
        &self,
        client: Option<ClientAddress>,
        is_right: impl FnOnce() -> bool,
    ) -> Result<bool, Duration> {
        let brake = self.brake(client);
        brake.take(client)?;
        let is_right = is_right();
        if is_right {
            brake.give_back(client);
            self.remember(client);
        }
        Ok(is_right)
    }

    fn brake(&self, client: Option<ClientAddress>) -> &Brake {
        let seen = self.seen.lock();
        let is_known = seen.get(&client).is_some_and(|at| at.elapsed() < KNOWN_FOR);
        if is_known {
            &self.known
        } else {
            &self.strangers
        }
    }

    fn remember(&self, client: Option<ClientAddress>) {
        let mut seen = self.seen.lock();
        if seen.len() >= MAX_KNOWN && !seen.contains_key(&client) {
            seen.retain(|_, at| at.elapsed() < KNOWN_FOR);
            if seen.len() >= MAX_KNOWN {
                seen.clear();
            }
        }
        seen.insert(client, Instant::now());
    }
}
