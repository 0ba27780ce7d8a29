//! Things of which there are so many and no more, and of which one client may hold a part.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::address::ClientAddress;

/// Number of equal things: connections, uploads, bytes. Who holds some has a [`Share`].
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

/// One or some of the [`Shares`], given back when it is dropped.
#[derive(Debug)]
pub struct Share {
    of: Arc<Shares>,
    count: usize,
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
        self.take_some(client, 1)
    }

    /// Takes so many at once, or none.
    pub fn take_some(
        self: &Arc<Self>,
        client: Option<ClientAddress>,
        count: usize,
    ) -> Result<Share, Full> {
        self.hold(client, count)?;
        Ok(Share {
            of: self.clone(),
            count,
            client,
        })
    }

    /// Number that is held by all together.
    pub fn held(&self) -> usize {
        self.held.lock().all
    }

    fn hold(&self, client: Option<ClientAddress>, count: usize) -> Result<(), Full> {
        let mut held = self.held.lock();
        let of_client = client.and_then(|client| held.by_client.get(&client).copied());
        if client.is_some() && of_client.unwrap_or_default() + count > self.per_client {
            return Err(Full::Client);
        }
        if held.all + count > self.most {
            return Err(Full::All);
        }
        held.all += count;
        if let Some(client) = client {
            *held.by_client.entry(client).or_default() += count;
        }
        Ok(())
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

impl Share {
    /// Takes so many more, or none.
    pub fn grow(&mut self, count: usize) -> Result<(), Full> {
        self.of.hold(self.client, count)?;
        self.count += count;
        Ok(())
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut held = self.of.held.lock();
        held.all -= self.count;
        if let Some(client) = self.client
            && let Some(count) = held.by_client.get_mut(&client)
        {
            *count -= self.count;
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

    #[test]
    fn a_share_grows_up_to_the_bounds() {
        let client = |text: &str| Some(ClientAddress::of(text.parse().unwrap()));
        let shares = Shares::new(10, 6);
        let mut first = shares.take_some(client("192.0.2.1"), 4).unwrap();
        first.grow(2).unwrap();
        assert_eq!(first.grow(1).unwrap_err(), Full::Client);
        let mut second = shares.take_some(client("192.0.2.2"), 3).unwrap();
        assert_eq!(second.grow(2).unwrap_err(), Full::All);
        assert_eq!(shares.held(), 9, "what was refused is not held");
        drop(first);
        assert_eq!(shares.held(), 3);
        let too_many = shares.take_some(client("192.0.2.1"), 7);
        assert_eq!(too_many.unwrap_err(), Full::Client);
        assert_eq!(shares.held.lock().by_client.len(), 1);
    }
}
