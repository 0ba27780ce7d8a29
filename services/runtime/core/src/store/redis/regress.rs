//! Detection of a Redis that went back in time: a restart from an old file, a failover to a replica that was behind.
//! Commits made after that point are lost, with their seen-marks, while their events are acked.
//!
//! Each worker keeps a record in Redis, written by every commit: how many it has made. A record that says less than the
//! worker remembers means that commits of its own are gone; those of others are for others to find out.

use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use redis::cmd;

use super::{Store, is_library_missing};
use crate::failpoint::{self, Sabotage};
use crate::store::{Keys, KnownStream, Regression, Restoring, Run, StoreError};
use oncue_proto::event;

/// Key, without the app, of the time (Unix ms) of the last restoration: commits missing from before it were restored. A time, and
/// no count, since Redis may lose this as well, and must not come to the same number again.
const EPOCH: &str = "epoch";
/// Key, without the app, of a hash, stream -> [`KnownStream`] as JSON.
const STREAMS: &str = "streams";
/// Key, without the app, of a hash, function -> [`Restoring`] as JSON.
pub(super) const RESTORING: &str = "restoring";
/// A record that was not touched for longer may be gone without a loss; it expires after a week.
const TRUSTED: Duration = Duration::from_hours(72);
/// Seconds for which a record that nobody touches is kept; the function library says the same.
const RECORD_S: u64 = 604_800;
/// Commits whose place in the stream is remembered: more than Redis can lose without anybody noticing for minutes.
const REMEMBERED: usize = 10_000;

/// Memory of this worker's own commits.
pub(super) struct Own {
    /// Random name of the worker's record.
    pub name: String,
    /// Commits begun and answered.
    memory: Mutex<Memory>,
}

/// A commit on its way. Several are at a time, and neither they nor their answers keep their order.
#[derive(Debug, Clone, Copy)]
pub(super) struct Begun {
    /// Number of the commit, from 1; goes into the record.
    pub number: u64,
    /// Number of the last commit that was answered before this one was sent: that much Redis must know.
    answered: u64,
}

/// Commits as this process remembers them; gone with it, and with it the right to complain.
struct Memory {
    /// Whether a record is kept at all: a worker does, of its one function, once it has begun it.
    is_kept: bool,
    /// Whether the record was found to lack something, from that very moment until it is known to be restored.
    is_doubtful: bool,
    /// Last restoration that is known, Unix ms; 0 for none.
    epoch: u64,
    /// Number of the last commit begun, from 1.
    begun: u64,
    /// Number of the last commit that was answered.
    answered: u64,
    /// When the record was last touched.
    at: Instant,
    /// When this worker started, Unix ms.
    since: u64,
    /// The last commits, in order.
    commits: VecDeque<RememberedCommit>,
}

/// Where the events of one commit come from.
struct RememberedCommit {
    /// Number of the commit, from 1.
    number: u64,
    /// Function of its first event.
    function: Arc<str>,
    /// Lowest sequence in the function's stream.
    sequence: u64,
}

impl Own {
    /// Memory of a worker that has committed nothing yet.
    pub fn new() -> Self {
        let memory = Memory {
            is_kept: false,
            is_doubtful: false,
            epoch: 0,
            begun: 0,
            answered: 0,
            at: Instant::now(),
            since: event::now_ms(),
            commits: VecDeque::new(),
        };
        Self {
            name: format!("{:016x}", fastrand::u64(..)),
            memory: Mutex::new(memory),
        }
    }

    /// Key of the record, of a worker of `function`.
    pub fn key(&self, keys: &Keys, function: &str) -> String {
        keys.of(format_args!("commits:{function}:{}", self.name))
    }

    /// Numbers a commit that is about to be made, and remembers where its events come from; `None` where no record is kept.
    pub fn begin(&self, runs: &[Run]) -> Option<Begun> {
        let mut memory = self.lock();
        if !memory.is_kept {
            return None;
        }
        memory.begun += 1;
        let marks = runs
            .iter()
            .flat_map(|run| &run.events)
            .map(|handled| &handled.mark);
        if let Some(first) = marks.min_by_key(|mark| mark.sequence) {
            let number = memory.begun;
            memory.commits.push_back(RememberedCommit {
                number,
                function: first.function.clone(),
                sequence: first.sequence,
            });
            if memory.commits.len() > REMEMBERED {
                memory.commits.pop_front();
            }
        }
        Some(Begun {
            number: memory.begun,
            answered: memory.answered,
        })
    }

    /// Loss that a record shows, as it was before the commit `begun`: `COUNT TIME`, or empty where there was none.
    fn missing(&self, begun: Begun, record: &str) -> Option<Regression> {
        let mut memory = self.lock();
        let (found, at) = record.split_once(' ').unwrap_or(("0", ""));
        let found: u64 = found.parse().unwrap_or_default();
        let trusted = memory.at.elapsed() < TRUSTED;
        if begun.number > memory.answered {
            memory.answered = begun.number;
            memory.at = Instant::now();
        }
        if found >= begun.answered || !trusted {
            return None;
        }
        // Before anybody else asks: what others are answered meanwhile is of the same Redis.
        memory.is_doubtful = true;
        let mut from = BTreeMap::new();
        // Commits that are no longer remembered may have lain anywhere: then only the time says where to begin.
        let first = memory.commits.front();
        if first.is_some_and(|first| first.number <= found + 1) {
            for lost in memory.commits.iter().filter(|commit| commit.number > found) {
                let lowest = from
                    .entry(lost.function.to_string())
                    .or_insert(lost.sequence);
                *lowest = lost.sequence.min(*lowest);
            }
        }
        Some(Regression {
            seen: begun.answered,
            found,
            since: at.parse().unwrap_or(memory.since),
            from,
        })
    }

    /// A look at the record, which writes nothing.
    fn look(&self) -> Begun {
        let answered = self.lock().answered;
        Begun {
            number: answered,
            answered,
        }
    }

    /// Loss of everything, if this worker has committed anything.
    fn all_missing(&self) -> Option<Regression> {
        let regression = self.missing(self.look(), "")?;
        Some(Regression {
            since: 0,
            ..regression
        })
    }

    /// Last restoration that is known, Unix ms.
    fn epoch(&self) -> u64 {
        self.lock().epoch
    }

    fn lock(&self) -> parking_lot::MutexGuard<'_, Memory> {
        self.memory.lock()
    }
}

impl Store {
    /// Learns when lost commits were restored last: those are nobody's loss any more.
    pub async fn learn_epoch(&self) -> Result<(), StoreError> {
        let epoch: Option<u64> = cmd("GET")
            .arg(self.keys.of(EPOCH))
            .query_async(&mut self.connection())
            .await?;
        self.own.lock().epoch = epoch.unwrap_or_default();
        Ok(())
    }

    /// Begins this worker's record, so that a loss before its first commit is found as well.
    pub async fn begin_record(&self, function: &str) -> Result<(), StoreError> {
        if failpoint::sabotaged(Sabotage::NoRecord) {
            return Ok(());
        }
        self.own.lock().is_kept = true;
        let Some(begun) = self.own.begin(&[]) else {
            return Ok(());
        };
        let record = format!("{} {}", begun.number, event::now_ms());
        let mut begin = cmd("SET");
        begin.arg(self.own.key(&self.keys, function)).arg(&record);
        begin.arg("EX").arg(RECORD_S);
        begin.exec_async(&mut self.connection()).await?;
        self.own.missing(begun, &record);
        Ok(())
    }

    /// Asks, behind everything else in `pipe`, for this worker's record: what a Redis answers that does not have it any more
    /// means nothing. The answer is for [`check_record`](Self::check_record).
    pub(super) fn ask_record(&self, function: &str, pipe: &mut redis::Pipeline) -> Begun {
        pipe.cmd("GET").arg(self.own.key(&self.keys, function));
        self.own.look()
    }

    /// Checks the record as it is; a loss is recorded for all, and ends this worker.
    ///
    /// # Errors
    ///
    /// As of [`must_have_all`](Self::must_have_all).
    pub(super) async fn check_record(
        &self,
        function: &str,
        looked: Begun,
        record: Option<String>,
    ) -> Result<(), StoreError> {
        if failpoint::sabotaged(Sabotage::NoRecord) {
            return Ok(());
        }
        self.watch_for_regression(function, looked, &record.unwrap_or_default())
            .await;
        self.must_have_all()
    }

    /// Loss that workers of `functions` have recorded, and of all that are registered, as one; `None` where Redis has not
    /// gone back in time. A Redis that was emptied does not know what was registered, so who looks names those he knows.
    pub async fn regression(&self, functions: &[&str]) -> Result<Option<Regression>, StoreError> {
        let registered = self.registered().await?;
        let mut pipe = redis::pipe();
        for function in both(&registered, functions) {
            pipe.cmd("HVALS").arg(self.keys.regressed(function));
        }
        if pipe.is_empty() {
            return Ok(None);
        }
        let found: Vec<Vec<String>> = pipe.query_async(&mut self.connection()).await?;
        let found = found
            .iter()
            .flatten()
            .filter_map(|json| serde_json::from_str::<Regression>(json).ok());
        Ok(found.reduce(Regression::and))
    }

    /// Records a loss that was found at the start of a worker of `function`: no worker starts until it is restored. One that has
    /// been restored since the worker [learned the epoch](Self::learn_epoch) is none any more.
    pub async fn record_regression(
        &self,
        function: &str,
        regression: &Regression,
    ) -> Result<(), StoreError> {
        let json = serde_json::json!(regression).to_string();
        let epoch = self.own.epoch();
        let key = self.keys.regressed(function);
        let mut record = cmd("FCALL");
        record
            .arg(self.function.replace("commit", "regressed"))
            .arg(1)
            .arg(&key);
        record.arg(epoch).arg("start").arg(&json);
        match record.exec_async(&mut self.connection()).await {
            // An emptied Redis has lost the library and the epoch as well.
            Err(e) if is_library_missing(&e) => {
                let mut record = cmd("HSET");
                record.arg(key).arg("start").arg(json);
                Ok(record.exec_async(&mut self.connection()).await?)
            }
            recorded => Ok(recorded?),
        }
    }

    /// Records that this Redis was emptied, found by a worker of `function`.
    pub async fn record_emptiness(&self, function: &str) -> Result<Regression, StoreError> {
        let regression = Regression {
            seen: 1,
            found: 0,
            since: 0,
            from: BTreeMap::new(),
        };
        self.record_regression(function, &regression).await?;
        Ok(regression)
    }

    /// Streams as this Redis last knew them, by name.
    pub async fn known_streams(&self) -> Result<BTreeMap<String, KnownStream>, StoreError> {
        let all: BTreeMap<String, String> = cmd("HGETALL")
            .arg(self.keys.of(STREAMS))
            .query_async(&mut self.connection())
            .await?;
        let known = all.into_iter();
        let known =
            known.filter_map(|(name, json)| Some((name, serde_json::from_str(&json).ok()?)));
        Ok(known.collect())
    }

    /// Remembers how far a stream is.
    pub async fn know_stream(&self, name: &str, stream: KnownStream) -> Result<(), StoreError> {
        let json = serde_json::json!(stream).to_string();
        let mut know = cmd("HSET");
        know.arg(self.keys.of(STREAMS)).arg(name).arg(json);
        Ok(know.exec_async(&mut self.connection()).await?)
    }

    /// Forgets all streams: what they have lost is taken for lost.
    pub async fn forget_streams(&self) -> Result<(), StoreError> {
        Ok(cmd("DEL")
            .arg(self.keys.of(STREAMS))
            .exec_async(&mut self.connection())
            .await?)
    }

    /// Events of a function that are delivered again by a recovery.
    pub async fn restoring(&self, function: &str) -> Result<Option<Restoring>, StoreError> {
        let json: Option<String> = cmd("HGET")
            .arg(self.keys.of(RESTORING))
            .arg(function)
            .query_async(&mut self.connection())
            .await?;
        Ok(json.and_then(|json| serde_json::from_str(&json).ok()))
    }

    /// Says which events of a function a recovery delivers again.
    pub async fn restore(&self, function: &str, restoring: &Restoring) -> Result<(), StoreError> {
        let json = serde_json::json!(restoring).to_string();
        let mut restore = cmd("HSET");
        restore.arg(self.keys.of(RESTORING)).arg(function).arg(json);
        Ok(restore.exec_async(&mut self.connection()).await?)
    }

    /// Lets workers start again, of `functions` and of all that are registered: the lost effects are being restored. Raises the epoch in the same step, so that a
    /// worker which still misses commits from before it does not complain again.
    pub async fn clear_regression(&self, functions: &[&str]) -> Result<(), StoreError> {
        let registered = self.registered().await?;
        let mut pipe = redis::pipe();
        pipe.atomic()
            .cmd("SET")
            .arg(self.keys.of(EPOCH))
            .arg(event::now_ms())
            .ignore();
        for function in both(&registered, functions) {
            pipe.cmd("DEL").arg(self.keys.regressed(function)).ignore();
        }
        Ok(pipe.exec_async(&mut self.connection()).await?)
    }

    /// Turns to `Some`, with the reason for people, once Redis was found to have gone back in time.
    pub fn regressed(&self) -> tokio::sync::watch::Receiver<Option<String>> {
        self.regressed.subscribe()
    }

    /// Whether Redis still has all that this worker committed, as far as is known.
    ///
    /// # Errors
    ///
    /// It went back in time. Said as that of a server that is away: the commit was made on what is no longer the state, so
    /// its answers mean nothing, and whoever waits for them waits until the worker ends.
    pub(super) fn must_have_all(&self) -> Result<(), StoreError> {
        if failpoint::sabotaged(Sabotage::NoRecord) || !self.own.lock().is_doubtful {
            return Ok(());
        }
        let why = self.regressed.borrow().clone();
        Err(StoreError {
            message: why.unwrap_or_else(|| "Redis lacks what this worker has committed".to_owned()),
            away: true,
        })
    }

    /// Checks the record as it was before a commit; a loss is recorded for all, and ends this worker.
    pub(super) async fn watch_for_regression(&self, function: &str, begun: Begun, record: &str) {
        let Some(mut regression) = self.own.missing(begun, record) else {
            return;
        };
        let mut connection = self.connection();
        if self.is_laid_out().await == Ok(false) {
            regression.since = 0; // emptied: nothing is left of anybody's commits
        }
        let epoch = self.own.epoch();
        let json = serde_json::json!(regression).to_string();
        let mut record = cmd("FCALL");
        record
            .arg(self.function.replace("commit", "regressed"))
            .arg(1)
            .arg(self.keys.regressed(function));
        record.arg(epoch).arg(&self.own.name).arg(json);
        match record.query_async::<u64>(&mut connection).await {
            Ok(now) if now > epoch => {
                tracing::info!(%regression, "commits of this worker were lost and have been restored since");
                let mut memory = self.own.lock();
                memory.epoch = now;
                memory.is_doubtful = false;
                // A commit has written its number by now, a look has not.
                if begun.number == begun.answered {
                    memory.answered = regression.found;
                }
                return;
            }
            Ok(_) => {}
            Err(e) => tracing::error!(error = %e, "cannot record that Redis went back in time"),
        }
        self.regressed.send_replace(Some(regression.to_string()));
    }

    /// Looks, once the library is not there, whether everything else is gone too: recorded, and the end of this worker. A
    /// library that alone is gone is waited for.
    pub(super) async fn watch_for_emptiness(&self, function: &str) {
        if self.is_laid_out().await != Ok(false) {
            return;
        }
        let Some(regression) = self.own.all_missing() else {
            return;
        };
        if let Err(e) = self.record_regression(function, &regression).await {
            tracing::error!(error = %e, "cannot record that Redis was emptied");
            // A primary that was demoted is empty while it copies the other: no word of it counts, and the caller asks again.
            if e.away {
                self.own.lock().is_doubtful = false;
                return;
            }
        }
        self.regressed.send_replace(Some(regression.to_string()));
    }
}

/// Names of both lists, each once.
fn both<'n>(registered: &'n [String], others: &'n [&str]) -> BTreeSet<&'n str> {
    let registered = registered.iter().map(String::as_str);
    registered.chain(others.iter().copied()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_answered_before_a_commit_was_sent_must_be_there() {
        let own = Own::new();
        assert!(own.begin(&[]).is_none(), "nobody keeps a record yet");
        own.lock().is_kept = true;
        let sent = || own.begin(&[]).expect("kept");
        let [first, second, third] = [sent(), sent(), sent()];
        // Executed and answered in any order.
        assert!(own.missing(second, "").is_none() && own.missing(third, "2 5").is_none());
        assert!(own.missing(first, "3 6").is_none());
        assert!(own.missing(sent(), "3 6").is_none());
        let lost = own.missing(sent(), "2 5").expect("two of four are gone");
        assert_eq!((lost.seen, lost.found, lost.since), (4, 2, 5));
        let emptied = own.missing(sent(), "").expect("all are gone");
        assert_eq!((emptied.seen, emptied.found), (5, 0));
    }
}
