//! Everything that is not what the client wanted, as RFC 9457 problem documents. The handler says what is wrong;
//! [`observe`](crate::observe) adds which request it was and writes the document.

use axum::Json;
use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use oncue_core::bus::{ApiError, BusError, PublishError};
use oncue_core::store::StoreError;
use oncue_proto::CatalogError;
use serde::Serialize;

/// A class of problem: its code never changes, so that a program can tell them apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kind {
    status: StatusCode,
    pub code: &'static str,
    title: &'static str,
    /// Seconds after which to try again.
    retry_after: Option<&'static str>,
}

const fn kind(status: StatusCode, code: &'static str, title: &'static str) -> Kind {
    Kind {
        status,
        code,
        title,
        retry_after: None,
    }
}

const fn later(code: &'static str, title: &'static str, seconds: &'static str) -> Kind {
    Kind {
        status: StatusCode::SERVICE_UNAVAILABLE,
        code,
        title,
        retry_after: Some(seconds),
    }
}

pub const MALFORMED: Kind = kind(
    StatusCode::BAD_REQUEST,
    "malformed",
    "The request cannot be read",
);
pub const EMPTY_KEY: Kind = kind(
    StatusCode::BAD_REQUEST,
    "empty-key",
    "The event does not say what it is about",
);
pub const CLOCK: Kind = kind(
    StatusCode::BAD_REQUEST,
    "clock",
    "The event comes from the future",
);
pub const FORBIDDEN: Kind = kind(StatusCode::FORBIDDEN, "forbidden", "Not for clients");
pub const NOT_FOUND: Kind = kind(StatusCode::NOT_FOUND, "not-found", "There is nothing here");
pub const UNKNOWN_TYPE: Kind = kind(
    StatusCode::NOT_FOUND,
    "unknown-type",
    "The contract has no such event type",
);
pub const METHOD: Kind = kind(
    StatusCode::METHOD_NOT_ALLOWED,
    "method-not-allowed",
    "This path has no such method",
);
pub const SLOW: Kind = kind(
    StatusCode::REQUEST_TIMEOUT,
    "slow-body",
    "The body came too slowly",
);
pub const ID_REUSE: Kind = kind(
    StatusCode::CONFLICT,
    "id-reuse",
    "This id was used for something else",
);
pub const TOO_LARGE: Kind = kind(
    StatusCode::PAYLOAD_TOO_LARGE,
    "too-large",
    "Larger than allowed",
);
pub const MEDIA_TYPE: Kind = kind(
    StatusCode::UNSUPPORTED_MEDIA_TYPE,
    "media-type",
    "Not a form this can be sent in",
);
pub const RANGE: Kind = kind(
    StatusCode::RANGE_NOT_SATISFIABLE,
    "range",
    "The file has no such range",
);
pub const INTERNAL: Kind = kind(
    StatusCode::INTERNAL_SERVER_ERROR,
    "internal",
    "The gateway failed",
);
pub const AWAY: Kind = later("away", "A server behind the gateway does not answer", "2");
/// The stream may have taken it or not; only a retry under the same id can tell.
pub const UNKNOWN: Kind = later(
    "outcome-unknown",
    "The bus did not say whether it took the event",
    "1",
);
pub const FULL: Kind = later("full", "The stream is full", "10");
pub const BEHIND: Kind = later("behind", "The functions are too far behind", "2");
pub const BUSY: Kind = later("busy", "The gateway has its hands full", "1");
pub const NOT_READY: Kind = later("not-ready", "The gateway is not ready", "1");

/// One thing that went wrong.
#[derive(Debug, Clone)]
pub struct Problem {
    kind: Kind,
    detail: String,
    headers: Vec<(header::HeaderName, HeaderValue)>,
}

#[derive(Serialize)]
struct Document<'a> {
    #[serde(rename = "type")]
    ty: String,
    title: &'static str,
    status: u16,
    detail: &'a str,
    instance: &'a str,
    trace_id: &'a str,
}

impl Problem {
    pub fn new(kind: Kind, detail: impl Into<String>) -> Self {
        Self {
            kind,
            detail: detail.into(),
            headers: Vec::new(),
        }
    }

    #[must_use]
    pub fn with_header(mut self, name: header::HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }

    pub fn status(&self) -> StatusCode {
        self.kind.status
    }

    pub fn code(&self) -> &'static str {
        self.kind.code
    }

    pub fn detail(&self) -> &str {
        &self.detail
    }

    /// Writes the document into the response it came in, whose headers (`Allow`, `Retry-After`) stay.
    pub fn write(&self, response: &mut Response, instance: &str, trace_id: &str) {
        let document = Document {
            ty: format!("urn:oncue:problem:{}", self.kind.code),
            title: self.kind.title,
            status: self.kind.status.as_u16(),
            detail: &self.detail,
            instance,
            trace_id,
        };
        let (head, body) = Json(document).into_response().into_parts();
        *response.body_mut() = body;
        let headers = response.headers_mut();
        headers.extend(head.headers);
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        );
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = self.kind.status;
        if let Some(seconds) = self.kind.retry_after {
            response
                .headers_mut()
                .insert(header::RETRY_AFTER, HeaderValue::from_static(seconds));
        }
        response.headers_mut().extend(self.headers.iter().cloned());
        response.extensions_mut().insert(self);
        response
    }
}

/// In every case but the first the same request may be sent again under the same id.
impl From<PublishError> for Problem {
    fn from(e: PublishError) -> Self {
        let kind = match e {
            PublishError::TooLarge(_) => TOO_LARGE,
            PublishError::Full(_) => FULL,
            PublishError::Unknown(_) => UNKNOWN,
            PublishError::NoStream(_) | PublishError::Refused(_) => AWAY,
        };
        Self::new(kind, e.to_string())
    }
}

impl From<BusError> for Problem {
    fn from(e: BusError) -> Self {
        Self::new(AWAY, e.to_string())
    }
}

impl From<ApiError> for Problem {
    fn from(e: ApiError) -> Self {
        Self::new(AWAY, e.to_string())
    }
}

impl From<StoreError> for Problem {
    fn from(e: StoreError) -> Self {
        Self::new(AWAY, e.to_string())
    }
}

impl From<CatalogError> for Problem {
    fn from(e: CatalogError) -> Self {
        let kind = match e {
            CatalogError::UnknownType { .. } => UNKNOWN_TYPE,
            CatalogError::Malformed(_) => MALFORMED,
            CatalogError::EmptyKey(_) => EMPTY_KEY,
        };
        Self::new(kind, e.to_string())
    }
}
