//! Output for a person at a terminal: styles, tables, questions.

pub mod confirm;
pub mod paint;
pub mod table;
