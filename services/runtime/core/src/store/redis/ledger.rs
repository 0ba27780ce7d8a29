//! The flow ledger and what was observed of the house, read. Workers write both in the step that commits.

use std::time::Duration;

use oncue_proto::Event as _;
use oncue_proto::oncue::v1::TimerFired;
use redis::cmd;
use serde_json::json;

use super::Store;
use crate::model::flow::{self, Edge, Flow, Registered};
use crate::model::manifest::Manifest;
use crate::store::{
    EDGES, EDGES_AT, FUNCTIONS, StepUpdate, StoreError, first_step, flow_key, ledger_event,
    listeners_key,
};
use oncue_proto::event::{self, Meta};

type Pairs = Vec<(Vec<u8>, Vec<u8>)>;

/// Keys looked at in one round trip; Redis does nothing else meanwhile.
const STEP: usize = 5000;

impl Store {
    /// What the ledger knows of a flow; `None` for one that is not tracked, or was so long ago that it expired.
    pub async fn flow(&self, id: &str) -> Result<Option<Flow>, StoreError> {
        Ok(self.flows(&[id.to_owned()]).await?.pop().flatten())
    }

    /// Several flows in one round trip.
    pub async fn flows(&self, ids: &[String]) -> Result<Vec<Option<Flow>>, StoreError> {
        let mut pipe = redis::pipe();
        for id in ids {
            pipe.cmd("HGETALL").arg(flow_key(id));
        }
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let found: Vec<Pairs> = pipe.query_async(&mut self.connection()).await?;
        Ok(ids
            .iter()
            .zip(found)
            .map(|(id, fields)| Flow::read(id, fields))
            .collect())
    }

    /// The ledger that knows an event, whichever its flow. It looks at every ledger: for people who ask, not for programs.
    pub async fn flow_with(&self, event: &str) -> Result<Option<Flow>, StoreError> {
        let (mut c, field) = (self.connection(), format!("e:{event}"));
        let mut cursor = 0_u64;
        loop {
            let mut scan = cmd("SCAN");
            scan.arg(cursor)
                .arg("MATCH")
                .arg("{p*}:f:*")
                .arg("COUNT")
                .arg(STEP);
            let (next, mut keys): (u64, Vec<String>) = scan.query_async(&mut c).await?;
            // A row's key may look alike further behind.
            keys.retain(|key| {
                key.split_once("}:")
                    .is_some_and(|(_, rest)| rest.starts_with("f:"))
            });
            let mut pipe = redis::pipe();
            for key in &keys {
                pipe.cmd("HEXISTS").arg(key).arg(&field);
            }
            let known: Vec<bool> = if keys.is_empty() {
                Vec::new()
            } else {
                pipe.query_async(&mut c).await?
            };
            if let Some((key, _)) = keys.iter().zip(known).find(|(_, known)| *known) {
                let fields: Pairs = cmd("HGETALL").arg(key).query_async(&mut c).await?;
                let flow = Flow::read("", fields);
                // Named after its root; a long name is only a hash in the key.
                return Ok(flow.and_then(|flow| {
                    Some(Flow {
                        id: flow.events.first()?.id.clone(),
                        ..flow
                    })
                }));
            }
            cursor = next;
            if cursor == 0 {
                return Ok(None);
            }
        }
    }

    /// Which hops events have been seen to take.
    pub async fn edges(&self) -> Result<Vec<Edge>, StoreError> {
        let mut pipe = redis::pipe();
        pipe.cmd("HGETALL").arg(EDGES).cmd("HGETALL").arg(EDGES_AT);
        let (counts, times): (Pairs, Pairs) = pipe.query_async(&mut self.connection()).await?;
        Ok(flow::edges(counts, times))
    }

    /// Every function that ever started here, running or not.
    pub async fn functions(&self) -> Result<Vec<Registered>, StoreError> {
        let fields: Pairs = cmd("HGETALL")
            .arg(FUNCTIONS)
            .query_async(&mut self.connection())
            .await?;
        Ok(flow::functions(fields))
    }

    /// Begins the ledger of a flow with its root event, before that is published; `false` where it had begun already.
    pub async fn track(&self, meta: &Meta, key: &str, keep: Duration) -> Result<bool, StoreError> {
        let mut c = self.connection();
        let listeners: Vec<String> = cmd("SMEMBERS")
            .arg(listeners_key(&meta.ty))
            .query_async(&mut c)
            .await?;
        let (ledger, now) = (flow_key(&meta.flow), event::now_ms());
        let mut pipe = redis::pipe();
        pipe.atomic();
        let (field, event) = ledger_event(meta, key);
        pipe.cmd("HSETNX").arg(&ledger).arg(field).arg(event);
        for function in &listeners {
            let (field, step) = first_step(meta, function, now);
            pipe.cmd("HSETNX")
                .arg(&ledger)
                .arg(field)
                .arg(step)
                .ignore();
        }
        pipe.cmd("HSETNX")
            .arg(&ledger)
            .arg("n")
            .arg(listeners.len())
            .ignore();
        pipe.cmd("HSETNX").arg(&ledger).arg("at").arg(now).ignore();
        if listeners.is_empty() {
            pipe.cmd("HSETNX").arg(&ledger).arg("end").arg(now).ignore();
        }
        pipe.cmd("EXPIRE")
            .arg(&ledger)
            .arg(keep.as_secs().max(1))
            .ignore();
        let (new,): (bool,) = pipe.query_async(&mut c).await?;
        Ok(new)
    }

    /// Notes that runs begin or have failed.
    pub async fn note(&self, notes: &[StepUpdate]) -> Result<(), StoreError> {
        let mut pipe = redis::pipe();
        for note in notes {
            pipe.cmd("HSET")
                .arg(&note.flow)
                .arg(&note.field)
                .arg(&note.text)
                .ignore();
            pipe.cmd("EXPIRE")
                .arg(&note.flow)
                .arg(note.keep.as_secs().max(1))
                .ignore();
        }
        Ok(pipe.exec_async(&mut self.connection()).await?)
    }

    /// Counts hops that were seen to `function`: source, type, how many.
    pub async fn saw(
        &self,
        hops: &[(String, String, u64)],
        function: &str,
    ) -> Result<(), StoreError> {
        if hops.is_empty() {
            return Ok(());
        }
        let (mut pipe, now) = (redis::pipe(), event::now_ms());
        for (source, ty, count) in hops {
            let field = format!("{source}\t{ty}\t{function}");
            pipe.cmd("HINCRBY")
                .arg(EDGES)
                .arg(&field)
                .arg(count)
                .ignore();
            pipe.cmd("HSET").arg(EDGES_AT).arg(field).arg(now).ignore();
        }
        Ok(pipe.exec_async(&mut self.connection()).await?)
    }

    /// A function starts: what it acts on is known from now on, and what it no longer acts on is not waited for.
    pub async fn register(&self, manifest: &Manifest) -> Result<(), StoreError> {
        let (mut c, name) = (self.connection(), &manifest.name);
        let before: Option<String> = cmd("HGET")
            .arg(FUNCTIONS)
            .arg(name)
            .query_async(&mut c)
            .await?;
        let before = before.and_then(|json| serde_json::from_str::<Manifest>(&json).ok());
        let mut json = json!(manifest);
        json["seen"] = event::now_ms().into();
        let mut pipe = redis::pipe();
        pipe.atomic()
            .cmd("HSET")
            .arg(FUNCTIONS)
            .arg(name)
            .arg(json.to_string())
            .ignore();
        for ty in before
            .iter()
            .flat_map(|before| &before.triggers)
            .filter(|ty| !manifest.triggers.contains(ty))
        {
            pipe.cmd("SREM").arg(listeners_key(ty)).arg(name).ignore();
        }
        // A timer of its own has one function each, which the type does not tell.
        for ty in manifest
            .triggers
            .iter()
            .filter(|ty| *ty != TimerFired::TYPE)
        {
            pipe.cmd("SADD").arg(listeners_key(ty)).arg(name).ignore();
        }
        Ok(pipe.exec_async(&mut c).await?)
    }

    /// Takes a ledger back whose root event was not published after all.
    pub async fn untrack(&self, flow: &str) -> Result<(), StoreError> {
        Ok(cmd("UNLINK")
            .arg(flow_key(flow))
            .exec_async(&mut self.connection())
            .await?)
    }
}
