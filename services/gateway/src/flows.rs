//! `GET /v1/flows/{id}`: what has become of a flow; on request once it is complete, or as it goes on.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse as _, Response};
use futures::Stream;
use oncue_core::model::flow::{Flow, FlowEvent, Step, StepState};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Serialize;
use serde_json::json;
use tokio::sync::watch;

use crate::App;
use crate::prefer::{applied, wait};
use crate::problem::{AWAY, NOT_FOUND, Problem};
use crate::request::{check_id, path_piece};
use crate::waiting::{Place, Seen};

/// Redis answers in a millisecond or is away.
const PATIENCE: Duration = Duration::from_secs(3);
/// `id` of the last server-sent event: a browser that comes back with it is told to stay away.
const LAST: &str = "complete";
/// What may stand in a path as it is [RFC 3986 section 2.3].
const PATH: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'~');

/// Where a flow is shown.
pub fn path(flow: &str) -> String {
    format!("/v1/flows/{}", utf8_percent_encode(flow, PATH))
}

/// A flow as clients see it.
#[derive(Serialize)]
pub struct Shown<'f> {
    id: &'f str,
    /// `complete` or `running`.
    status: &'static str,
    open: u64,
    /// Steps set aside as dead letters: a flow can be complete without having gone well.
    dead: usize,
    started: u64,
    ended: Option<u64>,
    waits_for: Option<WaitsFor<'f>>,
    events: &'f [FlowEvent],
}

/// The one step to look at when nothing goes on.
#[derive(Serialize)]
pub struct WaitsFor<'f> {
    event: &'f str,
    #[serde(rename = "type")]
    ty: &'f str,
    #[serde(flatten)]
    step: &'f Step,
}

impl<'f> Shown<'f> {
    pub fn of(flow: &'f Flow) -> Self {
        Self {
            id: &flow.id,
            status: if flow.is_complete() { LAST } else { "running" },
            open: flow.open,
            dead: flow
                .steps()
                .filter(|step| step.state == StepState::Dead)
                .count(),
            started: flow.started,
            ended: flow.ended,
            waits_for: waits_for(flow),
            events: &flow.events,
        }
    }
}

pub fn waits_for(flow: &Flow) -> Option<WaitsFor<'_>> {
    flow.waits_for().map(|(event, step)| WaitsFor {
        event: &event.id,
        ty: &event.ty,
        step,
    })
}

pub async fn get(State(app): State<Arc<App>>, request: Request) -> Result<Response, Problem> {
    let id = path_piece(
        request
            .uri()
            .path()
            .strip_prefix("/v1/flows/")
            .unwrap_or_default(),
    )?;
    let (id, headers) = (check_id(id)?, request.headers());
    if is_stream_asked(headers) {
        return stream(&app, &id, headers).await;
    }
    let Some(wait) = wait(headers, app.flows.max_wait.0) else {
        let flow = look(&app, &id).await?;
        return Ok(answer(StatusCode::OK, &flow));
    };
    let place = app.waiting.place()?;
    let now = look(&app, &id).await?;
    let flow = if now.is_complete() {
        Some(Arc::new(now))
    } else {
        app.wait(&id, wait, &place).await
    };
    let flow = match flow {
        Some(flow) => flow,
        None => Arc::new(look(&app, &id).await?),
    };
    let status = if flow.is_complete() {
        StatusCode::OK
    } else {
        StatusCode::ACCEPTED
    };
    let mut response = answer(status, &flow);
    response.headers_mut().extend(applied(wait));
    Ok(response)
}

/// The whole flow, as it stands.
pub fn answer(status: StatusCode, flow: &Flow) -> Response {
    let mut headers = HeaderMap::new();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    (status, headers, Json(Shown::of(flow))).into_response()
}

async fn look(app: &App, id: &str) -> Result<Flow, Problem> {
    let found = tokio::time::timeout(PATIENCE, app.waiting.read(&[id.to_owned()])).await;
    let found = found.map_err(|_| Problem::new(AWAY, "Redis does not answer"))??;
    found
        .into_iter()
        .next()
        .flatten()
        .ok_or_else(|| untracked(id))
}

fn untracked(id: &str) -> Problem {
    let why = format!(
        "flow {id:?} is not tracked, or its ledger has expired; to track one, send its event with `Oncue-Track: 1` or \
         `Prefer: wait=5`, or set `track = \"all\"` under [flows] in oncue.toml; `oncue flow {id}` looks for it in the \
         streams"
    );
    Problem::new(NOT_FOUND, why)
}

impl App {
    /// Waits until the flow is complete, or for as long as agreed, or until the gateway is told to stop; then the flow as
    /// it stands, or nothing where there is no ledger or Redis does not answer.
    pub async fn wait(&self, flow: &str, wait: Duration, _: &Place) -> Option<Arc<Flow>> {
        let mut seen = self.waiting.watch(flow);
        tokio::select! {
            complete = seen.wait_for(Seen::is_complete) => {
                if let Ok(Seen::Flow(flow)) = complete.as_deref() {
                    return Some(flow.clone());
                }
            }
            () = tokio::time::sleep(wait) => {}
            () = self.stopping.cancelled() => {}
        }
        // The shared look is some milliseconds old.
        look(self, flow).await.ok().map(Arc::new)
    }
}

fn is_stream_asked(headers: &HeaderMap) -> bool {
    let accepts = headers
        .get_all(header::ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok());
    accepts.flat_map(|line| line.split(',')).any(|one| {
        one.split(';')
            .next()
            .unwrap_or_default()
            .trim()
            .eq_ignore_ascii_case("text/event-stream")
    })
}

/// The flow as it is, then an event for every change, then the end.
async fn stream(app: &Arc<App>, id: &str, headers: &HeaderMap) -> Result<Response, Problem> {
    if headers
        .get("last-event-id")
        .is_some_and(|last| last.as_bytes() == LAST.as_bytes())
    {
        // Browsers connect again when a stream ends, unless they are told so.
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    let place = app.waiting.place()?;
    look(app, id).await?;
    let progress = Progress {
        app: app.clone(),
        seen: app.waiting.watch(id),
        shown: None,
        ready: Vec::new(),
        place,
    };
    let mut response = Sse::new(progress.stream())
        .keep_alive(KeepAlive::default())
        .into_response();
    response
        .headers_mut()
        .insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

/// One client that watches a flow.
struct Progress {
    app: Arc<App>,
    seen: watch::Receiver<Seen>,
    shown: Option<Arc<Flow>>,
    /// To be sent, last first.
    ready: Vec<Event>,
    #[expect(dead_code, reason = "held, not read")]
    place: Place,
}

impl Progress {
    fn stream(self) -> impl Stream<Item = Result<Event, Infallible>> {
        futures::stream::unfold(Some(self), async |progress| {
            let mut progress = progress?;
            let event = progress.next().await?;
            Some((Ok(event), Some(progress)))
        })
    }

    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.ready.pop() {
                return Some(event);
            }
            if self.shown.as_ref().is_some_and(|flow| flow.is_complete()) {
                return None;
            }
            let app = self.app.clone();
            let seen = tokio::select! {
                changed = self.seen.changed() => { changed.ok()?; self.seen.borrow_and_update().clone() }
                () = app.stopping.cancelled() => return None,
            };
            match seen {
                Seen::Flow(flow) => self.show(flow),
                // Its ledger has expired; before it was seen, somebody else's look may be older than ours.
                Seen::Untracked if self.shown.is_some() => return None,
                Seen::Unread | Seen::Untracked | Seen::Away => {}
            }
        }
    }

    fn show(&mut self, flow: Arc<Flow>) {
        match &self.shown {
            None => self.ready.push(named("flow", &Shown::of(&flow))),
            Some(before) => self.ready.extend(changes(before, &flow)),
        }
        if flow.is_complete() {
            self.ready.push(named(LAST, &Shown::of(&flow)).id(LAST));
        }
        self.ready.reverse();
        self.shown = Some(flow);
    }
}

fn named(name: &str, content: &impl Serialize) -> Event {
    Event::default()
        .event(name)
        .data(serde_json::to_string(content).unwrap_or_default())
}

/// Events that are new, and steps that are new or not what they were.
fn changes(before: &Flow, now: &Flow) -> Vec<Event> {
    let known: std::collections::HashMap<&str, &FlowEvent> = before
        .events
        .iter()
        .map(|event| (event.id.as_str(), event))
        .collect();
    let mut changes = Vec::new();
    for event in &now.events {
        let Some(then) = known.get(event.id.as_str()) else {
            changes.push(named("event", event));
            continue;
        };
        let changed = event.steps.iter().filter(|step| !then.steps.contains(step));
        changes.extend(changed.map(|step| {
            named(
                "step",
                &json!(WaitsFor {
                    event: &event.id,
                    ty: &event.ty,
                    step
                }),
            )
        }));
    }
    changes
}
