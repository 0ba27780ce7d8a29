//! What the library promises without any server.

mod config;
mod event;
mod function;
mod state;
