//! Chaos: a two-stage flow under load, a fault, then the question what became of every single event.
//!
//! A [`Row`](rows::Row) of the fault table opens an [`Arena`](arena::Arena) (servers, proxies, workers, a client that
//! writes down what was acknowledged), does harm by a seeded schedule, and closes it: everything is healed, drained and
//! checked. The same row runs for seconds in `make test` and as long as one likes in `make chaos`.

pub mod arena;
pub mod load;
pub mod pool;
pub mod checker;
pub mod faults;
pub mod rows;
pub mod report;
pub mod power;
pub mod progress;
pub mod table;
