//! Flow log: what a worker enters in the ledger of a tracked flow (see [`oncue_core::model::flow`]). In the step that commits
//! an event: that it is done or dead and which events follow, with the functions that act on them. In passing: that a run
//! begins or has failed. Nobody collects anything: each worker writes of its own event, and the counter of open steps does
//! the rest.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use oncue_core::config::{FlowsConfig, Track};
use oncue_core::model::flow::StepRow;
use oncue_core::store::{Entry, Fields, StepUpdate, Store};
use oncue_proto::Catalog;
use oncue_proto::event::{self, Meta};
use parking_lot::Mutex;
use serde_json::json;

use crate::function::Erased;
use crate::worker::batcher::{Batcher, Batching};
use crate::worker::invocation::Invocation;

/// Different hops that one worker counts between two reports; further ones are not told apart.
///
/// Types and the platform's own names are few; only clients can make this many.
const MAX_HOPS_COUNTED: usize = 256;
/// Between two reports of hops.
const REPORT_INTERVAL: Duration = Duration::from_secs(2);

/// Writer of one function's steps in ledgers. Shared by the handler, which records that runs begin,
/// and the settler, which records failures. Good ends are written by the commit.
pub(crate) struct FlowLog {
    /// Step of a ledger: one for each event and function.
    function: &'static str,
    /// Which flows have a ledger besides those whose client asked.
    track: Track,
    /// How long a ledger stays.
    keep: Duration,
    /// Names of the fields that the function's contract calls sensitive: rows keep nothing of them.
    sensitive: BTreeSet<String>,
    /// Lines on their way, many in one round trip. Nobody waits for them, and a crash loses some: a
    /// ledger then lacks a time, and no step.
    updates: Batcher<StepUpdate, ()>,
}

impl FlowLog {
    /// Starts the task of the batcher.
    pub fn new(function: &Erased, flows: &FlowsConfig, store: &Store) -> Self {
        let mut catalog = Catalog::default();
        // One that cannot be read was refused before.
        let _ = catalog.add(&function.contract());
        let store = store.clone();
        Self {
            function: function.name,
            track: flows.track,
            keep: flows.keep.0,
            sensitive: catalog.sensitive_names(),
            updates: Batcher::new(
                Batching::by(|_: &StepUpdate| 1),
                move |updates: Arc<Vec<StepUpdate>>| {
                    let store = store.clone();
                    async move {
                        store.record_steps(&updates).await?;
                        Ok(vec![(); updates.len()])
                    }
                },
            ),
        }
    }

    /// Whether the flow of an event has a ledger.
    ///
    /// Either its client asked for one, or the configuration takes all flows, or a share of them
    /// with this one. Events that follow carry the mark, so a flow is tracked as a whole.
    pub fn tracks(&self, meta: &Meta) -> bool {
        meta.tracked || self.track.wants(&meta.flow)
    }

    /// Entry to be made by the commit of an event; `None` for an untracked flow.
    pub fn entry(&self, event: &Invocation) -> Option<Box<Entry>> {
        event.tracked.then(|| {
            let outputs = event.outputs.iter();
            let follows = outputs.clone().filter_map(|output| output.entry.clone());
            // Until the last of those that are delayed has come as well.
            let delay = outputs.map(|output| output.delay).max();
            Box::new(Entry {
                flow: event.meta.flow.clone(),
                keep: self.keep + delay.unwrap_or_default(),
                id: event.meta.id.clone(),
                ty: event.meta.ty.clone(),
                content: content(&event.meta, event.key()),
                is_own: event.meta.redrive.is_some(),
                follows: follows.collect(),
            })
        })
    }

    /// A run of the handler begins.
    pub fn begins(&self, event: &Invocation) {
        if event.tracked {
            self.update(event, "r", &format!("{} {}", event::now_ms(), event.runs()));
        }
    }

    /// A run has failed, or its event is set aside; `why` is what may be shown of it.
    pub fn fails(&self, event: &Invocation, why: &str) {
        if event.tracked {
            self.update(event, "w", &format!("{} {why}", event::now_ms()));
        }
    }

    /// A run has found its row so, and leaves it so; `None` where it has failed. `events` were handled by that one run.
    pub fn row(&self, event: &Invocation, before: &Fields, after: Option<&Fields>, events: usize) {
        if event.tracked {
            let mut row = StepRow {
                events,
                ..StepRow::new(before, after)
            };
            row.hide(&self.sensitive);
            self.updates.send(StepUpdate {
                flow: event.meta.flow.clone(),
                field: event.meta.id.clone(),
                text: json!(row).to_string(),
                row_of: Some(self.function),
                keep: self.keep,
            });
        }
    }

    /// Field `r:EVENT:FUNCTION` for a run and `w:EVENT:FUNCTION` for a failure, each with the Unix
    /// milliseconds in front.
    fn update(&self, event: &Invocation, kind: &str, text: &str) {
        self.updates.send(StepUpdate {
            flow: event.meta.flow.clone(),
            field: format!("{kind}:{}:{}", event.meta.id, self.function),
            text: text.to_owned(),
            row_of: None,
            keep: self.keep,
        });
    }
}

/// Description of an event in a ledger, as JSON.
fn content(meta: &Meta, key: &str) -> String {
    json!([meta.ty, key, meta.source, meta.cause, meta.time]).to_string()
}

/// Entry of an output: its id, its type, and its description.
pub(crate) fn follows(meta: &Meta, key: &str) -> (String, String, String) {
    (meta.id.clone(), meta.ty.clone(), content(meta, key))
}

/// Source and type of events that come to this function.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Hop {
    source: String,
    ty: String,
}

/// Counter of hops: how many events came from where since the last report. From it the map knows what acts on what.
///
/// Shared by the settler, which counts, and the task that reports. Approximate on purpose: what a
/// crash loses of it is two seconds of a picture.
pub(crate) struct Hops {
    function: &'static str,
    store: Store,
    /// Since the last report.
    counts: Mutex<HashMap<Hop, u64>>,
}

impl Hops {
    pub fn new(function: &'static str, store: &Store) -> Self {
        Self {
            function,
            store: store.clone(),
            counts: Mutex::default(),
        }
    }

    /// Counts one event. Called for every acked one, so it allocates nothing for a hop that is
    /// known.
    pub fn count(&self, meta: &Meta) {
        let mut counts = self.counts.lock();
        // One look-up without a copy would need a key of two borrowed parts; a worker sees a handful of hops.
        let known = counts
            .iter_mut()
            .find(|(hop, _)| hop.source == meta.source && hop.ty == meta.ty);
        if let Some((_, count)) = known {
            *count += 1;
        } else if counts.len() < MAX_HOPS_COUNTED {
            let hop = Hop {
                source: meta.source.clone(),
                ty: meta.ty.clone(),
            };
            counts.insert(hop, 1);
        }
    }

    /// Reports now and then.
    pub async fn report_for_ever(self: Arc<Self>) {
        loop {
            tokio::time::sleep(REPORT_INTERVAL).await;
            self.report().await;
        }
    }

    /// Reports the counts and begins anew; a report that fails is not repeated.
    pub async fn report(&self) {
        let hops = self.take();
        if let Err(e) = self.store.count_hops(&hops, self.function).await {
            tracing::debug!(error = %e, "hops of the last seconds are not reported");
        }
    }

    /// Takes the counts. Of a source only the platform's own names are told apart: names that clients give themselves have
    /// no bound.
    fn take(&self) -> Vec<(String, String, u64)> {
        let counts = std::mem::take(&mut *self.counts.lock());
        let mut sums: HashMap<Hop, u64> = HashMap::new();
        for (mut hop, count) in counts {
            if !is_of_platform(&hop.source) {
                "client".clone_into(&mut hop.source);
            }
            *sums.entry(hop).or_default() += count;
        }
        let hops = sums.into_iter();
        hops.map(|(hop, count)| (hop.source, hop.ty, count))
            .collect()
    }
}

/// Source as the platform writes it: `/` and a name of at most 64 characters from a-z, 0-9 and `-`.
fn is_of_platform(source: &str) -> bool {
    source.strip_prefix('/').is_some_and(|name| {
        (1..=64).contains(&name.len())
            && name
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    })
}
