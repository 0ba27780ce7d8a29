//! Totals of a function over all its workers: every few seconds each adds what it has counted since, so that sums go on
//! growing when a worker ends, and one place knows them all.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use oncue_core::bus::services::DURATION_BOUNDS;
use oncue_core::store::Store;
use parking_lot::Mutex;

use crate::worker::counters::Counters;

/// Between two reports. A worker that is killed takes with it what it counted since the last.
const REPORT_INTERVAL: Duration = Duration::from_secs(2);

/// Reporter of one worker's counters.
pub(crate) struct Totals {
    function: &'static str,
    store: Store,
    counters: Arc<Counters>,
    /// Counts that are in Redis already.
    reported: Mutex<BTreeMap<String, u64>>,
}

impl Totals {
    /// Reporter of a worker that has reported nothing yet.
    pub fn new(function: &'static str, store: &Store, counters: &Arc<Counters>) -> Self {
        Self {
            function,
            store: store.clone(),
            counters: counters.clone(),
            reported: Mutex::default(),
        }
    }

    /// Reports now and then.
    pub async fn report_for_ever(self: Arc<Self>) {
        loop {
            tokio::time::sleep(REPORT_INTERVAL).await;
            self.report().await;
        }
    }

    /// Adds what was counted since the last report that was taken. One that fails is made up for by the next.
    pub async fn report(&self) {
        let now = counts(&self.counters);
        let added = {
            let reported = self.reported.lock();
            let since = now.iter().map(|(name, count)| {
                let before = reported.get(name).copied().unwrap_or(0);
                (name.clone(), count.saturating_sub(before))
            });
            since.filter(|(_, added)| *added > 0).collect::<Vec<_>>()
        };
        match self.store.add_counts(self.function, &added).await {
            Ok(()) => *self.reported.lock() = now,
            Err(e) => tracing::debug!(error = %e, "counts of the last seconds are not reported"),
        }
    }
}

/// Counts by name: events by what became of them, runs by their duration as `run:MICROSECONDS` up to a bound, and
/// microseconds in sum.
fn counts(counters: &Counters) -> BTreeMap<String, u64> {
    let (runs, nanos) = counters.runs();
    let mut all = BTreeMap::from([("busy".to_owned(), nanos / 1000)]);
    for (name, counter) in [
        ("delivered", &counters.delivered),
        ("applied", &counters.applied),
        ("duplicate", &counters.duplicates),
        ("conflict", &counters.conflicts),
        ("retried", &counters.retried),
        ("dead", &counters.dead),
    ] {
        all.insert(name.to_owned(), counter.load(Ordering::Relaxed));
    }
    let bounds = DURATION_BOUNDS.iter().map(u64::to_string);
    for (bound, count) in bounds.chain(["inf".to_owned()]).zip(runs) {
        all.insert(format!("run:{bound}"), count);
    }
    all
}
