//! Who works at the same keys as other workers loses races for their rows the more often, the more rows are read before
//! the handlers of the first have run, since each is older when its commit comes. So for every lost race fewer keys have
//! their turn at a time, and for every other run more: about one run in twenty loses its race, whatever handlers take and
//! however far Redis is. Those whose handlers wait for something else stand in nobody's way.

use parking_lot::Mutex;
use std::pin::pin;
use std::time::{Duration, Instant};

use tokio::sync::Notify;

/// Keys that have their turn at a time: bounds, and by how much a run moves them.
const MOST: f64 = 1024.0;
const FEWEST: f64 = 2.0;
const LOST: f64 = 0.96;
const MADE: f64 = 1.002;
/// How long a lost race is remembered.
const MEMORY: Duration = Duration::from_secs(1);

pub(crate) struct Turns {
    state: Mutex<State>,
    free: Notify,
}

struct State {
    /// Keys between the begin of their read and the end of their handlers, and how many there may be.
    at_it: usize,
    most: f64,
    lost: Option<Instant>,
}

/// Ends when it is dropped.
pub(crate) struct Turn<'t>(&'t Turns);

impl Default for Turns {
    fn default() -> Self {
        Self {
            state: Mutex::new(State {
                at_it: 0,
                most: MOST,
                lost: None,
            }),
            free: Notify::new(),
        }
    }
}

impl Turns {
    /// A run is committed, or another worker had changed its row meanwhile.
    pub fn ran(&self, lost: bool) {
        let mut state = self.state.lock();
        state.most = (state.most * if lost { LOST } else { MADE }).clamp(FEWEST, MOST);
        if lost {
            state.lost = Some(Instant::now());
        }
    }

    /// Whether other workers work at the same keys.
    pub fn contended(&self) -> bool {
        self.state
            .lock()
            .lost
            .is_some_and(|at| at.elapsed() < MEMORY)
    }

    pub async fn take(&self) -> Turn<'_> {
        loop {
            {
                let mut state = self.state.lock();
                if (state.at_it as f64) < state.most {
                    state.at_it += 1;
                    if (state.at_it as f64) < state.most {
                        self.free.notify_one(); // there is room for the next as well
                    }
                    return Turn(self);
                }
            }
            self.free.notified().await;
        }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.state.lock().at_it -= 1;
        self.0.free.notify_one();
    }
}

/// Runs handlers in their turn, which ends with them, or as soon as they have to wait: after one poll either way.
pub(crate) async fn in_turn<F: Future>(turn: Turn<'_>, handlers: F) -> F::Output {
    let (mut turn, mut handlers) = (Some(turn), pin!(handlers));
    std::future::poll_fn(|cx| {
        let polled = handlers.as_mut().poll(cx);
        turn.take();
        polled
    })
    .await
}

#[cfg(test)]
mod tests {
    use std::task::Poll;

    use futures::FutureExt as _;
    use futures::future::join_all;

    use super::*;

    fn most(turns: &Turns) -> usize {
        turns.state.lock().most as usize
    }

    #[tokio::test]
    async fn lost_races_make_it_few_and_others_many_again() {
        let turns = Turns::default();
        (0..1000).for_each(|_| turns.ran(true));
        assert_eq!(most(&turns), FEWEST as usize);
        let (first, _second) = (turns.take().await, turns.take().await);
        assert!(
            turns.contended() && turns.take().now_or_never().is_none(),
            "no room"
        );
        let mut handlers = Box::pin(in_turn(first, tokio::task::yield_now()));
        assert_eq!(futures::poll!(&mut handlers), Poll::Pending);
        assert!(
            turns.take().now_or_never().is_some(),
            "it waits for something else"
        );
        handlers.await;
        (0..4000).for_each(|_| turns.ran(false));
        assert_eq!(most(&turns), MOST as usize);
    }

    #[test]
    fn some_lost_races_are_no_reason() {
        let turns = Turns::default();
        for n in 0..100_000 {
            turns.ran(n % 25 == 0);
        }
        assert!(most(&turns) > 900, "{}", most(&turns));
        for n in 0..100_000 {
            turns.ran(n % 15 == 0);
        }
        assert!(most(&turns) < 10, "{}", most(&turns));
    }

    #[tokio::test]
    async fn all_who_wait_have_their_turn() {
        let turns = Turns::default();
        (0..1000).for_each(|_| turns.ran(true));
        let work = async || in_turn(turns.take().await, tokio::task::yield_now()).await;
        let all = join_all((0..1000).map(|_| work()));
        tokio::time::timeout(Duration::from_mins(1), all)
            .await
            .expect("nobody is forgotten");
        assert_eq!(turns.state.lock().at_it, 0);
    }
}
