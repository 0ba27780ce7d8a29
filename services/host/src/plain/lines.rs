//! Children that know nothing of Oncue: one JSON object in a line on stdin for each event, one on stdout for its outcome.
//!
//! In: a CloudEvent in its JSON form, with `row`, `flow`, `cause` and `attempt`. Out: `{}` for done, with `row` for the row as
//! it is to be, and `emit` for a list of events (`type`, `data`, `delay`); or `{"retry": "why"}`, or `{"reject": "why"}`.

use std::sync::Arc;
use std::time::Instant;

use oncue_proto::{Catalog, event};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::unix::pipe::Receiver;
use tokio::process::ChildStdin;
use tokio::sync::watch;

use super::{Answer, MAX_ANSWER, PlainRun, data};
use crate::dispatch::{Dispatcher, Ended, FAREWELL, told_to_stop};
use crate::output::{self, LastLine};
use crate::process::{LAST_WORDS, Process, end_text};
use crate::protocol as wire;
use crate::protocol::event_result::Outcome;
use crate::protocol::log::Severity;

/// Lives the life of a child in a place.
pub async fn live(
    dispatcher: &Arc<Dispatcher>,
    place: usize,
    stopping: &watch::Receiver<bool>,
) -> Ended {
    let mut process = match Process::with_pipes(&dispatcher.spec) {
        Ok(process) => process,
        Err(e) => return Ended::crash(format!("{}: {e}", dispatcher.spec.run.join(" "))),
    };
    let last = LastLine::default();
    let child = process.id();
    let Some(stderr) = process.stderr.take() else {
        return Ended::crash("no pipe from it");
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
        return Ended::crash("no pipe to it");
    };
    let Some(stdout) = process.stdout.take() else {
        return Ended::crash("no pipe from it");
    };
    let mut talk = Talk {
        dispatcher,
        catalog: dispatcher.description.catalog(),
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
                return Ended::crash("stopped");
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
    dispatcher.is_spent(place);
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
            Ended::crash(format!("the child {child} {}{said}", end_text(status)))
        }
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
    lines: BufReader<Receiver>,
}

impl Talk<'_> {
    /// Asks for one event of a run after the other; each begins with the row that the one before has left.
    async fn run(&mut self, run: &wire::Run) -> Result<wire::RunResult, Ended> {
        let mut plain = PlainRun::new(run);
        for event in &run.events {
            let began = Instant::now();
            let outcome = match data(&self.catalog, event) {
                Err(undecodable) => undecodable,
                Ok(_) if run.check => Outcome::Done(wire::Done::default()),
                Ok(data) => self.ask(&mut plain, event, data).await?,
            };
            plain.settle(outcome, began);
        }
        Ok(plain.result())
    }

    /// Asks for one event.
    async fn ask(
        &mut self,
        plain: &mut PlainRun<'_>,
        event: &wire::Event,
        data: Value,
    ) -> Result<Outcome, Ended> {
        let run = plain.run;
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
            "row": plain.row,
        });
        if !event.cause.is_empty() {
            question["cause"] = json!(event.cause);
        }
        if run.dry_run {
            question["dryrun"] = json!(true);
        }
        if let Some(line) = self.unasked() {
            return Err(protocol(format!(
                "the child wrote {line:?}, which nobody had asked for: each event has one line for an answer; it was killed"
            )));
        }
        let limit = self.dispatcher.timeout;
        let line = match tokio::time::timeout(limit, self.exchange(&question)).await {
            Ok(Some(line)) => line,
            // Its end says more.
            Ok(None) => return Err(Ended::crash("")),
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
        Ok(plain.take(answer))
    }

    /// Beginning of what the child has written since its last answer, if it is no empty line. It would pass for the answer to the
    /// next event.
    fn unasked(&mut self) -> Option<String> {
        let mut written = self.lines.buffer().to_vec();
        self.lines.consume(written.len());
        let mut more = [0; 200];
        while let Ok(read @ 1..) = self.lines.get_ref().try_read(&mut more) {
            written.extend_from_slice(&more[..read]);
        }
        let text = String::from_utf8_lossy(&written);
        let text = text.trim();
        (!text.is_empty()).then(|| text.chars().take(200).collect())
    }

    /// Writes a line and reads one; none where the child is gone.
    async fn exchange(&mut self, question: &Value) -> Option<Vec<u8>> {
        let mut line = question.to_string();
        line.push('\n');
        self.stdin.write_all(line.as_bytes()).await.ok()?;
        self.stdin.flush().await.ok()?;
        let mut answer = Vec::new();
        let mut limited = (&mut self.lines).take(MAX_ANSWER as u64);
        limited.read_until(b'\n', &mut answer).await.ok()?;
        (!answer.is_empty()).then_some(answer)
    }
}
