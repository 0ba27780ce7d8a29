//! Queue of finished spans: bounded, and emptied a batch at a time by a thread of its own, which alone talks to the
//! collector. A collector that is slow or away can therefore fill the queue, but never hold up an event. The thread
//! comes to be with the first span, so an idle process has none.
//!
//! | a batch is sent when | |
//! |---|---|
//! | it is full | `OTEL_BSP_MAX_EXPORT_BATCH_SIZE`, 512 spans |
//! | nothing has filled up for so long | `OTEL_BSP_SCHEDULE_DELAY`, 5 s |
//! | the process ends | within the time-out of the close |
//!
//! Spans are counted and not bytes, as the specification has it: at most `OTEL_BSP_MAX_QUEUE_SIZE`
//! (2048) wait, and the newest is lost where there is no room. A batch that is being sent no longer
//! counts.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use opentelemetry_proto::tonic::resource::v1::Resource;
use parking_lot::Mutex;
use prost::Message as _;
use tokio::sync::Notify;

use super::batch::{Batch, Tally};
use super::exporter::Exporter;
use crate::settings::{Destination, Queueing};

/// Way of all finished spans out of the process; one for each process, until its end.
/// Shared by reference, so handing over a span touches no reference count.
#[derive(Debug)]
pub(crate) struct SpanQueue {
    /// Collector or console; the exporter is made of it with the first span.
    destination: Destination,
    /// Encoded OTLP `Resource`.
    resource: Vec<u8>,
    /// Waiting spans and counts, which the thread holds too.
    shared: Arc<Shared>,
    /// Disconnected when the thread has ended.
    thread: OnceLock<Mutex<Receiver<()>>>,
}

/// State that the thread and those who finish spans have in common.
#[derive(Debug)]
struct Shared {
    /// Bounds, `OTEL_BSP_*`.
    how: Queueing,
    /// Held for the copy of one span at a time; never while something is sent.
    waiting: Mutex<Waiting>,
    /// Bytes of the largest batch so far, so that the next one need not grow.
    largest: AtomicUsize,
    /// Signal that a batch is full, or that the end has come.
    ready: Notify,
    /// Set once, when the process ends: the thread sends all there is and ends.
    closing: AtomicBool,
    /// Counts for `oncue.telemetry.spans`.
    tally: Tally,
}

/// Spans that nobody has taken yet.
#[derive(Debug, Default)]
struct Waiting {
    /// Full batches, behind them the one being filled.
    batches: VecDeque<Batch>,
    /// Spans in all of them.
    spans: usize,
}

impl Shared {
    /// Empty queue with these bounds.
    fn new(how: Queueing) -> Self {
        Self {
            how,
            waiting: Mutex::default(),
            largest: AtomicUsize::new(0),
            ready: Notify::new(),
            closing: AtomicBool::new(false),
            tally: Tally::default(),
        }
    }

    /// Takes a finished span; where there is no room it is lost.
    fn put(&self, span: &[u8]) {
        let mut waiting = self.waiting.lock();
        if waiting.spans >= self.how.most {
            return;
        }
        waiting.spans += 1;
        let last = waiting.batches.back();
        if last.is_none_or(|batch| batch.spans >= self.how.batch) {
            let bytes = Vec::with_capacity(self.largest.load(Ordering::Relaxed));
            waiting.batches.push_back(Batch { spans: 0, bytes });
        }
        if let Some(batch) = waiting.batches.back_mut() {
            batch.push(span);
            if batch.spans == self.how.batch {
                self.ready.notify_one();
            }
        }
    }

    /// The next batch, which must be full unless `any` will do.
    fn take(&self, any: bool) -> Option<Batch> {
        let mut waiting = self.waiting.lock();
        let batch = waiting
            .batches
            .pop_front_if(|batch| any || batch.spans >= self.how.batch)?;
        waiting.spans -= batch.spans;
        self.largest.fetch_max(batch.bytes.len(), Ordering::Relaxed);
        Some(batch)
    }
}

impl SpanQueue {
    pub fn new(
        destination: Destination,
        queueing: Queueing,
        resource: &opentelemetry_sdk::Resource,
    ) -> Self {
        let resource = Resource {
            attributes: resource.iter().map(Into::into).collect(),
            ..Resource::default()
        };
        Self {
            destination,
            resource: resource.encode_to_vec(),
            shared: Arc::new(Shared::new(queueing)),
            thread: OnceLock::new(),
        }
    }

    /// Counts since the start.
    pub fn tally(&self) -> &Tally {
        &self.shared.tally
    }

    /// Takes a finished span; never blocks.
    /// Starts the thread when it is the first one.
    pub fn put(&self, span: &[u8]) {
        self.tally().handed.fetch_add(1, Ordering::Relaxed);
        self.shared.put(span);
        self.thread.get_or_init(|| self.start());
    }

    /// Starts the thread. Without one spans fill the queue and are lost, which is logged once.
    fn start(&self) -> Mutex<Receiver<()>> {
        let (alive, ended) = channel();
        let shared = self.shared.clone();
        let exporter = Exporter::new(self.destination.clone(), &self.resource);
        let begun = std::thread::Builder::new()
            .name("spans".into())
            .spawn(move || run(&shared, exporter, alive));
        if let Err(e) = begun {
            tracing::warn!(error = %e, "no thread to send spans; they are lost");
        }
        Mutex::new(ended)
    }

    /// Sends the rest, for at most so long.
    /// Blocks, so it is called where that is allowed. Where no span has come there is nothing to
    /// wait for.
    pub fn close(&self, timeout: Duration) {
        if let Some(thread) = self.thread.get() {
            self.shared.closing.store(true, Ordering::Release);
            self.shared.ready.notify_one();
            if thread.lock().recv_timeout(timeout) == Err(RecvTimeoutError::Timeout) {
                tracing::warn!("spans are still on their way; they are lost");
            }
        }
    }
}

/// Life of the thread; `alive` is dropped at its end.
/// A runtime of its own, since that of the program may be busy or gone, and sending must go on.
fn run(queue: &Shared, mut exporter: Exporter, alive: Sender<()>) {
    let runtime = match tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(e) => return tracing::warn!(error = %e, "no runtime to send spans; they are lost"),
    };
    runtime.block_on(async {
        let mut open = true;
        while open {
            let due = tokio::time::timeout(queue.how.delay, queue.ready.notified())
                .await
                .is_err();
            // Read before the batches are taken, so that what came before the close is still among
            // them.
            open = !queue.closing.load(Ordering::Acquire);
            while let Some(batch) = queue.take(due || !open) {
                let was_full = batch.spans >= queue.how.batch;
                exporter.export(batch, &queue.tally).await;
                if open && !was_full {
                    break; // spans that have come meanwhile wait for their own time
                }
            }
        }
    });
    drop(alive);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_lost_and_nothing_else() {
        let queue = Shared::new(Queueing {
            most: 5,
            batch: 2,
            delay: Duration::from_hours(1),
        });
        for name in ["a", "b", "c", "d", "e", "f"] {
            queue.put(name.as_bytes());
        }
        let sizes: Vec<usize> = std::iter::from_fn(|| queue.take(false))
            .map(|batch| batch.spans)
            .collect();
        assert_eq!(sizes, [2, 2]);
        queue.put(b"g");
        assert_eq!(
            queue.take(false).map(|batch| batch.spans),
            Some(2),
            "there is room again"
        );
        queue.put(b"h");
        assert!(queue.take(false).is_none(), "not full");
        assert_eq!(queue.take(true).map(|batch| batch.spans), Some(1));
        assert!(queue.take(true).is_none());
    }
}
