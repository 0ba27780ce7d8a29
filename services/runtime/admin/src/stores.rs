//! Both servers as one: whether they still belong to one time, and copies of them that do.

pub mod agreement;
pub mod backup;
pub mod upkeep;
