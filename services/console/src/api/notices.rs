//! `GET /api/notices`: what is wrong at the moment, since when, and who knows; `POST /api/notices/silence` keeps one to
//! itself for a while.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::extract::{Extension, State};
use oncue_proto::event;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::App;
use crate::api::audit::{self, Who};
use crate::live::notices::of_letters;
use crate::problem::{GONE, MALFORMED, Problem};

/// Longest silence, in minutes: a week.
const LONGEST: u64 = 7 * 24 * 60;

pub async fn list(State(app): State<Arc<App>>) -> Json<Value> {
    let mut all: Vec<_> = app.notices.all().into_iter().collect();
    // Newest first.
    all.sort_by_key(|(_, notice)| std::cmp::Reverse(notice.since));
    let silent = app.notices.silent();
    let notices = all.into_iter().map(|(name, notice)| {
        let mut shown = json!(notice);
        shown["silent_until"] = silent.get(&name).copied().unwrap_or(0).into();
        shown["name"] = name.into();
        shown
    });
    let notices: Vec<Value> = notices.collect();
    let receivers: Vec<&String> = app.config.notices.keys().collect();
    Json(json!({ "notices": notices, "receivers": receivers }))
}

/// Notice that is kept silent, and for how long; no minutes end a silence.
#[derive(Deserialize)]
pub struct Quiet {
    name: String,
    minutes: u64,
}

pub async fn silence(
    State(app): State<Arc<App>>,
    Extension(who): Extension<Who>,
    asked: Result<Json<Quiet>, JsonRejection>,
) -> Result<Json<Value>, Problem> {
    let Json(Quiet { name, minutes }) =
        asked.map_err(|e| Problem::new(MALFORMED, e.body_text()))?;
    if minutes > LONGEST {
        return Err(Problem::new(
            MALFORMED,
            format!("a silence is at most {LONGEST} minutes, a week"),
        ));
    }
    let until = event::now_ms() + minutes * 60_000;
    // A cause of letters may be too new for a notice, or one of very many.
    let is_cause = app.letters.look(&app).await.is_ok_and(|index| {
        let mut causes = index.causes().into_iter();
        causes.any(|cause| of_letters(&cause.name) == name)
    });
    let is_silent = app.notices.silence(&app.store, &name, until, is_cause);
    if !is_silent.await {
        let why = format!("there is no notice {name:?} any more");
        return Err(Problem::new(GONE, why));
    }
    audit::line(&who, "silence", &name, &format!("for {minutes} min"));
    Ok(Json(json!({ "silent_until": until })))
}
