//! Whose an id is: one that several senders, domains or sources use stands for one event, and nobody loses theirs by it.

use std::collections::BTreeSet;

use oncue_core::model::api_key::ApiKey;
use oncue_gateway::server::Guards;
use oncue_tests::cluster::{Cluster, Stored, wait_for};
use oncue_tests::http::{Answer, JSON, request};
use ring::hmac;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use super::{Gateway, VIEWED};

const HOME: &str = r#"{"page":"/home"}"#;

/// Token of a key that is called so.
async fn key(gateway: &Gateway, name: &str) -> String {
    let issued = ApiKey::issue(name, BTreeSet::new(), None).expect("a key");
    let store = gateway.cluster.store().await;
    store.add_api_key(&issued.key).await.expect("kept");
    issued.token
}

#[tokio::test]
async fn an_idempotency_key_counts_within_who_sent_it() {
    const CONFIG: &str = "[auth.clients]\nkeys = true\n[gateway]\nauth = \"clients\"\n\
        [[route]]\nmethod = \"POST\"\npath = \"/see/{page}\"\nevent = \"web.page.viewed\"\nanswer = \"wait\"\n";
    let gateway = Gateway::with(CONFIG, Guards::default()).await;
    let other = gateway.beside().await;
    let first = key(&gateway, "first").await;
    let second = key(&gateway, "second").await;
    let send = async |at, token: &str, path: &str, body: &str| {
        let headers = [
            JSON,
            ("x-api-key", token),
            ("idempotency-key", "order-1"),
            ("oncue-track", "1"),
        ];
        let answer = request(at, "POST", path, &headers, body).await;
        assert!(answer.status < 300, "{}", answer.text());
        answer.json()
    };
    let of_first = send(gateway.at, &first, VIEWED, HOME).await;
    let of_second = send(gateway.at, &second, VIEWED, HOME).await;
    assert_eq!(of_second["duplicate"], false, "{of_second}");
    assert_ne!(of_first["flow"], of_second["flow"]);
    // Whoever sends it again, to any gateway, is known.
    let again = send(other.at, &first, VIEWED, HOME).await;
    assert_eq!(again["duplicate"], true, "{again}");
    assert_eq!(
        (&again["id"], &again["sequence"]),
        (&of_first["id"], &of_first["sequence"])
    );
    // With other content nobody is told that somebody else has used the key.
    let third = key(&gateway, "third").await;
    let of_third = send(gateway.at, &third, VIEWED, r#"{"page":"/other"}"#).await;
    assert_eq!(of_third["duplicate"], false, "{of_third}");
    assert_eq!(gateway.messages("web").await, 3);
    // By a route each waits for a flow of its own.
    let fourth = key(&gateway, "fourth").await;
    let of_fourth = send(gateway.at, &fourth, "/see/b", "{}").await;
    let fifth = key(&gateway, "fifth").await;
    let of_fifth = send(gateway.at, &fifth, "/see/b", "{}").await;
    assert_ne!(of_fourth["id"], of_fifth["id"], "{of_fourth} {of_fifth}");
    assert_eq!(gateway.messages("web").await, 5);
    // An id that the client gives its event is that of the event.
    let named = [JSON, ("x-api-key", &*first), ("ce-id", "named")];
    let answer = gateway.send("POST", VIEWED, &named, HOME).await;
    assert_eq!(answer.json()["id"], "named");
}

#[tokio::test]
async fn an_upload_under_a_key_of_somebody_else_is_another_file() {
    const CONFIG: &str = "[auth.clients]\nkeys = true\n[gateway]\nauth = \"clients\"\n";
    let gateway = Gateway::with(CONFIG, Guards::default()).await;
    let put = async |token: &str, content: &str| {
        let headers = [("x-api-key", token), ("idempotency-key", "up-1")];
        let answer = gateway
            .send("PUT", "/v1/files/a.txt", &headers, content)
            .await;
        assert_eq!(answer.status, 202, "{}", answer.text());
        answer.json()
    };
    let first = key(&gateway, "first").await;
    let second = key(&gateway, "second").await;
    let of_first = put(&first, "hello").await;
    assert_ne!(of_first["file"], put(&second, "world").await["file"]);
    assert_eq!(of_first, put(&first, "hello").await);
}

/// A stream knows the ids of its own events alone, and the ledger of a flow those of all.
#[tokio::test]
async fn an_id_of_a_flow_of_another_domain_is_refused_before_anything_is_taken() {
    const CONFIG: &str = r#"
        [[route]]
        method = "POST"
        path = "/see/{page}"
        event = "web.page.viewed"
        answer = "wait"
        [[route]]
        method = "POST"
        path = "/remove/{file}"
        event = "files.file.removed"
        answer = "wait"
    "#;
    let gateway = Gateway::with(CONFIG, Guards::default()).await;
    let send = async |path: &str| {
        let headers = [JSON, ("idempotency-key", "k-77")];
        gateway.send("POST", path, &headers, "{}").await
    };
    assert_eq!(send("/see/a").await.status, 200);
    let refused = send("/remove/f1").await;
    assert!(refused.problem(409, "id-reuse").contains("k-77"));
    assert_eq!(gateway.messages("files").await, 0);
    // What was taken stands as it was, and is known again.
    let again = send("/see/a").await.ok_json();
    let events = again["events"].as_array().expect("events");
    assert_eq!(events.len(), 1, "{again}");
    assert_eq!(gateway.messages("web").await, 1);
}

const SECRET: &str = "a secret of this test";

const WEBHOOKS: &str = r#"
[[webhook]]
name = "shop"
kind = "hmac"
secrets = ["file:secret", "file:new-secret"]
event = "web.page.viewed"
hmac = { header = "X-Signature", encoding = "hex", id = "body.number" }

[[webhook]]
name = "store"
kind = "hmac"
secrets = ["file:secret"]
event = "web.page.viewed"
hmac = { header = "X-Signature", encoding = "hex", id = "body.number" }
"#;

async fn with_webhooks() -> Gateway {
    let cluster = Cluster::new(WEBHOOKS).await;
    std::fs::write(cluster.dir.join("secret"), SECRET).unwrap();
    std::fs::write(cluster.dir.join("new-secret"), "the next one").unwrap();
    Gateway::on(cluster, Guards::default()).await
}

/// A delivery that is signed with this secret.
async fn deliver(at: std::net::SocketAddr, webhook: &str, secret: &str, body: &Value) -> Answer {
    let body = body.to_string();
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    let tag = hmac::sign(&key, body.as_bytes());
    let tag: String = tag.as_ref().iter().map(|b| format!("{b:02x}")).collect();
    let headers = [JSON, ("x-signature", tag.as_str())];
    let path = format!("/v1/webhooks/{webhook}");
    request(at, "POST", &path, &headers, body).await
}

#[tokio::test]
async fn nobody_can_take_the_id_of_a_delivery_before_it_comes() {
    let gateway = with_webhooks().await;
    let other = gateway.beside().await;
    let delivery = json!({ "number": 1001, "page": "/a" });
    // One from which an outsider learns what ids look like.
    let seen = deliver(
        gateway.at,
        "shop",
        SECRET,
        &json!({ "number": 1000, "page": "/a" }),
    )
    .await;
    let seen = seen.json()["id"].as_str().expect("an id").to_owned();
    assert!(seen.starts_with("shop:1000:"), "{seen}");
    let guesses = ["1001", "shop:1001", &seen.replace("1000", "1001")];
    for guess in guesses {
        let headers = [JSON, ("ce-id", guess)];
        let taken = gateway.send("POST", VIEWED, &headers, HOME).await;
        assert_eq!(taken.json()["duplicate"], false, "{}", taken.text());
    }
    let answer = deliver(gateway.at, "shop", SECRET, &delivery).await;
    assert_eq!(answer.status, 202, "{}", answer.text());
    assert_eq!(answer.json()["duplicate"], false);
    // It comes again to another gateway, signed with the secret that is next.
    let again = deliver(other.at, "shop", "the next one", &delivery).await;
    assert_eq!(again.json()["duplicate"], true, "{}", again.text());
    assert_eq!(again.json()["id"], answer.json()["id"]);
    // The same number from another sender is another delivery.
    let store = deliver(gateway.at, "store", SECRET, &delivery).await;
    assert_eq!(store.json()["duplicate"], false, "{}", store.text());
    assert_eq!(gateway.messages("web").await, 6);
    // As long as an id may be: what is in front of the tag gives way.
    let long = json!({ "number": "n".repeat(128), "page": "/a" });
    let answer = deliver(gateway.at, "shop", SECRET, &long).await;
    assert_eq!(answer.status, 202, "{}", answer.text());
    let again = deliver(gateway.at, "shop", SECRET, &long).await;
    assert_eq!(again.json()["duplicate"], true, "{}", again.text());
}

/// A ledger that was begun is not left to wait for an event that nobody sends.
#[tokio::test]
async fn an_event_is_taken_whole_though_its_client_goes_away() {
    let gateway = Gateway::with("[flows]\ntrack = \"all\"\n", Guards::default()).await;
    // In the middle of beginning the ledger, which Redis does as soon as it may write again.
    gateway
        .cluster
        .redis_ok(&["CLIENT", "PAUSE", "60000", "WRITE"]);
    let mut client = TcpStream::connect(gateway.at).await.expect("a connection");
    let length = HOME.len();
    let request = format!(
        "POST {VIEWED} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\nce-id: gone-1\r\n\
         content-length: {length}\r\n\r\n{HOME}"
    );
    client.write_all(request.as_bytes()).await.expect("sent");
    wait_for("the gateway waits for Redis", async || {
        let clients = gateway.cluster.redis_ok(&["INFO", "clients"]);
        clients.contains("blocked_clients:1")
    })
    .await;
    drop(client);
    wait_for("the gateway has seen that it is gone", async || {
        let metrics = gateway.get("/metrics").await.text();
        metrics.contains("oncue_gateway_connections 1\n")
    })
    .await;
    gateway.cluster.redis_ok(&["CLIENT", "UNPAUSE"]);
    let store = gateway.cluster.store().await;
    wait_for("the ledger is begun", async || {
        store.flow("gone-1").await.expect("Redis").is_some()
    })
    .await;
    wait_for("the event is in its stream", async || {
        gateway.messages("web").await == 1
    })
    .await;
    let Stored { headers, .. } = gateway.message("web", 1).await;
    assert!(headers.contains("ce-id: gone-1"), "{headers}");
}
