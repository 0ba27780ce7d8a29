//! The answer to a client whose event was taken: at once, or when its flow is complete if that is what it wishes.

use std::time::Duration;

use axum::Json;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use serde::Serialize;
use serde_json::{Value, json};

use crate::App;
use crate::flows::{self, waits_for};
use crate::prefer::{applied, wait};
use crate::problem::Problem;
use crate::waiting::Place;

/// How long a client waits for its flow, with the place it holds meanwhile.
pub struct Wish(Option<(Duration, Place)>);

impl Wish {
    /// Takes a place for a client that wants to wait; refused where none is free.
    pub fn of(app: &App, headers: &HeaderMap) -> Result<Self, Problem> {
        let Some(wait) = wait(headers, app.flows.max_wait.0) else {
            return Ok(Self(None));
        };
        Ok(Self(Some((wait, app.waiting.place()?))))
    }

    /// 200 with the whole flow once it is complete, else 202 with what was accepted and what the flow waits for.
    pub async fn answer(
        self,
        app: &App,
        flow: &str,
        traceparent: &str,
        tracked: bool,
        accepted: &impl Serialize,
    ) -> Response {
        let (mut seen, mut granted) = (None, None);
        if let Some((wait, place)) = self.0.filter(|_| tracked) {
            seen = app.wait(flow, wait, &place).await;
            granted = seen.is_some().then_some(wait);
        }
        let mut response = match seen {
            Some(flow) if flow.is_complete() => flows::answer(StatusCode::OK, &flow),
            Some(flow) => {
                let mut body = json!(accepted);
                body["open"] = flow.open.into();
                body["waits_for"] = waits_for(&flow).map_or(Value::Null, |waits| json!(waits));
                (StatusCode::ACCEPTED, Json(body)).into_response()
            }
            None => (StatusCode::ACCEPTED, Json(accepted)).into_response(),
        };
        let headers = response.headers_mut();
        let values = [
            (header::LOCATION, flows::path(flow)),
            (
                HeaderName::from_static("traceparent"),
                traceparent.to_owned(),
            ),
        ];
        for (name, value) in values {
            headers.extend(
                HeaderValue::from_str(&value)
                    .ok()
                    .map(|value| (name, value)),
            );
        }
        headers.extend(granted.into_iter().flat_map(applied));
        response
    }
}
