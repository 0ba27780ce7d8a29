//! The bench: groups, whole letters, and what may be done with them. Redrives with a real worker are in the system tests.

use oncue_core::bus::layout::DLQ;
use oncue_proto::oncue::v1::DeadLetterDropped;
use oncue_tests::cluster::wait_for;
use oncue_tests::http::{Answer, JSON};
use prost::Message as _;
use serde_json::{Value, json};

use super::{Console, TOKEN};

#[tokio::test]
async fn letters_of_one_cause_are_one_group() {
    let console = Console::open().await;
    assert_eq!(
        console.get("/api/letters").await.ok_json()["groups"],
        json!([])
    );
    let first = console.set_aside("f", "e-1", "a.rs:1").await;
    let second = console.set_aside("f", "e-2", "a.rs:1").await;
    console.set_aside("g", "e-3", "b.rs:2").await;
    let said = console.get("/api/letters").await.ok_json();
    let groups = said["groups"].as_array().unwrap();
    assert_eq!(groups.len(), 2);
    assert_eq!(
        (
            &groups[0]["function"],
            &groups[0]["count"],
            &groups[0]["site"]
        ),
        (&json!("f"), &json!(2), &json!("a.rs:1"))
    );
    assert_eq!(groups[0]["numbers"], json!([first, second]));
    let letter = console
        .get(&format!("/api/letters/{second}"))
        .await
        .ok_json();
    assert_eq!(
        (&letter["event"], &letter["data"]["page"]),
        (&json!("e-2"), &json!("/broken"))
    );
    assert_eq!(
        (&letter["trace"], &letter["headers"]),
        (&json!(format!("{:032x}", 7)), &json!([["ce-id", "e-2"]]))
    );
    console
        .get("/api/letters/99")
        .await
        .problem(404, "not-found");
    console
        .get("/api/letters/x")
        .await
        .problem(400, "malformed");
}

struct Writer {
    console: Console,
    cookie: String,
}

impl Writer {
    async fn new() -> Self {
        let console = Console::with(Some(TOKEN), true).await;
        let cookie = console.login().await;
        Self { console, cookie }
    }

    async fn post(&self, what: &str, body: Value) -> Answer {
        self.console
            .send(
                "POST",
                &format!("/api/letters/{what}"),
                &[JSON, ("cookie", &self.cookie)],
                &body.to_string(),
            )
            .await
    }

    async fn get(&self, path: &str) -> Value {
        self.console
            .send("GET", path, &[("cookie", &self.cookie)], "")
            .await
            .ok_json()
    }
}

#[tokio::test]
async fn a_dropped_letter_leaves_a_record_of_who_and_why() {
    let writer = Writer::new().await;
    let (first, second) = (
        writer.console.set_aside("f", "e-1", "").await,
        writer.console.set_aside("f", "e-2", "").await,
    );
    writer
        .post("drop", json!({ "numbers": [first], "why": " " }))
        .await
        .problem(400, "malformed");
    writer
        .post("drop", json!({ "numbers": [], "why": "x" }))
        .await
        .problem(400, "malformed");
    writer
        .post("drop", json!({ "why": "x" }))
        .await
        .problem(400, "malformed");
    let gone = writer
        .post("drop", json!({ "numbers": [first, 99], "why": "x" }))
        .await;
    assert!(gone.problem(409, "gone").contains("#99"));
    assert_eq!(
        writer
            .post("drop", json!({ "numbers": [first], "why": "by mistake" }))
            .await
            .ok_json()["dropped"],
        1
    );
    let left = writer.get("/api/letters").await;
    assert_eq!(
        left["groups"][0]["numbers"],
        json!([second]),
        "and the one that was not meant is there"
    );
    let found = writer.console.bus.read_stream(DLQ, 1).await.unwrap();
    let record = found
        .iter()
        .find(|found| found.subject == "dlq.letter.dropped.app")
        .expect("a record");
    let record = DeadLetterDropped::decode(&record.payload[..]).unwrap();
    assert_eq!(
        (
            record.who.as_str(),
            record.why.as_str(),
            record.event_id.as_str()
        ),
        ("ann@127.0.0.1", "by mistake", "e-1")
    );
}

#[tokio::test]
async fn what_cannot_be_tried_or_given_back_stays_and_says_why() {
    let writer = Writer::new().await;
    let number = writer.console.set_aside("f", "e-1", "").await;
    let tried = writer
        .post("try", json!({ "numbers": [number] }))
        .await
        .ok_json();
    assert_eq!(tried["answers"][0]["outcome"], "untried");
    assert!(
        tried["answers"][0]["message"]
            .as_str()
            .unwrap()
            .contains("no program f")
    );
    let job = writer
        .post("redrive", json!({ "numbers": [number] }))
        .await
        .ok_json()["job"]
        .as_u64()
        .unwrap();
    let path = format!("/api/jobs/{job}");
    wait_for("its end", || async {
        writer.get(&path).await["ended"] == true
    })
    .await;
    let ended = writer.get(&path).await;
    assert_eq!(
        (&ended["sent"], &ended["who"]),
        (&json!(0), &json!("ann@127.0.0.1"))
    );
    assert!(
        ended["remarks"][0]
            .as_str()
            .unwrap()
            .contains("has no consumer"),
        "{ended}"
    );
    assert_eq!(writer.get("/api/letters").await["letters"], 1);
}
