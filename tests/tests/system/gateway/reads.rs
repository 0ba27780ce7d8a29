//! State, health, metrics, the page, and paths that are none.

use oncue_core::store::Keys;
use oncue_gateway::server::Guards;
use oncue_tests::cluster::wait_for;
use oncue_tests::http::JSON;
use serde_json::json;

use super::{Gateway, VIEWED};

const EXPOSE: &str = "[gateway]\nexpose = [\"pages\", \"visitors\", \"rankings\", \"members\"]\n";

fn row_key(table: &str, key: &str) -> String {
    Keys::default().row(table, key)
}

#[tokio::test]
async fn state_as_json() {
    let gateway = Gateway::with(EXPOSE, Guards::default()).await;
    let redis = |words: &[&str]| gateway.cluster.redis_ok(words);
    redis(&[
        "HSET",
        &row_key("pages", "/home"),
        "views",
        "7",
        "last_seen",
        "2026-01-02T03:04:05Z",
        "tags",
        "[1]",
        "_v",
        "5",
    ]);
    redis(&["HSET", &row_key("pages", ""), "views", "1"]);
    redis(&["SADD", &row_key("members", "m"), "b", "a"]);
    redis(&["ZADD", &row_key("rankings", "all"), "2", "/a", "10", "/b"]);
    redis(&["PFADD", &row_key("visitors", "/home"), "v1", "v2", "v3"]);
    redis(&["HSET", &row_key("secret", "x"), "a", "1"]);

    let row = gateway.get("/v1/state/pages/%2Fhome").await;
    assert_eq!(
        (row.status, row.json()),
        (
            200,
            json!({ "views": 7, "last_seen": "2026-01-02T03:04:05Z", "tags": [1] })
        )
    );
    assert_eq!(
        (row.header("content-type"), row.header("oncue-version")),
        (Some("application/json"), Some("5"))
    );
    assert_eq!(
        gateway.get("/v1/state/pages//home").await.json()["views"],
        7
    );
    assert_eq!(gateway.get("/v1/state/pages/").await.json()["views"], 1);
    assert_eq!(
        gateway.get("/v1/state/members/m").await.json(),
        json!({ "members": ["a", "b"] })
    );
    assert_eq!(
        gateway.get("/v1/state/visitors/%2Fhome").await.json(),
        json!({ "count": 3 })
    );
    let ranking =
        json!({ "ranking": [{ "member": "/b", "score": 10 }, { "member": "/a", "score": 2 }] });
    assert_eq!(gateway.get("/v1/state/rankings/all").await.json(), ranking);

    let tag = row.header("etag").unwrap();
    assert_eq!(
        gateway
            .send(
                "GET",
                "/v1/state/pages/%2Fhome",
                &[("if-none-match", tag)],
                ""
            )
            .await
            .status,
        304
    );
    // An operation that raises no version changes the tag all the same.
    redis(&["HINCRBY", &row_key("pages", "/home"), "views", "1"]);
    assert_eq!(
        gateway
            .send(
                "GET",
                "/v1/state/pages/%2Fhome",
                &[("if-none-match", tag)],
                ""
            )
            .await
            .status,
        200
    );

    assert!(
        gateway
            .get("/v1/state/secret/x")
            .await
            .problem(404, "not-found")
            .contains("not exposed")
    );
    assert!(
        gateway
            .get("/v1/state/pages/none")
            .await
            .problem(404, "not-found")
            .contains("nothing under")
    );
    gateway
        .get("/v1/state/pages/%ff")
        .await
        .problem(400, "malformed");
    gateway
        .get("/v1/state/pages")
        .await
        .problem(404, "not-found");
}

#[tokio::test]
async fn without_redis_state_is_503_and_events_go_on() {
    let mut gateway = Gateway::with(EXPOSE, Guards::default()).await;
    assert_eq!(gateway.get("/readyz").await.status, 200);
    gateway.cluster.redis.kill();
    let answer = gateway.get("/v1/state/pages/a").await;
    answer.problem(503, "away");
    assert!(answer.header("retry-after").is_some());
    assert!(
        gateway
            .get("/readyz")
            .await
            .problem(503, "not-ready")
            .contains("Redis")
    );
    assert_eq!(gateway.get("/healthz").await.status, 200);
    assert_eq!(
        gateway
            .send("POST", VIEWED, &[JSON], r#"{"page":"a"}"#)
            .await
            .status,
        202
    );
}

#[tokio::test]
async fn paths_and_methods_that_are_not_there() {
    let gateway = Gateway::start().await;
    assert!(
        gateway
            .get("/v2/none?token=secret")
            .await
            .problem(404, "not-found")
            .contains("/v2/none")
    );
    for (method, path, allow) in [
        ("GET", VIEWED, "POST,OPTIONS"),
        ("DELETE", "/v1/files/abc", "GET,HEAD,PUT"),
        ("POST", "/healthz", "GET,HEAD"),
        ("BREW", "/", "GET,HEAD"),
    ] {
        let answer = gateway.send(method, path, &[], "").await;
        answer.problem(405, "method-not-allowed");
        assert_eq!(answer.header("allow"), Some(allow), "{method} {path}");
    }
}

#[tokio::test]
async fn what_happened_is_counted() {
    let gateway = Gateway::start().await;
    gateway
        .send("POST", VIEWED, &[JSON, ("ce-id", "a")], r#"{"page":"a"}"#)
        .await;
    gateway
        .send("POST", VIEWED, &[JSON, ("ce-id", "a")], r#"{"page":"a"}"#)
        .await;
    gateway.send("POST", VIEWED, &[JSON], "{").await;
    gateway
        .send("POST", "/v1/events/made.up.name", &[JSON], "{")
        .await;
    gateway.send("PUT", "/v1/files/x", &[], "12345").await;
    gateway.get("/made/up").await;
    let answer = gateway.get("/metrics").await;
    assert!(
        answer
            .header("content-type")
            .unwrap()
            .starts_with("text/plain; version=0.0.4")
    );
    let text = answer.text();
    for line in [
        "oncue_gateway_events_total{type=\"web.page.viewed\",outcome=\"accepted\"} 1\n",
        "oncue_gateway_events_total{type=\"web.page.viewed\",outcome=\"duplicate\"} 1\n",
        "oncue_gateway_events_total{type=\"web.page.viewed\",outcome=\"rejected\"} 1\n",
        "oncue_gateway_events_total{type=\"unknown\",outcome=\"rejected\"} 1\n",
        "oncue_gateway_events_total{type=\"files.file.uploaded\",outcome=\"accepted\"} 1\n",
        "oncue_gateway_upload_bytes_total 5\n",
        "http_server_request_duration_seconds_count{http_request_method=\"POST\",http_route=\"/v1/events/{type}\",http_response_status_code=\"202\"} 2\n",
    ] {
        assert!(text.contains(line), "{line} in {text}");
    }
    assert!(
        !text.contains("made"),
        "nothing a client makes up becomes a series"
    );
}

#[tokio::test]
async fn the_page_is_whole_and_closed() {
    let site = concat!(env!("CARGO_MANIFEST_DIR"), "/../services/workers/site");
    let config = format!("[gateway]\nsite = \"{site}\"\n");
    let gateway = Gateway::with(&config, Guards::default()).await;
    let page = gateway.get("/").await;
    assert_eq!(
        (page.status, page.header("content-type")),
        (200, Some("text/html; charset=utf-8"))
    );
    let policy = page.header("content-security-policy").unwrap();
    assert!(
        policy.contains("default-src 'none'") && !policy.contains("unsafe"),
        "{policy}"
    );
    let html = page.text();
    assert!(
        !html.contains("style=") && !html.contains("<style") && !html.contains(" onclick="),
        "nothing inline passes the policy"
    );
    for asset in ["/page.css", "/page.js", "/icon.svg"] {
        assert!(html.contains(asset), "{asset}");
        assert_eq!(gateway.get(asset).await.status, 200);
    }
    let head = gateway.send("HEAD", "/page.js", &[], "").await;
    assert_eq!((head.status, head.body.len()), (200, 0));
    assert_ne!(head.header("content-length"), Some("0"));
    let tag = [("if-none-match", head.header("etag").unwrap())];
    let same = gateway.send("GET", "/page.js", &tag, "").await;
    assert_eq!((same.status, same.body.len()), (304, 0));
    let posted = gateway.send("POST", "/page.js", &[], "").await;
    posted.problem(405, "method-not-allowed");
    assert_eq!(posted.header("allow"), Some("GET,HEAD"));
    for nothing in ["/none.js", "/../oncue.toml", "/src/lib.rs"] {
        gateway.get(nothing).await.problem(404, "not-found");
    }
    wait_for("ready", || async {
        gateway.get("/readyz").await.status == 200
    })
    .await;
}

#[tokio::test]
async fn without_a_site_the_root_says_how_to_have_one() {
    let gateway = Gateway::start().await;
    let how = gateway.get("/").await.problem(404, "not-found");
    assert!(how.contains("[gateway]"), "{how}");
}
