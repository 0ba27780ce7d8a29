//! Logging in: by one token with a name of one's own for the record, or with an account of an issuer ([`oidc`]), and a signed cookie
//! for the day.

pub mod oidc;
pub mod right;
pub mod scrapers;
pub mod sessions;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::{Extension, State};
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse as _, Response};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use oncue_http::Peer;
use oncue_http::address::{ClientAddress, requester};
use oncue_http::brake::Brake;
use oncue_http::rate::Rate;
use oncue_proto::event;
use ring::hmac;
use serde::Deserialize;
use serde_json::{Value, json};

use self::oidc::Door;
use self::right::Right;
use self::scrapers::Scrapers;
use self::sessions::{Session, Sessions};
use crate::App;
use crate::api::audit;
pub use crate::api::audit::Who;
use crate::problem::{INTERNAL, MALFORMED, Problem, TOO_MANY_LOGINS, WRONG_TOKEN};

const COOKIE: &str = "oncue-console";
/// Time a login holds.
const SESSION_MS: u64 = 24 * 3600 * 1000;
/// Characters of the shortest token that cannot be guessed.
const MIN_TOKEN: usize = 16;
/// Tries of one address. A right token is no try, but it waits like any other once there were too many.
const PER_ADDRESS: Rate = Rate {
    interval: Duration::from_secs(10),
    burst: 5,
};
/// Tries of everybody, for those who have many addresses. Whoever is logged in is not held up.
const IN_ALL: Rate = Rate {
    interval: Duration::from_secs(1),
    burst: 20,
};
const MAX_NAME_BYTES: usize = 64;

/// Rights: who may look and who may act.
pub struct Access {
    /// Made of the token, so a new token makes every cookie void.
    key: Option<hmac::Key>,
    /// Most that anybody may.
    most: Right,
    brake: Brake,
    scrapers: Scrapers,
    pub sessions: Sessions,
    /// Issuer whose accounts open it as well.
    door: Option<Box<Door>>,
}

/// Person who sent a request, and what they may.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Visitor {
    pub who: Who,
    pub right: Right,
}

impl Access {
    /// `write` counts only together with a token, and a door needs one: it signs the sessions, and opens where the issuer is away.
    ///
    /// # Errors
    /// A token that can be guessed, or none for a door.
    pub fn new(token: Option<&str>, write: bool, door: Option<Box<Door>>) -> Result<Self, String> {
        if door.is_some() && token.is_none() {
            return Err(
                "[console.login] needs a token in ONCUE_CONSOLE_TOKEN: it signs the sessions, and opens the console where \
                 the issuer is away; make one with `openssl rand -hex 16`"
                    .to_owned(),
            );
        }
        if token.is_some_and(|token| token.len() < MIN_TOKEN) {
            return Err(format!(
                "ONCUE_CONSOLE_TOKEN is shorter than {MIN_TOKEN} characters; make one with `openssl rand -hex 16`"
            ));
        }
        let key = token.map(|token| hmac::Key::new(hmac::HMAC_SHA256, token.as_bytes()));
        Ok(Self {
            most: if write && key.is_some() {
                Right::Admin
            } else {
                Right::Look
            },
            key,
            door,
            brake: Brake::new(PER_ADDRESS, IN_ALL),
            scrapers: Scrapers::default(),
            sessions: Sessions::default(),
        })
    }

    pub fn has_token(&self) -> bool {
        self.key.is_some()
    }

    /// Host of the issuer whose accounts open it.
    pub fn issuer(&self) -> Option<&str> {
        self.door.as_ref().map(|door| door.host())
    }

    /// Whether somebody may act here at all.
    pub fn may_write(&self) -> bool {
        self.most > Right::Look
    }

    /// Address to listen on: as asked, or on loopback where anybody could come.
    pub fn place(&self, asked: &str) -> String {
        let (host, port) = asked.rsplit_once(':').unwrap_or((asked, "8090"));
        let ip = host
            .trim_start_matches('[')
            .trim_end_matches(']')
            .parse::<IpAddr>();
        // Without a token anybody who reaches the console may look, so only this machine is to reach it.
        if self.has_token() || host == "localhost" || ip.is_ok_and(|ip| ip.is_loopback()) {
            return asked.to_owned();
        }
        format!("127.0.0.1:{port}")
    }

    /// The person who sent these headers; `None` for somebody who must log in first.
    pub fn visitor(&self, headers: &HeaderMap, peer: Option<IpAddr>) -> Option<Visitor> {
        let peer = peer.map_or_else(|| "?".to_owned(), |ip| ip.to_string());
        if !self.has_token() {
            return Some(Visitor {
                who: Who(format!("anybody@{peer}")),
                right: Right::Look,
            });
        }
        let session = self.session(headers)?;
        if !self.sessions.holds(&session) {
            return None;
        }
        Some(Visitor {
            who: Who(format!("{}@{peer}", session.name)),
            right: session.right.min(self.most),
        })
    }

    /// Session of these headers, if it is one of ours; it may have been ended.
    pub fn session(&self, headers: &HeaderMap) -> Option<Session> {
        read_cookie(
            self.key.as_ref()?,
            cookie_of(headers, COOKIE)?,
            event::now_ms(),
        )
    }

    /// Key of cookies, for who has sent the token. The brake comes first: while it holds, nobody is told whether a token is
    /// right, and a try costs its place whether or not its answer is waited for.
    fn enter(
        &self,
        token: &str,
        client: Option<ClientAddress>,
        who: &Who,
    ) -> Result<&hmac::Key, Problem> {
        self.brake.take(client).map_err(braked)?;
        let Some(key) = self.key.as_ref().filter(|_| self.is_token(token)) else {
            audit::line(who, "login", "", "refused");
            return Err(Problem::new(
                WRONG_TOKEN,
                "that is not the token the console was started with, in ONCUE_CONSOLE_TOKEN",
            ));
        };
        self.brake.give_back(client);
        audit::line(who, "login", "", "welcome");
        Ok(key)
    }

    /// Whether a scraper may read, by the token it sent. Without a token everybody may.
    ///
    /// # Errors
    /// Too many wrong tokens came, and this one was not looked at.
    pub fn may_scrape(&self, given: &str, client: Option<ClientAddress>) -> Result<bool, Problem> {
        if !self.has_token() {
            return Ok(true);
        }
        let checked = self.scrapers.check(client, || self.is_token(given));
        checked.map_err(braked)
    }

    /// Compares signatures of both under the right one, which takes the same time whatever is sent.
    fn is_token(&self, given: &str) -> bool {
        let Some(key) = &self.key else { return false };
        let given = hmac::sign(
            &hmac::Key::new(hmac::HMAC_SHA256, given.as_bytes()),
            b"token",
        );
        hmac::verify(key, b"token", given.as_ref()).is_ok()
    }
}

/// The problem of a token that came while a brake held, for so long.
fn braked(wait: Duration) -> Problem {
    let seconds = HeaderValue::from(wait.as_secs() + 1);
    let why = "too many wrong tokens came; this one was not looked at";
    Problem::new(TOO_MANY_LOGINS, why).with_header(header::RETRY_AFTER, seconds)
}

/// A cookie of a request.
fn cookie_of<'h>(headers: &'h HeaderMap, wanted: &str) -> Option<&'h str> {
    let cookies = headers
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok());
    let mut ours = cookies
        .flat_map(|line| line.split(';'))
        .filter_map(|pair| pair.trim().split_once('='));
    let (_, cookie) = ours.find(|(name, _)| *name == wanted)?;
    Some(cookie)
}

/// `NAME.RIGHT.ID.EXPIRY.SIGNATURE`, name and signature in base64.
/// Nothing is kept of a login, so any number of consoles with one token know it, and it outlives a restart; what is kept is
/// which sessions were ended before their time.
fn make_cookie(key: &hmac::Key, session: &Session) -> String {
    let name = URL_SAFE_NO_PAD.encode(&session.name);
    let right = session.right.word();
    let content = format!("{name}.{right}.{}.{}", session.id, session.expires);
    let signature = hmac::sign(key, format!("session.{content}").as_bytes());
    format!("{content}.{}", URL_SAFE_NO_PAD.encode(signature.as_ref()))
}

fn read_cookie(key: &hmac::Key, cookie: &str, now: u64) -> Option<Session> {
    let (content, signature) = cookie.rsplit_once('.')?;
    let signature = URL_SAFE_NO_PAD.decode(signature).ok()?;
    hmac::verify(key, format!("session.{content}").as_bytes(), &signature).ok()?;
    let (rest, expires) = content.rsplit_once('.')?;
    let (name, rest) = rest.split_once('.')?;
    let (right, id) = rest.split_once('.')?;
    let expires = expires.parse().ok().filter(|expires| *expires >= now)?;
    Some(Session {
        name: String::from_utf8(URL_SAFE_NO_PAD.decode(name).ok()?).ok()?,
        right: Right::of_word(right)?,
        id: id.to_owned(),
        expires,
    })
}

/// `Secure` where the page came by TLS: not every browser sends such a cookie over plain HTTP, even to loopback.
fn set_cookie(name: &str, value: &str, seconds: u64, secure: bool) -> HeaderValue {
    let secure = if secure { "; Secure" } else { "" };
    let line =
        format!("{name}={value}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Strict{secure}");
    HeaderValue::from_str(&line).unwrap_or(HeaderValue::from_static(""))
}

/// Whether a request came by TLS, to us or to a proxy that the configuration names.
fn is_secure(app: &App, peer: Peer, headers: &HeaderMap) -> bool {
    let said = headers.get("x-forwarded-proto");
    let proxies = &app.config.console.proxies;
    let is_proxy = proxies.iter().any(|proxy| proxy.contains(peer.0.ip()));
    app.tls.is_some() || is_proxy && said.is_some_and(|said| said == "https")
}

/// Facts a page needs to know before it shows anything.
pub async fn about(
    State(app): State<Arc<App>>,
    Extension(peer): Extension<Peer>,
    headers: HeaderMap,
) -> Json<Value> {
    let visitor = app.access.visitor(&headers, Some(peer.0.ip()));
    let right = visitor.as_ref().map(|visitor| visitor.right);
    Json(json!({
        "version": env!("CARGO_PKG_VERSION"),
        "token": app.access.has_token(),
        "issuer": app.access.issuer(),
        "welcome": visitor.is_some(),
        "who": visitor.map(|visitor| visitor.who.0),
        "crowded": app.live.watchers() >= app.guards.watchers,
        "acts": app.access.may_write(),
        "write": right >= Some(Right::Operate),
        "admin": right >= Some(Right::Admin),
        "traces": app.config.console.traces,
    }))
}

#[derive(Deserialize)]
pub struct Login {
    token: String,
    #[serde(default)]
    name: String,
}

pub async fn login(
    State(app): State<Arc<App>>,
    Extension(peer): Extension<Peer>,
    headers: HeaderMap,
    Json(Login { token, name }): Json<Login>,
) -> Result<Response, Problem> {
    let name = name.trim();
    if name.chars().any(char::is_control) || name.len() > MAX_NAME_BYTES {
        return Err(Problem::new(
            MALFORMED,
            format!("a name has at most {MAX_NAME_BYTES} bytes, and no control character"),
        ));
    }
    let name = if name.is_empty() { "somebody" } else { name };
    let who = Who(format!("{name}@{}", peer.0.ip()));
    let client = requester(peer.0.ip(), &headers, &app.config.console.proxies);
    let key = app.access.enter(&token, client, &who)?;
    // The token is one for all: whoever has it may all that may be done here.
    let session = Session::begin(name, Right::Admin, event::now_ms() + SESSION_MS)
        .ok_or_else(|| Problem::new(INTERNAL, "the system has no randomness to give"))?;
    let cookie = make_cookie(key, &session);
    let mut response = Json(json!({ "who": who.0 })).into_response();
    let cookie = set_cookie(
        COOKIE,
        &cookie,
        SESSION_MS / 1000,
        is_secure(&app, peer, &headers),
    );
    response.headers_mut().insert(header::SET_COOKIE, cookie);
    Ok(response)
}

/// Ends the session: its cookie opens nothing from now on, here at once and within seconds everywhere.
pub async fn logout(
    State(app): State<Arc<App>>,
    Extension(peer): Extension<Peer>,
    headers: HeaderMap,
) -> Response {
    if let Some(session) = app.access.session(&headers) {
        app.access.sessions.revoke(&app.store, &session).await;
    }
    let mut response = Json(json!({})).into_response();
    let cookie = set_cookie(COOKIE, "", 0, is_secure(&app, peer, &headers));
    response.headers_mut().insert(header::SET_COOKIE, cookie);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "0123456789abcdef";

    #[test]
    fn a_cookie_holds_for_its_time_and_for_its_token() {
        let key = |token: &str| hmac::Key::new(hmac::HMAC_SHA256, token.as_bytes());
        let session = Session::begin("Ann.é", Right::Operate, 1000).unwrap();
        let cookie = make_cookie(&key(TOKEN), &session);
        assert_eq!(read_cookie(&key(TOKEN), &cookie, 999), Some(session));
        assert_eq!(read_cookie(&key(TOKEN), &cookie, 1001), None);
        assert_eq!(read_cookie(&key("another token 16"), &cookie, 999), None);
        let later = cookie.replace(".1000.", ".9000.");
        assert_eq!(
            read_cookie(&key(TOKEN), &later, 1001),
            None,
            "signed as well"
        );
        for broken in ["", ".", "..", "a.b.c", &cookie[1..]] {
            assert_eq!(read_cookie(&key(TOKEN), broken, 0), None);
        }
    }

    #[test]
    fn only_the_token_is_the_token() {
        let access = Access::new(Some(TOKEN), true, None).unwrap();
        assert!(access.is_token(TOKEN) && access.may_write());
        assert!(
            !access.is_token("")
                && !access.is_token("0123456789abcdeF")
                && !access.is_token(&TOKEN[..15])
        );
        assert!(Access::new(Some("short"), true, None).is_err());
        let none = Access::new(None, true, None).unwrap();
        assert!(
            !none.is_token("") && !none.may_write(),
            "writing takes a token"
        );
    }

    #[test]
    fn a_right_token_is_held_by_the_brake_like_a_wrong_one() {
        let access = Access::new(Some(TOKEN), true, None).unwrap();
        let who = Who("ann".to_owned());
        let client = |text: &str| Some(ClientAddress::of(text.parse().unwrap()));
        let guesser = client("192.0.2.1");
        for _ in 0..50 {
            assert!(access.enter(TOKEN, guesser, &who).is_ok(), "no try");
        }
        let wrong = (0..50).filter_map(|_| access.enter("wrong", guesser, &who).err());
        let looked_at = wrong
            .filter(|problem| problem.kind() == WRONG_TOKEN)
            .count();
        assert_eq!(looked_at, 5);
        let held = access.enter(TOKEN, guesser, &who).unwrap_err();
        assert!(held.kind() == TOO_MANY_LOGINS);
        assert!(access.enter(TOKEN, client("192.0.2.2"), &who).is_ok());
        for n in 0..100_u8 {
            let _ = access.enter("wrong", client(&format!("198.51.100.{n}")), &who);
        }
        let held = access.enter(TOKEN, client("192.0.2.3"), &who).unwrap_err();
        assert!(held.kind() == TOO_MANY_LOGINS, "all together");
    }

    #[test]
    fn without_a_token_only_loopback_is_listened_on() {
        let (none, some) = (
            Access::new(None, false, None).unwrap(),
            Access::new(Some(TOKEN), false, None).unwrap(),
        );
        assert_eq!(none.place("0.0.0.0:8090"), "127.0.0.1:8090");
        assert_eq!(none.place("console.example:81"), "127.0.0.1:81");
        for kept in ["127.0.0.1:8090", "localhost:1", "[::1]:8090"] {
            assert_eq!(none.place(kept), kept);
        }
        assert_eq!(some.place("0.0.0.0:8090"), "0.0.0.0:8090");
    }
}
