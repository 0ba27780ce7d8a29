//! Flows without a ledger: where an event lies ([`search`]), and the whole flow it belongs to, rebuilt from what is left
//! of it ([`rebuild`]).

mod rebuild;
pub mod search;

pub use self::rebuild::{Rebuilt, rebuild};
pub use self::search::{FlowSearch, FoundEvent, SearchLimits, Searched, Sources};
