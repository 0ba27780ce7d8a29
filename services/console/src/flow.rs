//! `GET /api/flows/{id}`: a flow as its ledger has it, or as the streams still show it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::{Path, State};
use oncue_admin::trail::{Patience, Trail};
use oncue_core::model::flow::Flow;
use oncue_proto::event;
use serde_json::{Value, json};

use crate::App;
use crate::problem::{MALFORMED, NOT_FOUND, Problem};
use crate::rebuild;
use crate::search;

/// For the root of a tracked flow.
const PATIENCE: Duration = Duration::from_millis(300);

pub async fn get(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
) -> Result<Json<Value>, Problem> {
    let id = event::check_id(id).map_err(|e| Problem::new(MALFORMED, e.message))?;
    if let Some(flow) = app.store.flow(&id).await? {
        return Ok(Json(tracked(&app, flow).await));
    }
    let built = rebuild::flow(&app, &id).await?;
    let Some(flow) = built.flow else {
        let detail = format!(
            "no ledger has the flow {id:?}, and it was not found: {}",
            built.searched
        );
        return Err(Problem::new(NOT_FOUND, detail));
    };
    // The id was that of an event inside: its flow may well have a ledger.
    if let Some(known) = app.store.flow(&flow.id).await? {
        return Ok(Json(tracked(&app, known).await));
    }
    Ok(Json(json!({
        "flow": flow,
        "from": "streams",
        "searched": built.searched,
        "trace": built.trace,
        "now": event::now_ms(),
    })))
}

async fn tracked(app: &App, mut flow: Flow) -> Value {
    let there: Vec<String> = app
        .board
        .cards()
        .into_iter()
        .map(|card| card.name)
        .collect();
    flow.without_removed(|name| there.iter().any(|known| known == name));
    let waits = flow.waits_for().map(|(event, step)| json!({ "event": event.id, "type": event.ty, "function": step.function, "state": step.state, "since": step.since }));
    let trace = trace(app, &flow.id, flow.started).await;
    json!({ "flow": flow, "from": "ledger", "waits": waits, "trace": trace, "now": event::now_ms() })
}

/// The trace of a flow is in its root event's headers.
async fn trace(app: &App, id: &str, started: u64) -> Option<String> {
    let patience = Patience {
        find: Some(PATIENCE),
        ..Patience::default()
    };
    let trail = Trail::open(search::sources(app), patience).await.ok()?;
    let root = trail.around(id, started).await.ok()??;
    root.incoming
        .meta
        .traceparent?
        .split('-')
        .nth(1)
        .map(str::to_owned)
}

/// Names of functions with the stream and types they act on.
pub fn listeners(app: &App) -> BTreeMap<String, Vec<(String, String)>> {
    let mut by_type: BTreeMap<String, Vec<(String, String)>> = BTreeMap::new();
    for card in app.board.cards() {
        for ty in &card.triggers {
            by_type
                .entry(ty.clone())
                .or_default()
                .push((card.name.clone(), card.stream.clone()));
        }
    }
    by_type
}
