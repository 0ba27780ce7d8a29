//! Real servers, real binaries, real faults. Each test has a house of its own.

mod bad_input;
mod broken;
mod chaos;
mod clicks;
mod crash;
mod delivery;
mod dlq;
mod docs;
mod elastic;
mod files;
mod flow_cli;
mod flows;
mod ledger;
mod once;
mod overload;
mod poison;
mod properties;
mod proxy;
mod recover;
mod regressions;
mod store;
mod telemetry;
mod traces;
mod upkeep;
mod webhook;
