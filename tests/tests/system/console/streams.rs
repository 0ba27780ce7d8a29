//! Streams: how full they are, and their messages a page at a time, without what is nobody's to see.

use oncue_core::app::AppName;
use oncue_core::bus::layout::{self, DLQ};
use oncue_proto::event;
use oncue_proto::oncue::v1::{Envelope, Header};
use serde_json::{Value, json};

use super::{Console, viewed};

async fn messages(console: &Console, query: &str) -> Value {
    let path = format!("/api/streams/web/messages?{query}");
    console.get(&path).await.ok_json()
}

fn sequences(page: &Value) -> Vec<u64> {
    let messages = page["messages"].as_array().into_iter().flatten();
    messages
        .filter_map(|one| one["sequence"].as_u64())
        .collect()
}

#[tokio::test]
async fn a_stream_is_read_backwards_a_page_at_a_time() {
    let console = Console::open().await;
    let mut half = 0;
    for number in 1..=60_u32 {
        let mut meta = viewed(&format!("e-{number}"));
        let payload = if number % 6 == 0 {
            meta.ty = "web.page.milestone".into();
            json!({ "page": "/m", "views": "10" })
        } else {
            json!({ "page": "/home", "visitor": "ann-in-person" })
        };
        console.publish(&meta, "/home", payload).await;
        if number == 30 {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            half = event::now_ms();
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    }
    let list = console.get("/api/streams").await.ok_json();
    let web = list["streams"].as_array().into_iter().flatten();
    let web = web.clone().find(|one| one["name"] == "web").cloned();
    let web = web.expect("the stream");
    assert_eq!(
        (&web["kind"], &web["messages"], &web["shown"]),
        (&json!("events"), &json!(60), &json!(true))
    );
    assert!(web["bytes"].as_u64() > Some(0) && web["max_bytes"].as_u64() > web["bytes"].as_u64());
    let one = console.get("/api/streams/web").await.ok_json();
    assert_eq!(
        one["subjects"],
        json!([{ "subject": "web.page.viewed", "messages": 50 }, { "subject": "web.page.milestone", "messages": 10 }])
    );
    assert_eq!(
        (&one["first"]["sequence"], &one["last"]["sequence"]),
        (&json!(1), &json!(60))
    );

    let first = messages(&console, "").await;
    assert_eq!(sequences(&first), (36..=60).rev().collect::<Vec<_>>());
    assert_eq!(first["next"], 35);
    let second = messages(&console, "from=35").await;
    assert_eq!(sequences(&second), (11..=35).rev().collect::<Vec<_>>());
    let last = messages(&console, "from=10").await;
    assert_eq!(sequences(&last), (1..=10).rev().collect::<Vec<_>>());
    assert_eq!(last["next"], Value::Null);
    assert_eq!(sequences(&messages(&console, "from=1000").await)[0], 60);
    assert_eq!(
        sequences(&messages(&console, &format!("at={half}")).await)[0],
        30
    );
    assert_eq!(messages(&console, "at=1").await["messages"], json!([]));
    let milestones = messages(&console, "subject=web.page.milestone&limit=4").await;
    assert_eq!(sequences(&milestones), [60, 54, 48, 42]);
    let more = format!("subject=web.page.milestone&from={}", milestones["next"]);
    assert_eq!(
        sequences(&messages(&console, &more).await),
        [36, 30, 24, 18, 12, 6]
    );

    // Decoded by the contract, without what it calls sensitive.
    let seen = first.to_string();
    assert!(!seen.contains("ann-in-person") && seen.contains("(sensitive)"));
    let newest = &first["messages"][1];
    assert_eq!(
        (&newest["type"], &newest["flow"], &newest["data"]["page"]),
        (&json!("web.page.viewed"), &json!("e-59"), &json!("/home"))
    );
    let wrong = console.get("/api/streams/web/messages?subject=a%20b").await;
    wrong.problem(400, "malformed");
}

#[tokio::test]
async fn holes_in_a_stream_end_no_page() {
    let console = Console::open().await;
    for number in 1..=200 {
        let meta = viewed(&format!("e-{number}"));
        console.publish(&meta, "/p", json!({ "page": "/p" })).await;
    }
    for sequence in (1..=200).filter(|sequence| sequence % 50 != 1) {
        let deleted = console.bus.delete_message("web", sequence).await;
        deleted.expect("NATS");
    }
    let page = messages(&console, "limit=3").await;
    assert_eq!(sequences(&page), [151, 101, 51]);
    let rest = messages(&console, &format!("from={}", page["next"])).await;
    assert_eq!((sequences(&rest), &rest["next"]), (vec![1], &Value::Null));
}

#[tokio::test]
async fn what_is_nobodys_to_see_is_not_read() {
    let console = Console::open().await;
    let bank: AppName = "bank".parse().expect("a name");
    let config = console.cluster.config();
    let foreign = layout::stream(&bank, "bank", &config.stream("bank"));
    console.bus.provide(&foreign).await.expect("a stream");
    let values = layout::values(&config.app);
    console.bus.provide(&values).await.expect("a bucket");
    let secret = Envelope {
        subject: "$KV.oncue.app.id-secret".into(),
        headers: Vec::new(),
        payload: "the-secret-of-the-app".into(),
    };
    console.bus.publish(&secret).await.expect("NATS");
    let list = console.get("/api/streams").await.ok_json();
    let hidden: Vec<&Value> = list["streams"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|one| one["shown"] == false)
        .map(|one| &one["name"])
        .collect();
    assert_eq!(hidden, ["bank", "KV_oncue"]);
    for (name, words) in [("bank", "the app bank"), ("KV_oncue", "secrets")] {
        let path = format!("/api/streams/{name}/messages");
        let why = console.get(&path).await.problem(409, "refused");
        assert!(why.contains(words), "{why}");
        let one = console.get(&format!("/api/streams/{name}")).await;
        assert_eq!(one.ok_json()["subjects"], Value::Null, "{name}");
    }
    for unknown in ["nobody", "a.b", "%3E", "web%20x"] {
        for path in ["", "/messages"] {
            let path = format!("/api/streams/{unknown}{path}");
            console.get(&path).await.problem(404, "not-found");
        }
    }

    // Letters are told as lists tell them, and those of another app not at all.
    let own = console.set_aside("f", "e-1", "a.rs:1").await;
    let theirs = Envelope {
        subject: "dlq.bank.f".into(),
        headers: vec![Header {
            name: "ce-id".into(),
            value: "x".into(),
        }],
        payload: "the account of somebody".into(),
    };
    console.bus.publish(&theirs).await.expect("NATS");
    let path = format!("/api/streams/{DLQ}/messages");
    let letters = console.get(&path).await.ok_json();
    assert_eq!(sequences(&letters), [own]);
    let letter = &letters["messages"][0]["letter"];
    assert_eq!(
        (&letter["function"], &letter["key"]),
        (&json!("f"), &json!("/broken"))
    );
    assert!(!letters.to_string().contains("visitor"), "{letters}");
    let subjects = console.get(&format!("/api/streams/{DLQ}")).await.ok_json();
    assert_eq!(
        subjects["subjects"],
        json!([{ "subject": "dlq.app.f", "messages": 1 }])
    );
}

/// The server ends an answer before all was said where it is too large; what it left out is asked for again.
#[tokio::test]
async fn a_page_of_many_megabytes_misses_nothing() {
    const MESSAGES: u64 = 90;
    let console = Console::open().await;
    let visitor = "v".repeat(900_000);
    for number in 1..=MESSAGES {
        let meta = viewed(&format!("e-{number}"));
        let payload = json!({ "page": "/home", "visitor": visitor });
        console.publish(&meta, "/home", payload).await;
    }
    let page = messages(&console, "limit=100").await;
    assert_eq!(sequences(&page), (1..=MESSAGES).rev().collect::<Vec<_>>());
}
