//! `GET /api/letters`: dead letters in groups of one cause; `GET /api/letters/{number}`: one of them, whole.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use oncue_admin::dead_letters::{self, Group, Letter, grouped, ms};
use oncue_core::bus::StoredMessage;
use oncue_core::bus::layout::DLQ;
use serde_json::{Value, json};

use crate::App;
use crate::decode::Place;
use crate::problem::{MALFORMED, NOT_FOUND, Problem};

/// Letters looked at; those before are counted, and `oncue dlq ls` has them.
pub const WINDOW: u64 = 5000;
/// Letters of a group that are listed.
const LISTED: usize = 200;
/// Bytes of a payload nobody can read that are shown, in hexadecimal.
const HEX: usize = 512;

pub async fn list(State(app): State<Arc<App>>) -> Result<Json<Value>, Problem> {
    let (letters, before) = dead_letters::latest(&app.bus, WINDOW).await?;
    let groups: Vec<Value> = grouped(&letters).iter().map(group).collect();
    Ok(Json(
        json!({ "groups": groups, "letters": letters.len(), "before": before }),
    ))
}

fn group(group: &Group<'_>) -> Value {
    let times = || {
        group
            .letters
            .iter()
            .map(|letter| ms(letter.content.at.as_ref()))
    };
    let latest = &group.letters[group.letters.len() - 1].content;
    let listed = group
        .letters
        .iter()
        .rev()
        .take(LISTED)
        .map(|letter| short(letter));
    json!({
        "group": group.name,
        "function": latest.function,
        "reason": latest.reason,
        "site": latest.site,
        "message": latest.message,
        "count": group.letters.len(),
        "first": times().min(),
        "last": times().max(),
        "numbers": group.letters.iter().map(|letter| letter.number).collect::<Vec<_>>(),
        "letters": listed.collect::<Vec<_>>(),
    })
}

fn short(letter: &Letter) -> Value {
    let inner = &letter.content;
    json!({
        "number": letter.number,
        "at": ms(inner.at.as_ref()),
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
    let found = app.bus.read_message(DLQ, number).await?;
    let letter = found.as_ref().and_then(Letter::read);
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
        Err(why) => shown["undecoded"] = why.into(),
        Ok(complete) => {
            let envelope = complete.envelope.unwrap_or_default();
            let found = StoredMessage {
                sequence: inner.sequence,
                time: ms(inner.accepted_at.as_ref()),
                subject: envelope.subject,
                headers: envelope
                    .headers
                    .into_iter()
                    .map(|h| (h.name, h.value))
                    .collect(),
                payload: envelope.payload,
            };
            let event = Place {
                stream: &inner.stream,
                created: 0,
            }
            .show(&found, &app.catalog);
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
    let lines = bytes[..bytes.len().min(HEX)].chunks(16);
    let lines = lines.map(|line| {
        line.iter()
            .map(|byte| format!("{byte:02x} "))
            .collect::<String>()
    });
    lines.collect::<Vec<_>>().join("\n")
}
