//! Tokens of an OpenID Connect issuer: JWTs, checked here by the keys that the issuer publishes ([`jwks`]). Nobody is asked
//! about a single token, so one that was withdrawn is taken until it expires.
//!
//! Pinned by the configuration and never by the token: the algorithms, of which none is symmetric and none is `none`, the issuer
//! and the audience. A key that says what it is for is used for nothing else.

mod fetch;
mod jwks;
mod signatures;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use oncue_core::config::{AuthConfig, OneOf};
use serde_json::{Map, Value};

use self::jwks::{FoundKey, Keyring};
use super::identity::{Identity, text};
use super::refusal::{away, insufficient, invalid};
use crate::problem::Problem;

/// Issuer whose tokens are taken.
pub struct Issuer {
    keyring: Arc<Keyring>,
    algorithms: Vec<Algorithm>,
    /// Checks of everything but the algorithm, which is that of the token's key.
    validation: Validation,
    claims: BTreeMap<String, OneOf>,
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
        signatures::install();
        let mut validation = Validation {
            leeway: config.skew().as_secs(),
            validate_nbf: true,
            ..Validation::default()
        };
        validation.set_issuer(&[issuer]);
        let audience: Vec<&String> = config.audience.iter().collect();
        validation.set_audience(&audience);
        // What is not required is only checked where the token has it.
        validation.set_required_spec_claims(&["exp", "iss", "aud"]);
        let names = config.algorithms();
        Ok(Some(Self {
            keyring: Arc::new(Keyring::new(issuer)?),
            algorithms: names.filter_map(|name| name.parse().ok()).collect(),
            validation,
            claims: config.claims.clone(),
        }))
    }

    /// Identity that a token speaks of.
    ///
    /// # Errors
    /// 401 for a token that is not one, 403 for one without the claims, 503 where the issuer's keys are not to be had.
    pub async fn identify(&self, token: &str) -> Result<Identity, Problem> {
        let header = decode_header(token).map_err(|_| invalid("the credential is no JWT"))?;
        if !self.algorithms.contains(&header.alg) {
            return Err(invalid(format!(
                "tokens signed with {:?} are not taken here",
                header.alg
            )));
        }
        let key = match self.keyring.find(header.kid.as_deref()).await {
            FoundKey::Key(key) => key,
            FoundKey::Unknown => return Err(invalid("the token's issuer has no such key")),
            FoundKey::Away => {
                return Err(away(
                    "the issuer's keys cannot be fetched, so the token cannot be checked",
                ));
            }
        };
        let claims = self.verify(token, header.alg, &key)?;
        self.check_claims(&claims)?;
        Ok(Identity {
            subject: subject(&claims),
            scopes: scopes(&claims),
            claims,
            owner: None,
        })
    }

    fn verify(
        &self,
        token: &str,
        algorithm: Algorithm,
        key: &Jwk,
    ) -> Result<Map<String, Value>, Problem> {
        let meant = key.common.key_algorithm.map(|meant| meant.to_string());
        if meant.is_some_and(|meant| meant != format!("{algorithm:?}")) {
            return Err(invalid("the token's key is for another algorithm"));
        }
        let key = DecodingKey::from_jwk(key)
            .map_err(|_| invalid("the token's key is of a kind that is not known here"))?;
        let mut validation = self.validation.clone();
        validation.algorithms = vec![algorithm];
        let decoded = decode::<Map<String, Value>>(token, &key, &validation);
        let decoded = decoded.map_err(|e| invalid(words(e.kind())))?;
        Ok(decoded.claims)
    }

    fn check_claims(&self, claims: &Map<String, Value>) -> Result<(), Problem> {
        for (name, values) in &self.claims {
            let has = claims.get(name).is_some_and(|claim| holds(claim, values));
            if !has {
                let why = format!("the claim {name:?} is not what is asked for here");
                return Err(insufficient("", why));
            }
        }
        Ok(())
    }
}

/// Name of the person whose token it is, or of the program, which has no `sub` with some issuers.
fn subject(claims: &Map<String, Value>) -> String {
    let named = ["sub", "client_id", "azp"].iter();
    let found = named.filter_map(|name| claims.get(*name).and_then(text));
    let issuer = claims.get("iss").and_then(text).unwrap_or_default();
    let mut names = found.take(1);
    format!("token {issuer} {}", names.next().unwrap_or_default())
}

/// Whether a claim is, or lists, one of the values.
fn holds(claim: &Value, values: &OneOf) -> bool {
    match claim {
        Value::Array(listed) => listed.iter().filter_map(text).any(|one| values.hold(&one)),
        single => text(single).is_some_and(|one| values.hold(&one)),
    }
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

/// Fault of a token in words, without a word of what is in it.
fn words(kind: &ErrorKind) -> &'static str {
    match kind {
        ErrorKind::ExpiredSignature => "the token has expired",
        ErrorKind::ImmatureSignature => "the token is not valid yet",
        ErrorKind::InvalidSignature => "the token's signature is wrong",
        ErrorKind::InvalidIssuer => "the token is of another issuer",
        ErrorKind::InvalidAudience => "the token is for another audience",
        ErrorKind::MissingRequiredClaim(_) => "the token lacks exp, iss or aud",
        _ => "the token cannot be read",
    }
}

#[cfg(test)]
mod tests;
