//! Job: the events of one key on their way through one worker, step by step, as
//! [`Worker::process`](crate::worker) takes them through Redis and NATS. Between two steps the job stops, so that whoever
//! drives it can let others go first, or let the worker die.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Poll, Wake};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::poll_fn;
use futures_util::task::AtomicWaker;
use oncue_core::store::{
    CommitEvent, Entry, Fields, Mark, Purpose, Read, RowKey, Run, RunCount, Status,
};

use super::world::{Member, World, label};
use crate::error::{Error, Result};
use crate::files::FileStore;
use crate::foreign::ForeignCall;
use crate::state::AnyRow;
use crate::worker::effects::{Effects, HandledKey, Onlooker, OpenRow};
use crate::worker::invocation::{
    BoxedInvocation, DeadLetterReason, Invocation, RetryReason, Settlement,
};
use crate::worker::outputs;
use crate::worker::reader::KeySnapshot;
use crate::worker::row_cache::RowSnapshot;

/// Fresh starts after a conflict, as in the worker.
const MAX_RERUNS: usize = 8;

/// Wakes whoever drives the jobs, and remembers which job it was.
pub(super) struct Bell {
    rung: AtomicBool,
    driver: Arc<AtomicWaker>,
}

impl Bell {
    pub fn new(driver: &Arc<AtomicWaker>) -> Arc<Self> {
        Arc::new(Self {
            rung: AtomicBool::new(false),
            driver: driver.clone(),
        })
    }

    /// Whether the job can go on.
    pub fn has_rung(&self) -> bool {
        self.rung.load(Ordering::SeqCst)
    }

    /// The job can go on.
    pub fn ring(&self) {
        self.rung.store(true, Ordering::SeqCst);
    }

    /// Forgets that it has, before the job goes on.
    pub fn reset(&self) {
        self.rung.store(false, Ordering::SeqCst);
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.rung.store(true, Ordering::SeqCst);
        self.driver.wake();
    }
}

/// Job of one worker of one function.
pub(super) struct Job {
    pub world: Arc<World>,
    /// All functions of the app.
    pub members: Arc<[Arc<Member>]>,
    /// Place of the function among them.
    pub function: usize,
    /// Worker of the function, from 0.
    pub worker: usize,
}

impl Job {
    fn member(&self) -> &Member {
        &self.members[self.function]
    }

    fn note(&self, line: impl FnOnce() -> String) {
        let name = self.member().name();
        self.world
            .note(|| format!("{name}, worker {}: {}", self.worker + 1, line()));
    }

    /// End of a step: others may come first now.
    async fn step(&self) {
        let mut has_stopped = false;
        poll_fn(|context| {
            if std::mem::replace(&mut has_stopped, true) {
                return Poll::Ready(());
            }
            context.waker().wake_by_ref();
            Poll::Pending
        })
        .await;
    }

    /// The whole life of the events of one key, from the read to the ack.
    pub async fn process(self, key: Arc<str>, mut events: Vec<BoxedInvocation>) {
        for run in 0..MAX_RERUNS {
            let snapshot = self.read(&key, events, run > 0);
            self.step().await;
            let handled = self.run(&key, snapshot).await;
            self.step().await;
            for failed in handled.failed {
                self.settle(failed.event, failed.settlement).await;
            }
            let runs = handled.runs.iter().map(|run| run.run.clone()).collect();
            let handled = handled.runs.into_iter().flat_map(|run| run.events);
            events = self.commit(runs, handled.collect()).await;
            if events.is_empty() {
                return;
            }
            self.world.lock().tally.conflicts += 1;
        }
        for event in events {
            self.settle(event, Settlement::Retry(RetryReason::Contended))
                .await;
        }
    }

    /// Row of the key, and which of the events were applied before.
    fn read(&self, key: &str, events: Vec<BoxedInvocation>, again: bool) -> KeySnapshot {
        let target = &self.member().intake.target;
        let row = (!target.table.is_empty()).then(|| RowKey {
            table: target.table,
            key: key.to_owned(),
        });
        if row.is_some() {
            self.note(|| format!("reads {}/{key}", target.table));
        }
        let marks: Vec<Mark> = events.iter().map(|event| event.mark.clone()).collect();
        let found = self.world.store.read(&[Read { row, marks }]).remove(0);
        let mut snapshot = KeySnapshot {
            row: found.row.into(),
            fresh: Vec::new(),
            seen: Vec::new(),
        };
        for (event, is_seen) in events.into_iter().zip(found.seen) {
            let is_doubtful = again || target.at_most_once || event.delivery.info.attempt > 1;
            if is_doubtful && is_seen {
                snapshot.seen.push(event);
            } else {
                snapshot.fresh.push(event);
            }
        }
        snapshot
    }

    /// Runs the handler on each fresh event in turn, as the worker does.
    async fn run(&self, key: &str, snapshot: KeySnapshot) -> HandledKey {
        let effects = &self.member().effects;
        let mut handled = HandledKey::new();
        let KeySnapshot { row, fresh, seen } = snapshot;
        for event in seen {
            let recall = CommitEvent {
                purpose: Purpose::Recall,
                ..event.to_commit(Vec::new())
            };
            handled.prepare(event, recall);
        }
        let Some(fresh) = effects.unless_newer(&row, fresh, &mut handled) else {
            return handled;
        };
        let mut allowed = Vec::new();
        for mut event in fresh {
            match self.count_run(&mut event) {
                Ok(()) => allowed.push(event),
                Err(settlement) => handled.fail(event, settlement),
            }
        }
        if let Some(call) = &effects.function.foreign {
            self.run_foreign(call, key, &row, allowed, &mut handled)
                .await;
            return handled;
        }
        let Some(OpenRow { mut state, events }) = effects.open(&row, allowed, &mut handled) else {
            return handled;
        };
        let mut done = Vec::new();
        let mut commits = Vec::new();
        for mut event in events {
            match self.handle(&mut event, state.as_mut()).await {
                Ok(commit) => {
                    state.keep();
                    commits.push(commit);
                    done.push(event);
                }
                Err(e) => {
                    state.undo();
                    let why = e.message.clone();
                    let settlement = Settlement::of_failure(&event, e, effects.limits.attempts);
                    self.note(|| format!("fails on {}: {why}", name(&event)));
                    handled.fail(event, settlement);
                }
            }
        }
        effects.prepare(key, &row, state.as_ref(), done, commits, &mut handled);
        handled
    }

    /// Runs a handler that is elsewhere on all events at once, as the worker does. Its time is its own: a debugger may hold it.
    async fn run_foreign(
        &self,
        call: &ForeignCall,
        key: &str,
        row: &RowSnapshot,
        mut fresh: Vec<BoxedInvocation>,
        handled: &mut HandledKey,
    ) {
        if fresh.is_empty() {
            return;
        }
        for event in &fresh {
            self.note(|| format!("runs {}", name(event)));
        }
        let effects = &self.member().effects;
        let files = FileStore::Memory(self.world.files.clone());
        let run = effects.foreign_run(key, row, &mut fresh, files);
        let answered = call(run).await;
        match answered.and_then(|answer| answer.of_events(fresh.len())) {
            Ok(answer) => {
                for (event, outcome) in fresh.iter().zip(&answer.events) {
                    if let Err(failure) = &outcome.result {
                        self.note(|| format!("fails on {}: {}", name(event), failure.text));
                    }
                }
                effects.take_answer(key, row, fresh, answer, self, handled);
            }
            Err(lost) => {
                self.note(|| format!("fails: {}", lost.text()));
                effects.lose(fresh, &lost, handled);
            }
        }
    }

    fn count_run(&self, event: &mut Invocation) -> std::result::Result<(), Settlement> {
        let effects = &self.member().effects;
        if effects.is_counted(event) {
            let begun = self.world.store.started(&event.mark);
            let since_copy = None;
            effects.take_count(event, RunCount { begun, since_copy })?;
        }
        effects.check_attempts(event)
    }

    async fn handle(&self, event: &mut Invocation, row: &mut dyn AnyRow) -> Result<CommitEvent> {
        let effects = &self.member().effects;
        self.note(|| format!("runs {}", name(event)));
        let files = FileStore::Memory(self.world.files.clone());
        let (decoded, context) = effects.begin(event, files)?;
        let call = (effects.function.call)(decoded, row, &context);
        let call = AssertUnwindSafe(call).catch_unwind();
        let ended = tokio::time::timeout(effects.limits.timeout.0, call).await;
        let drafts = effects.outcome(ended)?;
        effects.finish(event, drafts, context.take_ops(), || self.world.now())
    }

    /// Commits, then publishes and acks what was applied. Returns the events that have to run again.
    async fn commit(&self, runs: Vec<Run>, events: Vec<BoxedInvocation>) -> Vec<BoxedInvocation> {
        if runs.is_empty() {
            return Vec::new();
        }
        let committed = self.world.store.commit(&runs);
        let statuses = committed.statuses.concat();
        for run in &runs {
            self.remember(run);
        }
        for (event, status) in events.iter().zip(&statuses) {
            let said = match status {
                Status::Applied => "applied",
                Status::Duplicate(_) => "applied before",
                Status::Dead => "set aside before",
                Status::Conflict => "conflict, runs again",
                _ => "refused",
            };
            self.note(|| format!("commits {}: {said}", name(event)));
        }
        self.step().await;
        let mut again = Vec::new();
        let mut is_whole = true;
        for (event, status) in events.into_iter().zip(statuses) {
            match status {
                Status::Applied => {
                    self.publish(&event.outbox).await;
                    self.ack(&event).await;
                }
                Status::Duplicate(outbox) => {
                    self.publish(&outbox.unwrap_or_default()).await;
                    self.ack(&event).await;
                }
                Status::Dead => self.ack(&event).await,
                Status::Conflict => again.push(event),
                refused => {
                    is_whole = false;
                    self.settle(event, Settlement::of_refusal(refused)).await;
                }
            }
        }
        if let Some(key) = committed.outbox.filter(|_| is_whole) {
            self.world.store.published(&[key], false);
        }
        again
    }

    /// Remembers where a run has written, for whoever looks at all of it.
    fn remember(&self, run: &Run) {
        let mut inner = self.world.lock();
        if let Some(row) = &run.row {
            let place = (row.key.table.to_owned(), row.key.key.clone());
            inner.places.insert(place);
        }
        for event in &run.events {
            let tables = event.ops.iter().map(|op| op.table.to_owned());
            let key = event.mark.key.to_string();
            inner
                .places
                .extend(tables.map(|table| (table, key.clone())));
        }
    }

    /// Publishes outputs as the store has them, one after the other.
    async fn publish(&self, outbox: &Bytes) {
        for output in outputs::decode(outbox.clone()) {
            let subject = output.message.subject.clone();
            self.note(|| format!("publishes {subject}"));
            self.world.publish(output.message, &self.members);
            self.step().await;
        }
    }

    async fn ack(&self, event: &Invocation) {
        self.note(|| format!("acks {}", name(event)));
        self.world.lock().consumers[self.function].ack(event.number);
        self.step().await;
    }

    /// Ends a delivery, as the settler does.
    async fn settle(&self, mut event: BoxedInvocation, settlement: Settlement) {
        let (reason, error) = match settlement {
            Settlement::Ack(_) => return self.ack(&event).await,
            Settlement::Retry(reason) => {
                let counts_first_runs = self.member().effects.counts_first_runs();
                if Effects::is_free(&reason, &event, counts_first_runs) {
                    self.world.store.uncount(&event.mark);
                }
                let is_vouched = !matches!(reason, RetryReason::Apart(_));
                let consumer = &mut self.world.lock().consumers[self.function];
                return consumer.give_back(event.number, is_vouched);
            }
            Settlement::DeadLetter(reason, error) => (reason, error),
        };
        if event.key().is_empty() && reason.precedes_key() {
            let id = event.meta.id.clone();
            event.set_key(&id);
        }
        event.outputs.clear();
        event.outbox = Bytes::new();
        match self.record(&event, Purpose::Recall) {
            Status::Dead => return self.ack(&event).await,
            Status::Duplicate(outbox) if reason != DeadLetterReason::IdReuse => {
                self.publish(&outbox.unwrap_or_default()).await;
                return self.ack(&event).await;
            }
            _ => {}
        }
        self.set_aside(&event, reason, &error);
        self.step().await;
        if let Status::Duplicate(outbox) = self.record(&event, Purpose::DeadLetter)
            && reason != DeadLetterReason::IdReuse
        {
            // Applied by another worker meanwhile.
            let place = (self.member().name().to_owned(), event.meta.id.clone());
            self.world.lock().letters.remove(&place);
            self.publish(&outbox.unwrap_or_default()).await;
        }
        self.ack(&event).await;
    }

    fn record(&self, event: &Invocation, purpose: Purpose) -> Status {
        let run = Run {
            row: None,
            events: vec![CommitEvent {
                purpose,
                ..event.to_commit(Vec::new())
            }],
        };
        let mut statuses = self.world.store.commit(&[run]).statuses.concat();
        statuses.pop().unwrap_or(Status::Conflict)
    }

    /// Writes the letter of an event.
    fn set_aside(&self, event: &Invocation, reason: DeadLetterReason, error: &Error) {
        let function = self.member().name();
        self.note(|| {
            let why = &error.message;
            format!("sets {} aside, {}: {why}", name(event), reason.as_str())
        });
        let letter = event.to_dead_letter(function, reason, error);
        let place = (function.to_owned(), event.meta.id.clone());
        self.world.lock().letters.insert(place, letter);
    }

    /// Takes a delivery that never comes to a handler to its end.
    pub async fn refuse(self, event: BoxedInvocation, settlement: Settlement) {
        self.settle(event, settlement).await;
    }
}

/// Name of an event in a journal.
pub(super) fn name(event: &Invocation) -> String {
    label(&event.meta.ty, event.key(), &event.meta.id)
}

/// Nobody counts or follows flows here; the time is that of the app.
impl Onlooker for Job {
    fn ran(&self, _: &Invocation, _: Duration, _: Option<&'static str>) {}

    fn row(&self, _: &Invocation, _: &Fields, _: Option<&Fields>, _: usize) {}

    fn entry(&self, _: &Invocation) -> Option<Box<Entry>> {
        None
    }

    fn now(&self) -> u64 {
        self.world.now()
    }
}
