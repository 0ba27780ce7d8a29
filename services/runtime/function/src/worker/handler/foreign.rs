//! Handling where the author's code is in another process: all events of a key go out with their row, and come back with one
//! change of it.

use std::time::Instant;

use oncue_core::store::{CommitEvent, Fields, Op, RowChange, RowKey, SCHEMA};
use oncue_proto::Draft;
use oncue_proto::event;

use super::HandlerRunner;
use crate::error::{Error, Result};
use crate::files::FileStore;
use crate::foreign::{
    ForeignAnswer, ForeignCall, ForeignEffects, ForeignEvent, ForeignFailure, ForeignFiles,
    ForeignOutcome, ForeignRun, Keyed, Lost, RunPurpose,
};
use crate::state::{author_fields, stored_name, stored_version};
use crate::worker::effects::HandledKey;
use crate::worker::invocation::{
    BoxedInvocation, DeadLetterReason, Invocation, RetryReason, Settlement,
};
use crate::worker::row_cache::{self, RowSnapshot};

/// Class of a rejection whose event could not be read.
const DECODE: &str = "decode";

/// Classes of failures behind which a call may have been made, or not.
const UNKNOWN: [&str; 2] = ["timeout", "unanswered"];

/// Change that a run makes to its row, for those who look on.
struct WatchedChange {
    before: Fields,
    after: Fields,
    /// Events of the run.
    events: usize,
}

impl HandlerRunner {
    /// Runs the handler on fresh events, wherever it is, and says what to commit.
    pub(super) async fn run_foreign(
        &self,
        call: &ForeignCall,
        key: &str,
        row: &RowSnapshot,
        fresh: Vec<BoxedInvocation>,
        handled: &mut HandledKey,
    ) {
        let mut fresh = fresh;
        if self.effects.function.at_most_once {
            // Their calls were made; nobody must make them twice.
            for event in fresh.extract_if(.., |event| event.restored) {
                let commit = event.to_commit(Vec::new());
                handled.prepare(event, commit);
            }
        }
        if fresh.is_empty() {
            return;
        }
        let stored = stored_version(&row.fields, self.effects.function.row_version)
            .unwrap_or(self.effects.function.row_version);
        let run = ForeignRun {
            key: key.into(),
            row_version: stored,
            fields: author_fields(&row.fields),
            events: fresh.iter_mut().map(|event| self.outgoing(event)).collect(),
            purpose: RunPurpose::Apply,
            timeout: self.effects.limits.timeout.0,
            files: ForeignFiles::new(
                FileStore::Bus(self.bus.clone()),
                self.effects.function.declared(),
            ),
        };
        for event in &fresh {
            // In passing and without a wait: who looks at the flow sees that a run is under way.
            self.flow_log.begins(event);
        }
        let started = Instant::now();
        let count = fresh.len();
        let answered = call(run).await;
        let answered = answered.and_then(|answer| answer.of_events(count));
        match answered {
            Ok(answer) => self.take(key, row, fresh, answer, handled),
            Err(lost) => {
                for event in fresh {
                    let class = match &lost {
                        Lost::Row(_) => "row",
                        Lost::Ended { class, .. } => class,
                    };
                    self.counters
                        .ran(started.elapsed(), Some(class), event.trace.ids());
                    let settlement = self.settlement_of_lost(&event, &lost);
                    handled.fail(event, settlement);
                }
            }
        }
    }

    /// An event as the other process gets it.
    fn outgoing(&self, event: &mut BoxedInvocation) -> ForeignEvent {
        let keyed = event.event.take();
        let keyed = keyed.and_then(|keyed| keyed.downcast::<Keyed>().ok());
        let payload = match keyed {
            Some(keyed) => keyed.payload,
            // A second run after a conflict.
            None => self.read_again(event),
        };
        ForeignEvent {
            meta: event.meta.clone(),
            payload,
            attempt: event.runs(),
            ids: event.trace.ids().copied(),
        }
    }

    /// Payload of an event that was read before, so it can be read.
    fn read_again(&self, event: &Invocation) -> bytes::Bytes {
        let read = (self.effects.function.decode)(&event.meta.ty, event.format, &event.payload);
        let keyed = read.ok().and_then(|read| read.downcast::<Keyed>().ok());
        keyed.map_or_else(|| event.payload.clone(), |keyed| keyed.payload)
    }

    /// Makes runs to commit of an answer, and settles what has failed.
    fn take(
        &self,
        key: &str,
        row: &RowSnapshot,
        fresh: Vec<BoxedInvocation>,
        answer: ForeignAnswer,
        handled: &mut HandledKey,
    ) {
        let change = self.foreign_change(key, row, answer.set, &answer.deleted);
        let watched = self.watched_change(row, &change, &fresh);
        let shares_row = !self.effects.function.table.is_empty() && fresh.len() > 1;
        let mut events = Vec::new();
        let mut commits = Vec::new();
        let mut refused = Vec::new();
        for (mut event, outcome) in fresh.into_iter().zip(answer.events) {
            let ForeignOutcome { result, took } = outcome;
            let class = result.as_ref().err().map(|failure| failure.class);
            self.counters.ran(took, class, event.trace.ids());
            match result {
                Ok(ForeignEffects { drafts, ops }) => match self.to_commit(&mut event, drafts, ops)
                {
                    Ok(commit) => {
                        commits.push(commit);
                        events.push(event);
                    }
                    Err(why) => refused.push((event, why)),
                },
                Err(failure) => {
                    self.log_row(&event, watched.as_ref(), false);
                    let settlement = self.settlement_of(&event, failure);
                    handled.fail(event, settlement);
                }
            }
        }
        let is_kept = !shares_row || refused.is_empty();
        for event in &events {
            self.log_row(event, watched.as_ref(), is_kept);
        }
        for (event, _) in &refused {
            self.log_row(event, watched.as_ref(), false);
        }
        // The row has gone on from what is refused here, and nobody can say how it would look without: each comes alone.
        if shares_row && !refused.is_empty() {
            for (event, why) in refused {
                handled.fail(event, Settlement::Retry(RetryReason::Apart(why.message)));
            }
            for event in events {
                let why = "a neighbour on its row was refused".to_owned();
                handled.fail(event, Settlement::Retry(RetryReason::Apart(why)));
            }
            return;
        }
        for (event, why) in refused {
            let settlement = Settlement::of_failure(&event, why, self.effects.limits.attempts);
            handled.fail(event, settlement);
        }
        if self.effects.function.table.is_empty() {
            for (event, commit) in events.into_iter().zip(commits) {
                handled.prepare(event, commit);
            }
        } else if !events.is_empty() {
            self.effects
                .prepare_row(row, change, events, commits, handled);
        }
    }

    /// Row before and after a run, for the log of tracked flows; `None` where there is nothing to log.
    fn watched_change(
        &self,
        row: &RowSnapshot,
        change: &RowChange,
        events: &[BoxedInvocation],
    ) -> Option<WatchedChange> {
        let is_watched = events.iter().any(|event| event.tracked);
        if !is_watched || self.effects.function.table.is_empty() {
            return None;
        }
        let after = row_cache::changed(&row.fields, &change.set, &change.del);
        Some(WatchedChange {
            before: author_fields(&row.fields),
            after: author_fields(&after),
            events: events.len(),
        })
    }

    /// Logs how a run has found its row, and how it leaves it where that is to be kept.
    fn log_row(&self, event: &Invocation, watched: Option<&WatchedChange>, is_kept: bool) {
        if let Some(WatchedChange {
            before,
            after,
            events,
        }) = watched
        {
            let after = is_kept.then_some(after);
            self.flow_log.row(event, before, after, *events);
        }
    }

    /// Effects of a run that went well, as they are committed.
    fn to_commit(
        &self,
        event: &mut Invocation,
        drafts: Vec<Draft>,
        ops: Vec<Op>,
    ) -> Result<CommitEvent> {
        let commit = self.effects.finish(event, drafts, ops, event::now_ms)?;
        Ok(CommitEvent {
            entry: self.flow_log.entry(event),
            ..commit
        })
    }

    /// Change of the row as it is stored, with the version of the row where that is not the first.
    fn foreign_change(
        &self,
        key: &str,
        row: &RowSnapshot,
        set: Fields,
        deleted: &[String],
    ) -> RowChange {
        let mut set: Fields = set
            .into_iter()
            .map(|(name, value)| (stored_name(&name).into_owned(), value))
            .collect();
        let version = self.effects.function.row_version;
        let stored = stored_version(&row.fields, version);
        let is_new = row.fields.is_empty();
        if version > 1 && (is_new || stored != Ok(version)) {
            set.push((SCHEMA.to_owned(), version.to_string().into_bytes()));
        }
        set.sort();
        let deleted = deleted.iter().map(|name| stored_name(name).into_owned());
        RowChange {
            key: RowKey {
                table: self.effects.function.table,
                key: key.to_owned(),
            },
            basis: row.expected.clone(),
            set,
            del: deleted.collect(),
        }
    }

    /// Settlement of an event that its handler has failed on.
    fn settlement_of(&self, event: &Invocation, failure: ForeignFailure) -> Settlement {
        let error = Error {
            rejected: failure.rejected,
            message: failure.text,
            class: failure.class,
            site: failure.place,
            not_before: failure.not_before,
        };
        if self.effects.function.at_most_once && UNKNOWN.contains(&failure.class) {
            return Settlement::DeadLetter(DeadLetterReason::OutcomeUnknown, error);
        }
        if failure.rejected && failure.class == DECODE {
            return Settlement::DeadLetter(DeadLetterReason::Unreadable(DECODE), error);
        }
        Settlement::of_failure(event, error, self.effects.limits.attempts)
    }

    /// Settlement of an event whose run has no answer.
    fn settlement_of_lost(&self, event: &Invocation, lost: &Lost) -> Settlement {
        match lost {
            Lost::Row(why) => {
                let table = self.effects.function.table;
                let why = format!("{table}/{}: {why}", event.key());
                let error = Error::retry(why).of_class("row");
                Settlement::of_failure(event, error, self.effects.limits.attempts)
            }
            Lost::Ended { class, text } => {
                let error = Error::retry(text).of_class(class);
                if self.effects.function.at_most_once {
                    return Settlement::DeadLetter(DeadLetterReason::OutcomeUnknown, error);
                }
                match Settlement::of_failure(event, error, self.effects.limits.attempts) {
                    Settlement::Retry(RetryReason::Failed(error)) => {
                        Settlement::Retry(RetryReason::Killed(error))
                    }
                    settled => settled,
                }
            }
        }
    }
}
