//! Rows of a table one page after another, for checks of a new program: not for functions, which know their keys.

use redis::cmd;

use super::wire::{row, stored};
use super::{Store, is_library_missing, next_reply};
use crate::store::{Keys, Row, SCHEMA, StoreError};

/// Keys that one `SCAN` looks at.
const KEYS_AT_A_TIME: usize = 1000;

/// A row with its key; one that was too long to be kept as its hash and partition, see [`Keys::looked_for`].
#[derive(Debug, Clone)]
pub struct KeyedRow {
    pub key: String,
    pub row: Row,
}

/// Part of the rows of a table, in no order.
#[derive(Debug, Clone)]
pub struct RowPage {
    pub rows: Vec<KeyedRow>,
    /// Cursor to go on from; 0 at the end.
    pub next: u64,
}

/// Change of a row by hand.
#[derive(Debug, Clone)]
pub struct RowEdit<'e> {
    pub table: &'e str,
    pub key: &'e str,
    /// Version of the row that was read.
    pub version: u64,
    /// Fields with the text they get, and fields that go.
    pub set: &'e [(String, String)],
    pub unset: &'e [String],
    /// JSON that goes on record.
    pub record: &'e str,
}

/// Key, without the app, of the record of changes by hand.
const EDITS: &str = "edits";

/// Row in a newer version than a program knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewerRow {
    pub key: String,
    pub version: u32,
}

impl Store {
    /// Next rows of a table, from a cursor on, which is 0 at the beginning. A row may come twice, and one that is written
    /// meanwhile not at all.
    pub async fn rows(&self, table: &str, cursor: u64) -> Result<RowPage, StoreError> {
        self.rows_among(table, cursor, KEYS_AT_A_TIME).await
    }

    /// Rows of a table among about so many keys, from a cursor on: as [`rows`](Self::rows), for those who want few.
    pub async fn rows_among(
        &self,
        table: &str,
        cursor: u64,
        count: usize,
    ) -> Result<RowPage, StoreError> {
        let mut c = self.connection();
        let mut scan = cmd("SCAN");
        scan.arg(cursor)
            .arg("MATCH")
            .arg(self.keys.rows(table))
            .arg("COUNT")
            .arg(count)
            .arg("TYPE")
            .arg("hash");
        let (next, keys): (u64, Vec<String>) = scan.query_async(&mut c).await?;
        let mut pipe = redis::pipe();
        for key in &keys {
            pipe.cmd("HGETALL").arg(key);
        }
        let mut replies = self.query(&pipe).await?.into_iter();
        let mut rows = Vec::with_capacity(keys.len());
        for place in keys {
            let row = row(next_reply(&mut replies)?)?;
            // What blind operations have made is no row of a function's own, and one that is gone is none at all.
            if row.fields.is_empty() {
                continue;
            }
            rows.extend(Keys::key_of_row(table, &place).map(|key| KeyedRow { key, row }));
        }
        Ok(RowPage { rows, next })
    }

    /// Members of a set or a ranking; `None` for whatever else stands there, or nothing.
    pub async fn members(&self, table: &str, key: &str) -> Result<Option<u64>, StoreError> {
        let key = self.keys.looked_for(table, key);
        let mut c = self.connection();
        let kind: String = cmd("TYPE").arg(&key).query_async(&mut c).await?;
        let count = match kind.as_str() {
            "set" => "SCARD",
            "zset" => "ZCARD",
            _ => return Ok(None),
        };
        Ok(Some(cmd(count).arg(&key).query_async(&mut c).await?))
    }

    /// Changes a row by hand; `false` if it has changed since it was read. Workers that remember it read it again.
    pub async fn edit(&self, edit: &RowEdit<'_>) -> Result<bool, StoreError> {
        let mut call = cmd("FCALL");
        call.arg(self.function.replace("commit", "edit"))
            .arg(2)
            .arg(self.keys.looked_for(edit.table, edit.key))
            .arg(self.keys.of(EDITS))
            .arg(edit.version)
            .arg(edit.record)
            .arg(edit.set.len());
        // The version stands among the fields: one that an author calls so is stored under another name.
        for (field, value) in edit.set {
            call.arg(&*stored(field)).arg(value);
        }
        for field in edit.unset {
            call.arg(&*stored(field));
        }
        let changed = call.query_async(&mut self.connection()).await;
        changed.map_err(|e| {
            if is_library_missing(&e) {
                StoreError::refused(
                    "Redis does not have the functions of this version; run `oncue apply`",
                )
            } else {
                e.into()
            }
        })
    }

    /// Changes by hand, the last first, as their records say.
    pub async fn edits(&self, most: usize) -> Result<Vec<String>, StoreError> {
        let mut range = cmd("LRANGE");
        range.arg(self.keys.of(EDITS)).arg(-(most as i64)).arg(-1);
        let mut found: Vec<String> = range.query_async(&mut self.connection()).await?;
        found.reverse();
        Ok(found)
    }

    /// First row found of a table that has a newer version than `known`. Reads all of them.
    pub async fn newer_row(&self, table: &str, known: u32) -> Result<Option<NewerRow>, StoreError> {
        let mut cursor = 0;
        loop {
            let page = self.rows(table, cursor).await?;
            for KeyedRow { key, row } in page.rows {
                let version = row.fields.iter().find(|(name, _)| name == SCHEMA);
                let version = version.and_then(|(_, text)| std::str::from_utf8(text).ok());
                let version = version.and_then(|text| text.parse().ok());
                if let Some(version) = version.filter(|version| *version > known) {
                    return Ok(Some(NewerRow { key, version }));
                }
            }
            cursor = page.next;
            if cursor == 0 {
                return Ok(None);
            }
        }
    }
}
