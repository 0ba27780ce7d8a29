//! Upkeep: work that every worker does on the side, slowly and without state of its own.
//!
//! * [`relay`] publishes outputs that stayed behind, and forgets those that need not be kept;
//! * [`restore`] publishes again what a NATS that was started anew may have lost;
//! * [`purge`] takes out of the stream what nobody needs any more, and out of Redis marks that have expired; and watches
//!   that nobody else takes out what is needed.
//!
//! Nobody is elected for it; where one worker is enough, a lease in Redis keeps the others away.
//! Each loop waits for a random time around its interval, so many workers spread by themselves; two
//! that meet at the same work do it twice, which is safe everywhere here.

mod purge;
mod relay;
mod restore;

pub(crate) use self::purge::{OwnStream, drop_expired_marks_for_ever};
pub(crate) use self::relay::Relay;

use std::time::Duration;

use oncue_proto::event;

/// Unix milliseconds of `age` ago.
fn before(age: Duration) -> u64 {
    event::now_ms().saturating_sub(age.as_millis() as u64)
}
