//! API keys: what a program sends to the gateway in place of a person's token, and what is kept of it.
//!
//! A key is `onc_ID_SECRET`: 48 random bits by which it is found and named, and 256 random bits that prove it. Redis holds the
//! SHA-256 of the whole. A slow hash such as bcrypt or Argon2 is for what people choose, of which there are few enough to try
//! them all; of 2^256 nobody tries any part, however fast each try is, and a slow one would only make every request slow.

use std::collections::BTreeSet;

use oncue_proto::event;
use ring::digest;
use ring::rand::{SecureRandom as _, SystemRandom};
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq as _;

/// Beginning of every key, by which scanners of repositories and logs find one that was lost.
const PREFIX: &str = "onc_";
/// Random bytes of the id, which may be shown.
const ID_BYTES: usize = 6;
/// Random bytes that nobody guesses.
const SECRET_BYTES: usize = 32;

/// API key as it is kept: enough to know it again, and nothing that could be sent in its place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiKey {
    /// 12 hex digits, part of the key itself.
    pub id: String,
    /// Name of the client, which owns its files. Two keys of one name are one client, so that a key can be
    /// replaced without a gap.
    pub name: String,
    /// SHA-256 of the key in hex.
    pub hash: String,
    /// Rights, in the words of `[auth.NAME] scopes`.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub scopes: BTreeSet<String>,
    /// Unix milliseconds.
    pub created: u64,
    /// Unix milliseconds from which it is refused; `None` for never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<u64>,
}

/// New key with its secret, which exists nowhere else.
pub struct IssuedKey {
    /// Key as it is kept.
    pub key: ApiKey,
    /// Key as its client sends it: to be shown once.
    pub token: String,
}

impl ApiKey {
    /// Makes a key.
    ///
    /// # Errors
    /// The system has no randomness, or the name or a scope cannot be one.
    pub fn issue(
        name: &str,
        scopes: BTreeSet<String>,
        expires: Option<u64>,
    ) -> Result<IssuedKey, String> {
        check_name(name)?;
        for scope in &scopes {
            check_scope(scope)?;
        }
        let id = random_hex::<ID_BYTES>()?;
        let secret = random_hex::<SECRET_BYTES>()?;
        let token = format!("{PREFIX}{id}_{secret}");
        let key = Self {
            id,
            name: name.to_owned(),
            hash: hash(&token),
            scopes,
            created: event::now_ms(),
            expires,
        };
        Ok(IssuedKey { key, token })
    }

    /// Id in a key as a client sends it; `None` for what no key can be.
    pub fn id_of(token: &str) -> Option<&str> {
        let rest = token.strip_prefix(PREFIX)?;
        let (id, secret) = rest.split_once('_')?;
        let is_key = is_hex(id, ID_BYTES) && is_hex(secret, SECRET_BYTES);
        is_key.then_some(id)
    }

    /// Whether this is the key, compared in a time that does not depend on how much of it is right.
    pub fn is(&self, token: &str) -> bool {
        hash(token)
            .as_bytes()
            .ct_eq(self.hash.as_bytes())
            .unwrap_u8()
            == 1
    }

    /// Whether its time is over.
    pub fn has_expired(&self, now: u64) -> bool {
        self.expires.is_some_and(|expires| expires <= now)
    }
}

/// Refuses a name that would not stand in a line, or not be an owner.
fn check_name(name: &str) -> Result<(), String> {
    if name.trim().is_empty() || name.len() > 128 || name.chars().any(char::is_control) {
        return Err("a key's name has 1 to 128 printable bytes".to_owned());
    }
    Ok(())
}

/// Scopes are words as OAuth 2.0 has them [RFC 6749 section 3.3].
fn check_scope(scope: &str) -> Result<(), String> {
    let is_word = scope
        .bytes()
        .all(|b| b.is_ascii_graphic() && b != b'"' && b != b'\\');
    if scope.is_empty() || scope.len() > 128 || !is_word {
        return Err(format!(
            "{scope:?} is no scope: a word of printable ASCII without quotes"
        ));
    }
    Ok(())
}

fn is_hex(text: &str, bytes: usize) -> bool {
    let mut digits = text.bytes();
    text.len() == 2 * bytes && digits.all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

fn random_hex<const N: usize>() -> Result<String, String> {
    let mut bytes = [0; N];
    SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| "the system has no randomness to give".to_owned())?;
    Ok(hex(&bytes))
}

fn hash(token: &str) -> String {
    hex(digest::digest(&digest::SHA256, token.as_bytes()).as_ref())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_knows_its_token_and_no_other() {
        let IssuedKey { key, token } = ApiKey::issue("shop", BTreeSet::new(), None).unwrap();
        let other = ApiKey::issue("shop", BTreeSet::new(), None).unwrap();
        assert_eq!(ApiKey::id_of(&token), Some(&*key.id));
        assert!(key.is(&token));
        assert!(!key.is(&other.token));
        // One with the right id and another secret.
        let forged = other.token.replace(&other.key.id, &key.id);
        assert_eq!(ApiKey::id_of(&forged), Some(&*key.id));
        assert!(!key.is(&forged));
        let kept = serde_json::to_string(&key).unwrap();
        let secret = token.rsplit_once('_').unwrap().1;
        assert!(!kept.contains(secret), "{kept}");
    }

    #[test]
    fn what_no_key_can_be_is_not_looked_up() {
        let token = ApiKey::issue("a", BTreeSet::new(), None).unwrap().token;
        for wrong in [
            "",
            "onc_",
            &token[1..],
            &token[..token.len() - 1],
            &format!("{token}0"),
            &token.to_uppercase(),
            &token.replace("onc_", "onc_*"),
        ] {
            assert_eq!(ApiKey::id_of(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn names_and_scopes_that_break_lines_are_refused() {
        let none = BTreeSet::new;
        assert!(ApiKey::issue("a\nb", none(), None).is_err());
        assert!(ApiKey::issue(" ", none(), None).is_err());
        assert!(ApiKey::issue("a", ["two words".to_owned()].into(), None).is_err());
        assert!(ApiKey::issue("a", [String::new()].into(), None).is_err());
    }

    #[test]
    fn a_key_ends_with_its_last_moment() {
        let key = ApiKey::issue("a", BTreeSet::new(), Some(1000)).unwrap().key;
        assert!(!key.has_expired(999) && key.has_expired(1000));
    }
}
