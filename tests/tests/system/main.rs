//! Real servers, real binaries, real faults. Each test has a house of its own.

mod clicks;
mod crash;
mod delivery;
mod dlq;
mod files;
mod recover;
mod store;
mod traces;
mod webhook;
