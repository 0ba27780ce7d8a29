//! `POST /v1/events/{type}`, or `/v1/events` of a CloudEvent: one event in, 202 once it is in its stream; or a [`batch`] of them.
//! [`webhook`] is the way in for other services.
//!
//! Every step of an event stands in [`take`], in its order: its type ([`known_type`]), the form of its body
//! ([`attributes`]), room in its stream ([`backlog`]), its body, its payload and attributes, the contract,
//! [`publish`] with the [`ledger`] of its flow, and the comparison with an earlier event of the same id.

pub mod attributes;
pub mod backlog;
mod batch;
pub mod feed;
pub mod handshake;
pub mod listen;
pub mod room;
pub mod webhook;
mod looked;
pub mod ledger;
pub mod publish;

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Extension, Request, State};
use axum::http::request::Parts;
use axum::response::{IntoResponse as _, Response};
use oncue_proto::event::{Meta, PLATFORM_DOMAINS, stream_of_type};
use oncue_proto::{Entry, Format, event};
use serde::Serialize;

use self::attributes::{Form, ReadEvent};
use self::publish::{NewEvent, Published};
use crate::App;
use crate::door::identity::Identity;
use crate::flows::wait::{TakenFlow, WaitRequest, is_tracking_asked};
use crate::observe::trace::Trace;
use crate::problem::{FORBIDDEN, MALFORMED, Problem, TOO_OLD, of_catalog};
use crate::request::body::Incoming;
use crate::request::{check_encoding, idempotency_key, path_after, path_piece};

/// Levels of lists and objects in a JSON payload.
const MAX_DEPTH: usize = 64;

/// An event that was taken, as its client is told.
#[derive(Serialize)]
pub struct Accepted {
    pub id: String,
    pub flow: String,
    #[serde(rename = "type")]
    ty: String,
    key: String,
    pub traceparent: String,
    stream: String,
    sequence: u64,
    /// The stream had it before; it counts once.
    pub duplicate: bool,
    /// The flow has a ledger, so it can be looked up and waited for.
    pub tracked: bool,
}

impl Accepted {
    /// Flow that begins with it.
    pub fn begun(&self) -> TakenFlow<'_> {
        TakenFlow {
            id: &self.flow,
            traceparent: &self.traceparent,
            tracked: self.tracked,
        }
    }
}

/// An event that was taken, with its client's wish to wait for the flow.
struct Taken {
    accepted: Accepted,
    wait: WaitRequest,
}

/// An event of the type in the path.
pub async fn post(
    State(app): State<Arc<App>>,
    Extension(trace): Extension<Trace>,
    request: Request,
) -> Response {
    match path_piece(path_after(&request, "/v1/events/")) {
        Ok(ty) => send(&app, &trace, Some(ty), request).await,
        Err(problem) => refuse(&app, "unknown", problem),
    }
}

/// A CloudEvent, which says its type itself.
pub async fn post_any(
    State(app): State<Arc<App>>,
    Extension(trace): Extension<Trace>,
    request: Request,
) -> Response {
    send(&app, &trace, None, request).await
}

async fn send(app: &Arc<App>, trace: &Trace, named: Option<String>, request: Request) -> Response {
    // A label from outside must not make a series: only types of the contract are counted by name.
    let known = named.clone().filter(|ty| app.catalog.now().get(ty).is_ok());
    let label = known.unwrap_or_else(|| "unknown".to_owned());
    if let Ok(Form::Batch) = attributes::form(request.headers()) {
        let answer = batch::take(app, trace, named.as_deref(), request).await;
        return answer.unwrap_or_else(|problem| refuse(app, &label, problem));
    }
    match take(app, trace, named, request).await {
        Ok(taken) => {
            let Taken { accepted, wait } = taken;
            app.metrics.event(&accepted.ty, outcome(Ok(&accepted)));
            wait.answer(app, accepted.begun(), &accepted).await
        }
        Err(problem) => refuse(app, &label, problem),
    }
}

fn refuse(app: &App, label: &str, problem: Problem) -> Response {
    app.metrics.event(label, outcome(Err(&problem)));
    problem.into_response()
}

/// Label of the count.
pub fn outcome(taken: Result<&Accepted, &Problem>) -> &'static str {
    match taken {
        Ok(taken) if taken.duplicate => "duplicate",
        Ok(_) => "accepted",
        Err(problem) if problem.status().is_server_error() => "unavailable",
        Err(_) => "rejected",
    }
}

async fn take(
    app: &Arc<App>,
    trace: &Trace,
    named: Option<String>,
    request: Request,
) -> Result<Taken, Problem> {
    let (head, body) = request.into_parts();
    let headers = &head.headers;
    // Before anything is taken, so that a refusal means that nothing was.
    let wait = WaitRequest::of(app, &head)?;
    let body = Incoming::new(body, headers, app.pace());
    let entry = named.map(|ty| known_type(app, &ty)).transpose()?;
    check_encoding(headers)?;
    let form = attributes::form(headers)?;
    if let Some(entry) = &entry {
        let stream = stream_of_type(&entry.ty);
        app.backlog.admit(&app.bus, stream).await?;
    }
    let body = body.read(&head, app.max_event(), &app.memory).await?;
    let read = ReadEvent::of(form, headers, body.bytes.clone())?;
    let entry = match entry {
        Some(entry) => entry,
        None => said_type(app, &read).await?,
    };
    let track = is_tracking_asked(headers);
    let event = NewEvent {
        body: Some(Arc::new(body)),
        ..app.prepare(&entry, read, Some(&head), track)?
    };
    let accepted = app.accept(trace, event).await?;
    Ok(Taken { accepted, wait })
}

impl App {
    /// Largest event that is taken.
    pub(crate) fn max_event(&self) -> u64 {
        self.config.max_event.0.min(self.bus.max_payload() as u64)
    }

    /// `Idempotency-Key` as an id. It counts within who sent it: of an identity it is one that nobody else can use, nor find out
    /// whether it was used.
    pub(crate) fn client_key(&self, head: &Parts) -> Result<Option<String>, Problem> {
        let key = idempotency_key(&head.headers)?;
        Ok(match head.extensions.get::<Identity>() {
            Some(identity) => key.map(|key| self.secret.client_id(&identity.subject, &key)),
            None => key,
        })
    }

    /// Compares an event with its contract and its bounds. Nothing is taken yet. Without the `head` of a request of its own it has
    /// to bring its id.
    pub(crate) fn prepare(
        &self,
        entry: &Entry,
        read: ReadEvent,
        head: Option<&Parts>,
        track: bool,
    ) -> Result<NewEvent, Problem> {
        check_depth(&read)?;
        let client_key = match head {
            Some(head) if read.attributes.id().is_none() => self.client_key(head)?,
            _ => None,
        };
        let meta = read.attributes.meta(&entry.ty, client_key)?;
        check_age(&meta, self.horizon(stream_of_type(&entry.ty)))?;
        let key = entry
            .check(read.format, &read.payload)
            .map_err(of_catalog)?;
        Ok(NewEvent {
            meta,
            key,
            format: read.format,
            payload: read.payload,
            track,
            body: None,
        })
    }

    /// Hands an event to its stream, if there is room.
    pub(crate) async fn accept(
        self: &Arc<Self>,
        trace: &Trace,
        event: NewEvent,
    ) -> Result<Accepted, Problem> {
        let NewEvent {
            meta, key, payload, ..
        } = &event;
        let id = meta.id.clone();
        let ty = meta.ty.clone();
        let key = key.clone();
        let stream = stream_of_type(&ty);
        let settings = self.stream(stream);
        let room = self.room.admit(&self.bus, stream, &settings, payload.len());
        room.await?;
        let Published {
            ack,
            traceparent,
            tracked,
            ..
        } = self.deliver(trace, event).await?;
        Ok(Accepted {
            flow: id.clone(),
            id,
            ty,
            key,
            traceparent,
            stream: ack.stream,
            sequence: ack.sequence,
            duplicate: ack.duplicate,
            tracked,
        })
    }
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

/// Type that an event says it is of, if its stream takes more.
async fn said_type(app: &App, read: &ReadEvent) -> Result<Entry, Problem> {
    let ty = read.attributes.ty().ok_or_else(|| {
        let why = "the event does not say its type: send `ce-type`, or to /v1/events/TYPE";
        Problem::new(MALFORMED, why)
    })?;
    let entry = known_type(app, ty)?;
    app.backlog.admit(&app.bus, stream_of_type(ty)).await?;
    Ok(entry)
}

/// The type as the contract has it, if clients may send it.
fn known_type(app: &App, ty: &str) -> Result<Entry, Problem> {
    if !ty.split('.').all(is_type_token) {
        return Err(Problem::new(
            MALFORMED,
            "an event type is made of dotted names of A-Z, a-z, 0-9, '_' and '-', like shop.order.placed",
        ));
    }
    let domain = stream_of_type(ty);
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
