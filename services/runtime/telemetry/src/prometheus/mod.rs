//! `/metrics`: text for Prometheus, and a listener for processes that have no HTTP server of their own.

mod listener;
mod text_format;

pub use listener::serve;
pub use text_format::{render, wanted};
