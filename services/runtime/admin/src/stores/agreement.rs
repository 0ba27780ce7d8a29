//! Whether NATS and Redis belong to one time, for all functions: what each worker asks for itself at its start.

use oncue_core::agreement::{self, LostStream, Marked};
use oncue_core::bus::Bus;
use oncue_core::config::Config;
use oncue_core::store::{Regression, Store};

use crate::{AdminError, consumers};

/// Something that one server has lost and the other remembers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lost {
    /// NATS has lost messages.
    Stream(LostStream),
    /// Redis has lost what a function had committed.
    Commits {
        function: String,
        regression: Regression,
    },
}

/// Everything that one server has lost and the other remembers; empty where they agree. Changes nothing.
///
/// One `STREAM.INFO` for each stream that Redis knows, one `CONSUMER.LIST` for each stream, and for each consumer its
/// last 256 messages and one look at their marks; more only where something is missing.
///
/// # Errors
/// A server does not answer.
pub async fn lost(bus: &Bus, store: &Store, config: &Config) -> Result<Vec<Lost>, AdminError> {
    let streams = agreement::all_lost_streams(bus, store).await?;
    let mut found: Vec<Lost> = streams.into_iter().map(Lost::Stream).collect();
    for stream in consumers::event_streams(bus).await? {
        let name = &stream.config.name;
        for consumer in consumers::of_stream(bus, name).await? {
            let marked = Marked {
                function: &consumer.function,
                stream: name,
                created: stream.created_ms().unwrap_or(0),
                horizon: config.stream(name).horizon.0.as_millis() as u64,
            };
            if let Some(regression) = agreement::check_marks(bus, store, marked).await? {
                found.push(Lost::Commits {
                    function: consumer.function.clone(),
                    regression,
                });
            }
        }
    }
    Ok(found)
}
