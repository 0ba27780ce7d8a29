//! Counts of a listener, for metrics.

use std::sync::atomic::{AtomicU64, AtomicUsize};

/// Counts of a listener, for metrics.
#[derive(Debug, Default)]
pub struct Counts {
    /// Connections open right now.
    pub open: AtomicUsize,
    /// Connections refused, since their address had too many.
    pub refused: AtomicU64,
    /// Connections without a request in hand that were ended to make room.
    pub gave_way: AtomicU64,
    /// Connections cut off, since their client did not read.
    pub stalled: AtomicU64,
}
