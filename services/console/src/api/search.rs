//! `GET /api/search?q=`: an event id, a flow id or a key. The ledger knows its flows, keys are looked for among the
//! newest events, ids as [`oncue_admin::flows::search`] does.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Json;
use axum::extract::{Query, State};
use futures_util::future::join_all;
use oncue_admin::dead_letters::{self, Letter};
use oncue_admin::flows::search::key_of;
use oncue_admin::flows::{FlowSearch, SearchLimits};
use oncue_core::bus::layout::{DLQ, TIMER};
use oncue_core::bus::{BusError, Slice, StoredMessage};
use oncue_core::config::Bounds;
use oncue_core::model::flow::Flow;
use oncue_core::store::StoreError;
use oncue_proto::event;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::api::decode::StreamOrigin;
use crate::api::letters::WINDOW;
use crate::problem::{MALFORMED, Problem};
use crate::{App, away};

/// Time to look message by message: somebody waits. The newest messages are looked at however long it takes.
const SEARCH_TIME: Duration = Duration::from_millis(700);
/// Events shown of each type with a key.
const MAX_PER_TYPE: usize = 5;
/// Newest events of a stream that are looked through for a key, and how many in one question.
/// Keys are in payloads, so every event has to be read: a bound on the work, which the answer tells.
const KEY_WINDOW: usize = 10_000;
const SLICE_MESSAGES: u64 = 1000;

#[derive(Deserialize)]
pub struct Question {
    q: String,
}

/// An event and the stream it lies in.
struct Found {
    stream: String,
    message: StoredMessage,
}

/// Events about a key.
#[derive(Default)]
struct Keyed {
    events: Vec<Found>,
    /// Messages that were looked at.
    read: usize,
}

pub async fn get(
    State(app): State<Arc<App>>,
    Query(Question { q }): Query<Question>,
) -> Result<Json<Value>, Problem> {
    let began = Instant::now();
    let trimmed = q.trim();
    if trimmed.is_empty() || q.len() as u64 > Bounds::MAX_KEY {
        let why = format!(
            "`q` has 1 to {} bytes that are not all blank",
            Bounds::MAX_KEY
        );
        return Err(Problem::new(MALFORMED, why));
    }
    // Blanks at its ends may be the key's own, or have come along with what was copied.
    let names = [q.as_str(), trimmed];
    let id = event::check_id(trimmed.to_owned()).ok();
    let (flow, keyed, latest) = tokio::join!(
        flow_of(&app, id.as_deref()),
        by_key(&app, names),
        dead_letters::latest(&app.bus, WINDOW)
    );
    let flow = flow.map_err(away)?;
    let keyed = keyed.map_err(away)?;
    let letters = latest.map_err(away)?.letters;
    let letters = letters.iter().filter(|letter| is_about(letter, names));
    let mut searched = vec![format!("the newest {} events for this key", keyed.read)];
    if id.is_some() {
        searched.insert(0, "the flow ledger".to_owned());
    }
    let mut found = Vec::new();
    // A word that is a key is no id: then nothing is searched by id, which costs more.
    if let Some(id) = id.filter(|_| keyed.events.is_empty()) {
        let functions = app.snapshot.manifests();
        let limits = SearchLimits {
            find: Some(SEARCH_TIME),
            ..SearchLimits::default()
        };
        let catalog = app.catalog.now();
        let search = FlowSearch::open(&app.sources(&functions, &catalog), limits)
            .await
            .map_err(away)?;
        let event = match &flow {
            // The ledger knows when the flow began, so the root is looked for around then and nowhere else.
            Some(flow) => search.around(&id, flow.started).await,
            None => search.find(&id).await,
        };
        found.extend(event.map_err(away)?.map(|event| Found {
            stream: event.stream,
            message: event.message,
        }));
        searched.push(search.searched().to_string());
    }
    let flow = flow
        .map(|flow| json!({ "id": flow.id, "open": flow.open, "events": flow.events.len(), "started": flow.started }));
    Ok(Json(json!({
        "query": q,
        "flow": flow,
        "events": show(&app, found).await,
        "keyed": show(&app, keyed.events).await,
        "letters": letters.map(short).collect::<Vec<_>>(),
        "searched": searched,
        "ms": began.elapsed().as_millis() as u64,
    })))
}

/// Flow of this id, as the ledger has it.
async fn flow_of(app: &App, id: Option<&str>) -> Result<Option<Flow>, StoreError> {
    match id {
        Some(id) => app.store.flow(id).await,
        None => Ok(None),
    }
}

/// Whether a letter is about an event, a flow or a key of one of these names.
fn is_about(letter: &Letter, names: [&str; 2]) -> bool {
    let content = &letter.content;
    [&content.event_id, &content.flow_id, &content.key]
        .into_iter()
        .any(|name| names.contains(&name.as_str()))
}

fn short(letter: &Letter) -> Value {
    let content = &letter.content;
    json!({
        "number": letter.number,
        "function": content.function,
        "reason": content.reason,
        "message": content.message,
    })
}

async fn show(app: &App, found: Vec<Found>) -> Vec<Value> {
    let mut shown = Vec::new();
    for Found { stream, message } in found {
        let created = app.bus.stream_created(&stream).await.unwrap_or(0);
        let origin = StreamOrigin {
            stream: &stream,
            created,
        };
        shown.push(origin.show(&message, &app.catalog.now()));
    }
    shown
}

/// Streams of events as of the last look. Letters and timers are about events, not among them.
pub fn event_streams(app: &App) -> Vec<String> {
    let streams = app.snapshot.streams().into_iter();
    streams
        .filter(|stream| stream != DLQ && stream != TIMER)
        .collect()
}

/// The last events about a key, by either spelling: the newest of each stream, since streams keep events under their type alone and
/// nothing but an event itself says what it is about.
async fn by_key(app: &App, keys: [&str; 2]) -> Result<Keyed, BusError> {
    let streams = event_streams(app).into_iter();
    let looked = join_all(streams.map(|stream| newest_about(app, stream, keys))).await;
    let mut all = Keyed::default();
    for one in looked {
        let one = one?;
        all.events.extend(one.events);
        all.read += one.read;
    }
    all.events.sort_by_key(|found| Reverse(found.message.time));
    Ok(all)
}

/// Backwards in slices, at least one, until number, time or the stream is at its end.
async fn newest_about(app: &App, stream: String, keys: [&str; 2]) -> Result<Keyed, BusError> {
    let began = Instant::now();
    let info = app.bus.stream_info(&stream).await;
    let state = info
        .map_err(|e| BusError(format!("stream {stream}: {e}")))?
        .state;
    let first = state.first_seq.max(1);
    let mut end = state.last_seq + 1;
    let mut keyed = Keyed::default();
    let mut of_type: BTreeMap<String, usize> = BTreeMap::new();
    while end > first
        && keyed.read < KEY_WINDOW
        && (keyed.read == 0 || began.elapsed() < SEARCH_TIME)
    {
        let from = end.saturating_sub(SLICE_MESSAGES).max(first);
        let slice = Slice {
            from,
            since: None,
            subject: ">",
            messages: (end - from) as usize,
            bytes: 0,
        };
        let found = app.bus.read_slice(&stream, &slice).await?;
        keyed.read += found.len();
        for message in found.into_iter().rev().filter(|one| one.sequence < end) {
            let Some(ty) = type_about(app, &stream, &message, keys) else {
                continue;
            };
            let count = of_type.entry(ty).or_default();
            *count += 1;
            if *count <= MAX_PER_TYPE {
                keyed.events.push(Found {
                    stream: stream.clone(),
                    message,
                });
            }
        }
        end = from;
    }
    Ok(keyed)
}

/// Type of an event that is about one of these keys; `None` of any other.
fn type_about(app: &App, stream: &str, message: &StoredMessage, keys: [&str; 2]) -> Option<String> {
    let origin = StreamOrigin { stream, created: 0 };
    let incoming = origin.read(message).ok()?;
    let key = key_of(&incoming, &app.catalog.now());
    keys.contains(&key.as_str()).then_some(incoming.meta.ty)
}
