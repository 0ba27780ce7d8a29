//! Data that programs exchange: what a function is, what it was before, what a flow has come to, what became of a
//! function's events, what would come of a dead letter, the letters of those that were set aside, what a gateway answers to, and
//! the API keys of clients.

pub mod api_key;
pub mod audit;
pub mod check;
pub mod dry_run;
pub mod flow;
pub mod history;
pub mod letter;
pub mod manifest;
pub mod openapi;
