//! Reading: a delivery as an event, and for the events of one key their row and which of them were applied before.
//!
//! Reads of all keys meet in one [batcher](super::batcher), so what was pulled together is looked
//! up in one pipeline. A crash here loses nothing, since nothing is written.

use std::sync::Arc;

use bytes::Bytes;
use oncue_core::bus::pull::Delivery;
use oncue_core::model::history::Cue;
use oncue_core::store::{Mark, Read, Restoring, Row, RowKey, Store, StoreError};
use oncue_proto::Format;
use oncue_proto::event::{self, Incoming, Meta, Origin, Unreadable};

use crate::worker::batcher::{Batcher, Batching};
use crate::worker::invocation::{BoxedInvocation, Invocation, RetryReason, Settlement};
use crate::worker::row_cache::{RowCache, RowSnapshot};
use crate::worker::spans::Trace;

/// Stream that a worker reads.
#[derive(Debug, Clone)]
pub(crate) struct Source {
    /// Creation time, Unix milliseconds: part of the identity of plain messages.
    pub created: u64,
    /// H, milliseconds: an event older than this cannot be proven new.
    pub horizon: u64,
    /// Events that a recovery delivers again.
    pub restoring: Option<Restoring>,
    /// Events that the function acts on, and did before.
    pub cue: Cue,
}

/// Function for which is read: the part of it that reading needs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Target {
    pub function: &'static str,
    /// Table of its rows; empty for none.
    pub table: &'static str,
    pub at_most_once: bool,
}

/// A function and the stream it reads: all it takes to make invocations of deliveries. Shared with the author's test kit.
pub(crate) struct Intake {
    /// Identity and horizon of the stream, for the marks.
    pub source: Source,
    /// The function's part, for keys of rows and marks.
    pub target: Target,
    /// Name of the function, shared by the marks of all its events.
    function: Arc<str>,
}

/// Reader of deliveries, rows and seen-marks for one function. Owned by the worker. Tasks of all
/// keys call it at once; the batcher and the cache have their own locks.
pub(crate) struct Reader {
    /// Makes invocations, and knows whose they are.
    pub intake: Intake,
    /// Reads on their way; the weight of one is its number of marks, and 1 for a row alone.
    reads: Batcher<Read, oncue_core::store::ReadResult>,
    /// Rows as the own commits left them. The worker puts and clears, this reader takes.
    pub rows: RowCache,
}

/// Result of a read for the events of one key.
pub(crate) struct KeySnapshot {
    /// Row that the handlers begin with; empty for a new key, or for a function without rows.
    pub row: RowSnapshot,
    /// Events not known to be applied, in order.
    pub fresh: Vec<BoxedInvocation>,
    /// Events that were applied or set aside before.
    pub seen: Vec<BoxedInvocation>,
}

/// A read that the store refused, and the events it was for.
pub(crate) struct ReadFailure {
    pub events: Vec<BoxedInvocation>,
    pub error: StoreError,
}

impl Intake {
    /// Allocates the name once, for all marks.
    pub fn new(source: Source, target: Target) -> Self {
        Self {
            source,
            function: target.function.into(),
            target,
        }
    }

    /// Reads a delivery. A message that is no event still becomes an invocation with an identity, so that its dead letter is
    /// written once; the second part says why it is none.
    ///
    /// Waits for nothing. The key is still empty:
    /// [`Effects::decode`](super::effects::Effects::decode) finds it.
    pub fn invocation(
        &self,
        number: u64,
        delivery: Delivery,
    ) -> (BoxedInvocation, Option<Unreadable>) {
        let info = &delivery.info;
        let origin = Origin {
            stream: &info.stream,
            stream_created: self.source.created,
            sequence: info.sequence,
            published: info.published,
            subject: delivery.subject(),
        };
        // Binary mode, structured mode or a plain message: which of them it is the headers say.
        let read = event::read(delivery.headers(), delivery.payload().clone(), &origin);
        let (incoming, unreadable) = match read {
            Ok(incoming) => (incoming, None),
            Err(unreadable) => {
                let incoming = Incoming {
                    meta: Meta::of_unreadable(delivery.headers(), &origin),
                    format: Format::Protobuf,
                    payload: delivery.payload().clone(),
                    dropped: Vec::new(),
                };
                (incoming, Some(unreadable))
            }
        };
        let Incoming {
            meta,
            format,
            payload,
            dropped,
        } = incoming;
        for header in dropped {
            oncue_telemetry::metrics::context_dropped(header);
        }
        // The span begins at the pull, so time in the queue of the key is part of it.
        let trace = Trace::start(&meta, self.target.function, info.attempt, payload.len());
        // Key and partition follow with the decoding. The sequence is what a recovery of Redis
        // looks for.
        let mark = Mark {
            sequence: info.sequence,
            ..Mark::new(self.function.clone(), "", &meta, self.source.horizon)
        };
        let restoring = self.source.restoring.as_ref();
        let restored = restoring.is_some_and(|restoring| restoring.covers(info.sequence));
        let invocation = Invocation {
            number,
            meta: meta.into(),
            format,
            payload,
            event: None,
            mark,
            on_probation: false,
            counted: None,
            outputs: Vec::new(),
            outbox: Bytes::new(),
            tracked: false,
            restored,
            trace,
            delivery,
        };
        (Box::new(invocation), unreadable)
    }
}

impl Reader {
    /// Starts the task of the batcher.
    pub fn new(source: Source, target: Target, store: &Store) -> Self {
        let store = store.clone();
        let batching = Batching::by(|read: &Read| read.marks.len().max(1));
        Self {
            intake: Intake::new(source, target),
            reads: Batcher::new(batching, move |reads| {
                let store = store.clone();
                async move { store.read(&reads).await }
            }),
            rows: RowCache::default(),
        }
    }

    /// Whether the function did not act on the event's type when it came, so that it is none of its events.
    pub fn is_foreign(&self, event: &Invocation) -> bool {
        let delivery = &event.delivery;
        let cue = &self.intake.source.cue;
        cue.precedes(delivery.info.sequence, delivery.subject())
    }

    /// Settlement of an event that cannot be decoded: given back if this program does not act on its type, since another
    /// one does to which the consumer was changed.
    pub fn unless_foreign(&self, event: &mut Invocation, settlement: Settlement) -> Settlement {
        if self
            .intake
            .source
            .cue
            .covers_today(event.delivery.subject())
        {
            return settlement;
        }
        // Only the id can be trusted, and a record needs a key.
        let id = event.meta.id.clone();
        event.set_key(&id);
        let ty = &event.meta.ty;
        Settlement::Retry(RetryReason::OtherProgram(format!(
            "this program does not act on {ty}; restart the function with the one that does"
        )))
    }

    /// Reads the row of the key, and which of the events were applied before. An event that comes for the first time is as
    /// good as certain to be new, and the commit finds out if it is not, so its mark is looked up only then (`again`), or
    /// where a run for nothing could be the second call of what is called once.
    ///
    /// A remembered row stands for a read, unless the key is `contended`: where others work at the same keys as well, what
    /// is remembered is old as a rule.
    pub async fn read(
        &self,
        key: &str,
        events: Vec<BoxedInvocation>,
        again: bool,
        contended: bool,
    ) -> Result<KeySnapshot, ReadFailure> {
        let asked = oncue_telemetry::clock();
        let doubtful = events.iter().filter(|event| self.is_doubtful(event, again));
        let marks: Vec<Mark> = doubtful.map(|event| event.mark.clone()).collect();
        let row = self.row_key(key);
        // Without a mark to look up, a row in memory or no row at all saves the whole round trip.
        if marks.is_empty() {
            if row.is_none() {
                return Ok(KeySnapshot::all_fresh(Row::default().into(), events));
            }
            if !contended && let Some(row) = self.rows.take(key) {
                return Ok(KeySnapshot::all_fresh(row, events));
            }
        }
        let found = match self.reads.ask(Read { row, marks }).await {
            Ok(found) => found,
            Err(error) => return Err(ReadFailure { events, error }),
        };
        for event in &events {
            event.trace.read(asked);
        }
        let mut known = found.seen.into_iter();
        let mut snapshot = KeySnapshot::all_fresh(found.row.into(), Vec::new());
        for event in events {
            if self.is_doubtful(&event, again) && known.next().unwrap_or_default() {
                snapshot.seen.push(event);
            } else {
                snapshot.fresh.push(event);
            }
        }
        Ok(snapshot)
    }

    /// Whether the event may have been applied before, so that its mark is worth a look-up.
    fn is_doubtful(&self, event: &Invocation, again: bool) -> bool {
        again || self.intake.target.at_most_once || event.delivery.info.attempt > 1
    }

    /// `None` for a function without rows.
    fn row_key(&self, key: &str) -> Option<RowKey> {
        let table = self.intake.target.table;
        (!table.is_empty()).then(|| RowKey {
            table,
            key: key.to_owned(),
        })
    }
}

impl KeySnapshot {
    /// Events none of which is known to have been applied.
    fn all_fresh(row: RowSnapshot, fresh: Vec<BoxedInvocation>) -> Self {
        Self {
            row,
            fresh,
            seen: Vec::new(),
        }
    }
}
