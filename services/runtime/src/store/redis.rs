//! The store on Redis, and the only place that names its client.

mod ledger;
mod outboxes;
mod wire;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::{Cmd, Pipeline, RedisError, Value, cmd};
use tokio::sync::watch;

use self::wire::{Args, push_event, row, status, stored};
use super::{Ask, Found, GRACE_MS, Mark, Regression, Row, Run, SKEW_MS, Settled, Shown, Status, StoreError, row_key};
use crate::event::{self, PARTITIONS};
use crate::fault::{self, Sabotage};

const SOURCE: &str = include_str!("commit.lua");
/// Counts commits: `n`, and `at`, the time of the last one.
const COMMITS: &str = "oncue:commits";
/// Stands once Redis was seen to have gone back in time; nobody works on it until `oncue recover redis` takes it away.
const REGRESSED: &str = "oncue:regressed";
const OLDEST_REDIS: (u64, u64) = (7, 0);
const OLDEST_VALKEY: (u64, u64) = (7, 2);
/// Longer than any stall of a healthy Redis (fsync, fork); a time-out only means "unknown, try again".
const TIMEOUT: Duration = Duration::from_secs(5);

/// A connection to Redis; cheap to clone, reconnects by itself.
#[derive(Clone)]
pub struct RedisStore {
    connection: ConnectionManager,
    /// Named after the library's content, so that two versions of Oncue can share a Redis while one replaces the other.
    function: Arc<str>,
    library: Arc<str>,
    /// Most commits seen in an answer; fewer later mean that Redis has lost some.
    commits: Arc<AtomicU64>,
    regressed: Arc<watch::Sender<Option<String>>>,
}

impl From<RedisError> for StoreError {
    fn from(e: RedisError) -> Self {
        let busy =
            ["BUSY", "LOADING", "READONLY", "OOM", "MISCONF", "TRYAGAIN", "CLUSTERDOWN", "MASTERDOWN", "NOREPLICAS"];
        let away = e.is_io_error()
            || e.is_timeout()
            || e.is_connection_dropped()
            || e.code().is_some_and(|code| busy.contains(&code))
            // Of an error inside a pipeline the client keeps only the text.
            || e.to_string().split(|c: char| !c.is_ascii_uppercase()).any(|word| busy.contains(&word));
        Self { message: format!("Redis: {e}"), away }
    }
}

impl RedisStore {
    /// Connects, refuses what cannot keep the promise (too old, evicting, another partition count), and loads the library.
    pub async fn connect(url: &str) -> Result<Self, StoreError> {
        let store = Self::look(url).await?;
        store.check().await?;
        store.check_partitions().await?;
        if let Some(regression) = store.regression().await? {
            return Err(StoreError::refused(regression.to_string()));
        }
        store.load().await?;
        Ok(store)
    }

    /// Connects and changes nothing: for those who only look.
    pub async fn look(url: &str) -> Result<Self, StoreError> {
        let place = crate::bus::without_password(url);
        let client =
            redis::Client::open(url).map_err(|e| StoreError::refused(format!("{place} is no Redis URL: {e}")))?;
        let config = ConnectionManagerConfig::new()
            .set_connection_timeout(Some(Duration::from_secs(2)))
            .set_response_timeout(Some(TIMEOUT))
            .set_number_of_retries(3)
            .set_max_delay(Duration::from_secs(1));
        let connection = ConnectionManager::new_with_config(client, config).await;
        let connection = connection.map_err(|e| StoreError::refused(format!("cannot reach Redis at {place}: {e}")))?;
        let source = source();
        let version =
            event::hash(&[source.as_bytes()]).iter().take(4).fold(String::new(), |v, b| v + &format!("{b:02x}"));
        Ok(Self {
            connection,
            function: format!("oncue_commit_{version}").into(),
            library: source.replace("LIBRARY", &version).into(),
            commits: Arc::default(),
            regressed: Arc::new(watch::Sender::new(None)),
        })
    }

    /// Refuses a server that cannot keep the promise: too old, or free to evict.
    pub async fn check(&self) -> Result<(), StoreError> {
        check_version(&self.info("server").await?)?;
        check_eviction(&self.info("memory").await?)
    }

    /// The partition count this Redis was laid out with; `None` for one no worker has used yet.
    pub async fn partitions(&self) -> Result<Option<u32>, StoreError> {
        Ok(cmd("GET").arg("oncue:partitions").query_async(&mut self.connection.clone()).await?)
    }

    /// Name of the function library in this version.
    pub fn library_name(&self) -> String {
        self.function.replace("commit_", "")
    }

    /// One section of `INFO`.
    pub async fn info(&self, section: &str) -> Result<String, StoreError> {
        Ok(cmd("INFO").arg(section).query_async(&mut self.connection.clone()).await?)
    }

    /// One setting, or nothing where the server does not let us ask.
    pub async fn setting(&self, name: &str) -> Option<String> {
        let pair: Vec<String> =
            cmd("CONFIG").arg("GET").arg(name).query_async(&mut self.connection.clone()).await.ok()?;
        pair.into_iter().nth(1)
    }

    /// Whether Redis answers.
    pub async fn ping(&self) -> Result<(), StoreError> {
        Ok(cmd("PING").exec_async(&mut self.connection.clone()).await?)
    }

    /// Whether the function library is there in this version.
    pub async fn is_loaded(&self) -> Result<bool, StoreError> {
        let list: Vec<Value> = cmd("FUNCTION")
            .arg("LIST")
            .arg("LIBRARYNAME")
            .arg(self.library_name())
            .query_async(&mut self.connection.clone())
            .await?;
        Ok(!list.is_empty())
    }

    /// Loads the function library, replacing the same version if it is there.
    pub async fn load(&self) -> Result<(), StoreError> {
        let library: &str = &self.library;
        let loaded =
            cmd("FUNCTION").arg("LOAD").arg("REPLACE").arg(library).exec_async(&mut self.connection.clone()).await;
        loaded.map_err(|e| StoreError::refused(format!("Redis does not take the function library: {e}")))
    }

    /// What was seen when Redis was found to have gone back in time, if it was.
    pub async fn regression(&self) -> Result<Option<Regression>, StoreError> {
        let text: Option<String> = cmd("GET").arg(REGRESSED).query_async(&mut self.connection.clone()).await?;
        Ok(text.and_then(|text| serde_json::from_str(&text).ok()))
    }

    /// The lost effects are being restored: workers may start again.
    pub async fn clear_regression(&self) -> Result<(), StoreError> {
        Ok(cmd("DEL").arg(REGRESSED).exec_async(&mut self.connection.clone()).await?)
    }

    /// Turns to `Some`, with its reason, once Redis was found to have gone back in time.
    pub fn regressed(&self) -> watch::Receiver<Option<String>> {
        self.regressed.subscribe()
    }

    /// A count of commits lower than one that was answered before: a restart from an old file, a failover to a replica
    /// that was behind. What was committed then is lost, with its seen-marks, while its events are acked.
    async fn watch_for_regression(&self, replies: &[Bytes]) {
        let number = |at: usize| replies.get(at).and_then(|n| std::str::from_utf8(n).ok()?.parse::<u64>().ok());
        let (Some(found), Some(at)) = (number(0), number(1)) else { return };
        let seen = self.commits.fetch_max(found, Ordering::Relaxed);
        if found > seen || self.regressed.borrow().is_some() {
            return;
        }
        let regression = Regression { seen, found, since: at };
        let json = serde_json::json!(regression).to_string();
        let set = cmd("SET").arg(REGRESSED).arg(json).arg("NX").exec_async(&mut self.connection.clone()).await;
        if let Err(e) = set {
            tracing::error!(error = %e, "cannot record that Redis went back in time");
        }
        self.regressed.send_replace(Some(regression.to_string()));
    }

    async fn check_partitions(&self) -> Result<(), StoreError> {
        let mut pipe = redis::pipe();
        pipe.cmd("SET").arg("oncue:partitions").arg(PARTITIONS).arg("NX").ignore().cmd("GET").arg("oncue:partitions");
        let (found,): (u32,) = pipe.query_async(&mut self.connection.clone()).await?;
        if found == PARTITIONS {
            return Ok(());
        }
        Err(StoreError::refused(format!(
            "this Redis was laid out with {found} partitions, this program has {PARTITIONS}; the two cannot share state"
        )))
    }

    pub(super) async fn read(&self, asks: &[Ask]) -> Result<Vec<Found>, StoreError> {
        let mut pipe = redis::pipe();
        for ask in asks {
            if let Some(row) = &ask.row {
                pipe.cmd("HGETALL").arg(row_key(row.table, &row.key));
            }
            for mark in &ask.marks {
                for key in mark.seen_keys() {
                    pipe.cmd("HGET").arg(key).arg(&mark.id);
                }
            }
        }
        let mut replies = self.query(&pipe).await?.into_iter();
        let mut next = || replies.next().ok_or_else(|| StoreError::refused("Redis: a reply is missing"));
        let mut found = Vec::with_capacity(asks.len());
        for ask in asks {
            let row = if ask.row.is_some() { row(next()?)? } else { Row::default() };
            let mut seen = Vec::with_capacity(ask.marks.len());
            for mark in &ask.marks {
                let mut known = false;
                for _ in mark.seen_keys() {
                    known |= matches!(next()?, Value::BulkString(found) if mark.is_settled_by(&found));
                }
                seen.push(known);
            }
            found.push(Found { row, seen });
        }
        Ok(found)
    }

    pub(super) async fn settled(&self, marks: &[Mark]) -> Result<Vec<Option<Settled>>, StoreError> {
        let mut pipe = redis::pipe();
        for mark in marks {
            for key in mark.seen_keys() {
                pipe.cmd("HGET").arg(key).arg(&mark.id);
            }
        }
        let mut replies = self.query(&pipe).await?.into_iter();
        let kind = |reply: Value| match reply {
            Value::BulkString(mark) => Some(if mark.first() == Some(&b'd') { Settled::Dead } else { Settled::Applied }),
            _ => None,
        };
        let mut first = |mark: &Mark| {
            let found: Vec<Settled> = replies.by_ref().take(mark.seen_keys().len()).filter_map(kind).collect();
            // A redriven event may have left its dead mark in another bucket.
            found.iter().copied().find(|settled| *settled == Settled::Applied).or(found.first().copied())
        };
        Ok(marks.iter().map(&mut first).collect())
    }

    async fn query(&self, pipe: &Pipeline) -> Result<Vec<Value>, StoreError> {
        if pipe.is_empty() {
            return Ok(Vec::new());
        }
        Ok(pipe.query_async(&mut self.connection.clone()).await?)
    }

    pub(super) async fn commit(&self, runs: &[Run]) -> Result<Vec<Vec<Status>>, StoreError> {
        let call = self.commit_call(runs);
        let mut connection = self.connection.clone();
        let replies: Vec<Bytes> = match call.query_async(&mut connection).await {
            // Redis was emptied or replaced: the code goes in again, what the data lost is the fence's business.
            Err(e) if e.to_string().contains("Function not found") => {
                self.load().await?;
                call.query_async(&mut connection).await?
            }
            other => other?,
        };
        self.watch_for_regression(&replies).await;
        let mut replies = replies[2.min(replies.len())..].chunks_exact(2);
        let statuses = runs.iter().map(|run| run.events.iter().filter_map(|_| replies.next().map(status)).collect());
        Ok(statuses.collect())
    }

    /// Arguments in the order `commit.lua` documents.
    fn commit_call(&self, runs: &[Run]) -> Cmd {
        let (mut keys, mut args) = (vec![COMMITS.to_owned()], Args::default());
        let horizon = runs.iter().flat_map(|run| &run.events).map(|e| e.mark.horizon).max().unwrap_or_default();
        args.number(horizon).number(GRACE_MS).number(SKEW_MS).number(runs.len() as u64);
        let now = event::now_ms();
        for run in runs {
            match &run.row {
                Some(row) => {
                    keys.push(row_key(row.key.table, &row.key.key));
                    args.number(row.version).number(row.set.len() as u64);
                    for (field, value) in &row.set {
                        args.bytes(stored(field).as_bytes()).bytes(value);
                    }
                    args.number(row.del.len() as u64);
                    for field in &row.del {
                        args.bytes(stored(field).as_bytes());
                    }
                }
                None => {
                    args.bytes("").number(0).number(0);
                }
            }
            args.number(run.events.len() as u64);
            for handled in &run.events {
                push_event(handled, now, &mut keys, &mut args);
            }
        }
        let mut call = cmd("FCALL");
        call.arg(&*self.function).arg(keys.len()).arg(&keys);
        for arg in &args.0 {
            call.arg(arg);
        }
        call
    }

    pub(super) async fn started(&self, marks: &[Mark]) -> Result<Vec<u32>, StoreError> {
        let mut pipe = redis::pipe();
        for mark in marks {
            let key = mark.runs_key();
            pipe.cmd("INCR").arg(&key).cmd("EXPIRE").arg(key).arg(mark.horizon / 1000 + 1).ignore();
        }
        Ok(pipe.query_async(&mut self.connection.clone()).await?)
    }

    pub(super) async fn show(&self, table: &str, key: &str) -> Result<Option<Shown>, StoreError> {
        let key = row_key(table, key);
        let mut c = self.connection.clone();
        let kind: String = cmd("TYPE").arg(&key).query_async(&mut c).await?;
        Ok(match kind.as_str() {
            "hash" => Some(Shown::Row(row(cmd("HGETALL").arg(&key).query_async(&mut c).await?)?)),
            "set" => Some(Shown::Members(cmd("SMEMBERS").arg(&key).query_async(&mut c).await?)),
            "zset" => {
                let pairs: Vec<(String, f64)> =
                    cmd("ZREVRANGE").arg(&key).arg(0).arg(-1).arg("WITHSCORES").query_async(&mut c).await?;
                Some(Shown::Ranking(pairs))
            }
            "string" => Some(Shown::Count(cmd("PFCOUNT").arg(&key).query_async(&mut c).await?)),
            _ => None,
        })
    }
}

/// The code of the library; a broken twin of it where a test asks for one.
fn source() -> String {
    let mut source = SOURCE.to_owned();
    if fault::sabotaged(Sabotage::NoSeenMarks) {
        source = source.replace("    if mark then\n", "    if false then\n");
    }
    if fault::sabotaged(Sabotage::NoFence) {
        source = source.replace("  if now > e.time + horizon then", "  if false then");
    }
    source
}

fn info_field<'i>(info: &'i str, name: &str) -> Option<&'i str> {
    info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
}

fn check_version(info: &str) -> Result<(), StoreError> {
    let (name, version, oldest) = match info_field(info, "valkey_version") {
        Some(version) => ("Valkey", version, OLDEST_VALKEY),
        None => ("Redis", info_field(info, "redis_version").unwrap_or("0"), OLDEST_REDIS),
    };
    let mut parts = version.split('.').map(|part| part.parse().unwrap_or(0));
    if (parts.next().unwrap_or(0), parts.next().unwrap_or(0)) >= oldest {
        return Ok(());
    }
    Err(StoreError::refused(format!("{name} is {version}; Oncue needs {}.{} or later (functions)", oldest.0, oldest.1)))
}

/// An evicted seen-mark is an event applied twice, an evicted outbox one that never follows.
fn check_eviction(info: &str) -> Result<(), StoreError> {
    match info_field(info, "maxmemory_policy") {
        None | Some("noeviction") => Ok(()),
        Some(policy) => Err(StoreError::refused(format!(
            "Redis may evict keys (maxmemory-policy {policy}), which would lose events; set noeviction"
        ))),
    }
}
