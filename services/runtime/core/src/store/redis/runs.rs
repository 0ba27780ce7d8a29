//! Runs of handlers, counted before they begin: a run that kills its process counts as well. NATS's own count will not do, since
//! it also counts deliveries that never came to run.

use std::time::Duration;

use redis::{RedisError, Value};

use super::{Mark, Store, StoreError};

/// Run of a handler that is about to begin.
#[derive(Debug, Clone)]
pub struct RunStart {
    /// Identity of its event.
    pub mark: Mark,
    /// Number that no other run has. However often a run is asked about, it counts once: an answer may be lost.
    pub number: u64,
    /// Sequence of the message in its stream; copies of an event have others.
    pub message: u64,
    /// Whether it may begin only where no run of the event has begun before. One that may not is not counted.
    pub only_first: bool,
}

/// Runs of an event that have begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunCount {
    /// Number of them, the one asked about included.
    pub begun: u32,
    /// Time since one has begun for another message of the same event; `None` where that is an hour ago, or never was.
    pub since_copy: Option<Duration>,
}

impl Store {
    /// Counts runs that are about to begin, in order. The counts expire a horizon after the last run.
    ///
    /// # Errors
    ///
    /// Redis is away or refuses: the runs may have been counted, and asking again counts none of them once more.
    pub async fn started(&self, runs: &[RunStart]) -> Result<Vec<RunCount>, StoreError> {
        let Some(first) = runs.first() else {
            return Ok(Vec::new());
        };
        let mut pipe = redis::pipe();
        pipe.cmd("FCALL")
            .arg(self.function.replace("commit", "begin"))
            .arg(2 * runs.len());
        for run in runs {
            let count = self.keys.runs(&run.mark);
            let lately = format!("{count}:t");
            pipe.arg(count).arg(lately);
        }
        for run in runs {
            pipe.arg(run.number)
                .arg(run.message)
                .arg(run.mark.horizon / 1000 + 1)
                .arg(u8::from(run.only_first));
        }
        // A count begins anew in a Redis that was emptied.
        let function = &first.mark.function;
        let looked = self.ask_record(function, &mut pipe);
        let answer: (Vec<(i64, i64)>, Value) = pipe.query_async(&mut self.connection()).await?;
        let record = redis::from_redis_value(answer.1).map_err(RedisError::from)?;
        self.check_record(function, looked, record).await?;
        let counts = answer.0.into_iter().map(|(begun, since_copy)| RunCount {
            // Several copies of an event that never came to run have each taken one back.
            begun: u32::try_from(begun.max(0)).unwrap_or(u32::MAX),
            since_copy: u64::try_from(since_copy).ok().map(Duration::from_millis),
        });
        Ok(counts.collect())
    }

    /// Takes back one run that was nobody's failure: it lost every race for its row, or never came to run. Of an event that
    /// was delivered once, whose run nobody has counted, the count is below 0 then.
    pub async fn uncount(&self, mark: &Mark) -> Result<(), StoreError> {
        let key = self.keys.runs(mark);
        let mut pipe = redis::pipe();
        pipe.cmd("DECR")
            .arg(&key)
            .ignore()
            .cmd("EXPIRE")
            .arg(key)
            .arg(mark.horizon / 1000 + 1)
            .ignore();
        Ok(pipe.exec_async(&mut self.connection()).await?)
    }
}
