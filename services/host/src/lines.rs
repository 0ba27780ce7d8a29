//! Children that know nothing of Oncue: one JSON object in a line on stdin for each event, one on stdout for its outcome.
//!
//! In: a CloudEvent in its JSON form, with `row`, `flow`, `cause` and `attempt`. Out: `{}` for done, with `row` for the row as
//! it is to be, and `emit` for a list of events (`type`, `data`, `delay`); or `{"retry": "why"}`, or `{"reject": "why"}`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use oncue_core::config::Span;
use oncue_proto::{Catalog, Format, event};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{ChildStdin, ChildStdout};
use tokio::sync::watch;

use crate::convert::Description;
use crate::dispatch::{Dispatcher, Ended, FAREWELL, told_to_stop};
use crate::output::{self, LastLine};
use crate::process::{LAST_WORDS, Process, end_text};
use crate::protocol as wire;
use crate::protocol::event_result::Outcome;
use crate::protocol::log::Severity;
use crate::spec::Spec;

/// Longest line of an answer: a row of the largest size, and as many events as may follow.
const MAX_ANSWER: u64 = 16 << 20;

/// The function as `oncue.toml` describes it.
///
/// # Errors
/// An event type that the contract lacks.
pub fn describe(spec: &Spec) -> Result<Description, String> {
    let config = &spec.config;
    let manifest = wire::Manifest {
        name: spec.name.clone(),
        version: "0.0.0".to_owned(),
        triggers: config.on.clone(),
        emits: config.emits.clone(),
        key: config.key.clone().unwrap_or_default(),
        table: config.table.clone().unwrap_or_default(),
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

/// Lives the life of a child in a place.
pub async fn live(
    dispatcher: &Arc<Dispatcher>,
    place: usize,
    stopping: &watch::Receiver<bool>,
) -> Ended {
    let mut process = match Process::with_pipes(&dispatcher.spec) {
        Ok(process) => process,
        Err(e) => return crash(format!("{}: {e}", dispatcher.spec.run.join(" "))),
    };
    let last = LastLine::default();
    let child = process.id();
    let Some(stderr) = process.stderr.take() else {
        return crash("no pipe from it");
    };
    let owners = dispatcher.clone();
    tokio::spawn(output::follow(
        stderr,
        Severity::Warn,
        last.clone(),
        move || owners.owner(place, 0, 0),
        child,
    ));
    let Some(stdin) = process.stdin.take() else {
        return crash("no pipe to it");
    };
    let Some(stdout) = process.stdout.take() else {
        return crash("no pipe from it");
    };
    let mut catalog = Catalog::default();
    // Looked at when the function was described.
    let _ = catalog.add(&dispatcher.description.contract);
    catalog.add_builtin();
    let mut talk = Talk {
        dispatcher,
        catalog,
        stdin,
        lines: BufReader::new(stdout),
    };
    let wake = dispatcher.is_up(place);
    let mut stopping = stopping.clone();
    let end = loop {
        tokio::select! {
            () = wake.notified() => {}
            () = process.ended() => break None,
            () = told_to_stop(&mut stopping) => {
                // The end of its input tells it.
                drop(talk);
                let _ = tokio::time::timeout(FAREWELL, process.ended()).await;
                let _ = process.bury().await;
                return crash("stopped");
            }
        }
        let mut broken = None;
        for run in dispatcher.unsent(place) {
            let answered = match talk.run(&run).await {
                Ok(result) => dispatcher.answered(place, result).map_err(protocol),
                Err(ended) => Err(ended),
            };
            if let Err(ended) = answered {
                broken = Some(ended);
                break;
            }
        }
        if broken.is_some() {
            break broken;
        }
    };
    // One that ends is known by its closed pipe first; only its status says why.
    let _ = tokio::time::timeout(LAST_WORDS, process.ended()).await;
    let status = process.bury().await;
    match end {
        Some(ended) if !ended.text.is_empty() => ended,
        _ => {
            tokio::time::sleep(LAST_WORDS / 10).await;
            let said = last.get();
            let said = if said.is_empty() {
                said
            } else {
                format!(": {said}")
            };
            crash(format!("the child {child} {}{said}", end_text(status)))
        }
    }
}

fn crash(text: impl Into<String>) -> Ended {
    Ended {
        class: "crash",
        text: text.into(),
    }
}

fn protocol(text: String) -> Ended {
    Ended {
        class: "protocol",
        text,
    }
}

/// Conversation with a child.
struct Talk<'s> {
    dispatcher: &'s Dispatcher,
    catalog: Catalog,
    stdin: ChildStdin,
    lines: BufReader<ChildStdout>,
}

impl Talk<'_> {
    /// Asks for one event of a run after the other; each begins with the row that the one before has left.
    async fn run(&mut self, run: &wire::Run) -> Result<wire::RunResult, Ended> {
        let read: Map<String, Value> = run.fields.iter().map(shown).collect();
        let mut row = read.clone();
        let mut events = Vec::new();
        for event in &run.events {
            let began = Instant::now();
            let outcome = if run.check {
                Outcome::Done(wire::Done::default())
            } else {
                self.ask(run, event, &mut row).await?
            };
            events.push(wire::EventResult {
                outcome: Some(outcome),
                micros: began.elapsed().as_micros() as u64,
            });
        }
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
        Ok(wire::RunResult {
            number: run.number,
            set: set.collect(),
            deleted: gone.cloned().collect(),
            events,
            failure: None,
        })
    }

    /// Asks for one event.
    async fn ask(
        &mut self,
        run: &wire::Run,
        event: &wire::Event,
        row: &mut Map<String, Value>,
    ) -> Result<Outcome, Ended> {
        let data = self
            .catalog
            .get(&event.r#type)
            .and_then(|entry| entry.to_json(Format::Protobuf, &event.payload));
        let data = match data {
            Ok(data) => data,
            Err(e) => return Ok(Outcome::Reject(failure("decode", e.to_string()))),
        };
        let mut question = json!({
            "specversion": "1.0",
            "id": event.id,
            "source": event.source,
            "type": event.r#type,
            "subject": run.key,
            "time": event::format_time(event.time_ms),
            "flow": event.flow,
            "attempt": event.attempt,
            "traceparent": event.traceparent,
            "data": data,
            "row": row,
        });
        if !event.cause.is_empty() {
            question["cause"] = json!(event.cause);
        }
        if run.dry_run {
            question["dryrun"] = json!(true);
        }
        let limit = self.dispatcher.timeout;
        let line = match tokio::time::timeout(limit, self.exchange(&question)).await {
            Ok(Some(line)) => line,
            // Its end says more.
            Ok(None) => return Err(crash("")),
            Err(_) => {
                return Err(Ended {
                    class: "timeout",
                    text: format!("still running after {limit:?}; its process was killed"),
                });
            }
        };
        let answer: Answer = serde_json::from_slice(&line).map_err(|e| {
            protocol(format!(
                "the child answered {:?}, which is no answer: {e}; it was killed",
                String::from_utf8_lossy(&line[..line.len().min(200)])
            ))
        })?;
        Ok(outcome(answer, row))
    }

    /// Writes a line and reads one; none where the child is gone.
    async fn exchange(&mut self, question: &Value) -> Option<Vec<u8>> {
        let mut line = question.to_string();
        line.push('\n');
        self.stdin.write_all(line.as_bytes()).await.ok()?;
        self.stdin.flush().await.ok()?;
        let mut answer = Vec::new();
        let mut limited = (&mut self.lines).take(MAX_ANSWER);
        limited.read_until(b'\n', &mut answer).await.ok()?;
        (!answer.is_empty()).then_some(answer)
    }
}

/// Outcome that an answer tells; changes the row where it is done.
fn outcome(answer: Answer, row: &mut Map<String, Value>) -> Outcome {
    if let Some(why) = answer.reject {
        return Outcome::Reject(failure("", why));
    }
    if let Some(why) = answer.retry {
        return Outcome::Retry(failure("", why));
    }
    if let Some(now) = answer.row {
        *row = now;
    }
    let outputs = answer.emit.into_iter().map(|emit| wire::Output {
        r#type: emit.r#type,
        payload: emit.data.to_string().into(),
        content_type: Format::Json.media_type().to_owned(),
        delay_ms: emit
            .delay
            .map_or(Duration::ZERO, |delay| delay.0)
            .as_millis() as u64,
    });
    Outcome::Done(wire::Done {
        outputs: outputs.collect(),
        operations: Vec::new(),
    })
}

fn failure(class: &str, text: String) -> wire::Failure {
    wire::Failure {
        class: class.to_owned(),
        text,
        place: String::new(),
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
