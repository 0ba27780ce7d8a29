//! Acts of a test, as they stand in its lines.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use oncue::testing::App;
use serde::Deserialize;
use serde_json::{Value, json};

/// A line of the test.
#[derive(Deserialize)]
#[serde(untagged)]
pub enum Line {
    Act { number: u64, act: Value },
    Frame { function: String, frame: String },
}

/// One thing that a test does with its app.
#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Act {
    With(String),
    Publish(Encoded),
    Every {
        seconds: f64,
        #[serde(flatten)]
        fired: Fired,
    },
    Settle,
    /// By so many milliseconds.
    Advance(u64),
    Time,
    Row(Place),
    State(Place),
    Events {
        #[serde(rename = "type")]
        ty: String,
    },
    DeadLetters,
    Journal,
    PutFile(NamedFile),
    File {
        name: String,
    },
    Observe {
        name: String,
        value: String,
    },
    Luck(LuckAct),
    Played(Played),
}

/// An event, its payload in base64.
#[derive(Deserialize)]
pub struct Encoded {
    #[serde(rename = "type")]
    pub ty: String,
    payload: String,
}

/// Event that a schedule fires, or a function that takes none.
#[derive(Deserialize)]
#[serde(untagged)]
pub enum Fired {
    Event(Encoded),
    Function { function: String },
}

/// Key of a table.
#[derive(Deserialize)]
pub struct Place {
    pub table: String,
    pub key: String,
}

/// A file, its content in base64.
#[derive(Deserialize)]
pub struct NamedFile {
    pub name: String,
    content: String,
    #[serde(default)]
    pub metadata: BTreeMap<String, String>,
}

/// How luck is tried.
#[derive(Deserialize)]
pub struct LuckAct {
    /// From the first seed to the one behind the last.
    pub seeds: (u64, u64),
    pub workers: usize,
    pub faults: bool,
}

/// End of a scenario.
#[derive(Deserialize)]
pub struct Played {
    /// Text of the exception by which it failed.
    pub failed: Option<String>,
}

impl Act {
    /// Reads an act; a sentence that names it where it cannot be one.
    pub fn read(act: Value) -> Result<Self, String> {
        let name = act.as_object().and_then(|act| act.keys().next().cloned());
        let name = name.or_else(|| act.as_str().map(str::to_owned));
        serde_json::from_value(act)
            .map_err(|e| format!("{}: {e}", name.unwrap_or_else(|| "no act".to_owned())))
    }
}

impl Encoded {
    pub fn payload(&self) -> Result<Bytes, String> {
        bytes(&self.payload)
    }
}

impl NamedFile {
    pub fn content(&self) -> Result<Bytes, String> {
        bytes(&self.content)
    }
}

fn bytes(text: &str) -> Result<Bytes, String> {
    let bytes = STANDARD.decode(text);
    bytes
        .map(Bytes::from)
        .map_err(|e| format!("no base64: {e}"))
}

/// Dead letters of an app, under the names that tests have for them.
pub fn dead_letters(app: &App) -> Value {
    let letters = app.dead_letters().into_iter();
    letters
        .map(|letter| {
            json!({
                "function": letter.function,
                "reason": letter.reason,
                "message": letter.message,
                "place": letter.site,
                "attempts": letter.attempts,
                "event_id": letter.event_id,
                "event_type": letter.event_type,
                "key": letter.key,
            })
        })
        .collect()
}
