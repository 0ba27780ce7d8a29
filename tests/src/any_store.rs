//! One suite, both stores: the calls of [`Store`] on Redis and on the map that it is held to.

use std::time::Duration;

use oncue_core::model::flow::{Edge, Flow, Registered};
use oncue_core::store::{
    Committed, Keys, Mark, MarkState, Read, ReadResult, Run, RunStart, StateValue, StepUpdate,
    Store, StoreError, StoredOutputs, StreamPosition, Unpublished,
};
use oncue_proto::event::Meta;

use oncue::testing::MapStore;

/// Redis, or the map that behaves like it: one suite for both.
#[derive(Clone)]
pub enum AnyStore {
    Redis(Store),
    Map(MapStore),
}

impl From<Store> for AnyStore {
    fn from(store: Store) -> Self {
        Self::Redis(store)
    }
}

impl AnyStore {
    pub async fn read(&self, asks: &[Read]) -> Result<Vec<ReadResult>, StoreError> {
        match self {
            Self::Redis(store) => store.read(asks).await,
            Self::Map(store) => Ok(store.read(asks)),
        }
    }

    pub async fn settled(&self, marks: &[Mark]) -> Result<Vec<Option<MarkState>>, StoreError> {
        match self {
            Self::Redis(store) => store.settled(marks).await,
            Self::Map(store) => Ok(store.settled(marks)),
        }
    }

    pub async fn commit(&self, runs: &[Run]) -> Result<Committed, StoreError> {
        match self {
            Self::Redis(store) => store.commit(runs).await,
            Self::Map(store) => Ok(store.commit(runs)),
        }
    }

    pub async fn places(
        &self,
        ids: &[String],
        function: &str,
    ) -> Result<Vec<Option<StreamPosition>>, StoreError> {
        match self {
            Self::Redis(store) => store.places(ids, function).await,
            Self::Map(store) => Ok(ids.iter().map(|id| store.place(id, function)).collect()),
        }
    }

    /// Counts a new run for each event.
    pub async fn started(&self, marks: &[Mark]) -> Result<Vec<u32>, StoreError> {
        match self {
            Self::Redis(store) => {
                let runs = marks.iter().map(|mark| RunStart {
                    mark: mark.clone(),
                    number: fastrand::u64(..),
                    message: 1,
                    only_first: false,
                });
                let counts = store.started(&runs.collect::<Vec<_>>()).await?;
                Ok(counts.iter().map(|count| count.begun).collect())
            }
            Self::Map(store) => Ok(marks.iter().map(|mark| store.started(mark)).collect()),
        }
    }

    pub async fn uncount(&self, mark: &Mark) -> Result<(), StoreError> {
        match self {
            Self::Redis(store) => store.uncount(mark).await,
            Self::Map(store) => {
                store.uncount(mark);
                Ok(())
            }
        }
    }

    pub async fn published(&self, outbox_keys: &[String], keep: bool) -> Result<(), StoreError> {
        match self {
            Self::Redis(store) => store.published(outbox_keys, keep).await,
            Self::Map(store) => {
                store.published(outbox_keys, keep);
                Ok(())
            }
        }
    }

    pub async fn split(
        &self,
        outbox_key: &str,
        left: &[StoredOutputs],
        keep: &[StoredOutputs],
    ) -> Result<(), StoreError> {
        match self {
            Self::Redis(store) => store.split(outbox_key, left, keep).await,
            Self::Map(store) => {
                store.split(outbox_key, left, keep);
                Ok(())
            }
        }
    }

    pub async fn lease(&self, name: &str, seconds: u64) -> Result<bool, StoreError> {
        match self {
            Self::Redis(store) => store.lease(name, seconds).await,
            Self::Map(_) => Ok(true),
        }
    }

    pub async fn renew(&self, name: &str, seconds: u64) -> Result<(), StoreError> {
        match self {
            Self::Redis(store) => store.renew(name, seconds).await,
            Self::Map(_) => Ok(()),
        }
    }

    pub async fn unpublished(
        &self,
        function: &str,
        before: u64,
    ) -> Result<Vec<Unpublished>, StoreError> {
        match self {
            Self::Redis(store) => store.unpublished(function, before, 0).await,
            Self::Map(store) => {
                let mut left = store.unpublished(before);
                left.retain(|outbox| Keys::function_of(&outbox.outbox_key) == function);
                Ok(left)
            }
        }
    }

    pub async fn kept(
        &self,
        function: &str,
        since: u64,
        from: usize,
    ) -> Result<Vec<Unpublished>, StoreError> {
        match self {
            Self::Redis(store) => store.kept(function, since, from).await,
            Self::Map(store) => {
                let mut kept = store.kept(since);
                kept.retain(|outbox| Keys::function_of(&outbox.outbox_key) == function);
                Ok(kept.into_iter().skip(from).collect())
            }
        }
    }

    pub async fn forget(&self, function: &str, before: u64) -> Result<(), StoreError> {
        match self {
            Self::Redis(store) => store.remove_published(function, before).await,
            Self::Map(store) => {
                store.forget(function, before);
                Ok(())
            }
        }
    }

    pub async fn show(&self, table: &str, key: &str) -> Result<Option<StateValue>, StoreError> {
        match self {
            Self::Redis(store) => store.show(table, key).await,
            Self::Map(store) => Ok(store.show(table, key)),
        }
    }
}

impl AnyStore {
    pub async fn flow(&self, id: &str) -> Result<Option<Flow>, StoreError> {
        Ok(self.flows(&[id.to_owned()]).await?.pop().flatten())
    }

    pub async fn flows(&self, ids: &[String]) -> Result<Vec<Option<Flow>>, StoreError> {
        match self {
            Self::Redis(store) => store.flows(ids).await,
            Self::Map(store) => Ok(store.flows(ids)),
        }
    }

    pub async fn edges(&self) -> Result<Vec<Edge>, StoreError> {
        match self {
            Self::Redis(store) => store.edges().await,
            Self::Map(store) => Ok(store.edges()),
        }
    }

    pub async fn functions(&self) -> Result<Vec<Registered>, StoreError> {
        match self {
            Self::Redis(store) => store.functions().await,
            Self::Map(store) => Ok(store.functions()),
        }
    }

    pub async fn track(&self, meta: &Meta, key: &str, keep: Duration) -> Result<bool, StoreError> {
        match self {
            Self::Redis(store) => store.track(meta, key, keep).await,
            Self::Map(store) => Ok(store.track(meta, key)),
        }
    }

    pub async fn note(&self, notes: &[StepUpdate]) -> Result<(), StoreError> {
        match self {
            Self::Redis(store) => store.record_steps(notes).await,
            Self::Map(_) => Ok(()),
        }
    }

    pub async fn saw(
        &self,
        hops: &[(String, String, u64)],
        function: &str,
    ) -> Result<(), StoreError> {
        match self {
            Self::Redis(store) => store.count_hops(hops, function).await,
            Self::Map(_) => Ok(()),
        }
    }

    pub async fn untrack(&self, flow: &str) -> Result<(), StoreError> {
        match self {
            Self::Redis(store) => store.untrack(flow).await,
            Self::Map(store) => {
                store.untrack(flow);
                Ok(())
            }
        }
    }
}
