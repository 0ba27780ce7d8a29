//! What operators read and do: one model, of which the command line and the console are views.

pub mod program;
pub mod topology;
pub mod drift;
pub mod dead_letters;
pub mod trail;
