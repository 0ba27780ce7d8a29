//! `GET /api/search?q=`: an event id, a flow id or a key. The ledger knows its flows, keys are looked for among the newest
//! events, ids as [`oncue_admin::trail`] does.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Json;
use axum::extract::{Query, State};
use futures::future::join_all;
use oncue_admin::trail::{Patience, Sources, Trail};
use oncue_core::bus::layout::{DLQ, TIMER};
use oncue_core::bus::{BusError, Slice, StoredMessage};
use oncue_proto::event;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::App;
use crate::decode::{self, Place};
use crate::letters::WINDOW;
use crate::problem::{MALFORMED, Problem};

/// For looking message by message: somebody waits. What is newest is looked at however long it takes.
const PATIENCE: Duration = Duration::from_millis(700);
/// Events shown of each type with a key.
const OF_A_KEY: usize = 5;
/// Newest events of a stream that are looked through for a key, and how many in one question.
const NEWEST: usize = 10_000;
const SLICE: usize = 1000;

#[derive(Deserialize)]
pub struct Asked {
    q: String,
}

/// An event and the stream it lies in.
type Hit = (String, StoredMessage);

pub async fn get(
    State(app): State<Arc<App>>,
    Query(Asked { q }): Query<Asked>,
) -> Result<Json<Value>, Problem> {
    let began = Instant::now();
    let query =
        event::check_id(q.trim().to_owned()).map_err(|e| Problem::new(MALFORMED, e.message))?;
    let (flow, keyed, letters) = tokio::join!(
        app.store.flow(&query),
        by_key(&app, &query),
        oncue_admin::dead_letters::latest(&app.bus, WINDOW)
    );
    let (flow, (keyed, looked_at), letters) = (flow?, keyed?, letters?.0);
    let letters = letters
        .iter()
        .filter(|l| [&l.content.event_id, &l.content.flow_id, &l.content.key].contains(&&query));
    let mut searched = vec![
        "the flow ledger".to_owned(),
        format!("the newest {looked_at} events for this key"),
    ];
    let mut hit = None;
    if keyed.is_empty() {
        let patience = Patience {
            find: Some(PATIENCE),
            ..Patience::default()
        };
        let trail = Trail::open(sources(&app), patience).await?;
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
    app.board
        .cards()
        .into_iter()
        .flat_map(|card| card.emits)
        .collect()
}

async fn show(app: &App, hits: Vec<Hit>) -> Vec<Value> {
    let mut shown = Vec::new();
    for (stream, found) in hits {
        let created = app.bus.stream_created(&stream).await.unwrap_or(0);
        shown.push(
            Place {
                stream: &stream,
                created,
            }
            .show(&found, &app.catalog),
        );
    }
    shown
}

pub fn sources(app: &App) -> Sources<'_> {
    Sources {
        bus: &app.bus,
        streams: streams(app),
        store: Some(&app.store),
        config: &app.config,
    }
}

pub fn streams(app: &App) -> Vec<String> {
    app.board
        .streams()
        .into_iter()
        .filter(|stream| stream != DLQ && stream != TIMER)
        .collect()
}

/// The last events about a key, and how many were looked at: the newest of each stream, since streams keep events under
/// their type alone and nothing but an event itself says what it is about.
async fn by_key(app: &App, key: &str) -> Result<(Vec<Hit>, usize), BusError> {
    let looked = join_all(
        streams(app)
            .into_iter()
            .map(|stream| newest_about(app, stream, key)),
    )
    .await;
    let (mut hits, mut read) = (Vec::new(), 0);
    for one in looked {
        let (found, looked_at) = one?;
        hits.extend(found);
        read += looked_at;
    }
    hits.sort_by_key(|(_, found): &Hit| std::cmp::Reverse(found.time));
    Ok((hits, read))
}

/// Backwards in slices, at least one, until number, patience or the stream is at its end.
async fn newest_about(app: &App, stream: String, key: &str) -> Result<(Vec<Hit>, usize), BusError> {
    let began = Instant::now();
    let info = app
        .bus
        .api(&format!("STREAM.INFO.{stream}"), &Value::Null)
        .await;
    let info = info.map_err(|e| BusError(format!("stream {stream}: {e}")))?;
    let number = |field: &str| info["state"][field].as_u64().unwrap_or(0);
    let (first, mut end) = (number("first_seq").max(1), number("last_seq") + 1);
    let (mut hits, mut read, mut of_type) = (Vec::new(), 0, BTreeMap::<String, usize>::new());
    while end > first && read < NEWEST && (read == 0 || began.elapsed() < PATIENCE) {
        let from = end.saturating_sub(SLICE as u64).max(first);
        let slice = Slice {
            from,
            since: None,
            subject: ">",
            messages: (end - from) as usize,
            bytes: 0,
        };
        let found = app.bus.read_slice(&stream, &slice).await?;
        read += found.len();
        let place = Place {
            stream: &stream,
            created: 0,
        };
        for found in found.into_iter().rev().filter(|found| found.sequence < end) {
            let Some(about) = place
                .read(&found)
                .ok()
                .filter(|event| decode::key(event, &app.catalog) == key)
            else {
                continue;
            };
            let count = of_type.entry(about.meta.ty).or_default();
            *count += 1;
            if *count <= OF_A_KEY {
                hits.push((stream.clone(), found));
            }
        }
        end = from;
    }
    Ok((hits, read))
}
