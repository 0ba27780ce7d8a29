//! What several functions share: the rows of tables that more than one of them reads, and the picture code.

pub mod picture;
pub mod tables;
