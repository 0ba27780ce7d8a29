//! Answer of a service: its status says what became of the event, its body which events follow, and how the row is to be.

use std::time::{Duration, SystemTime};

use hyper::StatusCode;
use hyper::header::{CONTENT_TYPE, HeaderMap, RETRY_AFTER};
use oncue_core::config::Span;
use oncue_proto::{Format, event};
use serde::Deserialize;
use serde_json::Value;

use super::{Answer, PlainRun, delay_ms, failure};
use crate::protocol as wire;
use crate::protocol::event_result::Outcome;

/// Media types of a CloudEvent in structured mode, and of several.
const EVENT: &str = "application/cloudevents+json";
const BATCH: &str = "application/cloudevents-batch+json";
/// Most characters of an answer that are shown in a dead letter.
const SHOWN: usize = 1000;

/// An answer, read to its end where that is of use.
pub struct Reply {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

/// Event in an answer. Id, source and time are the platform's to give.
#[derive(Deserialize)]
struct CloudEvent {
    r#type: String,
    #[serde(default)]
    datacontenttype: Option<String>,
    #[serde(default)]
    data: Option<Value>,
    #[serde(default)]
    data_base64: Option<String>,
    #[serde(default)]
    delay: Option<Span>,
}

/// Outcome that an answer tells; changes the row where it says so.
///
/// `has_table` lets it hold a row, and `is_silent` is a function from which nothing follows, so that the body of its answer is
/// nobody's business.
pub fn outcome(
    reply: &Reply,
    plain: &mut PlainRun<'_>,
    has_table: bool,
    is_silent: bool,
) -> Outcome {
    if !reply.status.is_success() {
        return refused(reply);
    }
    let done = match reply.header("ce-type") {
        Some(ty) => reply.binary(ty).map(|output| vec![output]),
        None if reply.body.is_empty() => Ok(Vec::new()),
        None => match reply.media_type().as_str() {
            EVENT => structured(&reply.body).map(|output| vec![output]),
            BATCH => batch(&reply.body),
            other if has_table && (other == "application/json" || other.ends_with("+json")) => {
                match serde_json::from_slice::<Answer>(&reply.body) {
                    Ok(answer) => return plain.take(answer),
                    Err(e) => Err(format!("which is no row and no events: {e}")),
                }
            }
            _ if is_silent && !has_table => Ok(Vec::new()),
            other => Err(format!(
                "as {other:?}, which is no CloudEvent; an answer without events has no body"
            )),
        },
    };
    match done {
        Ok(outputs) => Outcome::Done(wire::Done {
            outputs,
            operations: Vec::new(),
        }),
        Err(why) => {
            let text = format!(
                "answered {} with {:?}, {why}",
                reply.status,
                reply.text(200)
            );
            Outcome::Retry(failure("protocol", text))
        }
    }
}

/// Outcome of an answer that is none of success.
fn refused(reply: &Reply) -> Outcome {
    let status = reply.status;
    let mut text = format!("answered {status}");
    let said = reply.text(SHOWN);
    if !said.is_empty() {
        text = format!("{text}: {said}");
    }
    let is_passing = matches!(
        status,
        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY | StatusCode::TOO_MANY_REQUESTS
    );
    if status.is_client_error() && !is_passing {
        return Outcome::Reject(failure(status.as_str(), text));
    }
    if status.is_redirection() {
        let to = reply.header("location").unwrap_or_default();
        text =
            format!("answered {status} {to}: redirects are not followed, name the address itself");
    }
    Outcome::Retry(wire::Failure {
        delay_ms: reply.retry_after().as_millis() as u64,
        ..failure(status.as_str(), text)
    })
}

impl Reply {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// Media type in lower case, without its parameters.
    fn media_type(&self) -> String {
        let named = self.header(CONTENT_TYPE.as_str()).unwrap_or_default();
        let bare = named.split(';').next().unwrap_or_default();
        bare.trim().to_ascii_lowercase()
    }

    /// Beginning of the body on one line, for people.
    fn text(&self, most: usize) -> String {
        let text = String::from_utf8_lossy(&self.body).replace(char::is_control, " ");
        let words: Vec<&str> = text.split_whitespace().collect();
        words.join(" ").chars().take(most).collect()
    }

    /// Time that it asks to be left alone: seconds, or a date [RFC 9110 section 10.2.3].
    fn retry_after(&self) -> Duration {
        let Some(text) = self.header(RETRY_AFTER.as_str()) else {
            return Duration::ZERO;
        };
        if let Ok(seconds) = text.trim().parse() {
            return Duration::from_secs(seconds);
        }
        let date = httpdate::parse_http_date(text).ok();
        let left = date.and_then(|date| date.duration_since(SystemTime::now()).ok());
        left.unwrap_or_default()
    }

    /// Event in binary mode.
    fn binary(&self, ty: &str) -> Result<wire::Output, String> {
        let delay = match self.header("ce-delay").map(str::parse::<Span>) {
            Some(Err(why)) => return Err(format!("whose ce-delay is none: {why}")),
            Some(Ok(delay)) => Some(delay),
            None => None,
        };
        let media_type = self.media_type();
        Ok(wire::Output {
            r#type: event::percent_decode(ty).unwrap_or_else(|| ty.to_owned()),
            payload: self.body.clone().into(),
            // Without a type it is JSON, but nothing at all is no JSON.
            content_type: if media_type.is_empty() && !self.body.is_empty() {
                Format::Json.media_type().to_owned()
            } else {
                media_type
            },
            delay_ms: delay_ms(delay),
        })
    }
}

fn structured(body: &[u8]) -> Result<wire::Output, String> {
    let event = serde_json::from_slice(body);
    output(event.map_err(|e| format!("which is no CloudEvent: {e}"))?)
}

fn batch(body: &[u8]) -> Result<Vec<wire::Output>, String> {
    let events: Result<Vec<CloudEvent>, _> = serde_json::from_slice(body);
    let events = events.map_err(|e| format!("which is no batch of CloudEvents: {e}"))?;
    events.into_iter().map(output).collect()
}

/// Event in structured mode, as it is sent on.
fn output(event: CloudEvent) -> Result<wire::Output, String> {
    let format = event.datacontenttype.unwrap_or_default();
    let (payload, usual) = match (event.data, event.data_base64) {
        (Some(data), None) => (data.to_string().into_bytes(), Format::Json),
        (None, Some(text)) => {
            let bytes = base64::Engine::decode(&base64::prelude::BASE64_STANDARD, text);
            let bytes = bytes.map_err(|e| format!("whose data_base64 is none: {e}"))?;
            (bytes, Format::Protobuf)
        }
        (None, None) => (Vec::new(), Format::Protobuf),
        (Some(_), Some(_)) => return Err("which has data and data_base64".to_owned()),
    };
    Ok(wire::Output {
        r#type: event.r#type,
        payload: payload.into(),
        content_type: if format.is_empty() {
            usual.media_type().to_owned()
        } else {
            format
        },
        delay_ms: delay_ms(event.delay),
    })
}
