//! Names and first contents of the flow ledger (see [`crate::model::flow`]), and the calls that read it.

use std::time::Duration;

use serde_json::json;

use super::{Store, StoreError, name_of};
use crate::model::flow::{Edge, Flow, Registered};
use oncue_proto::event::{self, Meta};

pub(super) const EDGES: &str = "oncue:edges";
pub(super) const EDGES_AT: &str = "oncue:edges:at";
pub(super) const FUNCTIONS: &str = "oncue:functions";

/// What the commit of an event enters in the ledger of its flow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Key of the ledger.
    pub flow: String,
    /// How long it stays from now on.
    pub keep: Duration,
    pub id: String,
    pub ty: String,
    /// What the ledger says of the event.
    pub content: String,
    /// Events that follow: id, type and what is said of each.
    pub follows: Vec<(String, String, String)>,
}

/// Something noted in a ledger in passing.
#[derive(Debug, Clone)]
pub struct StepUpdate {
    pub flow: String,
    pub field: String,
    pub text: String,
    pub keep: Duration,
}

/// Redis key of a flow's ledger.
pub fn flow_key(flow: &str) -> String {
    format!("{{p{}}}:f:{}", event::partition(flow), name_of(flow))
}

/// Redis key of the names of the functions that act on a type.
pub fn listeners_key(ty: &str) -> String {
    format!("oncue:l:{ty}")
}

pub(super) fn ledger_event(meta: &Meta, key: &str) -> (String, String) {
    let content = json!([meta.ty, key, meta.source, meta.cause, meta.time]);
    (format!("e:{}", meta.id), content.to_string())
}

pub(super) fn first_step(meta: &Meta, function: &str, now: u64) -> (String, String) {
    (format!("s:{}:{function}", meta.id), format!("p {now}"))
}

impl Store {
    /// What the ledger knows of a flow; `None` for one that is not tracked, or was so long ago that it expired.
    pub async fn flow(&self, id: &str) -> Result<Option<Flow>, StoreError> {
        Ok(self.flows(&[id.to_owned()]).await?.pop().flatten())
    }

    /// Several flows in one round trip.
    pub async fn flows(&self, ids: &[String]) -> Result<Vec<Option<Flow>>, StoreError> {
        match self {
            Self::Redis(store) => store.flows(ids).await,
            Self::Map(store) => Ok(store.flows(ids)),
        }
    }

    /// Which hops events have been seen to take.
    pub async fn edges(&self) -> Result<Vec<Edge>, StoreError> {
        match self {
            Self::Redis(store) => store.edges().await,
            Self::Map(store) => Ok(store.edges()),
        }
    }

    /// Every function that ever started here, running or not.
    pub async fn functions(&self) -> Result<Vec<Registered>, StoreError> {
        match self {
            Self::Redis(store) => store.functions().await,
            Self::Map(store) => Ok(store.functions()),
        }
    }

    /// Begins the ledger of a flow with its root event, before that is published; `false` where it had begun already.
    pub async fn track(&self, meta: &Meta, key: &str, keep: Duration) -> Result<bool, StoreError> {
        match self {
            Self::Redis(store) => store.track(meta, key, keep).await,
            Self::Map(store) => Ok(store.track(meta, key)),
        }
    }

    /// Notes that runs begin or have failed.
    pub async fn note(&self, notes: &[StepUpdate]) -> Result<(), StoreError> {
        match self {
            Self::Redis(store) => store.note(notes).await,
            Self::Map(_) => Ok(()),
        }
    }

    /// Counts hops that were seen to `function`: source, type, how many.
    pub async fn saw(
        &self,
        hops: &[(String, String, u64)],
        function: &str,
    ) -> Result<(), StoreError> {
        match self {
            Self::Redis(store) => store.saw(hops, function).await,
            Self::Map(_) => Ok(()),
        }
    }

    /// Takes a ledger back whose root event was not published after all.
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
