//! Dry run of a redrive: the function's own program runs its handler on the letter and on the row as it is now,
//! commits nothing, and says what would have come of it.
//!
//! Answers hold for the moment: another event may change the row before the redrive.
//! A handler must make no call to the outside while its context says that it is tried; a function that runs at most
//! once refuses to be tried.

use std::collections::BTreeMap;
use std::path::Path;

use prost::Message as _;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::letters::Letter;
use super::{LetterError, envelope};
use crate::program;
use oncue_core::bus::Bus;
use oncue_core::config::Config;
use oncue_proto::event;

/// Answer of `FUNCTION --try`: the outcome, and what would have changed.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct DryRun {
    /// `applied`, `retry` or `dead`.
    /// `retry` also where the handler panicked or ran into its timeout.
    pub outcome: String,
    /// Class of the reason; set where the event could not be read or decoded, else empty.
    pub reason: String,
    /// Words of the error, empty for `applied`.
    pub message: String,
    /// File and line that failed, where that is known.
    pub site: String,
    /// Fields of the row that would be written.
    /// Values are as Redis would hold them, as text.
    pub set: BTreeMap<String, Value>,
    /// Fields of the row that would be removed.
    pub del: Vec<String>,
    /// Operations without a row, in words.
    /// Counters, sets and the like, which are written without reading a row.
    pub operations: Vec<String>,
    /// In the order in which the handler returned them.
    pub emits: Vec<EmittedEvent>,
}

impl DryRun {
    /// Whether a redrive would go well if nothing changes until then.
    pub fn is_applied(&self) -> bool {
        self.outcome == "applied"
    }
}

/// An event that would be emitted.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct EmittedEvent {
    /// Full type, `DOMAIN.NOUN.VERB`, which is also the beginning of the subject.
    #[serde(rename = "type")]
    pub ty: String,
    pub key: String,
    /// Protobuf, in base64.
    pub payload: String,
}

/// Tries one letter with its function's program in the folder `bin`.
///
/// One process, at most one direct get for the payload, and the program's own questions to both servers.
///
/// # Errors
/// [`LetterError::PayloadGone`] and [`LetterError::Bus`] as of [`complete`](super::complete);
/// [`LetterError::Program`] where the program is missing, refuses, or answers in another form.
pub async fn attempt(
    letter: &Letter,
    bus: &Bus,
    config: &Config,
    bin: &Path,
) -> Result<DryRun, LetterError> {
    let mut complete = envelope::complete(bus, &letter.content).await?;
    // As it would be sent: under the identity it would have.
    complete.envelope = Some(envelope::redriven(bus.app(), &complete, event::now_ms()));
    let function = &letter.content.function;
    Ok(program::ask(bin, config, function, "--try", &complete.encode_to_vec()).await?)
}
