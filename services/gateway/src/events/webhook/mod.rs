//! `POST /v1/webhooks/{name}`: a signed request of another service in, one event out. The [`signature`] is checked over the bytes
//! as they came before anything of them is read; what a request becomes is its [`endpoint`]'s to say.

pub mod endpoint;

mod picked;
mod signature;

use std::sync::Arc;

use axum::Json;
use axum::extract::{Extension, Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use oncue_proto::event::{self, Meta};
use oncue_proto::{Entry, Format};
use serde::Serialize;
use serde_json::{Value, json};

use self::endpoint::Webhook;
use super::attributes::root;
use super::is_deep;
use super::publish::{NewEvent, Published};
use crate::App;
use crate::observe::trace::Trace;
use crate::problem::{MALFORMED, NOT_FOUND, Problem, UNABLE, of_catalog};
use crate::request::body::Incoming;
use crate::request::{check_encoding, check_id, path_after};

/// A delivery that became an event, now or before.
#[derive(Serialize)]
struct Delivered {
    id: String,
    flow: String,
    duplicate: bool,
}

/// Fate of a delivery that is what it says.
enum Outcome {
    Event(Delivered),
    /// The sender wants to see this again.
    Challenge(String),
    /// None that the configuration wants.
    Ignored,
}

pub async fn post(
    State(app): State<Arc<App>>,
    Extension(trace): Extension<Trace>,
    request: Request,
) -> Result<Response, Problem> {
    // As it stands: spelled otherwise it would pass by the limit, which hangs on the path.
    let name = path_after(&request, "/v1/webhooks/").to_owned();
    let Some(webhook) = app.webhooks.get(&name) else {
        let why = format!("there is no webhook {name:?} ([[webhook]] in oncue.toml)");
        return Err(Problem::new(NOT_FOUND, why));
    };
    let taken = take(&app, &trace, webhook, request).await;
    let label = match &taken {
        Ok(Outcome::Event(event)) if event.duplicate => "duplicate",
        Ok(Outcome::Event(_)) => "accepted",
        Ok(Outcome::Challenge(_) | Outcome::Ignored) => "ignored",
        Err(problem) if problem.status().is_server_error() => "unavailable",
        Err(problem) => {
            // Whoever runs this wants to know: the sender's own log is not theirs to see.
            tracing::info!(
                webhook = name,
                code = problem.code(),
                "a delivery was refused: {}",
                problem.detail()
            );
            "rejected"
        }
    };
    app.metrics.event(&webhook.config.event, label);
    Ok(match taken? {
        Outcome::Event(event) => (StatusCode::ACCEPTED, Json(event)).into_response(),
        Outcome::Challenge(challenge) => Json(json!({ "challenge": challenge })).into_response(),
        Outcome::Ignored => StatusCode::NO_CONTENT.into_response(),
    })
}

async fn take(
    app: &Arc<App>,
    trace: &Trace,
    webhook: &Webhook,
    request: Request,
) -> Result<Outcome, Problem> {
    let (head, body) = request.into_parts();
    let headers = &head.headers;
    let body = Incoming::new(body, headers, app.pace());
    check_encoding(headers)?;
    let limit = app.config.max_event.0.min(app.bus.max_payload() as u64);
    let body = body.read(&head, limit, &app.memory).await?;
    webhook.verify(headers, &body.bytes).await?;
    let json = read(&body.bytes)?;
    if let Some(challenge) = webhook.challenge(&json) {
        return Ok(Outcome::Challenge(challenge));
    }
    if !webhook.is_wanted(headers, &json) {
        return Ok(Outcome::Ignored);
    }
    let delivery = check_id(webhook.delivery_id(headers, &json, &body.bytes)?)?;
    let id = app.secret.delivery_id(&webhook.config.name, &delivery);
    let ty = &webhook.config.event;
    let entry = known_type(app, ty)?;
    let payload = webhook.payload(headers, &json, body.bytes.clone());
    let key = entry.check(Format::Json, &payload).map_err(of_catalog)?;
    let stream = event::stream_of_type(ty);
    app.backlog.admit(&app.bus, stream).await?;
    let settings = app.stream(stream);
    let room = app.room.admit(&app.bus, stream, &settings, payload.len());
    room.await?;
    let new = NewEvent {
        meta: Meta {
            source: format!("/webhooks/{}", webhook.config.name),
            // Each copy would have another.
            timed: false,
            ..root(id.clone(), ty)
        },
        key,
        format: Format::Json,
        payload,
        track: false,
        body: Some(Arc::new(body)),
    };
    let Published { ack, .. } = app.deliver(trace, new).await?;
    Ok(Outcome::Event(Delivered {
        flow: id.clone(),
        id,
        duplicate: ack.duplicate,
    }))
}

/// The body, which is JSON with every service that signs it.
fn read(body: &[u8]) -> Result<Value, Problem> {
    if is_deep(body) {
        return Err(Problem::new(MALFORMED, "the body is nested too deep"));
    }
    serde_json::from_slice(body).map_err(|e| {
        let why = format!("the body is no JSON ({e}); let the service send application/json");
        Problem::new(MALFORMED, why)
    })
}

/// The type that the configuration names. It need not be public: here the configuration says who may send it.
fn known_type(app: &App, ty: &str) -> Result<Entry, Problem> {
    let catalog = app.catalog.now();
    let entry = catalog.get(ty).cloned();
    entry.map_err(|e| {
        let why = format!("this webhook makes events that the contract does not have: {e}");
        Problem::new(UNABLE, why)
    })
}
