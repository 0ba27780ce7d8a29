//! Tokens that were verified before: a client sends its own with every request, and a signature takes longer to check than all
//! else that a request costs.

use std::collections::HashMap;
use std::sync::Arc;

use jsonwebtoken::jwk::Jwk;
use parking_lot::Mutex;
use ring::digest::{SHA256, digest};
use serde::Deserialize;
use serde_json::{Map, Value};

/// Tokens that are remembered; beyond them all are verified anew.
const MOST: usize = 4096;

/// Verified tokens, by a hash, so that none lies in memory.
#[derive(Default)]
pub struct VerifiedTokens(Mutex<HashMap<[u8; 32], VerifiedToken>>);

/// Token whose signature, issuer and audience are right.
#[derive(Clone)]
pub struct VerifiedToken {
    /// Key that has signed it. One that the issuer has published anew is another.
    pub key: Arc<Jwk>,
    /// Name of the key, as the token has it.
    pub kid: Option<String>,
    pub claims: Arc<Map<String, Value>>,
    /// Times between which it is good, Unix seconds.
    from: u64,
    until: u64,
}

/// Times of a token, Unix seconds.
#[derive(Deserialize)]
struct Times {
    exp: u64,
    #[serde(default)]
    nbf: u64,
}

impl VerifiedToken {
    /// Memory of a token; `None` for one without a time of which a comparison could be made again.
    pub fn new(key: Arc<Jwk>, kid: Option<String>, claims: Map<String, Value>) -> Option<Self> {
        let times: Times = serde_json::from_value(Value::Object(claims.clone())).ok()?;
        Some(Self {
            key,
            kid,
            from: times.nbf,
            until: times.exp,
            claims: Arc::new(claims),
        })
    }

    /// Whether it is good at a time, where clocks may differ by `leeway`; both in seconds.
    pub fn is_good(&self, now: u64, leeway: u64) -> bool {
        self.until.saturating_add(leeway) >= now && self.from <= now.saturating_add(leeway)
    }
}

impl VerifiedTokens {
    /// Memory of a token, if it was verified before.
    pub fn get(&self, token: &str) -> Option<VerifiedToken> {
        self.0.lock().get(&hash(token)).cloned()
    }

    pub fn insert(&self, token: &str, verified: VerifiedToken, now: u64) {
        let mut known = self.0.lock();
        if known.len() >= MOST {
            known.retain(|_, token| token.until >= now);
            if known.len() >= MOST {
                known.clear();
            }
        }
        known.insert(hash(token), verified);
    }
}

fn hash(token: &str) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(digest(&SHA256, token.as_bytes()).as_ref());
    out
}
