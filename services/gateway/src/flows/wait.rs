//! Answering once a flow is complete: `Prefer: wait=SECONDS` [RFC 7240], on an event or upload that begins it and on
//! the flow itself; and `Oncue-Track`, which asks for the ledger that makes it possible.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use oncue_core::model::flow::Flow;
use oncue_http::shares::Share;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Serialize;
use serde_json::{Value, json};

use super::view::{self, waits_for};
use super::watcher::Observed;
use crate::App;
use crate::problem::{AWAY, NOT_FOUND, Problem};
use crate::request::Client;

const PREFER: HeaderName = HeaderName::from_static("prefer");
const PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");
const ONCUE_TRACK: HeaderName = HeaderName::from_static("oncue-track");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// Redis answers in a millisecond or is away.
const READ_TIMEOUT: Duration = Duration::from_secs(3);
/// Characters that may stand in a path as they are [RFC 3986 section 2.3].
const PATH: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'~');

/// Wish of a client to be answered once its flow is complete, if it has one.
pub struct WaitRequest(Option<Wait>);

/// A wait that was granted.
struct Wait {
    limit: Duration,
    _place: Share,
}

/// A flow whose first event was taken.
pub struct TakenFlow<'a> {
    pub id: &'a str,
    pub traceparent: &'a str,
    /// Without a ledger there is nothing to wait for.
    pub tracked: bool,
}

impl TakenFlow<'_> {
    /// Where to look for the flow, and its trace.
    pub fn headers(&self) -> impl Iterator<Item = (HeaderName, HeaderValue)> {
        let location = format!("/v1/flows/{}", utf8_percent_encode(self.id, PATH));
        let texts = [
            (header::LOCATION, location),
            (TRACEPARENT, self.traceparent.to_owned()),
        ];
        texts
            .into_iter()
            .filter_map(|(name, text)| Some((name, HeaderValue::from_str(&text).ok()?)))
    }
}

impl WaitRequest {
    /// Takes a place for a client that wants to wait; refused where none is free.
    pub fn of(app: &App, head: &Parts) -> Result<Self, Problem> {
        let Some(limit) = asked_wait(&head.headers, app.flows.max_wait.0) else {
            return Ok(Self(None));
        };
        Ok(Self(Some(Wait {
            limit,
            _place: app.watcher.place(Client::of(&head.extensions))?,
        })))
    }

    /// Takes a place for a route that waits for so long; a client may want less.
    pub fn within(app: &App, longest: Duration, head: &Parts) -> Result<Self, Problem> {
        let longest = longest.min(app.flows.max_wait.0);
        Ok(Self(Some(Wait {
            limit: asked_wait(&head.headers, longest).unwrap_or(longest),
            _place: app.watcher.place(Client::of(&head.extensions))?,
        })))
    }

    /// Longest the client waits.
    pub fn limit(&self) -> Option<Duration> {
        self.0.as_ref().map(|wait| wait.limit)
    }

    /// Waits until the flow is complete, or for as long as agreed, or until the gateway is told to stop; then the
    /// flow as it stands, or nothing where there is no ledger, Redis does not answer, or nobody wants to wait.
    pub async fn until_complete(&self, app: &App, flow: &str) -> Option<Arc<Flow>> {
        let limit = self.limit()?;
        let mut observed = app.watcher.watch(flow);
        tokio::select! {
            complete = observed.wait_for(Observed::is_complete) => {
                if let Ok(Observed::Flow(flow)) = complete.as_deref() {
                    return Some(flow.clone());
                }
            }
            () = tokio::time::sleep(limit) => {}
            () = app.handle.stopping.cancelled() => {}
        }
        // The shared look is some milliseconds old.
        read(app, flow).await.ok().map(Arc::new)
    }

    /// Response to a client whose event was taken: 200 with the whole flow once it is complete, else 202 with
    /// `accepted` and, where the client has waited, what the flow waits for.
    pub async fn answer(
        self,
        app: &App,
        taken: TakenFlow<'_>,
        accepted: &impl Serialize,
    ) -> Response {
        let flow = if taken.tracked {
            self.until_complete(app, taken.id).await
        } else {
            None
        };
        let mut response = match &flow {
            Some(flow) if flow.is_complete() => {
                let mut response = view::answer(StatusCode::OK, flow);
                response.headers_mut().extend(taken.headers());
                response
            }
            flow => going_on(&taken, accepted, flow.as_deref()),
        };
        let headers = response.headers_mut();
        // Only what was granted is applied: an untracked flow was not waited for.
        let granted = self.limit().filter(|_| flow.is_some());
        headers.extend(granted.into_iter().flat_map(applied));
        response
    }
}

/// 202 with `accepted` and, of a flow that was waited for, what it waits for.
pub fn going_on(taken: &TakenFlow<'_>, accepted: &impl Serialize, flow: Option<&Flow>) -> Response {
    let mut body = json!(accepted);
    if let Some(flow) = flow {
        body["open"] = flow.open.into();
        body["waits_for"] = waits_for(flow).map_or(Value::Null, |step| json!(step));
    }
    let mut response = (StatusCode::ACCEPTED, Json(body)).into_response();
    response.headers_mut().extend(taken.headers());
    response
}

/// The flow as it stands.
pub async fn read(app: &App, id: &str) -> Result<Flow, Problem> {
    let ids = [id.to_owned()];
    let found = tokio::time::timeout(READ_TIMEOUT, app.watcher.read(&ids)).await;
    let found = found.map_err(|_| Problem::new(AWAY, "Redis does not answer"))??;
    let flow = found.into_iter().next().flatten();
    flow.ok_or_else(|| untracked(id))
}

fn untracked(id: &str) -> Problem {
    let why = format!(
        "flow {id:?} is not tracked, or its ledger has expired; to track one, send its event with `Oncue-Track: 1` or \
         `Prefer: wait=5`, or set `track = \"all\"` under [flows] in oncue.toml; `oncue flow {id}` looks for it in the \
         streams"
    );
    Problem::new(NOT_FOUND, why)
}

/// How long the client would wait, at most `limit`. What is not understood is no preference [RFC 7240 section 2].
fn asked_wait(headers: &HeaderMap, limit: Duration) -> Option<Duration> {
    let lines = headers
        .get_all(PREFER)
        .iter()
        .filter_map(|value| value.to_str().ok());
    let asked = lines
        .flat_map(|line| line.split(','))
        .find_map(|preference| {
            let preference = preference.split(';').next().unwrap_or_default();
            let (name, value) = preference.split_once('=')?;
            name.trim()
                .eq_ignore_ascii_case("wait")
                .then(|| value.trim().trim_matches('"').parse::<u64>().ok())
        })??;
    Some(Duration::from_secs(asked).min(limit))
}

/// `Oncue-Track: 1`, or a wish to wait, which nobody could grant otherwise.
pub fn is_tracking_asked(headers: &HeaderMap) -> bool {
    let track = headers.get(ONCUE_TRACK).map(HeaderValue::as_bytes);
    matches!(track, Some(b"1" | b"true")) || asked_wait(headers, Duration::MAX).is_some()
}

/// Headers that say that the wait was granted, and how long [RFC 7240 section 3].
pub fn applied(wait: Duration) -> [(HeaderName, HeaderValue); 2] {
    let value = HeaderValue::from_str(&format!("wait={}", wait.as_secs()));
    let value = value.unwrap_or_else(|_| HeaderValue::from_static("wait"));
    [
        (PREFERENCE_APPLIED, value),
        (header::VARY, HeaderValue::from_static("Prefer")),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[&str]) -> HeaderMap {
        lines
            .iter()
            .map(|line| (PREFER, HeaderValue::from_str(line).unwrap()))
            .collect()
    }

    #[test]
    fn wishes_are_read_as_rfc_7240_writes_them() {
        let of = |lines: &[&str]| {
            asked_wait(&headers(lines), Duration::from_secs(30)).map(|wait| wait.as_secs())
        };
        for asked in [
            "wait=5",
            "Wait = 5",
            "respond-async, wait=5",
            "wait=\"5\"; foo=bar",
            "a;b=c, WAIT=5, wait=9",
        ] {
            assert_eq!(of(&[asked]), Some(5), "{asked}");
        }
        assert_eq!(of(&["respond-async", "wait=7"]), Some(7));
        assert_eq!(
            (of(&["wait=0"]), of(&["wait=18446744073709551615"])),
            (Some(0), Some(30))
        );
        for nothing in [
            "",
            "wait",
            "wait=",
            "wait=-1",
            "wait=soon",
            "wait=1.5",
            "waiting=5",
            "wait=99999999999999999999999",
        ] {
            assert_eq!(of(&[nothing]), None, "{nothing}");
        }
    }

    #[test]
    fn waiting_implies_tracking() {
        assert!(
            is_tracking_asked(&headers(&["wait=1"]))
                && !is_tracking_asked(&headers(&["respond-async"]))
        );
        let track = |value: &'static str| {
            is_tracking_asked(
                &[(ONCUE_TRACK, HeaderValue::from_static(value))]
                    .into_iter()
                    .collect(),
            )
        };
        assert!(track("1") && track("true") && !track("0") && !track(""));
    }
}
