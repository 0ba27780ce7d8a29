//! One module per verb of the command line: its arguments and `run`, which returns the exit code.

pub mod apply;
pub mod completions;
pub mod doctor;
pub mod publish;
pub mod tail;
