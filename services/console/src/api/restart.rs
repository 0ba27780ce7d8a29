//! `POST /api/functions/{name}/restart`: has every `oncue up` of the app replace the processes of a function, as `oncue restart` does.
//! How it goes is asked under `/api/jobs/`.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Extension, Path, State};
use oncue_admin::services;
use oncue_admin::services::restart::{self, RestartError, RestartProgress, RestartRequest};
use serde_json::{Value, json};

use crate::api::actions;
use crate::api::audit::{self, Who};
use crate::problem::{NOT_FOUND, Problem, REFUSED};
use crate::{App, away};

pub async fn restart(
    State(app): State<Arc<App>>,
    Extension(who): Extension<Who>,
    Path(name): Path<String>,
) -> Result<Json<Value>, Problem> {
    let Some(function) = app.snapshot.function(&name) else {
        let why = format!("there is no function {name:?}");
        return Err(Problem::new(NOT_FOUND, why));
    };
    let supervisors = services::supervisors(&app.bus).await.map_err(away)?;
    if supervisors.is_empty() {
        let why = "no `oncue up` of this app runs; restart the processes with what runs them, one after the other";
        audit::line(&who, "restart", &name, why);
        return Err(Problem::new(REFUSED, why));
    }
    let id = actions::begin(&app, &who, function.status.instances.len())?;
    // On record before it begins, as a redrive is.
    audit::line(&who, "restart", &name, "begun");
    let task = app.clone();
    app.tasks.spawn(async move {
        let ended = everywhere(&task, id, &name, supervisors).await;
        let ended = ended.map_err(|e| e.to_string());
        actions::end(&task, id, &who, ["restart", &name], ended);
    });
    Ok(Json(json!({ "job": id })))
}

/// One machine after the other: what fails on the first is not tried on the second.
async fn everywhere(
    app: &App,
    id: u64,
    name: &str,
    supervisors: Vec<String>,
) -> Result<String, RestartError> {
    let mut replaced = 0;
    for supervisor in supervisors {
        let request = RestartRequest {
            supervisor,
            functions: vec![name.to_owned()],
            rotate: false,
            anyway: false,
        };
        let asked = restart::ask(&request, &app.bus, |progress| match progress {
            RestartProgress::Changed { what } => app.jobs.step(id, 0, what.clone()),
            RestartProgress::Starting { worker, replaces } => {
                let remark = format!("{worker} starts beside {replaces}");
                app.jobs.step(id, 0, remark);
            }
            RestartProgress::Ready { worker, replaces } => {
                let remark = format!("{worker} is ready; {replaces} finishes what it has in hand");
                app.jobs.step(id, 1, remark);
            }
            RestartProgress::Done { .. } | RestartProgress::Failed { .. } => {}
        });
        replaced += asked.await?;
    }
    Ok(format!("{replaced} processes replaced"))
}
