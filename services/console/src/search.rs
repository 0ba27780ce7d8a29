//! `GET /api/search?q=`: an event id, a flow id or a key. Keys are part of subjects and the ledger knows its flows; ids are
//! looked for as [`oncue::trail`] does.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Json;
use axum::extract::{Query, State};
use futures::future::join_all;
use oncue::bus::layout::{DLQ, TIMER};
use oncue::bus::{BusError, Found};
use oncue::event;
use oncue::trail::{Patience, Trail};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::App;
use crate::decode::Place;
use crate::events::latest;
use crate::letters::WINDOW;
use crate::problem::{MALFORMED, Problem};

/// For looking message by message: somebody waits.
const PATIENCE: Duration = Duration::from_millis(700);
/// Events shown of each type with a key.
const OF_A_KEY: usize = 5;

#[derive(Deserialize)]
pub struct Asked {
    q: String,
}

/// An event and the stream it lies in.
type Hit = (String, Found);

pub async fn get(State(app): State<Arc<App>>, Query(Asked { q }): Query<Asked>) -> Result<Json<Value>, Problem> {
    let began = Instant::now();
    let query = event::check_id(q.trim().to_owned()).map_err(|e| Problem::new(MALFORMED, e.message))?;
    let (flow, keyed, letters) =
        tokio::join!(app.store.flow(&query), by_key(&app, &query), oncue::dlq::latest(&app.bus, WINDOW));
    let (flow, (keyed, types), letters) = (flow?, keyed?, letters?.0);
    let letters =
        letters.iter().filter(|l| [&l.content.event_id, &l.content.flow_id, &l.content.key].contains(&&query));
    let mut searched = vec!["the flow ledger".to_owned(), format!("the subject of this key for {types} event types")];
    let mut hit = None;
    if keyed.is_empty() {
        let patience = Patience { find: Some(PATIENCE), ..Patience::default() };
        let trail = Trail::open(&app.bus, streams(&app), patience).await?;
        hit = match &flow {
            Some(flow) => trail.around(&query, flow.started).await?,
            None => trail.find(&query, &emitted(&app)).await?,
        };
        searched.push(trail.searched().to_string());
    }
    let flow = flow
        .map(|flow| json!({ "id": flow.id, "open": flow.open, "events": flow.events.len(), "started": flow.started }));
    Ok(Json(json!({
        "query": query,
        "flow": flow,
        "events": show(&app, hit.map(|hit| (hit.stream, hit.found)).into_iter().collect()).await,
        "keyed": show(&app, keyed).await,
        "letters": letters.map(|l| json!({ "number": l.number, "function": l.content.function, "reason": l.content.reason, "message": l.content.message })).collect::<Vec<_>>(),
        "searched": searched,
        "ms": began.elapsed().as_millis() as u64,
    })))
}

/// Types that functions may emit.
fn emitted(app: &App) -> BTreeSet<String> {
    app.board.cards().into_iter().flat_map(|card| card.emits).collect()
}

async fn show(app: &App, hits: Vec<Hit>) -> Vec<Value> {
    let mut shown = Vec::new();
    for (stream, found) in hits {
        let created = app.bus.stream_created(&stream).await.unwrap_or(0);
        shown.push(Place { stream: &stream, created }.show(&found, &app.catalog));
    }
    shown
}

pub fn streams(app: &App) -> Vec<String> {
    app.board.streams().into_iter().filter(|stream| stream != DLQ && stream != TIMER).collect()
}

/// The last events about a key, for every type with one, and how many types those are.
async fn by_key(app: &App, key: &str) -> Result<(Vec<Hit>, usize), BusError> {
    let known = app.board.streams();
    let types: Vec<&str> = app
        .catalog
        .entries()
        .map(|entry| entry.ty.as_str())
        .filter(|ty| known.iter().any(|stream| stream == event::stream_of_type(ty)) && event::stream_of_type(ty) != DLQ)
        .collect();
    let looked = join_all(types.iter().map(|ty| async move {
        let (stream, subject) = (event::stream_of_type(ty), event::subject(ty, key));
        // Most types have nothing under the key, and the server's index of subjects says so at once.
        let asked = app.bus.api(&format!("STREAM.INFO.{stream}"), &json!({ "subjects_filter": subject })).await;
        let info = asked.map_err(|e| BusError(format!("stream {stream}: {e}")))?;
        let found = match info["state"]["subjects"].as_object() {
            Some(subjects) if !subjects.is_empty() => latest(&app.bus, stream, &subject, OF_A_KEY, |_| true).await?,
            _ => Vec::new(),
        };
        Ok::<_, BusError>(found.into_iter().map(|found| (stream.to_owned(), found)).collect::<Vec<_>>())
    }))
    .await;
    let mut hits: Vec<Hit> = Vec::new();
    for one in looked {
        hits.extend(one?);
    }
    hits.sort_by_key(|(_, found)| std::cmp::Reverse(found.time));
    Ok((hits, types.len()))
}
