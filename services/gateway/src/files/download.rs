//! `GET /v1/files/{id}` and what functions derived from it: bytes out of the object store as they are wanted, whole
//! or in part.
//!
//! Nothing that clients have stored is shown by a browser under our name: files come as attachments. Of derived
//! objects, which are of the functions' own making, pictures are shown, since they cannot act.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use futures_util::StreamExt as _;
use oncue_core::bus::objects::Object;
use oncue_http::Peer;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::range::AskedRange;
use crate::App;
use crate::door::identity::Identity;
use crate::events::publish::connected;
use crate::problem::{NOT_FOUND, Problem, RANGE};
use crate::request::{is_none_match, is_plain_id, path_after};

/// Characters that may stand bare in `filename*` [RFC 8187 section 3.2.1].
const EXTENDED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// Media types of pictures without script, which a browser may show. Not SVG.
const PICTURES: [&str; 5] = [
    "image/jpeg",
    "image/png",
    "image/webp",
    "image/gif",
    "image/avif",
];

/// Type of everything a browser is to store and not to look into.
const BYTES: &str = "application/octet-stream";

/// The file as it was uploaded.
pub async fn file(State(app): State<Arc<App>>, request: Request) -> Result<Response, Problem> {
    let id = path_after(&request, "/v1/files/");
    if !is_plain_id(id) {
        return Err(no_such_file());
    }
    let object = find(&app, id).await?;
    if !may_read(owner_of(&request), &object) {
        return Err(no_such_file());
    }
    let name = object.metadata.get("name").map_or(id, String::as_str);
    let mut headers = as_attachment(name);
    headers.insert(
        header::CACHE_CONTROL,
        HeaderValue::from_static("private, no-cache"),
    );
    send(&app, &object, &request, headers)
}

/// `/v1/files/{id}/{kind}/{name}`, by convention `/v1/files/{id}/derived/{name}`: the object `{id}.{name}` that a
/// function made of the file. Names of uploads have no dot, so only functions can have stored it. The kind is for who
/// reads the link; the object is named without it.
pub async fn derived(State(app): State<Arc<App>>, request: Request) -> Result<Response, Problem> {
    let mut pieces = path_after(&request, "/v1/files/").split('/');
    let id = pieces.next().unwrap_or_default();
    let name = pieces.next_back().unwrap_or_default();
    if !is_plain_id(id) || !is_plain_id(name) {
        return Err(no_such_file());
    }
    // What was made of a file is of whoever owns the file.
    if let Some(owner) = owner_of(&request)
        && !may_read(Some(owner), &find(&app, id).await?)
    {
        return Err(no_such_file());
    }
    let object_name = format!("{id}.{name}");
    let object = find(&app, &object_name).await?;
    let media_type = object.metadata.get("media_type").map(String::as_str);
    let picture = PICTURES.into_iter().find(|known| media_type == Some(known));
    let mut headers = match picture {
        Some(media_type) => inline(media_type),
        None => as_attachment(&object_name),
    };
    headers.insert(
        header::CACHE_CONTROL,
        HeaderValue::from_static("private, max-age=3600"),
    );
    send(&app, &object, &request, headers)
}

/// Owner as whom the policy lets the client act; `None` where it says nothing of owners.
fn owner_of(request: &Request) -> Option<&str> {
    let identity = request.extensions().get::<Identity>();
    identity.and_then(|identity| identity.owner.as_deref())
}

/// Whether a file is the owner's. Others are not told that it is there.
fn may_read(owner: Option<&str>, file: &Object) -> bool {
    owner.is_none_or(|owner| file.metadata.get("owner").is_some_and(|of| of == owner))
}

async fn find(app: &App, object: &str) -> Result<Object, Problem> {
    connected(&app.files)?;
    app.files.object(object).await?.ok_or_else(no_such_file)
}

fn no_such_file() -> Problem {
    Problem::new(NOT_FOUND, "there is no such file")
}

fn inline(media_type: &'static str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    headers.insert(
        header::CONTENT_DISPOSITION,
        HeaderValue::from_static("inline"),
    );
    headers
}

fn as_attachment(name: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(BYTES));
    put(&mut headers, header::CONTENT_DISPOSITION, &attachment(name));
    headers
}

/// A header whose value is made of texts that are known to fit.
fn put(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

/// `Content-Disposition` with the name twice: bare for old clients, whole for the others [RFC 6266 section 4.3].
fn attachment(name: &str) -> String {
    let plain: String = name
        .chars()
        .map(|c| if is_plain_char(c) { c } else { '_' })
        .collect();
    format!(
        "attachment; filename=\"{plain}\"; filename*=UTF-8''{}",
        utf8_percent_encode(name, EXTENDED)
    )
}

fn is_plain_char(c: char) -> bool {
    c == ' ' || c.is_ascii_graphic() && !matches!(c, '"' | '\\' | '%')
}

/// All of it, the part asked for, or only the news that nothing changed.
fn send(
    app: &App,
    object: &Object,
    request: &Request,
    mut headers: HeaderMap,
) -> Result<Response, Problem> {
    let asked = request.headers();
    let tag = format!("\"{}\"", object.sha256());
    put(&mut headers, header::ETAG, &tag);
    put(&mut headers, header::ACCEPT_RANGES, "bytes");
    let policy = "default-src 'none'; sandbox";
    put(&mut headers, header::CONTENT_SECURITY_POLICY, policy);
    let resource_policy = HeaderName::from_static("cross-origin-resource-policy");
    put(&mut headers, resource_policy, "same-origin");
    if is_none_match(asked, &tag) {
        headers.remove(header::CONTENT_TYPE);
        headers.remove(header::CONTENT_DISPOSITION);
        return Ok((StatusCode::NOT_MODIFIED, headers).into_response());
    }
    let size = object.size;
    let mut status = StatusCode::OK;
    let mut range = 0..size;
    match asked_range(request.method(), asked, &tag, size) {
        AskedRange::Whole => {}
        AskedRange::Part(part) => {
            let content_range = format!("bytes {}-{}/{size}", part.start, part.end - 1);
            put(&mut headers, header::CONTENT_RANGE, &content_range);
            status = StatusCode::PARTIAL_CONTENT;
            range = part;
        }
        AskedRange::Beyond => {
            let all = HeaderValue::from_str(&format!("bytes */{size}"))
                .unwrap_or(HeaderValue::from_static("bytes */*"));
            let problem = Problem::new(RANGE, format!("it is {size} bytes long"));
            return Err(problem.with_header(header::CONTENT_RANGE, all));
        }
    }
    let length = HeaderValue::from(range.end - range.start);
    headers.insert(header::CONTENT_LENGTH, length);
    if request.method() == Method::HEAD {
        return Ok((status, headers).into_response());
    }
    let peer = request.extensions().get::<Peer>().copied();
    let place = app.transfer(&app.downloads, asked, peer)?;
    let parts = app.files.read_object(object, range).inspect(move |_| {
        // Held until the last part is taken, or the client has gone.
        let _ = &place;
    });
    Ok((status, headers, Body::from_stream(parts)).into_response())
}

/// With a tag of another version the range would be a piece of something else [RFC 9110 section 13.1.5].
/// Of a HEAD nothing but the whole is told, since `Range` is defined for GET alone [14.2].
fn asked_range(method: &Method, asked: &HeaderMap, tag: &str, size: u64) -> AskedRange {
    if method == Method::HEAD {
        return AskedRange::Whole;
    }
    let condition = asked.get(header::IF_RANGE);
    if condition.is_some_and(|wanted| wanted.as_bytes() != tag.as_bytes()) {
        return AskedRange::Whole;
    }
    let range = asked
        .get(header::RANGE)
        .and_then(|range| range.to_str().ok());
    range.map_or(AskedRange::Whole, |text| AskedRange::read(text, size))
}

#[cfg(test)]
mod tests {
    use super::*;

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
