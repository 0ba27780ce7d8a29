//! Whether the process lives, whether it can do its work, and how much it did.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::IntoResponse;
use oncue_telemetry::prometheus;

use crate::App;
use crate::problem::{NOT_READY, Problem};

/// Redis answers a ping in a millisecond or is away.
const PING_TIMEOUT: Duration = Duration::from_secs(2);

/// The process lives.
pub async fn live() -> &'static str {
    "ok\n"
}

/// An event would be taken and state could be read. With a change of routes that was not taken it is ready none the less,
/// with the routes before it, and says so.
pub async fn ready(State(app): State<Arc<App>>) -> Result<String, Problem> {
    let mut missing = Vec::new();
    if !app.bus.is_connected() {
        missing.push("NATS is away".to_owned());
    }
    match tokio::time::timeout(PING_TIMEOUT, app.store.ping()).await {
        Ok(Ok(())) => {}
        Ok(Err(e)) => missing.push(e.to_string()),
        Err(_) => missing.push("Redis does not answer".to_owned()),
    }
    if missing.is_empty() {
        let trouble = app.routes.trouble();
        let trouble = trouble.map(|why| format!("routes stay as they were:\n{why}\n"));
        Ok(format!("ready\n{}", trouble.unwrap_or_default()))
    } else {
        Err(Problem::new(NOT_READY, missing.join("; ")))
    }
}

/// All counts in the form the scraper asks for.
pub async fn metrics(State(app): State<Arc<App>>, headers: HeaderMap) -> impl IntoResponse {
    let accept = headers.get(header::ACCEPT);
    let (open, kind) = prometheus::wanted(accept.and_then(|value| value.to_str().ok()));
    (
        [(header::CONTENT_TYPE, kind)],
        prometheus::render(&app.measure(), open),
    )
}
