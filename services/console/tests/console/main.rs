//! The console over HTTP, with real servers behind it.

mod guards;
mod harness;
mod letters;
mod looking;
mod searching;
