//! What tests of the whole house share.

pub mod fuzz;
pub mod house;
pub mod proxy;
pub mod chaos;
pub mod collector;
pub mod bench;
pub mod pictures;
pub mod map_store;
pub mod any_store;
