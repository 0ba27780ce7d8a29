//! NATS, Redis and configuration, and the data that Oncue's programs exchange. No worker, no OpenTelemetry, no HTTP.

pub mod config;
pub mod contract;
pub mod bus;
pub mod store;
pub mod model;
pub mod process;
pub mod backoff;
pub mod failpoint;
