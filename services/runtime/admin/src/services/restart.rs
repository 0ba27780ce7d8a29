//! Restart of functions, as every `oncue up` of the app hears it: it lets the programs in as they lie there, as `oncue apply` does, and
//! replaces the processes, one after the other. Whoever asks hears how far it is; a program that may not be let in, and the first
//! process that does not become ready, end it, and what ran before runs on.

use std::time::Duration;

use oncue_core::app::AppName;
use oncue_core::bus::{Bus, BusError};
use serde::{Deserialize, Serialize};

/// Silence after which an `oncue up` is taken for gone: it says at least once in that time how far it is.
const SILENCE: Duration = Duration::from_mins(2);

/// Subject on which every `oncue up` of an app hears requests.
pub fn subject(app: &AppName) -> String {
    format!("oncue.restart.{app}")
}

/// Request, as JSON.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RestartRequest {
    /// The `oncue up` that is meant, by the id under which it answers on `$SRV`.
    pub supervisor: String,
    /// Functions to restart; empty for all.
    pub functions: Vec<String>,
    /// Replace the credentials, and no process.
    #[serde(default)]
    pub rotate: bool,
    /// Let programs in that cannot read samples of what is there.
    #[serde(default)]
    pub anyway: bool,
}

/// Answer, as JSON; several to a request, the last of which is [`RestartProgress::Done`] or [`RestartProgress::Failed`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "is")]
pub enum RestartProgress {
    /// Something on the servers is as the new programs want it, in a line.
    Changed { what: String },
    /// A new process is about to start.
    Starting { worker: String, replaces: String },
    /// New process that is ready, while the one before it finishes what it has in flight.
    Ready { worker: String, replaces: String },
    /// All processes are replaced.
    Done { replaced: u32 },
    /// A new process did not become ready; everything behind it is as it was.
    Failed {
        worker: String,
        why: String,
        replaced: u32,
    },
}

/// Reason for which a restart ended early; its text is for a person.
#[derive(Debug, thiserror::Error)]
pub enum RestartError {
    /// A new process did not become ready.
    #[error("{worker} {why}")]
    Failed {
        worker: String,
        why: String,
        /// Processes that were replaced before it.
        replaced: u32,
    },
    /// An `oncue up` does not say any more how far it is.
    #[error("{0} does not say how far it is")]
    Silent(String),
    /// NATS does not answer.
    #[error(transparent)]
    Bus(#[from] BusError),
}

/// Has one `oncue up` restart functions, or replace credentials; `report` hears each step. Returns the number of processes that were
/// replaced.
///
/// # Errors
/// A new process did not become ready, or nobody says how it goes on.
pub async fn ask(
    request: &RestartRequest,
    bus: &Bus,
    mut report: impl FnMut(&RestartProgress),
) -> Result<u32, RestartError> {
    let body = serde_json::to_vec(request).unwrap_or_default();
    let mut answers = bus.question(&subject(bus.app()), body.into()).await?;
    loop {
        let answer = tokio::time::timeout(SILENCE, answers.next()).await;
        let Ok(Some(answer)) = answer else {
            return Err(RestartError::Silent(request.supervisor.clone()));
        };
        // One of another version says more than is known here.
        let Ok(progress) = serde_json::from_slice::<RestartProgress>(&answer.payload) else {
            continue;
        };
        report(&progress);
        match progress {
            RestartProgress::Changed { .. }
            | RestartProgress::Starting { .. }
            | RestartProgress::Ready { .. } => {}
            RestartProgress::Done { replaced } => return Ok(replaced),
            RestartProgress::Failed {
                worker,
                why,
                replaced,
            } => {
                return Err(RestartError::Failed {
                    worker,
                    why,
                    replaced,
                });
            }
        }
    }
}
