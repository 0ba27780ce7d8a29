//! A route to a row: `GET` of what a table has under a key of the request.

use std::sync::Arc;

use axum::extract::Request;
use axum::response::Response;
use oncue_core::config::{FieldSource, RequestPart};

use super::live::Found;
use super::values::{Values, unclaimed};
use crate::App;
use crate::observe::trace::Trace;
use crate::problem::{MALFORMED, Problem};
use crate::state;

/// Answers with the row. The route says that it may be seen, whatever `[gateway] expose` says.
pub async fn serve(
    app: &Arc<App>,
    trace: &Trace,
    found: &Found,
    table: &str,
    key: &FieldSource,
    request: Request,
) -> Result<Response, Problem> {
    let (head, _) = request.into_parts();
    let values = Values::new(found, &head);
    let key = match key {
        FieldSource::Constant(value) => value.as_str().map(str::to_owned),
        FieldSource::Of { part, default } => {
            let given = values.text(part)?;
            let default = default.as_ref().and_then(|value| value.as_str());
            let key = given.or_else(|| default.map(str::to_owned));
            Some(key.ok_or_else(|| missing(part))?)
        }
    };
    let key = key.unwrap_or_default();
    state::show(app, trace, table, &key, &head).await
}

fn missing(part: &RequestPart) -> Problem {
    if matches!(part, RequestPart::Claim(_)) {
        return unclaimed(part);
    }
    Problem::new(MALFORMED, format!("{part} is missing: it says which row"))
}
