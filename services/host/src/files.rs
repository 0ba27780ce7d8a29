//! Files of the app, for handlers that ask for them over the line: one reply for each request, and what a run has open goes
//! with it.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream;
use oncue::foreign::{FileParts, ForeignFailure, ForeignFiles};
use oncue_core::bus::objects::Object;
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::protocol as wire;
use crate::protocol::file_reply::Outcome;
use crate::protocol::file_request::{Act, Create};

/// Files that one run may have open.
const MAX_OPEN: usize = 64;
/// Parts of a file on their way to the store, besides those that the store itself holds.
const PARTS: usize = 2;

/// Files that a child has open, by the number of the request that opened each.
#[derive(Clone, Default)]
pub struct OpenFiles(Arc<Mutex<HashMap<u64, OpenFile>>>);

struct OpenFile {
    run: u64,
    /// `None` while a request is at work on it.
    transfer: Option<Transfer>,
}

enum Transfer {
    Read(FileParts),
    Write(Upload),
}

/// File that is being written. Unless it is finished, dropping it takes back what was written.
struct Upload {
    /// `None` once the last part has come.
    parts: Option<mpsc::Sender<io::Result<Bytes>>>,
    stored: JoinHandle<Result<Object, ForeignFailure>>,
}

impl Drop for Upload {
    fn drop(&mut self) {
        self.stored.abort();
    }
}

impl OpenFiles {
    /// Closes whatever a run has left open.
    pub fn close_of(&self, run: u64) {
        self.0.lock().retain(|_, file| file.run != run);
    }

    /// Does what a handler asks for; `files` are those of its run, if it has that run.
    pub async fn reply(
        &self,
        files: Option<ForeignFiles>,
        request: wire::FileRequest,
    ) -> wire::FileReply {
        let number = request.number;
        let outcome = match files {
            Some(files) => self.perform(&files, request).await,
            None => Err(refusal(format!("run {} is over", request.run))),
        };
        let outcome = outcome.unwrap_or_else(|failure| {
            Outcome::Failure(wire::Failure {
                class: failure.class.to_owned(),
                text: failure.text,
                place: String::new(),
                delay_ms: 0,
            })
        });
        wire::FileReply {
            number,
            outcome: Some(outcome),
        }
    }

    async fn perform(
        &self,
        files: &ForeignFiles,
        request: wire::FileRequest,
    ) -> Result<Outcome, ForeignFailure> {
        let wire::FileRequest { number, run, act } = request;
        match act {
            Some(Act::Stat(name)) => Ok(described(files.stat(&name).await?)),
            Some(Act::Open(name)) => {
                let Some((object, parts)) = files.open(&name).await? else {
                    return Ok(Outcome::Absent(true));
                };
                self.keep(number, run, Transfer::Read(parts))?;
                Ok(described(Some(object)))
            }
            Some(Act::Next(opened)) => self.next(opened).await,
            Some(Act::Create(create)) => {
                self.keep(number, run, Transfer::Write(Upload::begin(files, create)))?;
                Ok(Outcome::Done(true))
            }
            Some(Act::Append(append)) => self.append(append.create, append.chunk).await,
            Some(Act::Finish(created)) => self.finish(created).await,
            Some(Act::Close(opened)) => {
                self.0.lock().remove(&opened);
                Ok(Outcome::Done(true))
            }
            Some(Act::Delete(name)) => {
                files.delete(&name).await?;
                Ok(Outcome::Done(true))
            }
            None => Err(refusal("this host does not know what is asked of it")),
        }
    }

    fn keep(&self, number: u64, run: u64, transfer: Transfer) -> Result<(), ForeignFailure> {
        let mut open = self.0.lock();
        let of_run = open.values().filter(|file| file.run == run);
        if of_run.count() >= MAX_OPEN {
            return Err(failure(format!("{MAX_OPEN} files are open already")));
        }
        let transfer = Some(transfer);
        open.insert(number, OpenFile { run, transfer });
        Ok(())
    }

    /// Takes the transfer of a file, for one request at a time.
    fn take(&self, number: u64) -> Result<Transfer, ForeignFailure> {
        let mut open = self.0.lock();
        let transfer = open.get_mut(&number).and_then(|file| file.transfer.take());
        transfer.ok_or_else(|| {
            refusal(format!(
                "no file is open by request {number}, or another request is at work on it"
            ))
        })
    }

    /// Gives it back, unless its run has ended meanwhile.
    fn give_back(&self, number: u64, transfer: Transfer) {
        if let Some(file) = self.0.lock().get_mut(&number) {
            file.transfer = Some(transfer);
        }
    }

    async fn next(&self, number: u64) -> Result<Outcome, ForeignFailure> {
        let mut transfer = self.take(number)?;
        let Transfer::Read(parts) = &mut transfer else {
            return Err(refusal("the file is being written"));
        };
        let Some(part) = parts.next().await else {
            self.0.lock().remove(&number);
            return Ok(Outcome::Done(true));
        };
        let part = part.map_err(|e| failure(e.to_string()))?;
        self.give_back(number, transfer);
        Ok(Outcome::Chunk(part))
    }

    async fn append(&self, number: u64, chunk: Bytes) -> Result<Outcome, ForeignFailure> {
        let transfer = self.take(number)?;
        let Transfer::Write(Upload {
            parts: Some(parts), ..
        }) = &transfer
        else {
            return Err(refusal("the file is being read"));
        };
        if parts.send(Ok(chunk)).await.is_err() {
            // The store has given up; its reason comes with the end.
            return self.end(number, transfer).await;
        }
        self.give_back(number, transfer);
        Ok(Outcome::Done(true))
    }

    async fn finish(&self, number: u64) -> Result<Outcome, ForeignFailure> {
        let transfer = self.take(number)?;
        self.end(number, transfer).await
    }

    /// Description of a file that is written to its end.
    async fn end(&self, number: u64, transfer: Transfer) -> Result<Outcome, ForeignFailure> {
        self.0.lock().remove(&number);
        let Transfer::Write(mut upload) = transfer else {
            return Err(refusal("the file is being read"));
        };
        upload.parts = None;
        let stored = (&mut upload.stored).await;
        let stored = stored.map_err(|e| failure(e.to_string()))?;
        Ok(described(Some(stored?)))
    }
}

impl Upload {
    fn begin(files: &ForeignFiles, create: Create) -> Self {
        let (parts, waiting) = mpsc::channel(PARTS);
        let files = files.clone();
        let stored = tokio::spawn(async move {
            let parts = stream::unfold(waiting, |mut waiting| async move {
                let part = waiting.recv().await?;
                Some((part, waiting))
            });
            let metadata: Vec<(&str, &str)> = create
                .metadata
                .iter()
                .map(|(name, value)| (name.as_str(), value.as_str()))
                .collect();
            files.put(&create.name, &metadata, parts.boxed()).await
        });
        Self {
            parts: Some(parts),
            stored,
        }
    }
}

fn described(object: Option<Object>) -> Outcome {
    match object {
        None => Outcome::Absent(true),
        Some(object) => Outcome::File(wire::StoredFile {
            sha256: object.sha256(),
            name: object.name,
            size: object.size,
            metadata: object.metadata.into_iter().collect(),
        }),
    }
}

/// Failure that another attempt may not meet.
fn failure(text: String) -> ForeignFailure {
    ForeignFailure {
        rejected: false,
        class: "files",
        text,
        place: String::new(),
        not_before: std::time::Duration::ZERO,
    }
}

/// Failure that every attempt will meet.
fn refusal(text: impl Into<String>) -> ForeignFailure {
    ForeignFailure {
        rejected: true,
        class: "rejected",
        ..failure(text.into())
    }
}
