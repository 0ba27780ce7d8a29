//! `/metrics`: text for Prometheus, and a listener for processes that have no HTTP server of their own.
//!
//! Metrics are read from their [`Source`](crate::metrics::Source) at each scrape, so a process that
//! nobody scrapes spends nothing on it. Workers answer through [`serve`]; the gateway has a server
//! and calls [`wanted`] and [`render`] itself.
//!
//! | `Accept` names | answer |
//! |---|---|
//! | `application/openmetrics-text` | OpenMetrics 1.0, with exemplars |
//! | anything else, or nothing | Prometheus text format 0.0.4 |

mod listener;
mod text_format;

pub use listener::serve;
pub use text_format::{render, wanted};
