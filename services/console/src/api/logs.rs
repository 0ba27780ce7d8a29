//! `GET /api/logs`: the last lines of a function, or those of a flow, from the files that `oncue up` keeps.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Query, State};
use oncue_admin::program::logs::{self, LogQuery};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::App;
use crate::problem::{MALFORMED, Problem};

/// Lines of an answer, and bytes that are read of each file.
const MOST: usize = 200;
const BYTES: u64 = 1 << 20;

#[derive(Deserialize)]
pub struct LogsWanted {
    function: Option<String>,
    flow: Option<String>,
    /// Unix milliseconds.
    #[serde(default)]
    since: u64,
}

pub async fn get(
    State(app): State<Arc<App>>,
    Query(wanted): Query<LogsWanted>,
) -> Result<Json<Value>, Problem> {
    let Some(folder) = app.logs.clone() else {
        return Ok(Json(json!({ "kept": false, "lines": [] })));
    };
    // Part of a file's name: nothing in it may lead elsewhere.
    if !wanted.function.as_deref().is_none_or(is_name) {
        return Err(Problem::new(MALFORMED, "that is no name of a function"));
    }
    let read = tokio::task::spawn_blocking(move || {
        let query = LogQuery {
            name: wanted.function.as_deref(),
            flow: wanted.flow.as_deref(),
            since: wanted.since,
            most: MOST,
            bytes: BYTES,
        };
        logs::read(&folder, &query)
    });
    let lines = read.await.unwrap_or_default();
    Ok(Json(json!({ "kept": true, "lines": lines })))
}

fn is_name(name: &str) -> bool {
    name.bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
}
