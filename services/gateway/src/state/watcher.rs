//! Watching rows: however many clients follow them, one task reads each row once in a while, all of them together. Workers
//! write rows in one step with their marks and outputs, and tell nobody, so this is how a change is found.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use oncue_core::store::Store;
use tokio::sync::watch;

use super::value::Value;
use crate::flows::watchlist::{Follower, Watchlist};

/// Pause between two looks at a row, while few are looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);
/// Rows looked at in a second, at most: then the looks are further apart.
const ROWS_PER_SECOND: u32 = 2000;
/// Rows that are read at a time, over one line.
const ROWS_PER_READ: usize = 64;

/// Address of a row that is followed.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct WatchedRow {
    pub table: String,
    pub key: String,
}

/// A row as it was last seen.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Seen {
    /// Nobody has looked yet.
    #[default]
    Unread,
    /// Redis does not answer; it will be asked again.
    Away,
    /// There is nothing.
    Gone,
    Value(Arc<Value>),
}

/// Reads all rows that somebody follows.
pub struct RowWatcher {
    store: Store,
    watched: Watchlist<WatchedRow, Seen>,
}

impl RowWatcher {
    pub fn new(store: Store) -> Arc<Self> {
        Arc::new(Self {
            store,
            watched: Watchlist::default(),
        })
    }

    /// Follows a row for as long as the receiver lives.
    pub fn watch(self: &Arc<Self>, row: WatchedRow) -> watch::Receiver<Seen> {
        let Follower { observed, is_first } = self.watched.follow(row);
        if is_first {
            tokio::spawn(self.clone().poll());
        }
        observed
    }

    /// Looks at all watched rows again and again, until nobody watches any.
    async fn poll(self: Arc<Self>) {
        loop {
            let rows = self.watched.followed();
            if rows.is_empty() {
                return;
            }
            for some in rows.chunks(ROWS_PER_READ) {
                join_all(some.iter().map(|row| self.look(row))).await;
            }
            let pace = Duration::from_secs(1) / ROWS_PER_SECOND * rows.len() as u32;
            tokio::time::sleep(LOOK_INTERVAL.max(pace)).await;
        }
    }

    /// One look at a row, told to those who watch it.
    async fn look(&self, row: &WatchedRow) {
        let now = match self.store.show(&row.table, &row.key).await {
            Ok(Some(value)) => Seen::Value(Arc::new(Value::of(value))),
            Ok(None) => Seen::Gone,
            Err(e) => {
                tracing::debug!(error = %e, "cannot look at a row");
                Seen::Away
            }
        };
        self.watched.tell(row, now);
    }
}
