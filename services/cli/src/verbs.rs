//! One module per verb of the command line: its arguments and `run`, which returns the exit code.

pub mod new;
pub mod demo;
pub mod dev;
pub mod test;
pub mod apply;
pub mod publish;
pub mod tail;
pub mod ps;
pub mod state;
pub mod top;
pub mod flow;
pub mod map;
pub mod docs;
pub mod doctor;
pub mod health;
pub mod dlq;
pub mod audit;
pub mod check;
pub mod backup;
pub mod restore;
pub mod recover;
pub mod remove;
pub mod restart;
pub mod schedule;
pub mod completions;
pub mod man;
