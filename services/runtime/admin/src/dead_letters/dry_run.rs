//! The function's own program runs its handler on the letter and on the row as it is now, commits nothing, and says what
//! would have come of it.

use std::collections::BTreeMap;
use std::path::Path;

use prost::Message as _;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::envelope;
use super::letters::Letter;
use crate::program;
use oncue_core::bus::Bus;
use oncue_core::config::Config;
use oncue_proto::event;

/// What `FUNCTION --try` answers.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Answer {
    /// `applied`, `retry` or `dead`.
    pub outcome: String,
    pub reason: String,
    pub message: String,
    pub site: String,
    pub set: BTreeMap<String, Value>,
    pub del: Vec<String>,
    pub operations: Vec<String>,
    pub emits: Vec<Emitted>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Emitted {
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
) -> Result<Answer, String> {
    let mut complete = envelope::complete(bus, &letter.content).await?;
    // As it would be sent: under the identity it would have.
    complete.envelope = Some(envelope::redriven(&complete, event::now_ms()));
    program::ask(
        bin,
        config,
        &letter.content.function,
        "--try",
        &complete.encode_to_vec(),
    )
    .await
}
