//! What a function is, derived from its signature: printed by `FUNCTION --manifest`, answered on `$SRV.INFO`, and read
//! by `oncue apply`, so that what is deployed cannot drift from what is written.

use serde::{Deserialize, Serialize};

use crate::bus::layout::{self, Wanted};
use crate::config::{Config, Limits};

/// One function as data.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Manifest {
    pub name: String,
    pub version: String,
    /// Stream its consumer is on: the domain of its triggers.
    pub stream: String,
    /// Event types it acts on.
    pub triggers: Vec<String>,
    /// Subjects its consumer filters.
    pub filters: Vec<String>,
    /// State table it owns rows of, if any.
    pub table: Option<String>,
    /// Event types it may emit.
    pub emits: Vec<String>,
    /// As written in the function; `oncue.toml` goes on top.
    pub limits: Limits,
}

impl Manifest {
    /// Limits after `oncue.toml` and the environment.
    pub fn limits(&self, config: &Config) -> Limits {
        self.limits
            .clone()
            .with(&config.function(&self.name))
            .with(&config.process)
    }

    /// The consumer all its workers share.
    pub fn consumer(&self, config: &Config) -> Wanted {
        layout::consumer(
            &self.name,
            &self.stream,
            &self.filters,
            &self.limits(config),
        )
    }

    /// Domains whose streams must be there: what it reads from, emits to, sets aside in. The timer stream comes first,
    /// since others source from it.
    pub fn domains(&self) -> Vec<String> {
        let emitted = self
            .emits
            .iter()
            .map(|ty| oncue_proto::event::stream_of_type(ty).to_owned());
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
