//! A function whose handler is in the test.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use oncue::foreign::{Foreign, ForeignAnswer, ForeignFiles, ForeignRun, Lost};
use parking_lot::Mutex;
use prost::Message as _;
use serde_json::json;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use super::say;
use crate::convert::{self, Description, Parts};
use crate::files::OpenFiles;
use crate::frames::{FEATURES, MAX_FRAME, VERSION};
use crate::protocol as wire;
use crate::protocol::frame::Frame as Content;

/// Function of an app, and what the test has of it in hand.
pub struct TestedFunction {
    description: Description,
    runs: Mutex<Runs>,
    files: OpenFiles,
}

/// Runs that the test has, by number.
#[derive(Default)]
struct Runs {
    last: u64,
    open: HashMap<u64, OpenRun>,
}

/// Run without an answer.
struct OpenRun {
    /// Events in it.
    count: usize,
    files: ForeignFiles,
    /// Events of it that were answered.
    parts: Parts,
    answer: oneshot::Sender<Result<ForeignAnswer, Lost>>,
}

impl TestedFunction {
    /// A function of which nothing runs yet.
    pub fn new(description: Description) -> Self {
        Self {
            description,
            runs: Mutex::default(),
            files: OpenFiles::default(),
        }
    }

    /// The function for an app.
    pub fn foreign(self: &Arc<Self>) -> Foreign {
        let function = self.clone();
        self.description.foreign(Box::new(move |run| {
            let answer = function.ask(&run);
            Box::pin(async move {
                answer.await.unwrap_or_else(|_| {
                    // Its sender lives as long as the run.
                    Err(Lost::Row("the run was given up".to_owned()))
                })
            })
        }))
    }

    /// Tells the test that it may be given runs.
    pub fn welcome(&self) {
        self.send(Content::Welcome(wire::Welcome {
            version: VERSION,
            features: FEATURES.map(str::to_owned).to_vec(),
            max_frame: MAX_FRAME as u32,
            timeout_ms: self.description.limits.timeout.0.as_millis() as u64,
        }));
    }

    fn ask(&self, run: &ForeignRun) -> oneshot::Receiver<Result<ForeignAnswer, Lost>> {
        let (answer, answered) = oneshot::channel();
        let mut runs = self.runs.lock();
        runs.last += 1;
        let number = runs.last;
        let open = OpenRun {
            count: run.events.len(),
            files: run.files.clone(),
            parts: Parts::default(),
            answer,
        };
        runs.open.insert(number, open);
        drop(runs);
        let runs = vec![convert::run(number, run)];
        self.send(Content::Invoke(wire::Invoke { runs }));
        answered
    }

    /// Takes a frame of the test.
    pub fn take(self: &Arc<Self>, content: Content, runtime: &Handle) {
        match content {
            Content::Answer(answer) => {
                for result in answer.results {
                    self.answered(result);
                }
            }
            Content::FileRequest(request) => {
                let runs = self.runs.lock();
                let files = runs.open.get(&request.run).map(|run| run.files.clone());
                drop(runs);
                let function = self.clone();
                runtime.spawn(async move {
                    let reply = function.files.reply(files, request).await;
                    function.send(Content::FileReply(reply));
                });
            }
            // What is logged stands in the test's own output.
            _ => {}
        }
    }

    fn answered(&self, result: wire::RunResult) {
        let number = result.number;
        self.files.close_of(number);
        let mut runs = self.runs.lock();
        let Entry::Occupied(mut entry) = runs.open.entry(number) else {
            return;
        };
        let count = entry.get().count;
        let whole = match entry.get_mut().parts.take(result, count) {
            Ok(None) => return,
            Ok(Some(result)) => Ok(result),
            Err(why) => Err(why),
        };
        let open = entry.remove();
        drop(runs);
        let timeout = self.description.limits.timeout.0;
        let answer = whole.and_then(|result| self.description.answer(result, count, timeout));
        let answer = answer.unwrap_or_else(|text| {
            Err(Lost::Ended {
                class: "protocol",
                text,
            })
        });
        // Nobody waits where luck has ended the worker.
        let _ = open.answer.send(answer);
    }

    fn send(&self, content: Content) {
        let frame = wire::Frame {
            frame: Some(content),
        };
        let frame = STANDARD.encode(frame.encode_to_vec());
        say(&json!({ "function": self.description.manifest.name, "frame": frame }));
    }
}
