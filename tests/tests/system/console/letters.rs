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

/// Letters of one cause, each about a key of its own.
async fn set_many_aside(console: &Console, count: u64) {
    for number in 0..count {
        console
            .set_aside("f", &format!("e-{number}"), "a.rs:1")
            .await;
    }
}

#[tokio::test]
async fn a_large_group_is_read_page_by_page_and_chosen_as_a_whole() {
    let writer = Writer::new().await;
    set_many_aside(&writer.console, 210).await;
    let other = writer.console.set_aside("g", "other", "b.rs:1").await;
    let said = writer.get("/api/letters").await;
    let group = said["groups"][0].clone();
    assert_eq!(
        (&said["letters"], &group["count"]),
        (&json!(211), &json!(210))
    );
    assert!(group["numbers"].is_null(), "too many to be told: {group}");
    let name = group["group"].as_str().unwrap();
    let page = async |query: &str| {
        writer
            .get(&format!("/api/letters/group/{name}?{query}"))
            .await
    };
    let numbers = |page: &Value| -> Vec<u64> {
        let letters = page["letters"].as_array().unwrap().iter();
        letters
            .map(|letter| letter["number"].as_u64().unwrap())
            .collect()
    };
    let first = page("").await;
    assert_eq!(
        (first["count"].clone(), numbers(&first).len()),
        (json!(210), 50)
    );
    assert_eq!(numbers(&first)[..2], [210, 209], "the newest first");
    assert_eq!(
        numbers(&page("offset=200").await),
        (1..=10).rev().collect::<Vec<_>>()
    );
    assert_eq!(numbers(&page("ascending=true&limit=3").await), [1, 2, 3]);
    let found = page("q=E-20").await;
    assert_eq!(found["count"], 11, "e-20, and e-200 to e-209: {found}");
    assert_eq!(
        writer.get("/api/letters?q=B.RS").await["groups"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
    assert_eq!(
        writer.get("/api/letters?function=g").await["groups"][0]["numbers"],
        json!([other])
    );

    // What came after somebody looked is not meant, nor what the filter leaves out.
    writer.console.set_aside("f", "e-2000", "a.rs:1").await;
    let asked =
        json!({ "group": name, "q": "e-20", "through": found["last"], "why": "no more doors" });
    assert_eq!(
        writer.post("drop", asked.clone()).await.ok_json()["dropped"],
        11
    );
    assert_eq!(page("q=e-20").await["count"], 1, "the one that came later");
    writer.post("drop", asked).await.problem(409, "gone");
    assert_eq!(writer.get("/api/letters").await["letters"], 201);
    let both = json!({ "group": name, "numbers": [1], "why": "x" });
    writer.post("drop", both).await.problem(400, "malformed");
    let path = format!("/api/letters/group/{name}?sort=colour");
    let cookie = [("cookie", writer.cookie.as_str())];
    let unsorted = writer.console.send("GET", &path, &cookie, "").await;
    unsorted.problem(400, "malformed");
}

#[tokio::test]
async fn more_than_a_chunk_is_dropped_by_a_job() {
    let writer = Writer::new().await;
    set_many_aside(&writer.console, 510).await;
    let said = writer.get("/api/letters").await;
    let asked =
        json!({ "group": said["groups"][0]["group"], "through": said["last"], "why": "a bad day" });
    let job = writer.post("drop", asked).await.ok_json()["job"].clone();
    let path = format!("/api/jobs/{job}");
    wait_for("its end", async || writer.get(&path).await["ended"] == true).await;
    let ended = writer.get(&path).await;
    assert_eq!(
        (&ended["done"], &ended["remarks"]),
        (&json!(510), &json!([]))
    );
    let left = writer.get("/api/letters").await;
    assert_eq!(
        (&left["letters"], &left["before"]),
        (&json!(0), &json!(0)),
        "records are no letters"
    );
}

#[tokio::test]
async fn payloads_of_a_group_are_compared() {
    let console = Console::open().await;
    set_many_aside(&console, 3).await;
    let said = console.get("/api/letters").await.ok_json();
    let name = said["groups"][0]["group"].as_str().unwrap();
    let told = console
        .get(&format!("/api/letters/group/{name}/differences"))
        .await
        .ok_json();
    assert_eq!(
        (&told["sampled"], &told["same"]["page"]),
        (&json!(3), &json!("/broken"))
    );
}
