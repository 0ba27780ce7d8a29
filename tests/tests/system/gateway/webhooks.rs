//! Signed requests of other services, which become events.

use oncue_gateway::server::Guards;
use oncue_proto::event;
use oncue_tests::cluster::{Cluster, Stored};
use oncue_tests::http::{Answer, JSON};
use ring::hmac;
use serde_json::json;

use super::Gateway;

const SECRET: &str = "a secret of this test";

const CONFIG: &str = r#"
[limit.hooks]
rate = 30
per = "1h"

[auth.nobody]
keys = true

[gateway]
auth = "nobody"

[[webhook]]
name = "github"
kind = "github"
secrets = ["file:old-secret", "file:new-secret"]
event = "web.page.viewed"
when = { "header.x-github-event" = ["push", "ping"] }
data = { page = "body.repository.full_name", visitor = "body.commits.0.author" }

[[webhook]]
name = "slack"
kind = "slack"
secrets = ["file:old-secret"]
event = "web.page.viewed"
data = { page = "body.event.channel", visitor = "body.event.user" }
limit = "hooks"

[[webhook]]
name = "plain"
kind = "hmac"
secrets = ["file:old-secret"]
event = "web.page.milestone"
hmac = { header = "X-Signature", encoding = "base64", timestamp = "X-Time", id = "body.number" }
"#;

async fn start() -> Gateway {
    let cluster = Cluster::new(CONFIG).await;
    std::fs::write(cluster.dir.join("old-secret"), format!("{SECRET}\n")).unwrap();
    std::fs::write(cluster.dir.join("new-secret"), "another one").unwrap();
    Gateway::on(cluster, Guards::default()).await
}

fn tag(secret: &str, content: &str) -> Vec<u8> {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    hmac::sign(&key, content.as_bytes()).as_ref().to_vec()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A delivery as GitHub makes it.
async fn push(gateway: &Gateway, secret: &str, delivery: &str, kind: &str, body: &str) -> Answer {
    let signature = format!("sha256={}", hex(&tag(secret, body)));
    let headers = [
        JSON,
        ("x-hub-signature-256", signature.as_str()),
        ("x-github-delivery", delivery),
        ("x-github-event", kind),
    ];
    gateway
        .send("POST", "/v1/webhooks/github", &headers, body)
        .await
}

fn pushed() -> String {
    json!({ "repository": { "full_name": "a/b" }, "commits": [{ "author": "ann" }] }).to_string()
}

#[tokio::test]
async fn a_delivery_becomes_one_event_however_often_it_comes() {
    let gateway = start().await;
    let answer = push(&gateway, SECRET, "72d3162e", "push", &pushed()).await;
    assert_eq!(answer.status, 202, "{}", answer.text());
    let id = answer.json()["id"].as_str().expect("an id").to_owned();
    assert!(id.starts_with("github:72d3162e:"), "{id}");
    let Stored {
        headers, payload, ..
    } = gateway.message("web", 1).await;
    assert_eq!(&payload[..], br#"{"page":"a/b","visitor":"ann"}"#);
    assert!(headers.contains(&format!("ce-id: {id}")), "{headers}");
    assert!(headers.contains("ce-source: /webhooks/github"), "{headers}");
    let again = push(&gateway, SECRET, "72d3162e", "push", &pushed()).await;
    assert_eq!(again.status, 202);
    assert_eq!(again.json()["duplicate"], true);
    // One event, another one, and one that nobody wants.
    let other = push(&gateway, SECRET, "72d3162f", "ping", &pushed()).await;
    assert_eq!(other.status, 202);
    let unwanted = push(&gateway, SECRET, "72d31630", "star", &pushed()).await;
    assert_eq!(unwanted.status, 204, "{}", unwanted.text());
    assert_eq!(gateway.messages("web").await, 2);
}

#[tokio::test]
async fn what_is_not_signed_is_never_taken() {
    let gateway = start().await;
    let body = pushed();
    push(&gateway, "a guess", "d-1", "push", &body)
        .await
        .problem(401, "unsigned");
    push(&gateway, "", "d-1", "push", &body)
        .await
        .problem(401, "unsigned");
    let bare = [
        JSON,
        ("x-github-delivery", "d-1"),
        ("x-github-event", "push"),
    ];
    let unsigned = gateway
        .send("POST", "/v1/webhooks/github", &bare, &body)
        .await;
    let why = unsigned.problem(401, "unsigned");
    assert!(why.contains("x-hub-signature-256"), "{why}");
    // What is not wanted is not let through unsigned either.
    push(&gateway, "a guess", "d-1", "star", &body)
        .await
        .problem(401, "unsigned");
    let nowhere = gateway
        .send("POST", "/v1/webhooks/other", &bare, &body)
        .await;
    nowhere.problem(404, "not-found");
    assert_eq!(gateway.messages("web").await, 0);
}

#[tokio::test]
async fn secrets_are_replaced_without_a_gap_and_without_a_restart() {
    let gateway = start().await;
    let signed = async |secret: &str, delivery: &str| {
        push(&gateway, secret, delivery, "push", &pushed())
            .await
            .status
    };
    assert_eq!(signed("another one", "d-1").await, 202);
    std::fs::write(gateway.cluster.dir.join("old-secret"), "the newest").unwrap();
    assert_eq!(signed("the newest", "d-2").await, 202);
    assert_eq!(signed("another one", "d-3").await, 202);
    assert_eq!(signed(SECRET, "d-4").await, 401);
    // A file that is gone or empty opens nothing, and shuts nothing else.
    std::fs::write(gateway.cluster.dir.join("old-secret"), "").unwrap();
    assert_eq!(signed("", "d-5").await, 401);
    assert_eq!(signed("another one", "d-6").await, 202);
    std::fs::remove_file(gateway.cluster.dir.join("old-secret")).unwrap();
    std::fs::remove_file(gateway.cluster.dir.join("new-secret")).unwrap();
    assert_eq!(signed("another one", "d-7").await, 503);
}

/// A delivery as Slack makes it, so many seconds ago.
async fn slack(gateway: &Gateway, ago: u64, body: &str) -> Answer {
    let time = (event::now_ms() / 1000 - ago).to_string();
    let signature = format!("v0={}", hex(&tag(SECRET, &format!("v0:{time}:{body}"))));
    let headers = [
        JSON,
        ("x-slack-signature", signature.as_str()),
        ("x-slack-request-timestamp", &time),
    ];
    gateway
        .send("POST", "/v1/webhooks/slack", &headers, body)
        .await
}

#[tokio::test]
async fn slack_is_shown_that_we_are_here_and_old_copies_are_refused() {
    let gateway = start().await;
    let challenge = json!({ "type": "url_verification", "challenge": "3eZbrw1a" }).to_string();
    let answer = slack(&gateway, 0, &challenge).await;
    assert_eq!(answer.ok_json()["challenge"], "3eZbrw1a");
    assert!(
        answer.header("ratelimit").is_some(),
        "it counts for its limit"
    );
    let unsigned = gateway
        .send("POST", "/v1/webhooks/slack", &[JSON], &challenge)
        .await;
    unsigned.problem(401, "unsigned");
    // Spelled otherwise it would pass by the limit.
    let spelled = gateway
        .send("POST", "/v1/webhooks/sl%61ck", &[JSON], &challenge)
        .await;
    spelled.problem(404, "not-found");
    let said = json!({ "event_id": "Ev1", "event": { "channel": "C1", "user": "U1" } }).to_string();
    let answer = slack(&gateway, 1, &said).await;
    assert_eq!(answer.status, 202, "{}", answer.text());
    let id = answer.json()["id"].to_string();
    assert!(id.contains("slack:Ev1:"), "{id}");
    let why = slack(&gateway, 400, &said).await.problem(401, "unsigned");
    assert!(why.contains("another time"), "{why}");
    assert_eq!(gateway.messages("web").await, 1);
}

#[tokio::test]
async fn any_other_signature_and_an_event_that_is_not_for_clients() {
    use base64::Engine as _;
    let gateway = start().await;
    let deliver = async |body: &str| {
        let time = (event::now_ms() / 1000).to_string();
        let tag = tag(SECRET, &format!("{time}.{body}"));
        let tag = base64::engine::general_purpose::STANDARD.encode(tag);
        let headers = [JSON, ("x-signature", tag.as_str()), ("x-time", &time)];
        gateway
            .send("POST", "/v1/webhooks/plain", &headers, body)
            .await
    };
    let answer = deliver(r#"{"number":7,"page":"/a","views":10}"#).await;
    assert_eq!(answer.status, 202, "{}", answer.text());
    let id = answer.json()["id"].to_string();
    assert!(id.contains("plain:7:"), "{id}");
    // The body is the event, so it is held to the contract.
    deliver(r#"{"number":8,"page":["/a"]}"#)
        .await
        .problem(400, "malformed");
    deliver(r#"{"page":"/a","views":10}"#)
        .await
        .problem(400, "malformed");
    deliver("no json").await.problem(400, "malformed");
    assert_eq!(gateway.messages("web").await, 1);
}

#[tokio::test]
async fn a_gateway_does_not_start_without_a_secret() {
    let cluster = Cluster::new(CONFIG).await;
    let gateway = cluster.spawn("oncue-gateway", &[]);
    gateway.wait_for_line("[[webhook]] github: ").await;
    let why = gateway.log();
    assert!(why.contains("old-secret"), "{why}");
}
