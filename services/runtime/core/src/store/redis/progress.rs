//! How far each function is with its stream, and what was taken out of a stream before a function was done with it.

use std::collections::BTreeMap;

use redis::cmd;

use super::Store;
use crate::store::{Progress, Removed, StoreError};

/// Key, without the app, of a sorted set of [`Progress`]: `STREAM CREATED FUNCTION` -> sequence.
const PROGRESS: &str = "progress";
/// Key, without the app, of a hash of [`Removed`] as JSON: `FUNCTION CREATED AFTER` -> what was removed after that sequence.
const REMOVED: &str = "removed";

impl Progress {
    fn member(&self) -> String {
        let Self {
            stream,
            created,
            function,
            ..
        } = self;
        format!("{stream} {created} {function}")
    }
}

impl Store {
    /// Sequence up to which a function was known to be done with this creation of its stream; `None` if nobody has looked.
    /// Only names of `progress` count, not what it has reached.
    pub async fn known_progress(&self, progress: &Progress) -> Result<Option<u64>, StoreError> {
        let known: Option<f64> = cmd("ZSCORE")
            .arg(self.keys.of(PROGRESS))
            .arg(progress.member())
            .query_async(&mut self.connection())
            .await?;
        Ok(known.map(|known| known as u64))
    }

    /// Remembers how far a function is. Several may say so at a time; it never goes back.
    pub async fn know_progress(&self, progress: &Progress) -> Result<(), StoreError> {
        let mut know = cmd("ZADD");
        know.arg(self.keys.of(PROGRESS))
            .arg("GT")
            .arg(progress.reached)
            .arg(progress.member());
        Ok(know.exec_async(&mut self.connection()).await?)
    }

    /// Forgets how far all functions are: the streams are no longer those it was said of.
    pub async fn forget_progress(&self) -> Result<(), StoreError> {
        let mut forget = cmd("DEL");
        forget.arg(self.keys.of(PROGRESS));
        Ok(forget.exec_async(&mut self.connection()).await?)
    }

    /// Messages found to be removed before their function was done with them, by function and place.
    pub async fn removed(&self) -> Result<Vec<Removed>, StoreError> {
        let found: BTreeMap<String, String> = cmd("HGETALL")
            .arg(self.keys.of(REMOVED))
            .query_async(&mut self.connection())
            .await?;
        let found = found.values();
        let mut found: Vec<Removed> = found
            .filter_map(|json| serde_json::from_str(json).ok())
            .collect();
        found.sort_by(|a, b| (&a.function, a.from).cmp(&(&b.function, b.from)));
        Ok(found)
    }

    /// Keeps on record that messages were removed after the sequence `after`, up to which the function was done. Who finds
    /// the same says the same.
    pub async fn record_removed(&self, after: u64, removed: &Removed) -> Result<(), StoreError> {
        let Removed {
            function, created, ..
        } = removed;
        let mut record = cmd("HSET");
        record
            .arg(self.keys.of(REMOVED))
            .arg(format!("{function} {created} {after}"))
            .arg(serde_json::json!(removed).to_string());
        Ok(record.exec_async(&mut self.connection()).await?)
    }

    /// Takes for lost what was removed.
    pub async fn forget_removed(&self) -> Result<(), StoreError> {
        let mut forget = cmd("DEL");
        forget.arg(self.keys.of(REMOVED));
        Ok(forget.exec_async(&mut self.connection()).await?)
    }
}
