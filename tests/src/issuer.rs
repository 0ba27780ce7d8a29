//! Key of an OpenID Connect issuer that tests and benchmarks play.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING as METHOD, EcdsaKeyPair, KeyPair as _};
use serde_json::{Value, json};

/// Key with which an issuer signs, by ES256.
pub struct IssuerKey(EcdsaKeyPair);

impl IssuerKey {
    /// Name of the key, as tokens have it.
    pub const KID: &str = "k";

    #[expect(clippy::new_without_default, reason = "each is another key")]
    pub fn new() -> Self {
        let random = SystemRandom::new();
        let made = EcdsaKeyPair::generate_pkcs8(&METHOD, &random).expect("a key");
        Self(EcdsaKeyPair::from_pkcs8(&METHOD, made.as_ref(), &random).expect("a key"))
    }

    /// Key set that the issuer publishes.
    pub fn published(&self) -> Value {
        let point = self.0.public_key().as_ref();
        let [x, y] = [&point[1..33], &point[33..]].map(|part| URL_SAFE_NO_PAD.encode(part));
        json!({ "keys": [{
            "kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": Self::KID, "x": x, "y": y
        }] })
    }

    /// Signs a token.
    pub fn token(&self, header: &Value, claims: &Value) -> String {
        let [header, claims] =
            [header, claims].map(|part| URL_SAFE_NO_PAD.encode(part.to_string()));
        let content = format!("{header}.{claims}");
        let signed = self.0.sign(&SystemRandom::new(), content.as_bytes());
        let signature = URL_SAFE_NO_PAD.encode(signed.expect("signed"));
        format!("{content}.{signature}")
    }
}
