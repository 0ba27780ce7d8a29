//! What a worker enters in the ledger of a tracked flow (see [`oncue_core::model::flow`]): in the step that commits an event, that it
//! is done or dead and which events follow, with the functions that act on them; in passing, that a run begins or has
//! failed. Nobody collects anything: each worker writes of its own event, and the counter of open steps does the rest.

use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use crate::worker::Worker;
use crate::worker::invocation::Job;
use oncue_core::store::{Entry, StepUpdate, flow_key};
use oncue_proto::event::{self, Meta};

/// Different hops one worker counts between two reports; what is beyond is not told apart.
const HOPS: usize = 256;
/// Between two reports of them.
const REPORT: Duration = Duration::from_secs(2);

/// What the ledger says of an event itself.
fn content(meta: &Meta, key: &str) -> String {
    json!([meta.ty, key, meta.source, meta.cause, meta.time]).to_string()
}

impl Worker {
    /// The entry to be made by the commit of an event; `None` for an untracked flow.
    pub(crate) fn entry(&self, job: &Job) -> Option<Box<Entry>> {
        job.tracked.then(|| {
            let follows = |output: &crate::worker::outputs::Output| output.entry.clone();
            Box::new(Entry {
                flow: flow_key(&job.meta.flow),
                keep: self.keep_flows,
                id: job.meta.id.clone(),
                ty: job.meta.ty.clone(),
                content: content(&job.meta, job.key()),
                follows: job.outputs.iter().filter_map(follows).collect(),
            })
        })
    }

    /// A run of the handler begins.
    pub(crate) fn note_begin(&self, job: &Job) {
        if job.tracked {
            self.note(job, "r", &format!("{} {}", event::now_ms(), job.runs));
        }
    }

    /// It has failed, or is set aside; `why` is what may be shown of it.
    pub(crate) fn note_failure(&self, job: &Job, why: &str) {
        if job.tracked {
            self.note(job, "w", &format!("{} {why}", event::now_ms()));
        }
    }

    fn note(&self, job: &Job, kind: &str, text: &str) {
        let (flow, field) = (
            flow_key(&job.meta.flow),
            format!("{kind}:{}:{}", job.meta.id, self.function.name),
        );
        self.notes.tell(StepUpdate {
            flow,
            field,
            text: text.to_owned(),
            keep: self.keep_flows,
        });
    }

    /// Reports now and then which hops were seen.
    pub(crate) async fn report_hops(self: Arc<Self>) {
        loop {
            tokio::time::sleep(REPORT).await;
            self.flush_hops().await;
        }
    }

    pub(crate) async fn flush_hops(&self) {
        let seen = self.hops.take();
        if let Err(e) = self.store.count_hops(&seen, self.function.name).await {
            tracing::debug!(error = %e, "hops of the last seconds are not reported");
        }
    }
}

/// What an output enters: its id, its type, and what the ledger says of it.
pub(crate) fn follows(meta: &Meta, key: &str) -> (String, String, String) {
    (meta.id.clone(), meta.ty.clone(), content(meta, key))
}

/// How many events came from where since the last report.
#[derive(Default)]
pub(crate) struct Hops(Mutex<HashMap<(String, String), u64>>);

impl Hops {
    pub fn saw(&self, meta: &Meta) {
        let mut hops = self.0.lock();
        // One look-up without a copy would need a key of two borrowed parts; a worker sees a handful of hops.
        if let Some((_, count)) = hops
            .iter_mut()
            .find(|((source, ty), _)| *source == meta.source && *ty == meta.ty)
        {
            *count += 1;
        } else if hops.len() < HOPS {
            hops.insert((meta.source.clone(), meta.ty.clone()), 1);
        }
    }

    /// Of a source only the platform's own names are told apart: what clients call themselves has no bound.
    fn take(&self) -> Vec<(String, String, u64)> {
        let seen = std::mem::take(&mut *self.0.lock());
        let mut sums: HashMap<(String, String), u64> = HashMap::new();
        for ((source, ty), count) in seen {
            let source = if is_ours(&source) {
                source
            } else {
                "client".to_owned()
            };
            *sums.entry((source, ty)).or_default() += count;
        }
        sums.into_iter()
            .map(|((source, ty), count)| (source, ty, count))
            .collect()
    }
}

fn is_ours(source: &str) -> bool {
    source.strip_prefix('/').is_some_and(|name| {
        (1..=64).contains(&name.len())
            && name
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    })
}
