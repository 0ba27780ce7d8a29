//! Answers of `/api/*`: what the page asks for, as JSON. One file a subject.

pub mod function;
pub mod flow;
pub mod events;
pub mod recent;
pub mod search;
pub mod find;
pub mod letters;
pub mod actions;
pub mod pause;
pub mod bounds;
pub mod restart;
pub mod publish;
pub mod drift;
pub mod doctor;
pub mod logs;
pub mod notices;
pub mod rows;
pub mod schedules;
pub mod streams;
pub mod audit;
pub mod decode;
