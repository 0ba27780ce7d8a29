//! Small readings of a request: a header, a path piece, a length, an id. [`body`] reads what follows the head.

pub mod body;

use axum::extract::Request;
use axum::http::{Extensions, HeaderMap, HeaderName, header};
use oncue_http::address::ClientAddress;
use oncue_proto::event;
use percent_encoding::percent_decode_str;

use crate::problem::{MALFORMED, MEDIA_TYPE, Problem, TOO_LARGE};

/// Client that a request counts for, an extension of every request; none where that is a proxy, which speaks for many.
#[derive(Debug, Clone, Copy)]
pub struct Client(pub Option<ClientAddress>);

impl Client {
    /// Client of the request that has these extensions.
    pub fn of(extensions: &Extensions) -> Option<ClientAddress> {
        extensions.get::<Self>().and_then(|Self(client)| *client)
    }
}

/// The value of a header that may be there once.
pub fn text<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Result<Option<&'h str>, Problem> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    if values.next().is_some() {
        return Err(Problem::new(
            MALFORMED,
            format!("header {name} is there more than once"),
        ));
    }
    let value = std::str::from_utf8(value.as_bytes())
        .map_err(|_| Problem::new(MALFORMED, format!("header {name} is not UTF-8")))?;
    Ok(Some(value.trim()))
}

/// The rest of the path after `prefix`, still percent-encoded. Taken from the path itself, since an extractor of the
/// router would answer for itself where the encoding is wrong.
pub fn path_after<'r>(request: &'r Request, prefix: &str) -> &'r str {
    let path = request.uri().path();
    path.strip_prefix(prefix).unwrap_or_default()
}

/// A piece of the path as the client meant it.
pub fn path_piece(raw: &str) -> Result<String, Problem> {
    let decoded = percent_decode_str(raw).decode_utf8();
    Ok(decoded
        .map_err(|_| {
            Problem::new(
                MALFORMED,
                format!("{raw:?} in the path is not percent-encoded UTF-8"),
            )
        })?
        .into_owned())
}

/// `Idempotency-Key`, bare or quoted as in the IETF draft.
pub fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let key = text(headers, &HeaderName::from_static("idempotency-key"))?;
    let key = key.map(|key| {
        key.strip_prefix('"')
            .and_then(|k| k.strip_suffix('"'))
            .unwrap_or(key)
            .to_owned()
    });
    key.map(check_id).transpose()
}

pub fn check_id(id: String) -> Result<String, Problem> {
    event::check_id(id).map_err(|e| Problem::new(MALFORMED, e.message))
}

/// Ids of files: what we generate, and nothing that could mean more than itself.
pub fn is_plain_id(id: &str) -> bool {
    (1..=64).contains(&id.len())
        && id
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
}

/// Refuses by the announced length, before anything is read.
pub fn check_length(headers: &HeaderMap, limit: u64) -> Result<(), Problem> {
    let length =
        text(headers, &header::CONTENT_LENGTH)?.and_then(|length| length.parse::<u64>().ok());
    match length {
        Some(length) if length > limit => Err(too_large(limit)),
        _ => Ok(()),
    }
}

pub fn too_large(limit: u64) -> Problem {
    Problem::new(TOO_LARGE, format!("at most {limit} bytes are taken"))
}

/// A compressed body would be stored as it is and mean nothing to anybody behind.
pub fn check_encoding(headers: &HeaderMap) -> Result<(), Problem> {
    match text(headers, &header::CONTENT_ENCODING)? {
        None | Some("" | "identity") => Ok(()),
        Some(other) => Err(Problem::new(
            MEDIA_TYPE,
            format!("content encoding {other:?} is not supported; send the body as it is"),
        )),
    }
}

/// Place up to which a client that listens has heard all, by its own word.
pub fn last_event_id(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let last = text(headers, &HeaderName::from_static("last-event-id"))?;
    Ok(last.filter(|last| !last.is_empty()).map(str::to_owned))
}

/// Whether `If-None-Match` holds the tag, compared weakly [RFC 9110 section 13.1.2]: then the client has it already.
pub fn is_none_match(asked: &HeaderMap, tag: &str) -> bool {
    let lines = asked
        .get_all(header::IF_NONE_MATCH)
        .iter()
        .filter_map(|value| value.to_str().ok());
    lines
        .flat_map(|line| line.split(','))
        .map(str::trim)
        .any(|one| one == "*" || one.strip_prefix("W/").unwrap_or(one) == tag)
}
