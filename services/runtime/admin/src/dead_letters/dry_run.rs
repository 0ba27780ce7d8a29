//! Dry run of a redrive: the function's own program runs its handler on the letter and on the row as it is now, commits
//! nothing, and says what would have come of it.

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
    pub outcome: String,
    pub reason: String,
    pub message: String,
    pub site: String,
    /// Fields of the row that would be written.
    pub set: BTreeMap<String, Value>,
    /// Fields of the row that would be removed.
    pub del: Vec<String>,
    /// Operations without a row, in words.
    pub operations: Vec<String>,
    pub emits: Vec<EmittedEvent>,
}

impl DryRun {
    pub fn is_applied(&self) -> bool {
        self.outcome == "applied"
    }
}

/// An event that would be emitted.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct EmittedEvent {
    #[serde(rename = "type")]
    pub ty: String,
    pub key: String,
    /// Protobuf, in base64.
    pub payload: String,
}

/// Tries one letter with its function's program in the folder `bin`.
pub async fn attempt(
    letter: &Letter,
    bus: &Bus,
    config: &Config,
    bin: &Path,
) -> Result<DryRun, LetterError> {
    let mut complete = envelope::complete(bus, &letter.content).await?;
    // As it would be sent: under the identity it would have.
    complete.envelope = Some(envelope::redriven(&complete, event::now_ms()));
    let function = &letter.content.function;
    Ok(program::ask(bin, config, function, "--try", &complete.encode_to_vec()).await?)
}
