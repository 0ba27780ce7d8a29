//! `oncue-host --testing`: an app in process, for the test kits of other languages. The app is that of the test kit in Rust;
//! handlers run in the test, which speaks to this process over stdin and stdout, a JSON object for each line:
//!
//! * `{"number": 1, "act": {"publish": {...}}}` is an act of the test, one at a time; the reply has its number, and `result`
//!   or `error`.
//! * `{"function": "bill", "frame": "..."}` is a frame of the function protocol, in base64, in either direction. The act
//!   `with` brings the function's `Hello`.
//! * `{"play": true}` within the act `luck` asks for the scenario, which ends with the act `played`.

mod acts;
mod function;

use std::collections::HashMap;
use std::io::{BufRead as _, Write as _};
use std::panic::AssertUnwindSafe;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures_util::FutureExt as _;
use oncue::stop;
use oncue::testing::{App, Luck};
use oncue_proto::Catalog;
use parking_lot::Mutex;
use prost::Message as _;
use serde_json::{Value, json};
use tokio::signal::unix::SignalKind;
use tokio::sync::Mutex as AsyncMutex;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use self::acts::{Act, Fired, Line, LuckAct, Played};
use self::function::TestedFunction;
use crate::convert::Description;
use crate::protocol as wire;
use crate::protocol::frame::Frame as Content;

/// Functions of the app, by name.
type Functions = Arc<Mutex<HashMap<String, Arc<TestedFunction>>>>;

/// An act of the test, with its number.
type Numbered = (u64, Act);

/// Serves a test until it hangs up.
pub fn serve() -> ExitCode {
    // What panics becomes the error of an act.
    std::panic::set_hook(Box::new(|_| {}));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    match runtime {
        Ok(runtime) => runtime.block_on(async {
            // Meant for the test, whose end is the end of this as well.
            let interrupt = SignalKind::interrupt();
            let _ignored = tokio::signal::unix::signal(interrupt);
            let functions = Functions::default();
            let acts = read(&functions);
            let kit = Kit {
                functions,
                acts: AsyncMutex::new(acts),
                names: Mutex::default(),
                catalog: Mutex::default(),
            };
            let mut app = App::new();
            app.keep_journal();
            kit.perform_all(&mut app).await;
            ExitCode::SUCCESS
        }),
        Err(e) => stop(1, &e.to_string()),
    }
}

/// Reads lines in a thread of its own, so that the test can always write: frames go to their functions, acts are returned.
fn read(functions: &Functions) -> UnboundedReceiver<Numbered> {
    let (acts, receiver) = unbounded_channel();
    let functions = functions.clone();
    let runtime = tokio::runtime::Handle::current();
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines() {
            let read = line.map_err(|e| e.to_string());
            let parsed =
                read.and_then(|line| serde_json::from_str(&line).map_err(|e| e.to_string()));
            match parsed {
                Ok(Line::Act { number, act }) => match Act::read(act) {
                    Ok(act) => {
                        let _ = acts.send((number, act));
                    }
                    Err(why) => say(&json!({ "number": number, "error": why })),
                },
                Ok(Line::Frame { function, frame }) => {
                    let known = functions.lock().get(&function).cloned();
                    match (known, decoded(&frame)) {
                        (Some(known), Ok(content)) => known.take(content, &runtime),
                        (None, _) => {
                            lost(&format!("a frame of {function}, which it does not know"));
                        }
                        (_, Err(why)) => lost(&format!("no frame of {function}: {why}")),
                    }
                }
                Err(why) => lost(&format!("no line of a test: {why}")),
            }
        }
        std::process::exit(0);
    });
    receiver
}

/// Tells the test that it is not understood, whatever it waits for.
fn lost(why: &str) {
    say(&json!({ "number": 0, "error": format!("oncue-host has read {why}") }));
}

/// Writes a line to the test.
fn say(line: &Value) {
    let mut out = std::io::stdout().lock();
    // A test that has gone closes its end of stdin as well.
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

/// A frame out of its base64.
fn decoded(frame: &str) -> Result<Content, String> {
    let bytes = STANDARD.decode(frame).map_err(|e| e.to_string())?;
    let frame = wire::Frame::decode(Bytes::from(bytes)).map_err(|e| e.to_string())?;
    frame.frame.ok_or_else(|| "an empty frame".to_owned())
}

/// State that the acts of a test have in common.
struct Kit {
    functions: Functions,
    acts: AsyncMutex<UnboundedReceiver<Numbered>>,
    /// Functions in the order in which they came.
    names: Mutex<Vec<String>>,
    /// Types of their events.
    catalog: Mutex<Catalog>,
}

impl Kit {
    /// Performs one act after the other, until the test hangs up, or has played its scenario to the end.
    async fn perform_all(&self, app: &mut App) -> Option<Played> {
        loop {
            let (number, act) = self.acts.lock().await.recv().await?;
            let result = match act {
                Act::Played(played) => {
                    say(&json!({ "number": number }));
                    return Some(played);
                }
                // An app that does not come to rest panics.
                act => AssertUnwindSafe(self.perform(app, act))
                    .catch_unwind()
                    .await
                    .unwrap_or_else(|panic| Err(oncue::testing::panic_text(panic.as_ref()))),
            };
            match result {
                Ok(result) => say(&json!({ "number": number, "result": result })),
                Err(error) => say(&json!({ "number": number, "error": error })),
            }
        }
    }

    async fn perform(&self, app: &mut App, act: Act) -> Result<Value, String> {
        match act {
            Act::With(hello) => self.with(app, &hello).map(|()| Value::Null),
            Act::Publish(event) => {
                let payload = event.payload()?;
                let key = self.key(&event.ty, &payload)?;
                Ok(json!(app.publish_encoded(&event.ty, &key, payload)))
            }
            Act::Every { seconds, fired } => self.every(app, seconds, fired),
            Act::Settle => {
                app.settle().await;
                Ok(Value::Null)
            }
            Act::Advance(ms) => {
                app.advance(Duration::from_millis(ms)).await;
                Ok(Value::Null)
            }
            Act::Time => Ok(json!(app.now())),
            Act::Row(place) => {
                app.check_table(&place.table)?;
                let found = app.fields(&place.table, &place.key);
                let row =
                    found.map(|(version, fields)| json!({ "version": version, "fields": fields }));
                Ok(row.unwrap_or_default())
            }
            Act::State(place) => {
                app.check_table(&place.table)?;
                Ok(app.state(&place.table, &place.key))
            }
            Act::Events { ty } => {
                let found = app.payloads(&ty).into_iter();
                Ok(found.map(|payload| STANDARD.encode(payload)).collect())
            }
            Act::DeadLetters => Ok(acts::dead_letters(app)),
            Act::Journal => Ok(json!(app.journal())),
            Act::PutFile(file) => {
                let content = file.content()?;
                app.put_described_file(&file.name, &file.metadata, content);
                Ok(Value::Null)
            }
            Act::File { name } => Ok(app
                .file(&name)
                .map_or(Value::Null, |content| json!(STANDARD.encode(content)))),
            Act::Observe { name, value } => {
                app.observe(&name, &value);
                Ok(Value::Null)
            }
            Act::Luck(luck) => self.luck(luck).await,
            // Seen to before.
            Act::Played(_) => Ok(Value::Null),
        }
    }

    /// Takes a function, by the `Hello` with which its child would begin.
    fn with(&self, app: &mut App, hello: &str) -> Result<(), String> {
        let Content::Hello(hello) = decoded(hello)? else {
            return Err("a function begins with its Hello".to_owned());
        };
        let manifest = hello.manifest.unwrap_or_default();
        let name = manifest.name.clone();
        self.catalog
            .lock()
            .add(&hello.contract)
            .map_err(|e| format!("{name}: its contract: {e}"))?;
        let description = Description::new(manifest, hello.contract.to_vec())
            .map_err(|why| format!("{name}: {why}"))?;
        let function = Arc::new(TestedFunction::new(description));
        app.add_foreign(function.foreign())?;
        self.functions.lock().insert(name.clone(), function.clone());
        self.names.lock().push(name);
        function.welcome();
        Ok(())
    }

    fn key(&self, ty: &str, payload: &[u8]) -> Result<String, String> {
        let catalog = self.catalog.lock();
        let entry = catalog
            .get(ty)
            .map_err(|_| format!("no function of this app acts on or emits {ty}"))?;
        let reader = entry.key_reader(None)?;
        reader.read(payload).map_err(|e| format!("{ty}: {e}"))
    }

    fn every(&self, app: &mut App, seconds: f64, fired: Fired) -> Result<Value, String> {
        if seconds < 1.0 || seconds.fract() != 0.0 {
            return Err(format!(
                "an interval is whole seconds, at least one, and not {seconds} s"
            ));
        }
        let interval = Duration::from_secs(seconds as u64);
        match fired {
            Fired::Event(event) => {
                let payload = event.payload()?;
                let key = self.key(&event.ty, &payload)?;
                app.every_encoded(interval, &event.ty, &key, payload);
            }
            Fired::Function { function } => app.every_timer(interval, &function)?,
        }
        Ok(Value::Null)
    }

    /// Has the scenario of the test played under many lucks.
    async fn luck(&self, luck: LuckAct) -> Result<Value, String> {
        let under = Luck {
            seeds: luck.seeds.0..luck.seeds.1,
            workers: luck.workers,
            faults: luck.faults,
        };
        let tally = under
            .run(async |mut app: App| {
                let names = self.names.lock().clone();
                for name in names {
                    let function = self.functions.lock().get(&name).cloned();
                    if let Some(function) = function {
                        // It was taken before, by another app.
                        let _ = app.add_foreign(function.foreign());
                    }
                }
                say(&json!({ "play": true }));
                // Acts within acts: the scenario itself can have no luck.
                let played = Box::pin(self.perform_all(&mut app)).await;
                if let Some(Played {
                    failed: Some(failed),
                }) = played
                {
                    std::panic::resume_unwind(Box::new(failed));
                }
                app
            })
            .await;
        Ok(json!({
            "runs": tally.runs,
            "crashes": tally.crashes,
            "redeliveries": tally.redeliveries,
            "copies": tally.copies,
            "conflicts": tally.conflicts,
            "switches": tally.switches,
        }))
    }
}
