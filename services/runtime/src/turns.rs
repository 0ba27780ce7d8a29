//! Who works at the same keys as other workers loses races for their rows the more often, the longer a row is old when its
//! commit comes. So while races are being lost, only a few keys at a time are between their read and the end of their
//! handlers; those whose handlers wait for something else stand in nobody's way.

use std::pin::pin;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, SemaphorePermit};

use crate::worker::lock;

/// One key's handlers run while the rows of the next are read; measured as the best of 1, 2, 4, 8 and 16.
const SEATS: usize = 4;
/// How long a lost race is remembered.
const MEMORY: Duration = Duration::from_secs(1);

pub(crate) struct Turns {
    seats: Semaphore,
    lost: Mutex<Option<Instant>>,
}

impl Turns {
    pub fn new() -> Self {
        Self { seats: Semaphore::new(SEATS), lost: Mutex::default() }
    }

    /// Another worker has changed a row meanwhile.
    pub fn lost_race(&self) {
        *lock(&self.lost) = Some(Instant::now());
    }

    /// Whether other workers work at the same keys.
    pub fn contended(&self) -> bool {
        lock(&self.lost).is_some_and(|at| at.elapsed() < MEMORY)
    }

    /// Waits for its turn, where it must; `None` while no races are lost.
    pub async fn take(&self) -> Option<SemaphorePermit<'_>> {
        if self.contended() { self.seats.acquire().await.ok() } else { None }
    }
}

/// Does the work in its turn, which ends with it, or as soon as it has to wait.
pub(crate) async fn in_turn<F: Future>(turn: Option<SemaphorePermit<'_>>, work: F) -> F::Output {
    let (mut turn, mut work) = (turn, pin!(work));
    std::future::poll_fn(|cx| {
        let polled = work.as_mut().poll(cx);
        if polled.is_pending() {
            turn = None;
        }
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

    #[tokio::test]
    async fn without_lost_races_nobody_waits() {
        let turns = Turns::new();
        for _ in 0..9 {
            assert!(turns.take().await.is_none());
        }
    }

    #[tokio::test]
    async fn after_one_few_are_at_it_and_who_waits_makes_room() {
        let turns = Turns::new();
        turns.lost_race();
        let first = turns.take().await;
        let others = join_all((1..SEATS).map(|_| turns.take())).await;
        assert!(others.iter().all(Option::is_some) && turns.take().now_or_never().is_none(), "all seats are taken");
        let mut work = Box::pin(in_turn(first, tokio::task::yield_now()));
        assert_eq!(futures::poll!(&mut work), Poll::Pending);
        assert!(turns.take().now_or_never().is_some(), "it waits for something else");
        work.await;
        *lock(&turns.lost) = Instant::now().checked_sub(MEMORY);
        assert!(turns.take().now_or_never().is_some_and(|turn| turn.is_none()), "forgotten");
    }
}
