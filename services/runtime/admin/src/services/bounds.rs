//! Bounds of a function's workers that somebody has set in place of those of `oncue.toml`: kept in the bucket `oncue` of NATS, so that
//! they outlive restarts, and taken over by every `oncue up` of the app as soon as they change. They hold until they are taken away.
//!
//! | what | where |
//! |---|---|
//! | bounds of a function | `$KV.oncue.APP.bounds.FUNCTION`, JSON; empty once they were taken away |

use std::collections::BTreeMap;

use futures_util::future::try_join_all;
use oncue_core::app::AppName;
use oncue_core::bus::{Bus, layout};
use oncue_proto::oncue::v1::Envelope;
use serde::{Deserialize, Serialize};

use crate::AdminError;

/// Most workers that somebody may ask for on one machine: a slip of the hand must not take it down.
const MOST: u32 = 256;

/// Bounds that somebody has set for a function, on each machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetBounds {
    /// Fewest workers, whatever waits.
    pub min: u32,
    /// Most workers, whatever waits.
    pub max: u32,
    /// When they were set, Unix milliseconds.
    pub at: u64,
    /// Name of whoever set them.
    pub by: String,
    /// Reason, for the record.
    pub reason: String,
}

impl SetBounds {
    /// Refuses bounds that no function can have.
    ///
    /// # Errors
    /// A sentence for whoever typed them.
    pub fn check(&self) -> Result<(), String> {
        let Self { min, max, .. } = self;
        if min > max {
            return Err(format!("min = {min} is more than max = {max}"));
        }
        if *max == 0 {
            return Err("max = 0 would never run it; `oncue pause` has its events wait".to_owned());
        }
        if *max > MOST {
            return Err(format!("max = {max} is more than {MOST}, on each machine"));
        }
        Ok(())
    }
}

/// Subject of the bounds of a function; `*` for all of them.
pub fn subject(app: &AppName, function: &str) -> String {
    format!("$KV.oncue.{app}.bounds.{function}")
}

/// All bounds that are set, by function. What cannot be read is passed over: then the file counts.
///
/// # Errors
/// NATS does not answer.
pub async fn all(bus: &Bus) -> Result<BTreeMap<String, SetBounds>, AdminError> {
    let filter = subject(bus.app(), "*");
    let subjects = match bus.stream_subjects(layout::VALUES, &filter).await {
        Ok(subjects) => subjects,
        Err(e) if e.is_not_found() => return Ok(BTreeMap::new()),
        Err(e) => return Err(AdminError::api(filter, e)),
    };
    let asked = subjects
        .keys()
        .map(|subject| bus.last_message(layout::VALUES, subject));
    let found = try_join_all(asked).await;
    let found = found.map_err(|e| AdminError::api(filter, e))?;
    let read = found.into_iter().flatten().filter_map(|message| {
        let function = message.subject.rsplit('.').next()?.to_owned();
        let bounds: SetBounds = serde_json::from_slice(&message.payload).ok()?;
        bounds.check().ok()?;
        Some((function, bounds))
    });
    Ok(read.collect())
}

/// Bounds that are set for one function.
///
/// # Errors
/// NATS does not answer.
pub async fn of(bus: &Bus, function: &str) -> Result<Option<SetBounds>, AdminError> {
    let subject = subject(bus.app(), function);
    let message = match bus.last_message(layout::VALUES, &subject).await {
        Ok(message) => message,
        Err(e) if e.is_not_found() => None,
        Err(e) => return Err(AdminError::api(subject, e)),
    };
    let set =
        message.and_then(|message| serde_json::from_slice::<SetBounds>(&message.payload).ok());
    Ok(set.filter(|set| set.check().is_ok()))
}

/// Sets the bounds of a function, in place of those of `oncue.toml`.
///
/// # Errors
/// NATS does not take them.
pub async fn set(bus: &Bus, function: &str, bounds: &SetBounds) -> Result<(), AdminError> {
    put(
        bus,
        function,
        serde_json::to_vec(bounds).unwrap_or_default(),
    )
    .await
}

/// Takes the bounds of a function away: those of `oncue.toml` count again.
///
/// # Errors
/// NATS does not take it.
pub async fn take_away(bus: &Bus, function: &str) -> Result<(), AdminError> {
    put(bus, function, Vec::new()).await
}

async fn put(bus: &Bus, function: &str, payload: Vec<u8>) -> Result<(), AdminError> {
    bus.provide(&layout::values(bus.app())).await?;
    let message = Envelope {
        subject: subject(bus.app(), function),
        headers: Vec::new(),
        payload: payload.into(),
    };
    let stored = bus.publish(&message).await;
    stored.map_err(|e| oncue_core::bus::BusError(format!("{}: {e}", message.subject)))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_that_no_function_can_have_are_refused() {
        for (min, max, is_good) in [
            (0, 1, true),
            (2, 2, true),
            (3, 2, false),
            (0, 0, false),
            (0, 256, true),
            (0, 257, false),
        ] {
            let bounds = SetBounds {
                min,
                max,
                at: 0,
                by: String::new(),
                reason: String::new(),
            };
            assert_eq!(bounds.check().is_ok(), is_good, "{min} to {max}");
        }
    }
}
