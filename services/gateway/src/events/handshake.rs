//! Consent to senders of CloudEvents, asked for before the first one [HTTP 1.1 Web Hooks for Event Delivery 4]. Whoever may
//! send a public event may do so by any name and at any rate: what is too much is refused when it comes.

use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};

const REQUEST_ORIGIN: HeaderName = HeaderName::from_static("webhook-request-origin");
const ALLOWED_ORIGIN: HeaderName = HeaderName::from_static("webhook-allowed-origin");
const ALLOWED_RATE: HeaderName = HeaderName::from_static("webhook-allowed-rate");

/// `OPTIONS` of the path of events.
pub async fn answer(headers: HeaderMap) -> Response {
    let methods = (header::ALLOW, HeaderValue::from_static("POST,OPTIONS"));
    let Some(origin) = headers.get(REQUEST_ORIGIN) else {
        return (StatusCode::OK, [methods]).into_response();
    };
    let consent = [
        methods,
        (ALLOWED_ORIGIN, origin.clone()),
        (ALLOWED_RATE, HeaderValue::from_static("*")),
    ];
    (StatusCode::OK, consent).into_response()
}
