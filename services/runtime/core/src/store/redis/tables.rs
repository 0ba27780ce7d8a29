//! Owners of tables: the function that writes the rows of each. Kept when it leaves, since its rows stay.

use std::collections::BTreeMap;

use redis::cmd;

use super::Store;
use crate::store::StoreError;

/// Key, without the app, of the hash: table -> function that was let in last as its owner.
pub(super) const TABLES: &str = "tables";

impl Store {
    /// Function that was let in last as the owner of each table, whether it is still there or not.
    pub async fn table_owners(&self) -> Result<BTreeMap<String, String>, StoreError> {
        let mut all = cmd("HGETALL");
        all.arg(self.keys.of(TABLES));
        Ok(all.query_async(&mut self.connection()).await?)
    }

    /// Whether a table has a row. Looks at every key where it has none.
    pub async fn has_rows(&self, table: &str) -> Result<bool, StoreError> {
        let mut cursor = 0;
        loop {
            let page = self.rows(table, cursor).await?;
            cursor = page.next;
            if !page.rows.is_empty() || cursor == 0 {
                return Ok(!page.rows.is_empty());
            }
        }
    }
}
