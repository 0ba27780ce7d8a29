//! Between the read and the commit: the handler runs on each event in turn, and what it did becomes what to commit.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Instant;

use futures::FutureExt;

use crate::context::Context;
use crate::error::{Error, Result};
use crate::state::AnyRow;
use crate::worker::Worker;
use crate::worker::invocation::{Boxed, Job, Reason};
use crate::worker::outputs;
use crate::worker::row_cache::RowHeld;
use crate::worker::watchdog;
use oncue_core::failpoint::{self, Sabotage};
use oncue_core::store::{CommitEvent, Fields, Op, Purpose, RowChange, RowKey, Run};

impl Worker {
    /// Runs the handler on each event in turn, all on one row, and says what to commit: one run for the row, or one per
    /// event where there is none, and one per event that was seen before. Failures are settled on the way.
    pub async fn run_handlers(
        self: &Arc<Self>,
        key: &str,
        fresh: Vec<Boxed>,
        row: &RowHeld,
        seen: Vec<Boxed>,
    ) -> (Vec<Run>, Vec<Vec<Boxed>>) {
        let (mut runs, mut jobs): (Vec<Run>, Vec<Vec<Boxed>>) = (Vec::new(), Vec::new());
        for job in seen {
            // Nothing to apply: the commit only answers what became of it.
            runs.push(Run {
                row: None,
                events: vec![CommitEvent {
                    purpose: Purpose::Recall,
                    ..handled(&job, Vec::new())
                }],
            });
            jobs.push(vec![job]);
        }
        let fresh = self.count_runs(fresh).await;
        let mut state = match (self.function.open)(&row.fields) {
            Ok(state) => state,
            Err(e) => {
                self.retry_all(fresh, &e);
                return (runs, jobs);
            }
        };
        let (mut ready, mut done) = (Vec::new(), Vec::new());
        for mut job in fresh {
            match self.handle(&mut job, state.as_mut()).await {
                Ok(handled) => {
                    state.keep();
                    ready.push(handled);
                    done.push(job);
                }
                Err(e) => {
                    state.undo();
                    self.fail(job, e);
                }
            }
        }
        if self.function.table.is_empty() {
            runs.extend(ready.into_iter().map(|handled| Run {
                row: None,
                events: vec![handled],
            }));
            jobs.extend(done.into_iter().map(|job| vec![job]));
        } else if !done.is_empty() {
            match self.row_change(key, row, state.as_ref()) {
                Ok(change) => {
                    runs.push(Run {
                        row: Some(change),
                        events: ready,
                    });
                    jobs.push(done);
                }
                Err(e) => self.retry_all(done, &e),
            }
        }
        (runs, jobs)
    }

    /// An event that was delivered before is counted before anything of it runs, so that one which kills the process is
    /// counted too. Returns those that may still be tried.
    async fn count_runs(self: &Arc<Self>, fresh: Vec<Boxed>) -> Vec<Boxed> {
        let mut allowed = Vec::with_capacity(fresh.len());
        for mut job in fresh {
            let once = self.function.at_most_once;
            if once || (job.delivery.info.attempt > 1 && job.runs == 1) {
                match self.starts.ask(job.mark.clone()).await {
                    Ok(begun) if once && begun > 1 => {
                        let before = "a run was begun and did not end here: its call may have been made or not";
                        self.bury(
                            job,
                            Reason::OutcomeUnknown,
                            Error::retry(before).of_class("platform"),
                        );
                        continue;
                    }
                    Ok(begun) => job.runs = begun + u32::from(!once),
                    Err(e) => {
                        self.fault(vec![job], &e);
                        continue;
                    }
                }
                failpoint::point("run.counted");
            }
            if job.runs > self.limits.attempts {
                let runs = job.runs - 1;
                let before = if job.is_alone() {
                    format!("{runs} runs ended without a result, the process with them")
                } else {
                    format!(
                        "{runs} runs have failed, and its dead letter could not be written then"
                    )
                };
                self.bury(
                    job,
                    Reason::Attempts,
                    Error::retry(before).of_class("platform"),
                );
            } else {
                allowed.push(job);
            }
        }
        allowed
    }

    fn row_change(
        &self,
        key: &str,
        row: &RowHeld,
        state: &dyn AnyRow,
    ) -> std::result::Result<RowChange, String> {
        let (set, del): (Fields, Vec<String>) = state.changes()?;
        let key = RowKey {
            table: self.function.table,
            key: key.to_owned(),
        };
        Ok(RowChange {
            key,
            basis: row.basis.clone(),
            set,
            del,
        })
    }

    /// One event through the handler, within its time; a panic is one failed attempt, not the end of its neighbours.
    async fn handle(&self, job: &mut Job, row: &mut dyn AnyRow) -> Result<CommitEvent> {
        let event = match job.event.take() {
            Some(event) => event,
            // A second run after a conflict.
            None => (self.function.decode)(&job.meta.ty, job.format, &job.payload)?,
        };
        let (name, table) = (self.function.name, self.function.table);
        let context = Context::new(
            job.meta.clone(),
            job.mark.key.clone(),
            name,
            table,
            job.runs,
            Some(self.bus.clone()),
        );
        self.note_begin(job);
        let started = Instant::now();
        let call = AssertUnwindSafe((self.function.call)(event, row, &context)).catch_unwind();
        let limit = self.limits.timeout.0;
        let call = self.watchdog.watch(job.trace.around(&job.meta, call));
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
        self.counters.ran(
            started.elapsed(),
            outcome.as_ref().err().map(|e| e.class),
            job.trace.place(),
        );
        let drafts = outcome?;
        job.outputs = outputs::prepare(drafts, job, self.function.name, self.bus.max_payload())?;
        job.outbox = outputs::encode(&job.outputs);
        Ok(CommitEvent {
            entry: self.entry(job),
            ..handled(job, context.take_ops())
        })
    }
}

/// Events that were applied before, and the others.
pub(crate) fn partition(events: Vec<Boxed>, seen: &[bool]) -> (Vec<Boxed>, Vec<Boxed>) {
    if failpoint::sabotaged(Sabotage::NoSeenMarks) {
        return (Vec::new(), events);
    }
    let (mut known, mut fresh) = (Vec::new(), Vec::new());
    for (job, seen) in events.into_iter().zip(seen) {
        if *seen {
            known.push(job)
        } else {
            fresh.push(job)
        }
    }
    (known, fresh)
}

/// What to commit of an event.
pub(crate) fn handled(job: &Job, ops: Vec<Op>) -> CommitEvent {
    let (mark, outbox) = (job.mark.clone(), job.outbox.clone());
    CommitEvent {
        mark,
        payload_hash: job.payload_hash(),
        ops,
        outbox,
        purpose: Purpose::Apply,
        entry: None,
    }
}

pub(crate) fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("without a text")
}
