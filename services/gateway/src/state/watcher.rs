//! Watching rows: however many clients follow them, one task reads each row once in a while, all of them together. Workers
//! write rows in one step with their marks and outputs, and tell nobody, so this is how a change is found.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use oncue_core::store::Store;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::value::Value;

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
    watched: Mutex<HashMap<WatchedRow, watch::Sender<Seen>>>,
}

impl RowWatcher {
    pub fn new(store: Store) -> Arc<Self> {
        Arc::new(Self {
            store,
            watched: Mutex::default(),
        })
    }

    /// Follows a row for as long as the receiver lives.
    pub fn watch(self: &Arc<Self>, row: WatchedRow) -> watch::Receiver<Seen> {
        let mut watched = self.watched.lock();
        let idle = watched.is_empty();
        let mut observed = watched.entry(row).or_default().subscribe();
        // Of what others have seen already, this one hears as well.
        observed.mark_changed();
        drop(watched);
        if idle {
            tokio::spawn(self.clone().poll());
        }
        observed
    }

    /// Looks at all watched rows again and again, until nobody watches any.
    async fn poll(self: Arc<Self>) {
        loop {
            let rows = self.still_watched();
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

    /// Forgets rows that nobody watches any more, and returns the others. Empty means that the next to watch begins to poll
    /// anew, so it is decided under the lock.
    fn still_watched(&self) -> Vec<WatchedRow> {
        let mut watched = self.watched.lock();
        watched.retain(|_, observed| observed.receiver_count() > 0);
        watched.keys().cloned().collect()
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
        let watched = self.watched.lock();
        if let Some(observed) = watched.get(row) {
            observed.send_if_modified(|before| {
                let changed = *before != now;
                *before = now;
                changed
            });
        }
    }
}
