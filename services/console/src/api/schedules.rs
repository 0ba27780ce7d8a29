//! `GET /api/schedules`: every schedule with its next and last firing; `.../{name}` with some more of both. `POST .../fire`, `/pause` and
//! `/resume`, each on record.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Extension, Path, State};
use futures_util::future::join_all;
use oncue_admin::flows::schedules::{self, ScheduleError, ScheduleRun, ScheduleState};
use oncue_proto::event;
use serde_json::{Value, json};

use crate::api::audit::{self, SOURCE, Who};
use crate::problem::{GONE, NOT_FOUND, Problem, REFUSED};
use crate::{App, away};

/// Firings of one schedule that are told, ahead and back.
const FIRINGS: usize = 8;

pub async fn list(State(app): State<Arc<App>>) -> Result<Json<Value>, Problem> {
    let all = schedules::read(&app.bus, &app.config, 1).await;
    let all = all.map_err(away)?;
    let runs = all
        .iter()
        .map(|schedule| schedules::runs(&app.bus, schedule, 1));
    let runs = join_all(runs).await;
    let shown = all.iter().zip(runs);
    // One of which the server does not say what it fired hides no other.
    let shown: Vec<Value> = shown
        .map(|(one, runs)| shown_one(one, &runs.unwrap_or_default()))
        .collect();
    Ok(Json(json!({ "schedules": shown, "now": event::now_ms() })))
}

pub async fn one(
    State(app): State<Arc<App>>,
    Path(name): Path<String>,
) -> Result<Json<Value>, Problem> {
    let all = schedules::read(&app.bus, &app.config, FIRINGS).await;
    let mut all = all.map_err(away)?.into_iter();
    let found = all.find(|schedule| schedule.name == name);
    let schedule =
        found.ok_or_else(|| Problem::new(NOT_FOUND, format!("there is no schedule {name:?}")))?;
    let runs = schedules::runs(&app.bus, &schedule, FIRINGS).await;
    Ok(Json(shown_one(&schedule, &runs.map_err(away)?)))
}

fn shown_one(schedule: &ScheduleState, runs: &[ScheduleRun]) -> Value {
    let next = schedule.next.iter().map(|time| {
        json!({
            "at": time.timestamp().as_millisecond(),
            "there": time.strftime("%a %F %T %:z").to_string(),
        })
    });
    let pause = schedule.pause.as_ref();
    json!({
        "name": schedule.name,
        "type": schedule.ty,
        "function": schedule.function,
        "rule": schedule.rule,
        "zone": schedule.zone,
        "declared": schedule.declared,
        "standing": schedule.standing,
        "pause": pause.map(|pause| json!({ "since": pause.since, "by": pause.by })),
        "next": next.collect::<Vec<_>>(),
        "runs": runs,
    })
}

pub async fn fire(
    State(app): State<Arc<App>>,
    Extension(who): Extension<Who>,
    Path(name): Path<String>,
) -> Result<Json<Value>, Problem> {
    let catalog = app.catalog.now();
    let fired = schedules::fire(&app.bus, &app.config, &catalog, &name, SOURCE).await;
    let outcome = match &fired {
        Ok(fired) => format!("id {}", fired.event.id),
        Err(e) => e.to_string(),
    };
    audit::line(&who, "fire schedule", &name, &outcome);
    let fired = fired.map_err(problem)?;
    Ok(Json(json!({
        "flow": fired.event.id,
        "stream": fired.ack.stream,
        "sequence": fired.ack.sequence,
    })))
}

pub async fn pause(
    State(app): State<Arc<App>>,
    Extension(who): Extension<Who>,
    Path(name): Path<String>,
) -> Result<Json<Value>, Problem> {
    let paused = schedules::pause(&app.bus, &app.config, &name, &who.0).await;
    done(&who, "pause schedule", &name, paused)
}

pub async fn resume(
    State(app): State<Arc<App>>,
    Extension(who): Extension<Who>,
    Path(name): Path<String>,
) -> Result<Json<Value>, Problem> {
    let resumed = schedules::resume_as_paused(&app.bus, &app.config, &name).await;
    done(&who, "resume schedule", &name, resumed)
}

/// Answer to a change, which goes on record whether it was made or not.
fn done(
    who: &Who,
    what: &str,
    name: &str,
    outcome: Result<(), ScheduleError>,
) -> Result<Json<Value>, Problem> {
    let words = match &outcome {
        Ok(()) => "done".to_owned(),
        Err(e) => e.to_string(),
    };
    audit::line(who, what, name, &words);
    outcome.map_err(problem)?;
    Ok(Json(json!({})))
}

fn problem(why: ScheduleError) -> Problem {
    let kind = match &why {
        ScheduleError::Unknown(_) => NOT_FOUND,
        ScheduleError::Refused(_) => REFUSED,
        ScheduleError::Changed(_) => GONE,
        ScheduleError::Admin(_) | ScheduleError::Publish(_) => return away(why),
    };
    Problem::new(kind, why.to_string())
}
