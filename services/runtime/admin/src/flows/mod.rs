//! Flows without a ledger: where an event lies ([`search`]), and the whole flow it belongs to, rebuilt from what is
//! left of it ([`rebuild`]). And events that have something in
//! common ([`find`]), the event made by hand, with which a flow begins ([`Sender`]), and the [`schedules`] that begin flows by the
//! [`clock`].
//!
//! A tracked flow has a ledger, which [`Store::flow`](oncue_core::store::Store::flow) reads; this is for all
//! others. What is found here is what streams, marks and letters still hold.

mod begin;
pub mod clock;
mod find;
mod hold;
mod rebuild;
pub mod schedules;
pub mod search;

pub use self::begin::{HandMadeEvent, Sender};
pub use self::find::{EventQuery, FlowState, FoundPage, PageLimits, find};
pub use self::hold::Hold;
pub use self::rebuild::{Rebuilt, rebuild};
pub use self::search::{FlowSearch, FoundEvent, SearchLimits, Searched, Sources};
