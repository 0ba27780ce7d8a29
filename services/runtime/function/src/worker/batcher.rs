//! Natural batching: whatever has gathered while the last call was under way goes into the next one. As a rule there is no
//! timer, so a single request waits for nobody, and a full house pays one round trip for all.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use oncue_core::store::StoreError;

/// A queue in front of a call that takes many requests at once.
pub struct Group<Q, A> {
    queue: mpsc::UnboundedSender<(Q, oneshot::Sender<Result<A, StoreError>>)>,
}

impl<Q: Send + Sync + 'static, A: Send + 'static> Group<Q, A> {
    /// Gathers requests up to a total `weight` of `most` for each run of `call`, which answers in order.
    pub fn new<F, Fut>(most: usize, weight: fn(&Q) -> usize, call: F) -> Self
    where
        F: Fn(Arc<Vec<Q>>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Vec<A>, StoreError>> + Send,
    {
        Self::patient(Duration::ZERO, most, weight, call)
    }

    /// The same for what is in no hurry: the first request waits for others for as long as `linger`.
    pub fn patient<F, Fut>(linger: Duration, most: usize, weight: fn(&Q) -> usize, call: F) -> Self
    where
        F: Fn(Arc<Vec<Q>>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Vec<A>, StoreError>> + Send,
    {
        let (queue, mut waiting) =
            mpsc::unbounded_channel::<(Q, oneshot::Sender<Result<A, StoreError>>)>();
        tokio::spawn(async move {
            while let Some((first, answer)) = waiting.recv().await {
                // Whoever makes a call full ends the wait for others.
                if !linger.is_zero() && waiting.len() < most {
                    tokio::time::sleep(linger).await;
                }
                let mut total = weight(&first);
                let (mut requests, mut answers) = (vec![first], vec![answer]);
                while total < most {
                    let Ok((request, answer)) = waiting.try_recv() else {
                        break;
                    };
                    total += weight(&request);
                    requests.push(request);
                    answers.push(answer);
                }
                for (answer, result) in answers.into_iter().zip(persist(&call, requests).await) {
                    let _ = answer.send(result);
                }
            }
        });
        Self { queue }
    }

    /// Waits for the answer; an error is the request's own fault, an absent server is waited for.
    pub async fn ask(&self, request: Q) -> Result<A, StoreError> {
        let (answer, answered) = oneshot::channel();
        let gone = || StoreError::refused("the store is closed");
        self.queue.send((request, answer)).map_err(|_| gone())?;
        answered.await.map_err(|_| gone())?
    }
}

impl<Q, A> Group<Q, A> {
    /// Asks for something nobody waits for.
    pub fn tell(&self, request: Q) {
        let _ = self.queue.send((request, oneshot::channel().0));
    }
}

/// A refusal is pinned on the request that causes it.
async fn persist<Q, A, F, Fut>(call: &F, requests: Vec<Q>) -> Vec<Result<A, StoreError>>
where
    F: Fn(Arc<Vec<Q>>) -> Fut,
    Fut: Future<Output = Result<Vec<A>, StoreError>>,
{
    let requests = Arc::new(requests);
    match until_there(call, &requests).await {
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
                let answer = until_there(call, &Arc::new(vec![request])).await;
                answers.push(
                    answer
                        .and_then(|mut a| a.pop().ok_or_else(|| StoreError::refused("no answer"))),
                );
            }
            answers
        }
    }
}

/// Calls until the server is there. Repeating a commit is safe, since seen-marks answer `duplicate`; giving the events
/// back instead would use up attempts that no handler failed.
async fn until_there<Q, A, F, Fut>(call: &F, requests: &Arc<Vec<Q>>) -> Result<Vec<A>, StoreError>
where
    F: Fn(Arc<Vec<Q>>) -> Fut,
    Fut: Future<Output = Result<Vec<A>, StoreError>>,
{
    let mut delay = Duration::from_millis(50);
    loop {
        match call(requests.clone()).await {
            Err(e) if e.away => {
                tracing::warn!(error = %e, "waiting for the store");
                tokio::time::sleep(delay.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
                delay = (delay * 2).min(Duration::from_secs(2));
            }
            answer => return answer,
        }
    }
}

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;
    use std::sync::Arc;

    use futures::future::join_all;
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

        fn group(&self, most: usize, weight: fn(&u32) -> usize) -> Group<u32, u32> {
            let doubler = self.clone();
            Group::new(most, weight, move |numbers| {
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
        group: &Group<u32, u32>,
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
                group.ask(*number).await
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
        let answers = gather(&doubler, &doubler.group(100, |_| 1), &[1, 2, 3, 4, 5]).await;
        assert_eq!(answers, [2, 4, 6, 8, 10].map(Ok));
        assert_eq!(doubler.calls(), [vec![1], vec![2, 3, 4, 5]]);
    }

    #[tokio::test]
    async fn what_is_in_no_hurry_waits_for_others_until_a_call_is_full() {
        let doubler = Doubler::new(100, 0);
        let group = |linger| {
            let doubler = doubler.clone();
            let call = move |numbers| {
                let doubler = doubler.clone();
                async move { doubler.call(numbers).await }
            };
            Group::patient(linger, 2, |_| 1, call)
        };
        let short = group(Duration::from_millis(20));
        assert_eq!(gather(&doubler, &short, &[1, 2]).await, [2, 4].map(Ok));
        let long = group(Duration::from_hours(1));
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
            &doubler.group(4, |n| *n as usize),
            &[1, 2, 3, 9, 1],
        )
        .await;
        assert_eq!(doubler.calls(), [vec![1], vec![2, 3], vec![9], vec![1]]);
    }

    #[tokio::test]
    async fn a_refusal_is_pinned_on_its_cause() {
        let doubler = Doubler::new(0, 0);
        let answers = gather(&doubler, &doubler.group(100, |_| 1), &[1, 2, 13, 4]).await;
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
        assert_eq!(doubler.group(100, |_| 1).ask(7).await, Ok(14));
        assert_eq!(doubler.calls(), [[7], [7], [7]]);
    }
}
