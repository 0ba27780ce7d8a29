//! Keeps as many workers of each function as there is work for: looks, decides ([`scale`](super::scale)), acts, says why.

use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::join_all;
use oncue_core::bus::Bus;
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, timeout};
use tokio_util::task::AbortOnDropHandle;

use super::crew::Crew;
use super::house::House;
use super::sample::{Sampler, Subject};
use super::scale::{Decision, Sample, decide};
use crate::services;

const INTERVAL: Duration = Duration::from_secs(1);
/// An event that wakes somebody does not wait longer for a look that is under way.
const PATIENCE: Duration = Duration::from_secs(3);
/// Whoever is too busy to say in this time whether it is busy, is busy.
const QUIET: Duration = Duration::from_millis(40);

/// All functions by name, shared with whoever is asked how they are. Never locked across an await.
pub type Crews = Arc<Mutex<BTreeMap<String, Crew>>>;

pub struct Elastic<'h> {
    house: &'h House,
    bus: Bus,
    crews: Crews,
    sampler: Sampler,
    began: Instant,
    /// Name and subject of what was heard for a sleeper.
    hearing: mpsc::UnboundedSender<(String, String)>,
    heard: mpsc::UnboundedReceiver<(String, String)>,
    /// Why the last look failed, so that it is said once.
    blind: Option<String>,
}

/// Fewer workers are enough.
struct Leave {
    name: String,
    stream: String,
    count: u32,
    why: String,
    /// None would be left.
    last: bool,
}

impl<'h> Elastic<'h> {
    pub fn new(house: &'h House, bus: Bus, crews: Crews) -> Self {
        // At most one message for each subject of each sleeper.
        let (hearing, heard) = mpsc::unbounded_channel();
        let (sampler, began) = (Sampler::new(bus.clone()), Instant::now());
        Self {
            house,
            bus,
            crews,
            sampler,
            began,
            hearing,
            heard,
            blind: None,
        }
    }

    /// Starts those that are provisioned, and listens for the others.
    pub async fn begin(&mut self) {
        let names: Vec<String> = self.crews.lock().keys().cloned().collect();
        for name in names {
            self.act(&name);
            let sleeps = |crew: &Crew| !crew.is_awake() && !crew.limits.scale.is_fixed();
            if self.crews.lock().get(&name).is_some_and(sleeps) {
                self.listen(&name).await;
            }
        }
    }

    /// Until it is dropped.
    pub async fn run(mut self) -> Infallible {
        let mut tick = tokio::time::interval(INTERVAL);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                Some((name, subject)) = self.heard.recv() => self.wake(&name, &subject),
                _ = tick.tick() => self.look().await,
            }
        }
    }

    fn wake(&mut self, name: &str, subject: &str) {
        let now = self.began.elapsed();
        {
            let mut crews = self.crews.lock();
            let Some(crew) = crews.get_mut(name) else {
                return;
            };
            if crew.ear.take().is_none() {
                return; // it has been woken by other means
            }
            crew.history.hear(now, &crew.limits);
        }
        self.house
            .screen
            .note(&format!("{name} is woken by {subject}"));
        self.act(name);
    }

    async fn look(&mut self) {
        let subjects: Vec<Subject> = {
            let mut crews = self.crews.lock();
            crews.values_mut().for_each(Crew::forget_the_gone);
            let elastic = crews.values().filter(|crew| !crew.limits.scale.is_fixed());
            let subject = |crew: &Crew| (crew.name.clone(), crew.stream.clone(), crew.is_awake());
            elastic
                .map(subject)
                .map(|(name, stream, awake)| Subject {
                    name,
                    stream,
                    awake,
                })
                .collect()
        };
        let now = self.began.elapsed();
        let samples = match timeout(PATIENCE, self.sampler.look(&subjects, now)).await {
            Ok(Ok(samples)) => samples,
            Ok(Err(e)) => return self.say_blind(&e.to_string()),
            Err(_) => return self.say_blind("NATS does not answer"),
        };
        if self.blind.take().is_some() {
            self.house
                .screen
                .note("the consumers can be looked at again");
        }
        let mut leaving = Vec::new();
        for (name, sample) in samples {
            self.see(&name, sample);
            leaving.extend(self.act(&name));
        }
        self.let_go(leaving).await;
    }

    fn say_blind(&mut self, why: &str) {
        if self.blind.as_deref() != Some(why) {
            self.house.screen.warn(&format!(
                "cannot look at the consumers, so nothing is scaled: {why}"
            ));
            self.blind = Some(why.to_owned());
        }
    }

    fn see(&self, name: &str, sample: Sample) {
        let now = self.began.elapsed();
        if let Some(crew) = self.crews.lock().get_mut(name) {
            crew.history.see(now, sample, &crew.limits);
        }
    }

    /// Decides, says why, and starts what is to be started. To stop somebody takes a question first.
    fn act(&self, name: &str) -> Option<Leave> {
        let now = self.began.elapsed();
        let mut crews = self.crews.lock();
        let crew = crews.get_mut(name)?;
        let count = crew.count();
        match decide(&crew.history, count, &crew.limits, now) {
            Decision::Stay => crew.waits = None,
            Decision::Wait(why) => {
                if crew.waits.is_none() {
                    self.house
                        .screen
                        .note(&format!("{name} stays at {}: {why}", count.have));
                    crew.waits = Some(why);
                }
            }
            Decision::Start(more, why) => {
                // The provisioned are not worth a line each.
                if !crew.limits.scale.is_fixed() {
                    self.house.screen.note(&format!(
                        "{name} {} -> {} workers: {why}",
                        count.have,
                        count.have + more
                    ));
                }
                (crew.ear, crew.waits) = (None, None);
                (0..more).for_each(|_| crew.start(self.house));
                crew.history.started(now);
            }
            Decision::Stop(fewer, why) => {
                let (stream, last) = (crew.stream.clone(), fewer == count.have);
                return Some(Leave {
                    name: name.to_owned(),
                    stream,
                    count: fewer,
                    why,
                    last,
                });
            }
        }
        None
    }

    /// Stops those that have nothing in hand. Before the last one goes somebody listens, and only then is looked whether
    /// there is really nothing to do: what comes later is heard.
    async fn let_go(&mut self, leaving: Vec<Leave>) {
        for leave in leaving.iter().filter(|leave| leave.last) {
            self.listen(&leave.name).await;
        }
        let leaving = join_all(leaving.into_iter().map(|leave| self.resting(leave))).await;
        for (leave, idle) in leaving.into_iter().flatten() {
            let mut crews = self.crews.lock();
            let Some(crew) = crews.get_mut(&leave.name) else {
                continue;
            };
            let have = crew.count().have;
            let going = &idle[..idle.len().min(leave.count as usize)];
            let left = have - going.len() as u32;
            if left > 0 {
                crew.ear = None;
            }
            if going.is_empty() {
                if crew.waits.is_none() {
                    self.house.screen.note(&format!(
                        "{} stays at {have}: every worker is busy",
                        leave.name
                    ));
                    crew.waits = Some(leave.why);
                }
                continue;
            }
            crew.retire(going);
            crew.waits = None;
            let sleeps = if left == 0 { ", asleep" } else { "" };
            self.house.screen.note(&format!(
                "{} {have} -> {left} workers{sleeps}: {}",
                leave.name, leave.why
            ));
        }
    }

    /// Who may go; nothing if there is something to do after all.
    async fn resting(&self, mut leave: Leave) -> Option<(Leave, Vec<u32>)> {
        if leave.last {
            let sample = timeout(PATIENCE, self.sampler.fresh(&leave.stream, &leave.name)).await;
            let still = sample.ok().and_then(Result::ok).and_then(|sample| {
                self.see(&leave.name, sample);
                self.act(&leave.name)
            });
            let Some(still) = still else {
                self.crews.lock().get_mut(&leave.name)?.ear = None;
                return None;
            };
            leave = still;
        }
        let answers = services::ask(&self.bus, &format!("$SRV.STATS.{}", leave.name), QUIET)
            .await
            .ok()?;
        let idle = self.crews.lock().get(&leave.name)?.idle(&answers);
        Some((leave, idle))
    }

    async fn listen(&self, name: &str) {
        let filters = self
            .crews
            .lock()
            .get(name)
            .map(|crew| crew.filters.clone())
            .unwrap_or_default();
        let first = match self.bus.wake_listener(&filters).await {
            Ok(first) => first,
            // The next look will find what comes, only later.
            Err(e) => {
                return self
                    .house
                    .screen
                    .warn(&format!("{name} sleeps lightly: {e}"));
            }
        };
        let (hearing, named) = (self.hearing.clone(), name.to_owned());
        let ear = tokio::spawn(async move {
            if let Some(subject) = first.first_subject().await {
                let _ = hearing.send((named, subject));
            }
        });
        if let Some(crew) = self.crews.lock().get_mut(name) {
            crew.ear = Some(AbortOnDropHandle::new(ear));
        }
    }
}
