//! The viewer from outside: a real one on free ports, spoken to over sockets.

mod command;
mod harness;
mod ingest;
mod limits;
mod query;
mod ui;
