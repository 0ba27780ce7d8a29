//! Ledgers of flows, counts of hops and registered functions, read and written. Steps close in the commit itself
//! (`commit.lua`); everything else about a flow is written here.

use std::time::Duration;

use oncue_proto::Event as _;
use oncue_proto::oncue::v1::TimerFired;
use redis::cmd;
use serde_json::json;

use super::Store;
use super::regress::RESTORING;
use super::tables::TABLES;
use crate::model::flow::{self, Edge, Flow, HashFields, Registered, StepRow};
use crate::model::history::History;
use crate::model::manifest::Manifest;
use crate::store::{
    EDGES, EDGES_AT, FUNCTIONS, Keys, StepUpdate, StoreError, first_step, ledger_event,
};
use oncue_proto::event::{self, Meta};

/// Keys that one `SCAN` looks at; Redis does nothing else meanwhile.
///
/// A million keys are 200 round trips.
const KEYS_AT_A_TIME: usize = 5000;
/// Rows of steps that one command asks for, of a kilobyte each.
const ROWS_AT_A_TIME: usize = 500;
/// Key, without the app, of a hash, function -> [`History`] as JSON.
const HISTORY: &str = "history";

impl Store {
    /// Flow by its ledger; `None` for one that is not tracked, or was so long ago that its ledger expired.
    pub async fn flow(&self, id: &str) -> Result<Option<Flow>, StoreError> {
        Ok(self.flows(&[id.to_owned()]).await?.pop().flatten())
    }

    /// Several flows in one round trip, in order of their ids in `ids`; `None` as for [`flow`](Self::flow).
    pub async fn flows(&self, ids: &[String]) -> Result<Vec<Option<Flow>>, StoreError> {
        let mut pipe = redis::pipe();
        for id in ids {
            pipe.cmd("HGETALL").arg(self.keys.flow(id));
        }
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let found: Vec<HashFields> = pipe.query_async(&mut self.connection()).await?;
        Ok(ids
            .iter()
            .zip(found)
            .map(|(id, fields)| Flow::read(id, fields))
            .collect())
    }

    /// Flow that knows an event, whichever it is; `None` where no ledger does. Looks at every ledger: for people who
    /// ask, not for programs.
    pub async fn flow_with(&self, event: &str) -> Result<Option<Flow>, StoreError> {
        let mut c = self.connection();
        let field = format!("e:{event}");
        // By `SCAN`, which may return a key twice but holds nobody up.
        let mut cursor = 0_u64;
        loop {
            let mut scan = cmd("SCAN");
            scan.arg(cursor)
                .arg("MATCH")
                .arg(self.keys.flows())
                .arg("COUNT")
                .arg(KEYS_AT_A_TIME);
            let (next, mut keys): (u64, Vec<String>) = scan.query_async(&mut c).await?;
            // A row's key may look alike further behind.
            keys.retain(|key| Keys::is_flow(key));
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
                let fields: HashFields = cmd("HGETALL").arg(key).query_async(&mut c).await?;
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

    /// Hops that events have been seen to take, sorted. Counts lag behind by the seconds in which workers collect them.
    pub async fn edges(&self) -> Result<Vec<Edge>, StoreError> {
        let mut pipe = redis::pipe();
        pipe.cmd("HGETALL")
            .arg(self.keys.of(EDGES))
            .cmd("HGETALL")
            .arg(self.keys.of(EDGES_AT));
        let (counts, times): (HashFields, HashFields) =
            pipe.query_async(&mut self.connection()).await?;
        Ok(flow::edges(counts, times))
    }

    /// Every function that `oncue apply` has let in, running or not, sorted by name.
    pub async fn functions(&self) -> Result<Vec<Registered>, StoreError> {
        let fields: HashFields = cmd("HGETALL")
            .arg(self.keys.of(FUNCTIONS))
            .query_async(&mut self.connection())
            .await?;
        Ok(flow::functions(fields))
    }

    /// Names of those functions, in no order.
    pub async fn registered(&self) -> Result<Vec<String>, StoreError> {
        Ok(cmd("HKEYS")
            .arg(self.keys.of(FUNCTIONS))
            .query_async(&mut self.connection())
            .await?)
    }

    /// Begins the ledger of a flow with its root event, before that is published: opens a step for each function that
    /// acts on its type. `false` where the ledger had begun already. One step, so that no worker finds half of it; if
    /// the root is not published after all, [`untrack`](Self::untrack) removes it.
    ///
    /// # Errors
    ///
    /// Redis is away or refuses; whether the ledger has begun is then not known, and tracking again
    /// says so.
    pub async fn track(&self, meta: &Meta, key: &str, keep: Duration) -> Result<bool, StoreError> {
        let mut c = self.connection();
        let listeners: Vec<String> = cmd("SMEMBERS")
            .arg(self.keys.listeners(&meta.ty))
            .query_async(&mut c)
            .await?;
        let ledger = self.keys.flow(&meta.flow);
        let now = event::now_ms();
        let mut pipe = redis::pipe();
        pipe.atomic();
        // Whether this field is new tells whether the ledger is.
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
        // A flow that nobody acts on is complete at once.
        if listeners.is_empty() {
            pipe.cmd("HSETNX").arg(&ledger).arg("end").arg(now).ignore();
        }
        expire(&mut pipe, &ledger, keep);
        let (new,): (bool,) = pipe.query_async(&mut c).await?;
        Ok(new)
    }

    /// Row of each of these steps of a tracked flow, an event and a function each; `None` for one without a row.
    pub async fn step_rows(
        &self,
        flow: &str,
        steps: &[(&str, &str)],
    ) -> Result<Vec<Option<StepRow>>, StoreError> {
        let mut rows = Vec::with_capacity(steps.len());
        for part in steps.chunks(ROWS_AT_A_TIME) {
            let mut pipe = redis::pipe();
            for (event, function) in part {
                let key = self.keys.flow_rows(function, flow);
                pipe.cmd("HGET").arg(key).arg(event);
            }
            let found: Vec<Option<String>> = pipe.query_async(&mut self.connection()).await?;
            rows.extend(
                found
                    .into_iter()
                    .map(|json| serde_json::from_str(&json?).ok()),
            );
        }
        Ok(rows)
    }

    /// Records in ledgers that runs begin or have failed, in one round trip. For those who look on: no step opens or
    /// closes by it.
    ///
    /// Each write puts the expiry of the ledger off by `keep`.
    pub async fn record_steps(&self, updates: &[StepUpdate]) -> Result<(), StoreError> {
        let mut pipe = redis::pipe();
        for update in updates {
            let key = match update.row_of {
                Some(function) => self.keys.flow_rows(function, &update.flow),
                None => self.keys.flow(&update.flow),
            };
            pipe.cmd("HSET")
                .arg(&key)
                .arg(&update.field)
                .arg(&update.text)
                .ignore();
            expire(&mut pipe, &key, update.keep);
        }
        Ok(pipe.exec_async(&mut self.connection()).await?)
    }

    /// Adds to the counts of hops to `function`: source, type, how many events. Not part of a commit: a worker
    /// collects them for some seconds, and those of one that is killed are lost.
    ///
    /// # Errors
    ///
    /// Redis is away or refuses: some of the counts may have been added.
    pub async fn count_hops(
        &self,
        hops: &[(String, String, u64)],
        function: &str,
    ) -> Result<(), StoreError> {
        if hops.is_empty() {
            return Ok(());
        }
        let mut pipe = redis::pipe();
        let now = event::now_ms();
        for (source, ty, count) in hops {
            let field = hop_field(source, ty, function);
            pipe.cmd("HINCRBY")
                .arg(self.keys.of(EDGES))
                .arg(&field)
                .arg(count)
                .ignore();
            pipe.cmd("HSET")
                .arg(self.keys.of(EDGES_AT))
                .arg(field)
                .arg(now)
                .ignore();
        }
        Ok(pipe.exec_async(&mut self.connection()).await?)
    }

    /// Registers a function that starts, with its manifest and the time: ledgers open a step for it from now on, for
    /// the types that it acts on and for no other.
    ///
    /// Called at each start, before the consumer is there; the last start wins, with its manifest.
    pub async fn register(&self, manifest: &Manifest) -> Result<(), StoreError> {
        let mut c = self.connection();
        let name = &manifest.name;
        let before: Option<String> = cmd("HGET")
            .arg(self.keys.of(FUNCTIONS))
            .arg(name)
            .query_async(&mut c)
            .await?;
        let before = before.and_then(|json| serde_json::from_str::<Manifest>(&json).ok());
        let now = Registered {
            manifest: manifest.clone(),
            seen: event::now_ms(),
        };
        let mut pipe = redis::pipe();
        pipe.atomic()
            .cmd("HSET")
            .arg(self.keys.of(FUNCTIONS))
            .arg(name)
            .arg(json!(now).to_string())
            .ignore();
        // Types that an earlier version acted on: flows must not wait for this function there.
        let before = before.iter().flat_map(|before| &before.triggers);
        for ty in before.filter(|ty| !manifest.triggers.contains(ty)) {
            pipe.cmd("SREM")
                .arg(self.keys.listeners(ty))
                .arg(name)
                .ignore();
        }
        // All timers of functions have one type, which does not tell whose a timer is.
        let triggers = manifest.triggers.iter();
        for ty in triggers.filter(|ty| *ty != TimerFired::TYPE) {
            pipe.cmd("SADD")
                .arg(self.keys.listeners(ty))
                .arg(name)
                .ignore();
        }
        if let Some(table) = manifest.owned_table() {
            pipe.cmd("HSET")
                .arg(self.keys.of(TABLES))
                .arg(table)
                .arg(name)
                .ignore();
        }
        // One that was removed may come back.
        pipe.cmd("PERSIST").arg(self.keys.marks(name)).ignore();
        Ok(pipe.exec_async(&mut c).await?)
    }

    /// Changes of a function, as far as `oncue apply` has noted them.
    pub async fn history(&self, function: &str) -> Result<History, StoreError> {
        let json: Option<String> = cmd("HGET")
            .arg(self.keys.of(HISTORY))
            .arg(function)
            .query_async(&mut self.connection())
            .await?;
        let Some(json) = json else {
            return Ok(History::default());
        };
        serde_json::from_str(&json)
            .map_err(|e| StoreError::refused(format!("history of {function}: {e}")))
    }

    /// Notes the changes of a function.
    pub async fn note(&self, function: &str, history: &History) -> Result<(), StoreError> {
        let json = json!(history).to_string();
        let mut note = cmd("HSET");
        note.arg(self.keys.of(HISTORY)).arg(function).arg(json);
        Ok(note.exec_async(&mut self.connection()).await?)
    }

    /// Forgets a function that is not wanted any more: its registration, its counts, the hops to it and from it, what a recovery gave
    /// it. Its seen-marks stay for `keep`, so that one that comes back meanwhile applies nothing twice to rows that stayed, and it
    /// stays on record whose those rows are; `None` forgets both too.
    pub async fn forget_function(
        &self,
        name: &str,
        keep: Option<Duration>,
    ) -> Result<(), StoreError> {
        let mut c = self.connection();
        let known: Option<String> = cmd("HGET")
            .arg(self.keys.of(FUNCTIONS))
            .arg(name)
            .query_async(&mut c)
            .await?;
        let known = known.and_then(|json| serde_json::from_str::<Manifest>(&json).ok());
        let mut pipe = redis::pipe();
        pipe.atomic();
        for ty in known.iter().flat_map(|known| &known.triggers) {
            let listeners = self.keys.listeners(ty);
            pipe.cmd("SREM").arg(listeners).arg(name).ignore();
        }
        for hash in [FUNCTIONS, HISTORY, RESTORING] {
            pipe.cmd("HDEL").arg(self.keys.of(hash)).arg(name).ignore();
        }
        let marks = self.keys.marks(name);
        let tables = self.keys.of(TABLES);
        if let Some(keep) = keep {
            pipe.cmd("EXPIRE").arg(marks).arg(keep.as_secs()).ignore();
            // One that was let in by an earlier version is not on record yet.
            if let Some(table) = known.as_ref().and_then(Manifest::owned_table) {
                pipe.cmd("HSETNX").arg(tables).arg(table).arg(name).ignore();
            }
        } else {
            pipe.cmd("UNLINK").arg(marks).ignore();
            let owners = self.table_owners().await?;
            for (table, _) in owners.iter().filter(|(_, owner)| *owner == name) {
                pipe.cmd("HDEL").arg(&tables).arg(table).ignore();
            }
        }
        let source = format!("/{name}");
        for edge in self.edges().await? {
            if edge.function == name || edge.source == source {
                let hop = hop_field(&edge.source, &edge.ty, &edge.function);
                for hash in [EDGES, EDGES_AT] {
                    pipe.cmd("HDEL").arg(self.keys.of(hash)).arg(&hop).ignore();
                }
            }
        }
        pipe.exec_async(&mut c).await?;
        self.forget_counts(name).await
    }

    /// Closes the steps that wait for an event which was announced in its flow's ledger and will not come.
    pub async fn close_steps(&self, meta: &Meta) -> Result<(), StoreError> {
        let mut call = cmd("FCALL");
        call.arg(self.function.replace("commit", "close_steps"))
            .arg(2)
            .arg(self.keys.flow(&meta.flow))
            .arg(self.keys.listeners(&meta.ty))
            .arg(&meta.id);
        Ok(call.exec_async(&mut self.connection()).await?)
    }

    /// Removes a ledger whose root event was not published after all.
    ///
    /// A ledger that is not there is removed already.
    pub async fn untrack(&self, flow: &str) -> Result<(), StoreError> {
        Ok(cmd("UNLINK")
            .arg(self.keys.flow(flow))
            .exec_async(&mut self.connection())
            .await?)
    }
}

/// Name of a hop in the hashes of edges.
fn hop_field(source: &str, ty: &str, function: &str) -> String {
    format!("{source}\t{ty}\t{function}")
}

/// Keeps a ledger for so long, and never for less than was said before: a delayed event may have to come yet.
fn expire(pipe: &mut redis::Pipeline, key: &str, keep: Duration) {
    for condition in ["NX", "GT"] {
        pipe.cmd("EXPIRE")
            .arg(key)
            .arg(keep.as_secs().max(1))
            .arg(condition)
            .ignore();
    }
}
