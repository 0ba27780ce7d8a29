//! Tokens signed with keys of these tests, and an issuer of this process.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::routing::get;
use axum::{Json, Router};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use oncue_proto::event;
use parking_lot::Mutex;
use ring::hmac;
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _,
};
use serde_json::json;

use super::*;

/// Key of an issuer.
enum Signer {
    Es256(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
}

impl Signer {
    fn es256() -> Self {
        let random = SystemRandom::new();
        let method = &ECDSA_P256_SHA256_FIXED_SIGNING;
        let made = EcdsaKeyPair::generate_pkcs8(method, &random).unwrap();
        Self::Es256(EcdsaKeyPair::from_pkcs8(method, made.as_ref(), &random).unwrap())
    }

    fn ed25519() -> Self {
        let made = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        Self::Ed25519(Ed25519KeyPair::from_pkcs8(made.as_ref()).unwrap())
    }

    fn jwk(&self, kid: &str) -> Value {
        match self {
            Self::Es256(pair) => {
                let point = pair.public_key().as_ref();
                let x = encode(&point[1..33]);
                let y = encode(&point[33..]);
                json!({ "kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": kid, "x": x, "y": y })
            }
            Self::Ed25519(pair) => {
                let x = encode(pair.public_key().as_ref());
                json!({ "kty": "OKP", "crv": "Ed25519", "kid": kid, "x": x })
            }
        }
    }

    fn sign(&self, content: &str) -> Vec<u8> {
        match self {
            Self::Es256(pair) => {
                let signed = pair.sign(&SystemRandom::new(), content.as_bytes());
                signed.unwrap().as_ref().to_vec()
            }
            Self::Ed25519(pair) => pair.sign(content.as_bytes()).as_ref().to_vec(),
        }
    }

    fn algorithm(&self) -> &'static str {
        match self {
            Self::Es256(_) => "ES256",
            Self::Ed25519(_) => "EdDSA",
        }
    }

    fn token(&self, kid: &str, claims: &Value) -> String {
        let content = content(
            &json!({ "alg": self.algorithm(), "kid": kid, "typ": "JWT" }),
            claims,
        );
        let signature = encode(&self.sign(&content));
        format!("{content}.{signature}")
    }
}

fn encode(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

fn content(header: &Value, claims: &Value) -> String {
    let header = encode(header.to_string().as_bytes());
    let claims = encode(claims.to_string().as_bytes());
    format!("{header}.{claims}")
}

/// Issuer on a port of this machine.
#[derive(Clone)]
struct Provider {
    url: String,
    keys: Arc<Mutex<Vec<Value>>>,
    fetches: Arc<AtomicUsize>,
}

impl Provider {
    async fn start(keys: Vec<Value>) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let provider = Self {
            keys: Arc::new(Mutex::new(keys)),
            fetches: Arc::default(),
            url: url.clone(),
        };
        let shown = provider.clone();
        let router = Router::new()
            .route(
                "/.well-known/openid-configuration",
                get(async move || {
                    Json(json!({ "issuer": url, "jwks_uri": format!("{url}/keys") }))
                }),
            )
            .route(
                "/keys",
                get(async move || {
                    shown.fetches.fetch_add(1, Ordering::Relaxed);
                    Json(json!({ "keys": shown.keys.lock().clone() }))
                }),
            );
        tokio::spawn(async move { axum::serve(listener, router).await });
        provider
    }

    fn issuer(&self) -> Issuer {
        self.with(|_| {})
    }

    fn with(&self, change: impl FnOnce(&mut AuthConfig)) -> Issuer {
        let mut config = AuthConfig {
            issuer: Some(self.url.clone()),
            audience: ["shop".to_owned()].into(),
            ..AuthConfig::default()
        };
        change(&mut config);
        Issuer::new(&config).unwrap().expect("an issuer")
    }

    fn claims(&self) -> Value {
        json!({
            "iss": self.url,
            "aud": ["shop", "other"],
            "sub": "ann",
            "exp": event::now_ms() / 1000 + 300,
            "scope": "events  files",
        })
    }
}

/// Status of what comes of a token, and why.
async fn judge(issuer: &Issuer, token: &str) -> (u16, String) {
    match issuer.identify(token).await {
        Ok(identity) => (200, identity.claim("sub").unwrap_or_default()),
        Err(problem) => (problem.status().as_u16(), problem.detail().to_owned()),
    }
}

#[tokio::test]
async fn tokens_of_the_issuer_are_taken() {
    let ec = Signer::es256();
    let ed = Signer::ed25519();
    let odd = json!({ "kty": "AKP", "alg": "ML-DSA-44", "kid": "q", "pub": "x" });
    let provider = Provider::start(vec![odd, ec.jwk("a"), ed.jwk("b")]).await;
    let issuer = provider.issuer();
    for token in [
        ec.token("a", &provider.claims()),
        ed.token("b", &provider.claims()),
    ] {
        let identity = issuer
            .identify(&token)
            .await
            .unwrap_or_else(|problem| panic!("{}", problem.detail()));
        assert_eq!(identity.claim("sub").as_deref(), Some("ann"));
        assert_eq!(
            identity.scopes,
            ["events", "files"].map(str::to_owned).into()
        );
    }
    assert_eq!(provider.fetches.load(Ordering::Relaxed), 1);
    // Remembered, and no other one is.
    let known = issuer.recall(&ec.token("a", &provider.claims())).await;
    assert!(known.is_none(), "signed once more it is another token");
    let token = ec.token("a", &provider.claims());
    assert_eq!(judge(&issuer, &token).await.0, 200);
    let known = issuer.recall(&token).await;
    assert!(known.is_some_and(|known| known.is_ok()));
}

#[tokio::test]
async fn what_is_pinned_is_not_the_tokens_to_choose() {
    let ec = Signer::es256();
    let jwk = ec.jwk("a");
    let provider = Provider::start(vec![jwk.clone()]).await;
    let issuer = provider.issuer();
    let claims = provider.claims();
    assert_eq!(judge(&issuer, &ec.token("a", &claims)).await.0, 200);

    let bare = content(&json!({ "alg": "none", "kid": "a" }), &claims);
    assert_eq!(judge(&issuer, &format!("{bare}.")).await.0, 401);
    // The public key as the secret of a symmetric signature.
    for secret in [jwk.to_string(), jwk["x"].as_str().unwrap().to_owned()] {
        let forged = content(&json!({ "alg": "HS256", "kid": "a" }), &claims);
        let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
        let tag = encode(hmac::sign(&key, forged.as_bytes()).as_ref());
        let (status, why) = judge(&issuer, &format!("{forged}.{tag}")).await;
        assert_eq!(status, 401, "{why}");
        assert!(why.contains("HS256"), "{why}");
    }
    // Another's signature under the right name.
    let other = Signer::es256().token("a", &claims);
    assert!(judge(&issuer, &other).await.1.contains("signature"));
    // A key brought along is nobody's.
    let own = Signer::es256();
    let header = json!({ "alg": "ES256", "kid": "a", "jwk": own.jwk("a") });
    let brought = content(&header, &claims);
    let brought = format!("{brought}.{}", encode(&own.sign(&brought)));
    assert_eq!(judge(&issuer, &brought).await.0, 401);
    // An algorithm that the policy leaves out.
    let narrow = provider.with(|config| config.algorithms = ["RS256".to_owned()].into());
    assert!(
        judge(&narrow, &ec.token("a", &claims))
            .await
            .1
            .contains("ES256")
    );
    // A key that says what it is for.
    let marked = Provider::start(vec![{
        let mut jwk = jwk.clone();
        jwk["alg"] = json!("ES384");
        jwk
    }])
    .await;
    let token = ec.token("a", &marked.claims());
    assert!(
        judge(&marked.issuer(), &token)
            .await
            .1
            .contains("another algorithm")
    );
    let locks = Provider::start(vec![{
        let mut jwk = jwk.clone();
        jwk["use"] = json!("enc");
        jwk
    }])
    .await;
    let token = ec.token("a", &locks.claims());
    assert_eq!(judge(&locks.issuer(), &token).await.0, 503);
}

#[tokio::test]
async fn issuer_audience_and_times_are_checked_and_must_be_there() {
    let ec = Signer::es256();
    let provider = Provider::start(vec![ec.jwk("a")]).await;
    let issuer = provider.issuer();
    let now = event::now_ms() / 1000;
    for (field, value, word) in [
        ("iss", json!("https://other.example"), "issuer"),
        ("iss", json!(null), ""),
        ("iss", json!(["x"]), ""),
        ("aud", json!("other"), "audience"),
        ("aud", json!([]), "audience"),
        ("aud", json!(7), ""),
        ("exp", json!(now - 31), "expired"),
        ("exp", json!("never"), ""),
        ("nbf", json!(now + 60), "not valid yet"),
    ] {
        let mut claims = provider.claims();
        claims[field] = value.clone();
        let (status, why) = judge(&issuer, &ec.token("a", &claims)).await;
        assert_eq!(status, 401, "{field} {value}: {why}");
        assert!(why.contains(word), "{field} {value}: {why}");
    }
    for missing in ["iss", "aud", "exp"] {
        let mut claims = provider.claims();
        claims.as_object_mut().unwrap().remove(missing);
        let (status, why) = judge(&issuer, &ec.token("a", &claims)).await;
        assert_eq!(status, 401, "without {missing}: {why}");
    }
    // Clocks differ.
    let mut claims = provider.claims();
    claims["exp"] = json!(now - 10);
    claims["nbf"] = json!(now + 10);
    assert_eq!(judge(&issuer, &ec.token("a", &claims)).await.0, 200);
}

/// What is remembered of a token that was verified opens nothing once it has expired, or its key is the issuer's no more.
#[tokio::test]
async fn a_token_that_is_known_expires_and_goes_with_its_key() {
    let ec = Signer::es256();
    let provider = Provider::start(vec![ec.jwk("a")]).await;
    let issuer = provider.issuer();
    let mut claims = provider.claims();
    let token = ec.token("a", &claims);
    for _ in 0..2 {
        assert_eq!(judge(&issuer, &token).await.0, 200);
    }
    // Clocks may differ by 30 s.
    claims["exp"] = json!(event::now_ms() / 1000 - 28);
    let short = ec.token("a", &claims);
    assert_eq!(judge(&issuer, &short).await.0, 200);
    let mut last = (200, String::new());
    for _ in 0..100 {
        last = judge(&issuer, &short).await;
        if last.0 != 200 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    assert_eq!(last.0, 401);
    assert!(last.1.contains("expired"), "{}", last.1);
    // Another key under the same name; a token with a new one makes us look.
    let other = Signer::es256();
    *provider.keys.lock() = vec![other.jwk("a"), other.jwk("b")];
    let claims = provider.claims();
    assert_eq!(judge(&issuer, &other.token("b", &claims)).await.0, 200);
    let (status, why) = judge(&issuer, &token).await;
    assert_eq!(status, 401, "{why}");
    assert!(why.contains("signature"), "{why}");
}

#[tokio::test]
async fn claims_that_are_asked_for() {
    let ec = Signer::es256();
    let provider = Provider::start(vec![ec.jwk("a")]).await;
    let issuer = provider.with(|config| {
        let tenants = OneOf::Any(["acme".to_owned(), "ajax".to_owned()].into());
        let staff = OneOf::One("true".to_owned());
        config.claims = [("tenant".to_owned(), tenants), ("staff".to_owned(), staff)].into();
    });
    for (tenant, staff, expected) in [
        (json!("acme"), json!(true), 200),
        (json!(["other", "ajax"]), json!("true"), 200),
        (json!("other"), json!(true), 403),
        (json!(null), json!(true), 403),
        (json!("acme"), json!(false), 403),
        (json!({ "acme": "acme" }), json!(true), 403),
    ] {
        let mut claims = provider.claims();
        claims["tenant"] = tenant.clone();
        claims["staff"] = staff;
        let (status, why) = judge(&issuer, &ec.token("a", &claims)).await;
        assert_eq!(status, expected, "{tenant}: {why}");
        assert!(!why.contains("acme"), "claims are not repeated: {why}");
    }
}

#[tokio::test]
async fn a_new_key_is_found_at_once_and_made_up_ones_are_braked() {
    let old = Signer::es256();
    let new = Signer::ed25519();
    let provider = Provider::start(vec![old.jwk("1")]).await;
    let issuer = provider.issuer();
    let claims = provider.claims();
    assert_eq!(judge(&issuer, &old.token("1", &claims)).await.0, 200);
    *provider.keys.lock() = vec![old.jwk("1"), new.jwk("2")];
    assert_eq!(judge(&issuer, &new.token("2", &claims)).await.0, 200);
    assert_eq!(judge(&issuer, &old.token("1", &claims)).await.0, 200);
    for number in 0..50 {
        let made_up = new.token(&format!("x{number}"), &claims);
        assert_eq!(judge(&issuer, &made_up).await.0, 401);
    }
    let fetches = provider.fetches.load(Ordering::Relaxed);
    assert!((2..=8).contains(&fetches), "{fetches} fetches");
    assert_eq!(judge(&issuer, &new.token("2", &claims)).await.0, 200);
    // Many that ask at once make one fetch.
    let cold = Arc::new(provider.issuer());
    let before = provider.fetches.load(Ordering::Relaxed);
    let asked = (0..40).map(|_| {
        let token = new.token("2", &claims);
        let issuer = cold.clone();
        async move { judge(&issuer, &token).await.0 }
    });
    let answers = futures_util::future::join_all(asked).await;
    assert_eq!(answers, [200; 40]);
    assert_eq!(provider.fetches.load(Ordering::Relaxed), before + 1);
}

#[tokio::test]
async fn an_issuer_that_is_not_who_it_says_or_away() {
    let ec = Signer::es256();
    let provider = Provider::start(vec![ec.jwk("a")]).await;
    let other = provider.with(|config| config.issuer = Some(format!("{}/", provider.url)));
    let (status, why) = judge(&other, &ec.token("a", &provider.claims())).await;
    assert_eq!(status, 503, "{why}");
    let nobody = provider.with(|config| config.issuer = Some("http://127.0.0.1:1".to_owned()));
    assert_eq!(
        judge(&nobody, &ec.token("a", &provider.claims())).await.0,
        503
    );
    assert_eq!(judge(&nobody, "no.jwt").await.0, 401);
}
