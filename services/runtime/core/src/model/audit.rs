//! The answer of a function's program to `--audit`.

use serde::{Deserialize, Serialize};

use crate::store::Removed;

/// Age from which outputs count as waiting, milliseconds; younger ones are on their way.
pub const WAITING_MS: u64 = 10_000;

/// Outcomes of the events that a function should have acted on, as far back as the stream goes. Each event counts as
/// accepted and as one of the other five.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Audit {
    /// Name of the function.
    pub function: String,
    /// Different events in the stream that match the function's triggers.
    pub accepted: u64,
    /// Applied, with all their effects.
    pub applied: u64,
    /// Dead-lettered.
    pub dead: u64,
    /// Not yet acked: waiting, in flight, or to be tried again.
    pub pending: u64,
    /// Acked without an effect.
    pub lost: u64,
    /// So old that their seen-marks may be gone: nothing can be said of them.
    pub expired: u64,
    /// Commits whose outputs are in no stream yet, [`WAITING_MS`] after they were made: what follows from an applied
    /// event has not happened.
    #[serde(default)]
    pub waiting_outputs: u64,
    /// Messages that somebody removed from the stream before the function was done with them. What they were is gone with
    /// them; they count nowhere else here.
    #[serde(default)]
    pub removed: Vec<Removed>,
    /// Ids of the first lost ones.
    pub lost_ids: Vec<String>,
}

impl Audit {
    /// Number of messages that were removed too early.
    pub fn removed_messages(&self) -> u64 {
        self.removed.iter().map(|removed| removed.messages).sum()
    }
}
