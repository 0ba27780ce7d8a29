//! CloudEvents over HTTP: the path without a type, batches, the handshake of webhooks.

use oncue_gateway::server::Guards;
use oncue_tests::http::JSON;
use serde_json::{Value, json};

use super::{Gateway, VIEWED};

const ANY: &str = "/v1/events";
const BATCH: (&str, &str) = ("content-type", "application/cloudevents-batch+json");
const STRUCTURED: (&str, &str) = ("content-type", "application/cloudevents+json");

fn viewed(id: &str, page: &str) -> Value {
    json!({ "specversion": "1.0", "id": id, "source": "/test", "type": "web.page.viewed", "data": { "page": page } })
}

#[tokio::test]
async fn an_event_says_its_type_itself() {
    let gateway = Gateway::start().await;
    let body = viewed("s1", "/a").to_string();
    let answer = gateway.send("POST", ANY, &[STRUCTURED], body).await;
    assert_eq!(answer.status, 202, "{}", answer.text());
    assert_eq!(
        (&answer.json()["type"], &answer.json()["key"]),
        (&json!("web.page.viewed"), &json!("/a"))
    );
    let binary = [
        JSON,
        ("ce-specversion", "1.0"),
        ("ce-id", "b1"),
        ("ce-source", "/test"),
        ("ce-type", "web.page.viewed"),
    ];
    let answer = gateway.send("POST", ANY, &binary, r#"{"page":"/b"}"#).await;
    assert_eq!(
        (answer.status, answer.header("location")),
        (202, Some("/v1/flows/b1"))
    );
    // As the Python SDK sends what does not say its form.
    let untold = gateway
        .send("POST", ANY, &binary[1..], r#"{"page":"/b"}"#)
        .await;
    assert_eq!(untold.json()["duplicate"], true, "{}", untold.text());
    let bare = gateway.send("POST", ANY, &[JSON], r#"{"page":"/b"}"#).await;
    let why = bare.problem(400, "malformed");
    assert!(why.contains("ce-type"), "{why}");
    let closed = viewed("c1", "/a")
        .to_string()
        .replace("viewed", "milestone");
    gateway
        .send("POST", ANY, &[STRUCTURED], closed)
        .await
        .problem(403, "forbidden");
    let unknown = viewed("c1", "/a")
        .to_string()
        .replace("web.page", "web.door");
    gateway
        .send("POST", ANY, &[STRUCTURED], unknown)
        .await
        .problem(404, "unknown-type");
    assert_eq!(gateway.messages("web").await, 2);
}

#[tokio::test]
async fn a_batch_has_a_verdict_for_each_event() {
    let gateway = Gateway::start().await;
    let batch = json!([viewed("1", "/a"), viewed("2", "/b"), viewed("3", "/a")]).to_string();
    let answer = gateway.send("POST", ANY, &[BATCH], &batch).await;
    assert_eq!(answer.status, 202, "{}", answer.text());
    let events = answer.json()["events"].clone();
    for (at, (id, key)) in [("1", "/a"), ("2", "/b"), ("3", "/a")]
        .into_iter()
        .enumerate()
    {
        let verdict = &events[at];
        assert_eq!(
            (&verdict["id"], &verdict["status"]),
            (&json!(id), &json!(202))
        );
        let accepted = &verdict["accepted"];
        assert_eq!(
            (&accepted["key"], &accepted["sequence"]),
            (&json!(key), &json!(at + 1))
        );
    }
    // As often as one likes, and what is new among it counts.
    let more = json!([viewed("3", "/a"), viewed("4", "/c"), viewed("2", "/other")]).to_string();
    let answer = gateway
        .send("POST", "/v1/events/web.page.viewed", &[BATCH], &more)
        .await;
    assert_eq!(answer.status, 207, "{}", answer.text());
    let events = answer.json()["events"].clone();
    assert_eq!(events[0]["accepted"]["duplicate"], true);
    assert_eq!(events[1]["accepted"]["duplicate"], false);
    assert_eq!(events[2]["status"], 409);
    assert_eq!(events[2]["problem"]["type"], "urn:oncue:problem:id-reuse");
    assert_eq!(gateway.messages("web").await, 4);
    let empty = gateway.send("POST", ANY, &[BATCH], "[]").await;
    assert_eq!((empty.status, empty.json()), (202, json!({ "events": [] })));
}

fn viewed_from(source: &str, id: &str) -> Value {
    let mut event = viewed(id, "/a");
    event["source"] = json!(source);
    event
}

/// By source and id an event is known [CloudEvents 1.0.2 section 3.1].
#[tokio::test]
async fn an_id_that_another_source_has_used_is_refused_and_not_called_a_duplicate() {
    let gateway = Gateway::start().await;
    let send = async |event: Value| {
        let body = event.to_string();
        gateway.send("POST", ANY, &[STRUCTURED], body).await
    };
    let taken = send(viewed_from("/caf%C3%A9 \u{e9}", "1")).await;
    assert_eq!(taken.status, 202, "{}", taken.text());
    let again = send(viewed_from("/caf%C3%A9 \u{e9}", "1")).await;
    assert_eq!(again.json()["duplicate"], true, "{}", again.text());
    let why = send(viewed_from("/other", "1"))
        .await
        .problem(409, "id-reuse");
    assert!(why.contains("source"), "{why}");
    // Where the client names none, the id alone says which event it is.
    let unnamed = [JSON, ("ce-id", "1")];
    let unnamed = gateway
        .send("POST", VIEWED, &unnamed, r#"{"page":"/a"}"#)
        .await;
    assert_eq!(unnamed.json()["duplicate"], true, "{}", unnamed.text());

    let batch = json!([
        viewed("2", "/a"),
        viewed_from("/theirs", "2"),
        viewed("3", "/a")
    ])
    .to_string();
    let answer = gateway.send("POST", ANY, &[BATCH], &batch).await;
    assert_eq!(answer.status, 400, "{}", answer.text());
    let events = answer.json()["events"].clone();
    assert_eq!(events[1]["problem"]["type"], "urn:oncue:problem:id-reuse");
    assert_eq!(
        (&events[0]["status"], &events[2]["status"]),
        (&json!(424), &json!(424))
    );
    assert_eq!(gateway.messages("web").await, 1);
}

#[tokio::test]
async fn of_a_batch_with_a_wrong_event_nothing_is_taken() {
    let gateway = Gateway::with("[gateway]\nmax_event = \"1KiB\"\n", Guards::default()).await;
    let mut without_id = viewed("x", "/a");
    without_id.as_object_mut().unwrap().remove("id");
    for (wrong, status, code) in [
        (viewed("x", ""), 400, "empty-key"),
        (json!(7), 400, "malformed"),
        (without_id, 400, "malformed"),
        (viewed("x", &"p".repeat(1100)), 413, "too-large"),
        (
            json!({ "specversion": "1.0", "id": "x", "source": "/t", "type": "web.page.milestone", "data": {} }),
            403,
            "forbidden",
        ),
        (
            json!({ "specversion": "0.3", "id": "x", "source": "/t", "type": "web.page.viewed", "data": { "page": "a" } }),
            400,
            "malformed",
        ),
    ] {
        let batch = json!([viewed("1", "/a"), wrong]).to_string();
        let answer = gateway.send("POST", ANY, &[BATCH], &batch).await;
        assert_eq!(answer.status, 400, "{}", answer.text());
        let events = answer.json()["events"].clone();
        assert_eq!(events[0]["status"], 424, "{events}");
        assert_eq!(events[0]["problem"]["type"], "urn:oncue:problem:withheld");
        assert_eq!(events[1]["status"], status, "{events}");
        assert_eq!(
            events[1]["problem"]["type"],
            format!("urn:oncue:problem:{code}")
        );
    }
    for body in ["{}", "[", ""] {
        gateway
            .send("POST", ANY, &[BATCH], body)
            .await
            .problem(400, "malformed");
    }
    let many = format!("[{}]", vec!["{}"; 1001].join(","));
    gateway
        .send("POST", ANY, &[BATCH], many)
        .await
        .problem(413, "too-large");
    let long = format!("[{}]", " ".repeat(17 << 10));
    gateway
        .send("POST", ANY, &[BATCH], long)
        .await
        .problem(413, "too-large");
    assert_eq!(gateway.messages("web").await, 0);
}

#[tokio::test]
async fn senders_are_given_leave() {
    let gateway = Gateway::start().await;
    let asks = [
        ("webhook-request-origin", "eventemitter.example.com"),
        ("webhook-request-rate", "120"),
    ];
    for path in [ANY, "/v1/events/web.page.viewed"] {
        let answer = gateway.send("OPTIONS", path, &asks, "").await;
        assert_eq!(
            (answer.status, answer.header("webhook-allowed-rate")),
            (200, Some("*"))
        );
        assert_eq!(
            answer.header("webhook-allowed-origin"),
            Some("eventemitter.example.com")
        );
        assert!(
            answer
                .header("allow")
                .is_some_and(|allow| allow.contains("POST"))
        );
        let plain = gateway.send("OPTIONS", path, &[], "").await;
        assert_eq!(
            (plain.status, plain.header("webhook-allowed-origin")),
            (200, None)
        );
    }
}
