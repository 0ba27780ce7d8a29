//! Spans of the event path: built when they end, from ids they had from the start, and handed to a thread that sends them.

mod author_spans;
mod console;
mod exporter;
mod queue;
mod span;
pub(super) mod span_ids;

pub(super) use author_spans::AuthorSpans;
pub(super) use queue::SpanQueue;
pub(super) use span::FixedAttributes;
pub use span::{Kind, Span, Value};
