//! `POST /api/functions/{name}/bounds` and `.../bounds/reset`: other bounds of a function's workers than those of `oncue.toml`, until they
//! are taken away. Each is on record.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::extract::{Extension, Path, State};
use oncue_admin::services::bounds::{self, SetBounds};
use oncue_proto::event;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::api::audit::{self, Who};
use crate::problem::{MALFORMED, NOT_FOUND, Problem};
use crate::{App, away};

/// Bounds that somebody asks for.
#[derive(Deserialize)]
pub struct BoundsWanted {
    min: u32,
    max: u32,
    #[serde(default)]
    why: String,
}

pub async fn set(
    State(app): State<Arc<App>>,
    Extension(who): Extension<Who>,
    Path(name): Path<String>,
    asked: Result<Json<BoundsWanted>, JsonRejection>,
) -> Result<Json<Value>, Problem> {
    let Json(asked) = asked.map_err(|e| Problem::new(MALFORMED, e.body_text()))?;
    let why = audit::reason(&asked.why)?;
    check(&app, &name)?;
    let wanted = SetBounds {
        min: asked.min,
        max: asked.max,
        at: event::now_ms(),
        by: who.0.clone(),
        reason: why.to_owned(),
    };
    wanted.check().map_err(|why| Problem::new(MALFORMED, why))?;
    let outcome = bounds::set(&app.bus, &name, &wanted).await;
    let SetBounds { min, max, .. } = wanted;
    let words = match &outcome {
        Ok(()) => format!("{min} to {max} workers: {why}"),
        Err(e) => e.to_string(),
    };
    audit::line(&who, "set bounds", &name, &words);
    outcome.map_err(away)?;
    Ok(Json(json!({})))
}

pub async fn reset(
    State(app): State<Arc<App>>,
    Extension(who): Extension<Who>,
    Path(name): Path<String>,
) -> Result<Json<Value>, Problem> {
    check(&app, &name)?;
    let outcome = bounds::take_away(&app.bus, &name).await;
    let words = match &outcome {
        Ok(()) => "as oncue.toml says".to_owned(),
        Err(e) => e.to_string(),
    };
    audit::line(&who, "reset bounds", &name, &words);
    outcome.map_err(away)?;
    Ok(Json(json!({})))
}

/// Refuses a function that there is not: the name becomes part of a subject.
fn check(app: &App, name: &str) -> Result<(), Problem> {
    if app.snapshot.has_function(name) {
        return Ok(());
    }
    let why = format!("there is no function {name:?}");
    Err(Problem::new(NOT_FOUND, why))
}
