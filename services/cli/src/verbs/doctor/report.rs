//! Findings of `oncue doctor`, and facts read back from the servers.

use std::time::Duration;

use serde::Serialize;

/// Time the monitoring page and the taker of traces have to answer.
/// Both are on the way of no event, so a slow one is a note and not worth a longer wait.
pub const REPLY_TIMEOUT: Duration = Duration::from_secs(2);

/// How much a finding matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    Good,
    /// Worth knowing; works.
    Know,
    /// Must be fixed.
    Fix,
}

/// One line of the report.
#[derive(Debug, Serialize)]
pub struct Finding {
    pub verdict: Verdict,
    pub text: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub advice: Option<String>,
    /// Word for programs that look for findings of a kind.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub topic: Option<&'static str>,
}

/// Facts read back from the servers; `None` is "not known".
#[derive(Debug, Default, Serialize)]
pub struct Facts {
    /// Version, if it answers and is supported.
    pub nats: Option<String>,
    pub nats_sync_always: Option<bool>,
    pub nats_sync_seconds: Option<u64>,
    /// Fewest copies any stream has.
    pub least_replicas: Option<u64>,
    /// Fewest copies of any stream that are up to date just now.
    pub least_current: Option<u64>,
    pub redis: Option<String>,
    pub appendonly: Option<String>,
    pub appendfsync: Option<String>,
    /// Replicas that must have a write before Redis goes on taking more.
    pub redis_replicas_required: u64,
    /// Seconds for which a replica may have been silent and still counts.
    pub redis_replica_lag: u64,
    /// Replicas that follow Redis now.
    pub redis_replicas: u64,
}

/// Findings in the order in which they were made.
#[derive(Default)]
pub struct Report(pub Vec<Finding>);

impl Report {
    /// Gives a topic to the findings from the nth on.
    pub fn label(&mut self, from: usize, topic: &'static str) {
        for finding in &mut self.0[from..] {
            finding.topic = Some(topic);
        }
    }

    pub fn good(&mut self, text: impl Into<String>) {
        self.0.push(Finding {
            verdict: Verdict::Good,
            text: text.into(),
            advice: None,
            topic: None,
        });
    }

    pub fn know(&mut self, text: impl Into<String>, advice: &str) {
        self.0.push(Finding {
            verdict: Verdict::Know,
            text: text.into(),
            advice: Some(advice.into()),
            topic: None,
        });
    }

    pub fn fix(&mut self, text: impl Into<String>, advice: &str) {
        self.0.push(Finding {
            verdict: Verdict::Fix,
            text: text.into(),
            advice: Some(advice.into()),
            topic: None,
        });
    }
}
