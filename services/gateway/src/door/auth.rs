//! One `[auth.NAME]`: from the credential of a request to an [`Identity`].

use std::sync::Arc;

use axum::http::{HeaderMap, HeaderName, header};
use oncue_core::config::AuthConfig;
use oncue_core::model::api_key::ApiKey;
use oncue_core::store::Store;
use oncue_http::address::ClientAddress;
use oncue_http::brake::Brake;
use serde_json::{Map, Value};

use super::guesses::Guesses;
use super::identity::Identity;
use super::keys::Keys;
use super::oidc::Issuer;
use super::refusal::{insufficient, invalid, no_credential};
use crate::problem::{MALFORMED, Problem, UNAUTHENTICATED};
use crate::request::text;

/// Header for clients that cannot set `Authorization`.
const API_KEY: HeaderName = HeaderName::from_static("x-api-key");
/// Headers in which a credential may stand.
pub const CREDENTIALS: [HeaderName; 2] = [header::AUTHORIZATION, API_KEY];
/// Longest credential that is looked at.
const MAX_CREDENTIAL: usize = 16 << 10;

/// Parts that all policies share: keys that were looked up, and the brake.
pub struct Shared {
    pub store: Store,
    pub keys: Keys,
    pub brake: Brake,
}

/// Policy by which credentials are judged.
pub struct Auth {
    pub config: AuthConfig,
    shared: Arc<Shared>,
    issuer: Option<Issuer>,
}

impl Auth {
    /// A policy, whose issuer is not asked anything yet.
    ///
    /// # Errors
    /// A sentence about the issuer.
    pub fn new(config: AuthConfig, shared: Arc<Shared>) -> Result<Self, String> {
        Ok(Self {
            issuer: Issuer::new(&config)?,
            config,
            shared,
        })
    }

    /// Identity of the sender of these headers.
    ///
    /// # Errors
    /// 401 for no or a wrong credential, 403 for one without the rights, 429 for too many wrong ones, 503 where it cannot be
    /// checked.
    pub async fn identify(
        &self,
        headers: &HeaderMap,
        client: Option<ClientAddress>,
    ) -> Result<Identity, Problem> {
        let brake = &self.shared.brake;
        self.judge(headers, Some(Guesses { brake, client })).await
    }

    /// As [`identify`](Self::identify), for somebody who was let in before: that is no guess, and no brake holds it up.
    ///
    /// # Errors
    /// 401 and 403 where they are to be let in no more, 503 where nobody can say.
    pub async fn identify_again(&self, headers: &HeaderMap) -> Result<Identity, Problem> {
        self.judge(headers, None).await
    }

    async fn judge(
        &self,
        headers: &HeaderMap,
        guesses: Option<Guesses<'_>>,
    ) -> Result<Identity, Problem> {
        let Some(token) = credential(headers)? else {
            return Err(no_credential(
                "send a credential as `Authorization: Bearer ...` or, for an API key, as `X-API-Key`",
            ));
        };
        if token.len() > MAX_CREDENTIAL {
            return Err(invalid("the credential is longer than any can be"));
        }
        let mut identity = match &self.issuer {
            Some(issuer) if !(self.config.keys && ApiKey::id_of(token).is_some()) => {
                self.of_token(issuer, token, guesses).await?
            }
            _ => self.of_key(token, guesses).await?,
        };
        self.check_scopes(&identity)?;
        identity.owner = self.owner(&identity)?;
        Ok(identity)
    }

    async fn of_key(&self, token: &str, guesses: Option<Guesses<'_>>) -> Result<Identity, Problem> {
        let Shared { store, keys, .. } = &*self.shared;
        let key = keys.find(store, guesses, token).await?;
        key.map(|key| identity_of(&key))
            .ok_or_else(|| invalid("there is no such API key, or it was revoked or has expired"))
    }

    async fn of_token(
        &self,
        issuer: &Issuer,
        token: &str,
        guesses: Option<Guesses<'_>>,
    ) -> Result<Identity, Problem> {
        // Whoever shares an address with somebody whose tokens are bad is not to be held up by that.
        if let Some(identified) = issuer.recall(token).await {
            return identified;
        }
        if let Some(guesses) = guesses {
            guesses.check()?;
        }
        let identified = issuer.identify(token).await;
        if let Some(guesses) = guesses
            && matches!(&identified, Err(problem) if problem.kind() == UNAUTHENTICATED)
        {
            // Whether or not it was let: the next one is held.
            let _ = guesses.take();
        }
        identified
    }

    fn check_scopes(&self, identity: &Identity) -> Result<(), Problem> {
        let needed = &self.config.scopes;
        let missing: Vec<&str> = needed
            .difference(&identity.scopes)
            .map(String::as_str)
            .collect();
        if missing.is_empty() {
            return Ok(());
        }
        let all: Vec<&str> = needed.iter().map(String::as_str).collect();
        let why = format!("the credential lacks the scope {}", missing.join(" "));
        Err(insufficient(&all.join(" "), why))
    }

    /// Owner of what is uploaded, which no client may leave open where the policy says that a claim names it.
    fn owner(&self, identity: &Identity) -> Result<Option<String>, Problem> {
        let Some(name) = &self.config.owner else {
            return Ok(None);
        };
        let owner = identity.claim(name).filter(|owner| is_owner(owner));
        owner.map(Some).ok_or_else(|| {
            let why = format!("the credential has no claim {name:?} that can be an owner");
            insufficient("", why)
        })
    }
}

/// Whether a name may stand as the owner of a file.
fn is_owner(name: &str) -> bool {
    (1..=128).contains(&name.len()) && !name.chars().any(char::is_control)
}

fn identity_of(key: &ApiKey) -> Identity {
    let mut claims = Map::new();
    claims.insert("sub".to_owned(), Value::String(key.name.clone()));
    Identity {
        subject: format!("key {}", key.name),
        scopes: key.scopes.clone(),
        claims,
        owner: None,
        expires: key.expires,
    }
}

/// The credential of a request, of which there may be one.
fn credential(headers: &HeaderMap) -> Result<Option<&str>, Problem> {
    let authorization = text(headers, &header::AUTHORIZATION)?;
    let key = text(headers, &API_KEY)?;
    match (authorization, key) {
        (Some(_), Some(_)) => Err(Problem::new(
            MALFORMED,
            "the request has two credentials, in Authorization and in X-API-Key",
        )),
        (None, key) => Ok(key.filter(|key| !key.is_empty())),
        (Some(authorization), None) => {
            let (scheme, token) = authorization.split_once(' ').unwrap_or((authorization, ""));
            let token = token.trim();
            if scheme.eq_ignore_ascii_case("bearer") && !token.is_empty() {
                Ok(Some(token))
            } else {
                Err(no_credential(
                    "Authorization takes the scheme Bearer and a token",
                ))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_credential_in_one_of_two_places() {
        let of = |lines: &[(HeaderName, &'static str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in lines {
                headers.append(name, value.parse().unwrap());
            }
            let found = credential(&headers).map(|found| found.map(str::to_owned));
            found.map_err(|problem| problem.status().as_u16())
        };
        assert_eq!(of(&[]), Ok(None));
        assert_eq!(
            of(&[(header::AUTHORIZATION, "bearer  a.b.c")]),
            Ok(Some("a.b.c".into()))
        );
        assert_eq!(of(&[(API_KEY, "k")]), Ok(Some("k".into())));
        assert_eq!(of(&[(header::AUTHORIZATION, "Basic YTpi")]), Err(401));
        assert_eq!(of(&[(header::AUTHORIZATION, "Bearer")]), Err(401));
        assert_eq!(
            of(&[(header::AUTHORIZATION, "Bearer a"), (API_KEY, "a")]),
            Err(400)
        );
        assert_eq!(of(&[(API_KEY, "a"), (API_KEY, "b")]), Err(400));
    }
}
