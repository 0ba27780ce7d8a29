//! `GET /api/letters`: dead letters in groups of one cause; `GET /api/letters/{number}`: one of them, whole.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use oncue_admin::dead_letters::{self, Letter, LetterGroup, grouped, message_of, ms};
use oncue_core::bus::layout::DLQ;
use serde_json::{Value, json};

use crate::api::decode::StreamOrigin;
use crate::problem::{MALFORMED, NOT_FOUND, Problem};
use crate::{App, away};

/// Letters looked at; those before are counted, and `oncue dlq ls` has them.
/// A page reads them all anew each time it is opened.
pub const WINDOW: u64 = 5000;
/// Letters of a group that are listed.
const MAX_LISTED: usize = 200;
/// Bytes of a payload nobody can read that are shown, in hexadecimal.
const MAX_HEX: usize = 512;

pub async fn list(State(app): State<Arc<App>>) -> Result<Json<Value>, Problem> {
    let latest = dead_letters::latest(&app.bus, WINDOW).await.map_err(away)?;
    let groups: Vec<Value> = grouped(&latest.letters).iter().map(group).collect();
    Ok(Json(
        json!({ "groups": groups, "letters": latest.letters.len(), "before": latest.before }),
    ))
}

fn group(group: &LetterGroup<'_>) -> Value {
    let (first, last) = group.span();
    let latest = &group.latest().content;
    let listed = group
        .letters
        .iter()
        .rev()
        .take(MAX_LISTED)
        .map(|letter| short(letter));
    json!({
        "group": group.name,
        "function": latest.function,
        "reason": latest.reason,
        "site": latest.site,
        "message": latest.message,
        "count": group.letters.len(),
        "first": first,
        "last": last,
        "numbers": group.letters.iter().map(|letter| letter.number).collect::<Vec<_>>(),
        "letters": listed.collect::<Vec<_>>(),
    })
}

fn short(letter: &Letter) -> Value {
    let inner = &letter.content;
    json!({
        "number": letter.number,
        "at": letter.at(),
        "event": inner.event_id,
        "type": inner.event_type,
        "key": inner.key,
        "flow": inner.flow_id,
        "attempts": inner.attempts,
        "redrives": inner.redrives,
        "message": inner.message,
    })
}

pub async fn one(
    State(app): State<Arc<App>>,
    Path(number): Path<String>,
) -> Result<Json<Value>, Problem> {
    let number: u64 = number.parse().map_err(|_| {
        Problem::new(
            MALFORMED,
            format!("{number:?} is not the number of a letter"),
        )
    })?;
    let found = app.bus.read_message(DLQ, number).await.map_err(away)?;
    let letter = found
        .as_ref()
        .and_then(|message| Letter::read(app.bus.app(), message));
    let letter = letter.ok_or_else(|| {
        Problem::new(
            NOT_FOUND,
            format!("there is no dead letter #{number} any more"),
        )
    })?;
    Ok(Json(whole(&app, &letter).await))
}

async fn whole(app: &App, letter: &Letter) -> Value {
    let inner = &letter.content;
    let mut shown = short(letter);
    let envelope = letter.envelope();
    let headers: Vec<(&str, &str)> = envelope
        .headers
        .iter()
        .map(|h| (h.name.as_str(), h.value.as_str()))
        .collect();
    for (name, value) in [
        ("group", json!(letter.group)),
        ("function", json!(inner.function)),
        ("reason", json!(inner.reason)),
        ("site", json!(inner.site)),
        ("stream", json!(inner.stream)),
        ("sequence", json!(inner.sequence)),
        ("time", json!(ms(inner.time.as_ref()))),
        ("timed", json!(inner.timed)),
        ("accepted", json!(ms(inner.accepted_at.as_ref()))),
        ("trace", json!(letter.trace_id())),
        ("subject", json!(envelope.subject)),
        ("headers", json!(headers)),
    ] {
        shown[name] = value;
    }
    match dead_letters::complete(&app.bus, inner).await {
        Err(why) => shown["undecoded"] = why.to_string().into(),
        Ok(complete) => {
            let found = message_of(&complete);
            let origin = StreamOrigin {
                stream: &inner.stream,
                created: 0,
            };
            let event = origin.show(&found, &app.catalog);
            for name in ["data", "undecoded", "error"] {
                if !event[name].is_null() {
                    shown[name] = event[name].clone();
                }
            }
            if shown["data"].is_null() {
                shown["hex"] = hex(&found.payload).into();
            }
            shown["bytes"] = found.payload.len().into();
        }
    }
    shown
}

/// Sixteen bytes a line.
fn hex(bytes: &[u8]) -> String {
    let lines = bytes[..bytes.len().min(MAX_HEX)].chunks(16);
    let lines = lines.map(|line| {
        line.iter()
            .map(|byte| format!("{byte:02x} "))
            .collect::<String>()
    });
    lines.collect::<Vec<_>>().join("\n")
}
