//! `[[webhook]]`: signed requests of other services, which become events.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;
use serde::de::{Deserializer, Error as _};

use super::{Config, OneOf, Span};

/// `[[webhook]]`: `POST /v1/webhooks/NAME` takes what is signed with one of its secrets, and publishes one event for it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WebhookConfig {
    /// Last part of the path.
    pub name: String,
    /// Form of the signature.
    pub kind: WebhookKind,
    /// Secrets, of which any may have signed: one, and another while it is replaced.
    #[serde(default)]
    pub secrets: Vec<SecretSource>,
    /// Event type that a request becomes. It need not be `public`.
    pub event: String,
    /// Places of the request with the text, or one of the texts, that must be there; anything else is answered 204 and is no
    /// event. Default: every request is one.
    #[serde(default)]
    pub when: BTreeMap<RequestPlace, OneOf>,
    /// Fields of the event with the places they are taken from. Default: the body as it is.
    #[serde(default)]
    pub data: BTreeMap<String, RequestPlace>,
    /// Age at which a request that says its time is refused, and how far it may lie ahead. Default 5 min.
    pub tolerance: Option<Span>,
    /// Name of the `[limit.NAME]` it counts for. Default none.
    pub limit: Option<String>,
    /// Signature of `kind = "hmac"`.
    pub hmac: Option<HmacConfig>,
}

/// Forms of signatures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WebhookKind {
    /// Standard Webhooks 1.0: `webhook-id`, `webhook-timestamp`, `webhook-signature`; by a secret (`whsec_...`), or by the
    /// sender's public key (`whpk_...`, Ed25519).
    Standard,
    /// `X-Hub-Signature-256`, `X-GitHub-Delivery`.
    GitHub,
    /// `Stripe-Signature`, and the `id` of the body.
    Stripe,
    /// `X-Slack-Signature`, `X-Slack-Request-Timestamp`, and the `event_id` of the body.
    Slack,
    /// Any other HMAC, as `hmac` says.
    Hmac,
}

/// `hmac` of a `[[webhook]]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HmacConfig {
    /// Default [`HmacAlgorithm::Sha256`].
    #[serde(default)]
    pub algorithm: HmacAlgorithm,
    /// Header with the signature.
    pub header: String,
    /// Text in front of the signature, such as `sha256=`. Default none.
    #[serde(default)]
    pub prefix: String,
    /// Default [`SignatureEncoding::Hex`].
    #[serde(default)]
    pub encoding: SignatureEncoding,
    /// Header with the Unix time in seconds, which is signed as well: `TIME.BODY`. Default none, so that a request that somebody
    /// has copied can be sent again, and is known by its id alone.
    pub timestamp: Option<String>,
    /// Place of the id of a delivery, the same when it is sent again. Default: made of the body.
    pub id: Option<RequestPlace>,
}

/// Hash of an HMAC.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HmacAlgorithm {
    /// For services that have nothing better.
    Sha1,
    #[default]
    Sha256,
    Sha384,
    Sha512,
}

/// Text form of a signature.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SignatureEncoding {
    #[default]
    Hex,
    Base64,
}

/// Place of a secret, written `env:NAME` or `file:PATH`: never the secret itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretSource {
    /// Variable of the environment of whoever needs it, read when that starts.
    Env(String),
    /// File, relative to that of the configuration, read each time it is needed: another content counts from then on. What is
    /// around it in white space is no part of it.
    File(PathBuf),
}

impl<'de> Deserialize<'de> for SecretSource {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = String::deserialize(d)?;
        match text.split_once(':') {
            Some(("env", name)) if !name.is_empty() => Ok(Self::Env(name.to_owned())),
            Some(("file", path)) if !path.is_empty() => Ok(Self::File(path.into())),
            // The text may be a secret, so it is not shown.
            _ => Err(D::Error::custom(
                "a secret is named as \"env:VARIABLE\" or \"file:PATH\", and does not stand in this file",
            )),
        }
    }
}

impl SecretSource {
    /// The secret as it is now, without white space around it.
    ///
    /// # Errors
    /// The variable is not set, or the file cannot be read: a sentence that names it.
    pub fn read(&self, config: &Config) -> Result<String, String> {
        let text = match self {
            Self::Env(name) => {
                std::env::var(name).map_err(|_| format!("the variable {name} is not set"))
            }
            Self::File(path) => {
                let path = config.beside(path);
                std::fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))
            }
        };
        Ok(text?.trim().to_owned())
    }
}

/// Place in a request: `header.NAME`, or `body.a.b.0` for a member of a JSON body.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum RequestPlace {
    Header(String),
    /// Names of members, and numbers of list items from 0.
    Body(Vec<String>),
}

impl<'de> Deserialize<'de> for RequestPlace {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = String::deserialize(d)?;
        match text.split_once('.') {
            Some(("header", name)) if is_header(name) => Ok(Self::Header(name.to_lowercase())),
            Some(("body", path)) if path.split('.').all(|name| !name.is_empty()) => {
                Ok(Self::Body(path.split('.').map(str::to_owned).collect()))
            }
            _ => Err(D::Error::custom(format!(
                "{text:?} is no place in a request like \"header.x-name\" or \"body.data.object.id\""
            ))),
        }
    }
}

pub(super) fn is_header(name: &str) -> bool {
    let mut bytes = name.bytes();
    !name.is_empty() && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
}

impl WebhookConfig {
    /// Most that the time of a request may differ.
    pub fn tolerance(&self) -> Duration {
        self.tolerance.map_or(Duration::from_mins(5), |span| span.0)
    }

    /// Refuses a webhook that would take what nobody has signed, or that contradicts itself.
    ///
    /// # Errors
    /// A sentence about the entry.
    pub(crate) fn check(&self) -> Result<(), String> {
        let mut name = self.name.bytes();
        let is_name = name.all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        if self.name.is_empty() || !is_name {
            return Err(format!("name {:?} may hold a-z, 0-9 and '-'", self.name));
        }
        if !(1..=2).contains(&self.secrets.len()) {
            return Err(
                "has one secret, or two while one replaces the other: what is not signed is not taken"
                    .to_owned(),
            );
        }
        match (self.kind, &self.hmac) {
            (WebhookKind::Hmac, None) => {
                return Err("kind = \"hmac\" needs hmac = { header = ... }".to_owned());
            }
            (WebhookKind::Hmac, Some(hmac)) => {
                let headers = [Some(&hmac.header), hmac.timestamp.as_ref()];
                let wrong = headers.into_iter().flatten().find(|name| !is_header(name));
                if let Some(wrong) = wrong {
                    return Err(format!("hmac: {wrong:?} is no name of a header"));
                }
            }
            (_, Some(_)) => return Err("hmac is for kind = \"hmac\"".to_owned()),
            (_, None) => {}
        }
        Ok(())
    }
}
