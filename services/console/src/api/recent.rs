//! `GET /api/flows`: the flows whose events were stored last, with what the ledger knows of them.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use futures_util::future::join_all;
use oncue_admin::flows::search::key_of;
use oncue_core::bus::{BusError, Slice};
use serde_json::{Value, json};

use crate::api::decode::StreamOrigin;
use crate::api::search::event_streams;
use crate::problem::Problem;
use crate::{App, away};

/// Messages looked at in each stream, and bytes.
/// No index of flows exists, so they are told from the last messages of every stream.
const WINDOW_MESSAGES: u64 = 150;
const WINDOW_BYTES: usize = 1 << 20;
/// Flows that are listed.
const MAX_FLOWS: usize = 40;

/// Words of the last messages about one flow.
#[derive(Default)]
struct Traces {
    /// Of the event nearest to the root.
    ty: String,
    key: String,
    hops: Option<u32>,
    events: u64,
    last: u64,
}

/// One message of a flow.
struct Trace {
    flow: String,
    ty: String,
    key: String,
    hops: u32,
    stored: u64,
}

impl Traces {
    fn take(&mut self, trace: Trace) {
        self.events += 1;
        self.last = self.last.max(trace.stored);
        if self.hops.is_none_or(|nearest| trace.hops < nearest) {
            self.ty = trace.ty;
            self.key = trace.key;
            self.hops = Some(trace.hops);
        }
    }
}

pub async fn get(State(app): State<Arc<App>>) -> Result<Json<Value>, Problem> {
    let streams = event_streams(&app);
    let mut flows: BTreeMap<String, Traces> = BTreeMap::new();
    for traces in join_all(streams.iter().map(|stream| look(&app, stream))).await {
        for trace in traces.map_err(away)? {
            flows.entry(trace.flow.clone()).or_default().take(trace);
        }
    }
    let mut flows: Vec<(String, Traces)> = flows.into_iter().collect();
    flows.sort_by_key(|(_, traces)| Reverse(traces.last));
    flows.truncate(MAX_FLOWS);
    let ids: Vec<String> = flows.iter().map(|(id, _)| id.clone()).collect();
    let known = app.store.flows(&ids).await.map_err(away)?;
    let shown = flows.into_iter().zip(known).map(|((id, traces), known)| {
        let events = known.as_ref().map_or(traces.events, |flow| flow.events.len() as u64);
        let open = known.map(|flow| flow.open);
        json!({ "id": id, "type": traces.ty, "key": traces.key, "events": events, "last": traces.last, "open": open })
    });
    Ok(Json(json!({ "flows": shown.collect::<Vec<_>>() })))
}

/// The last messages of a stream.
async fn look(app: &App, stream: &str) -> Result<Vec<Trace>, BusError> {
    let origin = StreamOrigin {
        stream,
        created: app.bus.stream_created(stream).await?,
    };
    let slice = Slice {
        from: app.snapshot.end(stream).saturating_sub(WINDOW_MESSAGES - 1),
        since: None,
        subject: ">",
        messages: WINDOW_MESSAGES as usize,
        bytes: WINDOW_BYTES,
    };
    let found = app.bus.read_slice(stream, &slice).await?;
    let read = found.iter().filter_map(|found| {
        let incoming = origin.read(found).ok()?;
        Some(Trace {
            key: key_of(&incoming, &app.catalog.now()),
            flow: incoming.meta.flow,
            ty: incoming.meta.ty,
            hops: incoming.meta.hops,
            stored: found.time,
        })
    });
    Ok(read.collect())
}
