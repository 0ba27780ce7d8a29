//! `GET /v1/files/{id}` and its thumbnails: bytes out of the object store as they are wanted, whole or in part.
//!
//! What clients have stored is never shown by a browser under our name: files come as attachments. Thumbnails are
//! pictures of our own making, and shown.

use std::ops::Range;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use oncue_core::bus::objects::Object;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::App;
use crate::problem::{NOT_FOUND, Problem, RANGE};
use crate::publish::connected;
use crate::request::is_plain_id;
use crate::state::matches;

/// What may stand bare in `filename*` [RFC 8187 section 3.2.1].
const EXTENDED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

pub async fn file(State(app): State<Arc<App>>, request: Request) -> Result<Response, Problem> {
    let id = request
        .uri()
        .path()
        .strip_prefix("/v1/files/")
        .unwrap_or_default();
    let object = find(&app, id, id).await?;
    let name = object.metadata.get("name").map_or(id, String::as_str);
    let mut headers = HeaderMap::new();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/octet-stream"),
    );
    headers.insert(
        header::CACHE_CONTROL,
        HeaderValue::from_static("private, no-cache"),
    );
    headers.extend(
        HeaderValue::from_str(&attachment(name))
            .ok()
            .map(|value| (header::CONTENT_DISPOSITION, value)),
    );
    send(&app, &object, request.headers(), headers)
}

pub async fn thumbnail(State(app): State<Arc<App>>, request: Request) -> Result<Response, Problem> {
    let path = request
        .uri()
        .path()
        .strip_prefix("/v1/files/")
        .unwrap_or_default();
    let (id, edge) = path.split_once("/thumbnails/").unwrap_or((path, ""));
    if !(1..=5).contains(&edge.len()) || !edge.bytes().all(|b| b.is_ascii_digit()) {
        return Err(Problem::new(
            NOT_FOUND,
            "a thumbnail is named by its edge in pixels",
        ));
    }
    let object = find(&app, id, &format!("{id}.{edge}")).await?;
    let media_type = object.metadata.get("media_type").map(String::as_str);
    let Some(media_type) = ["image/jpeg", "image/png"]
        .into_iter()
        .find(|known| media_type == Some(known))
    else {
        return Err(Problem::new(
            NOT_FOUND,
            "this is no picture a browser may show",
        ));
    };
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    headers.insert(
        header::CACHE_CONTROL,
        HeaderValue::from_static("private, max-age=3600"),
    );
    headers.insert(
        header::CONTENT_DISPOSITION,
        HeaderValue::from_static("inline"),
    );
    send(&app, &object, request.headers(), headers)
}

async fn find(app: &App, id: &str, object: &str) -> Result<Object, Problem> {
    let missing = || Problem::new(NOT_FOUND, "there is no such file");
    if !is_plain_id(id) {
        return Err(missing());
    }
    connected(&app.bus)?;
    app.bus.object(object).await?.ok_or_else(missing)
}

fn attachment(name: &str) -> String {
    let plain: String = name
        .chars()
        .map(|c| {
            if c.is_ascii_graphic() && !matches!(c, '"' | '\\' | '%') || c == ' ' {
                c
            } else {
                '_'
            }
        })
        .collect();
    format!(
        "attachment; filename=\"{plain}\"; filename*=UTF-8''{}",
        utf8_percent_encode(name, EXTENDED)
    )
}

/// All of it, the part asked for, or only the news that nothing changed.
fn send(
    app: &App,
    object: &Object,
    asked: &HeaderMap,
    mut headers: HeaderMap,
) -> Result<Response, Problem> {
    let tag = format!("\"{}\"", object.sha256());
    let mut put = |name: header::HeaderName, value: String| {
        headers.extend(HeaderValue::from_str(&value).ok().map(|v| (name, v)))
    };
    put(header::ETAG, tag.clone());
    put(header::ACCEPT_RANGES, "bytes".into());
    put(
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; sandbox".into(),
    );
    put(
        header::HeaderName::from_static("cross-origin-resource-policy"),
        "same-origin".into(),
    );
    if matches(asked, &tag) {
        headers.remove(header::CONTENT_TYPE);
        headers.remove(header::CONTENT_DISPOSITION);
        return Ok((StatusCode::NOT_MODIFIED, headers).into_response());
    }
    // With a tag of another version the range would be a piece of something else [RFC 9110 section 13.1.5].
    let fits = asked
        .get(header::IF_RANGE)
        .is_none_or(|wanted| wanted.as_bytes() == tag.as_bytes());
    let range = asked
        .get(header::RANGE)
        .filter(|_| fits)
        .and_then(|range| range.to_str().ok());
    let (status, range) = match range.map(|text| range_of(text, object.size)) {
        None | Some(Asked::Whole) => (StatusCode::OK, 0..object.size),
        Some(Asked::Part(range)) => {
            put(
                header::CONTENT_RANGE,
                format!("bytes {}-{}/{}", range.start, range.end - 1, object.size),
            );
            (StatusCode::PARTIAL_CONTENT, range)
        }
        Some(Asked::Beyond) => {
            let all = HeaderValue::from_str(&format!("bytes */{}", object.size))
                .unwrap_or(HeaderValue::from_static("bytes */*"));
            let problem = Problem::new(RANGE, format!("it is {} bytes long", object.size));
            return Err(problem.with_header(header::CONTENT_RANGE, all));
        }
    };
    put(
        header::CONTENT_LENGTH,
        (range.end - range.start).to_string(),
    );
    Ok((
        status,
        headers,
        Body::from_stream(app.bus.read_object(object, range)),
    )
        .into_response())
}

#[derive(Debug, PartialEq)]
enum Asked {
    Whole,
    Part(Range<u64>),
    Beyond,
}

/// One range of bytes. Several at once, another unit, or what cannot be read is no range [RFC 9110 section 14.2].
fn range_of(text: &str, size: u64) -> Asked {
    let digits = |text: &str| {
        if text.bytes().all(|b| b.is_ascii_digit()) {
            text.parse::<u64>().ok()
        } else {
            None
        }
    };
    let Some((first, last)) = text
        .strip_prefix("bytes=")
        .and_then(|set| set.trim().split_once('-'))
    else {
        return Asked::Whole;
    };
    let range = match (first, last) {
        ("", last) => match digits(last) {
            Some(length) => size.saturating_sub(length)..size,
            None => return Asked::Whole,
        },
        (first, "") => match digits(first) {
            Some(first) => first..size,
            None => return Asked::Whole,
        },
        (first, last) => match (digits(first), digits(last)) {
            (Some(first), Some(last)) if first <= last => first..last.saturating_add(1).min(size),
            _ => return Asked::Whole,
        },
    };
    if range.is_empty() {
        Asked::Beyond
    } else {
        Asked::Part(range)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        assert_eq!(range_of("bytes=0-0", 10), Asked::Part(0..1));
        assert_eq!(range_of("bytes=2-", 10), Asked::Part(2..10));
        assert_eq!(range_of("bytes=-3", 10), Asked::Part(7..10));
        assert_eq!(range_of("bytes=-30", 10), Asked::Part(0..10));
        assert_eq!(
            range_of("bytes=5-18446744073709551615", 10),
            Asked::Part(5..10)
        );
        for beyond in ["bytes=10-", "bytes=-0", "bytes=10-20"] {
            assert_eq!(range_of(beyond, 10), Asked::Beyond, "{beyond}");
        }
        assert_eq!(range_of("bytes=-5", 0), Asked::Beyond);
        for whole in [
            "items=0-1",
            "bytes=0-1,3-4",
            "bytes=3-1",
            "bytes=x-",
            "bytes=-",
            "bytes=+1-2",
            "bytes=",
        ] {
            assert_eq!(range_of(whole, 10), Asked::Whole, "{whole}");
        }
    }

    #[test]
    fn a_name_cannot_leave_its_header() {
        let value = attachment("a\"; x=\"é\r\n.png");
        assert_eq!(
            value,
            "attachment; filename=\"a_; x=____.png\"; filename*=UTF-8''a%22%3B%20x%3D%22%C3%A9%0D%0A.png"
        );
        assert!(HeaderValue::from_str(&value).is_ok());
    }
}
