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
//! | the author's handler runs | `handler`, `effects`, `outputs` |
//! | state, seen-marks and outputs are committed in one atomic step | `committer`, `concurrency_limit` |
//! | outputs are published, and marked so | `publisher` |
//! | the delivery ends with an ack, a retry or a dead letter | `settler` |
//!
//! # Before, after, and a crash in between
//!
//! Each row holds between its crash point and the next one. The names are those of
//! [`failpoint::POINTS`], and `system/crash` ends or freezes a worker at each of them. A delivery
//! that is not acked comes again after the ack wait, to whichever worker pulls it; outputs that a
//! crash left in their outbox are found by a relay.
//!
//! | crash point | holds from here on | a crash here means |
//! |---|---|---|
//! | `pulled` | the delivery is in the in-flight set, the server counts it | delivered again, on probation |
//! | `read.done` | row and marks are in memory, perhaps old by now | the same: nothing is written |
//! | `run.counted` | Redis has counted this run, if it is no first one | the run counts as an attempt |
//! | `handler.done` | effects are values in memory | the handler runs again, on the row as it is then |
//! | `commit.done` | row, seen-mark, outputs and ledger entry are in Redis | the next delivery answers `duplicate` |
//! | `publish.begin` | nothing is in a stream yet | the next delivery, or the relay, publishes the outputs |
//! | `publish.one` | some outputs are in their streams | all are published again; their ids make copies harmless |
//! | `publish.done` | all outputs of the event are in their streams | as above |
//! | `ack.done` | the server will not deliver the event again | the outbox is unmarked; a relay publishes it again |
//! | `mark.done` | the outbox of the whole commit counts as published | nothing is left to do |
//! | `dead_letter.begin` | the event will be set aside, nothing is sent | found out again at the next delivery |
//! | `dead_letter.published` | the letter is in `dlq` under a fixed id | the same letter is written again |
//! | `dead_letter.recorded` | a mark says `dead` | the next delivery is acked as a duplicate |
//! | `retry.done` | the server delivers again after the delay | delivered again after the delay or the ack wait |
//!
//! # Tasks
//!
//! The process has one thread (see [`run`](crate::run())), so tasks interleave at awaits alone.
//! [`serve`](Worker::serve) is one task; each key with events in its queue has one,
//! [`drive`](Worker::drive); and each group of events that is settled has one. Locks are held for a
//! look-up and never across an await, but for the probation gate.

mod ack_budget;
mod batcher;
mod committer;
mod concurrency_limit;
mod counters;
mod discovery;
pub mod effects;
mod flow_log;
mod handler;
mod hands;
mod in_flight;
pub mod invocation;
pub mod key_queues;
mod letter;
mod metrics;
pub mod outputs;
mod probation;
mod publisher;
pub mod reader;
pub mod row_cache;
mod settler;
mod spans;
mod totals;
mod upkeep;
pub mod watchdog;

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures_util::FutureExt as _;
use oncue_core::bus::pull::{Delivery, Pull};
use oncue_core::bus::{Bus, BusError};
use oncue_core::config::{Bounds, Config, Limits};
use oncue_core::failpoint::{self, Sabotage};
use oncue_core::model::manifest::Manifest;
use oncue_core::store::{Status, Store};
use oncue_proto::event::{IdSecret, MAX_HOPS};
use tokio::sync::watch;

use self::ack_budget::AckBudget;
use self::committer::{CommitOutcomes, Committer, PreparedRun};
use self::counters::Counters;
use self::effects::Effects;
use self::flow_log::{FlowLog, Hops};
use self::handler::HandlerRunner;
use self::in_flight::InFlight;
use self::invocation::{BoxedInvocation, DeadLetterReason, Outcome, RetryReason, Settlement};
use self::key_queues::KeyQueues;
use self::letter::OutputLetters;
use self::outputs::OutputMaker;
use self::probation::Probation;
use self::publisher::{CommittedEvent, Publisher};
pub(crate) use self::reader::Source;
use self::reader::{Reader, Target};
use self::settler::Settler;
use self::totals::Totals;
use self::upkeep::Relay;
use crate::error::Error;
use crate::function::Erased;

/// Fresh starts after `conflict` before an event goes back to the stream.
///
/// A rerun costs a read, a run of the handlers and a commit, and no wait. The bound keeps a key
/// that everybody writes from holding its task for ever; the delay of the negative ack then spreads
/// the workers.
const MAX_RERUNS: usize = 8;

/// Function at work in this process, one for each process. Behind an `Arc`, since every key has a
/// task of its own.
///
/// Parts that are `Arc` themselves are shared with the [`Settler`], which outlives the task of a
/// key: settling goes on while the next events of the key already run.
pub(crate) struct Worker {
    /// Shared with the settler, which releases, and with discovery and metrics, which read the
    /// count.
    in_flight: Arc<InFlight>,
    /// Events that wait for their key; owned here alone.
    key_queues: KeyQueues,
    /// Shared with the settler, which vouches for deliveries that failed without harm.
    probation: Arc<Probation>,
    /// Reads rows and marks, and remembers rows; owned here alone.
    reader: Reader,
    /// The function itself with its limits; owned here alone.
    handler: HandlerRunner,
    /// Shared with the settler: a dead letter is committed as well.
    committer: Arc<Committer>,
    /// Shared with the settler and the relay.
    publisher: Arc<Publisher>,
    /// Cloned into every task that ends deliveries.
    settler: Arc<Settler>,
}

impl Worker {
    /// A worker of `function` on the stream `source`; connections are shared.
    ///
    /// Connects nothing and asks nothing: `bus` and `store` are open, and the consumer exists.
    /// Starts the tasks of the batchers and the thread of the watchdog, so it wants a runtime.
    pub fn new(
        function: Erased,
        limits: Limits,
        config: &Config,
        source: Source,
        bus: &Bus,
        store: &Store,
        secret: &IdSecret,
    ) -> Arc<Self> {
        let name = function.name;
        let target = Target {
            function: name,
            table: function.table,
            at_most_once: function.at_most_once,
        };
        let budget = AckBudget(limits.ack_wait.0);
        let counters = Arc::new(Counters::new(name));
        let in_flight = InFlight::new(limits.concurrency, bus.max_payload(), budget);
        let in_flight = Arc::new(in_flight);
        let probation = Arc::new(Probation::default());
        let committer = Arc::new(Committer::new(store));
        let flow_log = Arc::new(FlowLog::new(&function, &config.flows, store));
        let letters = OutputLetters {
            function: name,
            secret: secret.clone(),
            bus: bus.clone(),
            store: store.clone(),
            counters: counters.clone(),
        };
        let publisher = Publisher::new(letters, config.keep_outputs.0, config.batch_publish);
        let publisher = Arc::new(publisher);
        let effects = Effects {
            function: Arc::new(function),
            limits,
            outputs: OutputMaker {
                function: name,
                app: config.app.clone(),
                secret: secret.clone(),
                max_payload: bus.max_payload(),
                bounds: if failpoint::sabotaged(Sabotage::NoBounds) {
                    Bounds::NONE
                } else {
                    config.bounds
                },
            },
        };
        let settler = Settler {
            function: name,
            counts_first_runs: effects.counts_first_runs(),
            secret: secret.clone(),
            bus: bus.clone(),
            in_flight: in_flight.clone(),
            counters: counters.clone(),
            committer: committer.clone(),
            publisher: publisher.clone(),
            probation: probation.clone(),
            flow_log: flow_log.clone(),
            hops: Arc::new(Hops::new(name, store)),
            totals: Arc::new(Totals::new(name, store, &counters)),
        };
        Arc::new(Self {
            in_flight,
            key_queues: KeyQueues::new(effects.largest_run()),
            probation,
            reader: Reader::new(source, target, store),
            handler: HandlerRunner::new(effects, bus, store, counters, flow_log),
            committer,
            publisher,
            settler: Arc::new(settler),
        })
    }

    /// Answers the services API, publishes metrics and starts the upkeep. Returns the exchange of
    /// vouchers, which goes on for as long as it is polled.
    ///
    /// The services API comes first, so that a worker which pulls is visible. The upkeep runs in
    /// tasks that nobody waits for: no event depends on any of it.
    ///
    /// # Errors
    ///
    /// Subscribing to the services API or to vouchers failed; nothing was pulled yet.
    pub async fn start(
        self: &Arc<Self>,
        manifest: &Manifest,
        instance: &str,
        store: &Store,
    ) -> Result<impl Future<Output = ()> + use<>, BusError> {
        let bus = &self.settler.bus;
        let counters = &self.settler.counters;
        discovery::answer(bus, manifest, instance, counters, &self.in_flight).await?;
        let probation = self.probation.clone();
        let vouchers = probation.exchange(bus.clone(), &manifest.name).await?;
        metrics::publish(bus, manifest, counters, &self.in_flight);
        self.in_flight.give_back_left(bus).await;
        // Each of these loops sleeps first, so a start under load is not slowed down by them.
        let relay = Relay {
            bus: bus.clone(),
            store: store.clone(),
            publisher: self.publisher.clone(),
            age: self.in_flight.budget.relay_age(),
            function: self.settler.function,
            counters: counters.clone(),
        };
        let function = self.settler.function;
        tokio::spawn(self.settler.clone().send_heartbeats());
        tokio::spawn(relay.run());
        tokio::spawn(self.settler.hops.clone().report_for_ever());
        tokio::spawn(self.settler.totals.clone().report_for_ever());
        tokio::spawn(upkeep::drop_expired_marks_for_ever(store.clone(), function));
        Ok(vouchers)
    }

    /// Pulls until told to stop, then finishes what is in flight; never gives events back because it is stopping.
    ///
    /// Before: the consumer exists and `pull` has asked for nothing. After `Ok`: nothing is in
    /// flight, marks of published outputs are in Redis or were given a second, and the last acks
    /// have left the client's buffer. A negative ack at the stop would only hand the event to
    /// another worker while this one may still commit it.
    ///
    /// # Errors
    ///
    /// The consumer or its stream is gone, in words. Events in flight are left; the process ends
    /// and they come again.
    pub async fn serve(
        self: &Arc<Self>,
        mut pull: Pull,
        mut stop: watch::Receiver<bool>,
    ) -> Result<(), String> {
        loop {
            // Asked anew each round: room comes back one delivery at a time, and the pull decides
            // whether a request is worth it.
            let capacity = self.in_flight.capacity();
            let rest = pull.ask(capacity).await.map_err(|gone| gone.0)?;
            self.admit_all(rest);
            // Biased, so that a stop is seen before more events are taken, however many have come.
            tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => break,
                pulled = pull.next() => match pulled {
                    Ok(deliveries) => self.admit_all(deliveries),
                    Err(gone) => return Err(gone.0),
                },
                () = self.in_flight.released() => {}
            }
        }
        // Deliveries that the server had sent already. They are ours and are handled, since giving
        // them back would only cost each of them one more delivery.
        self.admit_all(pull.close().await);
        // Settled means acked here, which is the end of an event but not of its outbox.
        self.in_flight.drained().await;
        self.publisher.drained().await;
        // An ack that sits in the client's buffer when the process ends is an ack that was not
        // sent.
        self.settler.bus.flush().await;
        self.in_flight.emptied();
        Ok(())
    }

    /// Takes deliveries, written down first.
    fn admit_all(self: &Arc<Self>, deliveries: Vec<Delivery>) {
        self.in_flight.note(&deliveries);
        for delivery in deliveries {
            self.admit(delivery);
        }
    }

    /// Events in flight.
    pub fn in_flight(&self) -> usize {
        self.in_flight.count()
    }

    /// Reports what was counted since the last report, at the end of the process.
    pub async fn report(&self) {
        self.settler.hops.report().await;
        self.settler.totals.report().await;
    }

    /// Takes a delivery: an event that can be read goes to the queue of its key, any other is dead-lettered.
    ///
    /// The only way into the worker, and never waits: what it finds out at once (unreadable, a
    /// loop, no key) goes to a settling task of its own. After it the delivery is in the in-flight
    /// set; the settler takes it out, or `drive` where a run panics.
    fn admit(self: &Arc<Self>, delivery: Delivery) {
        let number = self.settler.counters.delivered();
        self.in_flight.insert(number, &delivery);
        failpoint::point("pulled");
        let (mut event, unreadable) = self.reader.intake.invocation(number, delivery);
        if self.reader.is_foreign(&event) {
            let nothing = Settlement::Ack(Outcome::Duplicate);
            return self.settler.settle_apart(event, nothing);
        }
        if let Some(why) = unreadable {
            let reason = DeadLetterReason::Unreadable(why.reason);
            let settlement = Settlement::DeadLetter(reason, Error::retry(why.message));
            return self.settler.settle_apart(event, settlement);
        }
        // Known before anything can go wrong with the event, so that the ledger of its flow shows
        // it.
        event.tracked = self.settler.flow_log.tracks(&event.meta);
        // Two functions that cause each other would go on for ever; nobody but the count in the
        // event knows.
        if event.meta.hops >= MAX_HOPS {
            let far = format!("{MAX_HOPS} functions since its root event");
            let settlement = Settlement::dead_letter(DeadLetterReason::Loop, far);
            return self.settler.settle_apart(event, settlement);
        }
        // Asked once for each delivery, since the voucher is used up by it.
        let attempts = self.handler.effects.limits.attempts;
        event.on_probation = self.probation.applies_to(&event.delivery.info, attempts);
        if let Err(settlement) = self.handler.effects.decode(&mut event) {
            let settlement = self.reader.unless_foreign(&mut event, settlement);
            return self.settler.settle_apart(event, settlement);
        }
        // A key that had no queue has no task either: this event starts it, and the task ends with
        // the queue.
        if let Some(key) = self.key_queues.push(event) {
            let worker = self.clone();
            tokio::spawn(async move { worker.drive(&key).await });
        }
    }

    /// Works off the queue of one key, in order, until it is empty.
    ///
    /// One task for each key, so that two events of a key never run at once in this process. Other
    /// workers may work at the same key; for that the commit compares the row.
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
    ///
    /// Before: the events are in flight and in no queue. After: each of them belongs to a settling
    /// task, or is released because the code panicked outside its handler. The pass of probation is
    /// held from the read to the last commit, and no longer: publishing runs no code of an author.
    async fn process(self: &Arc<Self>, key: &str, mut events: Vec<BoxedInvocation>) {
        let _pass = self.probation.enter(&events).await;
        for run in 0..MAX_RERUNS {
            // Read and run under one permit: the age of a row at its commit is what loses races.
            let permit = self.committer.limit.acquire().await;
            let contended = self.committer.limit.is_contended();
            // Marks of first deliveries are not looked up in the first round: the commit looks at
            // them anyway.
            let snapshot = match self.reader.read(key, events, run > 0, contended).await {
                Ok(snapshot) => snapshot,
                Err(failure) => return self.store_failed(failure.events, &failure.error),
            };
            failpoint::point("read.done");

            // Nothing of this run is visible to anybody until the commit.
            let handled = permit.cover(self.handler.run(key, snapshot)).await;
            // Apart, so that the neighbours which went well do not wait for a negative ack.
            for failed in handled.failed {
                self.settler.settle_apart(failed.event, failed.settlement);
            }
            self.sabotage(&handled.runs).await;
            failpoint::point("handler.done");

            // The one step that decides. Whether it happened is known from its answer alone; a lost
            // answer is asked for again, and seen-marks make the second commit say `duplicate`.
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
    ///
    /// No await: after a commit nothing can come between its answer and the tasks that publish and
    /// settle.
    fn follow(self: &Arc<Self>, outcomes: CommitOutcomes) -> Vec<BoxedInvocation> {
        let mut applied = Vec::new();
        let mut duplicates = Vec::new();
        let mut again = Vec::new();
        for outcome in outcomes.events {
            let mut event = outcome.event;
            let settlement = match outcome.result {
                Ok(Status::Applied) => {
                    // Only a commit that was answered may teach the cache.
                    if let Some(row) = outcome.row_after {
                        self.reader.rows.put(event.mark.key.clone(), row);
                    }
                    applied.push(CommittedEvent::applied(event, outcome.batch));
                    continue;
                }
                Ok(Status::Duplicate(outbox)) => {
                    let outbox = outbox.unwrap_or_default();
                    // Redis gives back outputs that were never marked as published, not those this
                    // run has made.
                    duplicates.push(CommittedEvent::applied_before(event, outbox));
                    continue;
                }
                Ok(Status::Dead) => {
                    // Set aside before: nothing was stored that could be published, so all that is
                    // left is the ack.
                    let nothing = bytes::Bytes::new();
                    duplicates.push(CommittedEvent::applied_before(event, nothing));
                    continue;
                }
                Ok(Status::Conflict) => {
                    // Outputs of this run stay in the event until the next run replaces them;
                    // nobody publishes them.
                    again.push(event);
                    continue;
                }
                // A refusal of the commit for this event alone; nothing of its run was written.
                Ok(refused) => Settlement::of_refusal(refused),
                Err(e) => {
                    let attempts = self.handler.effects.limits.attempts;
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

    /// A read that Redis refused. An absent Redis never gets here: the batcher waits for it.
    fn store_failed(&self, events: Vec<BoxedInvocation>, error: &dyn std::fmt::Display) {
        for mut event in events {
            let attempts = self.handler.effects.limits.attempts;
            let settlement = Settlement::of_store_error(&mut event, error, attempts);
            self.settler.settle_apart(event, settlement);
        }
    }

    /// After a lost race another worker has written rows that are remembered here: all of them are
    /// suspect, and forgetting costs a read each.
    fn learn(&self, lost_race: bool) {
        self.committer.limit.learn(lost_race);
        if lost_race {
            self.reader.rows.clear();
        }
    }

    /// Acts of the broken twins before the commit.
    ///
    /// Empty in a build without the feature `failpoints`.
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

/// `class at file:line`, and behind it the text where it may be shown: where `oncue_telemetry` was
/// told so, or for an error of the platform, which quotes no payload.
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
