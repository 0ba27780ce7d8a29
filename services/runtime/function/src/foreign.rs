//! A handler that is not in this process: everything around it is a worker like any other, and the events of one key go out
//! together with their row, once, and come back as one change of the row and an outcome for each event. For `oncue-host`;
//! an author has no use for it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use oncue_core::bus::objects::Object;
use oncue_core::config::Limits;
use oncue_core::model::manifest::FileUse;
use oncue_core::store::{Fields, Op};
use oncue_proto::event::Meta;
use oncue_proto::{Catalog, DecodeError, Draft, Format, KeyReader};
use oncue_telemetry::SpanIds;

use crate::context::Declared;
use crate::error::Error;
use crate::files::{FileStore, Files};

/// A function as another program has described it, and the way to its handler.
pub struct Foreign {
    /// Name of the function.
    pub name: String,
    /// Version of its program.
    pub version: String,
    /// Event types that it acts on; none for one that its schedule alone starts.
    pub triggers: Vec<String>,
    /// Event types that it may emit.
    pub emits: Vec<String>,
    /// Field of its events that is their key; `None` for the one that the contract names.
    pub key: Option<String>,
    /// Table of its rows; empty for none.
    pub table: String,
    /// Version of its rows, from 1.
    pub row_version: u32,
    /// Tables besides its own that it changes without reading them; `None` for any.
    pub changes: Option<Vec<String>>,
    /// Use that it makes of the app's files.
    pub files: FileUse,
    /// Whether it runs at most once on an event.
    pub at_most_once: bool,
    /// Limits as written in the function.
    pub limits: Limits,
    /// Runs that its processes can have under way at a time, at least 1. Where each run is counted as it begins, no more are
    /// handed out.
    pub side_by_side: usize,
    /// Encoded descriptor set of its event types.
    pub contract: Vec<u8>,
    /// The handler.
    pub call: ForeignCall,
}

/// Runs events of one key on their row, wherever the handler is.
///
/// # Errors
/// Of the future: nobody has an answer to any of the events, for one reason.
pub type ForeignCall =
    Box<dyn Fn(ForeignRun) -> BoxFuture<'static, Result<ForeignAnswer, Lost>> + Send + Sync>;

/// Events of one key, in order, and their row.
pub struct ForeignRun {
    /// Key of the row.
    pub key: Arc<str>,
    /// Version of the row as stored; the function's own for a row that is not there.
    pub row_version: u32,
    /// Fields of the row under the names that the author gave them, as text.
    pub fields: Fields,
    /// Events, in order; never empty but for a check of a row.
    pub events: Vec<ForeignEvent>,
    /// Whether they are to be run, and for good.
    pub purpose: RunPurpose,
    /// Longest run of the handler on one event.
    pub timeout: Duration,
    /// Files that the handler may use while it runs.
    pub files: ForeignFiles,
}

/// Content of a file, part by part.
pub type FileParts = BoxStream<'static, std::io::Result<Bytes>>;

/// Files of a run, as far as its function declares that it uses them. Not part of the commit.
#[derive(Clone)]
pub struct ForeignFiles {
    store: FileStore,
    declared: Declared,
}

impl ForeignFiles {
    pub(crate) fn new(store: FileStore, declared: Declared) -> Self {
        Self { store, declared }
    }

    fn files(&self) -> Files<'_> {
        Files::new(&self.store, self.declared.function, self.declared.files)
    }

    /// Description of a file; `None` where there is none.
    pub async fn stat(&self, name: &str) -> Result<Option<Object>, ForeignFailure> {
        Ok(self.files().stat(name).await?)
    }

    /// Description and content of a file; `None` where there is none.
    pub async fn open(&self, name: &str) -> Result<Option<(Object, FileParts)>, ForeignFailure> {
        let files = self.files();
        let Some(object) = files.stat(name).await? else {
            return Ok(None);
        };
        let parts = files.content(object.clone())?;
        Ok(Some((object, parts.boxed())))
    }

    /// Stores a file, in place of one of this name.
    pub async fn put(
        &self,
        name: &str,
        metadata: &[(&str, &str)],
        parts: FileParts,
    ) -> Result<Object, ForeignFailure> {
        Ok(self.files().put_stream(name, metadata, parts).await?)
    }

    /// Deletes a file; one that is not there is deleted already.
    pub async fn delete(&self, name: &str) -> Result<(), ForeignFailure> {
        Ok(self.files().delete(name).await?)
    }
}

impl From<Error> for ForeignFailure {
    fn from(error: Error) -> Self {
        Self {
            rejected: error.rejected,
            class: error.class,
            text: error.message,
            place: String::new(),
            not_before: error.not_before,
        }
    }
}

/// Whether events are to be run, and for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunPurpose {
    /// To be run and committed.
    Apply,
    /// To be run for an operator, who only wants to see what would come of it.
    DryRun,
    /// Not to be run: can row and events be read?
    Check,
}

/// One event of a run.
#[derive(Debug, Clone)]
pub struct ForeignEvent {
    /// Identity of the event.
    pub meta: Arc<Meta>,
    /// Payload, protobuf.
    pub payload: Bytes,
    /// Runs so far, this one included.
    pub attempt: u32,
    /// Span of the event in this function; none where nobody traces.
    pub ids: Option<SpanIds>,
}

/// Change of a row, and an outcome for each event of the run, in order.
#[derive(Debug, Default)]
pub struct ForeignAnswer {
    /// Fields that differ from those that were read, under the author's names.
    pub set: Fields,
    /// Fields that are no more, under the author's names.
    pub deleted: Vec<String>,
    /// Outcomes, as many as there were events.
    pub events: Vec<ForeignOutcome>,
}

/// Outcome of one event.
#[derive(Debug)]
pub struct ForeignOutcome {
    /// ForeignEffects of the handler, or its failure.
    pub result: Result<ForeignEffects, ForeignFailure>,
    /// Time that the handler took.
    pub took: Duration,
}

/// ForeignEffects of a handler on one event, besides those on the row.
#[derive(Debug, Default)]
pub struct ForeignEffects {
    /// Events that follow.
    pub drafts: Vec<Draft>,
    /// Changes without a row.
    pub ops: Vec<Op>,
}

/// Failure of the handler on one event.
#[derive(Debug, Clone)]
pub struct ForeignFailure {
    /// Whether the event can never be handled.
    pub rejected: bool,
    /// One of few, such as the type of an exception.
    pub class: &'static str,
    /// Text for the dead letter.
    pub text: String,
    /// `file:line` of the author's source, or nothing.
    pub place: String,
    /// Time before which the event is not tried again; the usual delay where that is longer.
    pub not_before: Duration,
}

/// Why a whole run has no answer.
#[derive(Debug, Clone)]
pub enum Lost {
    /// The row could not be read; the process that tried is well.
    Row(String),
    /// The process that had the events has ended: each of them may be the reason, and runs alone the next time.
    Ended {
        /// `crash`, `timeout`, `memory` or `protocol`.
        class: &'static str,
        /// Text for the dead letter.
        text: String,
    },
}

impl ForeignAnswer {
    /// This answer, if it has an outcome for each of `count` events.
    ///
    /// # Errors
    /// [`Lost::Ended`] of the class `protocol`.
    pub fn of_events(self, count: usize) -> Result<Self, Lost> {
        if self.events.len() == count {
            return Ok(self);
        }
        let text = format!("{} outcomes for {count} events", self.events.len());
        Err(Lost::Ended {
            class: "protocol",
            text,
        })
    }
}

impl Lost {
    /// Reason as a sentence.
    pub fn text(&self) -> &str {
        match self {
            Self::Row(text) | Self::Ended { text, .. } => text,
        }
    }
}

/// An event that was read as far as is needed to find its key.
pub(crate) struct Keyed {
    /// Key of the row.
    pub key: String,
    /// Payload, protobuf.
    pub payload: Bytes,
}

/// Reads the keys of events of the types that a function acts on.
pub(crate) struct Keys {
    /// By event type; none for a function without an event.
    readers: HashMap<String, (oncue_proto::Entry, KeyReader)>,
}

impl Keys {
    /// Readers for the triggers of a function.
    ///
    /// # Errors
    /// The contract lacks a type, or the type has no such field.
    pub fn new(foreign: &Foreign) -> Result<Self, String> {
        let mut catalog = Catalog::default();
        catalog.add(&foreign.contract).map_err(|e| e.to_string())?;
        catalog.add_builtin();
        for ty in &foreign.emits {
            catalog.get(ty).map_err(|e| format!("it emits {ty}: {e}"))?;
        }
        let mut readers = HashMap::new();
        for ty in &foreign.triggers {
            let entry = catalog
                .get(ty)
                .map_err(|e| format!("it acts on {ty}: {e}"))?;
            let reader = entry.key_reader(foreign.key.as_deref())?;
            readers.insert(ty.clone(), (entry.clone(), reader));
        }
        Ok(Self { readers })
    }

    /// Reads an event as far as to its key. Whether the rest of it can be read finds out who decodes it.
    pub fn read(&self, ty: &str, format: Format, payload: &[u8]) -> Result<Keyed, DecodeError> {
        if self.readers.is_empty() {
            return Ok(Keyed {
                key: String::new(),
                payload: Bytes::copy_from_slice(payload),
            });
        }
        let (entry, reader) = self
            .readers
            .get(ty)
            .ok_or_else(|| DecodeError(format!("this function does not act on {ty}")))?;
        let payload = match format {
            Format::Protobuf => Bytes::copy_from_slice(payload),
            Format::Json => entry
                .to_protobuf_discreetly(format, payload)
                .map_err(|e| DecodeError(e.to_string()))?
                .into(),
        };
        let key = reader
            .read(&payload)
            .map_err(|e| DecodeError(e.to_string()))?;
        Ok(Keyed { key, payload })
    }
}
