//! `[auth.NAME]`: who may come in, and by which credential.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

use super::Span;

/// Algorithms of signatures that a policy may name [RFC 7518 section 3.1, RFC 8037]. None of them is symmetric: whoever checks
/// such a token could make one.
const ALGORITHMS: [&str; 9] = [
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA",
];
/// Most that two clocks may differ.
const MAX_SKEW: Duration = Duration::from_mins(5);

/// `[auth.NAME]`: a policy that `[gateway] auth` and routes name. A request needs one credential that it takes, and all
/// scopes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AuthConfig {
    /// Whether keys of `oncue keys add` are taken. Default false.
    pub keys: bool,
    /// OpenID Connect issuer whose tokens are taken, exactly as its discovery document and its tokens name it. Default none.
    pub issuer: Option<String>,
    /// Audience of the tokens, one of these; needed with `issuer`.
    pub audience: BTreeSet<String>,
    /// Signatures that are taken. Default: all that are asymmetric.
    pub algorithms: BTreeSet<String>,
    /// Difference between the clocks of issuer and gateway that is forgiven. Default 30 s, at most 5 min.
    pub skew: Option<Span>,
    /// Rights that a credential must carry, all of them. Default none.
    pub scopes: BTreeSet<String>,
    /// Claims that a token must carry, each with one of these values. Default none.
    pub claims: BTreeMap<String, OneOf>,
    /// Claim that says who owns what is uploaded; of an API key, `sub` is its name. Default none: the client says it.
    pub owner: Option<String>,
}

/// Text that must be there, or several of which one must be.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum OneOf {
    /// The only one.
    One(String),
    /// Several.
    Any(BTreeSet<String>),
}

impl OneOf {
    /// Whether this is one of them.
    pub fn hold(&self, value: &str) -> bool {
        match self {
            Self::One(only) => only == value,
            Self::Any(all) => all.contains(value),
        }
    }

    /// Whether a claim of a token is one of them, or lists one.
    pub fn hold_any(&self, claim: &Value) -> bool {
        match claim {
            Value::Array(listed) => listed.iter().any(|one| self.hold_any(one)),
            Value::String(text) => self.hold(text),
            Value::Bool(_) | Value::Number(_) => self.hold(&claim.to_string()),
            Value::Null | Value::Object(_) => false,
        }
    }
}

/// Refuses an address that others could read along.
///
/// # Errors
/// A sentence about it; http is for this machine alone.
pub(super) fn check_secure(what: &str, url: &str) -> Result<(), String> {
    let is_local = ["localhost", "127.0.0.1", "[::1]"].iter().any(|host| {
        let rest = url.strip_prefix("http://").unwrap_or_default();
        rest.strip_prefix(host)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with([':', '/']))
    });
    if !url.starts_with("https://") && !is_local {
        return Err(format!(
            "{what} {url:?} is no https URL; http is for this machine only"
        ));
    }
    Ok(())
}

impl AuthConfig {
    /// Algorithms that are taken.
    pub fn algorithms(&self) -> impl Iterator<Item = &str> {
        let none = self.algorithms.is_empty();
        ALGORITHMS
            .into_iter()
            .filter(move |name| none || self.algorithms.contains(*name))
    }

    /// Difference between clocks that is forgiven.
    pub fn skew(&self) -> Duration {
        self.skew.map_or(Duration::from_secs(30), |skew| skew.0)
    }

    /// Refuses a policy that lets nobody in, or more than it means to.
    ///
    /// # Errors
    /// A sentence about the section.
    pub(crate) fn check(&self) -> Result<(), String> {
        let Some(issuer) = &self.issuer else {
            return self.check_without_issuer();
        };
        check_secure("issuer", issuer)?;
        if self.audience.is_empty() {
            return Err(
                "audience is missing: without it a token for any other service of the issuer would open this one"
                    .to_owned(),
            );
        }
        let unknown = self
            .algorithms
            .iter()
            .find(|name| !ALGORITHMS.contains(&name.as_str()));
        if let Some(unknown) = unknown {
            let known = ALGORITHMS.join(", ");
            return Err(format!("algorithm {unknown:?} is none of {known}"));
        }
        if self.skew() > MAX_SKEW {
            return Err("skew is at most 5min".to_owned());
        }
        Ok(())
    }

    fn check_without_issuer(&self) -> Result<(), String> {
        let set = [
            ("audience", !self.audience.is_empty()),
            ("algorithms", !self.algorithms.is_empty()),
            ("skew", self.skew.is_some()),
            ("claims", !self.claims.is_empty()),
        ];
        match set.iter().find(|(_, is_set)| *is_set) {
            Some((name, _)) => Err(format!("{name} is for a policy with an issuer")),
            None if !self.keys => {
                Err("takes no credential at all: set keys = true, or name an issuer".to_owned())
            }
            None => Ok(()),
        }
    }
}
