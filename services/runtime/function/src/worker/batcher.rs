//! Batcher: natural batching in front of a call that takes many requests at once. What has gathered while the last call was
//! under way goes into the next one. As a rule there is no timer, so a single request waits for nobody, and a full house pays
//! one round trip for all.
//!
//! Before the answer: nobody knows whether the call was made. After it: every request of the call
//! has its own result. A process that dies in between leaves requests that may or may not have
//! happened, so a call must bear being made twice.

use std::sync::Arc;
use std::time::Duration;

use oncue_core::backoff::Backoff;
use oncue_core::store::StoreError;
use tokio::sync::{mpsc, oneshot};

/// Events and runs in one read or commit: enough to fill a round trip, few enough that Redis, which does nothing else
/// meanwhile, is back within about a millisecond.
///
/// Bounds the events of one key that run together as well.
pub(crate) const MAX_BATCH: usize = 256;

/// Delays between calls to a store that is away.
const RECONNECT: Backoff = Backoff {
    first: Duration::from_millis(50),
    longest: Duration::from_secs(2),
};

/// A queue of requests `Q`, each with an answer `A`, in front of one call.
///
/// The task that makes the calls ends when the batcher is dropped. One call is under way at a time,
/// which is what lets requests gather for the next.
pub(crate) struct Batcher<Q, A> {
    /// Without a bound of its own: what can wait here is bounded by the in-flight set.
    queue: mpsc::UnboundedSender<Request<Q, A>>,
}

/// One request, and where its answer goes. An answer that nobody waits for is thrown away.
struct Request<Q, A> {
    content: Q,
    answer: oneshot::Sender<Result<A, StoreError>>,
}

/// Bounds of one call.
#[derive(Clone, Copy)]
pub(crate) struct Batching<Q> {
    /// Total weight at which a call is full. A request is never split, so the last one may go over.
    pub max_weight: usize,
    /// Weight of a request, in whatever unit the bound is meant.
    pub weight: fn(&Q) -> usize,
    /// How long the first request waits for others; zero for not at all. A request that makes the call full ends the wait.
    pub linger: Duration,
}

impl<Q> Batching<Q> {
    /// [`MAX_BATCH`] of that weight, without waiting.
    pub fn by(weight: fn(&Q) -> usize) -> Self {
        Self {
            max_weight: MAX_BATCH,
            weight,
            linger: Duration::ZERO,
        }
    }
}

impl<Q: Send + Sync + 'static, A: Send + 'static> Batcher<Q, A> {
    /// Starts the task that makes the calls. `call` answers in the order of the requests.
    pub fn new<F, Fut>(batching: Batching<Q>, call: F) -> Self
    where
        F: Fn(Arc<Vec<Q>>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Vec<A>, StoreError>> + Send + 'static,
    {
        let (queue, waiting) = mpsc::unbounded_channel();
        tokio::spawn(run(batching, waiting, call));
        Self { queue }
    }

    /// Waits for the answer. An error is the request's own fault: an absent server is waited for.
    pub async fn ask(&self, content: Q) -> Result<A, StoreError> {
        let (answer, answered) = oneshot::channel();
        let sent = self.queue.send(Request { content, answer });
        sent.map_err(|_| closed())?;
        answered.await.map_err(|_| closed())?
    }
}

impl<Q, A> Batcher<Q, A> {
    /// Asks for something whose answer nobody needs.
    pub fn send(&self, content: Q) {
        let answer = oneshot::channel().0;
        let _ = self.queue.send(Request { content, answer });
    }
}

/// Error of a batcher whose task is gone: the runtime is ending, or a call has panicked.
fn closed() -> StoreError {
    StoreError::refused("the store is closed")
}

/// Gathers, calls, answers, for as long as anybody may ask.
async fn run<Q, A, F, Fut>(
    batching: Batching<Q>,
    mut waiting: mpsc::UnboundedReceiver<Request<Q, A>>,
    call: F,
) where
    F: Fn(Arc<Vec<Q>>) -> Fut,
    Fut: Future<Output = Result<Vec<A>, StoreError>>,
{
    while let Some(first) = waiting.recv().await {
        // The wait is skipped where a call is full already. Messages are counted and not weighed:
        // for the one queue that lingers both are the same.
        if !batching.linger.is_zero() && waiting.len() < batching.max_weight {
            tokio::time::sleep(batching.linger).await;
        }
        let mut weight = (batching.weight)(&first.content);
        let mut requests = vec![first.content];
        let mut answers = vec![first.answer];
        // Never waits: what is not there now goes into the next call.
        while weight < batching.max_weight {
            let Ok(next) = waiting.try_recv() else { break };
            weight += (batching.weight)(&next.content);
            requests.push(next.content);
            answers.push(next.answer);
        }
        let results = call_each(&call, requests).await;
        for (answer, result) in answers.into_iter().zip(results) {
            // Whether anybody still waits for the answer does not matter.
            let _ = answer.send(result);
        }
    }
}

/// One call for all; after a refusal one for each, so that it is pinned on the request that causes it.
async fn call_each<Q, A, F, Fut>(call: &F, requests: Vec<Q>) -> Vec<Result<A, StoreError>>
where
    F: Fn(Arc<Vec<Q>>) -> Fut,
    Fut: Future<Output = Result<Vec<A>, StoreError>>,
{
    let requests = Arc::new(requests);
    match call_until_there(call, &requests).await {
        Ok(answers) => answers.into_iter().map(Ok).collect(),
        Err(e) if requests.len() == 1 => vec![Err(e)],
        Err(e) => {
            // The call is over, and with it whatever else had a hold on them.
            let requests = Arc::into_inner(requests).unwrap_or_default();
            if requests.is_empty() {
                tracing::error!(error = %e, "a refused call is still under way");
            }
            let mut answers = Vec::with_capacity(requests.len());
            for request in requests {
                let answer = call_until_there(call, &Arc::new(vec![request])).await;
                answers.push(answer.and_then(only_answer));
            }
            answers
        }
    }
}

/// Answer to a call with one request in it.
fn only_answer<A>(mut answers: Vec<A>) -> Result<A, StoreError> {
    answers
        .pop()
        .ok_or_else(|| StoreError::refused("no answer"))
}

/// Calls until the server is there. Repeating a commit is safe, since seen-marks answer `duplicate`; giving the events
/// back instead would use up attempts that no handler failed.
async fn call_until_there<Q, A, F, Fut>(
    call: &F,
    requests: &Arc<Vec<Q>>,
) -> Result<Vec<A>, StoreError>
where
    F: Fn(Arc<Vec<Q>>) -> Fut,
    Fut: Future<Output = Result<Vec<A>, StoreError>>,
{
    let mut attempt = 0;
    loop {
        match call(requests.clone()).await {
            Err(e) if e.away => {
                attempt += 1;
                tracing::warn!(error = %e, "waiting for the store");
                tokio::time::sleep(RECONNECT.delay(attempt)).await;
            }
            answer => return answer,
        }
    }
}

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;
    use std::sync::Arc;

    use futures_util::future::join_all;
    use tokio::sync::Semaphore;

    use super::*;

    /// Doubles numbers, but refuses any call with a 13 in it and is away for as many calls as it is told. Each call
    /// waits for a permit and is written down.
    #[derive(Clone)]
    struct Doubler {
        calls: Arc<Mutex<Vec<Vec<u32>>>>,
        permits: Arc<Semaphore>,
        away: Arc<Mutex<u32>>,
    }

    impl Doubler {
        fn new(permits: usize, away: u32) -> Self {
            let (calls, away) = (Arc::default(), Arc::new(Mutex::new(away)));
            Self {
                calls,
                permits: Arc::new(Semaphore::new(permits)),
                away,
            }
        }

        fn batcher(&self, most: usize, weight: fn(&u32) -> usize) -> Batcher<u32, u32> {
            let doubler = self.clone();
            let batching = Batching {
                max_weight: most,
                weight,
                linger: Duration::ZERO,
            };
            Batcher::new(batching, move |numbers| {
                let doubler = doubler.clone();
                async move { doubler.call(numbers).await }
            })
        }

        async fn call(&self, numbers: Arc<Vec<u32>>) -> Result<Vec<u32>, StoreError> {
            self.permits.acquire().await.expect("open").forget();
            self.calls.lock().push(numbers.to_vec());
            let mut away = self.away.lock();
            if *away > 0 {
                *away -= 1;
                return Err(StoreError {
                    message: "gone fishing".into(),
                    away: true,
                });
            }
            if numbers.contains(&13) {
                return Err(StoreError::refused("bad luck"));
            }
            Ok(numbers.iter().map(|n| n * 2).collect())
        }

        fn calls(&self) -> Vec<Vec<u32>> {
            self.calls.lock().clone()
        }
    }

    /// Asks for the first, waits until its call is under way, asks for the rest and lets all calls through.
    async fn gather(
        doubler: &Doubler,
        batcher: &Batcher<u32, u32>,
        numbers: &[u32],
    ) -> Vec<Result<u32, StoreError>> {
        let asks = numbers
            .iter()
            .enumerate()
            .map(|(place, number)| async move {
                if place > 0 {
                    tokio::task::yield_now().await;
                    tokio::task::yield_now().await;
                }
                batcher.ask(*number).await
            });
        let permits = doubler.permits.clone();
        let release = async move {
            for _ in 0..10 {
                tokio::task::yield_now().await;
            }
            permits.add_permits(100);
        };
        tokio::join!(join_all(asks), release).0
    }

    #[tokio::test]
    async fn what_gathers_during_a_call_goes_into_the_next() {
        let doubler = Doubler::new(0, 0);
        let answers = gather(&doubler, &doubler.batcher(100, |_| 1), &[1, 2, 3, 4, 5]).await;
        assert_eq!(answers, [2, 4, 6, 8, 10].map(Ok));
        assert_eq!(doubler.calls(), [vec![1], vec![2, 3, 4, 5]]);
    }

    #[tokio::test]
    async fn what_is_in_no_hurry_waits_for_others_until_a_call_is_full() {
        let doubler = Doubler::new(100, 0);
        let batcher = |linger| {
            let doubler = doubler.clone();
            let call = move |numbers| {
                let doubler = doubler.clone();
                async move { doubler.call(numbers).await }
            };
            Batcher::new(
                Batching {
                    max_weight: 2,
                    weight: |_| 1,
                    linger,
                },
                call,
            )
        };
        let short = batcher(Duration::from_millis(20));
        assert_eq!(gather(&doubler, &short, &[1, 2]).await, [2, 4].map(Ok));
        let long = batcher(Duration::from_hours(1));
        let ask = |number| tokio::time::timeout(Duration::from_secs(1), long.ask(number));
        let (a, b, c) = tokio::join!(ask(3), ask(4), ask(5));
        assert!(a.is_ok() && b.is_ok() && c.is_err());
        assert_eq!(doubler.calls(), [[1, 2], [3, 4]]);
    }

    #[tokio::test]
    async fn a_call_takes_no_more_than_its_weight() {
        let doubler = Doubler::new(0, 0);
        // Each weighs what it is; a request is never split, so the last one taken may go over.
        gather(
            &doubler,
            &doubler.batcher(4, |n| *n as usize),
            &[1, 2, 3, 9, 1],
        )
        .await;
        assert_eq!(doubler.calls(), [vec![1], vec![2, 3], vec![9], vec![1]]);
    }

    #[tokio::test]
    async fn a_refusal_is_pinned_on_its_cause() {
        let doubler = Doubler::new(0, 0);
        let answers = gather(&doubler, &doubler.batcher(100, |_| 1), &[1, 2, 13, 4]).await;
        assert_eq!(
            answers,
            [Ok(2), Ok(4), Err(StoreError::refused("bad luck")), Ok(8)]
        );
        assert_eq!(
            doubler.calls(),
            [vec![1], vec![2, 13, 4], vec![2], vec![13], vec![4]]
        );
    }

    #[tokio::test]
    async fn an_absent_store_is_waited_for() {
        let doubler = Doubler::new(100, 2);
        assert_eq!(doubler.batcher(100, |_| 1).ask(7).await, Ok(14));
        assert_eq!(doubler.calls(), [[7], [7], [7]]);
    }
}
