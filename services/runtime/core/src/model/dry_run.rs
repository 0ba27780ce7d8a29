//! `FUNCTION --try`: the conversation of an operator's program with the program of a function that it tries.
//!
//! The function's process is shut off from the network, so it asks the operator's for all that it needs: [`Question`]s on
//! its stdout, [`Answer`]s on its stdin, each a line of JSON behind a record separator [RFC 7464]. Lines of stdout without
//! one are the handler's own.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

use crate::bus::objects::Object;

/// Record separator, in front of each text of the conversation [RFC 7464 section 2.2].
const SEPARATOR: char = '\u{1e}';

/// Bytes inside JSON: base64.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Binary(pub Vec<u8>);

impl Serialize for Binary {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&STANDARD.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Binary {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = String::deserialize(d)?;
        STANDARD.decode(text).map(Self).map_err(D::Error::custom)
    }
}

/// Letter that is to be tried; the first line on the program's stdin.
#[derive(Debug, Serialize, Deserialize)]
pub struct TriedLetter {
    /// `oncue.v1.DeadLetter` with its envelope, as a redrive would send it.
    pub letter: Binary,
    /// Creation of the letter's stream (Unix ms), part of the identity of plain messages.
    pub stream_created: u64,
}

/// Line of the function's program.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Question {
    /// The first, before any code of the author's: it has understood, and gives its handler so many milliseconds.
    Begun { timeout_ms: u64 },
    /// Fields of a row; answered by [`Answer::Row`].
    Row { table: String, key: String },
    /// Description of a file; answered by [`Answer::File`].
    File { name: String },
    /// Bytes of a file, from one position to before another; answered by [`Answer::Bytes`].
    Bytes { object: Object, from: u64, to: u64 },
    /// The last: what would come of it.
    Finished(DryRun),
}

/// Line of the operator's program.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// None where there is no row.
    Row(Vec<(String, Binary)>),
    /// `None` where there is no such file.
    File(Option<Object>),
    Bytes(Binary),
    /// The server that was asked does not answer, or not so.
    Failed(String),
}

/// Outcome of a dead letter if it were redriven now.
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
    /// For a person: another reason for which it may have failed.
    pub hint: String,
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
    /// Protobuf.
    pub payload: Binary,
}

/// One text of the conversation, with the end of its line.
pub fn to_line(text: &impl Serialize) -> String {
    // Values of these types have no form that JSON lacks.
    let json = serde_json::to_string(text).unwrap_or_default();
    format!("{SEPARATOR}{json}\n")
}

/// Text of the conversation in a line; `None` for a line of somebody else's. What the handler had begun to print on the
/// line is left out.
pub fn of_line<T: DeserializeOwned>(line: &str) -> Option<serde_json::Result<T>> {
    let (_, json) = line.rsplit_once(SEPARATOR)?;
    Some(serde_json::from_str(json))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_conversation_is_told_from_what_a_handler_prints() {
        let line = to_line(&Question::Row {
            table: "pages".into(),
            key: "/a\n\u{1e}".into(),
        });
        assert_eq!(line.matches('\n').count(), 1, "{line}");
        let read = of_line::<Question>(&format!("printed without an end{line}"));
        let Some(Ok(Question::Row { key, .. })) = read else {
            panic!("{read:?}");
        };
        assert_eq!(key, "/a\n\u{1e}");
        assert!(of_line::<Question>(r#"{"finished":{}}"#).is_none());
        assert!(of_line::<Question>("\u{1e}{}").is_some_and(|read| read.is_err()));
    }
}
