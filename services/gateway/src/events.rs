//! `POST /v1/events/{type}`: one event in, 202 once it is in its stream.

use std::sync::Arc;

use axum::extract::{Extension, Request, State};
use axum::http::HeaderMap;
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use oncue_proto::event::{self, Meta};
use oncue_proto::{Entry, Format};
use serde::Serialize;

use crate::attributes::{Attributes, Form, form};
use crate::body::Incoming;
use crate::prefer::is_tracking_asked;
use crate::problem::{FORBIDDEN, MALFORMED, Problem};
use crate::publish::{Stored, id_reuse};
use crate::request::{check_encoding, path_piece};
use crate::trace::Trace;
use crate::wish::Wish;
use crate::{App, PLATFORM};

/// Levels of lists and objects in a JSON payload.
const MAX_DEPTH: usize = 64;

/// What became of it.
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
    /// Its flow has a ledger, so it can be looked up and waited for.
    tracked: bool,
}

pub async fn post(
    State(app): State<Arc<App>>,
    Extension(trace): Extension<Trace>,
    request: Request,
) -> Response {
    let named = path_piece(
        request
            .uri()
            .path()
            .strip_prefix("/v1/events/")
            .unwrap_or_default(),
    );
    // A label from outside must not make a series: only types of the contract are counted by name.
    let label = named
        .as_ref()
        .ok()
        .filter(|ty| app.catalog.get(ty).is_ok())
        .map_or_else(|| "unknown".to_owned(), Clone::clone);
    // Before anything is taken, so that a refusal means that nothing was.
    let wish = Wish::of(&app, request.headers());
    let outcome = match (named, &wish) {
        (Ok(ty), Ok(_)) => accept(&app, &trace, &ty, request).await,
        (Err(problem), _) => Err(problem),
        (_, Err(problem)) => Err(problem.clone()),
    };
    let counted = match &outcome {
        Ok(accepted) if accepted.duplicate => "duplicate",
        Ok(_) => "accepted",
        Err(problem) if problem.status().is_server_error() => "unavailable",
        Err(_) => "rejected",
    };
    app.metrics.event(&label, counted);
    match (outcome, wish) {
        (Ok(accepted), Ok(wish)) => {
            let (flow, traceparent) = (accepted.flow.clone(), accepted.traceparent.clone());
            wish.answer(&app, &flow, &traceparent, accepted.tracked, &accepted)
                .await
        }
        (Err(problem), _) | (_, Err(problem)) => problem.into_response(),
    }
}

async fn accept(app: &App, trace: &Trace, ty: &str, request: Request) -> Result<Accepted, Problem> {
    let (head, body) = request.into_parts();
    let body = Incoming::new(body, &head.headers, app.guards.body);
    let entry = known(app, ty)?;
    check_encoding(&head.headers)?;
    let form = form(&head.headers)?;
    let limit = app.config.max_event.0.min(app.bus.max_payload() as u64);
    app.backlog
        .admit(&app.bus, event::stream_of_type(ty))
        .await?;
    let (body, _held) = body.read(&head.headers, limit, &app.room).await?;
    let (meta, format, payload) = read(ty, form, &head.headers, body)?;
    let key = entry.check(format, &payload)?;
    let id = meta.id.clone();
    let asked = is_tracking_asked(&head.headers);
    let published = app
        .publish(trace, meta, &key, format, payload.clone(), asked)
        .await?;
    // Its key is part of the payload.
    let is_other = |earlier: Stored| {
        earlier.payload != payload || event::type_of_subject(&earlier.subject) != ty
    };
    if published.earlier.is_some_and(is_other) {
        return Err(id_reuse(&id));
    }
    Ok(Accepted {
        flow: id.clone(),
        id,
        ty: ty.to_owned(),
        key,
        traceparent: published.traceparent,
        stream: published.ack.stream,
        sequence: published.ack.sequence,
        duplicate: published.ack.duplicate,
        tracked: published.tracked,
    })
}

/// The type as the contract has it, if clients may send it.
fn known<'a>(app: &'a App, ty: &str) -> Result<&'a Entry, Problem> {
    let token = |token: &str| {
        (1..=64).contains(&token.len())
            && token
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
    };
    if !ty.split('.').all(token) {
        return Err(Problem::new(
            MALFORMED,
            "an event type is made of dotted names of A-Z, a-z, 0-9, '_' and '-', like web.page.viewed",
        ));
    }
    let domain = event::stream_of_type(ty);
    if PLATFORM.contains(&domain) {
        return Err(Problem::new(
            FORBIDDEN,
            format!("events of the domain {domain:?} are the platform's own"),
        ));
    }
    Ok(app.catalog.get(ty)?)
}

/// Attributes and payload, wherever they stand. The payload stays as the client wrote it: fields a newer contract knows
/// are passed on.
fn read(
    ty: &str,
    form: Form,
    headers: &HeaderMap,
    body: Bytes,
) -> Result<(Meta, Format, Bytes), Problem> {
    let (attributes, format, payload) = match form {
        Form::Structured => Attributes::of_document(&body)?,
        Form::Binary(format) => (Attributes::of_headers(headers)?, format, body),
        Form::Unsaid => (Attributes::of_headers(headers)?, Format::sniff(&body), body),
    };
    if format == Format::Json && is_deep(&payload) {
        return Err(Problem::new(
            MALFORMED,
            format!("the payload is nested deeper than {MAX_DEPTH} levels"),
        ));
    }
    Ok((attributes.meta(ty, headers)?, format, payload))
}

/// Unknown fields are skipped and passed on unread, so a nesting bomb in one would reach whoever reads all of it.
fn is_deep(json: &[u8]) -> bool {
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
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
