//! `[notice.NAME]`: who is told when something is wrong.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{SecretSource, Span};

/// `[notice.NAME]`: a receiver of notices, which the console sends as one POST after [Standard Webhooks 1.0.0].
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NoticeConfig {
    /// Address; `http://` for this machine alone.
    pub url: String,
    /// Secrets it may check the signature with: one, or two while one replaces the other. Each is `whsec_` and base64.
    pub secrets: Vec<SecretSource>,
    /// Kinds it is told of. Default all.
    #[serde(default)]
    pub about: BTreeSet<NoticeKind>,
    /// Least time between two messages; what happens meanwhile is in one. Default 1 min.
    #[serde(default = "minute")]
    pub every: Span,
}

/// Kind of a notice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NoticeKind {
    /// Events were set aside for a cause that had no letters before.
    Letters,
    /// A function stands still, fails, or falls behind.
    Functions,
    /// NATS or Redis does not answer.
    Servers,
    /// Redis or NATS went back in time.
    Store,
    /// A certificate ends soon.
    Certificates,
}

fn minute() -> Span {
    Span(Duration::from_mins(1))
}

impl NoticeConfig {
    /// Whether it wants to know of such.
    pub fn wants(&self, kind: NoticeKind) -> bool {
        self.about.is_empty() || self.about.contains(&kind)
    }

    /// Refuses a receiver that cannot be told, or in the open.
    ///
    /// # Errors
    /// A sentence about the entry.
    pub(crate) fn check(&self) -> Result<(), String> {
        let rest = ["https://", "http://"]
            .iter()
            .find_map(|scheme| self.url.strip_prefix(scheme));
        let authority = rest.and_then(|rest| rest.split(['/', '?', '#']).next());
        let Some(authority) = authority.filter(|authority| !authority.is_empty()) else {
            return Err("url is no address like \"https://hooks.example.org/oncue\"".to_owned());
        };
        if authority.contains('@') {
            return Err("url holds a password, which does not belong in a file".to_owned());
        }
        let host = authority
            .rsplit_once(':')
            .map_or(authority, |(host, _)| host);
        let is_here = ["localhost", "127.0.0.1", "[::1]"].contains(&host);
        if self.url.starts_with("http://") && !is_here {
            return Err(format!(
                "url goes to {host} in the open; write https://, or http:// for this machine alone"
            ));
        }
        if !(1..=2).contains(&self.secrets.len()) {
            return Err("has one secret, or two while one replaces the other".to_owned());
        }
        Ok(())
    }
}
