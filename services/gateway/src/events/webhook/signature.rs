//! Signatures of webhooks, over the bytes as they came, compared in constant time by ring.

use std::time::Duration;

use axum::http::{HeaderMap, HeaderName};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use oncue_core::config::{HmacAlgorithm, HmacConfig, SignatureEncoding, WebhookKind};
use ring::hmac;

/// Beginning of a secret of Standard Webhooks. Without it the rest is base64 all the same.
const STANDARD_PREFIX: &str = "whsec_";
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

/// Signatures that a request brings, and what they are said to sign.
struct Claim {
    algorithm: hmac::Algorithm,
    content: Vec<u8>,
    signatures: Vec<Vec<u8>>,
}

impl Scheme {
    /// Whether one of the secrets has signed the request, at `now` in Unix seconds.
    pub fn verify(
        &self,
        secrets: &[Vec<u8>],
        headers: &HeaderMap,
        body: &[u8],
        now: u64,
    ) -> Result<(), Refusal> {
        let claim = self.claim(headers, body, now)?;
        let keys = secrets
            .iter()
            .filter(|secret| !secret.is_empty())
            .map(|secret| hmac::Key::new(claim.algorithm, secret));
        for key in keys {
            for signature in claim.signatures.iter().take(MOST_SIGNATURES) {
                if hmac::verify(&key, &claim.content, signature).is_ok() {
                    return Ok(());
                }
            }
        }
        Err(Refusal::Wrong)
    }

    /// Bytes of a secret as its text stands in a variable or a file.
    pub fn secret(&self, text: &str) -> Result<Vec<u8>, String> {
        let text = text.trim();
        if text.is_empty() {
            return Err("is empty".to_owned());
        }
        if self.kind != WebhookKind::Standard {
            return Ok(text.as_bytes().to_vec());
        }
        let encoded = text.strip_prefix(STANDARD_PREFIX).unwrap_or(text);
        STANDARD
            .decode(encoded)
            .ok()
            .filter(|bytes| !bytes.is_empty())
            .ok_or_else(|| {
                "is no secret of Standard Webhooks, which is whsec_ and base64".to_owned()
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
        let signatures = signatures
            .split(' ')
            .filter_map(|one| one.strip_prefix("v1,"))
            .filter_map(|one| STANDARD.decode(one).ok());
        Ok(Claim {
            algorithm: hmac::HMAC_SHA256,
            content: content(&[id, ".", time, "."], body),
            signatures: signatures.collect(),
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
        Ok(Claim {
            algorithm: hmac::HMAC_SHA256,
            content: content(&[time, "."], body),
            signatures,
        })
    }

    /// [Slack, Verifying requests from Slack].
    fn slack(&self, headers: &HeaderMap, body: &[u8], now: u64) -> Result<Claim, Refusal> {
        const SIGNATURE: &str = "x-slack-signature";
        let signature = text(headers, SIGNATURE).ok_or(Refusal::Unsigned(SIGNATURE))?;
        let time = text(headers, "x-slack-request-timestamp").ok_or(Refusal::Untimed)?;
        self.check_time(time, now)?;
        Ok(Claim {
            algorithm: hmac::HMAC_SHA256,
            content: content(&["v0:", time, ":"], body),
            signatures: signature
                .strip_prefix("v0=")
                .and_then(from_hex)
                .into_iter()
                .collect(),
        })
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
        Ok(Claim {
            algorithm: match config.algorithm {
                HmacAlgorithm::Sha1 => hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY,
                HmacAlgorithm::Sha256 => hmac::HMAC_SHA256,
                HmacAlgorithm::Sha384 => hmac::HMAC_SHA384,
                HmacAlgorithm::Sha512 => hmac::HMAC_SHA512,
            },
            content,
            signatures: signature.into_iter().collect(),
        })
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
    Ok(Claim {
        algorithm: hmac::HMAC_SHA256,
        content: body.to_vec(),
        signatures: signature
            .strip_prefix("sha256=")
            .and_then(from_hex)
            .into_iter()
            .collect(),
    })
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
            let secret = scheme.secret(self.secret).expect("a secret");
            scheme.verify(&[secret], &headers(self.headers), body.as_bytes(), now)
        }

        /// Taken as it is, and not with one byte of the body or the secret changed, or without its signature.
        fn hold(&self) {
            assert_eq!(self.judge(self.body, self.now), Ok(()));
            assert_eq!(
                self.judge(&format!("{} ", self.body), self.now),
                Err(Refusal::Wrong)
            );
            let scheme = scheme(self.kind);
            let other = scheme.secret("whsec_b3RoZXIgc2VjcmV0").unwrap();
            let lines = headers(self.headers);
            let judged =
                scheme.verify(&[other, Vec::new()], &lines, self.body.as_bytes(), self.now);
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
        let bare = scheme.secret("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw");
        assert_eq!(bare, scheme.secret(case.secret));
        assert!(scheme.secret("whsec_not base64").is_err());
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
            let secrets = [b"another".to_vec(), b"Jefe".to_vec()];
            let signed = headers(&[("x-signature", &format!("sig={tag}"))]);
            assert_eq!(scheme.verify(&secrets, &signed, body, 0), Ok(()));
            let cut = headers(&[("x-signature", &format!("sig={}", &tag[2..]))]);
            assert_eq!(scheme.verify(&secrets, &cut, body, 0), Err(Refusal::Wrong));
            let twice = HeaderMap::from_iter([("x-signature", tag), ("x-signature", tag)].map(
                |(name, value)| (name.parse::<HeaderName>().unwrap(), value.parse().unwrap()),
            ));
            assert!(scheme.verify(&secrets, &twice, body, 0).is_err());
        }
    }
}
