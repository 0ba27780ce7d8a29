//! `POST /v1/events/{type}`: one event in, 202 once it is in its stream. [`webhook`] is the way in for other services.
//!
//! Every step of an event stands in [`take`], in its order: its type ([`known_type`]), the form of its body
//! ([`attributes`]), room in its stream ([`backlog`]), its body, its payload and attributes, the contract,
//! [`publish`] with the [`ledger`] of its flow, and the comparison with an earlier event of the same id.

pub mod attributes;
pub mod backlog;
pub mod room;
pub mod webhook;
mod looked;
pub mod ledger;
pub mod publish;

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Extension, Request, State};
use axum::response::{IntoResponse as _, Response};
use oncue_core::bus::StoredMessage;
use oncue_proto::event::Meta;
use oncue_proto::{Entry, Format, event};
use serde::Serialize;

use self::attributes::ReadEvent;
use self::publish::{NewEvent, Published, id_reuse};
use crate::App;
use crate::app::PLATFORM_DOMAINS;
use crate::flows::wait::{TakenFlow, WaitRequest, is_tracking_asked};
use crate::observe::trace::Trace;
use crate::problem::{FORBIDDEN, MALFORMED, Problem, TOO_OLD, of_catalog};
use crate::request::body::Incoming;
use crate::request::{check_encoding, path_after, path_piece};

/// Levels of lists and objects in a JSON payload.
const MAX_DEPTH: usize = 64;

/// An event that was taken, as its client is told.
#[derive(Serialize)]
struct Accepted {
    id: String,
    flow: String,
    #[serde(rename = "type")]
    ty: String,
    key: String,
    traceparent: String,
    stream: String,
    sequence: u64,
    /// The stream had it before; it counts once.
    duplicate: bool,
    /// The flow has a ledger, so it can be looked up and waited for.
    tracked: bool,
}

/// An event that was taken, with its client's wish to wait for the flow.
struct Taken {
    accepted: Accepted,
    wait: WaitRequest,
}

pub async fn post(
    State(app): State<Arc<App>>,
    Extension(trace): Extension<Trace>,
    request: Request,
) -> Response {
    let named = path_piece(path_after(&request, "/v1/events/"));
    // A label from outside must not make a series: only types of the contract are counted by name.
    let label = match &named {
        Ok(ty) if app.catalog.now().get(ty).is_ok() => ty.clone(),
        _ => "unknown".to_owned(),
    };
    let taken = match named {
        Ok(ty) => take(&app, &trace, ty, request).await,
        Err(problem) => Err(problem),
    };
    app.metrics.event(&label, outcome(&taken));
    match taken {
        Ok(taken) => {
            let flow = TakenFlow {
                id: &taken.accepted.flow,
                traceparent: &taken.accepted.traceparent,
                tracked: taken.accepted.tracked,
            };
            taken.wait.answer(&app, flow, &taken.accepted).await
        }
        Err(problem) => problem.into_response(),
    }
}

/// Label of the count.
fn outcome(taken: &Result<Taken, Problem>) -> &'static str {
    match taken {
        Ok(taken) if taken.accepted.duplicate => "duplicate",
        Ok(_) => "accepted",
        Err(problem) if problem.status().is_server_error() => "unavailable",
        Err(_) => "rejected",
    }
}

async fn take(app: &App, trace: &Trace, ty: String, request: Request) -> Result<Taken, Problem> {
    let (head, body) = request.into_parts();
    let headers = &head.headers;
    // Before anything is taken, so that a refusal means that nothing was.
    let wait = WaitRequest::of(app, headers)?;
    let body = Incoming::new(body, headers, app.pace());
    let entry = known_type(app, &ty)?;
    check_encoding(headers)?;
    let form = attributes::form(headers)?;
    let stream = event::stream_of_type(&ty);
    app.backlog.admit(&app.bus, stream).await?;
    let limit = app.config.max_event.0.min(app.bus.max_payload() as u64);
    // Its permits are held until the stream has answered.
    let body = body.read(headers, limit, &app.memory).await?;
    let read = ReadEvent::of(form, headers, body.bytes.clone())?;
    check_depth(&read)?;
    let meta = read.attributes.meta(&ty, headers)?;
    check_age(&meta, app.horizon(stream))?;
    let key = entry
        .check(read.format, &read.payload)
        .map_err(of_catalog)?;
    let new = NewEvent {
        meta,
        key: key.clone(),
        format: read.format,
        payload: read.payload.clone(),
        track: is_tracking_asked(headers),
    };
    let settings = app.stream(stream);
    let room = app
        .room
        .admit(&app.bus, stream, &settings, new.payload.len());
    room.await?;
    let id = new.meta.id.clone();
    let Published {
        ack,
        traceparent,
        earlier,
        tracked,
    } = app.publish(trace, new).await?;
    if earlier.is_some_and(|earlier| is_other(&earlier, &ty, &read.payload)) {
        return Err(id_reuse(&id));
    }
    let accepted = Accepted {
        flow: id.clone(),
        id,
        ty,
        key,
        traceparent,
        stream: ack.stream,
        sequence: ack.sequence,
        duplicate: ack.duplicate,
        tracked,
    };
    Ok(Taken { accepted, wait })
}

/// Refuses what every function would set aside as too old.
fn check_age(meta: &Meta, horizon: Duration) -> Result<(), Problem> {
    let oldest = event::now_ms().saturating_sub(horizon.as_millis() as u64);
    if meta.time < oldest {
        let time = event::format_time(meta.time);
        let why = format!(
            "time {time} is longer ago than the horizon of its stream ({horizon:?}): it cannot be told from an event that \
             was handled before"
        );
        return Err(Problem::new(TOO_OLD, why));
    }
    Ok(())
}

/// Whether the stream holds another event under the id. The key is part of the payload.
fn is_other(earlier: &StoredMessage, ty: &str, payload: &[u8]) -> bool {
    earlier.payload != payload || event::type_of_subject(&earlier.subject) != ty
}

/// The type as the contract has it, if clients may send it.
fn known_type(app: &App, ty: &str) -> Result<Entry, Problem> {
    if !ty.split('.').all(is_type_token) {
        return Err(Problem::new(
            MALFORMED,
            "an event type is made of dotted names of A-Z, a-z, 0-9, '_' and '-', like shop.order.placed",
        ));
    }
    let domain = event::stream_of_type(ty);
    if PLATFORM_DOMAINS.contains(&domain) {
        return Err(Problem::new(
            FORBIDDEN,
            format!("events of the domain {domain:?} are the platform's own"),
        ));
    }
    let catalog = app.catalog.now();
    let entry = catalog.get(ty).map_err(of_catalog)?;
    if !entry.public {
        return Err(Problem::new(
            FORBIDDEN,
            format!(
                "{ty} is an event of the functions' own: its contract does not say `public: true`, so no client may \
                 send it"
            ),
        ));
    }
    Ok(entry.clone())
}

fn is_type_token(token: &str) -> bool {
    (1..=64).contains(&token.len())
        && token
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
}

fn check_depth(read: &ReadEvent) -> Result<(), Problem> {
    if read.format == Format::Json && is_deep(&read.payload) {
        let why = format!("the payload is nested deeper than {MAX_DEPTH} levels");
        return Err(Problem::new(MALFORMED, why));
    }
    Ok(())
}

/// Unknown fields are skipped and passed on unread, so a nesting bomb in one would reach whoever reads all of it.
fn is_deep(json: &[u8]) -> bool {
    let mut depth = 0_usize;
    let mut in_string = false;
    let mut escaped = false;
    for byte in json {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'{' | b'[' if !in_string => depth += 1,
            b'}' | b']' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > MAX_DEPTH {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::is_deep;

    #[test]
    fn depth_is_of_structure_not_of_text() {
        let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert!(!is_deep(nested(64).as_bytes()) && is_deep(nested(65).as_bytes()));
        assert!(!is_deep(
            format!(r#"{{"a":"\"{}"}}"#, "[".repeat(100)).as_bytes()
        ));
        assert!(!is_deep("[],".repeat(100).as_bytes()));
    }
}
