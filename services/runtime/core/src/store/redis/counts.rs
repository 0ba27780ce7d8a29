//! Counts of functions over all their workers and over all time: each worker adds its own to them every few seconds, so
//! they outlive it.

use std::collections::BTreeMap;

use redis::cmd;

use super::{Store, StoreError};

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
        let key = self.keys.counts(function);
        let mut pipe = redis::pipe();
        pipe.atomic();
        for (name, count) in added {
            pipe.cmd("HINCRBY").arg(&key).arg(name).arg(count).ignore();
        }
        Ok(pipe.exec_async(&mut self.connection()).await?)
    }

    /// Counts of all functions that were let in, by function and name.
    pub async fn counts(&self) -> Result<BTreeMap<String, BTreeMap<String, u64>>, StoreError> {
        let functions = self.registered().await?;
        let mut pipe = redis::pipe();
        for function in &functions {
            pipe.cmd("HGETALL").arg(self.keys.counts(function));
        }
        if functions.is_empty() {
            return Ok(BTreeMap::new());
        }
        let counts: Vec<BTreeMap<String, u64>> = pipe.query_async(&mut self.connection()).await?;
        Ok(functions.into_iter().zip(counts).collect())
    }

    /// Forgets the counts of a function.
    pub(super) async fn forget_counts(&self, function: &str) -> Result<(), StoreError> {
        let mut forget = cmd("DEL");
        forget.arg(self.keys.counts(function));
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
