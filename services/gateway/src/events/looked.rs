//! Knowledge of streams that is looked up on the bus, by one request for all that come meanwhile.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use oncue_core::bus::ApiError;
use parking_lot::Mutex;

use crate::problem::Problem;

/// Knowledge of each stream. Names are of the contract, so there are few.
pub struct Looked<K> {
    streams: Mutex<BTreeMap<String, Arc<Stream<K>>>>,
}

struct Stream<K> {
    known: Mutex<Option<Known<K>>>,
    /// Held while one request looks for all.
    looking: tokio::sync::Mutex<()>,
}

struct Known<K> {
    at: Instant,
    what: K,
}

impl<K> Default for Looked<K> {
    fn default() -> Self {
        Self {
            streams: Mutex::default(),
        }
    }
}

impl<K> Default for Stream<K> {
    fn default() -> Self {
        Self {
            known: Mutex::default(),
            looking: tokio::sync::Mutex::default(),
        }
    }
}

impl<K> Looked<K> {
    /// Lets one request in or not. `judge` is given what is known and how old it is, and answers `None` where that is too
    /// little: then `look`, unless another request does just that, and `judge` again.
    pub async fn admit(
        &self,
        stream: &str,
        judge: impl Fn(&mut K, Duration) -> Option<Result<(), Problem>>,
        look: impl Future<Output = Result<K, ApiError>>,
    ) -> Result<(), Problem> {
        let stream = {
            let mut streams = self.streams.lock();
            streams.entry(stream.to_owned()).or_default().clone()
        };
        if let Some(judged) = stream.judged(&judge) {
            return judged;
        }
        let _looking = stream.looking.lock().await;
        // Somebody may have looked while we waited.
        if let Some(judged) = stream.judged(&judge) {
            return judged;
        }
        let what = look.await?;
        let at = Instant::now();
        *stream.known.lock() = Some(Known { at, what });
        stream.judged(&judge).unwrap_or(Ok(()))
    }
}

impl<K> Stream<K> {
    fn judged(
        &self,
        judge: impl Fn(&mut K, Duration) -> Option<Result<(), Problem>>,
    ) -> Option<Result<(), Problem>> {
        let mut known = self.known.lock();
        let known = known.as_mut()?;
        judge(&mut known.what, known.at.elapsed())
    }
}
