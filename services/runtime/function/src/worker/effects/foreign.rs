//! Effects of a handler in another process: what it is asked, and what its answer comes to. The author's test kit goes by this
//! file as well.

use std::time::Duration;

use oncue_core::store::{CommitEvent, Entry, Fields, RowChange, RowKey, SCHEMA};

use super::{Effects, HandledKey};
use crate::error::Error;
use crate::files::FileStore;
use crate::foreign::{
    ForeignAnswer, ForeignEffects, ForeignEvent, ForeignFailure, ForeignFiles, ForeignOutcome,
    ForeignRun, Keyed, Lost, RunPurpose,
};
use crate::state::{author_fields, stored_name, stored_version};
use crate::worker::invocation::{
    BoxedInvocation, DeadLetterReason, Invocation, RetryReason, Settlement,
};
use crate::worker::row_cache::{self, RowSnapshot};

/// Class of a rejection whose event could not be read.
const DECODE: &str = "decode";

/// Classes of failures behind which a call may have been made, or not.
const UNKNOWN: [&str; 2] = ["timeout", "unanswered"];

/// Looks on while an answer is taken: a worker counts, and logs for those who follow a flow.
pub(crate) trait Onlooker {
    /// A run has taken so long, and has failed by this class.
    fn ran(&self, event: &Invocation, took: Duration, class: Option<&'static str>);
    /// A run has found its row so, and leaves it so; `None` where it has failed. `events` were handled by that one run.
    fn row(&self, event: &Invocation, before: &Fields, after: Option<&Fields>, events: usize);
    /// Entry in the ledger of the event's flow.
    fn entry(&self, event: &Invocation) -> Option<Box<Entry>>;
    /// The clock, Unix milliseconds.
    fn now(&self) -> u64;
}

/// Change that a run makes to its row, for those who look on.
struct WatchedChange {
    before: Fields,
    after: Fields,
    /// Events of the run.
    events: usize,
}

impl Effects {
    /// Run for these events of a key, as the other process gets it.
    pub fn foreign_run(
        &self,
        key: &str,
        row: &RowSnapshot,
        fresh: &mut [BoxedInvocation],
        files: FileStore,
    ) -> ForeignRun {
        let version = self.function.row_version;
        ForeignRun {
            key: key.into(),
            row_version: stored_version(&row.fields, version).unwrap_or(version),
            fields: author_fields(&row.fields),
            events: fresh.iter_mut().map(|event| self.outgoing(event)).collect(),
            purpose: RunPurpose::Apply,
            timeout: self.limits.timeout.0,
            files: ForeignFiles::new(files, self.function.declared()),
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
        let read = (self.function.decode)(&event.meta.ty, event.format, &event.payload);
        let keyed = read.ok().and_then(|read| read.downcast::<Keyed>().ok());
        keyed.map_or_else(|| event.payload.clone(), |keyed| keyed.payload)
    }

    /// Makes runs to commit of an answer, and settles what has failed.
    pub fn take_answer(
        &self,
        key: &str,
        row: &RowSnapshot,
        fresh: Vec<BoxedInvocation>,
        answer: ForeignAnswer,
        onlooker: &impl Onlooker,
        handled: &mut HandledKey,
    ) {
        let change = self.foreign_change(key, row, answer.set, &answer.deleted);
        let watched = self.watched_change(row, &change, &fresh);
        let shares_row = !self.function.table.is_empty() && fresh.len() > 1;
        let mut events = Vec::new();
        let mut commits = Vec::new();
        let mut refused = Vec::new();
        for (mut event, outcome) in fresh.into_iter().zip(answer.events) {
            let ForeignOutcome { result, took } = outcome;
            let class = result.as_ref().err().map(|failure| failure.class);
            onlooker.ran(&event, took, class);
            match result {
                Ok(ForeignEffects { drafts, ops }) => {
                    match self.finish(&mut event, drafts, ops, || onlooker.now()) {
                        Ok(commit) => {
                            let entry = onlooker.entry(&event);
                            commits.push(CommitEvent { entry, ..commit });
                            events.push(event);
                        }
                        // Where in this source it was refused means nothing to an author.
                        Err(why) => {
                            let site = String::new();
                            refused.push((event, Error { site, ..why }));
                        }
                    }
                }
                Err(failure) => {
                    log_row(onlooker, &event, watched.as_ref(), false);
                    let settlement = self.settlement_of(&event, failure);
                    handled.fail(event, settlement);
                }
            }
        }
        let is_kept = !shares_row || refused.is_empty();
        for event in &events {
            log_row(onlooker, event, watched.as_ref(), is_kept);
        }
        for (event, _) in &refused {
            log_row(onlooker, event, watched.as_ref(), false);
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
            let settlement = Settlement::of_failure(&event, why, self.limits.attempts);
            handled.fail(event, settlement);
        }
        if self.function.table.is_empty() {
            for (event, commit) in events.into_iter().zip(commits) {
                handled.prepare(event, commit);
            }
        } else if !events.is_empty() {
            self.prepare_row(row, change, events, commits, handled);
        }
    }

    /// Fails events whose run has no answer.
    pub fn lose(&self, fresh: Vec<BoxedInvocation>, lost: &Lost, handled: &mut HandledKey) {
        for event in fresh {
            let settlement = self.settlement_of_lost(&event, lost);
            handled.fail(event, settlement);
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
        if !is_watched || self.function.table.is_empty() {
            return None;
        }
        let after = row_cache::changed(&row.fields, &change.set, &change.del);
        Some(WatchedChange {
            before: author_fields(&row.fields),
            after: author_fields(&after),
            events: events.len(),
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
        let version = self.function.row_version;
        let stored = stored_version(&row.fields, version);
        let is_new = row.fields.is_empty();
        if version > 1 && (is_new || stored != Ok(version)) {
            set.push((SCHEMA.to_owned(), version.to_string().into_bytes()));
        }
        set.sort();
        let deleted = deleted.iter().map(|name| stored_name(name).into_owned());
        RowChange {
            key: RowKey {
                table: self.function.table,
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
        if self.function.at_most_once && UNKNOWN.contains(&failure.class) {
            return Settlement::DeadLetter(DeadLetterReason::OutcomeUnknown, error);
        }
        if failure.rejected && failure.class == DECODE {
            return Settlement::DeadLetter(DeadLetterReason::Unreadable(DECODE), error);
        }
        Settlement::of_failure(event, error, self.limits.attempts)
    }

    /// Settlement of an event whose run has no answer.
    fn settlement_of_lost(&self, event: &Invocation, lost: &Lost) -> Settlement {
        match lost {
            Lost::Row(why) => {
                let table = self.function.table;
                let why = format!("{table}/{}: {why}", event.key());
                let error = Error::retry(why).of_class("row");
                Settlement::of_failure(event, error, self.limits.attempts)
            }
            Lost::Ended { class, text } => {
                let error = Error::retry(text).of_class(class);
                if self.function.at_most_once {
                    return Settlement::DeadLetter(DeadLetterReason::OutcomeUnknown, error);
                }
                match Settlement::of_failure(event, error, self.limits.attempts) {
                    Settlement::Retry(RetryReason::Failed(error)) => {
                        Settlement::Retry(RetryReason::Killed(error))
                    }
                    settled => settled,
                }
            }
        }
    }
}

/// Tells how a run has found its row, and how it leaves it where that is to be kept.
fn log_row(
    onlooker: &impl Onlooker,
    event: &Invocation,
    watched: Option<&WatchedChange>,
    is_kept: bool,
) {
    if let Some(watched) = watched {
        let after = is_kept.then_some(&watched.after);
        onlooker.row(event, &watched.before, after, watched.events);
    }
}
