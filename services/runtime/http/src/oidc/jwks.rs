//! Keys of an issuer: found by discovery [OpenID Connect Discovery 1.0 section 4], kept, and fetched anew.
//!
//! A key that is not known yet makes us look at once, since the issuer may have begun to use it this moment; but not more
//! often than [`BRAKE`] lets it, whatever tokens come. A key that was withdrawn is taken until the next look, [`REFRESH`] at the
//! latest, and until [`STALE`] where the issuer does not answer.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::rate::Rate;
use jsonwebtoken::jwk::{Jwk, PublicKeyUse};
use parking_lot::RwLock;
use serde::Deserialize;
use serde_json::Value;
use url::Url;

use super::fetch::Fetcher;

/// Age at which keys are fetched anew while the old ones serve.
const REFRESH: Duration = Duration::from_mins(5);
/// Age at which keys serve no more.
const STALE: Duration = Duration::from_hours(1);
/// Fetches that tokens can bring about.
const BRAKE: Rate = Rate {
    interval: Duration::from_secs(10),
    burst: 5,
};

/// Keys of one issuer.
pub struct Keyring {
    issuer: String,
    discovery: Url,
    fetcher: Fetcher,
    known: RwLock<Option<KeysAt>>,
    began: Instant,
    /// Held while a fetch goes on, so that many tokens make one.
    fetches: tokio::sync::Mutex<Fetches>,
}

/// Keys as they were at a time.
#[derive(Clone)]
struct KeysAt {
    keys: Arc<Vec<Arc<Jwk>>>,
    at: Instant,
}

/// Fetches so far.
#[derive(Default)]
struct Fetches {
    /// Moment at which all of them are paid for.
    paid: Duration,
    failed: Option<Instant>,
}

/// Answer to which key a token names.
pub enum FoundKey {
    Key(Arc<Jwk>),
    /// The issuer has no such key.
    Unknown,
    /// The issuer does not answer, and its keys are not known.
    Away,
}

/// Part of the discovery document that is needed.
#[derive(Deserialize)]
struct Discovery {
    issuer: String,
    jwks_uri: Url,
}

/// Key set, whose keys are read one by one: one of a kind that nobody knows must not hide the others.
#[derive(Deserialize)]
struct KeySet {
    keys: Vec<Value>,
}

impl Keyring {
    pub fn new(issuer: &str) -> Result<Self, String> {
        let path = format!(
            "{}/.well-known/openid-configuration",
            issuer.trim_end_matches('/')
        );
        let discovery = Url::parse(&path).map_err(|e| format!("{issuer:?}: {e}"))?;
        Ok(Self {
            issuer: issuer.to_owned(),
            fetcher: Fetcher::new(&discovery)?,
            discovery,
            known: RwLock::default(),
            began: Instant::now(),
            fetches: tokio::sync::Mutex::default(),
        })
    }

    /// The key of this id, or, for a token without one, the only key there is.
    pub async fn find(self: &Arc<Self>, kid: Option<&str>) -> FoundKey {
        let Some(known) = self
            .known
            .read()
            .clone()
            .filter(|known| known.at.elapsed() < STALE)
        else {
            return match self.fetch(None).await {
                Some(known) => known.found(kid),
                None => FoundKey::Away,
            };
        };
        if let FoundKey::Key(key) = known.found(kid) {
            if known.at.elapsed() > REFRESH {
                self.fetch_beside(known.at);
            }
            return FoundKey::Key(key);
        }
        match self.fetch(Some(known.at)).await {
            Some(newer) => newer.found(kid),
            None => FoundKey::Unknown,
        }
    }

    /// Fetches keys while the old ones serve.
    fn fetch_beside(self: &Arc<Self>, than: Instant) {
        if self.fetches.try_lock().is_err() {
            return;
        }
        let ring = self.clone();
        tokio::spawn(async move { ring.fetch(Some(than)).await });
    }

    /// Keys newer than those of `than`: fetched now, unless somebody has meanwhile, or there were too many attempts of late.
    async fn fetch(&self, than: Option<Instant>) -> Option<KeysAt> {
        let asked = Instant::now();
        let mut fetches = self.fetches.lock().await;
        if let Some(known) = self.known.read().clone()
            && known.at.elapsed() < STALE
            && than.is_none_or(|than| known.at > than)
        {
            return Some(known);
        }
        // Whoever has waited for a fetch that failed does not wait for another.
        let has_failed = fetches.failed.is_some_and(|failed| failed > asked);
        if has_failed || !BRAKE.take(&mut fetches.paid, self.began.elapsed()).allowed {
            return None;
        }
        let keys = match self.keys().await {
            Ok(keys) => keys,
            Err(why) => {
                let issuer = &self.issuer;
                tracing::warn!(issuer, "cannot fetch the issuer's keys: {why}");
                fetches.failed = Some(Instant::now());
                return None;
            }
        };
        let known = KeysAt {
            keys: Arc::new(keys.into_iter().map(Arc::new).collect()),
            at: Instant::now(),
        };
        *self.known.write() = Some(known.clone());
        Some(known)
    }

    async fn keys(&self) -> Result<Vec<Jwk>, String> {
        let Discovery { issuer, jwks_uri } = self.fetcher.get(&self.discovery).await?;
        if issuer != self.issuer {
            return Err(format!(
                "its discovery document is of the issuer {issuer:?} [OpenID Connect Discovery 1.0 section 4.3]"
            ));
        }
        let KeySet { keys } = self.fetcher.get(&jwks_uri).await?;
        let keys: Vec<Jwk> = keys.into_iter().filter_map(signing_key).collect();
        if keys.is_empty() {
            return Err(format!("{jwks_uri} has no key that signs"));
        }
        Ok(keys)
    }
}

impl KeysAt {
    fn found(&self, kid: Option<&str>) -> FoundKey {
        let key = match kid {
            Some(kid) => {
                let mut keys = self.keys.iter();
                keys.find(|key| key.common.key_id.as_deref() == Some(kid))
            }
            None => self.keys.first().filter(|_| self.keys.len() == 1),
        };
        key.map_or(FoundKey::Unknown, |key| FoundKey::Key(key.clone()))
    }
}

/// A key of a set, if it is one that signs.
fn signing_key(value: Value) -> Option<Jwk> {
    let key: Jwk = serde_json::from_value(value).ok()?;
    let signs = matches!(
        key.common.public_key_use,
        None | Some(PublicKeyUse::Signature)
    );
    signs.then_some(key)
}
