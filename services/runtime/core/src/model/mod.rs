//! Data that programs exchange: what a function is, what a flow has come to, what became of a function's events.

pub mod audit;
pub mod flow;
pub mod manifest;
