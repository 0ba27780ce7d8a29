//! Spans of the event path: built when they end, from ids they had from the start, and handed to a thread that sends
//! them.
//!
//! | file | what becomes of a span |
//! |---|---|
//! | `span_ids` | ids and headers, before there is a span |
//! | `span` | one buffer of OTLP, written field by field |
//! | `author_spans` | spans of `tracing`, encoded when the SDK ends them |
//! | `queue` | batches in memory, and the thread that empties them |
//! | `exporter` | requests to the collector |
//! | `console` | lines on standard output, in place of requests |

mod author_spans;
mod console;
mod exporter;
mod batch;
mod queue;
mod span;
pub(super) mod span_ids;

pub(super) use author_spans::AuthorSpans;
pub(super) use queue::SpanQueue;
pub(super) use span::FixedAttributes;
pub use span::{Kind, Span, Value};
