//! The store on Redis, and the only place that names its client.

mod ledger;
mod connection;
mod outboxes;
mod places;
mod regress;
mod wire;

use std::sync::Arc;

use redis::aio::ConnectionManager;
use redis::io::tcp::TcpSettings;
use redis::{IntoConnectionInfo as _, Pipeline, RedisError, Value, cmd};
use tokio::sync::watch;

use self::connection::Connection;
use self::regress::Own;
use self::wire::{commit_call, row};
use super::mark::OutboxName;
use super::{
    Committed, Mark, MarkState, Read, ReadResult, Row, Run, StateValue, Status, StoreError, row_key,
};
use crate::config::ServerUrl;
use crate::failpoint::{self, Sabotage};
use oncue_proto::event::{self, PARTITIONS};

const SOURCE: &str = include_str!("commit.lua");
const OLDEST_REDIS: (u64, u64) = (7, 0);
const OLDEST_VALKEY: (u64, u64) = (7, 2);

/// A connection to Redis; cheap to clone, reconnects by itself.
#[derive(Clone)]
pub struct Store {
    connection: Arc<Connection>,
    /// Named after the library's content, so that two versions of Oncue can share a Redis while one replaces the other.
    function: Arc<str>,
    library: Arc<str>,
    own: Arc<Own>,
    regressed: Arc<watch::Sender<Option<String>>>,
}

impl From<RedisError> for StoreError {
    fn from(e: RedisError) -> Self {
        let busy = [
            "BUSY",
            "LOADING",
            "READONLY",
            "OOM",
            "MISCONF",
            "TRYAGAIN",
            "CLUSTERDOWN",
            "MASTERDOWN",
            "NOREPLICAS",
        ];
        let away = e.is_io_error()
            || e.is_timeout()
            || e.is_connection_dropped()
            || e.code().is_some_and(|code| busy.contains(&code))
            // Of an error inside a pipeline the client keeps only the text.
            || e.to_string().split(|c: char| !c.is_ascii_uppercase()).any(|word| busy.contains(&word));
        Self {
            message: format!("Redis: {e}"),
            away,
        }
    }
}

impl Store {
    /// Connects, refuses what cannot keep the promise (too old, evicting, another partition count), and loads the library.
    pub async fn connect(url: impl Into<ServerUrl>) -> Result<Self, StoreError> {
        let store = Self::look(url).await?;
        store.check().await?;
        store.check_partitions().await?;
        if let Some(regression) = store.regression().await? {
            return Err(StoreError::refused(regression.to_string()));
        }
        store.learn_epoch().await?;
        store.load().await?;
        Connection::watch(&store.connection);
        Ok(store)
    }

    /// Connects and changes nothing: for those who only look.
    pub async fn look(url: impl Into<ServerUrl>) -> Result<Self, StoreError> {
        let url = url.into();
        let no_url = |e: RedisError| StoreError::refused(format!("{url} is no Redis URL: {e}"));
        // Several calls are on their way at a time: without it the second waits for the TCP ack of the first.
        let tcp = TcpSettings::default().set_nodelay(true);
        let info = url
            .expose()
            .into_connection_info()
            .map_err(no_url)?
            .set_tcp_settings(tcp);
        let client = redis::Client::open(info).map_err(no_url)?;
        let opened = Connection::open(client).await;
        let connection =
            opened.map_err(|e| StoreError::refused(format!("cannot reach Redis at {url}: {e}")))?;
        let source = source();
        let version = event::hash(&[source.as_bytes()])
            .iter()
            .take(4)
            .fold(String::new(), |v, b| v + &format!("{b:02x}"));
        Ok(Self {
            connection,
            function: format!("oncue_commit_{version}").into(),
            library: source.replace("LIBRARY", &version).into(),
            own: Arc::new(Own::new()),
            regressed: Arc::new(watch::Sender::new(None)),
        })
    }

    /// Refuses a server that cannot keep the promise: too old, or free to evict.
    pub async fn check(&self) -> Result<(), StoreError> {
        check_version(&self.info("server").await?)?;
        check_eviction(&self.info("memory").await?)
    }

    fn connection(&self) -> ConnectionManager {
        self.connection.get()
    }

    /// The partition count this Redis was laid out with; `None` for one no worker has used yet.
    pub async fn partitions(&self) -> Result<Option<u32>, StoreError> {
        Ok(cmd("GET")
            .arg("oncue:partitions")
            .query_async(&mut self.connection())
            .await?)
    }

    /// Name of the function library in this version.
    pub fn library_name(&self) -> String {
        self.function.replace("commit_", "")
    }

    /// One section of `INFO`.
    pub async fn info(&self, section: &str) -> Result<String, StoreError> {
        Ok(cmd("INFO")
            .arg(section)
            .query_async(&mut self.connection())
            .await?)
    }

    /// One setting, or nothing where the server does not let us ask.
    pub async fn setting(&self, name: &str) -> Option<String> {
        let pair: Vec<String> = cmd("CONFIG")
            .arg("GET")
            .arg(name)
            .query_async(&mut self.connection())
            .await
            .ok()?;
        pair.into_iter().nth(1)
    }

    /// Whether Redis answers.
    pub async fn ping(&self) -> Result<(), StoreError> {
        Ok(cmd("PING").exec_async(&mut self.connection()).await?)
    }

    /// Whether the function library is there in this version.
    pub async fn is_loaded(&self) -> Result<bool, StoreError> {
        let list: Vec<Value> = cmd("FUNCTION")
            .arg("LIST")
            .arg("LIBRARYNAME")
            .arg(self.library_name())
            .query_async(&mut self.connection())
            .await?;
        Ok(!list.is_empty())
    }

    /// Loads the function library, replacing the same version if it is there.
    pub async fn load(&self) -> Result<(), StoreError> {
        let library: &str = &self.library;
        let loaded = cmd("FUNCTION")
            .arg("LOAD")
            .arg("REPLACE")
            .arg(library)
            .exec_async(&mut self.connection())
            .await;
        loaded.map_err(|e| {
            StoreError::refused(format!("Redis does not take the function library: {e}"))
        })
    }

    async fn check_partitions(&self) -> Result<(), StoreError> {
        let mut pipe = redis::pipe();
        pipe.cmd("SET")
            .arg("oncue:partitions")
            .arg(PARTITIONS)
            .arg("NX")
            .ignore()
            .cmd("GET")
            .arg("oncue:partitions");
        let (found,): (u32,) = pipe.query_async(&mut self.connection()).await?;
        if found == PARTITIONS {
            return Ok(());
        }
        Err(StoreError::refused(format!(
            "this Redis was laid out with {found} partitions, this program has {PARTITIONS}; the two cannot share state"
        )))
    }

    /// Rows and seen-marks for everything pulled, in one pipeline.
    pub async fn read(&self, asks: &[Read]) -> Result<Vec<ReadResult>, StoreError> {
        let mut pipe = redis::pipe();
        for ask in asks {
            if let Some(row) = &ask.row {
                pipe.cmd("HGETALL").arg(row_key(row.table, &row.key));
            }
            for bucket in buckets(&ask.marks) {
                for key in bucket[0].seen_keys() {
                    pipe.cmd("HMGET").arg(key);
                    for mark in bucket {
                        pipe.arg(&mark.id);
                    }
                }
            }
        }
        let mut replies = self.query(&pipe).await?.into_iter();
        let mut next = || {
            replies
                .next()
                .ok_or_else(|| StoreError::refused("Redis: a reply is missing"))
        };
        let mut found = Vec::with_capacity(asks.len());
        for ask in asks {
            let row = if ask.row.is_some() {
                row(next()?)?
            } else {
                Row::default()
            };
            let mut seen = Vec::with_capacity(ask.marks.len());
            for bucket in buckets(&ask.marks) {
                let mut known = vec![false; bucket.len()];
                for _ in bucket[0].seen_keys() {
                    let Value::Array(found) = next()? else {
                        continue;
                    };
                    for ((mark, known), found) in bucket.iter().zip(&mut known).zip(found) {
                        *known |=
                            matches!(found, Value::BulkString(found) if mark.is_settled_by(&found));
                    }
                }
                seen.extend(known);
            }
            found.push(ReadResult { row, seen });
        }
        Ok(found)
    }

    /// What became of events, as far as it is known.
    pub async fn settled(&self, marks: &[Mark]) -> Result<Vec<Option<MarkState>>, StoreError> {
        let mut pipe = redis::pipe();
        for mark in marks {
            for key in mark.seen_keys() {
                pipe.cmd("HGET").arg(key).arg(&mark.id);
            }
        }
        let mut replies = self.query(&pipe).await?.into_iter();
        let kind = |reply: Value| match reply {
            Value::BulkString(mark) => Some(if mark.first() == Some(&b'd') {
                MarkState::Dead
            } else {
                MarkState::Applied
            }),
            _ => None,
        };
        let mut first = |mark: &Mark| {
            let found: Vec<MarkState> = replies
                .by_ref()
                .take(mark.seen_keys().len())
                .filter_map(kind)
                .collect();
            // A redriven event may have left its dead mark in another bucket.
            found
                .iter()
                .copied()
                .find(|settled| *settled == MarkState::Applied)
                .or(found.first().copied())
        };
        Ok(marks.iter().map(&mut first).collect())
    }

    async fn query(&self, pipe: &Pipeline) -> Result<Vec<Value>, StoreError> {
        if pipe.is_empty() {
            return Ok(Vec::new());
        }
        Ok(pipe.query_async(&mut self.connection()).await?)
    }

    /// Applies runs, each whole or not at all; a status for every event of every run, in order.
    pub async fn commit(&self, runs: &[Run]) -> Result<Committed, StoreError> {
        let first = runs
            .iter()
            .flat_map(|run| &run.events)
            .find(|handled| !handled.outbox.is_empty());
        let name = OutboxName::new(first.map_or(0, |handled| handled.mark.partition));
        let function = runs
            .iter()
            .flat_map(|run| &run.events)
            .next()
            .map_or("", |handled| handled.mark.function);
        let (outbox, begun) = (name.key(function), self.own.begin(runs));
        let keys = [self.own.key(), outbox.clone(), name.index()];
        let call = commit_call(
            &self.function,
            keys,
            itoa::Buffer::new().format(begun.number),
            runs,
            name,
        );
        let mut connection = self.connection();
        let (mut replies,): (Vec<Value>,) = match call.query_async(&mut connection).await {
            // Redis was emptied or replaced: the code goes in again, what the data lost is the fence's business.
            Err(e) if e.to_string().contains("Function not found") => {
                self.load().await?;
                call.query_async(&mut connection).await?
            }
            other => other?,
        };
        let record: String = redis::from_redis_value(replies.remove(0)).unwrap_or_default();
        self.watch_for_regression(begun, &record).await;
        let said = runs
            .iter()
            .zip(replies)
            .map(|(run, reply)| wire::statuses(reply, run))
            .collect();
        let statuses = self.with_outputs(runs, said).await?;
        let stored = |(run, statuses): (&Run, &Vec<Status>)| {
            run.events
                .iter()
                .zip(statuses)
                .any(|(e, status)| *status == Status::Applied && !e.outbox.is_empty())
        };
        let outbox = runs.iter().zip(&statuses).any(stored).then_some(outbox);
        Ok(Committed { statuses, outbox })
    }

    /// Counts one more run of a handler on an event that was delivered before, and says how many there were. The
    /// server's own count will not do: it also counts deliveries that never came to run.
    pub async fn started(&self, marks: &[Mark]) -> Result<Vec<u32>, StoreError> {
        let mut pipe = redis::pipe();
        for mark in marks {
            let key = mark.runs_key();
            pipe.cmd("INCR")
                .arg(&key)
                .cmd("EXPIRE")
                .arg(key)
                .arg(mark.horizon / 1000 + 1)
                .ignore();
        }
        Ok(pipe.query_async(&mut self.connection()).await?)
    }

    /// What stands under a key of a table.
    pub async fn show(&self, table: &str, key: &str) -> Result<Option<StateValue>, StoreError> {
        let key = row_key(table, key);
        let mut c = self.connection();
        let kind: String = cmd("TYPE").arg(&key).query_async(&mut c).await?;
        Ok(match kind.as_str() {
            "hash" => Some(StateValue::Row(row(cmd("HGETALL")
                .arg(&key)
                .query_async(&mut c)
                .await?)?)),
            "set" => Some(StateValue::Members(
                cmd("SMEMBERS").arg(&key).query_async(&mut c).await?,
            )),
            "zset" => {
                let pairs: Vec<(String, f64)> = cmd("ZREVRANGE")
                    .arg(&key)
                    .arg(0)
                    .arg(-1)
                    .arg("WITHSCORES")
                    .query_async(&mut c)
                    .await?;
                Some(StateValue::Ranking(pairs))
            }
            "string" => Some(StateValue::Count(
                cmd("PFCOUNT").arg(&key).query_async(&mut c).await?,
            )),
            _ => None,
        })
    }
}

/// Neighbours that stand in one bucket.
fn buckets(marks: &[Mark]) -> impl Iterator<Item = &[Mark]> {
    marks.chunk_by(Mark::shares_bucket)
}

/// The code of the library; a broken twin of it where a test asks for one.
fn source() -> String {
    let mut source = SOURCE.to_owned();
    if failpoint::sabotaged(Sabotage::NoSeenMarks) {
        source = source.replace(
            "      local status = mark and ",
            "      local status = false and ",
        );
    }
    if failpoint::sabotaged(Sabotage::NoFence) {
        source = source.replace(
            "  local fenced = now > group.oldest + horizon or",
            "  local fenced = false or",
        );
    }
    source
}

fn info_field<'i>(info: &'i str, name: &str) -> Option<&'i str> {
    info.lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
        .map(str::trim)
}

fn check_version(info: &str) -> Result<(), StoreError> {
    let (name, version, oldest) = match info_field(info, "valkey_version") {
        Some(version) => ("Valkey", version, OLDEST_VALKEY),
        None => (
            "Redis",
            info_field(info, "redis_version").unwrap_or("0"),
            OLDEST_REDIS,
        ),
    };
    let mut parts = version.split('.').map(|part| part.parse().unwrap_or(0));
    if (parts.next().unwrap_or(0), parts.next().unwrap_or(0)) >= oldest {
        return Ok(());
    }
    Err(StoreError::refused(format!(
        "{name} is {version}; Oncue needs {}.{} or later (functions)",
        oldest.0, oldest.1
    )))
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
