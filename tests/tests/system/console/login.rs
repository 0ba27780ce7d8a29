//! Logging in to the console with an account of an OpenID Connect issuer, which is a small one of this process: it signs, and checks
//! what RFC 6749 and RFC 7636 have it check.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::{get, post};
use axum::{Json, Router};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use oncue_proto::event::now_ms;
use oncue_tests::cluster::Cluster;
use oncue_tests::issuer::IssuerKey;
use parking_lot::Mutex;
use reqwest::{Client, Response, Url, redirect};
use ring::digest;
use serde_json::{Value, json};

use super::{Console, TOKEN};

const CODE: &str = "a-code";
const SECRET: &str = "not a/secret";

/// The issuer, and the one login that goes on.
#[derive(Clone)]
struct Issuer {
    url: String,
    key: Arc<IssuerKey>,
    login: Arc<Mutex<Login>>,
}

#[derive(Default)]
struct Login {
    /// PKCE's, as the browser brought it.
    challenge: String,
    /// Claims of the ID token.
    claims: Value,
    /// Header of the ID token, where it is not the right one.
    header: Option<Value>,
    /// Claims that are told apart from it.
    userinfo: Value,
    /// Questions to the token endpoint.
    asked: usize,
}

impl Issuer {
    async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await;
        let listener = listener.expect("a port");
        let issuer = Self {
            url: format!("http://{}", listener.local_addr().expect("an address")),
            key: Arc::new(IssuerKey::new()),
            login: Arc::default(),
        };
        let router = Router::new()
            .route("/.well-known/openid-configuration", get(discovery))
            .route("/keys", get(keys))
            .route("/token", post(token))
            .route("/userinfo", get(userinfo))
            .with_state(issuer.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        issuer
    }
}

async fn discovery(State(issuer): State<Issuer>) -> Json<Value> {
    let url = &issuer.url;
    Json(json!({
        "issuer": url,
        "authorization_endpoint": format!("{url}/authorize?tenant=1"),
        "token_endpoint": format!("{url}/token"),
        "userinfo_endpoint": format!("{url}/userinfo"),
        "jwks_uri": format!("{url}/keys"),
        "authorization_response_iss_parameter_supported": true,
    }))
}

async fn keys(State(issuer): State<Issuer>) -> Json<Value> {
    Json(issuer.key.published())
}

async fn token(
    State(issuer): State<Issuer>,
    headers: HeaderMap,
    form: String,
) -> (StatusCode, Json<Value>) {
    let form = Url::parse(&format!("form:?{form}")).expect("a form");
    let form: HashMap<String, String> = form.query_pairs().into_owned().collect();
    let mut login = issuer.login.lock();
    login.asked += 1;
    let hash = digest::digest(&digest::SHA256, form["code_verifier"].as_bytes());
    // Encoded as a form is, each half by itself.
    let client = format!(
        "Basic {}",
        STANDARD.encode("oncue%3Aconsole:not+a%2Fsecret")
    );
    let is_right = form["code"] == CODE
        && form["grant_type"] == "authorization_code"
        && form["redirect_uri"] == "http://127.0.0.1:1/api/login/back"
        && login.challenge == URL_SAFE_NO_PAD.encode(hash)
        && headers["authorization"] == client.as_str();
    if !is_right {
        return (
            StatusCode::BAD_REQUEST,
            Json(json!({ "error": "invalid_grant" })),
        );
    }
    let header = json!({ "alg": "ES256", "kid": "k" });
    let header = login.header.as_ref().unwrap_or(&header);
    let id_token = issuer.key.token(header, &login.claims);
    let answer = json!({ "id_token": id_token, "access_token": "opens", "token_type": "Bearer" });
    (StatusCode::OK, Json(answer))
}

async fn userinfo(State(issuer): State<Issuer>, headers: HeaderMap) -> Json<Value> {
    assert_eq!(headers["authorization"], "Bearer opens");
    Json(issuer.login.lock().userinfo.clone())
}

/// A browser, which keeps cookies and does not follow.
struct Browser {
    client: Client,
    console: String,
    issuer: Issuer,
    /// Where it is, as the proxy says.
    place: AtomicU8,
}

impl Browser {
    fn new(console: &Console, issuer: &Issuer) -> Self {
        let client = Client::builder().redirect(redirect::Policy::none());
        Self {
            client: client.build().expect("a client"),
            console: format!("http://{}", console.at),
            issuer: issuer.clone(),
            place: AtomicU8::new(1),
        }
    }

    /// To another address: what failed at this one is not held against it.
    fn moves(&self) {
        self.place.fetch_add(1, Ordering::Relaxed);
    }

    async fn get(&self, path: &str, cookie: &str) -> Response {
        let asked = self.client.get(format!("{}{path}", self.console));
        let place = self.place.load(Ordering::Relaxed);
        let asked = asked.header("x-forwarded-for", format!("10.0.0.{place}"));
        asked
            .header("cookie", cookie)
            .send()
            .await
            .expect("an answer")
    }

    async fn post(&self, path: &str, cookie: &str) -> (u16, Value) {
        let asked = self.client.post(format!("{}{path}", self.console));
        let asked = asked
            .header("cookie", cookie)
            .header("content-type", "application/json");
        let answer = asked.body("{}").send().await.expect("an answer");
        let status = answer.status().as_u16();
        let text = answer.text().await.expect("a body");
        (status, serde_json::from_str(&text).unwrap_or_default())
    }

    /// Begins a login; the cookie of it, and what the issuer is asked.
    async fn begin(&self, to: &str) -> (String, HashMap<String, String>) {
        let answer = self.get(&format!("/api/login/begin?to={to}"), "").await;
        assert_eq!(answer.status(), 303);
        let [cookie] = &cookies(&answer)[..] else {
            panic!("{answer:?}");
        };
        assert!(cookie.contains("HttpOnly; SameSite=Lax"), "{cookie}");
        let way = Url::parse(&location(&answer)).expect("an address");
        assert!(
            way.as_str()
                .starts_with(&format!("{}/authorize?tenant=1&", self.issuer.url)),
            "{way}"
        );
        let asked: HashMap<String, String> = way.query_pairs().into_owned().collect();
        let wanted = [
            ("response_type", "code"),
            ("client_id", "oncue:console"),
            ("redirect_uri", "http://127.0.0.1:1/api/login/back"),
            ("scope", "openid email profile"),
            ("code_challenge_method", "S256"),
        ];
        for (name, value) in wanted {
            assert_eq!(asked[name], value, "{name}");
        }
        self.issuer
            .login
            .lock()
            .challenge
            .clone_from(&asked["code_challenge"]);
        (value_of(cookie), asked)
    }

    /// Comes back with these claims; where to, and the session's cookie.
    async fn log_in(&self, claims: impl FnOnce(&mut Value)) -> (String, Option<String>) {
        let (cookie, asked) = self.begin("%23%2Fflows").await;
        let now = now_ms() / 1000;
        let mut all = json!({
            "iss": self.issuer.url, "aud": "oncue:console", "exp": now + 60, "iat": now, "nonce": asked["nonce"],
            "sub": "u1", "preferred_username": "ann", "groups": ["staff", "sre"],
        });
        claims(&mut all);
        self.issuer.login.lock().claims = all;
        self.back(&cookie, &self.query(&asked["state"])).await
    }

    /// What the issuer sends the browser back with.
    fn query(&self, state: &str) -> String {
        format!("code={CODE}&state={state}&iss={}", self.issuer.url)
    }

    async fn back(&self, cookie: &str, query: &str) -> (String, Option<String>) {
        let answer = self.get(&format!("/api/login/back?{query}"), cookie).await;
        let to = if answer.status() == 303 {
            location(&answer)
        } else {
            answer.status().to_string()
        };
        let session = cookies(&answer)
            .into_iter()
            .find(|cookie| cookie.starts_with("oncue-console="));
        if let Some(session) = &session {
            assert!(session.contains("HttpOnly; SameSite=Strict"), "{session}");
        }
        (to, session.map(|cookie| value_of(&cookie)))
    }
}

fn cookies(answer: &Response) -> Vec<String> {
    let all = answer.headers().get_all("set-cookie").iter();
    all.map(|cookie| cookie.to_str().expect("text").to_owned())
        .collect()
}

fn value_of(cookie: &str) -> String {
    cookie.split(';').next().unwrap_or_default().to_owned()
}

fn location(answer: &Response) -> String {
    answer.headers()["location"]
        .to_str()
        .expect("text")
        .to_owned()
}

/// A console that takes accounts of an issuer, as its client of this name and secret.
async fn opened_by(issuer: &str, client: [&str; 2], write: bool, more: &str) -> Console {
    let [client, secret] = client;
    let port = issuer.rsplit(':').next().unwrap_or_default();
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("console-secret-{port}"));
    std::fs::write(&file, secret).expect("written");
    let file = file.display();
    let section = format!("issuer = \"{issuer}\"\nclient = \"{client}\"\nsecret = \"file:{file}\"");
    let cluster = Cluster::new(&format!(
        "[console]\nproxies = [\"127.0.0.1\"]\nurl = \"http://127.0.0.1:1/\"\n[console.login]\n{section}\n{more}"
    ))
    .await;
    Console::on(cluster, Some(TOKEN), write).await
}

async fn opened(write: bool, more: &str) -> (Console, Issuer) {
    let issuer = Issuer::start().await;
    let console = opened_by(&issuer.url, ["oncue:console", SECRET], write, more).await;
    (console, issuer)
}

const GROUPS: &str = "look = \"staff\"\noperate = [\"sre\", \"on-call\"]\nadmin = \"platform\"\n";

#[tokio::test]
async fn rights_follow_from_the_groups_of_an_account() {
    let (console, issuer) = opened(true, GROUPS).await;
    let browser = Browser::new(&console, &issuer);
    for (group, right, may) in [
        ("staff", "look", [false, false]),
        ("on-call", "operate", [true, false]),
        ("platform", "admin", [true, true]),
    ] {
        let (to, session) = browser
            .log_in(|claims| claims["groups"] = json!([group, "others"]))
            .await;
        assert_eq!(to, "/#/flows", "back to what was seen");
        let session = session.expect("a session");
        let about = browser
            .get("/api/about", &session)
            .await
            .text()
            .await
            .expect("a body");
        let about: Value = serde_json::from_str(&about).expect("JSON");
        assert_eq!(about["issuer"], "127.0.0.1");
        assert_eq!(
            [&about["write"], &about["admin"]],
            [&json!(may[0]), &json!(may[1])],
            "{about}"
        );
        assert!(
            about["who"]
                .as_str()
                .is_some_and(|who| who.starts_with("ann (u1)@")),
            "{about}"
        );
        assert_eq!(browser.get("/api/flows", &session).await.status(), 200);
        for (path, may) in [
            ("/api/publish", may[0]),
            ("/api/functions/x/pause", may[0]),
            ("/api/functions/x/bounds", may[1]),
            ("/api/tables/t/row", may[1]),
            ("/api/letters/drop", may[1]),
        ] {
            let (status, problem) = browser.post(path, &session).await;
            let refused = status == 403 && problem["type"] == "urn:oncue:problem:no-right";
            assert_eq!(refused, !may, "{right} {path}: {status} {problem}");
        }
        // Ended before its time.
        assert_eq!(browser.post("/api/logout", &session).await.0, 200);
        assert_eq!(browser.get("/api/flows", &session).await.status(), 401);
    }
}

#[tokio::test]
async fn a_console_that_only_looks_gives_nobody_more() {
    let (console, issuer) = opened(false, GROUPS).await;
    let browser = Browser::new(&console, &issuer);
    let (_, session) = browser
        .log_in(|claims| claims["groups"] = json!("platform"))
        .await;
    let session = session.expect("a session");
    assert_eq!(browser.get("/api/flows", &session).await.status(), 200);
    let (status, problem) = browser.post("/api/publish", &session).await;
    assert_eq!(
        (status, &problem["type"]),
        (403, &json!("urn:oncue:problem:read-only"))
    );
}

#[tokio::test]
async fn claims_that_are_told_apart_count_as_well() {
    let more = "claim = \"email\"\noperate = \"ann@example.com\"\n";
    let (console, issuer) = opened(true, more).await;
    let browser = Browser::new(&console, &issuer);
    let tell = |sub: &str, verified: bool| {
        let told = json!({ "sub": sub, "email": "ann@example.com", "email_verified": verified });
        issuer.login.lock().userinfo = told;
    };
    tell("u1", true);
    let (to, session) = browser.log_in(|_| {}).await;
    assert_eq!((to.as_str(), session.is_some()), ("/#/flows", true));
    for (sub, verified, word) in [("u2", true, "failed"), ("u1", false, "nobody")] {
        tell(sub, verified);
        let (to, session) = browser.log_in(|_| {}).await;
        assert_eq!((to, session), (format!("/?login={word}"), None));
    }
}

#[tokio::test]
async fn whoever_is_not_let_in_gets_no_session() {
    let (console, issuer) = opened(true, GROUPS).await;
    let browser = Browser::new(&console, &issuer);
    let refused = |found: (String, Option<String>), word: &str, what: &str| {
        assert_eq!(found, (format!("/?login={word}"), None), "{what}");
    };
    let far = now_ms() / 1000;
    let mistakes: [(&str, Value, &str); 6] = [
        ("groups", json!(["others"]), "nobody"),
        ("nonce", json!("recorded"), "failed"),
        ("aud", json!("another"), "failed"),
        ("azp", json!("another"), "failed"),
        ("iss", json!("https://elsewhere.example"), "failed"),
        ("exp", json!(far - 600), "failed"),
    ];
    for (name, value, word) in mistakes {
        let found = browser.log_in(|claims| claims[name] = value).await;
        refused(found, word, name);
        browser.moves();
    }
    // None is signed by, and a symmetric signature could be made of a public key.
    for header in [
        json!({ "alg": "none" }),
        json!({ "alg": "HS256", "kid": "k" }),
        json!({ "alg": "ES256", "kid": "x" }),
    ] {
        issuer.login.lock().header = Some(header.clone());
        refused(browser.log_in(|_| {}).await, "failed", &header.to_string());
        browser.moves();
    }
    issuer.login.lock().header = None;
    let asked = issuer.login.lock().asked;
    // Nobody else's browser, no other state, no other issuer, and not the person's will.
    let (cookie, wanted) = browser.begin("").await;
    let state = &wanted["state"];
    let good = browser.query(state);
    refused(browser.back("", &good).await, "expired", "no cookie");
    refused(
        browser
            .back(&cookie.replace("login=", "login=x"), &good)
            .await,
        "expired",
        "cookie",
    );
    refused(
        browser.back(&cookie, &format!("code={CODE}&state=x")).await,
        "expired",
        "state",
    );
    let mixed = good.replace(&issuer.url, "https://elsewhere.example");
    let silent = good.replace("&iss=", "&other=");
    refused(browser.back(&cookie, &silent).await, "expired", "no issuer");
    // Whoever brings nothing takes nobody's turn.
    for _ in 0..30 {
        refused(browser.back("", &good).await, "expired", "no cookie");
    }
    refused(browser.back(&cookie, &mixed).await, "expired", "issuer");
    browser.moves();
    refused(
        browser
            .back(
                &cookie,
                &format!("error=access_denied&state={state}&iss={}", issuer.url),
            )
            .await,
        "refused",
        "error",
    );
    assert_eq!(issuer.login.lock().asked, asked, "the issuer was not asked");
    // The verifier of another login.
    issuer.login.lock().challenge = "other".into();
    refused(browser.back(&cookie, &good).await, "failed", "verifier");
    // And the brake brakes.
    let mut last = String::new();
    for _ in 0..6 {
        last = browser.back(&cookie, &good).await.0;
    }
    assert!(last.starts_with("429"), "{last}");
}

#[tokio::test]
async fn nobody_is_sent_elsewhere_after_a_login() {
    let (console, issuer) = opened(true, GROUPS).await;
    let browser = Browser::new(&console, &issuer);
    for to in [
        "https://elsewhere.example",
        "//elsewhere.example",
        "%2F%2Felsewhere.example",
        "x%0D%0Ax-a:%20b",
    ] {
        let (cookie, asked) = browser.begin(to).await;
        let now = now_ms() / 1000;
        issuer.login.lock().claims = json!({
            "iss": issuer.url, "aud": ["oncue:console"], "exp": now + 60, "nonce": asked["nonce"], "sub": "u1", "groups": "staff",
        });
        let query = browser.query(&asked["state"]);
        let (found, session) = browser.back(&cookie, &query).await;
        assert_eq!((found.as_str(), session.is_some()), ("/", true), "{to}");
    }
}

/// A certified provider, which `make oidc` installs: a program of others, with its own mind about redirects, cookies and what an ID
/// token holds.
#[tokio::test]
async fn a_certified_provider_lets_people_in() {
    let cluster = Cluster::new("").await;
    let Some(provider) = crate::gateway::oidc::provider(&cluster) else {
        return;
    };
    provider.wait_for_line("issuer http://").await;
    let log = provider.log();
    let issuer = log.lines().find_map(|line| line.strip_prefix("issuer "));
    let issuer = issuer.expect("an address").to_owned();
    let console = opened_by(
        &issuer,
        ["console", "not-a-secret"],
        true,
        "operate = \"team-ann\"\n",
    )
    .await;
    let client = Client::builder().redirect(redirect::Policy::none());
    let client = client.build().expect("a client");
    for (person, to) in [("ann", "/"), ("bob", "/?login=nobody")] {
        client
            .get(format!("{issuer}/as?{person}"))
            .send()
            .await
            .expect("an answer");
        let begun = client
            .get(format!("http://{}/api/login/begin", console.at))
            .send()
            .await;
        let begun = begun.expect("an answer");
        let cookie = value_of(&cookies(&begun)[0]);
        let mut place = Url::parse(&location(&begun)).expect("an address");
        let mut jar: HashMap<String, String> = HashMap::new();
        for _ in 0..10 {
            if place.path() == "/api/login/back" {
                break;
            }
            let own: Vec<String> = jar
                .iter()
                .map(|(name, value)| format!("{name}={value}"))
                .collect();
            let answer = client
                .get(place.clone())
                .header("cookie", own.join("; "))
                .send()
                .await;
            let answer = answer.expect("an answer");
            for cookie in cookies(&answer) {
                let pair = value_of(&cookie);
                let (name, value) = pair.split_once('=').expect("a cookie");
                jar.insert(name.to_owned(), value.to_owned());
            }
            assert!(
                answer.status().is_redirection(),
                "{place}: {}",
                answer.text().await.unwrap_or_default()
            );
            place = place.join(&location(&answer)).expect("an address");
        }
        let back = format!(
            "http://{}/api/login/back?{}",
            console.at,
            place.query().unwrap_or_default()
        );
        let answer = client
            .get(back)
            .header("cookie", cookie)
            .send()
            .await
            .expect("an answer");
        assert_eq!(location(&answer), to, "{person}: {place}");
    }
}
