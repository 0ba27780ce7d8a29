//! `[console.login]`: people come to the console with their accounts of an OpenID Connect issuer.

use std::collections::BTreeSet;

use serde::Deserialize;

use super::auth::check_secure;
use super::{OneOf, SecretSource};

/// `[console.login]`: authorization code flow with PKCE [OpenID Connect Core 1.0 section 3.1, RFC 7636]. `[console] url` must be
/// set: the issuer sends people back to `URL/api/login/back`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoginConfig {
    /// Issuer, exactly as its discovery document and its tokens name it.
    pub issuer: String,
    /// Id of the console as a client of the issuer.
    pub client: String,
    /// Secret of that client. Default none: a public client, which PKCE protects.
    pub secret: Option<SecretSource>,
    /// Scopes that are asked for besides `openid`. Default `profile` and `email`.
    #[serde(default = "scopes")]
    pub scopes: BTreeSet<String>,
    /// Claim of the ID token that says what somebody may, a text or a list. Default `groups`.
    #[serde(default = "claim")]
    pub claim: String,
    /// Values of that claim with which somebody may look. Default none.
    pub look: Option<OneOf>,
    /// Values with which somebody may also act: publish, redrive, pause, restart, fire. Default none.
    pub operate: Option<OneOf>,
    /// Values with which somebody may also change what stays: rows, bounds of workers, letters that are given up. Default none.
    pub admin: Option<OneOf>,
}

fn scopes() -> BTreeSet<String> {
    ["profile".to_owned(), "email".to_owned()].into()
}

fn claim() -> String {
    "groups".to_owned()
}

impl LoginConfig {
    /// Refuses a login that lets nobody in, or sends secrets where others could read them.
    ///
    /// # Errors
    /// A sentence about the section.
    pub(crate) fn check(&self, url: Option<&str>) -> Result<(), String> {
        check_secure("issuer", &self.issuer)?;
        let Some(url) = url else {
            return Err("[console] url is missing: the issuer sends people back to it".to_owned());
        };
        check_secure("[console] url", url)?;
        if self.client.is_empty() {
            return Err(
                "client is empty: it is the id that the issuer has given the console".to_owned(),
            );
        }
        if self.look.is_none() && self.operate.is_none() && self.admin.is_none() {
            return Err(format!(
                "lets nobody in: say in look, operate or admin which values of the claim {:?} may",
                self.claim
            ));
        }
        Ok(())
    }
}
