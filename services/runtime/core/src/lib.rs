//! Platform layer of Oncue: NATS, Redis and configuration, and the data that Oncue's programs exchange. No worker, no
//! OpenTelemetry, no HTTP.
//!
//! * [`app`]: the name of an app, and what carries it on the servers.
//! * [`config`]: `oncue.toml` and the environment, checked before anything is opened.
//! * [`bus`]: NATS. Its page says which streams, subjects and consumers there are.
//! * [`store`]: Redis. Its page says which keys there are.
//! * [`model`]: manifests, flows, audits: what one program writes and another one reads.
//! * [`agreement`]: whether the two servers still belong to one time.
//! * [`secret`]: what ids of outputs are made from, in both servers.
//! * [`program`]: where the program of a function lies.
//! * [`process`], [`backoff`], [`failpoint`]: name and end of a process, delays, crash points for tests.

pub mod app;
pub mod config;
pub mod contract;
pub mod bus;
pub mod store;
pub mod model;
pub mod process;
pub mod program;
pub mod backoff;
pub mod secret;
pub mod agreement;
pub mod failpoint;
