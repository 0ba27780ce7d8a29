//! Committing: runs of many keys in one atomic step of Redis, with a status for every event.
//!
//! Before: handlers have run, nothing is written. After `Applied`: row, seen-mark, outputs and
//! ledger entry of the run are in Redis, all of them. After any other status: nothing of the run
//! is. One call of the function library may hold runs of many keys, and each stands or falls by
//! itself.
//!
//! An error that says Redis is away leaves open whether the commit happened. The
//! [batcher](super::batcher) makes the same call again, and the marks of the first answer
//! `duplicate` to the second.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::join_all;
use oncue_core::failpoint;
use oncue_core::store::{CommitEvent, Committed, Fields, Purpose, Run, Status, Store, StoreError};

use crate::worker::batcher::{Batcher, Batching};
use crate::worker::concurrency_limit::ConcurrencyLimit;
use crate::worker::flow_log::FlowLog;
use crate::worker::invocation::{BoxedInvocation, Invocation};
use crate::worker::publisher::PublishBatch;

/// Front of the commit: runs of all keys ride in one call. Shared by the worker, which commits
/// runs, and the settler, which commits dead letters.
pub(crate) struct Committer {
    /// Runs on their way to Redis; one call at a time, and what gathers meanwhile is the next.
    commits: Batcher<Run, CommittedRun>,
    /// Keys between their read and their commit.
    pub limit: ConcurrencyLimit,
    store: Store,
}

/// Events of one key that are committed together, and their row as it will be then.
pub(crate) struct PreparedRun {
    /// Run as Redis gets it: the events of `events` in their order, and the change of their row.
    pub run: Run,
    /// Events whose statuses the answer brings, one for each.
    pub events: Vec<BoxedInvocation>,
    /// Row after the commit, if it is worth remembering.
    pub row_after: Option<Fields>,
}

/// Answer to one run of a commit.
struct CommittedRun {
    /// One for each event of the run, in order.
    statuses: Vec<Status>,
    /// Outputs of the whole commit, where this run has some of them.
    batch: Option<Arc<PublishBatch>>,
}

/// One event after its commit.
pub(crate) struct CommitOutcome {
    pub event: BoxedInvocation,
    /// Status as Redis says, or its refusal of the whole run.
    pub result: Result<Status, StoreError>,
    /// Outputs of the commit that the event was in, if it has some of them.
    pub batch: Option<Arc<PublishBatch>>,
    /// Row as the commit left it, with the first event of a run.
    pub row_after: Option<Fields>,
}

/// All events of a commit, and whether a run of it lost the race for its row.
pub(crate) struct CommitOutcomes {
    pub events: Vec<CommitOutcome>,
    /// Whether all events of some run are in conflict; the [`ConcurrencyLimit`] learns from it.
    pub lost_race: bool,
}

impl Committer {
    /// Starts the task of the batcher.
    pub fn new(store: &Store) -> Self {
        let own = store.clone();
        let store = store.clone();
        Self {
            store: own,
            commits: Batcher::new(Batching::by(weight), move |runs: Arc<Vec<Run>>| {
                let store = store.clone();
                async move { Ok(share_batch(&runs, store.commit(&runs).await?)) }
            }),
            limit: ConcurrencyLimit::default(),
        }
    }

    /// Commits each run whole or not at all.
    ///
    /// Returns when all runs have an answer, in their order. The handlers' time is over; `started`
    /// is for the span of the call.
    pub async fn commit(&self, runs: Vec<PreparedRun>) -> CommitOutcomes {
        let started = oncue_telemetry::clock();
        let mut waiting = Vec::with_capacity(runs.len());
        let mut prepared = Vec::with_capacity(runs.len());
        for PreparedRun {
            run,
            events,
            row_after,
        } in runs
        {
            // All are queued before the first is waited for, so that they go out in one call.
            waiting.push(self.commits.ask(run));
            prepared.push((events, row_after));
        }
        let answers = join_all(waiting).await;
        let mut outcomes = CommitOutcomes {
            events: Vec::new(),
            lost_race: false,
        };
        for ((events, row_after), answer) in prepared.into_iter().zip(answers) {
            match answer {
                Ok(committed) => outcomes.add(events, row_after, committed, started),
                Err(error) => outcomes.add_refused(events, &error),
            }
        }
        outcomes
    }

    /// Commits one event that changes no row.
    async fn commit_alone(&self, event: CommitEvent) -> Result<Option<Status>, StoreError> {
        let run = Run {
            row: None,
            events: vec![event],
        };
        Ok(self.commits.ask(run).await?.statuses.pop())
    }

    /// Answers what has become of an event, and writes nothing: [`Status::Conflict`] where nothing has.
    ///
    /// # Errors
    ///
    /// Redis refuses.
    pub async fn recall(&self, event: &Invocation) -> Result<Status, StoreError> {
        let event = CommitEvent {
            purpose: Purpose::Recall,
            outbox: Bytes::new(),
            ..event.to_commit(Vec::new())
        };
        Ok(self.commit_alone(event).await?.unwrap_or(Status::Conflict))
    }

    /// Takes a run back that was nobody's failure. Where Redis does not take it, it counts as an attempt.
    pub async fn uncount(&self, event: &Invocation) {
        if let Err(e) = self.store.uncount(&event.mark).await {
            tracing::debug!(error = %e, "a run that was nobody's failure counts as an attempt");
        }
    }

    /// Records that an event is set aside; answers what had become of it before.
    ///
    /// Before: the letter is acked by `dlq`. After `Ok`: a mark says `dead`, or one was there
    /// already and its status comes back. Written behind the letter and not before it, since an
    /// event that counts as dead without a letter would be lost.
    ///
    /// # Errors
    ///
    /// Redis refuses. The letter is in `dlq` and holds the event, so the caller acks all the same.
    pub async fn commit_dead_letter(
        &self,
        event: &Invocation,
        flow_log: &FlowLog,
    ) -> Result<Status, StoreError> {
        let event = CommitEvent {
            purpose: Purpose::DeadLetter,
            outbox: Bytes::new(),
            entry: flow_log.entry(event),
            ..event.to_commit(Vec::new())
        };
        Ok(self.commit_alone(event).await?.unwrap_or(Status::Dead))
    }
}

impl CommitOutcomes {
    /// Pairs events with their statuses. `row_after` goes to the first event that is looked at: it
    /// is one row, however many events.
    fn add(
        &mut self,
        events: Vec<BoxedInvocation>,
        mut row_after: Option<Fields>,
        committed: CommittedRun,
        started: Option<std::time::SystemTime>,
    ) {
        // Where only some are in conflict, those were put off by a neighbour and not by another worker.
        let mut statuses = committed.statuses.iter();
        self.lost_race |= statuses.all(|status| *status == Status::Conflict);
        for (mut event, status) in events.into_iter().zip(committed.statuses) {
            event.trace.committed(started, &status);
            failpoint::point("commit.done");
            let has_outputs = status == Status::Applied && !event.outbox.is_empty();
            self.events.push(CommitOutcome {
                batch: committed.batch.clone().filter(|_| has_outputs),
                row_after: row_after.take(),
                event,
                result: Ok(status),
            });
        }
    }

    /// Redis refused the run as a whole: each of its events has that error.
    fn add_refused(&mut self, events: Vec<BoxedInvocation>, error: &StoreError) {
        for event in events {
            self.events.push(CommitOutcome {
                event,
                result: Err(error.clone()),
                batch: None,
                row_after: None,
            });
        }
    }
}

/// Weight of a run in a commit: its events, and the bytes of what follows from them.
fn weight(run: &Run) -> usize {
    let events = run.events.iter();
    // Each 4 KiB of outputs count as one event more, so that a call with large outputs holds fewer
    // of them.
    events.map(|event| 1 + event.outbox.len() / 4096).sum()
}

/// Gives each run its own statuses, and the outputs of the whole commit.
///
/// Counts the events with outputs beforehand, so that the batch knows when the last of them is
/// settled.
fn share_batch(runs: &[Run], committed: Committed) -> Vec<CommittedRun> {
    let with_outputs = runs
        .iter()
        .zip(&committed.statuses)
        .flat_map(|(run, statuses)| run.events.iter().zip(statuses))
        .filter(|(event, status)| **status == Status::Applied && !event.outbox.is_empty())
        .count();
    let batch = committed
        .outbox
        .map(|key| Arc::new(PublishBatch::new(key, with_outputs)));
    let answers = committed.statuses.into_iter();
    answers
        .map(|statuses| CommittedRun {
            batch: batch
                .clone()
                .filter(|_| statuses.contains(&Status::Applied)),
            statuses,
        })
        .collect()
}
