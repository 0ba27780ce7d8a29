//! The gateway: HTTP in, events out; HTTP reads of files and state. It holds nothing itself: what it answers 202 to
//! is in a stream, and what it shows is in Redis or in the object store.
//!
//! In reading order: [`server`] (serve until told to stop), [`routes`] (which path is what), [`observe`] (what
//! happens around every request, and probes), [`door`] (who may come in), [`events`], [`files`], [`flows`], [`state`], [`site`] (static files of
//! the app). All of them work on one [`App`], read requests with [`request`] and refuse them with a [`problem`].

pub mod server;

mod app;
mod door;
mod events;
mod files;
mod flows;
mod observe;
mod problem;
mod request;
mod routes;
mod site;
mod state;

pub use app::App;
