//! Routes of `oncue.toml`: requests as events and rows, and events as responses.

use std::net::SocketAddr;

use oncue_core::config::{Config, ConfigErrors};
use oncue_core::store::Keys;
use oncue_gateway::server::Guards;
use oncue_proto::Catalog;
use oncue_tests::cluster::{Cluster, Process, wait_for};
use oncue_tests::http::{Answer, JSON, request};
use serde_json::{Value, json};

use super::{Gateway, Served};

/// A view by its path, with one field from each part of a request.
const VIEW: &str = r#"
[[route]]
method = "PUT"
path = "/pages/{page}/views"
event = "web.page.viewed"
fields = { visitor = "header.x-visitor", referrer = { from = "query.ref", default = "none" }, at = "query.at" }
"#;

#[tokio::test]
async fn a_request_becomes_the_event_its_route_says() {
    let gateway = Gateway::with(VIEW, Guards::default()).await;
    let headers = [("x-visitor", "v 1"), ("idempotency-key", "put-1")];
    let path = "/pages/%2Fhome/views?ref=a+b%26c&at=2026-01-02T03:04:05Z";
    let answer = gateway.send("PUT", path, &headers, "").await;
    assert_eq!(answer.status, 202, "{}", answer.text());
    assert_eq!(answer.header("location"), Some("/v1/flows/put-1"));
    let said = answer.json();
    assert_eq!(
        (&said["id"], &said["key"]),
        (&json!("put-1"), &json!("/home"))
    );
    let stored = gateway.message("web", 1).await;
    let payload: Value = serde_json::from_slice(&stored.payload).unwrap();
    let expected = json!({ "page": "/home", "visitor": "v 1", "referrer": "a b&c", "at": "2026-01-02T03:04:05Z" });
    assert_eq!(payload, expected);
    // Sent again it counts once, and another one under its id is refused.
    let again = gateway.send("PUT", path, &headers, "").await;
    assert_eq!(again.json()["duplicate"], true);
    let other = gateway.send("PUT", "/pages/b/views", &headers, "").await;
    other.problem(409, "id-reuse");

    // Members of the body are fields, but for those that the route sets.
    let body = r#"{"visitor":"mallory","page":"/theirs","at":"2026-01-02T03:04:05Z","more":1.50}"#;
    let answer = gateway.send("PUT", "/pages/x/views", &[JSON], body).await;
    assert_eq!(answer.json()["key"], "x", "{}", answer.text());
    let stored = gateway.message("web", 2).await;
    let text = String::from_utf8(stored.payload).unwrap();
    assert_eq!(text, r#"{"more":1.50,"page":"x","referrer":"none"}"#);
}

#[tokio::test]
async fn what_a_route_cannot_read_is_named() {
    let gateway = Gateway::with(VIEW, Guards::default()).await;
    let why = gateway.send("PUT", "/pages/a/views?at=noon", &[], "").await;
    let why = why.problem(400, "malformed");
    assert!(why.contains("field at: query.at is \"noon\""), "{why}");
    let twice = gateway
        .send("PUT", "/pages/a/views?ref=a&ref=b", &[], "")
        .await;
    let twice = twice.problem(400, "malformed");
    assert!(twice.contains("query.ref is there 2 times"), "{twice}");
    let raw = gateway.send("PUT", "/pages/%ff/views", &[], "").await;
    raw.problem(400, "malformed");
    let body = gateway.send("PUT", "/pages/a/views", &[JSON], "[1]").await;
    body.problem(400, "malformed");
    let form = [("content-type", "application/x-www-form-urlencoded")];
    let form = gateway.send("PUT", "/pages/a/views", &form, "a=b").await;
    form.problem(415, "media-type");
    let other = gateway.send("DELETE", "/pages/a/views", &[], "").await;
    assert_eq!(other.header("allow"), Some("PUT"));
    other.problem(405, "method-not-allowed");
    gateway.get("/pages/a").await.problem(404, "not-found");
    assert_eq!(gateway.messages("web").await, 0);
}

#[tokio::test]
async fn a_route_makes_public_what_the_contract_keeps() {
    let config = r#"
        [[route]]
        path = "/milestones"
        host = "shop.example.com"
        event = "web.page.milestone"
        fields = { views = "query.views" }
        [[route]]
        path = "/ranking"
        row = "rankings"
        key = { value = "" }
        [[route]]
        path = "/counts/{page}"
        row = "pages"
    "#;
    let gateway = Gateway::with(config, Guards::default()).await;
    let closed = gateway
        .send("POST", "/v1/events/web.page.milestone", &[JSON], "{}")
        .await;
    closed.problem(403, "forbidden");
    let body = r#"{"page":"/home","views":"7"}"#;
    let hosted = [JSON, ("host", "Shop.Example.com:81")];
    let answer = gateway
        .send("POST", "/milestones?views=12", &hosted, body)
        .await;
    assert_eq!(answer.status, 202, "{}", answer.text());
    let stored = gateway.message("web", 1).await;
    assert_eq!(&stored.payload[..], br#"{"page":"/home","views":12}"#);
    let wrong = gateway
        .send("POST", "/milestones?views=-1", &hosted, body)
        .await;
    let wrong = wrong.problem(400, "malformed");
    let range = "field views: query.views is \"-1\", which is no whole number from 0 to 18446744073709551615";
    assert!(wrong.contains(range), "{wrong}");
    gateway
        .send("POST", "/milestones", &[JSON], body)
        .await
        .problem(404, "not-found");

    // Rows of tables that nobody exposes.
    let keys = Keys::default();
    gateway
        .cluster
        .redis_ok(&["HSET", &keys.row("pages", "/a b"), "views", "3", "_v", "9"]);
    gateway
        .cluster
        .redis_ok(&["ZADD", &keys.row("rankings", ""), "4", "/a"]);
    gateway
        .get("/v1/state/pages/%2Fa%20b")
        .await
        .problem(404, "not-found");
    let row = gateway.get("/counts/%2Fa%20b").await;
    assert_eq!(row.ok_json(), json!({ "views": 3 }));
    let tag = row.header("etag").unwrap().to_owned();
    let unchanged = gateway
        .send("GET", "/counts/%2Fa%20b", &[("if-none-match", &tag)], "")
        .await;
    assert_eq!(unchanged.status, 304);
    assert_eq!(
        gateway
            .send("HEAD", "/counts/%2Fa%20b", &[], "")
            .await
            .status,
        200
    );
    let ranking = gateway.get("/ranking").await.ok_json();
    assert_eq!(
        ranking,
        json!({ "ranking": [{ "member": "/a", "score": 4 }] })
    );
}

#[test]
fn every_mistake_is_listed_with_its_line() {
    let text = r#"
[[route]]
path = "orders"
event = "web.page.viewed"
row = "pages"
[[route]]
path = "/v1/mine"
event = "web.page.viewed"
[[route]]
method = "FETCH"
path = "/a"
event = "web.page.viewed"
[[route]]
path = "/b/{id}"
row = "pages"
answer = "wait"
[[route]]
path = "/c/{page}"
event = "web.page.viewed"
timeout = "3s"
failure = [{ type = "web.page.milestone", status = 200 }]
[[route]]
method = "GET"
path = "/d/{page}/{page}"
event = "web.page.viewed"
fields = { visitor = "body.visitor", referrer = "cookie.x" }
[[route]]
path = "/e/{page}"
event = "web.page.viewed"
fields = { visitor = "claim.sub" }
"#;
    let ConfigErrors(found) = Config::parse(text, None, |_| None).expect_err("mistakes");
    for (line, part) in [
        (2, "does not begin with /"),
        (2, "either to an `event` or to a `row`"),
        (6, "what is under /v1 is the gateway's own"),
        (10, "unknown variant `FETCH`"),
        (13, "`answer` is for an event"),
        (17, "`timeout` is for `response`"),
        (17, "status 200 of web.page.milestone is no failure"),
        (17, "belong to a `response`"),
        (26, "\"cookie.x\" is no part of a request"),
        (27, "claim.sub: nobody says claims without a credential"),
    ] {
        let place = format!("oncue.toml:{line}: ");
        let is_said = |said: &String| said.starts_with(&place) && said.contains(part);
        assert!(found.iter().any(is_said), "{line} {part}: {found:#?}");
    }
}

#[test]
fn routes_that_do_not_fit_the_contract_are_refused() {
    let text = r#"
[[route]]
path = "/a/{page}"
event = "web.page.viewd"
[[route]]
path = "/b/{order}"
event = "web.page.viewed"
[[route]]
method = "GET"
path = "/c"
event = "web.page.viewed"
[[route]]
path = "/d/{page}"
event = "web.page.viewed"
fields = { at = { value = "noon" }, visitor = { from = "query.v", default = 1 } }
[[route]]
path = "/e"
event = "web.trends.published"
fields = { trends = "query.trends" }
[[route]]
path = "/f/{page}"
event = "web.page.viewed"
response = "dlq.event.deadlettered"
[[route]]
path = "/d/{views}"
event = "web.page.milestone"
fields = { page = "query.page" }
"#;
    let config = Config::parse(text, None, |_| None).expect("well written");
    let mut catalog = Catalog::builtin();
    catalog.add(oncue_app_events::DESCRIPTORS).unwrap();
    let ConfigErrors(found) = config.routes(&catalog).expect_err("mistakes");
    for (line, part) in [
        (
            2,
            "unknown event type \"web.page.viewd\"; known: web.page.milestone",
        ),
        (
            5,
            "{order} of the path is no field of web.PageViewed and no field takes it; it has page",
        ),
        (8, "nothing says \"page\", the key of web.page.viewed"),
        (12, "field \"at\" cannot be \"noon\""),
        (12, "field \"visitor\" cannot be 1"),
        (
            16,
            "field \"trends\" of web.TrendsPublished holds a message",
        ),
        (20, "an event of the platform's own"),
        (24, "the same requests are for /d/{page} (oncue.toml:12)"),
    ] {
        let place = format!("oncue.toml:{line}: ");
        let is_said = |said: &String| said.starts_with(&place) && said.contains(part);
        assert!(found.iter().any(is_said), "{line} {part}: {found:#?}");
    }
    assert_eq!(found.len(), 8, "{found:#?}");
}

/// Routes that answer with an event: as a success, and as a failure.
const REPLIES: &str = r#"
[[route]]
path = "/views/{page}"
event = "web.page.viewed"
response = "web.page.milestone"
status = 201
timeout = "20s"
[[route]]
path = "/refused/{page}"
event = "web.page.viewed"
response = "web.trends.published"
failure = [{ type = "web.page.milestone", status = 409 }]
timeout = "20s"
[[route]]
path = "/whole/{page}"
event = "web.page.viewed"
answer = "wait"
timeout = "20s"
[[route]]
path = "/soon/{page}"
event = "web.page.viewed"
response = "web.page.milestone"
timeout = "0s"
"#;

/// Two gateways on one cluster, and the function that acts on views.
struct Two {
    first: Gateway,
    other: SocketAddr,
    _served: Served,
    _worker: Process,
}

async fn two_gateways() -> Two {
    let first = Gateway::with(REPLIES, Guards::default()).await;
    let served = first.beside().await;
    Two {
        other: served.at,
        _served: served,
        _worker: first.cluster.start("count-views").await,
        first,
    }
}

async fn view(at: SocketAddr, path: &str, id: &str) -> Answer {
    request(at, "POST", path, &[("idempotency-key", id)], "").await
}

#[tokio::test]
async fn the_first_event_of_a_type_is_the_response() {
    let two = two_gateways().await;
    for number in 1..10 {
        let id = format!("v{number}");
        let answer = view(two.first.at, "/views/a", &id).await;
        // Nobody answers: known as soon as the flow is complete.
        assert_eq!(answer.status, 202, "{}", answer.text());
        assert_eq!(answer.header("location"), Some(&*format!("/v1/flows/{id}")));
        assert_eq!(answer.json()["open"], 0, "{}", answer.text());
    }
    let milestone = json!({ "page": "a", "views": "10" });
    let answer = view(two.first.at, "/views/a", "v10").await;
    assert_eq!((answer.status, answer.json()), (201, milestone.clone()));
    assert_eq!(answer.header("ce-type"), Some("web.page.milestone"));
    assert_eq!(answer.header("ce-source"), Some("/count-views"));
    assert_eq!(answer.header("location"), Some("/v1/flows/v10"));
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    let id = answer.header("ce-id").unwrap().to_owned();
    // Asked again, of another gateway: it has heard nothing, and finds the event in its stream.
    let again = view(two.other, "/views/a", "v10").await;
    assert_eq!((again.status, again.json()), (201, milestone));
    assert_eq!(again.header("ce-id"), Some(&*id));

    // As a failure, with its own status; and the whole flow.
    for number in 1..10 {
        let answer = view(two.other, "/whole/b", &format!("w{number}")).await;
        assert_eq!(answer.ok_json()["status"], "complete");
    }
    let refused = view(two.other, "/refused/b", "w10").await;
    assert_eq!(
        (refused.status, &refused.json()["views"]),
        (409, &json!("10"))
    );
}

#[tokio::test]
async fn without_a_response_in_time_the_flow_goes_on() {
    let gateway = Gateway::with(REPLIES, Guards::default()).await;
    // The function is known, and does not run.
    let mut worker = gateway.cluster.start("count-views").await;
    worker.stop().await;
    let answer = view(gateway.at, "/soon/c", "s1").await;
    assert_eq!(
        (answer.status, answer.json()["open"].as_u64()),
        (202, Some(1))
    );
    assert_eq!(answer.json()["waits_for"]["function"], "count-views");
    let short = [("prefer", "wait=0"), ("idempotency-key", "s2")];
    let answer = gateway.send("POST", "/views/c", &short, "").await;
    assert_eq!(answer.status, 202, "{}", answer.text());
}

#[tokio::test]
async fn many_wait_for_a_response_at_once() {
    let two = two_gateways().await;
    let ids: Vec<String> = (0..40).map(|number| format!("m{number}")).collect();
    let sent = ids.iter().enumerate().map(|(number, id)| {
        let at = if number % 2 == 0 {
            two.first.at
        } else {
            two.other
        };
        view(at, "/views/many", id)
    });
    let answers = futures_util::future::join_all(sent).await;
    let mut milestones: Vec<String> = answers
        .iter()
        .filter(|answer| answer.status == 201)
        .map(|answer| answer.json()["views"].as_str().unwrap().to_owned())
        .collect();
    milestones.sort();
    assert_eq!(milestones, ["10", "20", "30", "40"]);
    let others = answers.iter().filter(|answer| answer.status == 202);
    assert_eq!(others.count(), 36);
}

#[tokio::test]
async fn changed_routes_are_taken_while_it_runs() {
    let mut cluster = Cluster::new(VIEW).await;
    cluster.set("ONCUE_GATEWAY_LISTEN", "127.0.0.1:0");
    let gateway = cluster.spawn("oncue-gateway", &[]);
    gateway.wait_for_line("listening on").await;
    let log = gateway.log();
    let at = log
        .split("listening on http://")
        .nth(1)
        .expect("an address");
    let at = at.split(['\n', '"', ' ']).next().unwrap_or_default();
    let at = at.parse().unwrap_or_else(|e| panic!("{e}: {at:?}"));
    let ask = async |method: &str, path: &str| request(at, method, path, &[], "").await;
    assert_eq!(ask("PUT", "/pages/a/views").await.status, 202);
    let file = cluster.dir.join("oncue.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace("/pages/{page}/views", "/seen/{page}")).unwrap();
    wait_for("the new path", async || {
        ask("PUT", "/seen/a").await.status == 202
    })
    .await;
    ask("PUT", "/pages/a/views").await.problem(404, "not-found");

    // A broken one changes nothing and is named.
    let broken = text.replace("web.page.viewed", "web.page.viewd");
    std::fs::write(&file, &broken).unwrap();
    let ready = async || ask("GET", "/readyz").await.text();
    wait_for("the mistake", async || {
        ready().await.contains("unknown event type")
    })
    .await;
    let said = ready().await;
    assert!(
        said.starts_with("ready\n") && said.contains("oncue.toml:"),
        "{said}"
    );
    assert!(gateway.log().contains("routes stay as they were"));
    assert_eq!(ask("PUT", "/seen/a").await.status, 202);
    std::fs::write(&file, format!("{text}\n[gateway\n")).unwrap();
    wait_for("what is no TOML", async || {
        !ready().await.contains("unknown event type")
    })
    .await;
    assert!(ready().await.contains("routes stay as they were"));
    std::fs::write(&file, &text).unwrap();
    wait_for("the first path", async || {
        ask("PUT", "/pages/a/views").await.status == 202
    })
    .await;
    assert_eq!(ready().await, "ready\n");
}

#[tokio::test]
async fn a_gateway_does_not_start_with_a_wrong_route() {
    let config = VIEW.replace("\"web.page.viewed\"", "\"web.page.viewd\"");
    let cluster = Cluster::new(&config).await;
    let mut gateway = cluster.spawn("oncue-gateway", &[]);
    assert_eq!(gateway.exit().await, Some(2));
    let log = gateway.log();
    assert!(
        log.contains("[[route]] PUT /pages/{page}/views: unknown event type"),
        "{log}"
    );
}

#[test]
fn the_examples_of_the_page_are_read() {
    let page = include_str!("../../../../deploy/GATEWAY.md");
    let mut blocks: Vec<String> = vec![String::new()];
    for line in page.lines() {
        let last = blocks.last_mut().expect("one");
        match line.strip_prefix("    ") {
            Some(code) => {
                last.push_str(code);
                last.push('\n');
            }
            // An empty line parts tables of one block.
            None if line.is_empty() => {}
            None if !last.is_empty() => blocks.push(String::new()),
            None => {}
        }
    }
    blocks.retain(|block| block.starts_with('['));
    assert_eq!(blocks.len(), 2, "{blocks:?}");
    for block in blocks {
        let read = Config::parse(&block, None, |_| None);
        assert!(read.is_ok(), "{block}: {read:?}");
    }
}

#[tokio::test]
async fn head_makes_no_event() {
    let config = VIEW.replace("PUT", "GET");
    let gateway = Gateway::with(&config, Guards::default()).await;
    let head = request(gateway.at, "HEAD", "/pages/a/views", &[], "").await;
    assert_eq!((head.status, head.header("allow")), (405, Some("GET")));
    assert_eq!(gateway.messages("web").await, 0);
    assert_eq!(gateway.get("/pages/a/views").await.status, 202);
}

/// A target may name a host, which counts before the header: no route is found under one name and let in under another.
#[tokio::test]
async fn a_host_in_the_target_is_the_host() {
    let config = "[[route]]\nhost = \"shop.example.com\"\npath = \"/p\"\nrow = \"pages\"\nkey = { value = \"a\" }\n";
    let gateway = Gateway::with(config, Guards::default()).await;
    let row = Keys::default().row("pages", "a");
    gateway.cluster.redis_ok(&["HSET", &row, "views", "1"]);
    for (target, host, status) in [
        ("/p", "shop.example.com", 200),
        ("/p", "localhost", 404),
        ("http://shop.example.com/p", "localhost", 200),
        ("http://localhost/p", "shop.example.com", 404),
        ("http://evil.example.com/p", "localhost", 421),
    ] {
        let request = format!("GET {target} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
        let answer = gateway.raw(request.as_bytes()).await.expect("an answer");
        assert_eq!(answer.status, status, "{target} {host}: {}", answer.text());
    }
    let none = b"GET http://localhost/p HTTP/1.1\r\nconnection: close\r\n\r\n";
    let refused = gateway.raw(none).await.expect("an answer");
    refused.problem(400, "malformed");
    assert_eq!(refused.header("x-content-type-options"), Some("nosniff"));
}
