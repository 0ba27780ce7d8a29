//! `GET /api/flows`: the flows whose events were stored last, with what the ledger knows of them.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use futures::future::join_all;
use oncue_core::bus::{BusError, Slice};
use serde_json::{Value, json};

use crate::App;
use crate::decode::{self, Place};
use crate::problem::Problem;
use crate::search::streams;

/// Messages looked at in each stream, and bytes.
const LOOKED_AT: u64 = 150;
const BYTES: usize = 1 << 20;
const SHOWN: usize = 40;

/// What the last messages say of one flow.
#[derive(Default)]
struct Traces {
    ty: String,
    key: String,
    hops: Option<u32>,
    events: u64,
    last: u64,
}

pub async fn get(State(app): State<Arc<App>>) -> Result<Json<Value>, Problem> {
    let streams = streams(&app);
    let mut flows: BTreeMap<String, Traces> = BTreeMap::new();
    for look in join_all(streams.iter().map(|stream| look(&app, stream))).await {
        for (flow, ty, key, hops, stored) in look? {
            let traces = flows.entry(flow).or_default();
            traces.events += 1;
            traces.last = traces.last.max(stored);
            if traces.hops.is_none_or(|nearest| hops < nearest) {
                (traces.ty, traces.key, traces.hops) = (ty, key, Some(hops));
            }
        }
    }
    let mut flows: Vec<(String, Traces)> = flows.into_iter().collect();
    flows.sort_by_key(|(_, traces)| std::cmp::Reverse(traces.last));
    flows.truncate(SHOWN);
    let ids: Vec<String> = flows.iter().map(|(id, _)| id.clone()).collect();
    let known = app.store.flows(&ids).await?;
    let shown = flows.into_iter().zip(known).map(|((id, traces), known)| {
        let events = known.as_ref().map_or(traces.events, |flow| flow.events.len() as u64);
        let open = known.map(|flow| flow.open);
        json!({ "id": id, "type": traces.ty, "key": traces.key, "events": events, "last": traces.last, "open": open })
    });
    Ok(Json(json!({ "flows": shown.collect::<Vec<_>>() })))
}

/// Flow, type, key, hops and time of the last messages of a stream.
async fn look(
    app: &App,
    stream: &str,
) -> Result<Vec<(String, String, String, u32, u64)>, BusError> {
    let place = Place {
        stream,
        created: app.bus.stream_created(stream).await?,
    };
    let last = app.board.end(stream);
    let from = last.saturating_sub(LOOKED_AT - 1);
    let slice = Slice {
        from,
        since: None,
        subject: ">",
        messages: LOOKED_AT as usize,
        bytes: BYTES,
    };
    let found = app.bus.read_slice(stream, &slice).await?;
    let read = found.iter().filter_map(|found| {
        let incoming = place.read(found).ok()?;
        let key = decode::key(&incoming, &app.catalog);
        let meta = incoming.meta;
        Some((meta.flow, meta.ty, key, meta.hops, found.time))
    });
    Ok(read.collect())
}
