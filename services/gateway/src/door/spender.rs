//! Counting in Redis, many requests at a time: whatever has come while one call was under way goes with the next.

use oncue_core::store::{Spent, Store};
use oncue_http::rate::Rate;
use tokio::sync::{mpsc, oneshot};

/// Requests in one call.
const MOST: usize = 128;

/// Way to the task that counts for one limit; it ends with this.
pub struct Spender(mpsc::UnboundedSender<Ask>);

/// A request that waits to be counted.
struct Ask {
    who: String,
    /// Requests of theirs that were let through without asking.
    owed: u32,
    answer: oneshot::Sender<Result<Spent, String>>,
}

impl Spender {
    /// Counts for a limit of this name.
    pub fn new(limit: &str, rate: Rate, store: Store) -> Self {
        let (asks, waiting) = mpsc::unbounded_channel();
        tokio::spawn(count(limit.to_owned(), rate, store, waiting));
        Self(asks)
    }

    /// Takes one of what somebody may have, and what they owe.
    ///
    /// # Errors
    /// Redis did not answer; a sentence.
    pub async fn spend(&self, who: &str, owed: u32) -> Result<Spent, String> {
        let (answer, spent) = oneshot::channel();
        let who = who.to_owned();
        let _ = self.0.send(Ask { who, owed, answer });
        spent
            .await
            .unwrap_or_else(|_| Err("nobody counts any more".to_owned()))
    }
}

async fn count(limit: String, rate: Rate, store: Store, mut waiting: mpsc::UnboundedReceiver<Ask>) {
    let mut asks = Vec::new();
    while waiting.recv_many(&mut asks, MOST).await > 0 {
        // Whoever has given up meanwhile was counted here.
        asks.retain(|ask| !ask.answer.is_closed());
        let who = asks.iter().map(|ask| (ask.who.as_str(), ask.owed));
        let spent = store.spend(&limit, who, rate.interval, rate.burst).await;
        match spent {
            Ok(spent) => {
                for (ask, spent) in asks.drain(..).zip(spent) {
                    let _ = ask.answer.send(Ok(spent));
                }
            }
            Err(e) => {
                for ask in asks.drain(..) {
                    let _ = ask.answer.send(Err(e.to_string()));
                }
            }
        }
    }
}
