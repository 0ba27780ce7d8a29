//! Owners of groups of dead letters: who sees to them. Kept as whoever asks has it, by the name of the group.

use std::collections::BTreeMap;

use redis::cmd;

use super::Store;
use crate::store::StoreError;

/// Key, without the app, of the hash: group -> its owner, as JSON.
const OWNERS: &str = "letters:owners";

impl Store {
    /// All owners, by group.
    pub async fn letter_owners(&self) -> Result<BTreeMap<String, String>, StoreError> {
        let mut all = cmd("HGETALL");
        all.arg(self.keys.of(OWNERS));
        Ok(all.query_async(&mut self.connection()).await?)
    }

    /// Writes the owner of a group, in place of the one before.
    pub async fn set_letter_owner(&self, group: &str, owner: &str) -> Result<(), StoreError> {
        let mut set = cmd("HSET");
        set.arg(self.keys.of(OWNERS)).arg(group).arg(owner);
        Ok(set.exec_async(&mut self.connection()).await?)
    }

    /// Takes the owner of a group away; `false` where it had none.
    pub async fn remove_letter_owner(&self, group: &str) -> Result<bool, StoreError> {
        let mut remove = cmd("HDEL");
        remove.arg(self.keys.of(OWNERS)).arg(group);
        Ok(remove.query_async(&mut self.connection()).await?)
    }
}
