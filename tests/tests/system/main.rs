//! Real servers, real binaries, real faults. Each test has a house of its own.

mod bad_input;
mod broken;
mod chaos;
mod clicks;
mod console;
mod crash;
mod delivery;
mod dlq;
mod docs;
mod files;
mod flow_cli;
mod ledger;
mod once;
mod poison;
mod properties;
mod proxy;
mod recover;
mod regressions;
mod store;
mod traces;
mod upkeep;
mod webhook;
