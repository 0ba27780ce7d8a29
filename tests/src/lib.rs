//! Shared by all tests of the system: servers and programs of a test's own, faults, clients, doubles.

pub mod cluster;
pub mod proxy;
pub mod http;
pub mod issuer;
pub mod events;
pub mod collector;
pub mod pictures;
pub mod any_store;
pub mod skip;
pub mod fuzz;
pub mod chaos;
pub mod bench;
