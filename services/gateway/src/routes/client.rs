//! `GET /v1/client.js`: the module for browsers, as it was when the gateway was built.

use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use oncue_proto::event;

use crate::request::is_none_match;

const MODULE: &str = include_str!("../../client/client.js");

pub async fn get(headers: HeaderMap) -> Response {
    let hash = event::hash(&[MODULE.as_bytes()]);
    let tag = format!(
        "\"{:02x}{:02x}{:02x}{:02x}\"",
        hash[0], hash[1], hash[2], hash[3]
    );
    let mut head = HeaderMap::new();
    head.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    head.extend(HeaderValue::from_str(&tag).map(|value| (header::ETAG, value)));
    if is_none_match(&headers, &tag) {
        return (StatusCode::NOT_MODIFIED, head).into_response();
    }
    let media_type = HeaderValue::from_static("text/javascript; charset=utf-8");
    head.insert(header::CONTENT_TYPE, media_type);
    (head, MODULE).into_response()
}
