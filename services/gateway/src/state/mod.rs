//! `GET /v1/state/{table}/{key}`: what the functions have made of their events, for tables the configuration exposes; on
//! request as it goes on ([`follow`]).

pub mod watcher;

mod follow;
mod value;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::extract::{Extension, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use oncue_core::store::StateValue;

use self::value::Value;
use crate::App;
use crate::flows::progress::is_stream_asked;
use crate::observe::trace::Trace;
use crate::problem::{AWAY, NOT_FOUND, Problem};
use crate::request::{is_none_match, path_after, path_piece};

/// Redis answers in a millisecond or is away.
const READ_TIMEOUT: Duration = Duration::from_secs(3);
/// Header with the version of a row; the tag besides also tells changes that commute and raise no version.
const ONCUE_VERSION: HeaderName = HeaderName::from_static("oncue-version");

pub async fn get(
    State(app): State<Arc<App>>,
    Extension(trace): Extension<Trace>,
    request: Request,
) -> Result<Response, Problem> {
    let path = path_after(&request, "/v1/state/").to_owned();
    let (raw_table, raw_key) = path.split_once('/').unwrap_or((&path, ""));
    let table = path_piece(raw_table)?;
    let key = path_piece(raw_key)?;
    if !app.config.expose.contains(&table) {
        return Err(Problem::new(
            NOT_FOUND,
            format!("the table {table:?} is not exposed"),
        ));
    }
    let (head, _) = request.into_parts();
    show(&app, &trace, &table, &key, &head).await
}

/// Answers with what a table has under a key, or follows it.
pub async fn show(
    app: &Arc<App>,
    trace: &Trace,
    table: &str,
    key: &str,
    head: &Parts,
) -> Result<Response, Problem> {
    if is_stream_asked(&head.headers) {
        return follow::stream(app, table, key, head).await;
    }
    let asked = SystemTime::now();
    let shown = read(app, table, key).await?;
    trace.redis(shown.as_ref().map_or("TYPE", asked_by), asked);
    let shown = shown.ok_or_else(|| {
        Problem::new(
            NOT_FOUND,
            format!("the table {table:?} has nothing under {key:?}"),
        )
    })?;
    Ok(answer(Value::of(shown), &head.headers))
}

/// Value under a key; `None` where there is none.
async fn read(app: &App, table: &str, key: &str) -> Result<Option<StateValue>, Problem> {
    let shown = tokio::time::timeout(READ_TIMEOUT, app.store.show(table, key)).await;
    Ok(shown.map_err(|_| Problem::new(AWAY, "Redis does not answer"))??)
}

/// The Redis command that reads such a value, for the span.
fn asked_by(shown: &StateValue) -> &'static str {
    match shown {
        StateValue::Row(_) => "HGETALL",
        StateValue::Members(_) => "SMEMBERS",
        StateValue::Ranking(_) => "ZREVRANGE",
        StateValue::Count(_) => "PFCOUNT",
    }
}

fn answer(value: Value, asked: &HeaderMap) -> Response {
    let tag = format!("\"{}\"", value.tag);
    let mut headers = HeaderMap::new();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    headers.insert(ONCUE_VERSION, HeaderValue::from(value.version));
    headers.extend(HeaderValue::from_str(&tag).map(|value| (header::ETAG, value)));
    if is_none_match(asked, &tag) {
        return (StatusCode::NOT_MODIFIED, headers).into_response();
    }
    (headers, value.body).into_response()
}
