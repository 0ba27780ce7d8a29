//! Audit of functions: each function's own program looks up every event of its stream, since only it knows the key an
//! event is handled under. The sums must come out even: accepted = applied + dead + pending, and nothing is lost.
//!
//! Audits read whole streams and look up every seen-mark: minutes for millions of events. Nothing is written.
//!
//! Workers go on meanwhile. The program reads the consumer's ack floor before any event, so an event that is still
//! being worked on counts as pending and never as lost. Of acked events that are older than the horizon and have no
//! mark nothing can be said, and [`Audit::expired`] counts them apart.

use std::path::Path;

use futures_util::{StreamExt as _, stream};

use crate::program::{self, ProgramError};
use oncue_core::bus::{ApiError, Bus};
use oncue_core::config::Config;
use oncue_core::model::audit::Audit;

/// Programs at a time: each reads a whole stream.
const CONCURRENT_PROGRAMS: usize = 4;

/// One function's audit.
#[derive(Debug)]
pub struct FunctionAudit {
    /// Name in `oncue.toml`.
    pub function: String,
    /// Sums, or why there are none.
    pub outcome: AuditOutcome,
}

/// Result of one function's audit.
#[derive(Debug)]
pub enum AuditOutcome {
    /// The sums, as the program answered.
    Done(Audit),
    /// No consumer yet, so it has acted on no event.
    /// An audit would count all its stream as pending, which says nothing; it is no reason to act.
    NotStarted,
    /// Nothing can be said; the reason is for a person.
    Failed(AuditError),
}

/// A function that could not be audited.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// The program is missing, or did not answer.
    #[error(transparent)]
    Program(#[from] ProgramError),
    /// The consumer cannot be looked up.
    #[error(transparent)]
    Consumer(#[from] ApiError),
}

impl FunctionAudit {
    /// Whether somebody must act: events are lost or were removed, outputs wait, or nothing could be said.
    /// Pending and dead events are not bad: the first will be done, and the second are on record.
    pub fn is_bad(&self) -> bool {
        !self.why_bad().is_empty()
    }

    /// Reasons for which it [is bad](Self::is_bad), each without a subject: `3 events are lost`.
    pub fn why_bad(&self) -> Vec<String> {
        let audit = match &self.outcome {
            AuditOutcome::Done(audit) => audit,
            AuditOutcome::NotStarted => return Vec::new(),
            AuditOutcome::Failed(_) => return vec!["it could not be audited".to_owned()],
        };
        let counts = [
            (audit.lost, "events are lost"),
            (audit.waiting_outputs, "commits have outputs in no stream"),
            (audit.removed_messages(), "messages were removed too early"),
        ];
        let found = counts.into_iter().filter(|(count, _)| *count > 0);
        found
            .map(|(count, what)| format!("{count} {what}"))
            .collect()
    }

    /// The sums, where there are any.
    pub fn done(&self) -> Option<&Audit> {
        match &self.outcome {
            AuditOutcome::Done(audit) => Some(audit),
            _ => None,
        }
    }
}

/// Audits these functions with their programs in the folder `bin`, a few at a time; results in the order of the
/// names.
///
/// Of each function: one process for its manifest, one `CONSUMER.INFO`, and one process for the audit itself.
/// Nothing fails as a whole; what went wrong with one function stands in its outcome, so that the others can still
/// be read.
pub async fn audit(names: &[String], bus: &Bus, config: &Config, bin: &Path) -> Vec<FunctionAudit> {
    let audits = stream::iter(names)
        .map(|name| one(name, bus, config, bin))
        .buffered(CONCURRENT_PROGRAMS);
    audits.collect().await
}

/// One function's audit, with whatever went wrong.
async fn one(name: &str, bus: &Bus, config: &Config, bin: &Path) -> FunctionAudit {
    let outcome = match ask(name, bus, config, bin).await {
        Ok(Some(audit)) => AuditOutcome::Done(audit),
        Ok(None) => AuditOutcome::NotStarted,
        Err(why) => AuditOutcome::Failed(why),
    };
    FunctionAudit {
        function: name.to_owned(),
        outcome,
    }
}

/// The function's own answer; `None` where it has no consumer. The consumer is asked for first: without one the
/// program would count every event of the stream as pending.
async fn ask(
    name: &str,
    bus: &Bus,
    config: &Config,
    bin: &Path,
) -> Result<Option<Audit>, AuditError> {
    let manifest = program::manifest(config, bin, name).await?;
    if !bus.has_consumer(&manifest.stream, name).await? {
        return Ok(None);
    }
    Ok(Some(program::ask(bin, config, name, &["--audit"]).await?))
}
