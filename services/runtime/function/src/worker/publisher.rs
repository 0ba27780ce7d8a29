//! Publishing: what follows from committed events goes to its streams, and their outbox is marked when all of it is there.
//!
//! Before: the events are applied, and their outputs stand in one outbox of Redis for the whole
//! commit. After: each output has a publish ack, or its event is given back and its outputs stay in
//! the outbox. A crash in between leaves the outbox unmarked; whoever gets the event next, or a
//! [relay](super::upkeep), publishes all of it again under the ids that it has had from the start.
//!
//! The ack of an event does not wait for the mark: a commit has one outbox and many events, and a
//! mark that is lost costs copies and no event.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::join_all;
use oncue_core::bus::{Bus, Outbound, PublishError};
use oncue_core::failpoint;
use oncue_core::store::{Store, StoreError, StoredOutputs};
use parking_lot::Mutex;

use crate::worker::batcher::{Batcher, Batching, MAX_BATCH};
use crate::worker::invocation::{BoxedInvocation, Invocation, Outcome, Output};
use crate::worker::letter::{OutputLetters, Results};
use crate::worker::outputs;
use crate::worker::spans::Producer;

/// How long marking an outbox as published may wait for others: to be spared a call for each event, and far less than the
/// relay waits before it publishes them again.
const MARK_LINGER: Duration = Duration::from_millis(50);
/// Longest wait at the end for marks that are on their way.
///
/// After it the process ends with marks unsent, and a relay publishes those outputs once more.
const MARK_DRAIN: Duration = Duration::from_secs(1);

/// Publisher of committed outputs. Shared by the settler, for what was just committed, and the
/// relay, for what stayed behind.
pub(crate) struct Publisher {
    /// Looks into what is refused. Its connection is the one whose publish acks are waited for, its Redis that of
    /// outboxes of which only a part was published, and its counters count outputs sent.
    letters: OutputLetters,
    /// How long published outputs are kept, in case the stream loses them; zero for not at all.
    pub keep_outputs: Duration,
    /// Where batches pay, outputs of many events go out together.
    batches: Option<Batcher<Vec<Outbound>, Results>>,
    /// Outboxes whose outputs are published, by key.
    published_marks: Batcher<String, ()>,
    /// Marks on their way.
    ///
    /// Waited for at the stop.
    marking: AtomicUsize,
}

/// An event that is settled in the store, and the outputs that are to be published of it.
pub(crate) struct CommittedEvent {
    /// Still in flight: the ack comes behind the outputs.
    pub event: BoxedInvocation,
    pub outputs: Vec<Output>,
    /// Outputs of the commit that these are among; none for those of an earlier commit.
    pub batch: Option<Arc<PublishBatch>>,
}

/// An event whose outputs were published, or why they were not.
pub(crate) struct PublishedEvent {
    /// Still in flight, to be settled now.
    pub event: BoxedInvocation,
    /// Last error among the outputs of the event; `None` if all of them are in their streams.
    pub error: Option<PublishError>,
}

/// Outputs of one commit on their way to their streams.
///
/// Shared by all events of the commit that have outputs, though they settle in tasks of their own.
/// The last one to settle marks the outbox; an event that got lost on the way leaves it unmarked,
/// and the relay finds it.
pub(crate) struct PublishBatch {
    /// Redis key of the outbox where they wait.
    key: String,
    /// Settled events so far. Locked for one push.
    progress: Mutex<BatchProgress>,
}

/// Outputs of the commit, sorted by what has become of them.
struct BatchProgress {
    /// Events with outputs that are not settled yet.
    open: usize,
    /// Outputs with a publish ack, by event.
    published: Vec<StoredOutputs>,
    /// Outputs without one, by event.
    unpublished: Vec<StoredOutputs>,
}

/// A batch all of whose events are settled.
pub(crate) struct FinishedBatch {
    /// Redis key of the outbox.
    pub key: String,
    /// Outputs with a publish ack; kept for a while, where `keep_outputs` asks for it.
    pub published: Vec<StoredOutputs>,
    /// Outputs without one; left in the outbox, for the next delivery of their events or for the
    /// relay.
    pub unpublished: Vec<StoredOutputs>,
}

impl CommittedEvent {
    /// Applied just now: the outputs that this run has made are those that were stored.
    pub fn applied(mut event: BoxedInvocation, batch: Option<Arc<PublishBatch>>) -> Self {
        Self {
            outputs: std::mem::take(&mut event.outputs),
            event,
            batch,
        }
    }

    /// Applied before, and these of its stored outputs may not be published yet. What this run made of it was not stored.
    pub fn applied_before(mut event: BoxedInvocation, outbox: Bytes) -> Self {
        event.outbox = outbox.clone();
        Self {
            outputs: outputs::decode(outbox),
            event,
            batch: None,
        }
    }
}

impl PublishBatch {
    /// A batch with outputs of `events` events.
    pub fn new(key: String, events: usize) -> Self {
        let progress = BatchProgress {
            open: events,
            published: Vec::new(),
            unpublished: Vec::new(),
        };
        Self {
            key,
            progress: Mutex::new(progress),
        }
    }

    /// Settles one event. The last one of the commit gets the whole batch back.
    fn settle(&self, event: &Invocation, published: bool) -> Option<FinishedBatch> {
        let outputs = StoredOutputs {
            id: event.mark.id,
            outputs: event.outbox.clone(),
        };
        self.settle_outputs(outputs, published)
    }

    /// `Some` for exactly one call, the last: then nobody else holds anything of the outbox.
    fn settle_outputs(&self, outputs: StoredOutputs, published: bool) -> Option<FinishedBatch> {
        let mut progress = self.progress.lock();
        progress.open = progress.open.saturating_sub(1);
        if published {
            progress.published.push(outputs);
        } else {
            progress.unpublished.push(outputs);
        }
        (progress.open == 0).then(|| FinishedBatch {
            key: self.key.clone(),
            published: std::mem::take(&mut progress.published),
            unpublished: std::mem::take(&mut progress.unpublished),
        })
    }
}

impl Publisher {
    /// `batch_publish` is for a NATS that writes to disk before it answers, where an atomic batch costs one write.
    pub fn new(letters: OutputLetters, keep_outputs: Duration, batch_publish: bool) -> Self {
        Self {
            keep_outputs,
            batches: batch_publish.then(|| batches(&letters.bus)),
            published_marks: published_marks(&letters.store, !keep_outputs.is_zero()),
            letters,
            marking: AtomicUsize::new(0),
        }
    }

    /// Publishes what follows from the events, all at once, and says of each what became of it.
    ///
    /// Returns when each output has an answer; a publish ack that does not come within 5 s counts
    /// as an error. An event counts as published if all of its outputs are.
    pub async fn publish(
        &self,
        events: Vec<CommittedEvent>,
        outcome: Outcome,
    ) -> (Vec<PublishedEvent>, Vec<FinishedBatch>) {
        let mut outputs = Vec::new();
        let mut waiting = Vec::with_capacity(events.len());
        for committed in events {
            waiting.push((committed.event, committed.outputs.len(), committed.batch));
            outputs.extend(committed.outputs);
        }
        // One flat list goes out, so that the outputs of all events share a round trip; the counts
        // take it apart again.
        let mut results = self.publish_outputs(outputs, outcome).await.into_iter();
        let mut published = Vec::with_capacity(waiting.len());
        let mut finished = Vec::new();
        for (event, outputs, batch) in waiting {
            let mut own: Results = results.by_ref().take(outputs).collect();
            self.letters.look_into(&event.outbox, &mut own).await;
            let error = own.into_iter().rev().find_map(Result::err);
            // Settled before the delivery is: an outbox is never marked while an event of it has no
            // answer.
            finished.extend(batch.and_then(|batch| batch.settle(&event, error.is_none())));
            if outputs > 0 && error.is_none() {
                failpoint::point("publish.done");
            }
            published.push(PublishedEvent { event, error });
        }
        (published, finished)
    }

    /// Where batches pay, what was just committed goes out with that of others. Not what was committed before: a batch
    /// with an id that is known is refused whole.
    ///
    /// Results are in the order of the outputs. No output costs no call and no count.
    async fn publish_outputs(&self, outputs: Vec<Output>, outcome: Outcome) -> Results {
        let count = outputs.len();
        if count == 0 {
            return Results::new();
        }
        failpoint::point("publish.begin");
        let started = Instant::now();
        let results = match &self.batches {
            Some(batches) if outcome == Outcome::Applied => {
                publish_together(batches, outputs).await
            }
            _ => self.publish_each(outputs).await,
        };
        let all_taken = results.iter().all(Result::is_ok);
        self.letters
            .counters
            .sent(count, started.elapsed(), all_taken);
        results
    }

    /// Publishes outputs one by one; the answer comes when it is known of all what became of them.
    pub async fn publish_each(&self, outputs: Vec<Output>) -> Results {
        let parts = OutputParts::of(outputs);
        let answers = self.letters.bus.publish_each(parts.messages).await;
        let results = answers.into_iter();
        let results = results.map(|answer| answer.map(|ack| ack.duplicate.then_some(ack)));
        let results: Results = results.collect();
        end_spans(&parts.producers, &results);
        results
    }

    /// Publishes what followed from the events of a commit, all at once; for each event how much that was, or what failed.
    /// Outputs that were `published` once are no news to their stream, and it is not asked what it has under their ids.
    pub async fn publish_stored(
        &self,
        events: &[StoredOutputs],
        published: bool,
    ) -> Vec<Result<usize, PublishError>> {
        let mut outputs: Vec<Output> = Vec::new();
        let mut counts = Vec::with_capacity(events.len());
        for event in events {
            let own = outputs::decode(event.outputs.clone());
            counts.push(own.len());
            outputs.extend(own);
        }
        let mut answers = self.publish_each(outputs).await.into_iter();
        let mut results = Vec::with_capacity(counts.len());
        for (event, count) in events.iter().zip(counts) {
            // All of its answers are taken, whatever the first of them says: the next are another event's.
            let own = answers.by_ref().take(count);
            let own = own.map(|result| result.map(|ack| ack.filter(|_| !published)));
            let mut own: Results = own.collect();
            self.letters.look_into(&event.outputs, &mut own).await;
            let own: Result<Vec<_>, PublishError> = own.into_iter().collect();
            results.push(own.map(|all| all.len()));
        }
        results
    }

    /// Marks outboxes whose events are all settled, together where there are several.
    pub async fn mark_all(&self, finished: Vec<FinishedBatch>) {
        join_all(finished.into_iter().map(|batch| self.mark(batch))).await;
    }

    /// Marks an outbox as published; if some of its outputs are not, those alone stay to be published.
    pub async fn mark(&self, batch: FinishedBatch) {
        // Nothing was published, so the outbox is right as it stands.
        if batch.published.is_empty() && !batch.unpublished.is_empty() {
            return;
        }
        self.marking.fetch_add(1, Ordering::Relaxed);
        // The rare split goes alone; whole outboxes wait for others for [`MARK_LINGER`].
        let marked = if batch.unpublished.is_empty() {
            self.published_marks.ask(batch.key).await
        } else {
            let kept: &[StoredOutputs] = if self.keep_outputs.is_zero() {
                &[]
            } else {
                &batch.published
            };
            self.letters
                .store
                .split(&batch.key, &batch.unpublished, kept)
                .await
        };
        self.marking.fetch_sub(1, Ordering::Relaxed);
        if let Err(e) = marked {
            tracing::warn!(error = %e, "outputs are published but not marked so; the relay will publish them again");
        }
        for _ in batch.published {
            failpoint::point("mark.done");
        }
    }

    /// Waits for marks on their way. A Redis that is away cannot be told; then another worker's relay finds out.
    pub async fn drained(&self) {
        let end = Instant::now() + MARK_DRAIN;
        while self.marking.load(Ordering::Relaxed) > 0 && Instant::now() < end {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// Outputs as messages and spans, in the same order.
struct OutputParts {
    messages: Vec<Outbound>,
    producers: Vec<Option<Producer>>,
}

impl OutputParts {
    fn of(outputs: Vec<Output>) -> Self {
        let mut parts = Self {
            messages: Vec::with_capacity(outputs.len()),
            producers: Vec::with_capacity(outputs.len()),
        };
        for output in outputs {
            parts.messages.push(output.message);
            parts.producers.push(output.producer);
        }
        parts
    }
}

/// Publishes outputs in an atomic batch with those of other runs. An error of the batcher itself
/// means that nobody knows whether they were published.
async fn publish_together(
    batches: &Batcher<Vec<Outbound>, Results>,
    outputs: Vec<Output>,
) -> Results {
    let parts = OutputParts::of(outputs);
    let results = match batches.ask(parts.messages).await {
        Ok(results) => results,
        Err(e) => unknown(&e, parts.producers.len()),
    };
    for _ in &results {
        failpoint::point("publish.one");
    }
    end_spans(&parts.producers, &results);
    results
}

/// One unknown result for each output: publishing again is safe, so nothing has to be found out.
fn unknown(e: &StoreError, outputs: usize) -> Results {
    vec![Err(PublishError::Unknown(e.to_string())); outputs]
}

/// Ends the PRODUCER spans, where there are some, each with the error of its own output.
fn end_spans(producers: &[Option<Producer>], results: &Results) {
    for (producer, result) in producers.iter().zip(results) {
        if let Some(producer) = producer {
            let error = result.as_ref().err().map(ToString::to_string);
            producer.end(error.as_deref());
        }
    }
}

/// Outputs of one run go in, results of each come out. What gathers while a batch is on its way is the next one.
fn batches(bus: &Bus) -> Batcher<Vec<Outbound>, Results> {
    let bus = bus.clone();
    Batcher::new(
        Batching::by(Vec::len),
        move |runs: Arc<Vec<Vec<Outbound>>>| {
            let bus = bus.clone();
            async move {
                let mut results = bus.publish_all(runs.concat()).await.into_iter();
                let runs = runs.iter();
                Ok(runs
                    .map(|run| results.by_ref().take(run.len()).collect())
                    .collect())
            }
        },
    )
}

/// Marks of several commits in one call. With `keep` the outputs stay until they are older than
/// `keep_outputs`.
fn published_marks(store: &Store, keep: bool) -> Batcher<String, ()> {
    let store = store.clone();
    let batching = Batching {
        max_weight: MAX_BATCH,
        weight: |_: &String| 1,
        linger: MARK_LINGER,
    };
    Batcher::new(batching, move |keys: Arc<Vec<String>>| {
        let store = store.clone();
        async move {
            store.published(&keys, keep).await?;
            Ok(vec![(); keys.len()])
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finished(batch: &PublishBatch, id: u8, published: bool) -> Option<FinishedBatch> {
        batch.settle_outputs(
            StoredOutputs {
                id: [id; 16],
                outputs: Bytes::from_static(b"outputs"),
            },
            published,
        )
    }

    #[test]
    fn the_last_event_of_a_commit_gets_the_batch_back() {
        let batch = PublishBatch::new("{p1}:o:f:1".to_owned(), 3);
        assert!(finished(&batch, 1, true).is_none() && finished(&batch, 2, false).is_none());
        let last = finished(&batch, 3, true).expect("all are settled");
        let ids = |outputs: &[StoredOutputs]| outputs.iter().map(|o| o.id[0]).collect::<Vec<_>>();
        assert_eq!(last.key, "{p1}:o:f:1");
        assert_eq!(
            (ids(&last.published), ids(&last.unpublished)),
            (vec![1, 3], vec![2])
        );
    }

    #[test]
    fn a_batch_of_which_an_event_got_lost_is_never_marked() {
        let batch = PublishBatch::new("{p1}:o:f:1".to_owned(), 2);
        assert!(
            finished(&batch, 1, true).is_none(),
            "the other may be unpublished"
        );
    }
}
