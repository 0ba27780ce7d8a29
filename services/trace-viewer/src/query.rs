//! Query API: the part of Jaeger's that its UI 2.14 calls [jaeger `cmd/query/app/http_handler.go`], and the health
//! check.

use std::{
    cmp::Reverse,
    time::{SystemTime, UNIX_EPOCH},
};

use axum::{
    Json, Router,
    extract::{Path, Query, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{any, get},
};
use serde::Serialize;
use serde_json::json;

use crate::{
    jaeger::{JaegerTrace, span_kind},
    search::{Search, find},
    store::{SharedStore, Store, Trace},
    ui,
};

/// Pairs and no map, since `traceID` may be given many times.
type Params = Query<Vec<(String, String)>>;

/// Routes of the API, and the page for every other path.
pub fn router(store: SharedStore) -> Router {
    Router::new()
        .route("/api/services", get(services))
        .route("/api/services/{service}/operations", get(operation_names))
        .route("/api/operations", get(operations))
        .route("/api/traces", get(search))
        .route("/api/traces/{id}", get(trace))
        .route("/api/dependencies", get(dependencies))
        .route("/api/v3/services", get(services_v3))
        // Without this an unknown call would be answered with the page.
        .route(
            "/api/{*rest}",
            any(|| async { failure(StatusCode::NOT_FOUND, "no such call") }),
        )
        .merge(ui::router())
        .with_state(store)
}

pub fn health(store: SharedStore) -> Router {
    Router::new()
        .route("/status", get(status))
        .with_state(store)
}

/// Health check. The two words are those of Jaeger's; the sizes are ours.
async fn status(State(store): State<SharedStore>) -> Response {
    let size = store.lock().size();
    Json(json!({
        "status": "StatusOK",
        "healthy": true,
        "traces": size.traces,
        "spans": size.spans,
        "bytes": size.bytes,
    }))
    .into_response()
}

/// Shape of every answer of the API.
#[derive(Serialize)]
struct Envelope<T> {
    data: Vec<T>,
    total: usize,
    limit: usize,
    offset: usize,
    errors: Option<()>,
}

/// Answer with all there is: nothing is paged, so limit and offset are 0 as in Jaeger.
fn answer<T: Serialize>(data: impl IntoIterator<Item = T>) -> Response {
    let data: Vec<T> = data.into_iter().collect();
    Json(Envelope {
        total: data.len(),
        data,
        limit: 0,
        offset: 0,
        errors: None,
    })
    .into_response()
}

/// Error in the envelope that the UI reads its message from.
fn failure(status: StatusCode, message: &str) -> Response {
    let errors = [json!({"code": status.as_u16(), "msg": message})];
    (
        status,
        Json(json!({"data": null, "total": 0, "limit": 0, "offset": 0, "errors": errors})),
    )
        .into_response()
}

async fn services(State(store): State<SharedStore>) -> Response {
    answer(store.lock().services())
}

async fn services_v3(State(store): State<SharedStore>) -> Response {
    Json(json!({"services": store.lock().services()})).into_response()
}

async fn operation_names(
    State(store): State<SharedStore>,
    Path(service): Path<String>,
) -> Response {
    let store = store.lock();
    let mut names: Vec<_> = store
        .operations(&service)
        .into_iter()
        .map(|(name, _)| name)
        .collect();
    names.dedup();
    answer(names)
}

async fn operations(State(store): State<SharedStore>, Query(params): Params) -> Response {
    let Some(service) = find(&params, "service") else {
        return failure(StatusCode::BAD_REQUEST, "parameter service is missing");
    };
    let wanted = find(&params, "spanKind");
    let store = store.lock();
    let operations = store
        .operations(service)
        .into_iter()
        .map(|(name, kind)| (name, span_kind(kind)));
    answer(
        operations
            .filter(|(_, kind)| wanted.is_none_or(|wanted| wanted == *kind))
            .map(|(name, kind)| json!({"name": name, "spanKind": kind})),
    )
}

/// Traces of the given ids, or else those that a search finds, newest first.
async fn search(State(store): State<SharedStore>, Query(params): Params) -> Response {
    let store = store.lock();
    match traces_by_id(&store, &params)
        .transpose()
        .unwrap_or_else(|| found(&store, &params))
    {
        Ok(traces) => answer(traces.into_iter().map(JaegerTrace::from)),
        Err(message) => failure(StatusCode::BAD_REQUEST, &message),
    }
}

fn traces_by_id<'a>(
    store: &'a Store,
    params: &[(String, String)],
) -> Result<Option<Vec<&'a Trace>>, String> {
    let ids = params
        .iter()
        .filter(|(key, _)| key == "traceID")
        .map(|(_, id)| parse_id(id));
    let ids = ids.collect::<Result<Vec<u128>, String>>()?;
    Ok((!ids.is_empty()).then(|| ids.into_iter().filter_map(|id| store.trace(id)).collect()))
}

fn found<'a>(store: &'a Store, params: &[(String, String)]) -> Result<Vec<&'a Trace>, String> {
    let search = Search::parse(params, now())?;
    let mut traces: Vec<_> = store.traces().filter(|trace| search.finds(trace)).collect();
    traces.sort_by_cached_key(|trace| Reverse(trace.start()));
    traces.truncate(search.limit);
    Ok(traces)
}

async fn trace(State(store): State<SharedStore>, Path(id): Path<String>) -> Response {
    let store = store.lock();
    match parse_id(&id).map(|id| store.trace(id)) {
        Ok(Some(trace)) => answer([JaegerTrace::from(trace)]),
        Ok(None) => failure(StatusCode::NOT_FOUND, "trace not found"),
        Err(message) => failure(StatusCode::BAD_REQUEST, &message),
    }
}

/// Trace id; leading zeros may be left out.
fn parse_id(text: &str) -> Result<u128, String> {
    u128::from_str_radix(text, 16)
        .map_err(|_| format!("{text:?} is no trace id: up to 32 hexadecimal digits"))
}

/// Calls between services. `endTs` and `lookback` are milliseconds; without them everything counts.
async fn dependencies(State(store): State<SharedStore>, Query(params): Params) -> Response {
    let until = milliseconds(&params, "endTs").unwrap_or(u64::MAX);
    let lookback = milliseconds(&params, "lookback").unwrap_or(until);
    let store = store.lock();
    let calls = store.dependencies(until.saturating_sub(lookback), until);
    answer(calls.into_iter().map(
        |((parent, child), count)| json!({"parent": parent, "child": child, "callCount": count}),
    ))
}

/// Nanoseconds, from a parameter in milliseconds.
fn milliseconds(params: &[(String, String)], name: &str) -> Option<u64> {
    let milliseconds: u64 = find(params, name)?.parse().ok()?;
    milliseconds.checked_mul(1_000_000)
}

/// Nanoseconds since the epoch.
fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |now| now.as_nanos() as u64)
}
