//! `POST /api/functions/{name}/pause` and `/resume`: a function gets no event for a while. Each is on record.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::extract::{Extension, Path, State};
use oncue_admin::consumers;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::api::audit::{self, Who};
use crate::problem::{MALFORMED, NOT_FOUND, Problem};
use crate::{App, away};

/// How long a function is paused; without minutes until somebody resumes it.
#[derive(Deserialize)]
pub struct Pause {
    minutes: Option<u32>,
}

pub async fn pause(
    State(app): State<Arc<App>>,
    Extension(who): Extension<Who>,
    Path(name): Path<String>,
    asked: Result<Json<Pause>, JsonRejection>,
) -> Result<Json<Value>, Problem> {
    let Json(asked) = asked.map_err(|e| Problem::new(MALFORMED, e.body_text()))?;
    let span = asked
        .minutes
        .map(|minutes| Duration::from_mins(u64::from(minutes)));
    change(&app, &name, Some(consumers::pause_end(span))).await?;
    let outcome = match asked.minutes {
        Some(minutes) => format!("for {minutes} min"),
        None => "until it is resumed".to_owned(),
    };
    audit::line(&who, "pause", &name, &outcome);
    Ok(Json(json!({ "paused": true })))
}

pub async fn resume(
    State(app): State<Arc<App>>,
    Extension(who): Extension<Who>,
    Path(name): Path<String>,
) -> Result<Json<Value>, Problem> {
    change(&app, &name, None).await?;
    audit::line(&who, "resume", &name, "gets its events again");
    Ok(Json(json!({ "paused": false })))
}

async fn change(app: &App, name: &str, until: Option<u64>) -> Result<(), Problem> {
    let mut known = consumers::all(&app.bus).await.map_err(away)?;
    let Some(consumer) = known.remove(name) else {
        return Err(Problem::new(
            NOT_FOUND,
            format!("no function {name:?} has a consumer"),
        ));
    };
    let paused = app.bus.pause(&consumer.stream, name, until).await;
    paused.map_err(away)?;
    Ok(())
}
