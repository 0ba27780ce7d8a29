//! `GET /v1/state/{table}/{key}`: what the functions have made of their events, for tables the configuration exposes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::extract::{Extension, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use oncue_core::store::{Row, StateValue};
use oncue_proto::event;
use serde::Serialize;
use serde_json::json;
use serde_json::value::RawValue;

use crate::App;
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
    let path = path_after(&request, "/v1/state/");
    let (raw_table, raw_key) = path.split_once('/').unwrap_or((path, ""));
    let table = path_piece(raw_table)?;
    let key = path_piece(raw_key)?;
    if !app.config.expose.contains(&table) {
        return Err(Problem::new(
            NOT_FOUND,
            format!("the table {table:?} is not exposed"),
        ));
    }
    let asked = SystemTime::now();
    let shown = tokio::time::timeout(READ_TIMEOUT, app.store.show(&table, &key)).await;
    let shown = shown.map_err(|_| Problem::new(AWAY, "Redis does not answer"))??;
    trace.redis(shown.as_ref().map_or("TYPE", asked_by), asked);
    let shown = shown.ok_or_else(|| {
        Problem::new(
            NOT_FOUND,
            format!("the table {table:?} has nothing under {key:?}"),
        )
    })?;
    Ok(answer(shown, request.headers()))
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

fn answer(shown: StateValue, asked: &HeaderMap) -> Response {
    let version = if let StateValue::Row(row) = &shown {
        row.version
    } else {
        0
    };
    let body = body(shown);
    let hash = event::hash(&[body.as_bytes()]);
    let tag = format!(
        "\"{version}-{:016x}\"",
        u64::from_be_bytes(hash[..8].try_into().unwrap_or_default())
    );
    let mut headers = HeaderMap::new();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    headers.insert(ONCUE_VERSION, HeaderValue::from(version));
    if let Ok(value) = HeaderValue::from_str(&tag) {
        headers.insert(header::ETAG, value);
    }
    if is_none_match(asked, &tag) {
        return (StatusCode::NOT_MODIFIED, headers).into_response();
    }
    (headers, body).into_response()
}

/// A member of a ranking.
#[derive(Serialize)]
struct Ranked {
    member: String,
    score: serde_json::Value,
}

fn body(shown: StateValue) -> String {
    match shown {
        StateValue::Row(row) => row_json(&row),
        StateValue::Members(mut members) => {
            members.sort_unstable();
            json!({ "members": members }).to_string()
        }
        StateValue::Ranking(ranking) => {
            let ranked = ranking.into_iter().map(|(member, score)| Ranked {
                member,
                score: number(score),
            });
            json!({ "ranking": ranked.collect::<Vec<_>>() }).to_string()
        }
        StateValue::Count(count) => json!({ "count": count }).to_string(),
    }
}

/// Scores are whole numbers that Redis keeps as floating point.
fn number(score: f64) -> serde_json::Value {
    if score.fract() == 0.0 && score.abs() < 9e15 {
        json!(score as i64)
    } else {
        json!(score)
    }
}

/// Redis holds text. What reads as a JSON number, truth value, list or object is given as that, digit for digit, and
/// anything else as a string.
fn row_json(row: &Row) -> String {
    let fields: BTreeMap<&str, Box<RawValue>> = row
        .fields
        .iter()
        .filter_map(|(name, value)| Some((name.as_str(), field(value)?)))
        .collect();
    serde_json::to_string(&fields).unwrap_or_default()
}

fn field(value: &[u8]) -> Option<Box<RawValue>> {
    let text = String::from_utf8_lossy(value);
    let bare = matches!(
        text.bytes().next(),
        Some(b'{' | b'[' | b't' | b'f' | b'-' | b'0'..=b'9')
    );
    match serde_json::from_str::<Box<RawValue>>(&text) {
        Ok(raw) if bare => Some(raw),
        _ => serde_json::value::to_raw_value(&*text).ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_become_json() {
        let field = |name: &str, value: &str| (name.to_owned(), value.as_bytes().to_vec());
        let row = Row {
            version: 3,
            fields: vec![
                field("big", "12345678901234567890123"),
                field("list", r#"[{"edge":64}]"#),
                field("name", "a \"b\".png"),
                field("null", "null"),
                field("quoted", "\"x\""),
                field("since", "2026-01-02T03:04:05.678Z"),
                field("truth", "true"),
                field("zeros", "007"),
            ],
        };
        let expected = r#"{"big":12345678901234567890123,"list":[{"edge":64}],"name":"a \"b\".png","null":"null","quoted":"\"x\"","since":"2026-01-02T03:04:05.678Z","truth":true,"zeros":"007"}"#;
        assert_eq!(row_json(&row), expected);
    }
}
