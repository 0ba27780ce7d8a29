//! The answer of a function's program to `--audit`.

use serde::{Deserialize, Serialize};

/// What became of the events a function should have acted on, as far back as the stream goes.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Audit {
    pub function: String,
    /// Different events in the stream that match the function's triggers.
    pub accepted: u64,
    pub applied: u64,
    pub dead: u64,
    /// Not yet acked: waiting, in hand, or to be tried again.
    pub pending: u64,
    /// Acked without an effect.
    pub lost: u64,
    /// So old that their seen-marks may be gone: nothing can be said of them.
    pub expired: u64,
    /// Ids of the first of the lost.
    pub lost_ids: Vec<String>,
}
