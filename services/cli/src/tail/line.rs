//! One message as one line.

use std::fmt::Write as _;
use std::sync::Arc;

use oncue_core::bus::layout::TIMER;
use oncue_proto::event::{self, Incoming};
use oncue_proto::oncue::v1::TimerFired;
use oncue_proto::{Catalog, Event as _};
use serde_json::{Value, json};

use super::watch::Seen;
use crate::paint::{BAD, DIM, NAME, PALETTE, paint};

/// Longer values are cut for the eye; `--json` has them whole.
const LONGEST: usize = 60;

pub struct Filter {
    pub key: Option<String>,
    pub flow: Option<String>,
}

pub struct Reader {
    pub catalog: Arc<Catalog>,
    pub filter: Filter,
    pub json: bool,
}

impl Reader {
    /// The line, unless the message is filtered out. What cannot be read is shown as such: a watch must not hide it.
    pub fn read(&self, seen: &Seen) -> Option<String> {
        // A schedule is an event to come, and what it fires is taken over by the stream of its type.
        if seen.stream == TIMER && !seen.subject.starts_with(TimerFired::TYPE) {
            return None;
        }
        let headers = seen.headers.iter().map(|(n, v)| (n.as_str(), v.as_str()));
        let incoming = match event::read(headers, seen.payload.clone(), &seen.origin()) {
            Ok(incoming) => incoming,
            Err(why) => return self.unreadable(seen, &why.message),
        };
        let (data, key) = self.decode(&incoming);
        let key = key.unwrap_or_default();
        let wanted = |filter: &Option<String>, matches: &dyn Fn(&String) -> bool| {
            filter.as_ref().is_none_or(matches)
        };
        if !wanted(&self.filter.key, &|k| *k == key)
            || !wanted(&self.filter.flow, &|f| {
                incoming.meta.flow.starts_with(f.as_str())
            })
        {
            return None;
        }
        Some(if self.json {
            whole(seen, &incoming, &key, &data)
        } else {
            short(&incoming, &key, &data)
        })
    }

    fn unreadable(&self, seen: &Seen, why: &str) -> Option<String> {
        if self.filter.key.is_some() || self.filter.flow.is_some() {
            return None;
        }
        let time = event::format_time(seen.published);
        if self.json {
            return Some(json!({ "time": time, "subject": seen.subject, "stream": seen.stream, "seq": seen.sequence, "error": why }).to_string());
        }
        Some(format!(
            "{} {} {}",
            paint(DIM, clock(&time)),
            seen.subject,
            paint(BAD, format_args!("unreadable: {why}"))
        ))
    }

    /// The payload as JSON (or why not, as a string) and the key.
    fn decode(&self, incoming: &Incoming) -> (Value, Option<String>) {
        let Ok(entry) = self.catalog.get(&incoming.meta.ty) else {
            return (
                serde_json::from_slice(&incoming.payload)
                    .unwrap_or_else(|_| json!({ "bytes": incoming.payload.len() })),
                None,
            );
        };
        match entry.to_json(incoming.format, &incoming.payload) {
            Ok(data) => (data, entry.check(incoming.format, &incoming.payload).ok()),
            Err(e) => (Value::String(e.to_string()), None),
        }
    }
}

fn whole(seen: &Seen, Incoming { meta, format, .. }: &Incoming, key: &str, data: &Value) -> String {
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
        "stream": seen.stream,
        "seq": seen.sequence,
        "format": format.media_type(),
        "data": data,
    })
    .to_string()
}

/// `12:00:00.123 web.page.viewed /home visitor=v1 flow=0190...`
fn short(Incoming { meta, .. }: &Incoming, key: &str, data: &Value) -> String {
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
                        brief(value)
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

/// The same colour for a domain in every run.
fn domain_colour(ty: &str) -> usize {
    event::partition(event::stream_of_type(ty)) as usize % PALETTE.len()
}

fn clock(time: &str) -> &str {
    time.get(11..23).unwrap_or(time)
}

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
fn brief(value: &Value) -> String {
    let text = match value {
        Value::String(text)
            if !text.contains(|c: char| c.is_whitespace() || c.is_control() || c == '"') =>
        {
            text.clone()
        }
        other => other.to_string(),
    };
    if text.chars().count() <= LONGEST {
        return text;
    }
    text.chars().take(LONGEST - 1).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(subject: &str, payload: &str) -> Seen {
        Seen {
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

    fn reader(json: bool) -> Reader {
        Reader {
            catalog: Arc::new(
                Catalog::builtin()
                    .with(oncue_app_events::DESCRIPTORS)
                    .unwrap(),
            ),
            filter: Filter {
                key: None,
                flow: None,
            },
            json,
        }
    }

    fn plain(reader: &Reader, seen: &Seen) -> Option<String> {
        reader
            .read(seen)
            .map(|line| anstream::adapter::strip_str(&line).to_string())
    }

    #[test]
    fn an_event_is_one_line_without_empty_fields() {
        let view = seen("web.page.viewed", r#"{"page":"/home","visitor":"v 1"}"#);
        let line = plain(&reader(false), &view).unwrap();
        assert_eq!(
            line,
            r#"12:00:00.123 web.page.viewed /home visitor="v 1" flow=flow-7"#
        );
    }

    #[test]
    fn json_holds_everything() {
        let line = plain(
            &reader(true),
            &seen("web.page.viewed", r#"{"page":"/home"}"#),
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
            only.read(&seen("web.page.viewed", r#"{"page":"/home"}"#))
                .is_some()
        );
        assert!(
            only.read(&seen("web.page.viewed", r#"{"page":"/other"}"#))
                .is_none()
        );
        only.filter = Filter {
            key: None,
            flow: Some("flow".into()),
        };
        assert!(
            only.read(&seen("web.page.viewed", r#"{"page":"/other"}"#))
                .is_some()
        );
        assert!(
            reader(false)
                .read(&seen("timer.schedule.x", "{}"))
                .is_none()
        );
    }

    #[test]
    fn what_cannot_be_decoded_says_so_without_control_characters() {
        let mut broken = seen("web.page.viewed", "");
        broken.payload = vec![0xff, 0x1b].into();
        assert!(
            plain(&reader(false), &broken)
                .unwrap()
                .contains("not a web.PageViewed")
        );
        assert!(!brief(&json!("\u{1b}[2Jx")).contains('\u{1b}'));
        assert_eq!(brief(&json!("a".repeat(80))).chars().count(), LONGEST);
    }
}
