//! Signatures of webhooks, over the bytes as they came, compared in constant time by ring.

use std::time::Duration;

use axum::http::{HeaderMap, HeaderName};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use oncue_core::config::{HmacAlgorithm, HmacConfig, SignatureEncoding, WebhookKind};
use ring::hmac;
use ring::signature::{ED25519, ED25519_PUBLIC_KEY_LEN, UnparsedPublicKey};

/// Beginning of a secret of Standard Webhooks. Without it the rest is base64 all the same.
const STANDARD_PREFIX: &str = "whsec_";
/// Beginning of a public key of Standard Webhooks.
const PUBLIC_PREFIX: &str = "whpk_";
/// Signatures in one header that are tried: a sender that replaces its secret sends two.
const MOST_SIGNATURES: usize = 8;

/// Why a request is not taken. The words are for the sender, and say nothing of the secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("the request has no signature in {0}")]
    Unsigned(&'static str),
    #[error("the request has no signature")]
    UnsignedOther,
    #[error("the request does not say when it was sent")]
    Untimed,
    #[error("the request says that it was sent at another time than now: it may be a copy")]
    Stale,
    #[error("the signature is of another secret or another body")]
    Wrong,
}

/// How requests are signed.
pub struct Scheme {
    pub kind: WebhookKind,
    /// Of the kind `hmac`.
    pub hmac: Option<HmacConfig>,
    pub tolerance: Duration,
}

/// Key by which a signature is checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Key {
    /// Secret of both sides, for an HMAC; never empty.
    Shared(Vec<u8>),
    /// Public key of the sender, for Ed25519: whoever reads it here cannot sign.
    Public(Vec<u8>),
}

/// Signatures that a request brings, and what they are said to sign.
struct Claim {
    algorithm: hmac::Algorithm,
    content: Vec<u8>,
    signatures: Vec<Vec<u8>>,
    /// Signatures of Ed25519.
    of_key_pair: Vec<Vec<u8>>,
}

impl Claim {
    fn new(algorithm: hmac::Algorithm, content: Vec<u8>, signatures: Vec<Vec<u8>>) -> Self {
        Self {
            algorithm,
            content,
            signatures,
            of_key_pair: Vec::new(),
        }
    }

    /// Whether one of the signatures is of this key.
    fn is_of(&self, key: &Key) -> bool {
        match key {
            Key::Shared(secret) => {
                let key = hmac::Key::new(self.algorithm, secret);
                let mut tried = self.signatures.iter().take(MOST_SIGNATURES);
                tried.any(|signature| hmac::verify(&key, &self.content, signature).is_ok())
            }
            Key::Public(key) => {
                let key = UnparsedPublicKey::new(&ED25519, key);
                let mut tried = self.of_key_pair.iter().take(MOST_SIGNATURES);
                tried.any(|signature| key.verify(&self.content, signature).is_ok())
            }
        }
    }
}

impl Scheme {
    /// Whether one of the keys has signed the request, at `now` in Unix seconds.
    pub fn verify(
        &self,
        keys: &[Key],
        headers: &HeaderMap,
        body: &[u8],
        now: u64,
    ) -> Result<(), Refusal> {
        let claim = self.claim(headers, body, now)?;
        if keys.iter().any(|key| claim.is_of(key)) {
            Ok(())
        } else {
            Err(Refusal::Wrong)
        }
    }

    /// Key as its text stands in a variable or a file.
    pub fn key(&self, text: &str) -> Result<Key, String> {
        let text = text.trim();
        if text.is_empty() {
            return Err("is empty".to_owned());
        }
        if self.kind != WebhookKind::Standard {
            return Ok(Key::Shared(text.as_bytes().to_vec()));
        }
        if let Some(encoded) = text.strip_prefix(PUBLIC_PREFIX) {
            let key = STANDARD.decode(encoded).ok();
            let key = key.filter(|key| key.len() == ED25519_PUBLIC_KEY_LEN);
            return key.map(Key::Public).ok_or_else(|| {
                "is no public key of Standard Webhooks, which is whpk_ and 32 bytes in base64"
                    .to_owned()
            });
        }
        let encoded = text.strip_prefix(STANDARD_PREFIX).unwrap_or(text);
        STANDARD
            .decode(encoded)
            .ok()
            .filter(|bytes| !bytes.is_empty())
            .map(Key::Shared)
            .ok_or_else(|| {
                "is no secret of Standard Webhooks, which is whsec_ and base64, or whpk_ for a public key".to_owned()
            })
    }

    fn claim(&self, headers: &HeaderMap, body: &[u8], now: u64) -> Result<Claim, Refusal> {
        match self.kind {
            WebhookKind::Standard => self.standard(headers, body, now),
            WebhookKind::GitHub => github(headers, body),
            WebhookKind::Stripe => self.stripe(headers, body, now),
            WebhookKind::Slack => self.slack(headers, body, now),
            WebhookKind::Hmac => self.other(headers, body, now),
        }
    }

    /// [Standard Webhooks 1.0, Webhook Headers].
    fn standard(&self, headers: &HeaderMap, body: &[u8], now: u64) -> Result<Claim, Refusal> {
        const SIGNATURE: &str = "webhook-signature";
        let signatures = text(headers, SIGNATURE).ok_or(Refusal::Unsigned(SIGNATURE))?;
        let id = text(headers, "webhook-id").ok_or(Refusal::Untimed)?;
        let time = text(headers, "webhook-timestamp").ok_or(Refusal::Untimed)?;
        self.check_time(time, now)?;
        let content = content(&[id, ".", time, "."], body);
        Ok(Claim {
            of_key_pair: of_version("v1a,", signatures),
            ..Claim::new(hmac::HMAC_SHA256, content, of_version("v1,", signatures))
        })
    }

    /// [Stripe, Verify webhook signatures manually].
    fn stripe(&self, headers: &HeaderMap, body: &[u8], now: u64) -> Result<Claim, Refusal> {
        const SIGNATURE: &str = "stripe-signature";
        let line = text(headers, SIGNATURE).ok_or(Refusal::Unsigned(SIGNATURE))?;
        let mut time = None;
        let mut signatures = Vec::new();
        for part in line.split(',') {
            match part.trim().split_once('=') {
                Some(("t", value)) => time = Some(value),
                Some(("v1", value)) => signatures.extend(from_hex(value)),
                _ => {}
            }
        }
        let time = time.ok_or(Refusal::Untimed)?;
        self.check_time(time, now)?;
        let content = content(&[time, "."], body);
        Ok(Claim::new(hmac::HMAC_SHA256, content, signatures))
    }

    /// [Slack, Verifying requests from Slack].
    fn slack(&self, headers: &HeaderMap, body: &[u8], now: u64) -> Result<Claim, Refusal> {
        const SIGNATURE: &str = "x-slack-signature";
        let signature = text(headers, SIGNATURE).ok_or(Refusal::Unsigned(SIGNATURE))?;
        let time = text(headers, "x-slack-request-timestamp").ok_or(Refusal::Untimed)?;
        self.check_time(time, now)?;
        let signature = signature.strip_prefix("v0=").and_then(from_hex);
        Ok(Claim::new(
            hmac::HMAC_SHA256,
            content(&["v0:", time, ":"], body),
            signature.into_iter().collect(),
        ))
    }

    fn other(&self, headers: &HeaderMap, body: &[u8], now: u64) -> Result<Claim, Refusal> {
        let config = self.hmac.as_ref().ok_or(Refusal::Wrong)?;
        let signature = text(headers, &config.header).ok_or(Refusal::UnsignedOther)?;
        let signature = signature
            .strip_prefix(config.prefix.as_str())
            .and_then(|signature| match config.encoding {
                SignatureEncoding::Hex => from_hex(signature),
                SignatureEncoding::Base64 => STANDARD.decode(signature).ok(),
            });
        let content = match &config.timestamp {
            None => body.to_vec(),
            Some(name) => {
                let time = text(headers, name).ok_or(Refusal::Untimed)?;
                self.check_time(time, now)?;
                content(&[time, "."], body)
            }
        };
        let algorithm = match config.algorithm {
            HmacAlgorithm::Sha1 => hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY,
            HmacAlgorithm::Sha256 => hmac::HMAC_SHA256,
            HmacAlgorithm::Sha384 => hmac::HMAC_SHA384,
            HmacAlgorithm::Sha512 => hmac::HMAC_SHA512,
        };
        let signatures = signature.into_iter().collect();
        Ok(Claim::new(algorithm, content, signatures))
    }

    /// Refuses a time too far from now: what somebody has copied cannot be sent again for ever.
    fn check_time(&self, text: &str, now: u64) -> Result<(), Refusal> {
        let time: u64 = text.parse().map_err(|_| Refusal::Untimed)?;
        if time.abs_diff(now) > self.tolerance.as_secs() {
            return Err(Refusal::Stale);
        }
        Ok(())
    }
}

/// [GitHub, Validating webhook deliveries], which has no time.
fn github(headers: &HeaderMap, body: &[u8]) -> Result<Claim, Refusal> {
    const SIGNATURE: &str = "x-hub-signature-256";
    let signature = text(headers, SIGNATURE).ok_or(Refusal::Unsigned(SIGNATURE))?;
    let signature = signature.strip_prefix("sha256=").and_then(from_hex);
    let signatures = signature.into_iter().collect();
    Ok(Claim::new(hmac::HMAC_SHA256, body.to_vec(), signatures))
}

/// Signatures of one version in a list of Standard Webhooks.
fn of_version(version: &str, listed: &str) -> Vec<Vec<u8>> {
    let encoded = listed
        .split(' ')
        .filter_map(|one| one.strip_prefix(version));
    encoded
        .filter_map(|one| STANDARD.decode(one).ok())
        .collect()
}

/// A header that is there once.
pub fn text<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    let name: HeaderName = name.parse().ok()?;
    let mut values = headers.get_all(name).iter();
    let value = values.next()?.to_str().ok()?;
    values.next().is_none().then_some(value)
}

fn content(parts: &[&str], body: &[u8]) -> Vec<u8> {
    let mut whole: Vec<u8> = parts.concat().into_bytes();
    whole.extend_from_slice(body);
    whole
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    if !text.is_ascii() || !text.len().is_multiple_of(2) {
        return None;
    }
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(text.get(at..at + 2)?, 16).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    use ring::signature::{Ed25519KeyPair, KeyPair as _};

    /// Request with a signature, and what is asked of it.
    struct Case<'c> {
        kind: WebhookKind,
        secret: &'c str,
        headers: &'c [(&'c str, &'c str)],
        body: &'c str,
        now: u64,
    }

    fn scheme(kind: WebhookKind) -> Scheme {
        Scheme {
            kind,
            hmac: None,
            tolerance: Duration::from_mins(5),
        }
    }

    fn headers(lines: &[(&str, &str)]) -> HeaderMap {
        let lines = lines.iter();
        lines
            .map(|(name, value)| (name.parse::<HeaderName>().unwrap(), value.parse().unwrap()))
            .collect()
    }

    impl Case<'_> {
        fn judge(&self, body: &str, now: u64) -> Result<(), Refusal> {
            let scheme = scheme(self.kind);
            let key = scheme.key(self.secret).expect("a key");
            scheme.verify(&[key], &headers(self.headers), body.as_bytes(), now)
        }

        /// Taken as it is, and not with one byte of the body or the secret changed, or without its signature.
        fn hold(&self) {
            assert_eq!(self.judge(self.body, self.now), Ok(()));
            assert_eq!(
                self.judge(&format!("{} ", self.body), self.now),
                Err(Refusal::Wrong)
            );
            let scheme = scheme(self.kind);
            let other = scheme.key("whsec_b3RoZXIgc2VjcmV0").unwrap();
            let lines = headers(self.headers);
            let judged = scheme.verify(&[other], &lines, self.body.as_bytes(), self.now);
            assert_eq!(judged, Err(Refusal::Wrong));
            let unsigned = scheme.verify(&[], &HeaderMap::new(), self.body.as_bytes(), self.now);
            assert!(unsigned.is_err());
            assert_eq!(
                scheme.verify(&[], &lines, self.body.as_bytes(), self.now),
                Err(Refusal::Wrong)
            );
        }
    }

    #[test]
    fn the_vector_of_github() {
        let case = Case {
            kind: WebhookKind::GitHub,
            secret: "It's a Secret to Everybody",
            headers: &[(
                "x-hub-signature-256",
                "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17",
            )],
            body: "Hello, World!",
            now: 0,
        };
        case.hold();
    }

    #[test]
    fn the_vector_of_slack() {
        let case = Case {
            kind: WebhookKind::Slack,
            secret: "8f742231b10e8888abcd99yyyzzz85a5",
            headers: &[
                ("x-slack-request-timestamp", "1531420618"),
                (
                    "x-slack-signature",
                    "v0=a2114d57b48eac39b9ad189dd8316235a7b4a8d21a10bd27519666489c69b503",
                ),
            ],
            body: "token=xyzz0WbapA4vBCDEFasx0q6G&team_id=T1DC2JH3J&team_domain=testteamnow&channel_id=G8PSS9T3V&\
                   channel_name=foobar&user_id=U2CERLKJA&user_name=roadrunner&command=%2Fwebhook-collect&text=&\
                   response_url=https%3A%2F%2Fhooks.slack.com%2Fcommands%2FT1DC2JH3J%2F397700885554%2F\
                   96rGlfmibIGlgcZRskXaIFfN&trigger_id=398738663015.47445629121.803a0bc887a14d10d2c447fce8b6703c",
            now: 1_531_420_618,
        };
        case.hold();
        assert_eq!(case.judge(case.body, case.now + 300), Ok(()));
        assert_eq!(case.judge(case.body, case.now + 301), Err(Refusal::Stale));
        assert_eq!(case.judge(case.body, case.now - 301), Err(Refusal::Stale));
    }

    #[test]
    fn the_vector_of_standard_webhooks() {
        let case = Case {
            kind: WebhookKind::Standard,
            secret: "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
            headers: &[
                ("webhook-id", "msg_p5jXN8AQM9LWM0D4loKWxJek"),
                ("webhook-timestamp", "1614265330"),
                (
                    "webhook-signature",
                    "v1a,bm90 v1,bm90aGluZw== v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
                ),
            ],
            body: r#"{"test": 2432232314}"#,
            now: 1_614_265_330,
        };
        case.hold();
        assert_eq!(case.judge(case.body, case.now + 301), Err(Refusal::Stale));
        // The secret is base64 with its prefix and without, and never the text itself.
        let scheme = scheme(WebhookKind::Standard);
        let bare = scheme.key("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw");
        assert_eq!(bare, scheme.key(case.secret));
        assert!(scheme.key("whsec_not base64").is_err());
    }

    #[test]
    fn a_public_key_takes_what_its_owner_has_signed_and_no_hmac() {
        let seed = b"9d61b19deffd5a60ba844af492ec2cc4";
        let pair = Ed25519KeyPair::from_seed_unchecked(seed).unwrap();
        let public = format!("whpk_{}", STANDARD.encode(pair.public_key()));
        let body = r#"{"test": 2432232314}"#;
        let content = format!("msg_1.1614265330.{body}");
        let signature = STANDARD.encode(pair.sign(content.as_bytes()));
        let line = format!("v1,bm90aGluZw== v1a,{signature}");
        let case = Case {
            kind: WebhookKind::Standard,
            secret: &public,
            headers: &[
                ("webhook-id", "msg_1"),
                ("webhook-timestamp", "1614265330"),
                ("webhook-signature", &line),
            ],
            body,
            now: 1_614_265_330,
        };
        case.hold();
        // Whoever has read the public key must not be able to sign with it as with a secret.
        let hmac = hmac::Key::new(hmac::HMAC_SHA256, pair.public_key().as_ref());
        let forged = STANDARD.encode(hmac::sign(&hmac, content.as_bytes()));
        for forged in [
            format!("v1,{forged}"),
            format!("v1a,{forged}"),
            format!("v1,{signature}"),
        ] {
            let case = Case {
                headers: &[
                    ("webhook-id", "msg_1"),
                    ("webhook-timestamp", "1614265330"),
                    ("webhook-signature", &forged),
                ],
                ..case
            };
            assert_eq!(case.judge(body, case.now), Err(Refusal::Wrong), "{forged}");
        }
        for wrong in ["whpk_", "whpk_bm90", "whpk_not base64"] {
            let why = scheme(WebhookKind::Standard).key(wrong).unwrap_err();
            assert!(why.contains("whpk_ and 32 bytes"), "{why}");
        }
    }

    #[test]
    fn signatures_of_stripe_are_one_of_several() {
        let body = r#"{"id":"evt_1"}"#;
        let time = "1700000000";
        let key = hmac::Key::new(hmac::HMAC_SHA256, b"whsec_test");
        let tag = hmac::sign(&key, format!("{time}.{body}").as_bytes());
        let tag: String = tag.as_ref().iter().map(|b| format!("{b:02x}")).collect();
        let wrong = "0".repeat(64);
        let line = format!("t={time},v1={wrong},v0={tag},v1={tag}");
        let case = Case {
            kind: WebhookKind::Stripe,
            secret: "whsec_test",
            headers: &[("stripe-signature", &line)],
            body,
            now: 1_700_000_000,
        };
        case.hold();
        assert_eq!(case.judge(body, case.now + 301), Err(Refusal::Stale));
        // An old form of the signature counts for nothing.
        let old = format!("t={time},v0={tag}");
        let case = Case {
            headers: &[("stripe-signature", &old)],
            ..case
        };
        assert_eq!(case.judge(body, case.now), Err(Refusal::Wrong));
    }

    #[test]
    fn the_vectors_of_rfc_2202_and_rfc_4231() {
        for (algorithm, tag) in [
            (
                HmacAlgorithm::Sha1,
                "effcdf6ae5eb2fa2d27416d5f184df9c259a7c79",
            ),
            (
                HmacAlgorithm::Sha256,
                "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843",
            ),
            (
                HmacAlgorithm::Sha384,
                "af45d2e376484031617f78d2b58a6b1b9c7ef464f5a01b47e42ec3736322445e8e2240ca5e69e2c78b3239ecfab21649",
            ),
            (
                HmacAlgorithm::Sha512,
                "164b7a7bfcf819e2e395fbe73b56e0a387bd64222e831fd610270cd7ea2505549758bf75c05a994a6d034f65f8f0e6fd\
                 caeab1a34d4a6b4b636e070a38bce737",
            ),
        ] {
            let mut scheme = scheme(WebhookKind::Hmac);
            scheme.hmac = Some(HmacConfig {
                algorithm,
                header: "X-Signature".to_owned(),
                prefix: "sig=".to_owned(),
                encoding: SignatureEncoding::Hex,
                timestamp: None,
                id: None,
            });
            let body = b"what do ya want for nothing?";
            let keys = [b"another".to_vec(), b"Jefe".to_vec()].map(Key::Shared);
            let signed = headers(&[("x-signature", &format!("sig={tag}"))]);
            assert_eq!(scheme.verify(&keys, &signed, body, 0), Ok(()));
            let cut = headers(&[("x-signature", &format!("sig={}", &tag[2..]))]);
            assert_eq!(scheme.verify(&keys, &cut, body, 0), Err(Refusal::Wrong));
            let twice = HeaderMap::from_iter([("x-signature", tag), ("x-signature", tag)].map(
                |(name, value)| (name.parse::<HeaderName>().unwrap(), value.parse().unwrap()),
            ));
            assert!(scheme.verify(&keys, &twice, body, 0).is_err());
        }
    }
}
