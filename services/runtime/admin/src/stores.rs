//! Both servers as one: whether they still belong to one time, copies of them that do, and who may do what there.

pub mod agreement;
pub mod backup;
pub mod rights;
pub mod upkeep;
