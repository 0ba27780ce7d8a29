//! `GET /api/flows/{id}`: a flow as its ledger has it, or as it can be rebuilt from what is left of it;
//! `.../events/{event}`: one of its events, as it lies in its stream, with its letters and the rows that were changed by it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::{Path, Query, State};
use oncue_admin::flows::{self, FlowSearch, FoundEvent, SearchLimits};
use oncue_core::agreement;
use oncue_core::model::flow::Flow;
use oncue_proto::event;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::api::decode::StreamOrigin;
use crate::api::letters::WINDOW;
use crate::problem::{MALFORMED, NOT_FOUND, Problem};
use crate::{App, away};

/// Time to find the root of a tracked flow.
const ROOT_TIME: Duration = Duration::from_millis(300);
/// Time to find an event, and again to read what followed, all streams at once.
const SEARCH_TIME: Duration = Duration::from_millis(400);
/// Events of a flow; larger ones are cut, and the page says so.
const MAX_EVENTS: usize = 2000;

pub async fn get(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
) -> Result<Json<Value>, Problem> {
    let id = event::check_id(id).map_err(|e| Problem::new(MALFORMED, e.message))?;
    if let Some(flow) = app.store.flow(&id).await.map_err(away)? {
        return Ok(Json(tracked(&app, flow).await));
    }
    let limits = SearchLimits {
        find: Some(SEARCH_TIME),
        read: Some(SEARCH_TIME),
        events: MAX_EVENTS,
        letters: WINDOW,
        ..SearchLimits::default()
    };
    let functions = app.snapshot.manifests();
    let rebuilt = flows::rebuild(&app.sources(&functions, &app.catalog.now()), &id, limits)
        .await
        .map_err(away)?;
    let Some(flow) = rebuilt.flow else {
        let searched = rebuilt.searched;
        let detail = format!("no ledger has the flow {id:?}, and it was not found: {searched}");
        return Err(Problem::new(NOT_FOUND, detail));
    };
    // The id was that of an event inside: its flow may well have a ledger.
    if let Some(known) = app.store.flow(&flow.id).await.map_err(away)? {
        return Ok(Json(tracked(&app, known).await));
    }
    Ok(Json(json!({
        "flow": flow,
        "from": "streams",
        "searched": rebuilt.searched.to_string(),
        "trace": rebuilt.trace,
        "now": event::now_ms(),
    })))
}

/// Where to look for an event.
#[derive(Deserialize)]
pub struct Near {
    /// About when it was stored, Unix milliseconds; without it, anywhere.
    time: Option<u64>,
}

pub async fn event(
    State(app): State<Arc<App>>,
    Path((flow, id)): Path<(String, String)>,
    Query(near): Query<Near>,
) -> Result<Json<Value>, Problem> {
    let id = event::check_id(id).map_err(|e| Problem::new(MALFORMED, e.message))?;
    let limits = SearchLimits {
        find: Some(SEARCH_TIME),
        ..SearchLimits::default()
    };
    let functions = app.snapshot.manifests();
    let catalog = app.catalog.now();
    let sources = app.sources(&functions, &catalog);
    let search = FlowSearch::open(&sources, limits).await.map_err(away)?;
    let mut found = match near.time {
        Some(time) => search.around(&id, time).await.map_err(away)?,
        None => None,
    };
    if found.is_none() {
        found = search.find(&id).await.map_err(away)?;
    }
    // Of a flow's id any event of it may be found.
    let found = found.filter(|found| found.incoming.meta.id == id);
    let Some(found) = found else {
        let searched = search.searched();
        let detail = format!("the event {id:?} of the flow {flow:?} was not found: {searched}");
        return Err(Problem::new(NOT_FOUND, detail));
    };
    let created = app.bus.stream_created(&found.stream).await.map_err(away)?;
    let origin = StreamOrigin {
        stream: &found.stream,
        created,
    };
    let mut shown = origin.show(&found.message, &catalog);
    let index = app.letters.look(&app).await?;
    shown["letters"] = json!(index.of_event(&id));
    let steps: Vec<(&str, &str)> = functions.iter().map(|one| (&*id, &*one.name)).collect();
    let rows = app.store.step_rows(&flow, &steps).await.map_err(away)?;
    let sensitive = catalog.sensitive_names();
    let rows = functions.iter().zip(rows).filter_map(|(function, row)| {
        let mut row = row?;
        row.hide(&sensitive);
        Some((&function.name, row))
    });
    shown["rows"] = json!(rows.collect::<BTreeMap<_, _>>());
    Ok(Json(shown))
}

async fn tracked(app: &App, mut flow: Flow) -> Value {
    if let Ok(settled) = agreement::with_lost_steps(&app.bus, &app.store, flow.clone()).await {
        flow = settled;
    }
    flow.without_removed(|name| app.snapshot.has_function(name));
    let waits = flow.waits_for().map(|(event, step)| json!({ "event": event.id, "type": event.ty, "function": step.function, "state": step.state, "since": step.since }));
    let trace = trace(app, &flow.id, flow.started).await;
    json!({ "flow": flow, "from": "ledger", "waits": waits, "trace": trace, "now": event::now_ms() })
}

/// Trace of a flow, from the headers of its root event.
async fn trace(app: &App, id: &str, started: u64) -> Option<String> {
    let limits = SearchLimits {
        find: Some(ROOT_TIME),
        ..SearchLimits::default()
    };
    let functions = app.snapshot.manifests();
    let catalog = app.catalog.now();
    let search = FlowSearch::open(&app.sources(&functions, &catalog), limits)
        .await
        .ok()?;
    let root = search.around(id, started).await.ok()??;
    FoundEvent::trace_id(&root).map(str::to_owned)
}
