//! Both servers as one: whether they still belong to one time, copies of them that do, who may do what there, and what lies in them:
//! messages of streams, and rows of tables.

pub mod agreement;
pub mod backup;
mod rdb;
pub mod rights;
pub mod rows;
pub mod streams;
pub mod upkeep;
