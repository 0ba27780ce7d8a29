//! A route to an event: a request becomes one, as the route says, and is answered at once, with the flow, or with the
//! first event of a named type. The route is the permission, whether or not the contract calls the event public.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::http::request::Parts;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use oncue_core::config::{EventTarget, Response as RouteResponse};
use oncue_proto::event::{self, stream_of_type};
use oncue_proto::{CatalogError, Format};

use super::live::Found;
use super::values::Values;
use crate::App;
use crate::events::attributes::{Attributes, Form, ReadEvent, form};
use crate::events::publish::NewEvent;
use crate::events::{Accepted, outcome};
use crate::flows::reply::{self, Reply, Waited};
use crate::flows::wait::{TakenFlow, WaitRequest, going_on, is_tracking_asked};
use crate::observe::trace::Trace;
use crate::problem::{INTERNAL, MEDIA_TYPE, Problem};
use crate::request::body::Incoming;
use crate::request::check_encoding;

/// Attributes of the response event that its answer shows [CloudEvents 1.0.2 HTTP 3.1].
const SHOWN: [&str; 5] = ["ce-specversion", "ce-id", "ce-source", "ce-type", "ce-time"];

pub async fn serve(
    app: &Arc<App>,
    trace: &Trace,
    found: &Found,
    target: &EventTarget,
    request: Request,
) -> Result<Response, Problem> {
    let (head, body) = request.into_parts();
    let wait = match &target.response {
        RouteResponse::Accepted => WaitRequest::of(app, &head)?,
        RouteResponse::Flow(longest)
        | RouteResponse::Event {
            timeout: longest, ..
        } => WaitRequest::within(app, *longest, &head)?,
    };
    let track = is_tracking_asked(&head.headers);
    let event = read(app, found, target, &head, body).await;
    let ty = &target.entry.ty;
    let event = event.inspect_err(|problem| app.metrics.event(ty, outcome(Err(problem))))?;
    match &target.response {
        RouteResponse::Event { statuses, .. } => {
            let longest = wait.limit().unwrap_or_default();
            respond(app, trace, event, statuses, longest).await
        }
        other => {
            let track = track || matches!(other, RouteResponse::Flow(_));
            let accepted = take(app, trace, NewEvent { track, ..event }).await?;
            Ok(wait.answer(app, accepted.begun(), &accepted).await)
        }
    }
}

/// Event that the request says, compared with its contract.
async fn read(
    app: &App,
    found: &Found,
    target: &EventTarget,
    head: &Parts,
    body: Body,
) -> Result<NewEvent, Problem> {
    let route = &found.endpoint().route;
    let headers = &head.headers;
    let body = Incoming::new(body, headers, app.pace());
    let stream = stream_of_type(&target.entry.ty);
    app.backlog.admit(&app.bus, stream).await?;
    let values = Values::new(found, head);
    let mut whole = None;
    let payload = if route.reads_body() {
        check_encoding(headers)?;
        let body = body.read(head, app.max_event(), &app.memory).await?;
        if !body.bytes.is_empty() && form(headers)? != Form::Binary(Some(Format::Json)) {
            let why = "the fields of this event are taken from JSON: send application/json";
            return Err(Problem::new(MEDIA_TYPE, why));
        }
        let values = values.with_body(&body.bytes)?;
        let payload = values.payload(&target.fields, route.merges_body())?;
        whole = Some(Arc::new(body));
        payload
    } else {
        values.payload(&target.fields, false)?
    };
    let read = ReadEvent {
        attributes: Attributes::default(),
        format: Format::Json,
        payload,
    };
    Ok(NewEvent {
        body: whole,
        ..app.prepare(&target.entry, read, Some(head), false)?
    })
}

/// Hands the event to its stream, and counts it.
async fn take(app: &Arc<App>, trace: &Trace, event: NewEvent) -> Result<Accepted, Problem> {
    let ty = event.meta.ty.clone();
    let accepted = app.accept(trace, event).await;
    app.metrics.event(&ty, outcome(accepted.as_ref()));
    accepted
}

/// Begins the flow and answers with its first event of one of the types, or with 202 where none comes in time.
async fn respond(
    app: &Arc<App>,
    trace: &Trace,
    event: NewEvent,
    statuses: &BTreeMap<String, u16>,
    longest: Duration,
) -> Result<Response, Problem> {
    let listener = app
        .replies
        .listen(statuses.keys(), &event.meta.flow)
        .await?;
    let event = NewEvent {
        track: true,
        ..event
    };
    let accepted = take(app, trace, event).await?;
    let taken = accepted.begun();
    // Of one that was taken before, without a ledger, nobody knows what became.
    if accepted.duplicate && !accepted.tracked {
        return Ok(going_on(&taken, &accepted, None));
    }
    match reply::wait(app, listener, statuses, longest).await {
        Waited::Reply(reply) => of_event(app, &taken, &reply, statuses),
        Waited::Nothing(flow) => Ok(going_on(&taken, &accepted, flow.as_deref())),
    }
}

/// Answer with an event: its payload as JSON, its attributes as headers.
fn of_event(
    app: &App,
    taken: &TakenFlow<'_>,
    Reply { event }: &Reply,
    statuses: &BTreeMap<String, u16>,
) -> Result<Response, Problem> {
    let catalog = app.catalog.now();
    let entry = catalog.get(&event.meta.ty);
    let entry = entry.map_err(|e| unreadable(&event.meta.ty, &e))?;
    let json = entry.to_json(event.format, &event.payload);
    let json = json.map_err(|e| unreadable(&event.meta.ty, &e))?;
    let status = statuses.get(&event.meta.ty).copied();
    let status = StatusCode::from_u16(status.unwrap_or(200)).unwrap_or(StatusCode::OK);
    let mut response = (status, axum::Json(json)).into_response();
    let attributes = event::headers(&event.meta, "", Format::Json);
    let headers = response.headers_mut();
    headers.extend(attributes.into_iter().filter_map(|(name, value)| {
        let name = SHOWN.into_iter().find(|shown| *shown == name)?;
        let value = HeaderValue::from_str(&value).ok()?;
        Some((HeaderName::from_static(name), value))
    }));
    headers.extend(taken.headers());
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

/// Problem of a response that cannot be shown.
fn unreadable(ty: &str, why: &CatalogError) -> Problem {
    Problem::new(INTERNAL, format!("{ty}: {why}"))
}
