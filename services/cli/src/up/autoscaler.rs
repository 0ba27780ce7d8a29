//! Autoscaler: keeps as many workers of each function as there is work for. Looks, decides ([`scale`](super::scale)),
//! acts, says why.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use oncue_core::bus::Bus;
use oncue_core::bus::services::ServiceInstance;
use oncue_core::store::Store;
use oncue_proto::event;
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, timeout};
use tokio_util::task::AbortOnDropHandle;

use super::pool::Pool;
use super::sample::{Sampler, Subject};
use super::scale::{Decision, Sample, decide};
use super::supervisor::Supervisor;

/// Time between two looks at the consumers.
/// A sleeper is woken by its event and not by this, so a second is the delay of growing only.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// Time a question about one function may take.
const LOOK_TIMEOUT: Duration = Duration::from_secs(3);
/// Between two looks at what sleepers have left behind.
const BEHIND_INTERVAL: Duration = Duration::from_secs(10);
/// Silence after which no more workers are expected to answer: one too busy to say whether it is busy, is busy.
const WORKER_REPLY_GAP: Duration = Duration::from_millis(40);

/// Pools of all functions by name, shared with the service that answers for them. Never locked across an await.
pub type Pools = Arc<Mutex<BTreeMap<String, Pool>>>;

pub struct Autoscaler<'s> {
    supervisor: &'s Supervisor,
    bus: Bus,
    store: Store,
    pools: Pools,
    sampler: Sampler,
    /// When it was last looked whether a sleeper has left outputs behind.
    looked_behind: Option<Duration>,
    /// Start of the time that histories are kept in.
    began: Instant,
    wake_sender: mpsc::UnboundedSender<WakeEvent>,
    wake_events: mpsc::UnboundedReceiver<WakeEvent>,
    /// Why the last look failed, so that it is said once.
    look_error: Option<String>,
}

/// Event on its way to a function that sleeps.
struct WakeEvent {
    function: String,
    subject: String,
}

/// Decision that fewer workers are enough, before it is known which of them may go.
struct ScaleDown {
    function: String,
    stream: String,
    count: u32,
    why: String,
    /// Whether none would be left.
    to_sleep: bool,
}

impl<'s> Autoscaler<'s> {
    pub fn new(supervisor: &'s Supervisor, bus: Bus, store: Store, pools: Pools) -> Self {
        // Bounded all the same: at most one message for each subject of each sleeper.
        let (wake_sender, wake_events) = mpsc::unbounded_channel();
        Self {
            supervisor,
            sampler: Sampler::new(bus.clone()),
            bus,
            store,
            pools,
            looked_behind: None,
            began: Instant::now(),
            wake_sender,
            wake_events,
            look_error: None,
        }
    }

    /// Starts the workers that are provisioned, and listens for the functions that sleep.
    pub async fn begin(&mut self) {
        let functions: Vec<String> = self.pools.lock().keys().cloned().collect();
        for function in functions {
            self.act(&function);
            let sleeps = self
                .pools
                .lock()
                .get(&function)
                .is_some_and(Pool::is_asleep);
            if sleeps {
                self.listen(&function).await;
            }
        }
    }

    /// Scales until it is dropped.
    pub async fn run(mut self) -> Infallible {
        let mut tick = tokio::time::interval(LOOK_INTERVAL);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                // An event on its way goes before a look, which may take seconds when NATS is slow.
                biased;
                Some(event) = self.wake_events.recv() => self.wake(&event),
                _ = tick.tick() => self.look().await,
            }
        }
    }

    fn wake(&mut self, event: &WakeEvent) {
        let function = &event.function;
        let now = self.began.elapsed();
        {
            let mut pools = self.pools.lock();
            let Some(pool) = pools.get_mut(function) else {
                return;
            };
            if pool.wake_listener.take().is_none() {
                return; // it has been woken by other means
            }
            // The last sample is from before the event, so it would still say that there is nothing to do.
            pool.history.record_wake(now, &pool.limits);
        }
        self.note(&format!("{function} is woken by {}", event.subject));
        self.act(function);
    }

    /// Starts and stops workers of functions for which somebody has set other bounds, whatever a look would say.
    fn keep_bounds(&self) {
        let outside: Vec<String> = {
            let pools = self.pools.lock();
            let outside = pools.values().filter(|pool| !pool.is_within_bounds());
            outside.map(|pool| pool.name.clone()).collect()
        };
        for function in outside {
            self.act(&function);
        }
    }

    async fn look(&mut self) {
        self.keep_bounds();
        let subjects = self.subjects();
        let now = self.began.elapsed();
        let (samples, failed) = self.sampler.look(&subjects, now).await;
        match failed {
            // What is not known is not scaled on: such a function keeps the workers it has.
            Some(why) => self.report_look_error(&why),
            None if self.look_error.take().is_some() => {
                self.note("the consumers can be looked at again");
            }
            None => {}
        }
        // Starting is done at once, stopping at the end: it asks the workers, and events are not to wait for that.
        let mut scale_downs = Vec::new();
        for (function, sample) in samples {
            self.record(&function, sample);
            scale_downs.extend(self.act(&function));
        }
        self.scale_down(scale_downs).await;
        self.look_behind(&subjects, now).await;
    }

    /// Wakes sleepers whose outputs are in no stream, or were in one of a NATS that has been started anew since: nobody but
    /// their own workers publishes them.
    async fn look_behind(&mut self, subjects: &[Subject], now: Duration) {
        let is_due = self
            .looked_behind
            .is_none_or(|last| now.saturating_sub(last) >= BEHIND_INTERVAL);
        if !is_due {
            return;
        }
        self.looked_behind = Some(now);
        let server = self.bus.server_id();
        let old = event::now_ms().saturating_sub(BEHIND_INTERVAL.as_millis() as u64);
        for function in subjects.iter().filter(|subject| !subject.awake) {
            let function = &function.name;
            let left = self.store.is_left_behind(function, &server, old).await;
            // A Redis that does not answer now is asked again.
            if let Ok(true) = left {
                self.wake(&WakeEvent {
                    function: function.clone(),
                    subject: "outputs that it left behind".to_owned(),
                });
            }
        }
    }

    /// Functions to look at: those whose number of workers may change.
    fn subjects(&self) -> Vec<Subject> {
        let mut pools = self.pools.lock();
        pools.values_mut().for_each(Pool::remove_ended);
        pools
            .values()
            // The others keep their number, whatever a look would say.
            .filter(|pool| !pool.limits.scale.is_fixed())
            .map(|pool| Subject {
                name: pool.name.clone(),
                stream: pool.stream.clone(),
                awake: pool.is_awake(),
            })
            .collect()
    }

    fn note(&self, text: &str) {
        self.supervisor.log.note(text);
    }

    fn report_look_error(&mut self, why: &str) {
        if self.look_error.as_deref() != Some(why) {
            self.supervisor.log.warn(&format!(
                "cannot look at all consumers, so what is not known is not scaled: {why}"
            ));
            self.look_error = Some(why.to_owned());
        }
    }

    fn record(&self, function: &str, sample: Sample) {
        let now = self.began.elapsed();
        if let Some(pool) = self.pools.lock().get_mut(function) {
            pool.history.record(now, sample, &pool.limits);
        }
    }

    /// Decides, says why, and starts what is to be started. To stop a worker takes a question first, so that is
    /// handed back.
    fn act(&self, function: &str) -> Option<ScaleDown> {
        let now = self.began.elapsed();
        let mut pools = self.pools.lock();
        let pool = pools.get_mut(function)?;
        let surplus = pool.retire_surplus();
        let count = pool.count();
        if surplus > 0 {
            let left = count.have;
            let before = left + surplus;
            self.note(&format!(
                "{function} {before} -> {left} workers: no more are allowed"
            ));
        }
        match decide(&pool.history, count, &pool.limits, now) {
            Decision::Stay => pool.waits = None,
            Decision::Wait(why) => {
                if pool.waits.is_none() {
                    self.note(&format!("{function} stays at {}: {why}", count.have));
                    pool.waits = Some(why);
                }
            }
            Decision::Start(more, why) => {
                // The provisioned are not worth a line each.
                if !pool.limits.scale.is_fixed() {
                    self.note(&format!(
                        "{function} {} -> {} workers: {why}",
                        count.have,
                        count.have + more
                    ));
                }
                pool.wake_listener = None;
                pool.waits = None;
                (0..more).for_each(|_| pool.start(self.supervisor));
                // A worker that was just started is not stopped again before `idle` has passed.
                pool.history.started(now);
            }
            Decision::Stop(fewer, why) => {
                return Some(ScaleDown {
                    function: function.to_owned(),
                    stream: pool.stream.clone(),
                    count: fewer,
                    why,
                    to_sleep: fewer == count.have,
                });
            }
        }
        None
    }

    /// Stops workers with nothing in flight. Before the last one of a function goes the wake listener is there, and
    /// only then is looked whether there is really nothing to do: what comes later is heard.
    async fn scale_down(&mut self, scale_downs: Vec<ScaleDown>) {
        for scale_down in scale_downs.iter().filter(|down| down.to_sleep) {
            self.listen(&scale_down.function).await;
        }
        join_all(scale_downs.into_iter().map(|down| self.retire_idle(down))).await;
    }

    async fn retire_idle(&self, scale_down: ScaleDown) {
        let Some(scale_down) = self.confirm(scale_down).await else {
            return;
        };
        let subject = format!("$SRV.STATS.{}", scale_down.function);
        // Workers themselves know best which of them has nothing in flight; the consumer only knows the sum.
        let asked = self.bus.service_instances(&subject, WORKER_REPLY_GAP);
        if let Ok(answers) = asked.await {
            self.retire(scale_down, &answers);
        }
    }

    /// Scale-down that still holds; `None` when there is something to do after all.
    async fn confirm(&self, scale_down: ScaleDown) -> Option<ScaleDown> {
        if !scale_down.to_sleep {
            return Some(scale_down);
        }
        let confirmed = self.decide_again(&scale_down).await;
        if confirmed.is_none() {
            let mut pools = self.pools.lock();
            pools.get_mut(&scale_down.function)?.wake_listener = None;
        }
        confirmed
    }

    /// Decision anew from the consumer as it is this moment, with the wake listener there already.
    async fn decide_again(&self, scale_down: &ScaleDown) -> Option<ScaleDown> {
        let function = &scale_down.function;
        let fresh = self.sampler.fresh(&scale_down.stream, function);
        let sample = timeout(LOOK_TIMEOUT, fresh).await.ok()?.ok()?;
        self.record(function, sample);
        self.act(function)
    }

    /// Retires as many of the workers that may go as are too many, and says how many are left.
    fn retire(&self, scale_down: ScaleDown, answers: &[ServiceInstance]) {
        let ScaleDown { function, why, .. } = scale_down;
        let mut pools = self.pools.lock();
        let Some(pool) = pools.get_mut(&function) else {
            return;
        };
        let have = pool.count().have;
        let mut going = pool.idle(answers);
        going.truncate(scale_down.count as usize);
        let left = have - going.len() as u32;
        // Somebody stays for what comes: nobody needs to be woken.
        if left > 0 {
            pool.wake_listener = None;
        }
        if going.is_empty() {
            if pool.waits.is_none() {
                self.note(&format!("{function} stays at {have}: every worker is busy"));
                pool.waits = Some(why);
            }
            return;
        }
        pool.retire(&going);
        pool.waits = None;
        let asleep = if left == 0 { ", asleep" } else { "" };
        self.note(&format!(
            "{function} {have} -> {left} workers{asleep}: {why}"
        ));
    }

    /// Listens for the event that wakes the function. Without a listener the next look finds what comes, only later.
    async fn listen(&self, function: &str) {
        let filters = self
            .pools
            .lock()
            .get(function)
            .map(|pool| pool.filters.clone())
            .unwrap_or_default();
        let listener = match self.bus.wake_listener(&filters).await {
            Ok(listener) => listener,
            Err(e) => {
                let text = format!("{function} sleeps lightly: {e}");
                return self.supervisor.log.warn(&text);
            }
        };
        let events = self.wake_sender.clone();
        let named = function.to_owned();
        let listening = tokio::spawn(async move {
            if let Some(subject) = listener.first_subject().await {
                let _ = events.send(WakeEvent {
                    function: named,
                    subject,
                });
            }
        });
        if let Some(pool) = self.pools.lock().get_mut(function) {
            pool.wake_listener = Some(AbortOnDropHandle::new(listening));
        }
    }
}
