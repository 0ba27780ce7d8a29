//! Batches of finished spans on their way from the queue to the exporter, and counts of what became of them.

use std::sync::atomic::AtomicU64;

use oncue_proto::protobuf::put_bytes;

/// Counts of spans since the start; those that are missing wait, or found no room.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// All that came, also those that found no room.
    pub handed: AtomicU64,
    /// Taken by the collector, or printed.
    pub delivered: AtomicU64,
    /// Lost on the way, or refused by the collector.
    pub failed: AtomicU64,
}

/// Spans as fields of an OTLP `ScopeSpans`, one behind the other.
#[derive(Debug, Default)]
pub(super) struct Batch {
    /// Number of spans.
    pub spans: usize,
    /// Each span as field 2 of `ScopeSpans`.
    pub bytes: Vec<u8>,
}

impl Batch {
    /// Appends one span, an encoded OTLP `Span`.
    pub fn push(&mut self, span: &[u8]) {
        self.spans += 1;
        put_bytes(2, span, &mut self.bytes);
    }
}
