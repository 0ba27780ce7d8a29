//! Logging in with an account of an OpenID Connect issuer: authorization code with PKCE [OpenID Connect Core 1.0 section 3.1,
//! RFC 7636, RFC 9207].
//!
//! Nothing is kept here of a login that was begun: state, nonce and verifier are in a signed cookie of the browser that began it, so
//! that no other browser can end it, whichever of several consoles it comes back to.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::{Extension, Query, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use oncue_core::config::{AuthConfig, Config, LoginConfig};
use oncue_http::Peer;
use oncue_http::address::requester;
use oncue_http::oidc::Verifier;
use oncue_http::oidc::fetch::Fetcher;
use oncue_proto::event;
use parking_lot::RwLock;
use ring::{digest, hmac};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use url::Url;

use super::right::Right;
use super::sessions::{Session, random};
use super::{
    COOKIE, MAX_NAME_BYTES, SESSION_MS, Who, cookie_of, is_secure, make_cookie, set_cookie,
};
use crate::App;
use crate::api::audit;
use crate::problem::{INTERNAL, LOGIN, NOT_FOUND, Problem, TOO_MANY_LOGINS};

/// Cookie of a login that was begun.
const ATTEMPT: &str = "oncue-login";
/// Path to which the issuer sends people back, behind `[console] url`.
const BACK: &str = "/api/login/back";
/// Time for somebody to log in at the issuer.
const ATTEMPT_MS: u64 = 600 * 1000;
/// Age at which the issuer is asked anew where its endpoints are.
const REFRESH: Duration = Duration::from_hours(1);
/// Pause after a question to the issuer that was asked in vain.
const PATIENCE: Duration = Duration::from_secs(5);
/// Longest place on the page that is remembered: a browser keeps no cookie of more than four kilobytes.
const MAX_PLACE: usize = 1024;
/// Issuer whose accounts open the console.
pub struct Door {
    config: LoginConfig,
    all: Config,
    /// Where the issuer sends people back to.
    back: String,
    discovery: Url,
    fetcher: Fetcher,
    verifier: Verifier,
    known: RwLock<Option<(Endpoints, Instant)>>,
    /// When the issuer was asked in vain; held while it is asked, so that many who come make one question.
    failed: tokio::sync::Mutex<Option<Instant>>,
}

/// Part of the discovery document that is needed.
#[derive(Clone, Deserialize)]
struct Endpoints {
    issuer: String,
    authorization_endpoint: Url,
    token_endpoint: Url,
    userinfo_endpoint: Option<Url>,
    /// Whether it says who it is when it sends somebody back [RFC 9207].
    #[serde(default)]
    authorization_response_iss_parameter_supported: bool,
}

/// Login that a browser has begun.
#[derive(Serialize, Deserialize)]
struct Attempt {
    state: String,
    nonce: String,
    /// PKCE's.
    verifier: String,
    /// Place on the page that was shown, `#/...` or nothing.
    to: String,
    /// Unix milliseconds.
    expires: u64,
}

/// Answer of the token endpoint.
#[derive(Deserialize)]
struct Tokens {
    id_token: String,
    access_token: Option<String>,
}

impl Door {
    /// The door that `[console.login]` describes; `None` without. Nothing is asked of the issuer yet.
    ///
    /// # Errors
    /// A sentence about the issuer, its secret, or this machine's root certificates.
    pub fn new(all: &Config) -> Result<Option<Box<Self>>, String> {
        let Some(config) = all.console.login.clone() else {
            return Ok(None);
        };
        if let Some(secret) = &config.secret {
            secret
                .read(all)
                .map_err(|why| format!("[console.login] secret: {why}"))?;
        }
        let base = all.console.url.as_deref().unwrap_or_default();
        let place = config.issuer.trim_end_matches('/');
        let place = format!("{place}/.well-known/openid-configuration");
        let discovery = Url::parse(&place).map_err(|e| format!("{:?}: {e}", config.issuer))?;
        let audience = [config.client.clone()].into();
        // Algorithms and clocks as at the gateway where nothing is said of them.
        let usual = AuthConfig::default();
        let verifier = Verifier::new(&config.issuer, &audience, usual.algorithms(), usual.skew())?;
        Ok(Some(Box::new(Self {
            back: format!("{}{BACK}", base.trim_end_matches('/')),
            fetcher: Fetcher::new(&discovery)?,
            verifier,
            discovery,
            known: RwLock::default(),
            failed: tokio::sync::Mutex::default(),
            config,
            all: all.clone(),
        })))
    }

    /// Name of the issuer for people: its host.
    pub fn host(&self) -> &str {
        self.discovery.host_str().unwrap_or_default()
    }

    /// Endpoints as they were found a while ago.
    fn recent(&self) -> Option<Endpoints> {
        let known = self.known.read();
        let (endpoints, at) = known.as_ref()?;
        (at.elapsed() < REFRESH).then(|| endpoints.clone())
    }

    async fn endpoints(&self) -> Result<Endpoints, String> {
        if let Some(known) = self.recent() {
            return Ok(known);
        }
        let mut failed = self.failed.lock().await;
        // Somebody has asked while this one waited.
        if let Some(known) = self.recent() {
            return Ok(known);
        }
        if failed.is_some_and(|failed| failed.elapsed() < PATIENCE) {
            return Err("it was asked in vain a moment ago".to_owned());
        }
        let found = self.fetcher.get(&self.discovery).await;
        let found = found.and_then(|found: Endpoints| {
            if found.issuer == self.config.issuer {
                return Ok(found);
            }
            Err(format!(
                "its discovery document is of the issuer {:?} [OpenID Connect Discovery 1.0 section 4.3]",
                found.issuer
            ))
        });
        *failed = found.is_err().then(Instant::now);
        let found = found?;
        *self.known.write() = Some((found.clone(), Instant::now()));
        Ok(found)
    }

    /// Address at the issuer where somebody logs in.
    fn way(&self, endpoints: &Endpoints, attempt: &Attempt) -> String {
        let hash = digest::digest(&digest::SHA256, attempt.verifier.as_bytes());
        let mut scope = "openid".to_owned();
        for more in &self.config.scopes {
            let _ = write!(scope, " {more}");
        }
        let mut way = endpoints.authorization_endpoint.clone();
        way.query_pairs_mut()
            .append_pair("response_type", "code")
            .append_pair("client_id", &self.config.client)
            .append_pair("redirect_uri", &self.back)
            .append_pair("scope", &scope)
            .append_pair("state", &attempt.state)
            .append_pair("nonce", &attempt.nonce)
            .append_pair("code_challenge", &URL_SAFE_NO_PAD.encode(hash))
            .append_pair("code_challenge_method", "S256");
        way.into()
    }

    /// Claims of the person whose code it is.
    async fn claims(&self, code: &str, attempt: &Attempt) -> Result<Map<String, Value>, String> {
        let endpoints = self.endpoints().await?;
        let mut form = Url::parse("form:").map_err(|e| e.to_string())?;
        form.query_pairs_mut()
            .append_pair("grant_type", "authorization_code")
            .append_pair("code", code)
            .append_pair("redirect_uri", &self.back)
            .append_pair("client_id", &self.config.client)
            .append_pair("code_verifier", &attempt.verifier);
        let form = form.query().unwrap_or_default().to_owned();
        let authorization = self.authorization()?;
        let tokens: Tokens = self
            .fetcher
            .post(&endpoints.token_endpoint, form, authorization)
            .await?;
        let claims = self.verifier.claims(&tokens.id_token).await;
        let claims = claims.map_err(|e| e.to_string())?;
        // Of this very login, and not one that somebody has recorded.
        if claims.get("nonce").and_then(Value::as_str) != Some(&attempt.nonce) {
            return Err("the token is of another login".to_owned());
        }
        // With several audiences it must have been made for us [OpenID Connect Core 1.0 section 3.1.3.7].
        let party = claims.get("azp").and_then(Value::as_str);
        if party.is_some_and(|party| party != self.config.client) {
            return Err("the token was made for another party".to_owned());
        }
        // An identifier that nobody chooses: without one nobody is known.
        if claims
            .get("sub")
            .and_then(Value::as_str)
            .is_none_or(str::is_empty)
        {
            return Err("the token lacks sub".to_owned());
        }
        let is_whole = claims.contains_key(&self.config.claim)
            && (self.config.claim != "email" || claims.contains_key("email_verified"));
        if is_whole {
            return Ok(claims);
        }
        self.told_apart(claims, &endpoints, tokens.access_token.as_deref())
            .await
    }

    /// Claims with those that the issuer tells apart from the ID token, as some do with all of a scope.
    async fn told_apart(
        &self,
        claims: Map<String, Value>,
        endpoints: &Endpoints,
        token: Option<&str>,
    ) -> Result<Map<String, Value>, String> {
        let Some(place) = &endpoints.userinfo_endpoint else {
            return Ok(claims);
        };
        let Some(token) = token else {
            return Ok(claims);
        };
        let told: Map<String, Value> = self.fetcher.get_by(place, token).await?;
        // Of another person it must not be taken [OpenID Connect Core 1.0 section 5.3.2].
        if told.get("sub") != claims.get("sub") {
            return Err("the issuer tells of another person".to_owned());
        }
        // What the ID token says is signed.
        Ok(told.into_iter().chain(claims).collect())
    }

    /// Basic authentication of the client, whose id and secret are form-encoded first [RFC 6749 section 2.3.1].
    fn authorization(&self) -> Result<Option<HeaderValue>, String> {
        let Some(secret) = &self.config.secret else {
            return Ok(None);
        };
        let secret = secret.read(&self.all)?;
        let [client, secret] = [&self.config.client, &secret]
            .map(|half| url::form_urlencoded::byte_serialize(half.as_bytes()).collect::<String>());
        let pair = format!("{client}:{secret}");
        let value = HeaderValue::from_str(&format!("Basic {}", STANDARD.encode(pair)));
        value.map(Some).map_err(|e| e.to_string())
    }

    /// The highest right that somebody's claims give.
    fn right(&self, claims: &Map<String, Value>) -> Option<Right> {
        // Anybody can say that a mailbox is theirs. Some issuers say truths as text.
        let verified = claims.get("email_verified");
        let is_verified = verified.is_some_and(|it| *it == Value::Bool(true) || it == "true");
        if self.config.claim == "email" && !is_verified {
            return None;
        }
        let claim = claims.get(&self.config.claim)?;
        let LoginConfig {
            look,
            operate,
            admin,
            ..
        } = &self.config;
        let mut rights = [
            (admin, Right::Admin),
            (operate, Right::Operate),
            (look, Right::Look),
        ]
        .into_iter();
        rights.find_map(|(values, right)| {
            values
                .as_ref()
                .is_some_and(|values| values.hold_any(claim))
                .then_some(right)
        })
    }
}

/// Name of a person for the record: what they call themselves there, and who they are.
fn name(claims: &Map<String, Value>) -> String {
    let named = ["preferred_username", "email", "name"].iter();
    let mut found = named.filter_map(|name| claims.get(*name).and_then(Value::as_str));
    let subject = claims
        .get("sub")
        .and_then(Value::as_str)
        .unwrap_or_default();
    match found.next().map(str::trim).filter(|name| *name != subject) {
        None => short(subject, MAX_NAME_BYTES),
        Some(name) => {
            let half = MAX_NAME_BYTES / 2;
            format!("{} ({})", short(name, half), short(subject, half - 3))
        }
    }
}

/// As much of a text as there is room for, without control characters.
fn short(text: &str, bytes: usize) -> String {
    let mut kept = String::new();
    for c in text.chars().filter(|c| !c.is_control()) {
        if kept.len() + c.len_utf8() > bytes {
            break;
        }
        kept.push(c);
    }
    kept
}

#[derive(Deserialize)]
pub struct Begin {
    /// Place on the page that is shown, `#/...`: it is shown again afterwards.
    #[serde(default)]
    to: String,
}

/// Sends a browser to the issuer.
pub async fn begin(
    State(app): State<Arc<App>>,
    Extension(peer): Extension<Peer>,
    headers: HeaderMap,
    Query(Begin { to }): Query<Begin>,
) -> Result<Response, Problem> {
    let Opening { door, key } = opening(&app)?;
    let endpoints = match door.endpoints().await {
        Ok(endpoints) => endpoints,
        Err(why) => {
            tracing::warn!("{} cannot be asked: {why}", door.host());
            return Ok(redirect("/?login=away", []));
        }
    };
    let attempt = Attempt {
        state: random::<16>().ok_or_else(no_randomness)?,
        nonce: random::<16>().ok_or_else(no_randomness)?,
        verifier: random::<32>().ok_or_else(no_randomness)?,
        // A place on this page and nowhere else.
        to: if to.starts_with("#/") && to.len() <= MAX_PLACE {
            to
        } else {
            String::new()
        },
        expires: event::now_ms() + ATTEMPT_MS,
    };
    let cookie = sign(key, &attempt);
    let cookie = attempt_cookie(&cookie, ATTEMPT_MS / 1000, is_secure(&app, peer, &headers));
    let way = door.way(&endpoints, &attempt);
    Ok(redirect(&way, [cookie]))
}

#[derive(Deserialize)]
pub struct Back {
    #[serde(default)]
    code: String,
    #[serde(default)]
    state: String,
    iss: Option<String>,
    error: Option<String>,
}

/// Somebody whose account lets them in.
struct Entered {
    name: String,
    right: Right,
}

/// Reason for which a login lets nobody in.
struct Refusal {
    /// Word in the address, which the page explains.
    word: &'static str,
    /// Line for the record.
    why: String,
}

impl Refusal {
    fn new(word: &'static str, why: impl Into<String>) -> Self {
        let why = why.into();
        Self { word, why }
    }

    fn response(&self, who: &Who, door: &Door, over: HeaderValue) -> Response {
        audit::line(who, "login", door.host(), &self.why);
        redirect(&format!("/?login={}", self.word), [over])
    }
}

impl Door {
    /// The login that a browser has come back from. Costs nothing, so that nobody uses up what others may try.
    fn came_back(
        &self,
        key: &hmac::Key,
        cookie: Option<&str>,
        back: &Back,
    ) -> Result<Attempt, Refusal> {
        let attempt = cookie.and_then(|cookie| read(key, cookie));
        let attempt = attempt.ok_or_else(|| {
            Refusal::new("expired", "no login was begun here, or it took too long")
        })?;
        let says = self
            .known
            .read()
            .as_ref()
            .is_some_and(|(known, _)| known.authorization_response_iss_parameter_supported);
        let is_of_issuer = match &back.iss {
            Some(issuer) => *issuer == self.config.issuer,
            None => !says,
        };
        if attempt.state != back.state || !is_of_issuer {
            return Err(Refusal::new("expired", "it is of another login"));
        }
        if let Some(error) = &back.error {
            let error = short(error, MAX_NAME_BYTES);
            return Err(Refusal::new(
                "refused",
                format!("the issuer says {error:?}"),
            ));
        }
        Ok(attempt)
    }

    /// The person whose code it is.
    async fn enter(&self, attempt: &Attempt, code: &str) -> Result<Entered, Refusal> {
        let claims = self.claims(code, attempt).await;
        let claims = claims.map_err(|why| {
            tracing::warn!("a login by {} failed: {why}", self.host());
            Refusal::new("failed", "could not be checked")
        })?;
        let name = name(&claims);
        let right = self.right(&claims);
        let right =
            right.ok_or_else(|| Refusal::new("nobody", format!("{name} has no right here")))?;
        Ok(Entered { name, right })
    }
}

/// Takes a browser back from the issuer.
pub async fn back(
    State(app): State<Arc<App>>,
    Extension(peer): Extension<Peer>,
    headers: HeaderMap,
    Query(back): Query<Back>,
) -> Result<Response, Problem> {
    let Opening { door, key } = opening(&app)?;
    let client = requester(peer.0.ip(), &headers, &app.config.console.proxies);
    let is_secure = is_secure(&app, peer, &headers);
    let over = attempt_cookie("", 0, is_secure);
    let stranger = Who(format!("somebody@{}", peer.0.ip()));
    let attempt = match door.came_back(key, cookie_of(&headers, ATTEMPT), &back) {
        Ok(attempt) => attempt,
        Err(refusal) => return Ok(refusal.response(&stranger, door, over)),
    };
    // From here on it costs the issuer a question.
    app.access.brake.take(client).map_err(|wait| {
        let seconds = HeaderValue::from(wait.as_secs() + 1);
        Problem::new(
            TOO_MANY_LOGINS,
            "too many logins failed; this one was not looked at",
        )
        .with_header(header::RETRY_AFTER, seconds)
    })?;
    let Entered { name, right } = match door.enter(&attempt, &back.code).await {
        Ok(entered) => entered,
        Err(refusal) => return Ok(refusal.response(&stranger, door, over)),
    };
    app.access.brake.give_back(client);
    let session = Session::begin(&name, right, event::now_ms() + SESSION_MS);
    let session = session.ok_or_else(no_randomness)?;
    let who = Who(format!("{name}@{}", peer.0.ip()));
    audit::line(&who, "login", door.host(), right.word());
    let cookie = make_cookie(key, &session);
    let cookie = set_cookie(COOKIE, &cookie, SESSION_MS / 1000, is_secure);
    Ok(redirect(&format!("/{}", attempt.to), [over, cookie]))
}

fn no_randomness() -> Problem {
    Problem::new(INTERNAL, "the system has no randomness to give")
}

/// Door, and the key of cookies.
struct Opening<'a> {
    door: &'a Door,
    /// Signs cookies.
    key: &'a hmac::Key,
}

fn opening(app: &App) -> Result<Opening<'_>, Problem> {
    let door = app.access.door.as_deref();
    let door = door.ok_or_else(|| Problem::new(NOT_FOUND, "there is no [console.login]"))?;
    let key = app.access.key.as_ref();
    let key = key.ok_or_else(|| Problem::new(LOGIN, "this console has no token"))?;
    Ok(Opening { door, key })
}

fn sign(key: &hmac::Key, attempt: &Attempt) -> String {
    let content = serde_json::json!(attempt).to_string();
    let content = URL_SAFE_NO_PAD.encode(content);
    let signature = hmac::sign(key, format!("login.{content}").as_bytes());
    format!("{content}.{}", URL_SAFE_NO_PAD.encode(signature.as_ref()))
}

fn read(key: &hmac::Key, cookie: &str) -> Option<Attempt> {
    let (content, signature) = cookie.rsplit_once('.')?;
    let signature = URL_SAFE_NO_PAD.decode(signature).ok()?;
    hmac::verify(key, format!("login.{content}").as_bytes(), &signature).ok()?;
    let content = URL_SAFE_NO_PAD.decode(content).ok()?;
    let attempt: Attempt = serde_json::from_slice(&content).ok()?;
    (attempt.expires >= event::now_ms()).then_some(attempt)
}

/// Sent along when the issuer sends the browser back, unlike that of a session.
fn attempt_cookie(value: &str, seconds: u64, secure: bool) -> HeaderValue {
    let secure = if secure { "; Secure" } else { "" };
    let line = format!(
        "{ATTEMPT}={value}; Path=/api/login; Max-Age={seconds}; HttpOnly; SameSite=Lax{secure}"
    );
    HeaderValue::from_str(&line).unwrap_or(HeaderValue::from_static(""))
}

fn redirect<const N: usize>(to: &str, cookies: [HeaderValue; N]) -> Response {
    let mut response = StatusCode::SEE_OTHER.into_response();
    let to = HeaderValue::from_str(to).unwrap_or(HeaderValue::from_static("/"));
    response.headers_mut().insert(header::LOCATION, to);
    for cookie in cookies {
        response.headers_mut().append(header::SET_COOKIE, cookie);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_begun_login_is_known_by_its_signature_and_ends() {
        let key = |text: &str| hmac::Key::new(hmac::HMAC_SHA256, text.as_bytes());
        let attempt = |expires| Attempt {
            state: "s".into(),
            nonce: "n".into(),
            verifier: "v".into(),
            to: "#/flows".into(),
            expires,
        };
        let later = event::now_ms() + 1000;
        let cookie = sign(&key("one"), &attempt(later));
        assert_eq!(
            read(&key("one"), &cookie).map(|it| it.to).as_deref(),
            Some("#/flows")
        );
        assert!(read(&key("two"), &cookie).is_none() && read(&key("one"), "a.b").is_none());
        assert!(
            read(&key("one"), &sign(&key("one"), &attempt(1))).is_none(),
            "too late"
        );
    }

    #[test]
    fn names_are_kept_short_and_whole() {
        let claims = |name: &str, sub: &str| {
            let pairs = [("email", name), ("sub", sub)];
            Map::from_iter(pairs.map(|(name, value)| (name.to_owned(), Value::from(value))))
        };
        assert_eq!(
            name(&claims("ann\u{7}@example.com", "u1")),
            "ann@example.com (u1)"
        );
        assert_eq!(name(&claims("u1", "u1")), "u1");
        let long = name(&claims(&"é".repeat(100), &"x".repeat(100)));
        assert_eq!((long.len(), long.chars().count()), (64, 48));
    }
}
