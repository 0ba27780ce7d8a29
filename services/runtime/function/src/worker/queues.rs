//! The queues in front of the store and the bus: what many keys ask for at the same time goes out together.

use std::sync::Arc;
use std::time::Duration;

use crate::worker::batcher::Group;
use crate::worker::outputs::Outgoing;
use oncue_core::bus::{Bus, Outbound, PublishError};
use oncue_core::store::{Committed, Run, Status, Store, StoreError};

/// Events and runs in one read or commit: enough to fill a round trip, few enough that Redis, which does nothing else
/// meanwhile, is back within about a millisecond.
pub(crate) const GROUP: usize = 256;

/// How long it may take until outputs are marked as published: to be spared a call for each event, and far less than the
/// sweeper waits before it publishes them again.
const UNMARKED: Duration = Duration::from_millis(50);

/// Outputs of a run go in, what became of each comes out.
pub(crate) type Batches = Group<Vec<Outbound>, Vec<Result<(), PublishError>>>;

/// A queue of its own in front of one of the store's calls.
pub(crate) fn group<Q, A, F, Fut>(store: &Store, weight: fn(&Q) -> usize, call: F) -> Group<Q, A>
where
    Q: Send + Sync + 'static,
    A: Send + 'static,
    F: Fn(Store, Arc<Vec<Q>>) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<Vec<A>, StoreError>> + Send,
{
    let store = store.clone();
    Group::new(GROUP, weight, move |requests| call(store.clone(), requests))
}

/// Outboxes whose outputs are published.
pub(crate) fn marks(store: &Store, keep: bool) -> Group<String, ()> {
    let store = store.clone();
    Group::patient(
        UNMARKED,
        GROUP,
        |_| 1,
        move |keys: Arc<Vec<String>>| {
            let store = store.clone();
            async move {
                store
                    .published(&keys, keep)
                    .await
                    .map(|()| vec![(); keys.len()])
            }
        },
    )
}

/// A commit is heavy by its events, and by the bytes of what follows from them.
pub(crate) fn weight(run: &Run) -> usize {
    run.events
        .iter()
        .map(|handled| 1 + handled.outbox.len() / 4096)
        .sum()
}

/// What each run needs to know of the commit it was in: its own statuses, and the outputs of all.
pub(crate) fn shared(
    Committed { statuses, outbox }: Committed,
) -> Vec<(Vec<Status>, Option<Arc<Outgoing>>)> {
    let outgoing = outbox.map(|key| Arc::new(Outgoing::new(key)));
    let of_run = |statuses: Vec<Status>| {
        let outgoing = outgoing
            .clone()
            .filter(|_| statuses.contains(&Status::Applied));
        (statuses, outgoing)
    };
    statuses.into_iter().map(of_run).collect()
}

/// What gathers while a batch is on its way is the next one.
pub(crate) fn batches(bus: &Bus) -> Batches {
    let bus = bus.clone();
    Group::new(GROUP, Vec::len, move |runs: Arc<Vec<Vec<Outbound>>>| {
        let bus = bus.clone();
        async move {
            let mut answers = bus.publish_all(runs.concat()).await.into_iter();
            Ok(runs
                .iter()
                .map(|run| answers.by_ref().take(run.len()).collect())
                .collect())
        }
    })
}
