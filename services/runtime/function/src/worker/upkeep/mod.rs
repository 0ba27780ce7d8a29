//! Upkeep: work that every worker does on the side, slowly and without state of its own.
//!
//! * [`relay`] publishes outputs that stayed behind, and forgets those that need not be kept;
//! * [`restore`] publishes again what a NATS that was started anew may have lost;
//! * [`purge`] takes out of the stream what nobody needs any more.

mod purge;
mod relay;
mod restore;

pub(crate) use self::purge::purge_for_ever;
pub(crate) use self::relay::Relay;
