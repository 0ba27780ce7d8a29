//! Code that several functions of the demo app share: the rows of tables that more than one of them reads, the
//! picture code, and signed requests to the outside.

pub mod picture;
pub mod tables;
pub mod webhook;
