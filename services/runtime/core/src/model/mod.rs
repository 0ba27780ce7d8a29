//! Data that programs exchange: what a function is, what a flow has come to, what became of a function's events, what would
//! come of a dead letter.

pub mod audit;
pub mod dry_run;
pub mod flow;
pub mod manifest;
