//! `GET /api/search?q=`: an event id, a flow id or a key, each looked up the way that does not read a whole stream: ids
//! tell their time or their place, the ledger knows its flows, keys are part of subjects.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Json;
use axum::extract::{Query, State};
use futures::future::join_all;
use oncue::bus::layout::{DLQ, TIMER};
use oncue::bus::{BusError, Found, Slice};
use oncue::event;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::App;
use crate::decode::Place;
use crate::events::latest;
use crate::letters::WINDOW;
use crate::problem::{MALFORMED, Problem};

/// For what must be looked for message by message.
const PATIENCE: Duration = Duration::from_millis(500);
/// Clocks of those who make ids, against the server's.
pub const SKEW_MS: u64 = 5000;
/// Messages of one question, and bytes.
const BATCH: usize = 500;
const BYTES: usize = 4 << 20;
/// Events shown of each type with a key.
const OF_A_KEY: usize = 5;

#[derive(Deserialize)]
pub struct Asked {
    q: String,
}

/// An event and the stream it lies in.
pub type Hit = (String, Found);

pub async fn get(State(app): State<Arc<App>>, Query(Asked { q }): Query<Asked>) -> Result<Json<Value>, Problem> {
    let began = Instant::now();
    let query = event::check_id(q.trim().to_owned()).map_err(|e| Problem::new(MALFORMED, e.message))?;
    let (flow, place, time, keyed, letters) = tokio::join!(
        app.store.flow(&query),
        by_place(&app, &query),
        by_time(&app, &query),
        by_key(&app, &query),
        oncue::dlq::latest(&app.bus, WINDOW),
    );
    let letters = letters?.0;
    let letters =
        letters.iter().filter(|l| [&l.content.event_id, &l.content.flow_id, &l.content.key].contains(&&query));
    let (mut hits, mut searched) = (Vec::new(), Vec::new());
    let flow = flow?
        .map(|flow| json!({ "id": flow.id, "open": flow.open, "events": flow.events.len(), "started": flow.started }));
    searched.push("the flow ledger".to_owned());
    hits.extend(place?);
    if let Some(time) = time_of(&query) {
        searched.push(format!("every stream around {}, which this id tells", event::format_time(time)));
    }
    hits.extend(time?);
    let (keyed, types) = keyed?;
    searched.push(format!("the subject of this key for {types} event types"));
    if hits.is_empty() && keyed.is_empty() && flow.is_none() {
        let (found, how_far) = backwards(&app, &query, began).await?;
        hits.extend(found);
        searched.push(how_far);
    }
    hits.dedup_by(|a, b| a.0 == b.0 && a.1.sequence == b.1.sequence);
    Ok(Json(json!({
        "query": query,
        "flow": flow,
        "events": show(&app, hits).await,
        "keyed": show(&app, keyed).await,
        "letters": letters.map(|l| json!({ "number": l.number, "function": l.content.function, "reason": l.content.reason, "message": l.content.message })).collect::<Vec<_>>(),
        "searched": searched,
        "ms": began.elapsed().as_millis() as u64,
    })))
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

/// Unix milliseconds of a UUID of version 7, written with or without dashes.
pub fn time_of(id: &str) -> Option<u64> {
    let hex: String = id.chars().filter(|c| *c != '-').collect();
    let is = hex.len() == 32 && hex.bytes().all(|b| b.is_ascii_hexdigit()) && hex.as_bytes()[12] == b'7';
    let time = u64::from_str_radix(hex.get(..12).filter(|_| is)?, 16).ok()?;
    // Before 2020 or far in the future it is a number like any other.
    (1_577_836_800_000..event::now_ms() + 86_400_000).contains(&time).then_some(time)
}

/// `<stream>:<creation time>:<sequence>`, the identity of messages that brought none.
pub async fn by_place(app: &App, id: &str) -> Result<Option<Hit>, BusError> {
    let mut parts = id.rsplitn(3, ':');
    let sequence = parts.next().and_then(|part| part.parse::<u64>().ok());
    let created = parts.next().and_then(|part| part.parse::<u64>().ok());
    let (Some(sequence), Some(created), Some(stream)) = (sequence, created, parts.next()) else { return Ok(None) };
    if !app.board.streams().iter().any(|known| known == stream) || app.bus.stream_created(stream).await? != created {
        return Ok(None);
    }
    Ok(app.bus.read_message(stream, sequence).await?.map(|found| (stream.to_owned(), found)))
}

async fn by_time(app: &App, id: &str) -> Result<Option<Hit>, BusError> {
    match time_of(id) {
        Some(time) => around(app, id, time).await,
        None => Ok(None),
    }
}

/// The event, in whichever stream took it about `time`.
pub async fn around(app: &App, id: &str, time: u64) -> Result<Option<Hit>, BusError> {
    let streams = streams(app);
    let looked = join_all(streams.iter().map(|stream| near(app, stream, id, time))).await;
    for (stream, found) in streams.iter().zip(looked) {
        if let Some(found) = found? {
            return Ok(Some((stream.clone(), found)));
        }
    }
    Ok(None)
}

async fn near(app: &App, stream: &str, id: &str, time: u64) -> Result<Option<Found>, BusError> {
    let began = Instant::now();
    let (mut next, last) = span(app, stream, Some(time.saturating_sub(SKEW_MS))).await?;
    while next <= last && began.elapsed() < PATIENCE {
        let slice = Slice { from: next, since: None, subject: ">", messages: BATCH, bytes: BYTES };
        let batch = app.bus.read_slice(stream, &slice).await?;
        let Some(end) = batch.last() else { return Ok(None) };
        next = end.sequence + 1;
        let over = end.time > time + 4 * SKEW_MS;
        if let Some(found) = batch.into_iter().find(|found| is(found, id)) {
            return Ok(Some(found));
        }
        if over {
            return Ok(None);
        }
    }
    Ok(None)
}

fn is(found: &Found, id: &str) -> bool {
    let says = |name: &str| found.header(name).and_then(event::percent_decode).is_some_and(|is| is == id);
    says("ce-id") || found.header("ce-id").is_none() && says("nats-msg-id")
}

/// First and last sequence since a time; all of the stream without one.
pub async fn span(app: &App, stream: &str, since: Option<u64>) -> Result<(u64, u64), BusError> {
    let failed = |e: oncue::bus::ApiError| BusError(format!("stream {stream}: {e}"));
    let info = app.bus.api(&format!("STREAM.INFO.{stream}"), &Value::Null).await.map_err(failed)?;
    let number = |field: &str| info["state"][field].as_u64().unwrap_or(0);
    let (first, last) = (number("first_seq").max(1), number("last_seq"));
    if since.is_none() {
        return Ok((first.max(last.saturating_sub(10 * BATCH as u64)), last));
    }
    let slice = Slice { from: first, since, subject: ">", messages: 1, bytes: 0 };
    let found = app.bus.read_slice(stream, &slice).await?;
    Ok((found.first().map_or(last + 1, |found| found.sequence), last))
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

/// Message by message from the newest on, for as long as anybody would wait. For ids that tell nothing.
async fn backwards(app: &App, id: &str, began: Instant) -> Result<(Option<Hit>, String), BusError> {
    let streams = streams(app);
    let looked = join_all(streams.iter().map(|stream| from_the_end(app, stream, id, began))).await;
    let (mut hit, mut words) = (None, Vec::new());
    for (stream, one) in streams.iter().zip(looked) {
        let (found, how_far) = one?;
        words.push(format!("{stream} {how_far}"));
        hit = hit.or(found.map(|found| (stream.clone(), found)));
    }
    Ok((hit, format!("backwards, as far as time allowed: {}", words.join("; "))))
}

async fn from_the_end(app: &App, stream: &str, id: &str, began: Instant) -> Result<(Option<Found>, String), BusError> {
    let info = app.bus.api(&format!("STREAM.INFO.{stream}"), &Value::Null).await;
    let info = info.map_err(|e| BusError(format!("stream {stream}: {e}")))?;
    let number = |field: &str| info["state"][field].as_u64().unwrap_or(0);
    let (first, last) = (number("first_seq").max(1), number("last_seq"));
    let mut end = last + 1;
    while end > first && began.elapsed() < PATIENCE {
        let begin = end.saturating_sub(BATCH as u64).max(first);
        let slice = Slice { from: begin, since: None, subject: ">", messages: (end - begin) as usize, bytes: BYTES };
        let batch = app.bus.read_slice(stream, &slice).await?;
        if let Some(found) = batch.into_iter().rev().find(|found| is(found, id)) {
            return Ok((Some(found), "found".to_owned()));
        }
        end = begin;
    }
    let all = if end <= first { "(all of it)" } else { "" };
    Ok((None, format!("{end} to {last} {all}").trim_end().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_ids_tell_their_time() {
        let now = event::now_ms();
        let told = time_of(&event::new_id()).unwrap();
        assert!(told.abs_diff(now) < 60_000);
        assert_eq!(time_of("019ad000-0000-7000-8000-000000000000"), Some(0x019a_d000_0000));
        for other in ["", "order-17", "00000000000070008000000000000000", "kN3sTq0V_x9-Lm2PzR7w1A"] {
            assert_eq!(time_of(other), None, "{other}");
        }
    }
}
