//! Outboxes in Redis: what still has to be published, what is kept for a while, and the right to deal with it.

use std::ops::Range;

use bytes::Bytes;
use redis::{Pipeline, cmd};

use super::RedisStore;
use crate::event;
use crate::store::{StoreError, Unpublished, tag_of};

/// Outboxes handled at a time.
const STEP: usize = 256;

impl RedisStore {
    pub(in crate::store) async fn published(&self, outbox_keys: &[String], keep: bool) -> Result<(), StoreError> {
        let mut pipe = redis::pipe();
        let now = event::now_ms();
        for key in outbox_keys {
            let index = format!("{}:u", tag_of(key));
            if keep {
                pipe.cmd("ZADD").arg(index).arg("XX").arg(-(now as i64)).arg(key);
            } else {
                pipe.cmd("UNLINK").arg(key).cmd("ZREM").arg(index).arg(key);
            }
        }
        self.query(&pipe).await.map(|_| ())
    }

    pub(in crate::store) async fn kept(
        &self,
        partition: u32,
        since: u64,
        from: usize,
    ) -> Result<Vec<Unpublished>, StoreError> {
        let mut pipe = redis::pipe();
        pipe.cmd("ZRANGEBYSCORE").arg(format!("{{p{partition}}}:u")).arg("-inf").arg(-(since as i64));
        pipe.arg("LIMIT").arg(from).arg(STEP);
        self.outboxes(&pipe).await
    }

    /// Those published before `before` (Unix ms) go for good.
    pub(in crate::store) async fn forget(&self, partitions: Range<u32>, before: u64) -> Result<(), StoreError> {
        for partition in partitions {
            let index = format!("{{p{partition}}}:u");
            loop {
                let mut connection = self.connection.clone();
                let mut find = cmd("ZRANGEBYSCORE");
                find.arg(&index).arg(-(before as i64)).arg(-1).arg("LIMIT").arg(0).arg(STEP);
                let keys: Vec<String> = find.query_async(&mut connection).await?;
                if keys.is_empty() {
                    break;
                }
                let mut pipe = redis::pipe();
                pipe.cmd("UNLINK").arg(&keys).ignore().cmd("ZREM").arg(&index).arg(&keys).ignore();
                pipe.exec_async(&mut connection).await?;
            }
        }
        Ok(())
    }

    /// Takes a name for some seconds, if nobody has it.
    pub(in crate::store) async fn lease(&self, name: &str, seconds: u64) -> Result<bool, StoreError> {
        let mut take = cmd("SET");
        take.arg(name).arg(1).arg("NX").arg("EX").arg(seconds);
        let taken: Option<String> = take.query_async(&mut self.connection.clone()).await?;
        Ok(taken.is_some())
    }

    /// Keeps a name that was taken for `seconds` from now on.
    pub(in crate::store) async fn renew(&self, name: &str, seconds: u64) -> Result<(), StoreError> {
        Ok(cmd("EXPIRE").arg(name).arg(seconds).exec_async(&mut self.connection.clone()).await?)
    }

    pub(in crate::store) async fn unpublished(
        &self,
        partitions: Range<u32>,
        before: u64,
    ) -> Result<Vec<Unpublished>, StoreError> {
        let mut pipe = redis::pipe();
        for partition in partitions {
            let index = format!("{{p{partition}}}:u");
            pipe.cmd("ZRANGEBYSCORE").arg(index).arg("(0").arg(before).arg("LIMIT").arg(0).arg(STEP);
        }
        self.outboxes(&pipe).await
    }

    /// What the found index entries point to.
    async fn outboxes(&self, find: &Pipeline) -> Result<Vec<Unpublished>, StoreError> {
        let lists: Vec<Vec<String>> = find.query_async(&mut self.connection.clone()).await?;
        let keys: Vec<String> = lists.into_iter().flatten().collect();
        let mut pipe = redis::pipe();
        for key in &keys {
            pipe.cmd("GET").arg(key);
        }
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        let outboxes: Vec<Option<Bytes>> = pipe.query_async(&mut self.connection.clone()).await?;
        // An index entry without its outbox was published and half marked: an empty outbox finishes the marking.
        let pairs = keys.into_iter().zip(outboxes);
        Ok(pairs.map(|(outbox_key, outbox)| Unpublished { outbox_key, outbox: outbox.unwrap_or_default() }).collect())
    }
}
