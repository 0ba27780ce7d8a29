//! Several CloudEvents in one request [CloudEvents 1.0.2 JSON 4]: one verdict for each in the answer. All are compared with
//! their contracts before any is taken, so one that is wrong keeps out the others; then they are taken in their order.

use std::collections::HashMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use oncue_proto::event::stream_of_type;
use serde::Serialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::attributes::ReadEvent;
use super::publish::NewEvent;
use super::{Accepted, known_type, outcome};
use crate::App;
use crate::flows::wait::is_tracking_asked;
use crate::observe::trace::Trace;
use crate::problem::{ID_REUSE, MALFORMED, Problem, TOO_LARGE, WITHHELD};
use crate::request::body::Incoming;
use crate::request::check_encoding;

/// Most events of a batch, and how many times the largest event its body may have.
const MOST: usize = 1000;
const LARGEST: u64 = 16;

/// Fate of one event.
#[derive(Serialize)]
struct Verdict {
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    /// Status of an answer to it alone.
    status: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    accepted: Option<Accepted>,
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<Value>,
}

impl Verdict {
    fn taken(accepted: Accepted) -> Self {
        Self {
            id: Some(accepted.id.clone()),
            status: StatusCode::ACCEPTED.as_u16(),
            accepted: Some(accepted),
            problem: None,
        }
    }

    fn refused(id: Option<String>, problem: &Problem) -> Self {
        Self {
            id,
            status: problem.status().as_u16(),
            accepted: None,
            problem: Some(problem.document(None)),
        }
    }
}

/// Answer with every verdict.
#[derive(Serialize)]
struct Verdicts {
    events: Vec<Verdict>,
}

/// An event of a batch, or why it is none.
struct Judged {
    id: Option<String>,
    event: Result<NewEvent, Problem>,
}

/// Takes the batch; where the path names a type, its events are of that.
pub async fn take(
    app: &Arc<App>,
    trace: &Trace,
    named: Option<&str>,
    request: Request,
) -> Result<Response, Problem> {
    let (head, body) = request.into_parts();
    let headers = &head.headers;
    let body = Incoming::new(body, headers, app.pace());
    check_encoding(headers)?;
    let limit = LARGEST * app.max_event();
    let body = body.read(&head, limit, &app.memory).await?;
    let documents: Vec<&RawValue> = serde_json::from_slice(&body.bytes).map_err(|e| {
        let why = format!("a batch is a JSON array of CloudEvents: {e}");
        Problem::new(MALFORMED, why)
    })?;
    if documents.len() > MOST {
        let why = format!(
            "{} events; at most {MOST} are taken at once",
            documents.len()
        );
        return Err(Problem::new(TOO_LARGE, why));
    }
    let track = is_tracking_asked(headers);
    let mut judged = Vec::with_capacity(documents.len());
    for document in documents {
        judged.push(judge(app, named, document, track).await?);
    }
    refuse_other_sources(&mut judged);
    if judged.iter().any(|judged| judged.event.is_err()) {
        let events = judged.into_iter().map(|judged| withheld(app, judged));
        return Ok(answer(StatusCode::BAD_REQUEST, events.collect()));
    }
    let body = Arc::new(body);
    let events = judged.into_iter().filter_map(|judged| judged.event.ok());
    let events = events.map(|event| NewEvent {
        body: Some(body.clone()),
        ..event
    });
    take_all(app, trace, events).await
}

/// Compares one event with its contract; fails where its stream takes nothing now.
async fn judge(
    app: &App,
    named: Option<&str>,
    document: &RawValue,
    track: bool,
) -> Result<Judged, Problem> {
    let read = match ReadEvent::of_document(document.get().as_bytes()) {
        Ok(read) => read,
        Err(problem) => {
            return Ok(Judged {
                id: None,
                event: Err(problem),
            });
        }
    };
    let id = read.attributes.id().map(str::to_owned);
    let ty = named.or_else(|| read.attributes.ty()).map(str::to_owned);
    if let Some(ty) = &ty
        && known_type(app, ty).is_ok()
    {
        app.backlog.admit(&app.bus, stream_of_type(ty)).await?;
    }
    Ok(Judged {
        id,
        event: prepare(app, ty, read, track),
    })
}

fn prepare(
    app: &App,
    ty: Option<String>,
    read: ReadEvent,
    track: bool,
) -> Result<NewEvent, Problem> {
    // Whoever sends again what was taken half must find the first half again.
    for (name, value) in [("id", read.attributes.id()), ("type", ty.as_deref())] {
        if value.is_none() {
            let why = format!("attribute {name} is missing");
            return Err(Problem::new(MALFORMED, why));
        }
    }
    if read.payload.len() as u64 > app.max_event() {
        let why = format!("at most {} bytes are taken", app.max_event());
        return Err(Problem::new(TOO_LARGE, why));
    }
    let entry = known_type(app, &ty.unwrap_or_default())?;
    app.prepare(&entry, read, None, track)
}

/// Refuses events under an id that one of another source before them has: they are two, of which the streams would keep one.
fn refuse_other_sources(judged: &mut [Judged]) {
    let mut sources: HashMap<String, String> = HashMap::new();
    for judged in judged {
        let Ok(NewEvent { meta, .. }) = &judged.event else {
            continue;
        };
        let first = sources.entry(meta.id.clone());
        let first = first.or_insert_with(|| meta.source.clone());
        if *first != meta.source {
            let why = format!(
                "id {:?} is that of an event from {first:?} in this batch, and here one from {:?}: give every event an id that no \
                 other source uses",
                meta.id, meta.source
            );
            judged.event = Err(Problem::new(ID_REUSE, why));
        }
    }
}

/// Verdict on an event of a batch of which one is wrong.
fn withheld(app: &App, Judged { id, event }: Judged) -> Verdict {
    match event {
        Ok(event) => {
            let why = "another event of the batch is wrong; nothing was taken";
            let problem = Problem::new(WITHHELD, why);
            app.metrics.event(&event.meta.ty, outcome(Err(&problem)));
            Verdict::refused(id, &problem)
        }
        Err(problem) => {
            app.metrics.event("unknown", outcome(Err(&problem)));
            Verdict::refused(id, &problem)
        }
    }
}

/// Hands the events to their streams one after the other, until one cannot be reached.
async fn take_all(
    app: &Arc<App>,
    trace: &Trace,
    events: impl Iterator<Item = NewEvent>,
) -> Result<Response, Problem> {
    let mut verdicts: Vec<Verdict> = Vec::new();
    let mut away: Option<Problem> = None;
    for event in events {
        let id = event.meta.id.clone();
        let ty = event.meta.ty.clone();
        let accepted = match &away {
            Some(problem) => Err(problem.clone()),
            None => app.accept(trace, event).await,
        };
        app.metrics.event(&ty, outcome(accepted.as_ref()));
        match accepted {
            Ok(accepted) => verdicts.push(Verdict::taken(accepted)),
            Err(problem) => {
                verdicts.push(Verdict::refused(Some(id), &problem));
                if problem.status().is_server_error() {
                    away = Some(problem);
                }
            }
        }
    }
    let taken = verdicts.iter().filter(|verdict| verdict.accepted.is_some());
    match (taken.count(), away) {
        (0, Some(problem)) => Err(problem),
        (taken, _) if taken == verdicts.len() => Ok(answer(StatusCode::ACCEPTED, verdicts)),
        _ => Ok(answer(StatusCode::MULTI_STATUS, verdicts)),
    }
}

fn answer(status: StatusCode, events: Vec<Verdict>) -> Response {
    (status, Json(Verdicts { events })).into_response()
}
