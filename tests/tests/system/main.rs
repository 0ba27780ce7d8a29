//! Real servers, real binaries, real faults. Each test has a house of its own.

mod broken;
mod chaos;
mod clicks;
mod crash;
mod delivery;
mod files;
mod proxy;
mod store;
mod traces;
mod webhook;
