//! Watching flows: however many clients wait or watch, one task asks Redis for all of their flows together.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use oncue_core::bus::Bus;
use oncue_core::model::flow::Flow;
use oncue_core::store::{Store, StoreError};
use oncue_http::address::ClientAddress;
use oncue_http::shares::{Full, Share, Shares};
use oncue_proto::event::stream_of_type;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::watchlist::{Follower, Watchlist};
use crate::problem::{BUSY, Problem, TOO_MANY_LISTENERS};

/// Pause between two looks at a flow, while few are looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(25);
/// Flows looked at in a second, at most: then the looks are further apart.
const FLOWS_PER_SECOND: u32 = 5000;
/// Flows in one round trip.
const FLOWS_PER_READ: usize = 256;
/// Part of all waiters that one address may have: one in so many.
const PART_PER_ADDRESS: usize = 4;
/// Time for which a function's consumer that was there need not be asked for again.
const CONSUMER_TTL: Duration = Duration::from_secs(5);

/// A flow that somebody waits for, as it was last seen.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Observed {
    /// Nobody has looked yet.
    #[default]
    Unread,
    /// There is no ledger, or none any more.
    Untracked,
    /// Redis does not answer; it will be asked again.
    Away,
    Flow(Arc<Flow>),
}

impl Observed {
    pub fn is_complete(&self) -> bool {
        matches!(self, Self::Flow(flow) if flow.is_complete())
    }
}

impl From<Option<Flow>> for Observed {
    fn from(flow: Option<Flow>) -> Self {
        flow.map_or(Self::Untracked, |flow| Self::Flow(flow.into()))
    }
}

/// A function's consumer.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct ConsumerKey {
    stream: String,
    function: String,
}

/// Reads the ledgers of all flows somebody waits for or watches.
pub struct FlowWatcher {
    store: Store,
    bus: Bus,
    waiters: Arc<Shares>,
    max_waiters: usize,
    watched: Watchlist<String, Observed>,
    /// Consumers that were there, and when.
    consumers: Mutex<HashMap<ConsumerKey, Instant>>,
}

impl FlowWatcher {
    pub fn new(store: Store, bus: Bus, max_waiters: usize) -> Arc<Self> {
        Arc::new(Self {
            store,
            bus,
            waiters: Shares::new(max_waiters, per_address(max_waiters)),
            max_waiters,
            watched: Watchlist::default(),
            consumers: Mutex::default(),
        })
    }

    /// A place to wait, if one is free.
    pub fn place(&self, client: Option<ClientAddress>) -> Result<Share, Problem> {
        self.waiters.take(client).map_err(|full| match full {
            Full::All => {
                let most = self.max_waiters;
                let why = format!("{most} clients wait already; ask without waiting");
                Problem::new(BUSY, why)
            }
            Full::Client => {
                let most = per_address(self.max_waiters);
                let why = format!(
                    "{most} of this address wait already, a quarter of [flows] max_waiters in oncue.toml; ask without waiting"
                );
                Problem::new(TOO_MANY_LISTENERS, why)
            }
        })
    }

    /// Clients that wait.
    pub fn waiters(&self) -> usize {
        self.waiters.held()
    }

    /// Follows a flow for as long as the receiver lives.
    pub fn watch(self: &Arc<Self>, flow: &str) -> watch::Receiver<Observed> {
        let Follower { observed, is_first } = self.watched.follow(flow.to_owned());
        if is_first {
            tokio::spawn(self.clone().poll());
        }
        observed
    }

    /// Looks at all watched flows again and again, until nobody watches any.
    async fn poll(self: Arc<Self>) {
        loop {
            let flows = self.watched.followed();
            if flows.is_empty() {
                return;
            }
            for ids in flows.chunks(FLOWS_PER_READ) {
                self.look(ids).await;
            }
            let pace = Duration::from_secs(1) / FLOWS_PER_SECOND * flows.len() as u32;
            tokio::time::sleep(LOOK_INTERVAL.max(pace)).await;
        }
    }

    /// One look at some of the flows, told to those who watch them.
    async fn look(&self, ids: &[String]) {
        let found = match self.read(ids).await {
            Ok(flows) => flows.into_iter().map(Observed::from).collect(),
            Err(e) => {
                tracing::warn!(error = %e, "cannot look at flows");
                vec![Observed::Away; ids.len()]
            }
        };
        for (id, now) in ids.iter().zip(found) {
            self.watched.tell(id, now);
        }
    }

    /// The flows as they stand, with steps nobody will take shown as removed.
    pub async fn read(&self, ids: &[String]) -> Result<Vec<Option<Flow>>, StoreError> {
        let mut flows = self.store.flows(ids).await?;
        let mut removed = HashSet::new();
        for consumer in open_consumers(&flows) {
            if self.is_removed(&consumer).await {
                removed.insert(consumer.function);
            }
        }
        if !removed.is_empty() {
            for flow in flows.iter_mut().flatten() {
                flow.without_removed(|function| !removed.contains(function));
            }
        }
        Ok(flows)
    }

    /// Asked after the ledger was read: whatever wrote a step there had its consumer before. An answer of "gone" is
    /// therefore never remembered, or a function that has just come would be taken for one that left.
    async fn is_removed(&self, consumer: &ConsumerKey) -> bool {
        if self.was_lately_there(consumer) {
            return false;
        }
        let there = self
            .bus
            .has_consumer(&consumer.stream, &consumer.function)
            .await;
        // Where NATS does not say, the function is waited for.
        let there = there.unwrap_or(true);
        let mut consumers = self.consumers.lock();
        if there {
            consumers.insert(consumer.clone(), Instant::now());
        } else {
            consumers.remove(consumer);
        }
        !there
    }

    fn was_lately_there(&self, consumer: &ConsumerKey) -> bool {
        let consumers = self.consumers.lock();
        let seen = consumers.get(consumer);
        seen.is_some_and(|seen| seen.elapsed() < CONSUMER_TTL)
    }
}

/// Most that may wait of one address.
fn per_address(max_waiters: usize) -> usize {
    max_waiters.div_ceil(PART_PER_ADDRESS)
}

/// Consumers of the functions that have still to act in any of the flows.
fn open_consumers(flows: &[Option<Flow>]) -> HashSet<ConsumerKey> {
    let mut open = HashSet::new();
    let events = flows.iter().flatten().flat_map(|flow| &flow.events);
    // An event without a type is known by its steps only; its stream is not known.
    for event in events.filter(|event| !event.ty.is_empty()) {
        let steps = event.steps.iter().filter(|step| step.state.is_open());
        open.extend(steps.map(|step| ConsumerKey {
            stream: stream_of_type(&event.ty).to_owned(),
            function: step.function.clone(),
        }));
    }
    open
}
