//! Who may what, and from where.

use oncue_tests::cluster::wait_for;
use oncue_tests::http::{JSON, request};
use serde_json::json;

use super::{Console, TOKEN};

#[tokio::test]
async fn pages_are_guarded_by_their_headers() {
    let console = Console::open().await;
    for path in [
        "/",
        "/main.js",
        "/console.css",
        "/dagre.js",
        "/icon.svg",
        "/api/about",
        "/nowhere",
    ] {
        let answer = console.get(path).await;
        let policy = answer.header("content-security-policy").unwrap();
        assert!(
            policy.contains("default-src 'none'") && !policy.contains("unsafe"),
            "{path}: {policy}"
        );
        assert_eq!(
            answer.header("x-content-type-options"),
            Some("nosniff"),
            "{path}"
        );
        assert_eq!(
            answer.header("referrer-policy"),
            Some("no-referrer"),
            "{path}"
        );
    }
    assert_eq!(
        console.get("/main.js").await.header("content-type"),
        Some("text/javascript; charset=utf-8")
    );
    let page = console.get("/").await.text();
    assert!(
        !page.contains("style=") && !page.contains("<script>") && !page.contains("onclick"),
        "nothing inline"
    );
    assert!(
        !page.contains("http://") && !page.contains("https://"),
        "nothing from elsewhere"
    );
    console.get("/nowhere").await.problem(404, "not-found");
    console
        .send("DELETE", "/api/letters", &[JSON], "")
        .await
        .problem(405, "method-not-allowed");
}

#[tokio::test]
async fn without_a_token_it_answers_under_our_own_names_and_only_looks() {
    let console = Console::open().await;
    let about = console.get("/api/about").await.ok_json();
    assert_eq!(
        (&about["token"], &about["write"], &about["welcome"]),
        (&json!(false), &json!(false), &json!(true))
    );
    console
        .send("GET", "/api/letters", &[("host", "evil.example")], "")
        .await
        .problem(403, "forbidden");
    assert_eq!(
        console
            .send("GET", "/api/letters", &[("host", "localhost:8090")], "")
            .await
            .status,
        200
    );
    let number = console.set_aside("f", "e-1", "a.rs:1").await;
    let body = json!({ "numbers": [number], "why": "because" }).to_string();
    for action in ["try", "redrive", "drop"] {
        let refused = console
            .send("POST", &format!("/api/letters/{action}"), &[JSON], &body)
            .await;
        assert!(
            refused
                .problem(403, "read-only")
                .contains("ONCUE_CONSOLE_TOKEN")
        );
    }
    for path in [
        "/api/functions/f/pause",
        "/api/functions/f/resume",
        "/api/functions/f/restart",
        "/api/functions/f/bounds",
        "/api/functions/f/bounds/reset",
        "/api/schedules/s/fire",
        "/api/schedules/s/pause",
        "/api/schedules/s/resume",
        "/api/tables/pages/row",
    ] {
        let refused = console.send("POST", path, &[JSON], "{}").await;
        refused.problem(403, "read-only");
    }
    assert_eq!(
        console.get(&format!("/api/letters/{number}")).await.status,
        200,
        "still there"
    );
}

#[tokio::test]
async fn with_a_token_nobody_else_sees_anything() {
    let console = Console::with(Some(TOKEN), true).await;
    for path in [
        "/api/live",
        "/api/letters",
        "/api/letters/1",
        "/api/flows",
        "/api/flows/x",
        "/api/search?q=x",
        "/api/events?type=a.b.c",
        "/api/functions/f",
        "/api/jobs/1",
        "/api/schedules",
        "/api/schedules/s",
        "/api/streams",
        "/api/streams/web",
        "/api/streams/web/messages",
        "/api/tables",
        "/api/tables/pages",
        "/api/tables/pages/row?key=x",
    ] {
        console.get(path).await.problem(401, "login");
    }
    console
        .send("POST", "/api/letters/drop", &[JSON], "{}")
        .await
        .problem(401, "login");
    let wrong = json!({ "token": "another-token-of-length" }).to_string();
    console
        .send("POST", "/api/login", &[JSON], &wrong)
        .await
        .problem(401, "wrong-token");
    let cookie = console.login().await;
    let with = |path: &'static str| request_with(&console, path, &cookie);
    assert_eq!(with("/api/letters").await, 200);
    for action in ["pause", "resume"] {
        let path = format!("/api/functions/nobody/{action}");
        let headers = [JSON, ("cookie", cookie.as_str())];
        let answer = request(console.at, "POST", &path, &headers, "{}").await;
        assert_eq!(answer.status, 404, "{action}");
    }
    let forged = cookie.replacen("oncue-console=", "oncue-console=x", 1);
    assert_eq!(request_with(&console, "/api/letters", &forged).await, 401);
    let about = request(console.at, "GET", "/api/about", &[("cookie", &cookie)], "")
        .await
        .ok_json();
    assert_eq!(
        (&about["who"], &about["write"]),
        (&json!("ann@127.0.0.1"), &json!(true))
    );
}

async fn request_with(console: &Console, path: &str, cookie: &str) -> u16 {
    request(console.at, "GET", path, &[("cookie", cookie)], "")
        .await
        .status
}

#[tokio::test]
async fn the_cookie_is_for_this_site_and_for_no_script() {
    let console = Console::with(Some(TOKEN), false).await;
    let body = json!({ "token": TOKEN }).to_string();
    let answer = console.send("POST", "/api/login", &[JSON], &body).await;
    let cookie = answer.header("set-cookie").unwrap();
    assert!(
        cookie.contains("; HttpOnly")
            && cookie.contains("; SameSite=Strict")
            && !cookie.contains(TOKEN),
        "{cookie}"
    );
}

#[tokio::test]
async fn no_other_page_can_act_for_who_is_logged_in() {
    let console = Console::with(Some(TOKEN), true).await;
    let number = console.set_aside("f", "e-1", "a.rs:1").await;
    let cookie = console.login().await;
    let own = format!("http://{}", console.at);
    let body = json!({ "numbers": [number], "why": "because" }).to_string();
    let drop = async |headers: &[(&str, &str)]| {
        let headers = [&[("cookie", cookie.as_str())], headers].concat();
        console
            .send("POST", "/api/letters/drop", &headers, &body)
            .await
    };
    drop(&[JSON, ("origin", "https://evil.example")])
        .await
        .problem(403, "forbidden");
    drop(&[JSON, ("sec-fetch-site", "cross-site")])
        .await
        .problem(403, "forbidden");
    drop(&[JSON, ("sec-fetch-site", "same-site")])
        .await
        .problem(403, "forbidden");
    drop(&[("content-type", "text/plain")])
        .await
        .problem(403, "forbidden");
    drop(&[]).await.problem(403, "forbidden");
    let dropped = drop(&[JSON, ("origin", &own), ("sec-fetch-site", "same-origin")])
        .await
        .ok_json();
    assert_eq!(dropped["dropped"], 1);
}

#[tokio::test]
async fn logging_out_ends_the_session_for_every_console() {
    let console = Console::with(Some(TOKEN), true).await;
    let stays = console.login().await;
    let cookie = console.login().await;
    assert_eq!(request_with(&console, "/api/letters", &cookie).await, 200);
    let out = console
        .send("POST", "/api/logout", &[JSON, ("cookie", &cookie)], "{}")
        .await;
    assert_eq!(out.status, 200);
    // The cookie that somebody has copied.
    assert_eq!(request_with(&console, "/api/letters", &cookie).await, 401);
    assert_eq!(request_with(&console, "/api/letters", &stays).await, 200);
    let now = oncue_proto::event::now_ms();
    let revoked = console.store.revoked_sessions(now).await.expect("Redis");
    assert_eq!(revoked.len(), 1, "other consoles know");
    let later = now + 25 * 3600 * 1000;
    let forgotten = console.store.revoked_sessions(later).await.expect("Redis");
    assert!(forgotten.is_empty(), "once it would have ended by itself");
    // Another console's logout.
    let id = stays.split('.').nth(2).expect("an id");
    let revoked = console.store.revoke_session(id, later).await;
    revoked.expect("Redis");
    wait_for("it is ended here as well", async || {
        request_with(&console, "/api/letters", &stays).await == 401
    })
    .await;
}

#[tokio::test]
async fn guesses_are_braked_and_the_right_token_with_them() {
    let console = Console::with(Some(TOKEN), true).await;
    let cookie = console.login().await;
    let wrong = json!({ "token": "another-token-of-length" }).to_string();
    let mut looked_at = 0;
    let from = [JSON, ("x-forwarded-for", "192.0.2.9")];
    for _ in 0..30 {
        let answer = console.send("POST", "/api/login", &from, &wrong).await;
        if answer.status == 401 {
            looked_at += 1;
        } else {
            answer.problem(429, "too-many-logins");
            assert!(answer.header("retry-after").is_some());
        }
    }
    assert!((5..=7).contains(&looked_at), "{looked_at}");
    let right = json!({ "token": TOKEN }).to_string();
    console
        .send("POST", "/api/login", &from, &right)
        .await
        .problem(429, "too-many-logins");
    console.login().await;
    assert_eq!(request_with(&console, "/api/letters", &cookie).await, 200);
}

#[tokio::test]
async fn it_answers_under_its_own_names_with_a_token_as_well() {
    let console = Console::with(Some(TOKEN), true).await;
    for (host, status) in [
        ("evil.example", 403),
        ("console.example", 200),
        ("console.example:443", 200),
        ("192.0.2.1:8090", 200),
        ("localhost", 200),
    ] {
        let answer = console.send("GET", "/healthz", &[("host", host)], "").await;
        assert_eq!(answer.status, status, "{host}: {}", answer.text());
    }
}

#[tokio::test]
async fn the_cookie_is_secure_behind_a_proxy_that_speaks_tls() {
    let console = Console::with(Some(TOKEN), false).await;
    let body = json!({ "token": TOKEN }).to_string();
    for (said, secure) in [("https", true), ("http", false)] {
        let headers = [JSON, ("x-forwarded-proto", said)];
        let answer = console.send("POST", "/api/login", &headers, &body).await;
        let cookie = answer.header("set-cookie").unwrap();
        assert_eq!(cookie.contains("; Secure"), secure, "{said}: {cookie}");
    }
}
