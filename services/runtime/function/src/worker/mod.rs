//! The worker: one function at work in one process. [`serve`](Worker::serve) pulls what fits, and
//! [`process`](Worker::process) is the whole life of the events of one key: read, run, commit, publish, settle.
//!
//! Events of different keys run at the same time, events of one key one after another on one row. Reads and commits of all
//! keys meet in two [batchers](batcher), so n keys in flight cost two round trips, not 2n.
//!
//! | step | file |
//! |---|---|
//! | a delivery becomes an [`Invocation`](invocation::Invocation), counted as in flight | `reader`, `in_flight` |
//! | events of one key queue up; one on probation runs alone | `key_queues`, `probation` |
//! | row and seen-marks are read | `reader`, `row_cache` |
//! | the author's handler runs | `handler`, `outputs` |
//! | state, seen-marks and outputs are committed in one atomic step | `committer`, `concurrency_limit` |
//! | outputs are published, and marked so | `publisher` |
//! | the delivery ends with an ack, a retry or a dead letter | `settler` |

mod ack_budget;
mod batcher;
mod committer;
mod concurrency_limit;
mod counters;
mod discovery;
mod flow_log;
pub mod handler;
mod in_flight;
mod invocation;
mod key_queues;
mod metrics;
mod outputs;
mod probation;
mod publisher;
mod reader;
mod row_cache;
mod settler;
mod spans;
mod upkeep;
pub mod watchdog;

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures::FutureExt as _;
use oncue_core::bus::pull::{Delivery, Pull};
use oncue_core::bus::{Bus, BusError};
use oncue_core::config::{Config, Limits};
use oncue_core::failpoint::{self, Sabotage};
use oncue_core::model::manifest::Manifest;
use oncue_core::store::{Status, Store};
use oncue_proto::event::MAX_HOPS;
use tokio::sync::watch;

use self::ack_budget::AckBudget;
use self::committer::{CommitOutcomes, Committer, PreparedRun};
use self::counters::Counters;
use self::flow_log::{FlowLog, Hops};
use self::handler::Handler;
use self::in_flight::InFlight;
use self::invocation::{BoxedInvocation, DeadLetterReason, Outcome, RetryReason, Settlement};
use self::key_queues::KeyQueues;
use self::probation::Probation;
use self::publisher::{CommittedEvent, Publisher};
pub(crate) use self::reader::Source;
use self::reader::{Reader, Target};
use self::settler::Settler;
use self::upkeep::Relay;
use crate::error::Error;
use crate::function::Erased;

/// Fresh starts after `conflict` before an event goes back to the stream.
const MAX_RERUNS: usize = 8;

pub(crate) struct Worker {
    in_flight: Arc<InFlight>,
    key_queues: KeyQueues,
    probation: Arc<Probation>,
    reader: Reader,
    handler: Handler,
    committer: Arc<Committer>,
    publisher: Arc<Publisher>,
    settler: Arc<Settler>,
}

impl Worker {
    /// A worker of `function` on the stream `source`; connections are shared.
    pub fn new(
        function: Erased,
        limits: Limits,
        config: &Config,
        source: Source,
        bus: &Bus,
        store: &Store,
    ) -> Arc<Self> {
        let name = function.name;
        let target = Target {
            function: name,
            table: function.table,
            at_most_once: function.at_most_once,
        };
        let budget = AckBudget(limits.ack_wait.0);
        let counters = Arc::new(Counters::default());
        let in_flight = InFlight::new(limits.concurrency, bus.max_payload(), budget);
        let in_flight = Arc::new(in_flight);
        let probation = Arc::new(Probation::default());
        let committer = Arc::new(Committer::new(store));
        let flow_log = Arc::new(FlowLog::new(name, &config.flows, store));
        let publisher = Publisher::new(
            bus,
            store,
            counters.clone(),
            config.keep_outputs.0,
            config.batch_publish,
        );
        let publisher = Arc::new(publisher);
        let settler = Settler {
            function: name,
            bus: bus.clone(),
            in_flight: in_flight.clone(),
            counters: counters.clone(),
            committer: committer.clone(),
            publisher: publisher.clone(),
            probation: probation.clone(),
            flow_log: flow_log.clone(),
            hops: Arc::new(Hops::new(name, store)),
        };
        Arc::new(Self {
            in_flight,
            key_queues: KeyQueues::default(),
            probation,
            reader: Reader::new(source, target, store),
            handler: Handler::new(Arc::new(function), limits, bus, store, counters, flow_log),
            committer,
            publisher,
            settler: Arc::new(settler),
        })
    }

    /// Answers the services API, publishes metrics, exchanges vouchers, and starts the upkeep. Returns a future that ends
    /// when the connection is closed for good.
    pub async fn start(
        self: &Arc<Self>,
        manifest: &Manifest,
        config: &Config,
        instance: &str,
        store: &Store,
    ) -> Result<impl Future<Output = ()> + use<>, BusError> {
        let bus = &self.settler.bus;
        let counters = &self.settler.counters;
        discovery::answer(bus, manifest, instance, counters, &self.in_flight).await?;
        let probation = self.probation.clone();
        let vouchers = probation.exchange(bus.clone(), &manifest.name).await?;
        metrics::publish(bus, manifest, counters, &self.in_flight);
        let relay = Relay {
            bus: bus.clone(),
            store: store.clone(),
            publisher: self.publisher.clone(),
            age: self.in_flight.budget.relay_age(),
        };
        let window = config.stream(&manifest.stream).replay_window.0;
        tokio::spawn(self.settler.clone().send_heartbeats());
        tokio::spawn(relay.run());
        tokio::spawn(self.settler.hops.clone().report_for_ever());
        tokio::spawn(upkeep::purge_for_ever(
            bus.clone(),
            manifest.stream.clone(),
            window,
        ));
        Ok(vouchers)
    }

    /// Pulls until told to stop, then finishes what is in flight; never gives events back because it is stopping.
    pub async fn serve(
        self: &Arc<Self>,
        mut pull: Pull,
        mut stop: watch::Receiver<bool>,
    ) -> Result<(), String> {
        loop {
            let capacity = self.in_flight.capacity();
            let rest = pull.ask(capacity).await.map_err(|gone| gone.0)?;
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
                () = self.in_flight.released() => {}
            }
        }
        for delivery in pull.close().await {
            self.admit(delivery);
        }
        self.in_flight.drained().await;
        self.publisher.drained().await;
        self.settler.bus.flush().await;
        Ok(())
    }

    /// Events in flight.
    pub fn in_flight(&self) -> usize {
        self.in_flight.count()
    }

    /// Reports what was counted since the last report, at the end of the process.
    pub async fn report(&self) {
        self.settler.hops.report().await;
    }

    /// Takes a delivery: an event that can be read goes to the queue of its key, any other is dead-lettered.
    fn admit(self: &Arc<Self>, delivery: Delivery) {
        let number = self.settler.counters.delivered();
        self.in_flight.insert(number, &delivery);
        failpoint::point("pulled");
        let (mut event, unreadable) = self.reader.invocation(number, delivery);
        if let Some(why) = unreadable {
            let reason = DeadLetterReason::Unreadable(why.reason);
            let settlement = Settlement::DeadLetter(reason, Error::retry(why.message));
            return self.settler.settle_apart(event, settlement);
        }
        event.tracked = self.settler.flow_log.tracks(&event.meta);
        if event.meta.hops >= MAX_HOPS {
            let far = format!("{MAX_HOPS} functions since its root event");
            let settlement = Settlement::dead_letter(DeadLetterReason::Loop, far);
            return self.settler.settle_apart(event, settlement);
        }
        event.on_probation = self.probation.applies_to(&event.delivery.info);
        if let Err(settlement) = self.handler.decode(&mut event) {
            return self.settler.settle_apart(event, settlement);
        }
        if let Some(key) = self.key_queues.push(event) {
            let worker = self.clone();
            tokio::spawn(async move { worker.drive(&key).await });
        }
    }

    /// Works off the queue of one key, in order, until it is empty.
    async fn drive(self: Arc<Self>, key: &str) {
        while let Some(events) = self.key_queues.next_run(key) {
            let numbers: Vec<u64> = events.iter().map(|event| event.number).collect();
            // A row's own code (Default, Serialize, Clone) may panic as well. The events come again after the ack wait,
            // counted, and the queue goes on.
            let processed = AssertUnwindSafe(self.process(key, events)).catch_unwind();
            if processed.await.is_err() {
                tracing::error!(events = numbers.len(), "panicked outside the handler");
                for number in numbers {
                    self.in_flight.release(number);
                }
            }
        }
    }

    /// The whole life of the events of one key, from the read to the ack. Crash anywhere: the server delivers again, and
    /// whatever had been committed answers `duplicate` with the outputs that still have to be published.
    async fn process(self: &Arc<Self>, key: &str, mut events: Vec<BoxedInvocation>) {
        let _pass = self.probation.enter(&events).await;
        for run in 0..MAX_RERUNS {
            let permit = self.committer.limit.acquire().await;
            let contended = self.committer.limit.is_contended();
            let snapshot = match self.reader.read(key, events, run > 0, contended).await {
                Ok(snapshot) => snapshot,
                Err(failure) => return self.store_failed(failure.events, &failure.error),
            };
            failpoint::point("read.done");

            let handled = permit.cover(self.handler.run(key, snapshot)).await;
            for failed in handled.failed {
                self.settler.settle_apart(failed.event, failed.settlement);
            }
            self.sabotage(&handled.runs).await;
            failpoint::point("handler.done");

            let outcomes = self.committer.commit(handled.runs).await;
            let lost_race = outcomes.lost_race;
            events = self.follow(outcomes);
            self.learn(lost_race);
            if events.is_empty() {
                return;
            }
            self.settler.counters.conflicts(events.len());
        }
        // Lost every race: nobody's failure, so it does not count as one.
        for event in events {
            let settlement = Settlement::Retry(RetryReason::Contended);
            self.settler.settle_apart(event, settlement);
        }
    }

    /// Sends each event the way its commit says; returns those that have to run again on fresh state.
    fn follow(self: &Arc<Self>, outcomes: CommitOutcomes) -> Vec<BoxedInvocation> {
        let mut applied = Vec::new();
        let mut duplicates = Vec::new();
        let mut again = Vec::new();
        for outcome in outcomes.events {
            let mut event = outcome.event;
            let settlement = match outcome.result {
                Ok(Status::Applied) => {
                    if let Some(row) = outcome.row_after {
                        self.reader.rows.put(event.mark.key.clone(), row);
                    }
                    applied.push(CommittedEvent::applied(event, outcome.batch));
                    continue;
                }
                Ok(Status::Duplicate(outbox)) => {
                    let outbox = outbox.unwrap_or_default();
                    duplicates.push(CommittedEvent::applied_before(event, outbox));
                    continue;
                }
                Ok(Status::Dead) => {
                    let nothing = bytes::Bytes::new();
                    duplicates.push(CommittedEvent::applied_before(event, nothing));
                    continue;
                }
                Ok(Status::Conflict) => {
                    again.push(event);
                    continue;
                }
                Ok(Status::TooOld) => Settlement::dead_letter(
                    DeadLetterReason::TooOld,
                    "older than the horizon, it cannot be proven new",
                ),
                Ok(Status::Clock) => {
                    Settlement::dead_letter(DeadLetterReason::Clock, "its time lies in the future")
                }
                Ok(Status::IdReuse) => Settlement::dead_letter(
                    DeadLetterReason::IdReuse,
                    "its id was used with another payload",
                ),
                Ok(Status::Invalid(why)) => {
                    Settlement::DeadLetter(DeadLetterReason::Invalid, Error::retry(why))
                }
                Err(e) => {
                    let attempts = self.handler.limits.attempts;
                    Settlement::of_store_error(&mut event, &e, attempts)
                }
            };
            self.settler.settle_apart(event, settlement);
        }
        self.publish_and_settle(applied, Outcome::Applied);
        self.publish_and_settle(duplicates, Outcome::Duplicate);
        again
    }

    /// Publishes and acks in a task of its own: the next events of the key need not wait for that.
    fn publish_and_settle(&self, events: Vec<CommittedEvent>, outcome: Outcome) {
        if !events.is_empty() {
            let settler = self.settler.clone();
            tokio::spawn(async move { settler.publish_and_settle(events, outcome).await });
        }
    }

    fn store_failed(&self, events: Vec<BoxedInvocation>, error: &dyn std::fmt::Display) {
        for mut event in events {
            let attempts = self.handler.limits.attempts;
            let settlement = Settlement::of_store_error(&mut event, error, attempts);
            self.settler.settle_apart(event, settlement);
        }
    }

    fn learn(&self, lost_race: bool) {
        self.committer.limit.learn(lost_race);
        if lost_race {
            self.reader.rows.clear();
        }
    }

    /// Acts of the broken twins before the commit.
    async fn sabotage(&self, runs: &[PreparedRun]) {
        for event in runs.iter().flat_map(|run| &run.events) {
            if failpoint::sabotaged(Sabotage::AckFirst) {
                self.settler.bus.ack(&event.delivery.ticket()).await;
                self.settler.bus.flush().await;
            }
            if failpoint::sabotaged(Sabotage::PublishFirst) {
                let outputs = event.outputs.iter();
                let messages = outputs.map(|output| output.message.clone()).collect();
                self.settler.bus.publish_each(messages).await;
            }
        }
    }
}

/// Texts of these classes are the platform's own words.
const PLATFORM_CLASSES: [&str; 3] = ["redis", "timeout", "platform"];

/// Text of an error for traces and logs. It may quote what the event holds, so it stays in the dead letter unless somebody
/// asked to see it, or it is the platform's own.
fn shown(error: &Error) -> String {
    shown_as(error, error.class)
}

fn shown_as(error: &Error, class: &'static str) -> String {
    let at = if error.site.is_empty() {
        String::new()
    } else {
        format!(" at {}", error.site)
    };
    if oncue_telemetry::shows_messages() || PLATFORM_CLASSES.contains(&error.class) {
        format!("{class}{at}: {}", error.message)
    } else {
        format!("{class}{at}")
    }
}
