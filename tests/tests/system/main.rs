//! Real servers, real binaries, real faults. Each test has a house of its own.

mod clicks;
mod delivery;
mod files;
mod known;
mod properties;
mod store;
mod traces;
