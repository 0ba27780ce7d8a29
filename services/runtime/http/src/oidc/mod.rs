//! Tokens of an OpenID Connect issuer: JWTs, checked here by the keys that the issuer publishes ([`jwks`]). Nobody is asked
//! about a single token, so one that was withdrawn is taken until it expires.
//!
//! Pinned by who asks and never by the token: the algorithms, of which none is symmetric and none is `none`, the issuer
//! and the audience. A key that says what it is for is used for nothing else.

pub mod fetch;
mod jwks;
mod signatures;
mod verified;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use serde_json::{Map, Value};

use self::jwks::{FoundKey, Keyring};
use self::verified::{VerifiedToken, VerifiedTokens};

/// Check of one issuer's tokens.
pub struct Verifier {
    keyring: Arc<Keyring>,
    algorithms: Vec<Algorithm>,
    /// Checks of everything but the algorithm, which is that of the token's key.
    validation: Validation,
    verified: VerifiedTokens,
}

/// Reason for which a token's claims are not to be had.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// A token that is not one, or not for here; a sentence without a word of what is in it.
    #[error("{0}")]
    Invalid(String),
    /// The token cannot be checked now.
    #[error("the issuer's keys cannot be fetched, so the token cannot be checked")]
    Away,
}

impl Verifier {
    /// Check of tokens that `issuer` made for one of `audience`. Algorithms are named as JWTs name them.
    ///
    /// # Errors
    /// A sentence about the issuer, or about this machine's root certificates.
    pub fn new<'a>(
        issuer: &str,
        audience: &BTreeSet<String>,
        algorithms: impl Iterator<Item = &'a str>,
        skew: Duration,
    ) -> Result<Self, String> {
        signatures::install();
        let mut validation = Validation {
            leeway: skew.as_secs(),
            validate_nbf: true,
            ..Validation::default()
        };
        validation.set_issuer(&[issuer]);
        let audience: Vec<&String> = audience.iter().collect();
        validation.set_audience(&audience);
        // What is not required is only checked where the token has it.
        validation.set_required_spec_claims(&["exp", "iss", "aud"]);
        Ok(Self {
            keyring: Arc::new(Keyring::new(issuer)?),
            algorithms: algorithms.filter_map(|name| name.parse().ok()).collect(),
            validation,
            verified: VerifiedTokens::default(),
        })
    }

    /// Claims of a token.
    ///
    /// # Errors
    /// The token is not one, or the issuer's keys are not to be had.
    pub async fn claims(&self, token: &str) -> Result<Map<String, Value>, TokenError> {
        if let Some(claims) = self.known_claims(token).await {
            return Ok(claims);
        }
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
            FoundKey::Away => return Err(TokenError::Away),
        };
        let claims = self.verify(token, header.alg, &key)?;
        if let Some(verified) = VerifiedToken::new(key, header.kid, claims.clone()) {
            self.verified.insert(token, verified, now());
        }
        Ok(claims)
    }

    /// Claims of a token that was verified before, is still good, and whose key is. It costs next to nothing to ask.
    pub async fn known_claims(&self, token: &str) -> Option<Map<String, Value>> {
        let known = self.verified.get(token)?;
        if !known.is_good(now(), self.validation.leeway) {
            return None;
        }
        let FoundKey::Key(key) = self.keyring.find(known.kid.as_deref()).await else {
            return None;
        };
        Arc::ptr_eq(&key, &known.key).then(|| known.claims.as_ref().clone())
    }

    fn verify(
        &self,
        token: &str,
        algorithm: Algorithm,
        key: &Jwk,
    ) -> Result<Map<String, Value>, TokenError> {
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
}

/// Unix time, seconds.
fn now() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |now| now.as_secs())
}

fn invalid(why: impl Into<String>) -> TokenError {
    TokenError::Invalid(why.into())
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
