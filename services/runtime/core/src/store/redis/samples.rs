//! A day of samples of each function, one a minute, as a console takes them: kept here, so that they outlive it.

use super::{Store, StoreError};

/// Time for which samples are kept, in milliseconds.
pub const SAMPLES_MS: u64 = 24 * 3600 * 1000;

impl Store {
    /// Adds a sample of the minute that began at `at` (Unix ms), and removes those that are older than a day. A second one of
    /// the same minute, of another console, stands beside it.
    pub async fn add_sample(
        &self,
        function: &str,
        at: u64,
        sample: &str,
    ) -> Result<(), StoreError> {
        let key = self.keys.samples(function);
        let mut pipe = redis::pipe();
        pipe.cmd("ZADD").arg(&key).arg(at).arg(sample).ignore();
        pipe.cmd("ZREMRANGEBYSCORE")
            .arg(&key)
            .arg("-inf")
            .arg(at.saturating_sub(SAMPLES_MS))
            .ignore();
        // Those of a function that is gone go with the day.
        pipe.cmd("PEXPIRE").arg(&key).arg(SAMPLES_MS).ignore();
        Ok(pipe.exec_async(&mut self.connection()).await?)
    }

    /// Samples of a function since `from` (Unix ms), oldest first.
    pub async fn samples(&self, function: &str, from: u64) -> Result<Vec<String>, StoreError> {
        let mut question = redis::cmd("ZRANGEBYSCORE");
        question
            .arg(self.keys.samples(function))
            .arg(from)
            .arg("+inf");
        Ok(question.query_async(&mut self.connection()).await?)
    }
}
