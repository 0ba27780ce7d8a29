//! Logging in: one token for all who may, a name of one's own for the record, and a signed cookie for the day.

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
use oncue_proto::event;
use ring::hmac;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use crate::App;
use crate::api::audit;
pub use crate::api::audit::Who;
use crate::problem::{CROWDED, MALFORMED, Problem, WRONG_TOKEN};

const COOKIE: &str = "oncue-console";
/// Time a login holds.
const SESSION_MS: u64 = 24 * 3600 * 1000;
/// Characters of the shortest token that cannot be guessed.
const MIN_TOKEN: usize = 16;
/// Time a wrong guess costs; one at a time for everybody.
const PENALTY: Duration = Duration::from_millis(400);
const MAX_NAME_BYTES: usize = 64;

/// Rights: who may look and who may act.
pub struct Access {
    /// Made of the token, so a new token makes every cookie void.
    key: Option<hmac::Key>,
    write: bool,
    /// One permit: wrong guesses wait for one another, however many connections they come on.
    guesses: Semaphore,
}

impl Access {
    /// `write` counts only together with a token.
    pub fn new(token: Option<&str>, write: bool) -> Result<Self, String> {
        if token.is_some_and(|token| token.len() < MIN_TOKEN) {
            return Err(format!(
                "ONCUE_CONSOLE_TOKEN is shorter than {MIN_TOKEN} characters; make one with `openssl rand -hex 16`"
            ));
        }
        let key = token.map(|token| hmac::Key::new(hmac::HMAC_SHA256, token.as_bytes()));
        Ok(Self {
            key,
            write,
            guesses: Semaphore::new(1),
        })
    }

    pub fn has_token(&self) -> bool {
        self.key.is_some()
    }

    pub fn may_write(&self) -> bool {
        self.write && self.has_token()
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
    pub fn who(&self, headers: &HeaderMap, peer: Option<IpAddr>) -> Option<Who> {
        let peer = peer.map_or_else(|| "?".to_owned(), |ip| ip.to_string());
        let Some(key) = &self.key else {
            return Some(Who(format!("anybody@{peer}")));
        };
        let cookies = headers
            .get_all(header::COOKIE)
            .iter()
            .filter_map(|value| value.to_str().ok());
        let mut ours = cookies
            .flat_map(|line| line.split(';'))
            .filter_map(|pair| pair.trim().split_once('='));
        let (_, cookie) = ours.find(|(name, _)| *name == COOKIE)?;
        read_cookie(key, cookie, event::now_ms()).map(|name| Who(format!("{name}@{peer}")))
    }

    /// Whether this is the token; a wrong guess waits as at a login.
    pub async fn guessed(&self, given: &str) -> bool {
        if self.is_token(given) || !self.has_token() {
            return true;
        }
        if let Ok(_turn) = tokio::time::timeout(PENALTY * 10, self.guesses.acquire()).await {
            tokio::time::sleep(PENALTY).await;
        }
        false
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

/// `NAME.EXPIRY.SIGNATURE`, name and signature in base64.
/// Nothing is kept of a login, so any number of consoles with one token know it, and it outlives a restart.
fn make_cookie(key: &hmac::Key, name: &str, expires: u64) -> String {
    let content = format!("{}.{expires}", URL_SAFE_NO_PAD.encode(name));
    let signature = hmac::sign(key, format!("session.{content}").as_bytes());
    format!("{content}.{}", URL_SAFE_NO_PAD.encode(signature.as_ref()))
}

fn read_cookie(key: &hmac::Key, cookie: &str, now: u64) -> Option<String> {
    let (content, signature) = cookie.rsplit_once('.')?;
    let signature = URL_SAFE_NO_PAD.decode(signature).ok()?;
    hmac::verify(key, format!("session.{content}").as_bytes(), &signature).ok()?;
    let (name, expires) = content.split_once('.')?;
    if expires.parse::<u64>().ok()? < now {
        return None;
    }
    String::from_utf8(URL_SAFE_NO_PAD.decode(name).ok()?).ok()
}

fn set_cookie(value: &str, seconds: u64) -> HeaderValue {
    // Not `Secure`: the console speaks plain HTTP, and not every browser sends such a cookie over that, even to
    // loopback.
    let line = format!("{COOKIE}={value}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Strict");
    HeaderValue::from_str(&line).unwrap_or(HeaderValue::from_static(""))
}

/// Facts a page needs to know before it shows anything.
pub async fn about(
    State(app): State<Arc<App>>,
    Extension(peer): Extension<Peer>,
    headers: HeaderMap,
) -> Json<Value> {
    let who = app.access.who(&headers, Some(peer.0.ip()));
    Json(json!({
        "version": env!("CARGO_PKG_VERSION"),
        "token": app.access.has_token(),
        "welcome": who.is_some(),
        "who": who.map(|who| who.0),
        "write": app.access.may_write(),
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
    let Some(key) = app
        .access
        .key
        .as_ref()
        .filter(|_| app.access.is_token(&token))
    else {
        // Before the wait, so that a guesser who hangs up is on record all the same.
        audit::line(&who, "login", "", "refused");
        let Ok(_turn) = tokio::time::timeout(PENALTY * 10, app.access.guesses.acquire()).await
        else {
            return Err(Problem::new(CROWDED, "too many wrong tokens at once"));
        };
        tokio::time::sleep(PENALTY).await;
        return Err(Problem::new(
            WRONG_TOKEN,
            "that is not the token the console was started with, in ONCUE_CONSOLE_TOKEN",
        ));
    };
    audit::line(&who, "login", "", "welcome");
    let cookie = make_cookie(key, name, event::now_ms() + SESSION_MS);
    let mut response = Json(json!({ "who": who.0 })).into_response();
    response
        .headers_mut()
        .insert(header::SET_COOKIE, set_cookie(&cookie, SESSION_MS / 1000));
    Ok(response)
}

pub async fn logout() -> Response {
    let mut response = Json(json!({})).into_response();
    response
        .headers_mut()
        .insert(header::SET_COOKIE, set_cookie("", 0));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "0123456789abcdef";

    #[test]
    fn a_cookie_holds_for_its_time_and_for_its_token() {
        let key = |token: &str| hmac::Key::new(hmac::HMAC_SHA256, token.as_bytes());
        let cookie = make_cookie(&key(TOKEN), "Ann.é", 1000);
        assert_eq!(
            read_cookie(&key(TOKEN), &cookie, 999).as_deref(),
            Some("Ann.é")
        );
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
        let access = Access::new(Some(TOKEN), true).unwrap();
        assert!(access.is_token(TOKEN) && access.may_write());
        assert!(
            !access.is_token("")
                && !access.is_token("0123456789abcdeF")
                && !access.is_token(&TOKEN[..15])
        );
        assert!(Access::new(Some("short"), true).is_err());
        let none = Access::new(None, true).unwrap();
        assert!(
            !none.is_token("") && !none.may_write(),
            "writing takes a token"
        );
    }

    #[test]
    fn without_a_token_only_loopback_is_listened_on() {
        let (none, some) = (
            Access::new(None, false).unwrap(),
            Access::new(Some(TOKEN), false).unwrap(),
        );
        assert_eq!(none.place("0.0.0.0:8090"), "127.0.0.1:8090");
        assert_eq!(none.place("console.example:81"), "127.0.0.1:81");
        for kept in ["127.0.0.1:8090", "localhost:1", "[::1]:8090"] {
            assert_eq!(none.place(kept), kept);
        }
        assert_eq!(some.place("0.0.0.0:8090"), "0.0.0.0:8090");
    }
}
