//! Everything that is not what the client wanted, as RFC 9457 problem documents.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use oncue_core::bus::{ApiError, BusError};
use oncue_core::store::StoreError;
use serde_json::json;

/// A class of problem: its code never changes, so that a program can tell them apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kind {
    status: StatusCode,
    code: &'static str,
    title: &'static str,
}

const fn kind(status: StatusCode, code: &'static str, title: &'static str) -> Kind {
    Kind {
        status,
        code,
        title,
    }
}

pub const MALFORMED: Kind = kind(
    StatusCode::BAD_REQUEST,
    "malformed",
    "The request cannot be read",
);
pub const LOGIN: Kind = kind(StatusCode::UNAUTHORIZED, "login", "Log in first");
pub const WRONG_TOKEN: Kind = kind(
    StatusCode::UNAUTHORIZED,
    "wrong-token",
    "This is not the token",
);
pub const FORBIDDEN: Kind = kind(StatusCode::FORBIDDEN, "forbidden", "Not from there");
pub const READ_ONLY: Kind = kind(
    StatusCode::FORBIDDEN,
    "read-only",
    "This console only looks",
);
pub const NOT_FOUND: Kind = kind(StatusCode::NOT_FOUND, "not-found", "There is nothing here");
pub const METHOD: Kind = kind(
    StatusCode::METHOD_NOT_ALLOWED,
    "method-not-allowed",
    "This path has no such method",
);
pub const GONE: Kind = kind(StatusCode::CONFLICT, "gone", "Not what it was any more");
pub const INTERNAL: Kind = kind(
    StatusCode::INTERNAL_SERVER_ERROR,
    "internal",
    "The console failed",
);
pub const AWAY: Kind = kind(
    StatusCode::SERVICE_UNAVAILABLE,
    "away",
    "A server behind the console does not answer",
);
pub const CROWDED: Kind = kind(
    StatusCode::SERVICE_UNAVAILABLE,
    "crowded",
    "Too many at once",
);

/// One thing that went wrong.
#[derive(Debug, Clone)]
pub struct Problem {
    kind: Kind,
    detail: String,
}

impl Problem {
    pub fn new(kind: Kind, detail: impl Into<String>) -> Self {
        Self {
            kind,
            detail: detail.into(),
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        if self.kind.status.is_server_error() {
            tracing::warn!(code = self.kind.code, "{}", self.detail);
        }
        let document = json!({
            "type": format!("urn:oncue:problem:{}", self.kind.code),
            "title": self.kind.title,
            "status": self.kind.status.as_u16(),
            "detail": self.detail,
        });
        let mut response = (self.kind.status, Json(document)).into_response();
        response.headers_mut().insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        );
        response
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
