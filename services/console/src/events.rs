//! `GET /api/events?type=TYPE`: the last events of a type, newest first, read backwards from its stream.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Query, State};
use oncue_core::bus::{Bus, BusError, Slice, StoredMessage};
use oncue_proto::event;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::App;
use crate::decode::Place;
use crate::problem::{MALFORMED, NOT_FOUND, Problem};

const MOST: usize = 100;
/// Questions to the server for one subject: enough for any stream, unless what is wanted is very rare.
const QUESTIONS: usize = 400;

#[derive(Deserialize)]
pub struct Asked {
    #[serde(rename = "type")]
    ty: String,
    /// Only those a function sent.
    source: Option<String>,
    limit: Option<usize>,
}

pub async fn get(
    State(app): State<Arc<App>>,
    Query(asked): Query<Asked>,
) -> Result<Json<Value>, Problem> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if asked.ty.is_empty() || !asked.ty.chars().all(plain) {
        return Err(Problem::new(
            MALFORMED,
            "an event type is made of letters, digits, dots, _ and -",
        ));
    }
    let stream = event::stream_of_type(&asked.ty);
    let limit = asked.limit.unwrap_or(20).clamp(1, MOST);
    let Ok(created) = app.bus.stream_created(stream).await else {
        return Err(Problem::new(
            NOT_FOUND,
            format!("there is no stream {stream} yet"),
        ));
    };
    let place = Place { stream, created };
    let wanted = |found: &StoredMessage| match &asked.source {
        Some(source) => found
            .header("ce-source")
            .is_some_and(|is| is == format!("/{source}")),
        None => true,
    };
    let subjects = [asked.ty.clone(), format!("{}.*", asked.ty)];
    let mut found = Vec::new();
    for subject in &subjects {
        found.extend(latest(&app.bus, stream, subject, limit, wanted).await?);
    }
    found.sort_by_key(|found| std::cmp::Reverse(found.sequence));
    found.truncate(limit);
    let events: Vec<Value> = found
        .iter()
        .map(|found| place.show(found, &app.catalog))
        .collect();
    Ok(Json(json!({ "type": asked.ty, "events": events })))
}

/// The last messages of a subject, oldest first. The stream is halved, newest half first, until what lies in a piece fits
/// into one answer; the server finds subjects by its index, so a million events cost some dozens of small questions.
pub async fn latest(
    bus: &Bus,
    stream: &str,
    subject: &str,
    most: usize,
    wanted: impl Fn(&StoredMessage) -> bool,
) -> Result<Vec<StoredMessage>, BusError> {
    let info = bus
        .api(&format!("STREAM.INFO.{stream}"), &Value::Null)
        .await;
    let state = info.map_err(|e| BusError(format!("stream {stream}: {e}")))?["state"].clone();
    let number = |field: &str| state[field].as_u64().unwrap_or(0);
    let mut pieces = vec![(number("first_seq"), number("last_seq") + 1)];
    let (mut newest, mut asked) = (Vec::new(), 0);
    while let Some((begin, end)) = pieces
        .pop()
        .filter(|_| newest.len() < most && asked < QUESTIONS)
    {
        asked += 1;
        let slice = Slice {
            from: begin,
            since: None,
            subject,
            messages: most + 1,
            bytes: 0,
        };
        let mut batch = bus.read_slice(stream, &slice).await?;
        batch.retain(|found| found.sequence < end);
        if batch.len() <= most {
            newest.extend(batch.into_iter().rev().filter(&wanted));
        } else {
            let middle = begin.midpoint(end);
            pieces.extend([(begin, middle), (middle, end)]);
        }
    }
    newest.truncate(most);
    newest.reverse();
    Ok(newest)
}
