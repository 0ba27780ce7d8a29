//! Handlers that know nothing of Oncue: `oncue.toml` says what they act on, and rows and events are JSON to them.
//!
//! | file | |
//! |---|---|
//! | `lines` | a child that is given a line for each event and answers with one |
//! | `service` | a service that is given a request for each event |
//! | `sender` | headers by which that service knows who asks |
//! | `reply` | events and row in the answer of a service |

pub mod lines;
mod reply;
mod sender;
pub mod service;

use std::time::{Duration, Instant};

use oncue_core::config::Span;
use oncue_proto::{Catalog, Format};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::convert::Description;
use crate::protocol as wire;
use crate::protocol::event_result::Outcome;
use crate::spec::Spec;

/// Longest answer to an event: a row of the largest size, and as many events as may follow.
const MAX_ANSWER: usize = 16 << 20;

/// The function as `oncue.toml` describes it. `attempts` are those that fit its kind, 0 for the usual ones.
///
/// # Errors
/// An event type that the contract lacks.
pub fn describe(spec: &Spec, attempts: u32) -> Result<Description, String> {
    let config = &spec.config;
    let manifest = wire::Manifest {
        name: spec.name.clone(),
        version: "0.0.0".to_owned(),
        triggers: config.on.clone(),
        emits: config.emits.clone(),
        key: config.key.clone().unwrap_or_default(),
        table: config.table.clone().unwrap_or_default(),
        attempts,
        at_most_once: config.at_most_once,
        // It has no way to change another table.
        declares: true,
        ..wire::Manifest::default()
    };
    Description::new(manifest, spec.contract.to_vec())
}

/// Answer to one event.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Answer {
    row: Option<Map<String, Value>>,
    emit: Vec<Emit>,
    retry: Option<String>,
    reject: Option<String>,
}

/// Event that follows.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Emit {
    r#type: String,
    data: Value,
    #[serde(default)]
    delay: Option<Span>,
}

/// Run whose row is handed from event to event as JSON.
struct PlainRun<'r> {
    run: &'r wire::Run,
    /// Row as it was stored.
    read: Map<String, Value>,
    /// Row as the last event that succeeded has left it.
    row: Map<String, Value>,
    results: Vec<wire::EventResult>,
}

impl<'r> PlainRun<'r> {
    fn new(run: &'r wire::Run) -> Self {
        let read: Map<String, Value> = run.fields.iter().map(shown).collect();
        Self {
            run,
            row: read.clone(),
            read,
            results: Vec::new(),
        }
    }

    /// Outcome that an answer tells; changes the row where it is done.
    fn take(&mut self, answer: Answer) -> Outcome {
        if let Some(why) = answer.reject {
            return Outcome::Reject(failure("", why));
        }
        if let Some(why) = answer.retry {
            return Outcome::Retry(failure("", why));
        }
        if let Some(now) = answer.row {
            self.row = now;
        }
        let outputs = answer.emit.into_iter().map(|emit| wire::Output {
            r#type: emit.r#type,
            payload: emit.data.to_string().into(),
            content_type: Format::Json.media_type().to_owned(),
            delay_ms: delay_ms(emit.delay),
        });
        Outcome::Done(wire::Done {
            outputs: outputs.collect(),
            operations: Vec::new(),
        })
    }

    /// Notes the outcome of the next event.
    fn settle(&mut self, outcome: Outcome, began: Instant) {
        self.results.push(wire::EventResult {
            outcome: Some(outcome),
            micros: began.elapsed().as_micros() as u64,
        });
    }

    /// Result of the whole run.
    fn result(self) -> wire::RunResult {
        let Self {
            run,
            read,
            row,
            results,
        } = self;
        let changed = row
            .iter()
            .filter(|(name, value)| !value.is_null() && read.get(*name) != Some(value));
        let set = changed.map(|(name, value)| wire::Field {
            name: name.clone(),
            value: stored(value).into(),
        });
        let gone = read
            .keys()
            .filter(|name| row.get(*name).is_none_or(Value::is_null));
        wire::RunResult {
            number: run.number,
            set: set.collect(),
            deleted: gone.cloned().collect(),
            events: results,
            failure: None,
            more: false,
        }
    }
}

/// Payload of an event as JSON.
///
/// # Errors
/// The outcome of an event that cannot be decoded.
fn data(catalog: &Catalog, event: &wire::Event) -> Result<Value, Outcome> {
    catalog
        .get(&event.r#type)
        .and_then(|entry| entry.to_json(Format::Protobuf, &event.payload))
        .map_err(|e| Outcome::Reject(failure("decode", e.to_string())))
}

fn delay_ms(delay: Option<Span>) -> u64 {
    delay.map_or(Duration::ZERO, |delay| delay.0).as_millis() as u64
}

fn failure(class: &str, text: String) -> wire::Failure {
    wire::Failure {
        class: class.to_owned(),
        text,
        ..wire::Failure::default()
    }
}

/// A stored field as JSON: a number, truth value, object or list where its text is one, text otherwise. A row says
/// nothing of types.
fn shown(field: &wire::Field) -> (String, Value) {
    let text = String::from_utf8_lossy(&field.value).into_owned();
    let value = match serde_json::from_str(&text) {
        Ok(Value::String(_) | Value::Null) | Err(_) => Value::String(text),
        Ok(value) => value,
    };
    (field.name.clone(), value)
}

/// A value as it is stored: text as it is, everything else as JSON.
fn stored(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_field_is_read_as_what_its_text_can_be() {
        for (text, value) in [
            ("7", json!(7)),
            ("-1.5", json!(-1.5)),
            ("true", json!(true)),
            ("{\"a\":1}", json!({"a": 1})),
            ("[1,2]", json!([1, 2])),
            ("007", json!("007")),
            ("null", json!("null")),
            ("\"quoted\"", json!("\"quoted\"")),
            ("", json!("")),
        ] {
            let field = wire::Field {
                name: "f".to_owned(),
                value: text.into(),
            };
            let (_, read) = shown(&field);
            assert_eq!(read, value, "{text}");
            assert_eq!(stored(&read), text, "as it was");
        }
    }
}
