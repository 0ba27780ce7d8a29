//! Manifest of a function, derived from its signature: printed by `FUNCTION --manifest`, answered on `$SRV.INFO`, and
//! read by `oncue apply`, so that a deployment cannot drift from the code.

use oncue_proto::Event as _;
use oncue_proto::event;
use oncue_proto::oncue::v1::TimerFired;
use serde::{Deserialize, Serialize};

use crate::app::{AppName, OWNER};
use crate::bus::layout::{self, Wanted};
use crate::config::{Config, Limits};

/// Function as data.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Manifest {
    /// Name, 1 to 64 of a-z, 0-9 and `-`, which its app has once.
    pub name: String,
    /// Version of the program.
    pub version: String,
    /// Stream its consumer is on: the domain of its triggers.
    pub stream: String,
    /// Event types it acts on.
    pub triggers: Vec<String>,
    /// Subjects of the types it acts on, each with and without a key.
    pub filters: Vec<String>,
    /// Name of the key that it gives its events; `None` for their own.
    #[serde(default)]
    pub key: Option<String>,
    /// State table it owns rows of, if any.
    pub table: Option<String>,
    /// Version of the rows it writes.
    #[serde(default = "first_version")]
    pub row_version: u32,
    /// Event types it may emit.
    pub emits: Vec<String>,
    /// Types among `emits` that may be delayed.
    #[serde(default)]
    pub delays: Vec<String>,
    /// Tables besides its own that it changes without reading them; `*` for any, of a program that does not say.
    #[serde(default)]
    pub changes: Vec<String>,
    /// Use of the app's files.
    #[serde(default)]
    pub files: FileUse,
    /// Limits as written in the function; `oncue.toml` goes on top.
    pub limits: Limits,
}

/// Use that a function makes of the app's files.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FileUse {
    /// None at all.
    #[default]
    None,
    /// Reads files.
    Read,
    /// Reads, writes and deletes files.
    Write,
}

/// Version of rows that say none.
fn first_version() -> u32 {
    1
}

impl Manifest {
    /// Limits after `oncue.toml` and the environment.
    pub fn limits(&self, config: &Config) -> Limits {
        self.limits
            .clone()
            .with(&config.function(&self.name))
            .with(&config.process)
    }

    /// Consumer that all its workers share.
    pub fn consumer(&self, config: &Config) -> Wanted {
        layout::consumer(
            &config.app.consumer(&self.name),
            &self.stream,
            &self.subjects(&config.app),
            &self.limits(config),
        )
        .noting(OWNER, config.app.as_str())
        .noting(layout::KEY, self.key.as_deref().unwrap_or_default())
    }

    /// Table whose rows are this function's alone. One that acts on its schedule and on no event has none: nothing is counted
    /// twice by it, and it may work on the rows of another.
    pub fn owned_table(&self) -> Option<&str> {
        let acts_on_events = self.triggers.iter().any(|ty| ty != TimerFired::TYPE);
        self.table.as_deref().filter(|_| acts_on_events)
    }

    /// Subjects its consumer filters: the types it acts on, and what is redriven to it alone.
    pub fn subjects(&self, app: &AppName) -> Vec<String> {
        let mut subjects = self.filters.clone();
        let consumer = app.consumer(&self.name);
        subjects.push(event::redrive_subject(&self.stream, &consumer));
        subjects
    }

    /// Domains whose streams must be there: of its triggers, of the events it emits, of dead letters. The timer
    /// stream comes first, since others source from it.
    pub fn domains(&self) -> Vec<String> {
        let emitted = self
            .emits
            .iter()
            .map(|ty| event::stream_of_type(ty).to_owned());
        let mut domains: Vec<String> = emitted
            .chain([self.stream.clone(), layout::DLQ.to_owned()])
            .collect();
        domains.retain(|domain| domain != layout::TIMER);
        domains.sort();
        domains.dedup();
        domains.insert(0, layout::TIMER.to_owned());
        domains
    }
}
