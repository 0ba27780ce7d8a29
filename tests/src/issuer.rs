//! OpenID Connect issuer that tests and benchmarks play.

use std::sync::Arc;

use axum::extract::State;
use axum::routing::get;
use axum::{Json, Router};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use oncue_proto::event::now_ms;
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

/// Issuer of tokens, as far as whoever checks them asks: a small server of this process, with one key.
#[derive(Clone)]
pub struct TokenIssuer {
    pub url: String,
    key: Arc<IssuerKey>,
}

impl TokenIssuer {
    pub async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await;
        let listener = listener.expect("a port");
        let issuer = Self {
            url: format!("http://{}", listener.local_addr().expect("an address")),
            key: Arc::new(IssuerKey::new()),
        };
        let router = Router::new()
            .route("/.well-known/openid-configuration", get(discovery))
            .route("/keys", get(keys))
            .with_state(issuer.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        issuer
    }

    /// A token for an audience, good for an hour, with the scope `events`.
    pub fn token(&self, audience: &str) -> String {
        let now = now_ms() / 1000;
        let header = json!({ "alg": "ES256", "kid": IssuerKey::KID, "typ": "JWT" });
        let claims = json!({
            "iss": self.url, "aud": audience, "sub": "a-client", "scope": "events", "iat": now, "exp": now + 3600,
        });
        self.key.token(&header, &claims)
    }
}

async fn discovery(State(issuer): State<TokenIssuer>) -> Json<Value> {
    let url = &issuer.url;
    Json(json!({ "issuer": url, "jwks_uri": format!("{url}/keys") }))
}

async fn keys(State(issuer): State<TokenIssuer>) -> Json<Value> {
    Json(issuer.key.published())
}
