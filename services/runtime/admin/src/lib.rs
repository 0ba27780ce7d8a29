//! Everything an operator of Oncue reads and does, as one model. The command line and the console are views of it: both
//! show the same answer to the same question, because it is computed here and nowhere else.
//!
//! An operator can
//!
//! * see how every function fares: [`functions`], from the durable [`consumers`] on the bus and from what the workers
//!   and every `oncue up` answer themselves ([`services`]);
//! * see who acts on what and who emits what, as declared: [`topology`]; and where what happens differs: [`drift`];
//! * look up any event, and rebuild the flow it belongs to from what is left of it: [`flows`];
//! * read dead letters by cause, try them, give them back to their function, or give them up: [`dead_letters`];
//! * have every event of a function accounted for: [`audit`];
//! * ask a function's own [`program`], which alone knows its key and its handler.
//!
//! Nothing here is linked into a function, and nothing here prints: results are values, errors are [`AdminError`] and
//! [`program::ProgramError`].

pub mod functions;
pub mod consumers;
pub mod services;
pub mod topology;
pub mod drift;
pub mod flows;
pub mod dead_letters;
pub mod audit;
pub mod program;

mod error;

pub use error::AdminError;
