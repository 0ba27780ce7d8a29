//! Things that clients follow, such as flows and rows: each is looked at once for all who follow it, and forgotten when the
//! last of them is gone.

use std::collections::HashMap;
use std::hash::Hash;

use parking_lot::Mutex;
use tokio::sync::watch;

/// Things that are followed, by key, each as it was last seen.
pub struct Watchlist<K, V>(Mutex<HashMap<K, watch::Sender<V>>>);

/// One who follows something.
pub struct Follower<V> {
    /// Tells of the thing as it was last seen, at once, and then of each change.
    pub observed: watch::Receiver<V>,
    /// Whether nothing was followed before: then somebody has to begin to look.
    pub is_first: bool,
}

impl<K, V> Default for Watchlist<K, V> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Eq + Hash + Clone, V: Default + PartialEq> Watchlist<K, V> {
    /// Follows something for as long as the receiver lives.
    pub fn follow(&self, key: K) -> Follower<V> {
        let mut watched = self.0.lock();
        let is_first = watched.is_empty();
        let mut observed = watched.entry(key).or_default().subscribe();
        // Of what others have seen already, this one hears as well.
        observed.mark_changed();
        Follower { observed, is_first }
    }

    /// Forgets what nobody follows any more, and returns the rest. Empty means that the next to follow is the first again, so
    /// it is decided under the lock.
    pub fn followed(&self) -> Vec<K> {
        let mut watched = self.0.lock();
        watched.retain(|_, observed| observed.receiver_count() > 0);
        watched.keys().cloned().collect()
    }

    /// Tells those who follow something how it is now, if that is not as before.
    pub fn tell(&self, key: &K, now: V) {
        if let Some(observed) = self.0.lock().get(key) {
            observed.send_if_modified(|before| {
                let changed = *before != now;
                *before = now;
                changed
            });
        }
    }
}
