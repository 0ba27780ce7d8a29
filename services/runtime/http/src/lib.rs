//! The HTTP side of a server of the platform, whatever it answers: gateway and console are routers on top of this.
//!
//! In reading order: [`process`] (configuration, exit codes, the signal to stop), [`serve`](fn@serve) (connections,
//! time-outs, drain), [`address`], [`shares`], [`rate`] and [`brake`] (what one client may have), [`oidc`] (whose token it is) and [`problem`] (everything that is not what a client wanted, RFC 9457).
//!
//! hyper is used directly since `axum::serve` has neither a bound on connections nor a time-out for headers: a client
//! that opens connections and says nothing would take every file descriptor there is.
//!
//! HTTP/1.1, and with [`tls`] HTTP/2 as well. Routes, state and metrics are the servers' own.

pub mod process;
pub mod address;
pub mod shares;
pub mod rate;
pub mod brake;
pub mod problem;
pub mod tls;
pub mod oidc;

mod serve;
mod counts;
mod patient;

pub use counts::Counts;
pub use serve::{Handle, Limits, Peer, serve};
