//! What the library promises without any server.

mod config;
mod event;
mod flow;
mod function;
mod state;
