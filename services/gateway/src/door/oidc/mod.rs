//! Tokens of an OpenID Connect issuer, checked by [`oncue_http::oidc`], and the identity that they speak of.

use std::collections::{BTreeMap, BTreeSet};

use oncue_core::config::{AuthConfig, OneOf};
use oncue_http::oidc::{TokenError, Verifier};
use serde_json::{Map, Value};

use super::identity::{Identity, text};
use super::refusal::{away, insufficient, invalid};
use crate::problem::Problem;

/// Issuer whose tokens are taken.
pub struct Issuer {
    verifier: Verifier,
    claims: BTreeMap<String, OneOf>,
    /// Difference of clocks that is forgiven.
    skew_ms: u64,
}

impl Issuer {
    /// The issuer of a policy; `None` for a policy without.
    ///
    /// # Errors
    /// A sentence about the issuer, or about this machine's root certificates.
    pub fn new(config: &AuthConfig) -> Result<Option<Self>, String> {
        let Some(issuer) = &config.issuer else {
            return Ok(None);
        };
        let algorithms = config.algorithms();
        let verifier = Verifier::new(issuer, &config.audience, algorithms, config.skew())?;
        Ok(Some(Self {
            verifier,
            claims: config.claims.clone(),
            skew_ms: config.skew().as_millis() as u64,
        }))
    }

    /// Identity that a token speaks of.
    ///
    /// # Errors
    /// 401 for a token that is not one, 403 for one without the claims, 503 where the issuer's keys are not to be had.
    pub async fn identify(&self, token: &str) -> Result<Identity, Problem> {
        let claims = self.verifier.claims(token).await.map_err(|e| match e {
            TokenError::Invalid(why) => invalid(why),
            TokenError::Away => away(e.to_string()),
        })?;
        self.identity(claims)
    }

    /// As [`identify`](Self::identify), for a token that was verified before; `None` for any other.
    pub async fn recall(&self, token: &str) -> Option<Result<Identity, Problem>> {
        let claims = self.verifier.known_claims(token).await?;
        Some(self.identity(claims))
    }

    fn identity(&self, claims: Map<String, Value>) -> Result<Identity, Problem> {
        self.check_claims(&claims)?;
        Ok(Identity {
            subject: subject(&claims),
            scopes: scopes(&claims),
            expires: expires(&claims).map(|expires| expires + self.skew_ms),
            claims,
            owner: None,
        })
    }

    fn check_claims(&self, claims: &Map<String, Value>) -> Result<(), Problem> {
        for (name, values) in &self.claims {
            let has = claims.get(name).is_some_and(|claim| values.hold_any(claim));
            if !has {
                let why = format!("the claim {name:?} is not what is asked for here");
                return Err(insufficient("", why));
            }
        }
        Ok(())
    }
}

/// Time from which a token is refused, Unix milliseconds.
fn expires(claims: &Map<String, Value>) -> Option<u64> {
    let seconds = claims.get("exp")?.as_f64()?;
    Some((seconds * 1000.0) as u64)
}

/// Name of the person whose token it is, or of the program, which has no `sub` with some issuers.
fn subject(claims: &Map<String, Value>) -> String {
    let named = ["sub", "client_id", "azp"].iter();
    let found = named.filter_map(|name| claims.get(*name).and_then(text));
    let issuer = claims.get("iss").and_then(text).unwrap_or_default();
    let mut names = found.take(1);
    format!("token {issuer} {}", names.next().unwrap_or_default())
}

/// Scopes of a token: `scope` [RFC 8693 section 4.2], or `scp` as some issuers have it.
fn scopes(claims: &Map<String, Value>) -> BTreeSet<String> {
    let named = ["scope", "scp"].iter().filter_map(|name| claims.get(*name));
    let mut scopes = BTreeSet::new();
    for value in named {
        match value {
            Value::String(text) => {
                scopes.extend(text.split_ascii_whitespace().map(str::to_owned));
            }
            Value::Array(list) => {
                scopes.extend(list.iter().filter_map(Value::as_str).map(str::to_owned));
            }
            _ => {}
        }
    }
    scopes
}

#[cfg(test)]
mod tests;
