//! Problem documents [RFC 9457]: one form for every server of the platform, with kinds of its own for each.
//!
//! A handler returns a [`Problem`], which says what is wrong. It becomes a response without a body that carries the
//! problem as an extension; a middleware around all routes takes it out and writes the document, since only there the
//! path and the trace of the request are known to everybody:
//!
//! ```json
//! {"type":"urn:oncue:problem:not-found","title":"There is nothing here","status":404,
//!  "detail":"there is no /v2","instance":"/v2","trace_id":"0af7651916cd43dd8448eb211c80319c"}
//! ```
//!
//! | class | status | code |
//! |---|---|---|
//! | [`MALFORMED`] | 400 | `malformed` |
//! | [`NOT_FOUND`] | 404 | `not-found` |
//! | [`METHOD`] | 405 | `method-not-allowed` |
//! | [`AWAY`] | 503, `Retry-After: 2` | `away` |

use std::panic::AssertUnwindSafe;

use axum::Json;
use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt as _;
use oncue_core::bus::{ApiError, BusError};
use oncue_core::store::StoreError;
use serde::Serialize;

/// A class of problem. Programs tell classes apart by the code, which therefore never changes; title and detail are
/// for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kind {
    /// Status of the response, also a member of the document.
    status: StatusCode,
    /// Last part of `type`, such as `not-found`.
    code: &'static str,
    /// Sentence without a full stop, the same for all problems of the class.
    title: &'static str,
    /// Seconds for `Retry-After` [RFC 9110 section 10.2.3]; `None` where trying again does not
    /// help.
    retry_after: Option<&'static str>,
}

impl Kind {
    /// `code` is the last part of the document's `type`, in lower case with dashes.
    pub const fn new(status: StatusCode, code: &'static str, title: &'static str) -> Self {
        Self {
            status,
            code,
            title,
            retry_after: None,
        }
    }

    /// Status 503 with `Retry-After: seconds`: nothing was done, and the same request may be sent again.
    pub const fn later(code: &'static str, title: &'static str, seconds: &'static str) -> Self {
        Self {
            status: StatusCode::SERVICE_UNAVAILABLE,
            code,
            title,
            retry_after: Some(seconds),
        }
    }

    /// This class with another status, such as 429.
    #[must_use]
    pub const fn with_status(self, status: StatusCode) -> Self {
        Self { status, ..self }
    }
}

/// A request that cannot be understood, whatever its resource.
pub const MALFORMED: Kind = Kind::new(
    StatusCode::BAD_REQUEST,
    "malformed",
    "The request cannot be read",
);
/// No route, or nothing under the name that was asked for.
pub const NOT_FOUND: Kind = Kind::new(StatusCode::NOT_FOUND, "not-found", "There is nothing here");
/// A route, but not for this method; `Allow` names those it has.
pub const METHOD: Kind = Kind::new(
    StatusCode::METHOD_NOT_ALLOWED,
    "method-not-allowed",
    "This path has no such method",
);
/// NATS or Redis. Both answer in milliseconds or not at all, and are back within seconds.
pub const AWAY: Kind = Kind::later("away", "A server behind this one does not answer", "2");

/// One thing that went wrong with one request.
#[derive(Debug, Clone)]
pub struct Problem {
    kind: Kind,
    /// Text for people, which may quote the request.
    detail: String,
    /// Headers of the answer besides those of the document.
    headers: Vec<(HeaderName, HeaderValue)>,
}

/// The request a document is about.
#[derive(Debug, Clone, Copy)]
pub struct Instance<'a> {
    /// Path without query, where a client may have put a secret by mistake.
    pub path: &'a str,
    /// 32 hex digits, the same as in logs and spans.
    pub trace_id: &'a str,
}

/// Members of the document [RFC 9457 section 3.1], in the order in which they are written;
/// `trace_id` is an extension [RFC 9457 section 3.2].
#[derive(Serialize)]
struct Document<'a> {
    #[serde(rename = "type")]
    ty: String,
    title: &'static str,
    status: u16,
    detail: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    instance: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    trace_id: Option<&'a str>,
}

impl Problem {
    /// `detail` says what is wrong in this very case, and what to do about it.
    pub fn new(kind: Kind, detail: impl Into<String>) -> Self {
        Self {
            kind,
            detail: detail.into(),
            headers: Vec::new(),
        }
    }

    /// A header that belongs to the answer, such as `Content-Range`.
    #[must_use]
    pub fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }

    /// Class of the problem, to compare with the constants of the server.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Status of the response.
    pub fn status(&self) -> StatusCode {
        self.kind.status
    }

    /// Code of the class: label of metrics and `error.type` of spans, since there are few of them.
    pub fn code(&self) -> &'static str {
        self.kind.code
    }

    /// Text for people. It may quote the request, so it belongs in the answer and the log, never in a label.
    pub fn detail(&self) -> &str {
        &self.detail
    }

    /// Takes the problem out of the response of a handler, if it has one; [`write`](Self::write) it back as a
    /// document.
    pub fn take(response: &mut Response) -> Option<Self> {
        response.extensions_mut().remove()
    }

    /// The document as JSON, for an answer that holds several.
    pub fn document(&self, instance: Option<Instance<'_>>) -> serde_json::Value {
        let document = self.members(instance);
        serde_json::to_value(document).unwrap_or_default()
    }

    fn members<'d>(&'d self, instance: Option<Instance<'d>>) -> Document<'d> {
        Document {
            ty: format!("urn:oncue:problem:{}", self.kind.code),
            title: self.kind.title,
            status: self.kind.status.as_u16(),
            detail: &self.detail,
            instance: instance.map(|instance| instance.path),
            trace_id: instance.map(|instance| instance.trace_id),
        }
    }

    /// Writes the document into the response, whose other headers (`Allow`, `Retry-After`) stay.
    /// Content type `application/problem+json`, never cached. Without `instance` the document lacks
    /// path and trace id.
    pub fn write(&self, response: &mut Response, instance: Option<Instance<'_>>) {
        let written = Json(self.members(instance)).into_response();
        let (head, body) = written.into_parts();
        *response.body_mut() = body;
        let headers = response.headers_mut();
        headers.extend(head.headers);
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        );
        // What is wrong now may be right a moment later.
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = self.kind.status;
        if let Some(seconds) = self.kind.retry_after {
            let value = HeaderValue::from_static(seconds);
            response.headers_mut().insert(header::RETRY_AFTER, value);
        }
        response.headers_mut().extend(self.headers.iter().cloned());
        response.extensions_mut().insert(self);
        response
    }
}

/// Fallback of a router: no such path.
#[expect(clippy::unused_async, reason = "a handler")]
pub async fn not_found(request: Request) -> Problem {
    Problem::new(NOT_FOUND, format!("there is no {}", request.uri().path()))
}

/// Fallback of a route: no such method. axum adds `Allow`.
#[expect(clippy::unused_async, reason = "a handler")]
pub async fn method_not_allowed(request: Request) -> Problem {
    let why = format!("{} is not among those in Allow", request.method());
    Problem::new(METHOD, why)
}

/// The response of a handler, or a problem of `kind` if it panics: one request has failed then, not the connection's
/// others.
pub async fn catch_panic(response: impl Future<Output = Response>, kind: Kind) -> Response {
    let caught = AssertUnwindSafe(response).catch_unwind().await;
    caught.unwrap_or_else(|_| Problem::new(kind, "the handler panicked").into_response())
}

/// NATS does not answer: [`AWAY`], with the error as detail.
impl From<BusError> for Problem {
    fn from(e: BusError) -> Self {
        Self::new(AWAY, e.to_string())
    }
}

/// JetStream does not answer or refuses: [`AWAY`] too.
impl From<ApiError> for Problem {
    fn from(e: ApiError) -> Self {
        Self::new(AWAY, e.to_string())
    }
}

/// Redis does not answer: [`AWAY`].
impl From<StoreError> for Problem {
    fn from(e: StoreError) -> Self {
        Self::new(AWAY, e.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn written(problem: Problem, instance: Option<Instance<'_>>) -> (Response, String) {
        let mut response = problem.into_response();
        let problem = Problem::take(&mut response).expect("a problem");
        problem.write(&mut response, instance);
        let body = std::mem::take(response.body_mut());
        let bytes = axum::body::to_bytes(body, 4096).await.unwrap();
        (response, String::from_utf8(bytes.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn a_document_has_the_members_of_rfc_9457() {
        let instance = Instance {
            path: "/v2",
            trace_id: "ab",
        };
        let range = HeaderValue::from_static("bytes */3");
        let problem =
            Problem::new(NOT_FOUND, "there is no /v2").with_header(header::CONTENT_RANGE, range);
        let (response, body) = written(problem, Some(instance)).await;
        assert_eq!(response.status(), StatusCode::NOT_FOUND);
        assert_eq!(
            response.headers()[header::CONTENT_TYPE],
            "application/problem+json"
        );
        assert_eq!(response.headers()[header::CONTENT_RANGE], "bytes */3");
        assert_eq!(
            body,
            r#"{"type":"urn:oncue:problem:not-found","title":"There is nothing here","status":404,"detail":"there is no /v2","instance":"/v2","trace_id":"ab"}"#
        );
    }

    #[tokio::test]
    async fn what_may_be_tried_again_says_when() {
        let (response, body) = written(Problem::new(AWAY, "NATS is away"), None).await;
        assert_eq!(response.headers()[header::RETRY_AFTER], "2");
        assert!(!body.contains("instance"), "{body}");
    }

    #[tokio::test]
    async fn a_panic_is_one_failed_request() {
        let kind = Kind::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "Failed");
        let handler = async { panic!("on purpose") };
        let response = catch_panic(handler, kind).await;
        assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
    }
}
