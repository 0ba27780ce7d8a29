//! Concurrency limit of keys, by AIMD (additive increase, multiplicative decrease), here both multiplicative.
//!
//! Workers that work at the same keys lose races for their rows the more often, the more rows are read before the handlers
//! of the first have run, since each is older when its commit comes. So for every lost race fewer keys run at a time, and for
//! every other run more: about one run in twenty loses its race, whatever handlers take and however far Redis is. Handlers
//! that wait for something else stand in nobody's way, and give their permit back.
//!
//! The field's name for it is optimistic concurrency with an adaptive limit; TCP finds its window
//! in this way. Where nobody else works at the keys of a worker, the limit stays at its bound and
//! costs a lock and an addition.

use std::pin::pin;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::Notify;

/// Bounds of the limit, in keys.
///
/// The limit begins at the upper bound, and comes back to it where no race is lost.
const MAX_KEYS: f64 = 1024.0;
const MIN_KEYS: f64 = 2.0;
/// Factors by which a lost race, and a run that made it, move the limit: 20 of these weigh as much as one of those.
const DECREASE: f64 = 0.96;
const INCREASE: f64 = 1.002;
/// How long a lost race is remembered.
const CONTENTION_MEMORY: Duration = Duration::from_secs(1);

/// AIMD limiter of keys. Owned by the committer, which knows how races end. Every key's task asks
/// it before a run.
pub(crate) struct ConcurrencyLimit {
    /// Locked for a few comparisons, never across an await.
    state: Mutex<LimitState>,
    /// Signal that a permit has ended.
    free: Notify,
}

struct LimitState {
    /// Keys between the begin of their read and the end of their handlers.
    running: usize,
    /// Keys that may run; a fraction, so that small factors add up.
    limit: f64,
    /// For [`is_contended`](ConcurrencyLimit::is_contended).
    last_lost_race: Option<Instant>,
}

/// Right of one key to run; ends when it is dropped.
pub(crate) struct Permit<'l>(&'l ConcurrencyLimit);

impl Default for ConcurrencyLimit {
    fn default() -> Self {
        Self {
            state: Mutex::new(LimitState {
                running: 0,
                limit: MAX_KEYS,
                last_lost_race: None,
            }),
            free: Notify::new(),
        }
    }
}

impl ConcurrencyLimit {
    /// Learns from a run: it is committed, or it lost the race because another worker had changed its row meanwhile.
    pub fn learn(&self, lost_race: bool) {
        let mut state = self.state.lock();
        let factor = if lost_race { DECREASE } else { INCREASE };
        state.limit = (state.limit * factor).clamp(MIN_KEYS, MAX_KEYS);
        if lost_race {
            state.last_lost_race = Some(Instant::now());
        }
    }

    /// Whether other workers work at the same keys.
    ///
    /// Then a remembered row is old as a rule, and reading it anew is cheaper than a lost race.
    pub fn is_contended(&self) -> bool {
        let lost = self.state.lock().last_lost_race;
        lost.is_some_and(|at| at.elapsed() < CONTENTION_MEMORY)
    }

    /// Waits until one more key may run.
    pub async fn acquire(&self) -> Permit<'_> {
        loop {
            {
                let mut state = self.state.lock();
                if state.has_room() {
                    state.running += 1;
                    if state.has_room() {
                        self.free.notify_one(); // for the next as well
                    }
                    return Permit(self);
                }
            }
            self.free.notified().await;
        }
    }
}

impl LimitState {
    /// Whether one more key may run beside those that do.
    fn has_room(&self) -> bool {
        (self.running as f64) < self.limit
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        self.0.state.lock().running -= 1;
        self.0.free.notify_one();
    }
}

impl Permit<'_> {
    /// Runs handlers under the permit, which ends with them, or as soon as they have to wait: after one poll either way.
    pub async fn cover<F: Future>(self, handlers: F) -> F::Output {
        let mut permit = Some(self);
        let mut handlers = pin!(handlers);
        std::future::poll_fn(|cx| {
            let polled = handlers.as_mut().poll(cx);
            permit.take();
            polled
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use std::task::Poll;

    use futures_util::FutureExt as _;
    use futures_util::future::join_all;

    use super::*;

    fn keys(limit: &ConcurrencyLimit) -> usize {
        limit.state.lock().limit as usize
    }

    #[tokio::test]
    async fn lost_races_make_it_few_and_others_many_again() {
        let limit = ConcurrencyLimit::default();
        (0..1000).for_each(|_| limit.learn(true));
        assert_eq!(keys(&limit), MIN_KEYS as usize);
        let (first, _second) = (limit.acquire().await, limit.acquire().await);
        assert!(
            limit.is_contended() && limit.acquire().now_or_never().is_none(),
            "no room"
        );
        let mut handlers = Box::pin(first.cover(tokio::task::yield_now()));
        assert_eq!(futures_util::poll!(&mut handlers), Poll::Pending);
        assert!(
            limit.acquire().now_or_never().is_some(),
            "it waits for something else"
        );
        handlers.await;
        (0..4000).for_each(|_| limit.learn(false));
        assert_eq!(keys(&limit), MAX_KEYS as usize);
    }

    #[test]
    fn some_lost_races_are_no_reason() {
        let limit = ConcurrencyLimit::default();
        for n in 0..100_000 {
            limit.learn(n % 25 == 0);
        }
        assert!(keys(&limit) > 900, "{}", keys(&limit));
        for n in 0..100_000 {
            limit.learn(n % 15 == 0);
        }
        assert!(keys(&limit) < 10, "{}", keys(&limit));
    }

    #[tokio::test]
    async fn all_who_wait_have_their_turn() {
        let limit = ConcurrencyLimit::default();
        (0..1000).for_each(|_| limit.learn(true));
        let work = async || limit.acquire().await.cover(tokio::task::yield_now()).await;
        let all = join_all((0..1000).map(|_| work()));
        tokio::time::timeout(Duration::from_mins(1), all)
            .await
            .expect("nobody is forgotten");
        assert_eq!(limit.state.lock().running, 0);
    }
}
