//! `GET /api/streams`: how much each stream holds of what it may; `.../{name}` with its subjects; `.../{name}/messages` a page of what
//! lies in it, the newest first.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, Query, State};
use oncue_admin::dead_letters::Letter;
use oncue_admin::stores::streams::{self, Newest, StreamKind, StreamView, newest};
use oncue_core::bus::StoredMessage;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::api::decode::StreamOrigin;
use crate::problem::{MALFORMED, NOT_FOUND, Problem, REFUSED};
use crate::{App, away};

/// Messages of a page, unless it says otherwise, and at most.
const PAGE: usize = 25;
const MAX_PAGE: usize = 100;

pub async fn list(State(app): State<Arc<App>>) -> Result<Json<Value>, Problem> {
    let all = streams::list(&app.bus).await.map_err(away)?;
    Ok(Json(json!({ "streams": all })))
}

pub async fn one(
    State(app): State<Arc<App>>,
    Path(name): Path<String>,
) -> Result<Json<Value>, Problem> {
    let view = view(&app, &name).await?;
    let mut shown = json!(view);
    if view.shown {
        let subjects = streams::subjects(&app.bus, &name).await.map_err(away)?;
        shown["subjects"] = json!(subjects);
    }
    Ok(Json(shown))
}

async fn view(app: &App, name: &str) -> Result<StreamView, Problem> {
    // Part of a subject: nothing in it may lead elsewhere.
    let found = if !name.is_empty() && name.chars().all(is_of_name) {
        streams::one(&app.bus, name).await.map_err(away)?
    } else {
        None
    };
    found.ok_or_else(|| Problem::new(NOT_FOUND, format!("there is no stream {name:?}")))
}

/// Which messages somebody wants to see.
#[derive(Deserialize)]
pub struct MessagesWanted {
    /// The newest of them, by its sequence; by default the last of the stream.
    from: Option<u64>,
    /// The newest of them, by a moment (Unix milliseconds); counts where there is no sequence.
    at: Option<u64>,
    /// Only of this subject; may hold wildcards.
    #[serde(default)]
    subject: String,
    /// Messages of a page; 25 unless named, at most 100.
    limit: Option<usize>,
}

pub async fn messages(
    State(app): State<Arc<App>>,
    Path(name): Path<String>,
    Query(wanted): Query<MessagesWanted>,
) -> Result<Json<Value>, Problem> {
    let view = view(&app, &name).await?;
    if !view.shown {
        return Err(hidden(&view));
    }
    if !wanted.subject.chars().all(is_of_subject) {
        let why = "a subject is made of letters, digits, dots, _, -, and * or > for any";
        return Err(Problem::new(MALFORMED, why));
    }
    let below = match (wanted.from, wanted.at) {
        (Some(from), _) => Some(from.saturating_add(1)),
        (None, Some(at)) => {
            let below = streams::below_time(&app.bus, &name, at).await;
            below.map_err(away)?
        }
        (None, None) => None,
    };
    let subject = match wanted.subject.as_str() {
        "" => ">",
        subject => subject,
    };
    let asked = Newest {
        subject,
        below,
        most: wanted.limit.unwrap_or(PAGE).clamp(1, MAX_PAGE),
        questions: usize::MAX,
    };
    // Apps share the streams of letters and timers.
    let page = newest(&app.bus, &name, &asked, |message| {
        streams::is_of(app.bus.app(), message)
    });
    let page = page.await.map_err(away)?;
    let created = app.bus.stream_created(&name).await.map_err(away)?;
    let origin = StreamOrigin {
        stream: &name,
        created,
    };
    let shown = page.messages.iter();
    let shown = shown.map(|message| shown_one(&app, &view, &origin, message));
    Ok(Json(json!({
        "messages": shown.collect::<Vec<_>>(),
        // The newest of the page behind this one.
        "next": page.next.map(|next| next - 1),
    })))
}

fn is_of_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '-')
}

fn is_of_subject(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '*' | '>')
}

/// Why nobody looks into a stream from here.
fn hidden(view: &StreamView) -> Problem {
    let why = match (&view.other_app, view.kind) {
        (Some(other), _) => format!(
            "the stream {} is of the app {other}, whose contract is not known here",
            view.name
        ),
        (None, StreamKind::Files) => {
            "files are no events; `nats object` shows the bucket".to_owned()
        }
        (None, _) => "it holds contracts and secrets of apps, which are shown nowhere".to_owned(),
    };
    Problem::new(REFUSED, why)
}

/// Message as its own page would show it. Of a letter no more than lists say: its event may be sensitive.
fn shown_one(
    app: &App,
    view: &StreamView,
    origin: &StreamOrigin<'_>,
    message: &StoredMessage,
) -> Value {
    if view.kind == StreamKind::Letters {
        return shown_letter(app, message);
    }
    let mut shown = origin.show(message, &app.catalog.now());
    for (name, header) in [
        ("rule", "Nats-Schedule"),
        ("scheduler", "Nats-Scheduler"),
        ("paused", "Oncue-Paused"),
    ] {
        if let Some(value) = message.header(header) {
            shown[name] = value.into();
        }
    }
    shown
}

fn shown_letter(app: &App, message: &StoredMessage) -> Value {
    let mut shown = json!({
        "sequence": message.sequence,
        "stored": message.time,
        "subject": message.subject,
        "bytes": message.payload.len(),
    });
    let Some(letter) = Letter::read(app.bus.app(), message) else {
        shown["error"] = "no dead letter".into();
        return shown;
    };
    let content = &letter.content;
    shown["letter"] = json!({
        "function": content.function,
        "reason": content.reason,
        "message": content.message,
        "type": content.event_type,
        "key": content.key,
        "flow": content.flow_id,
        "group": letter.group,
    });
    shown
}
