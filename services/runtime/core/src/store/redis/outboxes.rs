//! Outboxes in Redis: what still has to be published, what is kept for a while, and the right to deal with it.

use std::collections::BTreeMap;
use std::ops::Range;

use bytes::Bytes;
use redis::{Pipeline, cmd};

use super::Store;
use super::wire::{push_frame, read_frames};
use crate::store::mark::{OutboxName, tag_of};
use crate::store::{Run, Status, StoreError, StoredOutputs, Unpublished};
use oncue_proto::event;

/// Outboxes handled at a time.
const STEP: usize = 256;

impl Store {
    /// Outboxes whose messages are all in their streams.
    /// With `keep` they stay until they are [forgotten](Self::forget), in case the streams lose them.
    pub async fn published(&self, outbox_keys: &[String], keep: bool) -> Result<(), StoreError> {
        let mut pipe = redis::pipe();
        let now = event::now_ms();
        for key in outbox_keys {
            let index = format!("{}:u", tag_of(key));
            if keep {
                pipe.cmd("ZADD")
                    .arg(index)
                    .arg("XX")
                    .arg(-(now as i64))
                    .arg(key);
            } else {
                pipe.cmd("UNLINK").arg(key).cmd("ZREM").arg(index).arg(key);
            }
        }
        self.query(&pipe).await.map(|_| ())
    }

    /// Gives duplicates what of their outputs has still to be published: each mark says where that stands.
    pub async fn with_outputs(
        &self,
        runs: &[Run],
        said: Vec<Vec<(Status, Bytes)>>,
    ) -> Result<Vec<Vec<Status>>, StoreError> {
        let duplicate = |said: &(Status, Bytes)| matches!(said.0, Status::Duplicate(_));
        let names = said
            .iter()
            .flatten()
            .filter(|said| duplicate(said))
            .filter_map(|said| OutboxName::of_mark(&said.1));
        let mut left: BTreeMap<OutboxName, Vec<StoredOutputs>> =
            names.map(|name| (name, Vec::new())).collect();
        if !left.is_empty() {
            let function = runs
                .iter()
                .flat_map(|run| &run.events)
                .next()
                .map_or("", |handled| handled.mark.function);
            let mut pipe = redis::pipe();
            for name in left.keys() {
                let key = name.key(function);
                pipe.cmd("ZSCORE")
                    .arg(name.index())
                    .arg(&key)
                    .cmd("GET")
                    .arg(key);
            }
            let answers: Vec<(Option<f64>, Option<Bytes>)> =
                pipe.query_async(&mut self.connection()).await?;
            for (frames, (committed, outbox)) in left.values_mut().zip(answers) {
                if committed.is_some_and(|at| at > 0.0) {
                    *frames = read_frames(outbox.unwrap_or_default());
                }
            }
        }
        let outputs = |detail: &Bytes, id: &[u8; 16]| {
            let frames = left.get(&OutboxName::of_mark(detail)?)?;
            frames
                .iter()
                .find(|frame| frame.id == *id)
                .map(|frame| frame.outputs.clone())
        };
        let whole = runs.iter().zip(said).map(|(run, said)| {
            let events = run.events.iter().zip(said);
            let status = events.map(|(handled, (status, detail))| match status {
                Status::Duplicate(_) => Status::Duplicate(outputs(&detail, &handled.mark.id)),
                other => other,
            });
            status.collect()
        });
        Ok(whole.collect())
    }

    /// Of an outbox some events' outputs are published and `left` are not: those alone stay to be published.
    pub async fn split(
        &self,
        key: &str,
        left: &[StoredOutputs],
        keep: &[StoredOutputs],
    ) -> Result<(), StoreError> {
        let bytes = |frames: &[StoredOutputs]| {
            let mut bytes = Vec::new();
            for frame in frames {
                push_frame(&frame.id, &frame.outputs, &mut bytes);
            }
            bytes
        };
        let mut pipe = redis::pipe();
        pipe.atomic()
            .cmd("SET")
            .arg(key)
            .arg(bytes(left))
            .arg("XX")
            .ignore();
        if !keep.is_empty() {
            let kept = format!("{key}.{:08x}", fastrand::u32(..));
            pipe.cmd("SET").arg(&kept).arg(bytes(keep)).ignore();
            pipe.cmd("ZADD")
                .arg(format!("{}:u", tag_of(key)))
                .arg(-(event::now_ms() as i64))
                .arg(kept)
                .ignore();
        }
        Ok(pipe.exec_async(&mut self.connection()).await?)
    }

    /// Outboxes of a partition published since `since` (Unix ms), a few hundred at a time from the `from`th on.
    pub async fn kept(
        &self,
        partition: u32,
        since: u64,
        from: usize,
    ) -> Result<Vec<Unpublished>, StoreError> {
        let mut pipe = redis::pipe();
        pipe.cmd("ZRANGEBYSCORE")
            .arg(format!("{{p{partition}}}:u"))
            .arg("-inf")
            .arg(-(since as i64));
        pipe.arg("LIMIT").arg(from).arg(STEP);
        self.outboxes(&pipe).await
    }

    /// Those published before `before` (Unix ms) go for good.
    pub async fn forget(&self, partitions: Range<u32>, before: u64) -> Result<(), StoreError> {
        for partition in partitions {
            let index = format!("{{p{partition}}}:u");
            loop {
                let mut connection = self.connection();
                let mut find = cmd("ZRANGEBYSCORE");
                find.arg(&index)
                    .arg(-(before as i64))
                    .arg(-1)
                    .arg("LIMIT")
                    .arg(0)
                    .arg(STEP);
                let keys: Vec<String> = find.query_async(&mut connection).await?;
                if keys.is_empty() {
                    break;
                }
                let mut pipe = redis::pipe();
                pipe.cmd("UNLINK")
                    .arg(&keys)
                    .ignore()
                    .cmd("ZREM")
                    .arg(&index)
                    .arg(&keys)
                    .ignore();
                pipe.exec_async(&mut connection).await?;
            }
        }
        Ok(())
    }

    /// Takes a name for some seconds, if nobody has it.
    pub async fn lease(&self, name: &str, seconds: u64) -> Result<bool, StoreError> {
        let mut take = cmd("SET");
        take.arg(name).arg(1).arg("NX").arg("EX").arg(seconds);
        let taken: Option<String> = take.query_async(&mut self.connection()).await?;
        Ok(taken.is_some())
    }

    /// Keeps a name that was taken for `seconds` from now on.
    pub async fn renew(&self, name: &str, seconds: u64) -> Result<(), StoreError> {
        Ok(cmd("EXPIRE")
            .arg(name)
            .arg(seconds)
            .exec_async(&mut self.connection())
            .await?)
    }

    /// Outboxes of some partitions committed before `before` (Unix ms) and not published since.
    pub async fn unpublished(
        &self,
        partitions: Range<u32>,
        before: u64,
    ) -> Result<Vec<Unpublished>, StoreError> {
        let mut pipe = redis::pipe();
        for partition in partitions {
            let index = format!("{{p{partition}}}:u");
            pipe.cmd("ZRANGEBYSCORE")
                .arg(index)
                .arg("(0")
                .arg(before)
                .arg("LIMIT")
                .arg(0)
                .arg(STEP);
        }
        self.outboxes(&pipe).await
    }

    /// What the found index entries point to.
    async fn outboxes(&self, find: &Pipeline) -> Result<Vec<Unpublished>, StoreError> {
        let lists: Vec<Vec<String>> = find.query_async(&mut self.connection()).await?;
        let keys: Vec<String> = lists.into_iter().flatten().collect();
        let mut pipe = redis::pipe();
        for key in &keys {
            pipe.cmd("GET").arg(key);
        }
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        let outboxes: Vec<Option<Bytes>> = pipe.query_async(&mut self.connection()).await?;
        // An index entry without its outbox was published and half marked: an empty outbox finishes the marking.
        let pairs = keys.into_iter().zip(outboxes);
        let read = |(outbox_key, outbox): (String, Option<Bytes>)| Unpublished {
            outbox_key,
            frames: read_frames(outbox.unwrap_or_default()),
        };
        Ok(pairs.map(read).collect())
    }
}
