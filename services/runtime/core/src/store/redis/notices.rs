//! Notices of things that are wrong, as consoles keep them together: each notice is told once, whichever of them sees it first.

use std::collections::BTreeMap;

use redis::cmd;

use super::Store;
use crate::store::StoreError;

/// Key, without the app, of a hash: notice -> what is known of it, as JSON.
const NOTICES: &str = "notices";

impl Store {
    /// All of them.
    pub async fn notices(&self) -> Result<BTreeMap<String, String>, StoreError> {
        let mut all = cmd("HGETALL");
        all.arg(self.keys.of(NOTICES));
        Ok(all.query_async(&mut self.connection()).await?)
    }

    /// Writes a notice that is not there; says whether it was this call that did.
    pub async fn add_notice(&self, name: &str, notice: &str) -> Result<bool, StoreError> {
        let mut add = cmd("HSETNX");
        add.arg(self.keys.of(NOTICES)).arg(name).arg(notice);
        Ok(add.query_async(&mut self.connection()).await?)
    }

    /// Writes a notice, whether it is there or not.
    pub async fn set_notice(&self, name: &str, notice: &str) -> Result<(), StoreError> {
        let mut set = cmd("HSET");
        set.arg(self.keys.of(NOTICES)).arg(name).arg(notice);
        Ok(set.exec_async(&mut self.connection()).await?)
    }

    /// Takes a notice away.
    pub async fn remove_notice(&self, name: &str) -> Result<(), StoreError> {
        let mut remove = cmd("HDEL");
        remove.arg(self.keys.of(NOTICES)).arg(name);
        Ok(remove.exec_async(&mut self.connection()).await?)
    }
}
