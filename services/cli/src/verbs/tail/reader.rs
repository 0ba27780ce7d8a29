//! Reader of messages: each decoded and printed as one line, or left out by the filter.

use std::fmt::Write as _;
use std::sync::Arc;

use oncue_core::bus::layout::TIMER;
use oncue_proto::event::{self, Incoming};
use oncue_proto::oncue::v1::TimerFired;
use oncue_proto::{Catalog, Event as _};
use serde_json::{Value, json};

use super::watch::StreamMessage;
use crate::terminal::paint::{BAD, DIM, NAME, PALETTE, brief, paint};

/// Columns of a value; longer ones are cut for the eye, `--json` has them whole.
const MAX_VALUE_WIDTH: usize = 60;

/// Condition on an event; one that is `None` holds for all.
pub struct EventFilter {
    pub key: Option<String>,
    /// Beginning of a flow id.
    pub flow: Option<String>,
}

impl EventFilter {
    fn takes(&self, key: &str, flow: &str) -> bool {
        self.key.as_ref().is_none_or(|wanted| wanted == key)
            && self
                .flow
                .as_ref()
                .is_none_or(|wanted| flow.starts_with(wanted))
    }

    /// Whether there is no condition at all.
    fn takes_all(&self) -> bool {
        self.key.is_none() && self.flow.is_none()
    }
}

/// Turns messages into lines; keeps nothing between two messages.
pub struct EventReader {
    pub catalog: Arc<Catalog>,
    pub filter: EventFilter,
    pub json: bool,
}

impl EventReader {
    /// Line of a message; `None` when the filter leaves it out. A message that cannot be read is shown as such: a
    /// watch must not hide it.
    pub fn read(&self, message: &StreamMessage) -> Option<String> {
        // A schedule is an event to come, and what it fires is taken over by the stream of its type.
        if message.stream == TIMER && !message.subject.starts_with(TimerFired::TYPE) {
            return None;
        }
        let headers = message
            .headers
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()));
        let incoming = match event::read(headers, message.payload.clone(), &message.origin()) {
            Ok(incoming) => incoming,
            Err(why) => return self.unreadable(message, &why.message),
        };
        let (data, key) = self.decode(&incoming);
        let key = key.unwrap_or_default();
        if !self.filter.takes(&key, &incoming.meta.flow) {
            return None;
        }
        Some(if self.json {
            json_line(message, &incoming, &key, &data)
        } else {
            text_line(&incoming, &key, &data)
        })
    }

    /// Line of a message that is no event, with the reason.
    fn unreadable(&self, message: &StreamMessage, why: &str) -> Option<String> {
        // Nobody knows whether it has the key or the flow that was asked for.
        if !self.filter.takes_all() {
            return None;
        }
        let time = event::format_time(message.published);
        if self.json {
            return Some(
                json!({
                    "time": time,
                    "subject": message.subject,
                    "stream": message.stream,
                    "seq": message.sequence,
                    "error": why,
                })
                .to_string(),
            );
        }
        Some(format!(
            "{} {} {}",
            paint(DIM, clock(&time)),
            message.subject,
            paint(BAD, format_args!("unreadable: {why}"))
        ))
    }

    /// Payload as JSON (or why not, as a string) and the key. A type the catalog does not know is shown as the JSON
    /// it may be.
    fn decode(&self, incoming: &Incoming) -> (Value, Option<String>) {
        let Ok(entry) = self.catalog.get(&incoming.meta.ty) else {
            let data = serde_json::from_slice(&incoming.payload)
                .unwrap_or_else(|_| json!({ "bytes": incoming.payload.len() }));
            return (data, None);
        };
        match entry.to_view(incoming.format, &incoming.payload) {
            Ok(data) => (data, entry.check(incoming.format, &incoming.payload).ok()),
            Err(e) => (Value::String(e.to_string()), None),
        }
    }
}

/// Every attribute, also empty ones: programs look for fields, not for words.
fn json_line(
    message: &StreamMessage,
    Incoming { meta, format, .. }: &Incoming,
    key: &str,
    data: &Value,
) -> String {
    json!({
        "time": event::format_time(meta.time),
        "type": meta.ty,
        "key": key,
        "id": meta.id,
        "flow": meta.flow,
        "cause": meta.cause,
        "hops": meta.hops,
        "source": meta.source,
        "traceparent": meta.traceparent,
        "stream": message.stream,
        "seq": message.sequence,
        "format": format.media_type(),
        "data": data,
    })
    .to_string()
}

/// `12:00:00.123 web.page.viewed /home visitor=v1 flow=0190...`
fn text_line(Incoming { meta, .. }: &Incoming, key: &str, data: &Value) -> String {
    let style = if meta.ty.starts_with("dlq.") {
        BAD
    } else {
        PALETTE[domain_colour(&meta.ty)]
    };
    let mut out = format!(
        "{} {} {}",
        paint(DIM, clock(&event::format_time(meta.time))),
        paint(style, &meta.ty),
        paint(NAME, key)
    );
    match data {
        Value::Object(fields) => {
            for (name, value) in fields {
                let is_key = value.as_str() == Some(key);
                // Bytes on the wire: for `--json` and the console, not for a line.
                if !is_key && !is_empty(value) && name != "envelope" {
                    let _ = write!(
                        out,
                        " {}{}",
                        paint(DIM, format_args!("{name}=")),
                        brief_value(value)
                    );
                }
            }
        }
        Value::String(problem) => {
            let _ = write!(out, " {}", paint(BAD, problem));
        }
        _ => {}
    }
    out.push_str(&paint(DIM, format_args!(" flow={}", meta.flow)));
    out
}

/// Index into [`PALETTE`], the same for a domain in every run.
fn domain_colour(ty: &str) -> usize {
    event::partition(event::stream_of_type(ty)) as usize % PALETTE.len()
}

/// Time of day out of RFC 3339.
fn clock(time: &str) -> &str {
    time.get(11..23).unwrap_or(time)
}

/// Whether a field has its default value, which protobuf does not tell from an absent one.
fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::String(text) => text.is_empty() || text == "0",
        Value::Number(n) => n.as_f64() == Some(0.0),
        Value::Array(list) => list.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        Value::Bool(true) => false,
    }
}

/// A word stays bare, anything else is JSON; control characters never reach the terminal.
fn brief_value(value: &Value) -> String {
    let text = match value {
        Value::String(text)
            if !text.contains(|c: char| c.is_whitespace() || c.is_control() || c == '"') =>
        {
            text.clone()
        }
        other => other.to_string(),
    };
    brief(&text, MAX_VALUE_WIDTH)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(subject: &str, payload: &str) -> StreamMessage {
        StreamMessage {
            subject: subject.into(),
            headers: vec![
                ("Nats-Msg-Id".into(), "e1".into()),
                ("ce-flowid".into(), "flow-7".into()),
            ],
            payload: payload.to_owned().into(),
            stream: subject.split('.').next().unwrap().into(),
            stream_created: 1,
            sequence: 9,
            published: 43_200_123,
        }
    }

    fn reader(json: bool) -> EventReader {
        EventReader {
            catalog: Arc::new(
                Catalog::builtin()
                    .with(oncue_app_events::DESCRIPTORS)
                    .unwrap(),
            ),
            filter: EventFilter {
                key: None,
                flow: None,
            },
            json,
        }
    }

    fn plain(reader: &EventReader, message: &StreamMessage) -> Option<String> {
        reader
            .read(message)
            .map(|line| anstream::adapter::strip_str(&line).to_string())
    }

    #[test]
    fn an_event_is_one_line_without_empty_fields() {
        let payload = r#"{"page":"/home","referrer":"r 1","visitor":"v"}"#;
        let view = message("web.page.viewed", payload);
        let line = plain(&reader(false), &view).unwrap();
        assert_eq!(
            line,
            r#"12:00:00.123 web.page.viewed /home referrer="r 1" visitor=(sensitive) flow=flow-7"#
        );
    }

    #[test]
    fn json_holds_everything() {
        let line = plain(
            &reader(true),
            &message("web.page.viewed", r#"{"page":"/home"}"#),
        )
        .unwrap();
        let json: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(
            (&json["id"], &json["key"], &json["seq"]),
            (&json!("e1"), &json!("/home"), &json!(9))
        );
        assert_eq!(json["data"]["visitor"], json!(""));
    }

    #[test]
    fn filters_and_schedules_are_left_out() {
        let mut only = reader(false);
        only.filter.key = Some("/home".into());
        assert!(
            only.read(&message("web.page.viewed", r#"{"page":"/home"}"#))
                .is_some()
        );
        assert!(
            only.read(&message("web.page.viewed", r#"{"page":"/other"}"#))
                .is_none()
        );
        only.filter = EventFilter {
            key: None,
            flow: Some("flow".into()),
        };
        assert!(
            only.read(&message("web.page.viewed", r#"{"page":"/other"}"#))
                .is_some()
        );
        assert!(
            reader(false)
                .read(&message("timer.schedule.x", "{}"))
                .is_none()
        );
    }

    #[test]
    fn what_cannot_be_decoded_says_so_without_control_characters() {
        let mut broken = message("web.page.viewed", "");
        broken.payload = vec![0xff, 0x1b].into();
        assert!(
            plain(&reader(false), &broken)
                .unwrap()
                .contains("not a web.PageViewed")
        );
        assert!(!brief_value(&json!("\u{1b}[2Jx")).contains('\u{1b}'));
        assert_eq!(
            brief_value(&json!("a".repeat(80))).chars().count(),
            MAX_VALUE_WIDTH
        );
    }
}
