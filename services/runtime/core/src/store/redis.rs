//! The store on Redis: connecting, reading, committing. This file and its folder are all that names the Redis client.
//!
//! A commit is one call of a function library ([`SOURCE`]), which Redis runs whole before it does anything else. The
//! library is named after its content, so two versions of Oncue can share a Redis while one replaces the other.

mod api_keys;
mod ledger;
mod limits;
mod notices;
mod connection;
mod counts;
mod login;
mod outboxes;
mod owners;
mod progress;
mod regress;
mod rows;
mod runs;
mod samples;
mod sessions;
mod snapshot;
mod tables;
mod users;
mod sentinel;
mod wire;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use redis::aio::ConnectionManager;
use redis::io::tcp::TcpSettings;
use redis::{ErrorKind, IntoConnectionInfo as _, Pipeline, RedisError, Value, cmd};
use tokio::sync::watch;

pub use self::api_keys::StoredKey;
use self::connection::{Connection, Place};
pub use self::limits::Spent;
use self::login::Login;
pub use self::notices::KeptNotices;
pub use self::outboxes::{RESTORE_SECONDS, RESTORED_SECONDS};
use self::regress::Own;
pub use self::rows::{KeyedRow, NewerRow, RowEdit, RowPage};
pub use self::runs::{RunCount, RunStart};
pub use self::samples::SAMPLES_MS;
pub use self::sentinel::SentinelAnswer;
use self::sentinel::Sentinels;
pub use self::snapshot::ServerSnapshot;
pub use self::users::StoredUser;
use self::wire::{commit_call, row};
use super::mark::{OutboxName, SeenMark};
use super::{
    Committed, Keys, Mark, MarkState, Read, ReadResult, Row, Run, StateValue, Status, StoreError,
    StreamPosition,
};
use crate::app::AppName;
use crate::config::{RedisServer, ServerUrl};
use crate::failpoint::{self, Sabotage};
use oncue_proto::event::{self, IdSecret, PARTITIONS};

/// Function library; `LIBRARY` in it stands for the version, `APP` for the app.
const SOURCE: &str = include_str!("commit.lua");
/// Number of the layout of keys and values, raised where an older program could not read them.
const LAYOUT: u32 = 4;
/// Key, without the app, of its secret.
const ID_SECRET: &str = "id-secret";
/// Key, without the app, of the time at which somebody last tended its servers.
const TENDED: &str = "tended";
/// Major and minor version of the oldest Redis that has what the library needs.
const OLDEST_REDIS: (u64, u64) = (7, 0);
/// Oldest Valkey that is tested.
const OLDEST_VALKEY: (u64, u64) = (7, 2);

/// Error codes of a server that could not do what it was asked just now, or does not know any more who asks: a password that is
/// replaced is read anew by the next connection, and one that was revoked is no event's fault.
///
/// A commit that meets one is made again until it has an answer; any other error is pinned on its
/// request.
const TRANSIENT_CODES: [&str; 11] = [
    "BUSY",
    "LOADING",
    "READONLY",
    "OOM",
    "MISCONF",
    "TRYAGAIN",
    "CLUSTERDOWN",
    "MASTERDOWN",
    "NOREPLICAS",
    "NOAUTH",
    "WRONGPASS",
];

/// Connection to Redis; cheap to clone, reconnects by itself. Every call fails with a [`StoreError`] after at most a
/// few seconds.
#[derive(Clone)]
pub struct Store {
    /// Connection that all clones share.
    connection: Arc<Connection>,
    /// Name of the commit function, with the version of the library.
    function: Arc<str>,
    /// Code of the library, as it is loaded.
    library: Arc<str>,
    /// Keys of the app.
    keys: Keys,
    /// Memory of this worker's own commits.
    own: Arc<Own>,
    /// Reason for which Redis is known to have gone back in time.
    regressed: Arc<watch::Sender<Option<String>>>,
}

/// Tells an error that goes by itself from one of the request: after the first, the worker tries again for ever.
impl From<RedisError> for StoreError {
    fn from(e: RedisError) -> Self {
        let text = e.to_string();
        // Of an error inside a pipeline the client keeps only the text.
        let mut words = text.split(|c: char| !c.is_ascii_uppercase());
        let away = e.is_io_error()
            || e.is_timeout()
            || e.is_connection_dropped()
            || e.kind() == ErrorKind::AuthenticationFailed
            // An operator's program puts it back.
            || is_library_missing(&e)
            || e.code().is_some_and(|code| TRANSIENT_CODES.contains(&code))
            || words.any(|word| TRANSIENT_CODES.contains(&word));
        Self {
            message: format!("Redis: {text}"),
            away,
        }
    }
}

impl Store {
    /// Connects, for a program that writes: refuses a Redis that cannot keep the promise (too old, evicting, gone back in
    /// time), and one that is not [laid out](Self::lay_out) for the app.
    pub async fn connect(
        server: impl Into<RedisServer>,
        app: &AppName,
    ) -> Result<Self, StoreError> {
        let store = Self::look(server, app).await?;
        store.must_be_ready().await?;
        Ok(store)
    }

    /// Refuses what [`connect`](Self::connect) does.
    pub async fn must_be_ready(&self) -> Result<(), StoreError> {
        self.check().await?;
        // Before anything is committed: it would look as if nothing had been lost.
        if let Some(regression) = self.regression(&[]).await? {
            return Err(StoreError::refused(regression.to_string()));
        }
        if !self.check_layout().await? {
            return Err(StoreError::refused(format!(
                "this Redis is not laid out for the app {}; `oncue apply` does it",
                self.keys.app()
            )));
        }
        self.learn_epoch().await?;
        // A broken twin has a library of its own.
        if failpoint::sabotaged(Sabotage::NoSeenMarks) || failpoint::sabotaged(Sabotage::NoFence) {
            self.load().await?;
        }
        if !self.has_library().await? {
            return Err(StoreError::refused(format!(
                "this Redis does not have the function library {} of this program; `oncue apply` of the same version \
                 loads it",
                self.library_name()
            )));
        }
        Ok(())
    }

    /// Lays out an empty Redis for the app, and loads the library: for operators' programs, since whoever may load code may
    /// do everything. Refuses a Redis of another layout or partition count, and one that cannot keep the promise.
    pub async fn lay_out(&self) -> Result<(), StoreError> {
        self.check().await?;
        if !self.check_layout().await? {
            let mut pipe = redis::pipe();
            // The layout goes first: partitions without one are an earlier version's.
            pipe.cmd("SET")
                .arg(self.keys.of("layout"))
                .arg(LAYOUT)
                .arg("NX")
                .ignore()
                .cmd("SET")
                .arg(self.keys.of("partitions"))
                .arg(PARTITIONS)
                .arg("NX")
                .ignore();
            pipe.exec_async(&mut self.connection()).await?;
        }
        self.load().await
    }

    /// Code of the function library of an app, for whoever loads it into a Redis that several apps share.
    pub fn library_of(app: &AppName) -> String {
        Library::of(app).code
    }

    /// Connects and changes nothing, for programs that only look. The URL may hold a password; no error shows it.
    pub async fn look(server: impl Into<RedisServer>, app: &AppName) -> Result<Self, StoreError> {
        let RedisServer {
            url,
            password_file,
            sentinel_password_file,
            tls,
        } = server.into();
        let login = Login {
            password_file,
            sentinel_password_file,
            tls,
        };
        let opened = Box::pin(Connection::open(place(&url)?, login)).await;
        let connection =
            opened.map_err(|e| StoreError::refused(format!("cannot reach Redis at {url}: {e}")))?;
        Connection::watch(&connection);
        let Library { version, code } = Library::of(app);
        Ok(Self {
            connection,
            function: format!("oncue_commit_{version}").into(),
            library: code.into(),
            keys: Keys::new(app),
            own: Arc::new(Own::new()),
            regressed: Arc::new(watch::Sender::new(None)),
        })
    }

    /// Refuses a server that cannot keep the promise: too old for functions, or free to evict keys. Asks and changes
    /// nothing.
    pub async fn check(&self) -> Result<(), StoreError> {
        check_version(&self.info("server").await?)?;
        check_eviction(&self.info("memory").await?)
    }

    /// Host and port of the server that the connection leads to, or a path; where sentinels are asked, the primary they
    /// have named.
    pub fn address(&self) -> String {
        self.connection.address()
    }

    /// Name of the primary, where sentinels are asked for it.
    pub fn primary_name(&self) -> Option<&str> {
        Some(self.connection.sentinels()?.name())
    }

    /// Answers of the sentinels of the URL, asked now; none for a URL without.
    pub async fn sentinels(&self) -> Vec<SentinelAnswer> {
        self.connection.sentinel_answers().await
    }

    /// Connection as it is now; cheap.
    fn connection(&self) -> ConnectionManager {
        self.connection.get()
    }

    /// Keys of the app.
    pub fn keys(&self) -> &Keys {
        &self.keys
    }

    /// Number of partitions this Redis was laid out with; `None` for one that no worker has used yet.
    pub async fn partitions(&self) -> Result<Option<u32>, StoreError> {
        Ok(cmd("GET")
            .arg(self.keys.of("partitions"))
            .query_async(&mut self.connection())
            .await?)
    }

    /// Name of the function library in this version, `oncue_` and eight digits of the hash of its source.
    pub fn library_name(&self) -> String {
        self.function.replace("commit_", "")
    }

    /// One section of `INFO`, lines of `name:value`.
    pub async fn info(&self, section: &str) -> Result<String, StoreError> {
        Ok(cmd("INFO")
            .arg(section)
            .query_async(&mut self.connection())
            .await?)
    }

    /// One setting by `CONFIG GET`; `None` where the server does not let us ask.
    pub async fn setting(&self, name: &str) -> Option<String> {
        let pair: Vec<String> = cmd("CONFIG")
            .arg("GET")
            .arg(name)
            .query_async(&mut self.connection())
            .await
            .ok()?;
        pair.into_iter().nth(1)
    }

    /// Round trip to Redis; fails where it does not answer.
    pub async fn ping(&self) -> Result<(), StoreError> {
        Ok(cmd("PING").exec_async(&mut self.connection()).await?)
    }

    /// Whether the function library answers in this version: as [`is_loaded`](Self::is_loaded), for programs that may call it
    /// and not list it.
    async fn has_library(&self) -> Result<bool, StoreError> {
        let called = wire::marks_call(&self.marks_function(), &self.keys, &[]);
        match called.exec_async(&mut self.connection()).await {
            Ok(()) => Ok(true),
            Err(e) if is_library_missing(&e) => Ok(false),
            Err(e) => Err(e.into()),
        }
    }

    /// Name of the function that looks up marks.
    fn marks_function(&self) -> String {
        self.function.replace("commit", "marks")
    }

    /// Whether the function library is loaded in this version.
    pub async fn is_loaded(&self) -> Result<bool, StoreError> {
        let list: Vec<Value> = cmd("FUNCTION")
            .arg("LIST")
            .arg("LIBRARYNAME")
            .arg(self.library_name())
            .query_async(&mut self.connection())
            .await?;
        Ok(!list.is_empty())
    }

    /// Loads the function library, in place of the same version if that is there.
    pub async fn load(&self) -> Result<(), StoreError> {
        let library: &str = &self.library;
        let loaded = cmd("FUNCTION")
            .arg("LOAD")
            .arg("REPLACE")
            .arg(library)
            .exec_async(&mut self.connection())
            .await;
        let Err(e) = loaded else {
            return Ok(());
        };
        if e.code() != Some("NOPERM") {
            return Err(StoreError::refused(format!(
                "Redis does not take the function library: {e}"
            )));
        }
        // On a server that several apps share its owner loads it: code runs with the rights of whoever calls it.
        if self.has_library().await? {
            return Ok(());
        }
        Err(StoreError::refused(format!(
            "this Redis does not have the function library {} of this program, and this user may not load it: its owner does, \
             from {}.lua of what `oncue rights --write` has written there",
            self.library_name(),
            self.keys.app()
        )))
    }

    /// Secret of the app as this Redis has it.
    pub async fn id_secret(&self) -> Result<Option<IdSecret>, StoreError> {
        let text: Option<Vec<u8>> = cmd("GET")
            .arg(self.keys.of(ID_SECRET))
            .query_async(&mut self.connection())
            .await?;
        text.map(|text| read_secret(&text)).transpose()
    }

    /// Keeps the secret of the app, if this Redis has none; returns the one that it then has.
    pub async fn keep_id_secret(&self, secret: &IdSecret) -> Result<IdSecret, StoreError> {
        let mut pipe = redis::pipe();
        pipe.cmd("SET")
            .arg(self.keys.of(ID_SECRET))
            .arg(secret.to_text())
            .arg("NX")
            .ignore()
            .cmd("GET")
            .arg(self.keys.of(ID_SECRET));
        let (text,): (Vec<u8>,) = pipe.query_async(&mut self.connection()).await?;
        read_secret(&text)
    }

    /// Says that somebody tends the app's servers, for so long.
    pub async fn note_presence(&self, lasts: Duration) -> Result<(), StoreError> {
        let mut note = cmd("SET");
        note.arg(self.keys.of(TENDED))
            .arg(event::now_ms())
            .arg("EX")
            .arg(lasts.as_secs());
        Ok(note.exec_async(&mut self.connection()).await?)
    }

    /// Whether somebody has said so, and it still holds.
    pub async fn is_tended(&self) -> Result<bool, StoreError> {
        Ok(cmd("EXISTS")
            .arg(self.keys.of(TENDED))
            .query_async(&mut self.connection())
            .await?)
    }

    /// Whether this Redis is laid out at all.
    pub async fn is_laid_out(&self) -> Result<bool, StoreError> {
        Ok(cmd("EXISTS")
            .arg(self.keys.of("partitions"))
            .query_async(&mut self.connection())
            .await?)
    }

    /// Whether this Redis is laid out as this program reads it; refuses one of another partition count or layout.
    async fn check_layout(&self) -> Result<bool, StoreError> {
        let mut pipe = redis::pipe();
        pipe.cmd("GET")
            .arg(self.keys.of("partitions"))
            .cmd("GET")
            .arg(self.keys.of("layout"));
        let (partitions, layout): (Option<u32>, Option<u32>) =
            pipe.query_async(&mut self.connection()).await?;
        if partitions.is_some() && layout != Some(LAYOUT) {
            let found = layout.unwrap_or(1);
            return Err(StoreError::refused(format!(
                "this Redis has layout {found}, this program reads {LAYOUT}: seen-marks stand elsewhere, and what was \
                 applied would be applied again. Let the old version handle all that waits, then begin with an empty \
                 Redis and empty streams"
            )));
        }
        // Keys hold the number of their partition: another count would look for each of them elsewhere.
        let Some(found) = partitions.filter(|found| *found != PARTITIONS) else {
            return Ok(partitions.is_some());
        };
        Err(StoreError::refused(format!(
            "this Redis was laid out with {found} partitions, this program has {PARTITIONS}; the two cannot share state"
        )))
    }

    /// Rows and seen-marks for everything that was pulled, in one round trip; a result for each read, in order.
    ///
    /// Not one step: a row may change between this and the commit, which compares it again. What is found done here
    /// is done, so its handlers need not run; what is not found may still turn out to be a duplicate at the commit.
    pub async fn read(&self, reads: &[Read]) -> Result<Vec<ReadResult>, StoreError> {
        let marks: Vec<&Mark> = reads.iter().flat_map(|read| &read.marks).collect();
        let mut pipe = redis::pipe();
        for row in reads.iter().filter_map(|read| read.row.as_ref()) {
            pipe.cmd("HGETALL").arg(self.keys.row(row.table, &row.key));
        }
        let (rows, found) = tokio::join!(self.query(&pipe), self.marks(&marks));
        let mut rows = rows?.into_iter();
        let mut found = found?.into_iter();
        let mut results = Vec::with_capacity(reads.len());
        for read in reads {
            let row = if read.row.is_some() {
                row(next_reply(&mut rows)?)?
            } else {
                Row::default()
            };
            let found = read.marks.iter().zip(found.by_ref());
            let seen = found.map(|(mark, found)| found.is_some_and(|f| mark.is_settled_by(&f)));
            results.push(ReadResult {
                row,
                seen: seen.collect(),
            });
        }
        Ok(results)
    }

    /// Seen-marks as Redis holds them, in order; `None` for an event that has left none. No marks cost no call.
    async fn marks(&self, marks: &[&Mark]) -> Result<Vec<Option<Bytes>>, StoreError> {
        if marks.is_empty() {
            return Ok(Vec::new());
        }
        let call = wire::marks_call(&self.marks_function(), &self.keys, marks);
        let found = call.query_async(&mut self.connection()).await;
        if let (Err(e), Some(first)) = (&found, marks.first())
            && is_library_missing(e)
        {
            self.watch_for_emptiness(&first.function).await;
        }
        Ok(found?)
    }

    /// Upkeep of the marks of a function: drops those that have expired from buckets that have not been looked at for
    /// some hours, in calls that hold Redis up for a few milliseconds at most.
    pub async fn drop_expired_marks(&self, function: &str) -> Result<(), StoreError> {
        /// Buckets in a call.
        const AT_ONCE: u32 = 500;
        /// Calls for one look: the next look goes on where this one ends.
        const CALLS: usize = 1000;
        let mut call = cmd("FCALL");
        call.arg(self.function.replace("commit", "tend"))
            .arg(1)
            .arg(self.keys.marks(function))
            .arg(AT_ONCE);
        for _ in 0..CALLS {
            if call.query_async::<u64>(&mut self.connection()).await? == 0 {
                break;
            }
        }
        Ok(())
    }

    /// States of the seen-marks of events, in order, for audits and for people; `None` for one that has left none, or
    /// whose mark has expired.
    pub async fn settled(&self, marks: &[Mark]) -> Result<Vec<Option<MarkState>>, StoreError> {
        let found = self.marks(&marks.iter().collect::<Vec<_>>()).await?;
        let states = found
            .into_iter()
            .map(|mark| Some(SeenMark::decode(&mark?).state));
        Ok(states.collect())
    }

    /// Positions in its stream of the events of these ids, in order, as far as `function` is done with them.
    pub async fn places(
        &self,
        ids: &[String],
        function: &str,
    ) -> Result<Vec<Option<StreamPosition>>, StoreError> {
        let function: Arc<str> = function.into();
        let marks: Vec<Mark> = ids.iter().map(|id| Mark::of_id(&function, id)).collect();
        let found = self.marks(&marks.iter().collect::<Vec<_>>()).await?;
        Ok(found
            .into_iter()
            .map(|mark| StreamPosition::of_mark(&mark?))
            .collect())
    }

    /// Replies to a pipeline, in order. An empty one costs no round trip.
    async fn query(&self, pipe: &Pipeline) -> Result<Vec<Value>, StoreError> {
        if pipe.is_empty() {
            return Ok(Vec::new());
        }
        Ok(pipe.query_async(&mut self.connection()).await?)
    }

    /// Commits runs, each whole or not at all, in one step that nothing can get between. A status for every event of
    /// every run, in order. After an error it is not known whether anything was applied; committing again is safe.
    ///
    /// The outputs of all runs go into one outbox, in a command before the call and in the same round trip. The
    /// record of this worker's commits is written by the same call, so that a Redis that went back in time is found
    /// out by the next commit.
    pub async fn commit(&self, runs: &[Run]) -> Result<Committed, StoreError> {
        self.must_have_all()?;
        let mut events = runs.iter().flat_map(|run| &run.events);
        let first = events.clone().next();
        let first_with_outputs = events.find(|handled| !handled.outbox.is_empty());
        // A random name, made before the call: marks that the call writes point to it.
        let name = OutboxName::new(first_with_outputs.map_or(0, |handled| handled.mark.partition));
        let function = first.map_or("", |handled| &*handled.mark.function);
        let outbox = self.keys.outbox(name, function);
        // Noted before the call: a commit whose answer is lost counts as begun and never as
        // answered.
        let begun = self.own.begin(runs);
        let mut digits = itoa::Buffer::new();
        let record = begun.map_or("", |begun| digits.format(begun.number));
        let keys = [
            self.own.key(&self.keys, function),
            outbox.clone(),
            self.keys.outbox_index(function),
            self.keys.marks(function),
        ];
        let call = commit_call(&self.function, &self.keys, keys, record, runs, name);
        let mut connection = self.connection();
        let (mut replies,): (Vec<Value>,) = match call.query_async(&mut connection).await {
            Err(e) if is_library_missing(&e) => {
                self.watch_for_emptiness(function).await;
                return Err(e.into());
            }
            other => other?,
        };
        let record: String = redis::from_redis_value(replies.remove(0)).unwrap_or_default();
        if let Some(begun) = begun {
            self.watch_for_regression(function, begun, &record).await;
        }
        self.must_have_all()?;
        let replies = runs
            .iter()
            .zip(replies)
            .map(|(run, reply)| wire::event_replies(reply, run))
            .collect();
        // One more round trip, for duplicates alone: their outputs are read from where their mark
        // says.
        let statuses = self.with_outputs(runs, replies).await?;
        // Outputs of runs that were refused are cut out of the outbox; with none left it is gone.
        let has_stored = runs.iter().zip(&statuses).any(|(run, statuses)| {
            let mut events = run.events.iter().zip(statuses);
            events.any(|(handled, status)| *status == Status::Applied && !handled.outbox.is_empty())
        });
        let outbox = has_stored.then_some(outbox);
        Ok(Committed { statuses, outbox })
    }

    /// Value under a key of a state table, whatever its kind; `None` where there is none. For programs that show
    /// state: two commands, between which the value may change.
    pub async fn show(&self, table: &str, key: &str) -> Result<Option<StateValue>, StoreError> {
        self.show_at(self.keys.row(table, key)).await
    }

    /// As [`show`](Self::show), for a person: a row whose key was too long to be kept goes by its hash, as lists of rows name it.
    pub async fn look_up(&self, table: &str, key: &str) -> Result<Option<StateValue>, StoreError> {
        self.show_at(self.keys.looked_for(table, key)).await
    }

    async fn show_at(&self, key: String) -> Result<Option<StateValue>, StoreError> {
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

/// Secret from the text under [`ID_SECRET`].
fn read_secret(text: &[u8]) -> Result<IdSecret, StoreError> {
    IdSecret::of_text(text).ok_or_else(|| {
        StoreError::refused(format!(
            "the key {ID_SECRET} of this app in Redis holds no secret; remove it, and it comes back from NATS"
        ))
    })
}

/// Whether Redis does not have the function library.
fn is_library_missing(e: &RedisError) -> bool {
    e.to_string().contains("Function not found")
}

/// Function library of an app.
struct Library {
    /// Eight digits, which tell versions of one Redis apart: they are part of every commit, so they are few.
    version: String,
    code: String,
}

impl Library {
    fn of(app: &AppName) -> Self {
        let source = source().replace("APP", app.as_str());
        let version = event::hash(&[source.as_bytes()])
            .iter()
            .take(4)
            .fold(String::new(), |v, b| v + &format!("{b:02x}"));
        Self {
            code: source.replace("LIBRARY", &version),
            version,
        }
    }
}

/// Code of the library; a broken twin of it where a test asks for one.
fn source() -> String {
    let mut source = SOURCE.to_owned();
    if failpoint::sabotaged(Sabotage::NoSeenMarks) {
        source = sabotage(
            &source,
            "local status = mark and ",
            "local status = false and ",
        );
    }
    if failpoint::sabotaged(Sabotage::NoFence) {
        let fence = "local fenced = now > group.oldest + horizon or";
        source = sabotage(&source, fence, "local fenced = false or");
    }
    source
}

/// Source with one piece of code broken. Panics unless it stands there exactly once: a twin that is not broken would
/// pass every test that it must fail.
fn sabotage(source: &str, code: &str, broken: &str) -> String {
    let found = source.matches(code).count();
    assert_eq!(found, 1, "commit.lua has {code:?} {found} times, not once");
    source.replace(code, broken)
}

/// Next reply of a pipeline.
fn next_reply(replies: &mut impl Iterator<Item = Value>) -> Result<Value, StoreError> {
    replies
        .next()
        .ok_or_else(|| StoreError::refused("Redis: a reply is missing"))
}

/// Where Redis is by its URL.
fn place(url: &ServerUrl) -> Result<Place, StoreError> {
    if let Some(sentinels) = Sentinels::of_url(url.expose()) {
        let sentinels = sentinels.map_err(|why| not_a_url(url, &why))?;
        return Ok(Place::Behind(sentinels));
    }
    // Several calls are on their way at a time: without it the second waits for the TCP ack of the first.
    let tcp = TcpSettings::default().set_nodelay(true);
    let info = url.expose().into_connection_info();
    let info = info.map_err(|e| not_a_url(url, &e))?;
    Ok(Place::At(info.set_tcp_settings(tcp)))
}

/// Error of a URL that the client cannot read; shown without its password.
fn not_a_url(url: &ServerUrl, e: &impl std::fmt::Display) -> StoreError {
    StoreError::refused(format!("{url} is no Redis URL: {e}"))
}

/// Value of a field in a section of `INFO`.
fn info_field<'i>(info: &'i str, name: &str) -> Option<&'i str> {
    info.lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
        .map(str::trim)
}

/// Refuses a server that is too old, by the section `server` of `INFO`. Valkey says for compatibility that it is
/// Redis 7.2, so its own version goes first.
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

/// Refuses a server that may evict keys, by the section `memory` of `INFO`: an evicted seen-mark is an event applied
/// twice, an evicted outbox one that never follows.
fn check_eviction(info: &str) -> Result<(), StoreError> {
    match info_field(info, "maxmemory_policy") {
        None | Some("noeviction") => Ok(()),
        Some(policy) => Err(StoreError::refused(format!(
            "Redis may evict keys (maxmemory-policy {policy}), which would lose events; set noeviction"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_twin_breaks_what_it_says() {
        for code in [
            "local status = mark and ",
            "local fenced = now > group.oldest + horizon or",
        ] {
            let broken = sabotage(SOURCE, code, "local broken = ");
            assert_ne!(broken, SOURCE);
            assert_eq!(broken.matches("local broken = ").count(), 1);
        }
    }

    #[test]
    #[should_panic(expected = "0 times, not once")]
    fn a_twin_that_would_not_be_broken_is_refused() {
        sabotage(SOURCE, "local status = mark  and ", "");
    }
}
