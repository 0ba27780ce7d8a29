//! The worker: [`serve`](Worker::serve) pulls what fits, [`process`](Worker::process) is the whole life of an event.
//!
//! Events of different keys run at the same time, events of one key one after another on one row. Reads and commits
//! of all keys meet in two [`Group`]s, so n keys in flight cost two round trips, not 2n.

mod batcher;
mod concurrency_limit;
mod counters;
pub mod discovery;
mod flow_log;
pub mod handler;
mod in_flight;
mod invocation;
pub mod metrics;
mod outputs;
mod probation;
mod queues;
mod row_cache;
mod settler;
mod shown;
mod spans;
mod upkeep;
pub mod watchdog;

use parking_lot::Mutex;
use std::collections::{HashMap, HashSet, VecDeque};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::join_all;
use oncue_proto::DecodeError;
use tokio::sync::{RwLock, watch};

use crate::error::Error;
use crate::function::Erased;
use crate::worker::batcher::Group;
use crate::worker::concurrency_limit::{Turns, in_turn};
use crate::worker::discovery::Counters;
use crate::worker::flow_log::Hops;
use crate::worker::handler::partition;
use crate::worker::in_flight::Hand;
use crate::worker::invocation::{Boxed, Job, Pulse, Reason};
use crate::worker::outputs::Outgoing;
use crate::worker::probation::Survivors;
use crate::worker::queues::{Batches, GROUP, batches, group, marks, shared, weight};
use crate::worker::row_cache::{RowHeld, Rows};
use crate::worker::settler::Done;
use crate::worker::watchdog::Watchdog;
use oncue_core::bus::Bus;
use oncue_core::bus::pull::{Delivery, Pull};
use oncue_core::config::{FlowsConfig, Limits, Track};
use oncue_core::failpoint::{self, Sabotage};
use oncue_core::store::{
    Fields, Mark, Read, ReadResult, Row, RowKey, Run, Status, StepUpdate, Store, StoreError,
};
use oncue_proto::event::MAX_HOPS;

/// Fresh starts after `conflict` before an event goes back to the stream.
const RERUNS: usize = 8;

/// Runs, the events of each, and what the row will be.
type ToCommit = (Vec<Run>, Vec<Vec<Boxed>>, Option<Fields>);

/// One function at work in one process.
pub(crate) struct Worker {
    pub function: Erased,
    pub limits: Limits,
    /// H of the stream it reads, milliseconds.
    pub horizon: u64,
    /// How long published outputs are kept, in case the stream loses them; zero for not at all.
    pub keep_outputs: Duration,
    pub stream_created: u64,
    pub bus: Bus,
    pub store: Store,
    pub counters: Counters,
    reads: Group<Read, ReadResult>,
    pub commits: Group<Run, (Vec<Status>, Option<Arc<Outgoing>>)>,
    pub starts: Group<Mark, u32>,
    pub marks: Group<String, ()>,
    /// Outboxes on their way there.
    pub unmarked: AtomicUsize,
    pub notes: Group<StepUpdate, ()>,
    /// Which flows have a ledger besides those whose client asked, and for how long it stays.
    track: Track,
    pub keep_flows: Duration,
    pub hops: Hops,
    /// Where batches pay, outputs of many events go out together.
    pub batches: Option<Batches>,
    /// Events waiting for their turn, by key; a key is present while a task works on it.
    lanes: Mutex<HashMap<Arc<str>, VecDeque<Boxed>>>,
    pub hand: Hand,
    turns: Turns,
    rows: Rows,
    /// Held from the read to the commit, shared, but alone by an event that was delivered before: one that kills the
    /// process then takes no neighbour with it.
    probation: RwLock<()>,
    pub pulse: Pulse,
    pub watchdog: Arc<Watchdog>,
    pub survivors: Survivors,
}

/// What the configuration says of how to deliver.
pub(crate) struct Settings {
    /// H of the stream it reads, milliseconds.
    pub horizon: u64,
    pub keep_outputs: Duration,
    pub batch_publish: bool,
    pub flows: FlowsConfig,
}

impl Worker {
    pub fn new(
        function: Erased,
        limits: Limits,
        settings: &Settings,
        stream_created: u64,
        bus: Bus,
        store: Store,
    ) -> Arc<Self> {
        Arc::new(Self {
            batches: settings.batch_publish.then(|| batches(&bus)),
            pulse: Pulse::new(limits.ack_wait.0),
            watchdog: Watchdog::start(function.name, limits.timeout.0),
            hand: Hand::new(limits.concurrency, bus.max_payload()),
            function,
            limits,
            horizon: settings.horizon,
            keep_outputs: settings.keep_outputs,
            stream_created,
            bus,
            reads: group(
                &store,
                |ask: &Read| ask.marks.len().max(1),
                |store, asks| async move { store.read(&asks).await },
            ),
            commits: group(&store, weight, |store, runs| async move {
                Ok(shared(store.commit(&runs).await?))
            }),
            starts: group(
                &store,
                |_| 1,
                |store, marks| async move { store.started(&marks).await },
            ),
            marks: marks(&store, !settings.keep_outputs.is_zero()),
            unmarked: AtomicUsize::new(0),
            notes: group(
                &store,
                |_| 1,
                |store, notes: Arc<Vec<StepUpdate>>| async move {
                    store.note(&notes).await.map(|()| vec![(); notes.len()])
                },
            ),
            track: settings.flows.track,
            keep_flows: settings.flows.keep.0,
            hops: Hops::default(),
            store,
            counters: Counters::default(),
            lanes: Mutex::default(),
            turns: Turns::default(),
            rows: Rows::default(),
            probation: RwLock::new(()),
            survivors: Survivors::default(),
        })
    }

    /// Pulls until told to stop, then finishes what is in hand; never gives events back because it is stopping.
    pub async fn serve(
        self: &Arc<Self>,
        mut pull: Pull,
        mut stop: watch::Receiver<bool>,
    ) -> Result<(), String> {
        loop {
            let rest = pull.ask(self.hand.room()).await.map_err(|gone| gone.0)?;
            for delivery in rest {
                self.admit(delivery);
            }
            tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => break,
                pulled = pull.next() => match pulled {
                    Ok(deliveries) => deliveries.into_iter().for_each(|delivery| self.admit(delivery)),
                    Err(gone) => return Err(gone.0),
                },
                () = self.hand.freed() => {}
            }
        }
        pull.close()
            .await
            .into_iter()
            .for_each(|delivery| self.admit(delivery));
        while self.hand.count() > 0 {
            let _ = tokio::time::timeout(Duration::from_millis(100), self.hand.freed()).await;
        }
        // What a Redis that is away cannot be told, the sweeper of another worker finds out.
        let end = Instant::now() + Duration::from_secs(1);
        while self.unmarked.load(Ordering::Relaxed) > 0 && Instant::now() < end {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        self.bus.flush().await;
        Ok(())
    }

    /// Takes a delivery in hand: what can be read goes to its key's lane, the rest is dead-lettered.
    fn admit(self: &Arc<Self>, delivery: Delivery) {
        let number = self.counters.delivered();
        self.hand.take(number, &delivery, self.pulse.heard());
        failpoint::point("pulled");
        let (mut job, unreadable) = Job::read(
            number,
            delivery,
            self.stream_created,
            self.function.name,
            self.horizon,
        );
        if let Some(why) = unreadable {
            return self.bury(
                job,
                Reason::Unreadable(why.reason),
                Error::retry(why.message),
            );
        }
        job.tracked = job.meta.tracked || self.track.wants(&job.meta.flow);
        if job.meta.hops >= MAX_HOPS {
            let far = format!("{MAX_HOPS} functions since its root event");
            return self.bury(job, Reason::Loop, Error::retry(far).of_class("platform"));
        }
        let info = &job.delivery.info;
        job.alone = info.attempt > 1 && !self.survivors.take(info.sequence, info.attempt.into());
        // `keyed_by` is the author's code: its panic must not take the process with everybody's events.
        let decoded = std::panic::catch_unwind(AssertUnwindSafe(|| {
            let event = (self.function.decode)(&job.meta.ty, job.format, &job.payload)?;
            Ok::<_, DecodeError>(((self.function.key)(&event), event))
        }));
        match decoded {
            Ok(Ok((key, event))) => {
                job.set_key(&key);
                job.event = Some(event);
            }
            Ok(Err(e)) => return self.bury(job, Reason::Unreadable("decode"), Error::retry(e.0)),
            Err(_) => {
                let error =
                    Error::retry("finding its key panicked").at(watchdog::take_panic_site());
                return self.bury(job, Reason::Unreadable("key"), error);
            }
        }
        let mut lanes = self.lanes.lock();
        if let Some(lane) = lanes.get_mut(job.key()) {
            return lane.push_back(job);
        }
        let key = job.mark.key.clone();
        lanes.insert(key.clone(), VecDeque::from([job]));
        drop(lanes);
        let worker = self.clone();
        tokio::spawn(async move { worker.drive(&key).await });
    }

    /// Works off one key's lane, in order, until it is empty.
    async fn drive(self: Arc<Self>, key: &str) {
        loop {
            let Some(events) = self.next_run(key) else {
                return;
            };
            let numbers: Vec<u64> = events.iter().map(|job| job.number).collect();
            // A row's own code (Default, Serialize, Clone) may panic as well. The events come again after the ack wait,
            // counted, and the lane goes on.
            if AssertUnwindSafe(self.process(key, events))
                .catch_unwind()
                .await
                .is_err()
            {
                tracing::error!(events = numbers.len(), "panicked outside the handler");
                for number in numbers {
                    self.hand.release(number);
                }
            }
        }
    }

    /// What has gathered for the key. Two copies of one event never share a run, since the second must see the first, and
    /// an event on probation shares it with nobody.
    fn next_run(&self, key: &str) -> Option<Vec<Boxed>> {
        let mut lanes = self.lanes.lock();
        let lane = lanes.get_mut(key)?;
        let (mut ids, mut events) = (HashSet::new(), Vec::<Boxed>::new());
        while events.len() < GROUP {
            let alone = events.last().is_some_and(|job| job.is_alone());
            let fits = |job: &mut Boxed| {
                !alone && (events.is_empty() || !job.is_alone()) && ids.insert(job.mark.id)
            };
            let Some(next) = lane.pop_front_if(fits) else {
                break;
            };
            events.push(next);
        }
        if events.is_empty() {
            lanes.remove(key);
            return None;
        }
        Some(events)
    }

    /// The whole life of the events of one key, from the read to the ack. Crash anywhere: the server delivers again, and
    /// whatever had been committed answers `duplicate` with the outputs that still have to be published.
    async fn process(self: &Arc<Self>, key: &str, mut events: Vec<Boxed>) {
        let (_shared, _alone);
        if events.iter().any(|job| job.is_alone()) {
            _alone = self.probation.write().await;
        } else {
            _shared = self.probation.read().await;
        }
        for round in 0..RERUNS {
            let Some((runs, jobs, mut after)) = self.read_and_run(key, events, round > 0).await
            else {
                return;
            };
            self.sabotage(&jobs).await;
            let started = oncue_telemetry::clock();
            let answers = join_all(runs.into_iter().map(|run| self.commits.ask(run))).await;
            let (mut again, mut done, mut lost) = (Vec::new(), Vec::new(), false);
            for (jobs, answer) in jobs.into_iter().zip(answers) {
                let (statuses, outgoing) = match answer {
                    Ok(committed) => committed,
                    Err(e) => {
                        self.fault(jobs, &e);
                        continue;
                    }
                };
                // Some alone are put off by a neighbour.
                lost |= statuses.iter().all(|status| *status == Status::Conflict);
                for (mut job, status) in jobs.into_iter().zip(statuses) {
                    job.trace.committed(started, &status);
                    failpoint::point("commit.done");
                    match status {
                        Status::Applied => {
                            after
                                .take()
                                .into_iter()
                                .for_each(|row| self.rows.put(job.mark.key.clone(), row));
                            done.push(Done::Applied(job, outgoing.clone()));
                        }
                        Status::Duplicate(outbox) => {
                            done.push(Done::Before(job, outbox.unwrap_or_default()))
                        }
                        Status::Dead => done.push(Done::Before(job, Bytes::new())),
                        Status::Conflict => again.push(job),
                        Status::TooOld => self.refuse(job, Reason::TooOld),
                        Status::Clock => self.refuse(job, Reason::Clock),
                        Status::IdReuse => self.refuse(job, Reason::IdReuse),
                        Status::Invalid(why) => self.bury(job, Reason::Invalid, Error::retry(why)),
                    }
                }
            }
            self.follow(done);
            self.raced(lost);
            if again.is_empty() {
                return;
            }
            self.counters.conflicts(again.len());
            events = again;
        }
        // Lost every race: nobody's failure, so it does not count as one.
        self.put_back(events, "the row keeps changing under it");
    }

    /// What the events of one key make of its row: runs to commit, their events, and the row as it will be then.
    async fn read_and_run(
        self: &Arc<Self>,
        key: &str,
        events: Vec<Boxed>,
        refused: bool,
    ) -> Option<ToCommit> {
        let turn = self.turns.take().await;
        let (row, seen) = match self.look_up(key, &events, refused).await {
            Ok(found) => found,
            Err(e) => {
                self.fault(events, &e);
                return None;
            }
        };
        failpoint::point("read.done");
        let (seen, fresh) = partition(events, &seen);
        let (runs, jobs) = in_turn(turn, self.run_handlers(key, fresh, &row, seen)).await;
        let change = runs.iter().find_map(|run| run.row.as_ref());
        let after = change.and_then(|change| row_cache::after(&row.fields, change));
        Some((runs, jobs, after))
    }

    /// The row of the key, and which of the events were applied before. An event that comes for the first time is as
    /// good as certain to be new, and the commit finds out if it is not, so its mark is looked up only then, or where a
    /// run for nothing could be the second call of what is called once.
    async fn look_up(
        &self,
        key: &str,
        events: &[Boxed],
        refused: bool,
    ) -> Result<(RowHeld, Vec<bool>), StoreError> {
        let asked = oncue_telemetry::clock();
        let doubtful =
            |job: &Boxed| refused || self.function.at_most_once || job.delivery.info.attempt > 1;
        let marks: Vec<Mark> = events
            .iter()
            .filter(|job| doubtful(job))
            .map(|job| job.mark.clone())
            .collect();
        let row = self.row_key(key);
        if row.is_none() && marks.is_empty() {
            return Ok((Row::default().into(), vec![false; events.len()]));
        }
        // Where others work at the same keys as well, what is remembered is old as a rule.
        if marks.is_empty()
            && !self.turns.contended()
            && let Some(row) = self.rows.take(key)
        {
            return Ok((row, vec![false; events.len()]));
        }
        let ReadResult { row, seen } = self.reads.ask(Read { row, marks }).await?;
        let mut seen = seen.into_iter();
        let seen = events
            .iter()
            .map(|job| doubtful(job) && seen.next().unwrap_or_default())
            .collect();
        for job in events {
            job.trace.read(asked);
        }
        Ok((row.into(), seen))
    }

    fn raced(&self, lost: bool) {
        self.turns.ran(lost);
        if lost {
            self.rows.clear();
        }
    }

    fn row_key(&self, key: &str) -> Option<RowKey> {
        let table = self.function.table;
        (!table.is_empty()).then(|| RowKey {
            table,
            key: key.to_owned(),
        })
    }

    /// What the broken twins do before the commit.
    async fn sabotage(&self, jobs: &[Vec<Boxed>]) {
        for job in jobs.iter().flatten() {
            if failpoint::sabotaged(Sabotage::AckFirst) {
                self.bus.ack(&job.delivery.ticket()).await;
                self.bus.flush().await;
            }
            if failpoint::sabotaged(Sabotage::PublishFirst) {
                self.bus
                    .publish_each(
                        job.outputs
                            .iter()
                            .map(|output| output.message.clone())
                            .collect(),
                    )
                    .await;
            }
        }
        failpoint::point("handler.done");
    }
}
