//! Notices of things that are wrong, as consoles keep them together: each is told once, whichever of them sees it first.

use std::collections::BTreeMap;

use redis::cmd;

use super::Store;
use crate::store::StoreError;

/// Keys, without the app, of two hashes: notice -> what is known of it, as JSON; notice -> Unix ms until which nobody is
/// told.
const NOTICES: &str = "notices";
const SILENT: &str = "notices:silent";

/// Everything that consoles keep together.
#[derive(Debug, Clone, Default)]
pub struct KeptNotices {
    /// By name, as JSON.
    pub all: BTreeMap<String, String>,
    /// Until when nobody is told, Unix milliseconds, by name.
    pub silent: BTreeMap<String, u64>,
}

impl Store {
    /// All of them.
    pub async fn notices(&self) -> Result<KeptNotices, StoreError> {
        let mut pipe = redis::pipe();
        pipe.cmd("HGETALL").arg(self.keys.of(NOTICES));
        pipe.cmd("HGETALL").arg(self.keys.of(SILENT));
        let (all, silent) = pipe.query_async(&mut self.connection()).await?;
        Ok(KeptNotices { all, silent })
    }

    /// Writes a notice, whether it is there or not.
    pub async fn set_notice(&self, name: &str, notice: &str) -> Result<(), StoreError> {
        let mut set = cmd("HSET");
        set.arg(self.keys.of(NOTICES)).arg(name).arg(notice);
        Ok(set.exec_async(&mut self.connection()).await?)
    }

    /// Keeps a notice to itself until then, Unix milliseconds.
    pub async fn silence_notice(&self, name: &str, until: u64) -> Result<(), StoreError> {
        let mut set = cmd("HSET");
        set.arg(self.keys.of(SILENT)).arg(name).arg(until);
        Ok(set.exec_async(&mut self.connection()).await?)
    }

    /// Takes a notice away, with its silence.
    pub async fn remove_notice(&self, name: &str) -> Result<(), StoreError> {
        let mut pipe = redis::pipe();
        pipe.cmd("HDEL").arg(self.keys.of(NOTICES)).arg(name);
        pipe.cmd("HDEL").arg(self.keys.of(SILENT)).arg(name);
        Ok(pipe.exec_async(&mut self.connection()).await?)
    }
}
