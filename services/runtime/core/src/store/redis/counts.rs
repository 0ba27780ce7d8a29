//! Counts of functions over all their workers and over all time: each worker adds its own to them every few seconds, so
//! they outlive it.

use std::collections::BTreeMap;

use redis::cmd;

use super::{Store, StoreError};

/// Hash of the counts: `FUNCTION\tCOUNT` -> number.
const COUNTS: &str = "counts";

impl Store {
    /// Adds to the counts of a function, in one step.
    ///
    /// # Errors
    ///
    /// Redis is away or refuses: nothing was added, unless its answer alone was lost.
    pub async fn add_counts(
        &self,
        function: &str,
        added: &[(String, u64)],
    ) -> Result<(), StoreError> {
        if added.is_empty() {
            return Ok(());
        }
        let mut pipe = redis::pipe();
        pipe.atomic();
        for (name, count) in added {
            pipe.cmd("HINCRBY")
                .arg(self.keys.of(COUNTS))
                .arg(format!("{function}\t{name}"))
                .arg(count)
                .ignore();
        }
        Ok(pipe.exec_async(&mut self.connection()).await?)
    }

    /// Counts of all functions, by function and name.
    pub async fn counts(&self) -> Result<BTreeMap<String, BTreeMap<String, u64>>, StoreError> {
        let fields: Vec<(String, u64)> = cmd("HGETALL")
            .arg(self.keys.of(COUNTS))
            .query_async(&mut self.connection())
            .await?;
        let mut all: BTreeMap<String, BTreeMap<String, u64>> = BTreeMap::new();
        for (field, count) in fields {
            if let Some((function, name)) = field.split_once('\t') {
                let counts = all.entry(function.to_owned()).or_default();
                counts.insert(name.to_owned(), count);
            }
        }
        Ok(all)
    }

    /// Forgets the counts of a function.
    pub(super) async fn forget_counts(&self, function: &str) -> Result<(), StoreError> {
        let known = self.counts().await?;
        let Some(counts) = known.get(function).filter(|counts| !counts.is_empty()) else {
            return Ok(());
        };
        let mut forget = cmd("HDEL");
        forget.arg(self.keys.of(COUNTS));
        for name in counts.keys() {
            forget.arg(format!("{function}\t{name}"));
        }
        Ok(forget.exec_async(&mut self.connection()).await?)
    }

    /// Bytes that the seen-marks of these functions take, in their order; 0 for a function without any. A sample of each
    /// hash, so about right.
    pub async fn mark_bytes(&self, functions: &[&str]) -> Result<Vec<u64>, StoreError> {
        if functions.is_empty() {
            return Ok(Vec::new());
        }
        let mut pipe = redis::pipe();
        for function in functions {
            pipe.cmd("MEMORY")
                .arg("USAGE")
                .arg(self.keys.marks(function));
        }
        let bytes: Vec<Option<u64>> = pipe.query_async(&mut self.connection()).await?;
        Ok(bytes.into_iter().map(Option::unwrap_or_default).collect())
    }
}
