//! Waiting for flows: however many clients wait or watch, one task asks Redis for all of their flows together.

use parking_lot::Mutex;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use oncue_core::bus::Bus;
use oncue_core::model::flow::Flow;
use oncue_core::store::{Store, StoreError};
use oncue_proto::event::stream_of_type;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use crate::problem::{BUSY, Problem};

/// Between two looks at a flow, while few are looked at.
const PAUSE: Duration = Duration::from_millis(25);
/// Flows looked at in a second, at most: then the looks are further apart.
const PACE: u32 = 5000;
/// Flows in one round trip.
const STEP: usize = 256;
/// A function's consumer was there so lately that it need not be asked for again.
const FRESH: Duration = Duration::from_secs(5);

/// What is known of a flow that somebody waits for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Seen {
    /// Nobody has looked yet.
    #[default]
    Unread,
    /// There is no ledger, or none any more.
    Untracked,
    /// Redis does not answer; it will be asked again.
    Away,
    Flow(Arc<Flow>),
}

impl Seen {
    pub fn is_complete(&self) -> bool {
        matches!(self, Self::Flow(flow) if flow.is_complete())
    }
}

pub struct Waiting {
    store: Store,
    bus: Bus,
    places: Arc<Semaphore>,
    limit: usize,
    watched: Mutex<HashMap<String, watch::Sender<Seen>>>,
    /// Consumers that were there, and when.
    consumers: Mutex<HashMap<(String, String), Instant>>,
}

/// One of a bounded number; given back when dropped.
pub struct Place(#[expect(dead_code, reason = "held, not read")] OwnedSemaphorePermit);

impl Waiting {
    pub fn new(store: Store, bus: Bus, limit: usize) -> Arc<Self> {
        let places = Arc::new(Semaphore::new(limit.min(Semaphore::MAX_PERMITS)));
        Arc::new(Self {
            store,
            bus,
            places,
            limit,
            watched: Mutex::default(),
            consumers: Mutex::default(),
        })
    }

    /// A place among those who wait, if one is free.
    pub fn place(&self) -> Result<Place, Problem> {
        let why = || {
            Problem::new(
                BUSY,
                format!("{} clients wait already; ask without waiting", self.limit),
            )
        };
        self.places
            .clone()
            .try_acquire_owned()
            .map(Place)
            .map_err(|_| why())
    }

    /// Clients that wait or watch.
    pub fn count(&self) -> usize {
        self.limit.saturating_sub(self.places.available_permits())
    }

    /// Follows a flow for as long as the receiver lives.
    pub fn watch(self: &Arc<Self>, flow: &str) -> watch::Receiver<Seen> {
        let mut watched = self.watched.lock();
        let idle = watched.is_empty();
        let mut seen = watched.entry(flow.to_owned()).or_default().subscribe();
        // Of what others have seen already, this one hears as well.
        seen.mark_changed();
        drop(watched);
        if idle {
            tokio::spawn(self.clone().poll());
        }
        seen
    }

    /// Looks at all watched flows again and again, until nobody watches any.
    async fn poll(self: Arc<Self>) {
        loop {
            let flows: Vec<String> = {
                let mut watched = self.watched.lock();
                watched.retain(|_, seen| seen.receiver_count() > 0);
                if watched.is_empty() {
                    return;
                }
                watched.keys().cloned().collect()
            };
            for ids in flows.chunks(STEP) {
                let found = match self.read(ids).await {
                    Ok(found) => found
                        .into_iter()
                        .map(|f| f.map_or(Seen::Untracked, |f| Seen::Flow(f.into())))
                        .collect(),
                    Err(e) => {
                        tracing::warn!(error = %e, "cannot look at flows");
                        vec![Seen::Away; ids.len()]
                    }
                };
                let watched = self.watched.lock();
                for (id, now) in ids.iter().zip(found) {
                    let Some(seen) = watched.get(id) else {
                        continue;
                    };
                    seen.send_if_modified(|seen| {
                        let changed = *seen != now;
                        *seen = now;
                        changed
                    });
                }
            }
            tokio::time::sleep(PAUSE.max(Duration::from_secs(1) / PACE * flows.len() as u32)).await;
        }
    }

    /// The flows as they stand, with steps nobody will take shown as removed.
    pub async fn read(&self, ids: &[String]) -> Result<Vec<Option<Flow>>, StoreError> {
        let mut flows = self.store.flows(ids).await?;
        let mut steps = HashSet::new();
        for event in flows.iter().flatten().flat_map(|flow| &flow.events) {
            let open = event
                .steps
                .iter()
                .filter(|step| step.state.is_open() && !event.ty.is_empty());
            steps.extend(
                open.map(|step| (stream_of_type(&event.ty).to_owned(), step.function.clone())),
            );
        }
        let mut removed = HashSet::new();
        for (stream, function) in steps {
            if self.is_removed(&stream, &function).await {
                removed.insert(function);
            }
        }
        if !removed.is_empty() {
            flows
                .iter_mut()
                .flatten()
                .for_each(|flow| flow.without_removed(|function| !removed.contains(function)));
        }
        Ok(flows)
    }

    /// Asked after the ledger was read: whatever wrote a step there had its consumer before. An answer of "gone" is
    /// therefore never remembered, or a function that has just come would be taken for one that left.
    async fn is_removed(&self, stream: &str, function: &str) -> bool {
        let key = (stream.to_owned(), function.to_owned());
        if self
            .consumers
            .lock()
            .get(&key)
            .is_some_and(|seen| seen.elapsed() < FRESH)
        {
            return false;
        }
        // Where NATS does not say, the function is waited for.
        let there = self
            .bus
            .has_consumer(stream, function)
            .await
            .unwrap_or(true);
        let mut consumers = self.consumers.lock();
        if there {
            consumers.insert(key, Instant::now());
        } else {
            consumers.remove(&key);
        }
        !there
    }
}
