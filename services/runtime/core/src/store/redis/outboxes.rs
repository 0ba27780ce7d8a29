//! Outboxes in Redis: outputs that have still to be published, outputs that are kept for a while, and the lease of the
//! worker that deals with them.
//!
//! Each function has one index, `APP:u:FUNCTION`, a sorted set of outbox keys: the score is the commit time (Unix ms) while
//! something has to be published, and minus the time of publishing from then on. So the workers of a function need to see,
//! and may be let see, the outputs of no other.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use bytes::Bytes;
use redis::{Cmd, RedisError, cmd};

use super::wire::{EventReply, push_frame, read_frames};
use super::{Store, next_reply};
use crate::failpoint;
use crate::store::mark::{OutboxTag, SeenMark};
use crate::store::{Keys, Run, Status, StoreError, StoredOutputs, Unpublished, WaitingOutputs};
use oncue_proto::event;

/// Outboxes handled in one round trip.
///
/// Redis does nothing else meanwhile, and an outbox may hold a megabyte for each event of its
/// commit.
const OUTBOXES_AT_A_TIME: usize = 256;

/// Key, without the app, of the id of the NATS server that was told to end last.
const ENDED_SERVER: &str = "nats:ended";
/// Seconds for which one worker has the sole right to restore, unless it renews it.
///
/// Renewed for each page; a worker that dies in the middle leaves the rest to one that looks for the first time once the lease has run
/// out.
pub const RESTORE_SECONDS: u64 = 60;
/// Seconds for which a server counts as restored; longer than any runs without a look by a worker.
pub const RESTORED_SECONDS: u64 = 30 * 24 * 3600;

impl Store {
    /// Records that all messages of these outboxes are in their streams. With `keep` they stay until they are
    /// [removed](Self::remove_published), in case the streams lose them; else they go now.
    ///
    /// Idempotent: an outbox that is gone, or marked already, stays so.
    ///
    /// # Errors
    ///
    /// Redis is away or refuses. The outputs are in their streams and count as unpublished, so a
    /// relay publishes them once more.
    pub async fn published(&self, outbox_keys: &[String], keep: bool) -> Result<(), StoreError> {
        let mut pipe = redis::pipe();
        let now = event::now_ms();
        for key in outbox_keys {
            let index = self.keys.index_of(key);
            if keep {
                // Only one that is in the index: another worker may have dealt with it and removed it.
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

    /// Statuses of runs, by the replies of the script. A duplicate gets those of its outputs that have still to be
    /// published: its mark says which outbox they are in.
    pub(super) async fn with_outputs(
        &self,
        runs: &[Run],
        replies: Vec<Vec<EventReply>>,
    ) -> Result<Vec<Vec<Status>>, StoreError> {
        let unpublished = self.unpublished_outputs(runs, &replies).await?;
        let statuses = runs.iter().zip(replies).map(|(run, replies)| {
            let events = run.events.iter().zip(replies);
            let status = events.map(|(handled, reply)| match reply.status {
                Status::Duplicate(_) => {
                    Status::Duplicate(unpublished.get(&handled.mark.id).cloned())
                }
                other => other,
            });
            status.collect()
        });
        Ok(statuses.collect())
    }

    /// Outputs that have still to be published of the events that are duplicates, by the hash of their id: two round
    /// trips, for duplicates with outputs alone. The mark of an event says which partition its outbox is in, and the
    /// beginning of its name; the frame in it is found by the id.
    async fn unpublished_outputs(
        &self,
        runs: &[Run],
        replies: &[Vec<EventReply>],
    ) -> Result<HashMap<[u8; 16], Bytes>, StoreError> {
        let duplicates = replies
            .iter()
            .flatten()
            .filter(|reply| matches!(reply.status, Status::Duplicate(_)));
        let tags: BTreeSet<OutboxTag> = duplicates
            .filter_map(|reply| SeenMark::decode(&reply.detail).outbox)
            .collect();
        let Some(first) = runs.iter().flat_map(|run| &run.events).next() else {
            return Ok(HashMap::new());
        };
        if tags.is_empty() {
            return Ok(HashMap::new());
        }
        let prefixes: Vec<String> = tags
            .iter()
            .map(|tag| self.keys.outboxes(*tag, &first.mark.function))
            .collect();
        failpoint::point("duplicate.found");
        // Below 0 everything in an outbox has been published; absent it is done with or was never committed. No more
        // wait than the events in flight have made.
        let mut find = cmd("ZRANGEBYSCORE");
        find.arg(self.keys.outbox_index(&first.mark.function))
            .arg("(0")
            .arg("+inf");
        let listed: Vec<String> = find.query_async(&mut self.connection()).await?;
        let mut pipe = redis::pipe();
        for key in listed {
            if prefixes.iter().any(|prefix| key.starts_with(prefix)) {
                pipe.cmd("GET").arg(key);
            }
        }
        // An outbox that is not there is done with, or was lost a moment ago with the mark that names it.
        let function = &first.mark.function;
        let looked = self.ask_record(function, &mut pipe);
        let mut outboxes: Vec<Option<Bytes>> = pipe.query_async(&mut self.connection()).await?;
        let record = outboxes.pop().flatten();
        let record = record.map(|record| String::from_utf8_lossy(&record).into_owned());
        self.check_record(function, looked, record).await?;
        let frames = outboxes.into_iter().flatten().flat_map(read_frames);
        Ok(frames.map(|frame| (frame.id, frame.outputs)).collect())
    }

    /// Functions among `functions` with outputs that were committed before `before` (Unix ms) and are in no stream yet: their
    /// stream is full, without a leader or out of reach, and workers try again; or no worker runs.
    pub async fn waiting_outputs(
        &self,
        functions: &[&str],
        before: u64,
    ) -> Result<BTreeMap<String, WaitingOutputs>, StoreError> {
        let mut pipe = redis::pipe();
        for function in functions {
            let index = self.keys.outbox_index(function);
            pipe.cmd("ZCOUNT").arg(&index).arg("(0").arg(before);
            pipe.cmd("ZRANGEBYSCORE")
                .arg(index)
                .arg("(0")
                .arg(before)
                .arg("WITHSCORES")
                .arg("LIMIT")
                .arg(0)
                .arg(1);
        }
        let mut replies = self.query(&pipe).await?.into_iter();
        let mut waiting = BTreeMap::new();
        for function in functions {
            let commits: u64 =
                redis::from_redis_value(next_reply(&mut replies)?).map_err(RedisError::from)?;
            let first: Vec<(String, f64)> =
                redis::from_redis_value(next_reply(&mut replies)?).map_err(RedisError::from)?;
            if let Some((_, since)) = first.first() {
                let since = *since as u64;
                waiting.insert((*function).to_owned(), WaitingOutputs { commits, since });
            }
        }
        Ok(waiting)
    }

    /// Whether a function has outputs that were published and are kept, in case their stream loses them.
    pub async fn has_kept(&self, function: &str) -> Result<bool, StoreError> {
        let mut count = cmd("ZCOUNT");
        count
            .arg(self.keys.outbox_index(function))
            .arg("-inf")
            .arg("(0");
        let kept: u64 = count.query_async(&mut self.connection()).await?;
        Ok(kept > 0)
    }

    /// Leaves in an outbox only `left`, whose outputs have still to be published; `keep`, which are published, go to an
    /// outbox of their own that is kept for a while. Both at once, or neither. An outbox that is gone stays gone.
    ///
    /// # Errors
    ///
    /// Redis is away or refuses. The outbox is whole or split, never in between.
    pub async fn split(
        &self,
        key: &str,
        left: &[StoredOutputs],
        keep: &[StoredOutputs],
    ) -> Result<(), StoreError> {
        let mut pipe = redis::pipe();
        // `XX`: an outbox that another worker has dealt with must not come back.
        pipe.atomic()
            .cmd("SET")
            .arg(key)
            .arg(encode_frames(left))
            .arg("XX")
            .ignore();
        if !keep.is_empty() {
            // A name beside the outbox's own, of the same function.
            let kept = format!("{key}.{:08x}", fastrand::u32(..));
            pipe.cmd("SET").arg(&kept).arg(encode_frames(keep)).ignore();
            pipe.cmd("ZADD")
                .arg(self.keys.index_of(key))
                .arg(-(event::now_ms() as i64))
                .arg(kept)
                .ignore();
        }
        Ok(pipe.exec_async(&mut self.connection()).await?)
    }

    /// Kept outboxes of a function that were published at `since` (Unix ms) or later: at most 256, the last published
    /// first, from the `from`th on.
    pub async fn kept(
        &self,
        function: &str,
        since: u64,
        from: usize,
    ) -> Result<Vec<Unpublished>, StoreError> {
        let mut find = cmd("ZRANGEBYSCORE");
        find.arg(self.keys.outbox_index(function))
            .arg("-inf")
            // A score of 0 would be one that waits since 1970.
            .arg(-(since.max(1) as i64));
        find.arg("LIMIT").arg(from).arg(OUTBOXES_AT_A_TIME);
        self.outboxes(&find).await
    }

    /// Removes the kept outboxes of a function that were published before `before` (Unix ms), 256 at a time, so
    /// that Redis is never busy with them for long.
    pub async fn remove_published(&self, function: &str, before: u64) -> Result<(), StoreError> {
        // What was published after the copy of its stream was made is published again after a restore.
        if self.is_backed_up().await? {
            return Ok(());
        }
        let index = self.keys.outbox_index(function);
        loop {
            let mut connection = self.connection();
            let mut find = cmd("ZRANGEBYSCORE");
            // Scores below 0 are published ones, the oldest of which lie closest to 0.
            find.arg(&index)
                .arg(-(before as i64))
                .arg(-1)
                .arg("LIMIT")
                .arg(0)
                .arg(OUTBOXES_AT_A_TIME);
            let keys: Vec<String> = find.query_async(&mut connection).await?;
            if keys.is_empty() {
                return Ok(());
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

    /// Takes the lease `name` for some seconds; `false` where another process has it. For work that is
    /// done best by one process at a time and bears being done by two: a lease may run out under it.
    pub async fn lease(&self, name: &str, seconds: u64) -> Result<bool, StoreError> {
        let mut take = cmd("SET");
        // `NX` and `EX` in one command, so that no lease stays behind without an end.
        take.arg(lease_key(&self.keys, name))
            .arg(1)
            .arg("NX")
            .arg("EX")
            .arg(seconds);
        let taken: Option<String> = take.query_async(&mut self.connection()).await?;
        Ok(taken.is_some())
    }

    /// Takes a lease that is free, or goes on with it where `owner` has it; `false` where another one has.
    pub async fn lead(&self, name: &str, owner: &str, seconds: u64) -> Result<bool, StoreError> {
        let key = lease_key(&self.keys, name);
        let mut take = cmd("SET");
        take.arg(&key).arg(owner).arg("NX").arg("EX").arg(seconds);
        let taken: Option<String> = take.query_async(&mut self.connection()).await?;
        if taken.is_some() {
            return Ok(true);
        }
        let mut look = cmd("GET");
        look.arg(&key);
        let has: Option<String> = look.query_async(&mut self.connection()).await?;
        let is_ours = has.as_deref() == Some(owner);
        if is_ours {
            let mut go_on = cmd("EXPIRE");
            go_on.arg(&key).arg(seconds);
            go_on.exec_async(&mut self.connection()).await?;
        }
        Ok(is_ours)
    }

    /// Name of the lease of who publishes again what a NATS server may have lost of a function's outputs; it stays once
    /// that is done.
    pub fn restored(function: &str, server: &str) -> String {
        format!("restored:{function}:{server}")
    }

    /// Whether what a NATS server may have lost of a function's outputs has been published again.
    pub async fn is_restored(&self, function: &str, server: &str) -> Result<bool, StoreError> {
        let mut left = cmd("TTL");
        left.arg(lease_key(&self.keys, &Self::restored(function, server)));
        let left: i64 = left.query_async(&mut self.connection()).await?;
        // While somebody is at it the lease is a short one.
        Ok(left > 2 * RESTORE_SECONDS as i64)
    }

    /// Notes the id of the NATS server that is about to end, as half of what says that it did so in order.
    pub async fn set_ended_server(&self, server: &str) -> Result<(), StoreError> {
        let mut set = cmd("SET");
        set.arg(self.keys.of(ENDED_SERVER)).arg(server);
        Ok(set.exec_async(&mut self.connection()).await?)
    }

    /// Takes that note away, and returns what it said.
    pub async fn take_ended_server(&self) -> Result<Option<String>, StoreError> {
        let mut take = cmd("GETDEL");
        take.arg(self.keys.of(ENDED_SERVER));
        Ok(take.query_async(&mut self.connection()).await?)
    }

    /// Takes it that a NATS server has lost nothing of a function's outputs: the one before it ended in order.
    pub async fn count_as_restored(&self, function: &str, server: &str) -> Result<(), StoreError> {
        self.lease(&Self::restored(function, server), RESTORED_SECONDS)
            .await
            .map(drop)
    }

    /// Whether a worker of a function is wanted although no event waits for it: it has outputs that were committed before
    /// `before` (Unix ms) and not published, or some that this NATS server may have lost.
    pub async fn is_left_behind(
        &self,
        function: &str,
        server: &str,
        before: u64,
    ) -> Result<bool, StoreError> {
        let waiting = self.waiting_outputs(&[function], before).await?;
        if !waiting.is_empty() {
            return Ok(true);
        }
        let restored: bool = cmd("EXISTS")
            .arg(lease_key(&self.keys, &Self::restored(function, server)))
            .query_async(&mut self.connection())
            .await?;
        Ok(!restored && self.has_kept(function).await?)
    }

    /// Extends a lease that was taken to `seconds` from now on; does nothing for one that has run out.
    pub async fn renew(&self, name: &str, seconds: u64) -> Result<(), StoreError> {
        Ok(cmd("EXPIRE")
            .arg(lease_key(&self.keys, name))
            .arg(seconds)
            .exec_async(&mut self.connection())
            .await?)
    }

    /// Outboxes of a function that were committed before `before` (Unix ms) and not published since, the oldest first: at
    /// most 256, from the `from`th on. Their worker was killed, or lost its connection, between commit and publishing.
    pub async fn unpublished(
        &self,
        function: &str,
        before: u64,
        from: usize,
    ) -> Result<Vec<Unpublished>, StoreError> {
        let mut find = cmd("ZRANGEBYSCORE");
        // From above 0: everything below is published.
        find.arg(self.keys.outbox_index(function))
            .arg("(0")
            .arg(before);
        find.arg("LIMIT").arg(from).arg(OUTBOXES_AT_A_TIME);
        self.outboxes(&find).await
    }

    /// Outboxes that the entries of the index point to which `find` answers with.
    async fn outboxes(&self, find: &Cmd) -> Result<Vec<Unpublished>, StoreError> {
        let keys: Vec<String> = find.query_async(&mut self.connection()).await?;
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
        let read = pairs.map(|(outbox_key, outbox)| Unpublished {
            outbox_key,
            frames: read_frames(outbox.unwrap_or_default()),
        });
        Ok(read.collect())
    }
}

/// Key of a lease.
fn lease_key(keys: &Keys, name: &str) -> String {
    keys.of(format_args!("lease:{name}"))
}

/// Frames one after another, as an outbox holds them.
fn encode_frames(frames: &[StoredOutputs]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for frame in frames {
        push_frame(&frame.id, &frame.outputs, &mut bytes);
    }
    bytes
}
