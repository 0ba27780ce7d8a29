//! Things of which there are so many and no more, and of which one client may hold a part.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::address::ClientAddress;

/// Number of equal things: connections, uploads. Who holds one has a [`Share`].
#[derive(Debug)]
pub struct Shares {
    most: usize,
    per_client: usize,
    held: Mutex<Held>,
    /// Told when one is given back.
    freed: Notify,
}

#[derive(Debug, Default)]
struct Held {
    all: usize,
    by_client: HashMap<ClientAddress, usize>,
}

/// One of the [`Shares`], given back when it is dropped.
#[derive(Debug)]
pub struct Share {
    of: Arc<Shares>,
    /// Client it counts for; none where that is a proxy.
    pub client: Option<ClientAddress>,
}

/// Bound that was reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Full {
    /// None is left for anybody.
    All,
    /// This client has as many as one may have.
    Client,
}

impl Shares {
    /// At most `most` of them, and `per_client` for one client.
    pub fn new(most: usize, per_client: usize) -> Arc<Self> {
        Arc::new(Self {
            most,
            per_client,
            held: Mutex::default(),
            freed: Notify::new(),
        })
    }

    /// Takes one. A client at its own bound hears of that first, since waiting for others would not help it.
    pub fn take(self: &Arc<Self>, client: Option<ClientAddress>) -> Result<Share, Full> {
        let mut held = self.held.lock();
        let of_client = client.and_then(|client| held.by_client.get(&client));
        if of_client.is_some_and(|count| *count >= self.per_client) {
            return Err(Full::Client);
        }
        if held.all >= self.most {
            return Err(Full::All);
        }
        held.all += 1;
        if let Some(client) = client {
            *held.by_client.entry(client).or_default() += 1;
        }
        Ok(Share {
            of: self.clone(),
            client,
        })
    }

    /// Waits until one was given back, or [`wake`](Self::wake) says that one could be.
    pub async fn freed(&self) {
        self.freed.notified().await;
    }

    /// Wakes who waits in [`freed`](Self::freed).
    pub fn wake(&self) {
        self.freed.notify_one();
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut held = self.of.held.lock();
        held.all -= 1;
        if let Some(client) = self.client
            && let Some(count) = held.by_client.get_mut(&client)
        {
            *count -= 1;
            if *count == 0 {
                held.by_client.remove(&client);
            }
        }
        drop(held);
        self.of.wake();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_client_leaves_some_to_others() {
        let client = |text: &str| Some(ClientAddress::of(text.parse().unwrap()));
        let shares = Shares::new(3, 2);
        let first = shares.take(client("192.0.2.1")).unwrap();
        let _second = shares.take(client("192.0.2.1")).unwrap();
        assert_eq!(shares.take(client("192.0.2.1")).unwrap_err(), Full::Client);
        let third = shares.take(client("192.0.2.2")).unwrap();
        assert_eq!(shares.take(client("192.0.2.2")).unwrap_err(), Full::All);
        assert_eq!(shares.take(None).unwrap_err(), Full::All);
        drop(third);
        let _proxied = shares.take(None).unwrap();
        drop(first);
        let _again = shares.take(client("192.0.2.1")).unwrap();
        assert_eq!(
            shares.held.lock().by_client.len(),
            1,
            "no client is kept for ever"
        );
    }
}
