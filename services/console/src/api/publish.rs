//! Publishing by hand: `GET /api/types` tells what can be published and how it looks, `POST /api/publish` begins a flow
//! with an event, `POST /api/publish/try` says what each function would make of it, and commits nothing.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::extract::{Extension, State};
use oncue_admin::dead_letters::{self, Letter};
use oncue_admin::flows::{HandMadeEvent, Sender};
use oncue_core::bus::layout::{DLQ, TIMER};
use oncue_proto::event::{self, stream_of_type};
use oncue_proto::oncue::v1::DeadLetter;
use oncue_proto::{Catalog, Entry, Format};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::api::actions;
use crate::api::audit::{self, SOURCE, Who};
use crate::problem::{MALFORMED, Problem};
use crate::{App, away};

/// Functions that are tried with one event.
const MAX_TRIED: usize = 20;

/// Event that somebody has written.
#[derive(Deserialize)]
pub struct Written {
    #[serde(rename = "type")]
    ty: String,
    data: Value,
    /// A new one unless named; an id that was published before is the same event and counts once.
    id: Option<String>,
}

/// Every type of the app, with an empty payload to begin from.
pub async fn types(State(app): State<Arc<App>>) -> Json<Value> {
    let catalog = app.catalog.now();
    let functions = app.snapshot.manifests();
    let types = catalog.entries().filter(|entry| is_of_apps(entry));
    let types = types.map(|entry| {
        let heard_by = functions
            .iter()
            .filter(|function| function.triggers.contains(&entry.ty))
            .map(|function| &function.name);
        json!({
            "type": entry.ty,
            "schema": entry.schema(),
            "key": entry.key_field,
            "public": entry.public,
            "sensitive": entry.is_sensitive(),
            "heard_by": heard_by.collect::<Vec<_>>(),
            "empty": entry.to_json(Format::Protobuf, b"").unwrap_or_default(),
        })
    });
    Json(json!({ "types": types.collect::<Vec<_>>(), "gateway": app.config.gateway.listen }))
}

/// Whether it is no type of the platform's own notes.
fn is_of_apps(entry: &Entry) -> bool {
    ![DLQ, TIMER].contains(&stream_of_type(&entry.ty))
}

/// An event that was written and is as the contract has it.
struct Checked<'c> {
    entry: &'c Entry,
    event: HandMadeEvent,
}

fn checked<'c>(app: &App, written: &Written, catalog: &'c Catalog) -> Result<Checked<'c>, Problem> {
    let entry = catalog
        .get(&written.ty)
        .map_err(|e| Problem::new(MALFORMED, e.to_string()))?;
    if !is_of_apps(entry) {
        let why = format!("{} is a note of the platform itself", entry.ty);
        return Err(Problem::new(MALFORMED, why));
    }
    let payload = entry.read_by_hand(&written.data.to_string());
    let payload = payload.map_err(|why| Problem::new(MALFORMED, why))?;
    let sender = Sender {
        source: SOURCE,
        id: written.id.as_deref(),
        traceparent: None,
        format: Format::Protobuf,
    };
    let made = sender.event(entry, &payload, &app.config.bounds);
    let event = made.map_err(|why| Problem::new(MALFORMED, why))?;
    Ok(Checked { entry, event })
}

pub async fn publish(
    State(app): State<Arc<App>>,
    Extension(who): Extension<Who>,
    asked: Result<Json<Written>, JsonRejection>,
) -> Result<Json<Value>, Problem> {
    let Json(written) = asked.map_err(|e| Problem::new(MALFORMED, e.body_text()))?;
    let catalog = app.catalog.now();
    let Checked { entry, event } = checked(&app, &written, &catalog)?;
    let ack = app.bus.publish(&event.envelope).await;
    let ack = ack.map_err(|e| {
        audit::line(&who, "publish", &entry.ty, &e.to_string());
        away(e)
    })?;
    audit::line(&who, "publish", &entry.ty, &format!("id {}", event.id));
    Ok(Json(json!({
        "id": event.id,
        "flow": event.id,
        "trace": event.trace,
        "stream": ack.stream,
        "sequence": ack.sequence,
        "duplicate": ack.duplicate,
    })))
}

/// Runs every function that acts on the type, one after the other, on the event as it is now in its program.
pub async fn attempt(
    State(app): State<Arc<App>>,
    Extension(who): Extension<Who>,
    asked: Result<Json<Written>, JsonRejection>,
) -> Result<Json<Value>, Problem> {
    let Json(written) = asked.map_err(|e| Problem::new(MALFORMED, e.body_text()))?;
    let catalog = app.catalog.now();
    let Checked { entry, event } = checked(&app, &written, &catalog)?;
    let functions = app.snapshot.manifests().into_iter();
    let functions = functions.filter(|function| function.triggers.contains(&entry.ty));
    let mut answers = Vec::new();
    for function in functions.take(MAX_TRIED) {
        let answer =
            dead_letters::attempt(&letter(&function.name, entry, &event), &app.bench()).await;
        let mut shown = actions::shown(0, answer, &catalog);
        shown["function"] = function.name.into();
        answers.push(shown);
    }
    audit::line(
        &who,
        "try",
        &entry.ty,
        &format!("{} functions", answers.len()),
    );
    Ok(Json(json!({ "answers": answers })))
}

/// The event as a letter of the function would hold it, which is the form in which its program tries one.
fn letter(function: &str, entry: &Entry, event: &HandMadeEvent) -> Letter {
    let now = dead_letters::timestamp(event::now_ms());
    let content = DeadLetter {
        function: function.to_owned(),
        event_id: event.id.clone(),
        event_type: entry.ty.clone(),
        flow_id: event.id.clone(),
        stream: stream_of_type(&entry.ty).to_owned(),
        time: Some(now),
        accepted_at: Some(now),
        timed: true,
        envelope: Some(event.envelope.clone()),
        ..DeadLetter::default()
    };
    Letter::of(0, content, None)
}
