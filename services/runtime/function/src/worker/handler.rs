//! Handling: the author's code runs on each event in turn, and its effects become what to commit.
//!
//! A handler returns what it wants (events, a changed row, blind operations) and performs none of
//! it; files and calls to the outside are the exception. A crash anywhere in this file loses a run
//! and nothing that was written.

mod foreign;

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Instant;

use futures_util::FutureExt;
use oncue_core::bus::Bus;
use oncue_core::failpoint::{self, Sabotage};
use oncue_core::store::{CommitEvent, Fields, Purpose, RunCount, RunStart, Store};
use oncue_proto::event;
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::error::Result;
use crate::files::FileStore;
use crate::state::{AnyRow, author_fields};
use crate::worker::batcher::{Batcher, Batching};
use crate::worker::counters::Counters;
use crate::worker::effects::{Effects, HandledKey, OpenRow};
use crate::worker::flow_log::FlowLog;
use crate::worker::invocation::{BoxedInvocation, Invocation, Settlement};
use crate::worker::reader::KeySnapshot;
use crate::worker::row_cache::{self, RowSnapshot};
use crate::worker::watchdog::Watchdog;

/// The function with its limits, and all that its runs touch. Owned by the worker; tasks of all
/// keys call it at once.
pub(crate) struct HandlerRunner {
    /// The author's code, its limits, and what its runs come to.
    pub effects: Effects,
    /// Connection for the files of a [`Context`]; nothing is published from here.
    bus: Bus,
    /// Runs of events that were delivered before, counted in Redis.
    run_counts: Batcher<RunStart, RunCount>,
    /// Places of runs that are counted as they begin: as many as can be under way in other processes.
    places: Semaphore,
    /// Watchdog, which ends the process when a handler keeps the thread.
    watchdog: Arc<Watchdog>,
    /// Durations of runs go here.
    counters: Arc<Counters>,
    /// Ledgers of tracked flows: told of each run that begins.
    flow_log: Arc<FlowLog>,
}

impl HandlerRunner {
    /// Starts the thread of the watchdog and the task of the batcher.
    pub fn new(
        effects: Effects,
        bus: &Bus,
        store: &Store,
        counters: Arc<Counters>,
        flow_log: Arc<FlowLog>,
    ) -> Self {
        let store = store.clone();
        Self {
            // One count for each event that was delivered before; those of all keys share a round
            // trip.
            run_counts: Batcher::new(Batching::by(|_: &RunStart| 1), move |runs| {
                let store = store.clone();
                async move { store.started(&runs).await }
            }),
            places: Semaphore::new(effects.function.side_by_side.min(Semaphore::MAX_PERMITS)),
            watchdog: Watchdog::start(effects.function.name, effects.limits.timeout.0),
            effects,
            bus: bus.clone(),
            counters,
            flow_log,
        }
    }

    /// Runs the handler on each fresh event in turn, all on one row, and says what to commit: one run for the row, or one
    /// per event where there is none, and one per event that was seen before.
    ///
    /// Before: the row is as Redis, or this worker's last commit, had it. After: no event is lost,
    /// each is in exactly one of the two lists. Handlers of one key share one row in memory, so n
    /// events of a key cost one write of the row.
    pub async fn run(&self, key: &str, snapshot: KeySnapshot) -> HandledKey {
        let mut handled = HandledKey::new();
        let KeySnapshot { row, fresh, seen } = snapshot;
        let (seen, fresh) = with_sabotage(seen, fresh);
        for event in seen {
            // Nothing to apply: the commit only answers what became of it.
            let recall = CommitEvent {
                purpose: Purpose::Recall,
                ..event.to_commit(Vec::new())
            };
            handled.prepare(event, recall);
        }
        let Some(fresh) = self.effects.unless_newer(&row, fresh, &mut handled) else {
            return handled;
        };
        let _place = self.place().await;
        let fresh = self.count_runs(fresh, &mut handled).await;
        if let Some(call) = &self.effects.function.foreign {
            self.run_foreign(call, key, &row, fresh, &mut handled).await;
            return handled;
        }
        let Some(OpenRow { mut state, events }) = self.effects.open(&row, fresh, &mut handled)
        else {
            return handled;
        };
        let fresh = events;
        let mut events = Vec::new();
        let mut commits = Vec::new();
        for mut event in fresh {
            let mut before = self.watched_row(&event, &row, state.as_ref());
            if row.fields.is_empty() && events.is_empty() {
                // A row that is not there yet has no fields, whatever it begins with.
                before = before.map(|_| Fields::new());
            }
            match self.handle(&mut event, state.as_mut()).await {
                Ok(commit) => {
                    // The next event of the key begins with what this one has left.
                    state.keep();
                    if let Some(before) = before {
                        let after = self.watched_row(&event, &row, state.as_ref());
                        self.flow_log.row(&event, &before, after.as_ref(), 1);
                    }
                    commits.push(commit);
                    events.push(event);
                }
                Err(e) => {
                    // As if the failed run had not been: neighbours before and behind it are
                    // committed without it.
                    state.undo();
                    if let Some(before) = before {
                        self.flow_log.row(&event, &before, None, 1);
                    }
                    let settlement =
                        Settlement::of_failure(&event, e, self.effects.limits.attempts);
                    handled.fail(event, settlement);
                }
            }
        }
        let state = state.as_ref();
        self.effects
            .prepare(key, &row, state, events, commits, &mut handled);
        handled
    }

    /// Row as it stands between two runs, for the log of a tracked flow; `None` for any other.
    fn watched_row(
        &self,
        event: &Invocation,
        row: &RowSnapshot,
        state: &dyn AnyRow,
    ) -> Option<Fields> {
        if !event.tracked || self.effects.function.table.is_empty() {
            return None;
        }
        let (set, del) = state.changes().ok()?;
        Some(author_fields(&row_cache::changed(&row.fields, &set, &del)))
    }

    /// Waits until a run that is counted as it begins can begin; at once where runs are counted by themselves.
    async fn place(&self) -> Option<SemaphorePermit<'_>> {
        if !self.effects.counts_first_runs() {
            return None;
        }
        self.places.acquire().await.ok()
    }

    /// Counts the runs of events that were delivered before, ahead of anything that runs of them, so that one which kills
    /// the process is counted too. Returns the events that may still be tried.
    async fn count_runs(
        &self,
        fresh: Vec<BoxedInvocation>,
        handled: &mut HandledKey,
    ) -> Vec<BoxedInvocation> {
        let mut allowed = Vec::with_capacity(fresh.len());
        for mut event in fresh {
            match self.count_run(&mut event).await {
                Ok(()) => allowed.push(event),
                Err(settlement) => handled.fail(event, settlement),
            }
        }
        allowed
    }

    /// Counts one run, where it has to be counted: those of all keys share a round trip.
    async fn count_run(&self, event: &mut Invocation) -> std::result::Result<(), Settlement> {
        let effects = &self.effects;
        if effects.is_counted(event) {
            match self.run_counts.ask(effects.run_start(event)).await {
                Ok(count) => effects.take_count(event, count)?,
                Err(e) => {
                    let attempts = effects.limits.attempts;
                    return Err(Settlement::of_store_error(event, &e, attempts));
                }
            }
            failpoint::point("run.counted");
        }
        effects.check_attempts(event)
    }

    /// One event through the handler, within its time; a panic is one failed attempt, not the end of its neighbours.
    ///
    /// After `Ok` the event holds its outputs, encoded as they will be stored. After an error the
    /// row may hold half of the handler's changes; the caller undoes them.
    ///
    /// # Errors
    ///
    /// Of the author's class, or `panic`, or `timeout` after `limits.timeout`. A timeout drops the
    /// future at its last await; a handler without one is the watchdog's.
    async fn handle(&self, event: &mut Invocation, row: &mut dyn AnyRow) -> Result<CommitEvent> {
        let effects = &self.effects;
        if event.restored && effects.function.at_most_once {
            // Its call was made; nobody must make it twice.
            return Ok(event.to_commit(Vec::new()));
        }
        let files = FileStore::Bus(self.bus.clone());
        let (decoded, context) = effects.begin(event, files)?;
        // In passing and without a wait: who looks at the flow sees that a run is under way.
        self.flow_log.begins(event);
        let started = Instant::now();
        let call = (effects.function.call)(decoded, row, &context);
        let call = AssertUnwindSafe(call).catch_unwind();
        // Inside out: the author's future, the span and log context around it, the watch over each
        // poll.
        let call = self.watchdog.watch(event.trace.around(&event.meta, call));
        let ended = tokio::time::timeout(effects.limits.timeout.0, call).await;
        let outcome = effects.outcome(ended);
        // Counted whatever the end: a histogram without the failures would show a slow handler as a
        // fast one.
        let class = outcome.as_ref().err().map(|e| e.class);
        self.counters
            .ran(started.elapsed(), class, event.trace.ids());
        let commit = effects.finish(event, outcome?, context.take_ops(), event::now_ms)?;
        Ok(CommitEvent {
            entry: self.flow_log.entry(event),
            ..commit
        })
    }
}

/// Events that were seen, and the fresh ones; a broken twin takes all for fresh.
fn with_sabotage(
    seen: Vec<BoxedInvocation>,
    mut fresh: Vec<BoxedInvocation>,
) -> (Vec<BoxedInvocation>, Vec<BoxedInvocation>) {
    if failpoint::sabotaged(Sabotage::NoSeenMarks) {
        fresh.splice(0..0, seen);
        return (Vec::new(), fresh);
    }
    (seen, fresh)
}
