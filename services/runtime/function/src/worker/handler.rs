//! Handling: the author's code runs on each event in turn, and its effects become what to commit.
//!
//! A handler returns what it wants (events, a changed row, blind operations) and performs none of
//! it; files and calls to the outside are the exception. A crash anywhere in this file loses a run
//! and nothing that was written.

mod foreign;

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Instant;

use futures::FutureExt;
use oncue_core::bus::Bus;
use oncue_core::config::Limits;
use oncue_core::failpoint::{self, Sabotage};
use oncue_core::store::{CommitEvent, Fields, Mark, Op, Purpose, RowChange, RowKey, Run, Store};
use oncue_proto::Draft;

use crate::context::Context;
use crate::error::{Error, Result, reject};
use crate::files::FileStore;
use crate::function::Erased;
use crate::state::{AnyRow, RowError, stored_version};
use crate::worker::batcher::{Batcher, Batching};
use crate::worker::committer::PreparedRun;
use crate::worker::counters::Counters;
use crate::worker::flow_log::FlowLog;
use crate::worker::invocation::{
    BoxedInvocation, DeadLetterReason, Invocation, RetryReason, Settlement,
};
use crate::worker::outputs::{self, OutputMaker};
use crate::worker::reader::KeySnapshot;
use crate::worker::row_cache::{self, RowSnapshot};
use crate::worker::watchdog::{self, Watchdog};

/// The function with its limits, and all that its runs touch. Owned by the worker; tasks of all
/// keys call it at once.
pub(crate) struct HandlerRunner {
    /// The author's code, its types erased.
    pub function: Arc<Erased>,
    /// Limits after `oncue.toml` has had its say: timeout of a run and number of attempts are used
    /// here.
    pub limits: Limits,
    /// Connection for the files of a [`Context`]; nothing is published from here.
    bus: Bus,
    /// Runs of events that were delivered before, counted in Redis.
    run_counts: Batcher<Mark, u32>,
    /// Watchdog, which ends the process when a handler keeps the thread.
    watchdog: Arc<Watchdog>,
    /// Durations of runs go here.
    counters: Arc<Counters>,
    /// Ledgers of tracked flows: told of each run that begins.
    flow_log: Arc<FlowLog>,
    /// Makes events of what handlers return.
    outputs: OutputMaker,
}

/// Runs to commit, and events that do not come so far.
pub(crate) struct HandledKey {
    /// To be committed, each whole or not at all.
    pub runs: Vec<PreparedRun>,
    /// To be settled now; nothing of them is committed.
    pub failed: Vec<Failed>,
}

/// An event whose way ends before the commit, and how.
pub(crate) struct Failed {
    pub event: BoxedInvocation,
    pub settlement: Settlement,
}

impl HandledKey {
    fn new() -> Self {
        Self {
            runs: Vec::new(),
            failed: Vec::new(),
        }
    }

    fn fail(&mut self, event: BoxedInvocation, settlement: Settlement) {
        self.failed.push(Failed { event, settlement });
    }

    /// Puts an event alone into a run, without a row, so that no neighbour holds it up.
    fn prepare(&mut self, event: BoxedInvocation, commit: CommitEvent) {
        self.runs.push(PreparedRun {
            run: Run {
                row: None,
                events: vec![commit],
            },
            events: vec![event],
            row_after: None,
        });
    }
}

impl HandlerRunner {
    /// Starts the thread of the watchdog and the task of the batcher.
    pub fn new(
        function: Arc<Erased>,
        limits: Limits,
        bus: &Bus,
        store: &Store,
        counters: Arc<Counters>,
        flow_log: Arc<FlowLog>,
        outputs: OutputMaker,
    ) -> Self {
        let store = store.clone();
        Self {
            // One `INCR` for each event that was delivered before; those of all keys share a round
            // trip.
            run_counts: Batcher::new(Batching::by(|_: &Mark| 1), move |marks| {
                let store = store.clone();
                async move { store.started(&marks).await }
            }),
            watchdog: Watchdog::start(function.name, limits.timeout.0),
            function,
            limits,
            bus: bus.clone(),
            counters,
            flow_log,
            outputs,
        }
    }

    /// Decodes an event and finds its key. `keyed_by` is the author's code: its panic must not take the process with
    /// everybody's events.
    ///
    /// After `Ok` the event holds the decoded value, and its mark holds key and partition. Nothing
    /// later changes them, but for a dead letter that comes before the key.
    ///
    /// # Errors
    ///
    /// A dead letter: the payload is not of the type its headers say, key or headers are out of bounds, or `keyed_by`
    /// panicked.
    pub fn decode(&self, event: &mut Invocation) -> std::result::Result<(), Settlement> {
        let decoded = std::panic::catch_unwind(AssertUnwindSafe(|| {
            let decoded = (self.function.decode)(&event.meta.ty, event.format, &event.payload)?;
            let key = (self.function.key)(&decoded);
            Ok::<_, oncue_proto::DecodeError>((key, decoded))
        }));
        let bounds = &self.outputs.bounds;
        match decoded {
            Ok(Ok((key, decoded))) => {
                // Before anything is done with it: a key is part of Redis keys and of every header that follows.
                let headers = event.delivery.headers();
                let headers = headers.map(|(name, value)| name.len() + value.len() + 4);
                let within = bounds
                    .check_key(&key)
                    .and_then(|()| bounds.check_headers(headers.sum()));
                if let Err(why) = within {
                    return Err(Settlement::dead_letter(DeadLetterReason::Bounds, why));
                }
                event.set_key(&key);
                event.event = Some(decoded);
                Ok(())
            }
            Ok(Err(e)) => Err(Settlement::DeadLetter(
                DeadLetterReason::Unreadable("decode"),
                Error::retry(e.0),
            )),
            Err(_) => Err(Settlement::DeadLetter(
                DeadLetterReason::Unreadable("key"),
                Error::retry("finding its key panicked").at(watchdog::take_panic_site()),
            )),
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
        // Not a run, so it is none of its attempts.
        if let Err(newer) = stored_version(&row.fields, self.function.row_version) {
            self.row_unread(fresh, &newer, &mut handled);
            return handled;
        }
        // Before the row is opened: opening it runs the author's `Deserialize`.
        let fresh = self.count_runs(fresh, &mut handled).await;
        if let Some(call) = &self.function.foreign {
            self.run_foreign(call, key, &row, fresh, &mut handled).await;
            return handled;
        }
        // A row that cannot be read as its struct fails every event of the key: the code is wrong,
        // or the row is. Both can be mended before the attempts are used up.
        let mut state = match (self.function.open)(&row.fields) {
            Ok(state) => state,
            Err(e) => {
                self.row_unread(fresh, &e, &mut handled);
                return handled;
            }
        };
        let mut events = Vec::new();
        let mut commits = Vec::new();
        for mut event in fresh {
            match self.handle(&mut event, state.as_mut()).await {
                Ok(commit) => {
                    // The next event of the key begins with what this one has left.
                    state.keep();
                    commits.push(commit);
                    events.push(event);
                }
                Err(e) => {
                    // As if the failed run had not been: neighbours before and behind it are
                    // committed without it.
                    state.undo();
                    let settlement = Settlement::of_failure(&event, e, self.limits.attempts);
                    handled.fail(event, settlement);
                }
            }
        }
        // Without a row there is nothing that events of a key share, so one that is refused leaves
        // the others alone.
        if self.function.table.is_empty() {
            for (event, commit) in events.into_iter().zip(commits) {
                handled.prepare(event, commit);
            }
        } else if !events.is_empty() {
            match self.row_change(key, &row, state.as_ref()) {
                Ok(change) => self.commit_row(&row, change, events, commits, &mut handled),
                Err(e) => self.fail_all(events, &e, &mut handled),
            }
        }
        handled
    }

    /// Puts the events of a row into one run with its change, if the row is not too large by it.
    fn commit_row(
        &self,
        row: &RowSnapshot,
        change: RowChange,
        events: Vec<BoxedInvocation>,
        commits: Vec<CommitEvent>,
        handled: &mut HandledKey,
    ) {
        let within = self
            .outputs
            .bounds
            .check_row(size_after(&row.fields, &change));
        match within {
            Ok(()) => handled.runs.push(PreparedRun {
                row_after: row_cache::after(&row.fields, &change),
                run: Run {
                    row: Some(change),
                    events: commits,
                },
                events,
            }),
            Err(why) => self.too_large(events, &why, handled),
        }
    }

    /// Rejects the event that makes its row too large. Of several nobody knows which it was: each comes again, alone.
    fn too_large(&self, events: Vec<BoxedInvocation>, why: &str, handled: &mut HandledKey) {
        let alone = events.len() == 1;
        for event in events {
            let why = format!("{}/{}: {why}", self.function.table, event.key());
            let settlement = if alone {
                Settlement::of_failure(&event, reject(why), self.limits.attempts)
            } else {
                Settlement::Retry(RetryReason::Apart(why))
            };
            handled.fail(event, settlement);
        }
    }

    /// Gives events back whose row is for a newer worker, without an attempt; fails them where no worker can read it.
    fn row_unread(&self, events: Vec<BoxedInvocation>, error: &RowError, handled: &mut HandledKey) {
        let table = self.function.table;
        for event in events {
            let settlement = match error {
                // Shown where payloads are not, so without the key.
                RowError::Newer { .. } => {
                    Settlement::Retry(RetryReason::NewerRow(format!("{table}: {error}")))
                }
                RowError::Unreadable(_) => {
                    let why = format!("{table}/{}: {error}", event.key());
                    let error = Error::retry(why).of_class("row");
                    Settlement::of_failure(&event, error, self.limits.attempts)
                }
            };
            handled.fail(event, settlement);
        }
    }

    /// Fails all events for one reason: their row cannot be read, or not be written.
    fn fail_all(&self, events: Vec<BoxedInvocation>, why: &String, handled: &mut HandledKey) {
        for event in events {
            let error = Error::retry(why);
            let settlement = Settlement::of_failure(&event, error, self.limits.attempts);
            handled.fail(event, settlement);
        }
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

    /// Counts one run, where it has to be counted. A first delivery costs no round trip: its count
    /// is 1 by itself. For a later one Redis counts the runs begun, and the first, which nobody
    /// counted, is added. JetStream's own count will not do, since it also counts deliveries that
    /// never came to run.
    ///
    /// A function that runs at most once counts its first run as well; a count above 1 then means
    /// that an earlier run was begun, and nobody knows whether its call was made.
    async fn count_run(&self, event: &mut Invocation) -> std::result::Result<(), Settlement> {
        let once = self.function.at_most_once;
        if once && event.restored {
            return Ok(());
        }
        if once || (event.delivery.info.attempt > 1 && event.runs == 1) {
            match self.run_counts.ask(event.mark.clone()).await {
                Ok(begun) if once && begun > 1 => {
                    return Err(Settlement::dead_letter(
                        DeadLetterReason::OutcomeUnknown,
                        "a run was begun and did not end here: its call may have been made or not",
                    ));
                }
                Ok(begun) => event.runs = begun + u32::from(!once),
                Err(e) => {
                    return Err(Settlement::of_store_error(event, &e, self.limits.attempts));
                }
            }
            failpoint::point("run.counted");
        }
        // Checked before the handler runs: one that kills its process gets no more runs than one
        // that fails.
        if event.runs <= self.limits.attempts {
            return Ok(());
        }
        let runs = event.runs - 1;
        // The words say what the deliveries tell: on probation nobody vouched, so the process is
        // taken to have died.
        let before = if event.on_probation {
            format!("{runs} runs ended without a result, the process with them")
        } else {
            format!("{runs} runs have failed, and its dead letter could not be written then")
        };
        Err(Settlement::dead_letter(DeadLetterReason::Attempts, before))
    }

    /// Change of the row: fields that differ from what was read. Serializing is the author's code
    /// and may refuse.
    fn row_change(
        &self,
        key: &str,
        row: &RowSnapshot,
        state: &dyn AnyRow,
    ) -> std::result::Result<RowChange, String> {
        let (set, del) = state.changes()?;
        Ok(RowChange {
            key: RowKey {
                table: self.function.table,
                key: key.to_owned(),
            },
            basis: row.expected.clone(),
            set,
            del,
        })
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
        if event.restored && self.function.at_most_once {
            // Its call was made; nobody must make it twice.
            return Ok(event.to_commit(Vec::new()));
        }
        let decoded = match event.event.take() {
            Some(decoded) => decoded,
            // A second run after a conflict.
            None => (self.function.decode)(&event.meta.ty, event.format, &event.payload)?,
        };
        let context = Context::new(
            event.meta.clone(),
            event.mark.key.clone(),
            self.function.name,
            self.function.table,
            event.runs,
            FileStore::Bus(self.bus.clone()),
        );
        // In passing and without a wait: who looks at the flow sees that a run is under way.
        self.flow_log.begins(event);
        let started = Instant::now();
        let call = AssertUnwindSafe((self.function.call)(decoded, row, &context)).catch_unwind();
        let limit = self.limits.timeout.0;
        // Inside out: the author's future, the span and log context around it, the watch over each
        // poll.
        let call = self.watchdog.watch(event.trace.around(&event.meta, call));
        let outcome = match tokio::time::timeout(limit, call).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(panic)) => {
                let text = format!("panicked: {}", panic_text(panic.as_ref()));
                Err(Error::retry(text)
                    .of_class("panic")
                    .at(watchdog::take_panic_site()))
            }
            Err(_) => {
                Err(Error::retry(format!("still running after {limit:?}")).of_class("timeout"))
            }
        };
        // Counted whatever the end: a histogram without the failures would show a slow handler as a
        // fast one.
        let class = outcome.as_ref().err().map(|e| e.class);
        self.counters
            .ran(started.elapsed(), class, event.trace.ids());
        let drafts = outcome?;
        self.effects(event, drafts, context.take_ops())
    }

    /// Effects of a run that went well, as they are committed.
    ///
    /// # Errors
    ///
    /// A rejection: outputs that could never be published, names beyond their bounds.
    fn effects(
        &self,
        event: &mut Invocation,
        drafts: Vec<Draft>,
        ops: Vec<Op>,
    ) -> Result<CommitEvent> {
        // Outputs that could never be published are refused here, before the commit, as a rejection
        // of the event.
        event.outputs = self.outputs.prepare(drafts, event)?;
        if event.restored {
            // Published when it was first applied. Another order of events may have made others of them now.
            event.outputs.clear();
        }
        event.outbox = outputs::encode(&event.outputs);
        for op in &ops {
            let member = self.outputs.bounds.check_member(op.change.member());
            member.map_err(|why| reject(format!("table {}: {why}", op.table)))?;
        }
        Ok(CommitEvent {
            entry: self.flow_log.entry(event),
            ..event.to_commit(ops)
        })
    }
}

/// Bytes of a row once it is changed, names and values.
fn size_after(before: &Fields, change: &RowChange) -> usize {
    let kept = before.iter().filter(|(name, _)| {
        !change.del.contains(name) && !change.set.iter().any(|(changed, _)| changed == name)
    });
    let fields = kept.chain(&change.set);
    fields.map(|(name, value)| name.len() + value.len()).sum()
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

/// Text of a panic, if it has one.
///
/// `panic!` with a literal brings a `&str`, with arguments a `String`; anything else has no text.
pub(crate) fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("without a text")
}
