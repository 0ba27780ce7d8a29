//! The console's bench against real workers: tried, redriven, and on record.

use std::net::SocketAddr;

use oncue_core::bus::Bus;
use oncue_proto::oncue::v1::{Envelope, Header};
use oncue_tests::cluster::{Cluster, QUICK_REDELIVERY, free_port, until};
use oncue_tests::http::{JSON, request};
use serde_json::{Value, json};

use super::{TOKEN, login};

/// Somebody who is logged in.
struct Operator {
    at: SocketAddr,
    cookie: String,
}

impl Operator {
    async fn login(at: SocketAddr) -> Self {
        let cookie = login(at).await;
        Self { at, cookie }
    }

    async fn get(&self, path: &str) -> Value {
        let headers = [("cookie", self.cookie.as_str())];
        request(self.at, "GET", path, &headers, "").await.json()
    }

    async fn post(&self, path: &str, body: &Value) -> Value {
        let headers = [JSON, ("cookie", self.cookie.as_str())];
        let body = body.to_string();
        request(self.at, "POST", path, &headers, body).await.json()
    }

    /// Numbers of the letters whose message holds a text.
    async fn numbers(&self, message: &str) -> Value {
        let groups = self.get("/api/letters").await["groups"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        let group = groups
            .iter()
            .find(|group| group["message"].to_string().contains(message));
        group.unwrap_or_else(|| panic!("no group {message} in {groups:#?}"))["numbers"].clone()
    }

    /// Redrives and waits for the end.
    async fn redrive(&self, numbers: &Value) -> Value {
        let job = self
            .post("/api/letters/redrive", &json!({ "numbers": numbers }))
            .await["job"]
            .clone();
        until("the redrive to end", async || {
            let job = self.get(&format!("/api/jobs/{job}")).await;
            (job["ended"] == true).then_some(job)
        })
        .await
    }
}

async fn set_aside(cluster: &mut Cluster, bus: &Bus) {
    cluster.set("ONCUE_ATTEMPTS", "1");
    let mut worker = cluster.start("misbehave").await;
    for (at, what) in ["fail-until:2", "fail-until:2", "fail-until:2", "reject"]
        .iter()
        .enumerate()
    {
        let headers = vec![Header {
            name: "ce-id".into(),
            value: format!("e-{at}"),
        }];
        let payload = format!(r#"{{"page":"/a","referrer":"{what}"}}"#).into();
        bus.publish(&Envelope {
            subject: "web.page.viewed".into(),
            headers,
            payload,
        })
        .await
        .expect("taken");
    }
    until("four letters", async || {
        (cluster.count(bus, "dlq").await == 4).then_some(())
    })
    .await;
    cluster.drained(bus, "web", "misbehave").await;
    assert_eq!(worker.stop().await, Some(0));
    cluster.set("ONCUE_ATTEMPTS", "3");
}

#[tokio::test]
async fn letters_are_tried_and_redriven_from_the_console_and_every_action_is_on_record() {
    let config = format!("[functions.misbehave]\n{QUICK_REDELIVERY}\n[console]\nwrite = true\n");
    let mut cluster = Cluster::new(&config).await;
    let bus = cluster.bus().await;
    set_aside(&mut cluster, &bus).await;
    let port = free_port();
    cluster.set("ONCUE_CONSOLE_LISTEN", &format!("127.0.0.1:{port}"));
    cluster.set("ONCUE_CONSOLE_TOKEN", TOKEN);
    let mut console = cluster.spawn("oncue-console", &[]);
    console.wait_for_line("listening on http://").await;
    let operator = Operator::login(SocketAddr::from(([127, 0, 0, 1], port))).await;

    // Nobody runs it, and its own program says what it is.
    let function = until("the function", async || {
        let said = operator.get("/api/functions/misbehave").await;
        (said["consumer"].is_object()).then_some(said)
    })
    .await;
    assert_eq!(
        (&function["card"]["known"], &function["health"]),
        (&json!("program"), &json!("off"))
    );
    assert_eq!(function["errors"].as_array().map(Vec::len), Some(4));

    let (failing, rejected) = (
        operator.numbers("not yet").await,
        operator.numbers("told to reject").await,
    );
    let tried = operator
        .post("/api/letters/try", &json!({ "numbers": rejected }))
        .await;
    let answer = &tried["answers"][0];
    assert_eq!(
        (&answer["outcome"], &answer["message"]),
        (&json!("dead"), &json!("told to reject"))
    );

    let _worker = cluster.start("misbehave").await;
    let ended = operator.redrive(&failing).await;
    assert_eq!(
        (&ended["sent"], &ended["done"], &ended["failed"]),
        (&json!(3), &json!(3), &json!(0)),
        "{ended}"
    );
    let ended = operator.redrive(&rejected).await;
    assert_eq!(
        (&ended["sent"], &ended["done"], &ended["failed"]),
        (&json!(1), &json!(0), &json!(1)),
        "{ended}"
    );
    let left = operator.get("/api/letters").await;
    let group = left["groups"][0]["group"].as_str().expect("a group");
    let page = operator.get(&format!("/api/letters/group/{group}")).await;
    assert_eq!(
        (&left["letters"], &page["letters"][0]["redrives"]),
        (&json!(1), &json!(1))
    );
    let store = cluster.store().await;
    assert_eq!(
        cluster.field(&store, "tallies", "/a", "count").await,
        "3",
        "each of them once"
    );

    assert_eq!(console.stop().await, Some(0));
    let log = console.log();
    let lines: Vec<Value> = log
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect();
    let audit: Vec<(&str, &str)> = lines
        .iter()
        .filter(|line| line["audit"] == true)
        .map(|line| {
            (
                line["what"].as_str().unwrap_or_default(),
                line["who"].as_str().unwrap_or_default(),
            )
        })
        .collect();
    let who = "ann@127.0.0.1";
    let expected =
        ["login", "try", "redrive", "redrive", "redrive", "redrive"].map(|what| (what, who));
    assert_eq!(audit, expected, "{log}");
    assert!(!log.contains(TOKEN));
}
