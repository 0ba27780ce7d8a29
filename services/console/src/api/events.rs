//! `GET /api/events?type=TYPE`: the last events of a type, newest first, read backwards from its stream.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Query, State};
use oncue_core::bus::{Bus, BusError, Slice, StoredMessage};
use oncue_proto::event;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::api::decode::StreamOrigin;
use crate::problem::{MALFORMED, NOT_FOUND, Problem};
use crate::{App, away};

/// Events of one answer.
const MAX_EVENTS: usize = 100;
/// Questions to the server for one subject: enough for any stream, unless what is wanted is very rare.
const MAX_QUESTIONS: usize = 400;

#[derive(Deserialize)]
pub struct Question {
    #[serde(rename = "type")]
    ty: String,
    /// Only those a function sent.
    source: Option<String>,
    limit: Option<usize>,
}

fn is_plain(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-')
}

pub async fn get(
    State(app): State<Arc<App>>,
    Query(asked): Query<Question>,
) -> Result<Json<Value>, Problem> {
    if asked.ty.is_empty() || !asked.ty.chars().all(is_plain) {
        return Err(Problem::new(
            MALFORMED,
            "an event type is made of letters, digits, dots, _ and -",
        ));
    }
    let stream = event::stream_of_type(&asked.ty);
    let limit = asked.limit.unwrap_or(20).clamp(1, MAX_EVENTS);
    let Ok(created) = app.bus.stream_created(stream).await else {
        return Err(Problem::new(
            NOT_FOUND,
            format!("there is no stream {stream} yet"),
        ));
    };
    let origin = StreamOrigin { stream, created };
    let source = asked.source.map(|source| format!("/{source}"));
    let subjects = [asked.ty.clone(), format!("{}.*", asked.ty)];
    let mut found = Vec::new();
    for subject in &subjects {
        let newest = latest(&app.bus, stream, subject, limit, |message| {
            is_from(message, source.as_deref())
        });
        found.extend(newest.await.map_err(away)?);
    }
    found.sort_by_key(|found| std::cmp::Reverse(found.sequence));
    found.truncate(limit);
    let events: Vec<Value> = found
        .iter()
        .map(|found| origin.show(found, &app.catalog.now()))
        .collect();
    Ok(Json(json!({ "type": asked.ty, "events": events })))
}

/// Whether a message is from this source, if one is named.
fn is_from(message: &StoredMessage, source: Option<&str>) -> bool {
    source.is_none_or(|source| message.header("ce-source") == Some(source))
}

/// The last messages of a subject, oldest first. The stream is halved, newest half first, until what lies in a piece
/// fits into one answer; the server finds subjects by its index, so a million events cost some dozens of small
/// questions.
pub async fn latest(
    bus: &Bus,
    stream: &str,
    subject: &str,
    most: usize,
    wanted: impl Fn(&StoredMessage) -> bool,
) -> Result<Vec<StoredMessage>, BusError> {
    let info = bus.stream_info(stream).await;
    let state = info
        .map_err(|e| BusError(format!("stream {stream}: {e}")))?
        .state;
    let mut pieces = vec![(state.first_seq, state.last_seq + 1)];
    let mut newest = Vec::new();
    let mut asked = 0;
    while let Some((begin, end)) = pieces
        .pop()
        .filter(|_| newest.len() < most && asked < MAX_QUESTIONS)
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
        // A slice has no end of its own; what lies beyond belongs to a piece that was looked at before.
        batch.retain(|found| found.sequence < end);
        if batch.len() <= most {
            newest.extend(batch.into_iter().rev().filter(&wanted));
        } else {
            let middle = begin.midpoint(end);
            // The newer half is taken first, since the last is popped.
            pieces.extend([(begin, middle), (middle, end)]);
        }
    }
    newest.truncate(most);
    newest.reverse();
    Ok(newest)
}
