//! Words for browsers: which pages of other sites may use the API, what may be made of an answer, and answers made smaller.

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use axum::middleware::Next;
use axum::response::Response;
use oncue_core::config::CorsConfig;
use oncue_http::address::is_nobodys;
use tower::{Layer as _, ServiceExt as _};
use tower_http::compression::predicate::{NotForContentType, SizeAbove};
use tower_http::compression::{CompressionLayer, Predicate};
use tower_http::cors::{AllowHeaders, AllowOrigin, CorsLayer};

/// Headers of answers that scripts of pages of other sites may read.
const EXPOSED: [HeaderName; 15] = [
    header::ETAG,
    header::LINK,
    header::LOCATION,
    header::RETRY_AFTER,
    header::WWW_AUTHENTICATE,
    HeaderName::from_static("traceparent"),
    HeaderName::from_static("oncue-version"),
    HeaderName::from_static("ratelimit"),
    HeaderName::from_static("ratelimit-policy"),
    HeaderName::from_static("ce-id"),
    HeaderName::from_static("ce-source"),
    HeaderName::from_static("ce-time"),
    HeaderName::from_static("ce-type"),
    HeaderName::from_static("preference-applied"),
    header::CONTENT_RANGE,
];
/// Answers that are not worth the work below this many bytes.
const SMALLEST: u16 = 1024;

/// Methods that those scripts may use, of routes as well.
const METHODS: [Method; 6] = [
    Method::GET,
    Method::HEAD,
    Method::POST,
    Method::PUT,
    Method::PATCH,
    Method::DELETE,
];

/// Rights of pages of the named sites, which may send any header, as other clients may.
pub fn cors(config: &CorsConfig) -> CorsLayer {
    let origins = config.origins.iter();
    let origins = origins.filter_map(|origin| HeaderValue::from_str(origin).ok());
    CorsLayer::new()
        .allow_origin(AllowOrigin::list(origins))
        .allow_methods(METHODS)
        .allow_headers(AllowHeaders::mirror_request())
        .expose_headers(EXPOSED)
        .max_age(config.max_age())
}

/// Answers preflights, and adds headers that let pages of the named sites read. An `OPTIONS` that is no preflight is none of its.
pub async fn share(State(cors): State<CorsLayer>, request: Request, next: Next) -> Response {
    let is_preflight = request
        .headers()
        .contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
    if request.method() == Method::OPTIONS && !is_preflight {
        return next.run(request).await;
    }
    match cors.layer(next).oneshot(request).await {
        Ok(response) => response,
        Err(never) => match never {},
    }
}

/// Compression of text. Files of clients are sent as they are: most are compressed, and parts of them can be asked for.
pub fn compression() -> CompressionLayer<impl Predicate> {
    let worth = SizeAbove::new(SMALLEST)
        .and(NotForContentType::IMAGES)
        .and(NotForContentType::SSE)
        .and(NotForContentType::const_new("application/octet-stream"))
        .and(NotForContentType::const_new("audio/"))
        .and(NotForContentType::const_new("video/"))
        .and(NotForContentType::const_new("application/pdf"))
        .and(NotForContentType::const_new("application/zip"));
    CompressionLayer::new().gzip(true).compress_when(worth)
}

/// Headers of every answer. `secure` for one that came by TLS, under the name `host`.
pub fn harden(response: &mut Response, secure: bool, host: Option<&str>) {
    weaken_tag(response);
    let headers = response.headers_mut();
    set(headers, header::X_CONTENT_TYPE_OPTIONS, "nosniff");
    set(headers, header::X_FRAME_OPTIONS, "SAMEORIGIN");
    set(
        headers,
        header::REFERRER_POLICY,
        "strict-origin-when-cross-origin",
    );
    // An address has no certificate that others could not have, and localhost is everybody's own.
    if secure && host.is_some_and(|host| !is_nobodys(host)) {
        set(
            headers,
            header::STRICT_TRANSPORT_SECURITY,
            "max-age=31536000",
        );
    }
}

fn set(headers: &mut HeaderMap, name: HeaderName, value: &'static str) {
    headers
        .entry(name)
        .or_insert(HeaderValue::from_static(value));
}

/// A compressed answer is another sequence of bytes than the one that its tag was made of [RFC 9110 section 8.8.1].
fn weaken_tag(response: &mut Response) {
    let headers = response.headers_mut();
    if !headers.contains_key(header::CONTENT_ENCODING) {
        return;
    }
    let tag = headers.get(header::ETAG).and_then(|tag| tag.to_str().ok());
    if let Some(tag) = tag.filter(|tag| !tag.starts_with("W/"))
        && let Ok(weak) = HeaderValue::from_str(&format!("W/{tag}"))
    {
        headers.insert(header::ETAG, weak);
    }
}
