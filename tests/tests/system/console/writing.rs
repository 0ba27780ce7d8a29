//! What a person writes in the console: an event that is published or tried, a letter's event that is edited, and the
//! content of a flow by which it is told what became of them. With a real worker.

use std::net::SocketAddr;

use oncue_tests::cluster::{Cluster, Process, free_port, until};
use oncue_tests::http::{Answer, JSON, request};

use serde_json::{Value, json};

use super::{TOKEN, login};

const CONFIG: &str = "[functions.misbehave]\n[console]\nwrite = true\n";

struct Desk {
    cluster: Cluster,
    at: SocketAddr,
    cookie: String,
    _console: Process,
    _worker: Process,
}

impl Desk {
    async fn open() -> Self {
        let mut cluster = Cluster::new(CONFIG).await;
        let port = free_port();
        cluster.set("ONCUE_CONSOLE_LISTEN", &format!("127.0.0.1:{port}"));
        cluster.set("ONCUE_CONSOLE_TOKEN", TOKEN);
        cluster.set("ONCUE_ATTEMPTS", "1");
        let worker = cluster.start("misbehave").await;
        let console = cluster.spawn("oncue-console", &[]);
        console.wait_for_line("listening on http://").await;
        let at = SocketAddr::from(([127, 0, 0, 1], port));
        let cookie = login(at).await;
        let desk = Self {
            cluster,
            at,
            cookie,
            _console: console,
            _worker: worker,
        };
        until("the console knows the function", async || {
            let types = desk.get("/api/types").await.ok_json();
            let all = types["types"].as_array().cloned().unwrap_or_default();
            let viewed = all.iter().find(|one| one["type"] == "web.page.viewed")?;
            (viewed["heard_by"] == json!(["misbehave"])).then_some(())
        })
        .await;
        desk
    }

    async fn get(&self, path: &str) -> Answer {
        request(self.at, "GET", path, &[("cookie", &self.cookie)], "").await
    }

    async fn post(&self, path: &str, body: &Value) -> Answer {
        let headers = [JSON, ("cookie", self.cookie.as_str())];
        request(self.at, "POST", path, &headers, body.to_string()).await
    }
}

fn viewed(page: &str, what: &str) -> Value {
    json!({ "type": "web.page.viewed", "data": { "page": page, "visitor": "ann", "referrer": what } })
}

#[tokio::test]
async fn an_event_is_tried_published_and_found_with_its_content() {
    let desk = Desk::open().await;
    let types = desk.get("/api/types").await.ok_json();
    let all = types["types"].as_array().unwrap();
    assert!(
        all.iter()
            .all(|one| !one["type"].as_str().unwrap().starts_with("dlq."))
    );
    let viewed_type = all
        .iter()
        .find(|one| one["type"] == "web.page.viewed")
        .unwrap();
    assert_eq!(
        (
            &viewed_type["key"],
            &viewed_type["public"],
            &viewed_type["sensitive"],
            &viewed_type["empty"]["page"]
        ),
        (&json!("page"), &json!(true), &json!(true), &json!(""))
    );

    let tried = desk
        .post("/api/publish/try", &viewed("/a", "emit:1"))
        .await
        .ok_json();
    let answer = &tried["answers"][0];
    assert_eq!(
        (&answer["function"], &answer["outcome"]),
        (&json!("misbehave"), &json!("applied")),
        "{tried}"
    );
    assert_eq!(answer["emits"][0]["type"], "web.page.milestone", "{tried}");
    let bus = desk.cluster.bus().await;
    assert_eq!(
        desk.cluster.count(&bus, "web").await,
        0,
        "tried is not sent"
    );

    let sent = desk
        .post("/api/publish", &viewed("/a", "emit:1"))
        .await
        .ok_json();
    let flow = sent["flow"].as_str().unwrap().to_owned();
    let found = until("its output", async || {
        let said = desk.get(&format!("/api/flows/{flow}")).await.json();
        let events = said["flow"]["events"].as_array()?;
        (events.len() == 2 && said["flow"]["open"] == 0).then(|| events.clone())
    })
    .await;
    for event in &found {
        let path = format!(
            "/api/flows/{flow}/events/{}?time={}",
            event["id"].as_str().unwrap(),
            event["time"]
        );
        let content = desk.get(&path).await.ok_json();
        assert_eq!(
            (&content["type"], &content["data"]["page"], &content["flow"]),
            (&event["type"], &json!("/a"), &json!(flow))
        );
        if event["type"] == "web.page.viewed" {
            assert_eq!(content["data"]["visitor"], oncue_proto::HIDDEN);
        }
    }
    desk.get(&format!("/api/flows/{flow}/events/nobody"))
        .await
        .problem(404, "not-found");

    // Mistakes are told before anything is sent.
    let before = desk.cluster.count(&bus, "web").await;
    for (mistake, words) in [
        (
            json!({ "type": "web.page.none", "data": {} }),
            "unknown event type",
        ),
        (
            json!({ "type": "dlq.letter.dropped", "data": {} }),
            "the platform itself",
        ),
        (
            json!({ "type": "web.page.viewed", "data": { "page": "/", "vistor": "v" } }),
            "no field \"vistor\"",
        ),
        (
            json!({ "type": "web.page.viewed", "data": { "visitor": "v" } }),
            "is the key",
        ),
        (
            json!({ "type": "web.page.viewed", "data": { "page": "/", "visitor": "(sensitive)" } }),
            "write a value",
        ),
    ] {
        for path in ["/api/publish", "/api/publish/try"] {
            let why = desk.post(path, &mistake).await.problem(400, "malformed");
            assert!(why.contains(words), "{why}");
        }
    }
    assert_eq!(desk.cluster.count(&bus, "web").await, before);
}

#[tokio::test]
async fn a_letter_is_edited_and_its_function_alone_gets_the_new_event() {
    let desk = Desk::open().await;
    let sent = desk
        .post("/api/publish", &viewed("/b", "reject"))
        .await
        .ok_json();
    let flow = sent["flow"].as_str().unwrap();
    let bus = desk.cluster.bus().await;
    until("a letter", async || {
        (desk.cluster.count(&bus, "dlq").await == 1).then_some(())
    })
    .await;
    let groups = desk.get("/api/letters").await.ok_json();
    let number = groups["groups"][0]["numbers"][0].as_u64().unwrap();
    let path = format!("/api/letters/{number}/edit");
    let letter = desk.get(&format!("/api/letters/{number}")).await.ok_json();
    assert_eq!(letter["data"]["visitor"], oncue_proto::HIDDEN, "{letter}");
    let mut data = letter["data"].clone();
    data["referrer"] = "emit:1".into();
    let without = desk.post(&path, &json!({ "data": data })).await;
    assert!(without.problem(400, "malformed").contains("why"));
    let wrong = json!({ "data": { "page": "/b", "refer": "x" }, "why": "a slip" });
    assert!(
        desk.post(&path, &wrong)
            .await
            .problem(400, "malformed")
            .contains("refer")
    );
    let edited = desk
        .post(
            &path,
            &json!({ "data": data, "why": "a slip of the client" }),
        )
        .await
        .ok_json();
    assert_eq!(edited["flow"], flow);
    let id = edited["id"].as_str().unwrap();
    until("it is applied", async || {
        let found = desk
            .get(&format!("/api/flows/{flow}/events/{id}"))
            .await
            .json();
        let said = desk.get(&format!("/api/flows/{flow}")).await.json();
        let events = said["flow"]["events"].as_array()?;
        let follows = events.iter().any(|event| event["cause"] == id);
        (follows && found["cause"] == flow).then_some(())
    })
    .await;
    // It is an event as any other: found, and with a step of its own in the ledger.
    let found = desk
        .get("/api/find?function=oncue%2Fconsole")
        .await
        .ok_json();
    let ids: Vec<&str> = found["events"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|one| one["id"].as_str())
        .collect();
    assert!(ids.contains(&id), "{found}");
    let messages = desk.cluster.messages(&bus, "web").await;
    let resent = messages
        .iter()
        .find(|message| message.subject == "web.redrive.app_misbehave")
        .expect("for the function alone");
    let catalog = oncue_proto::Catalog::builtin()
        .with(oncue_app_events::DESCRIPTORS)
        .unwrap();
    let payload = catalog.get("web.page.viewed").unwrap();
    let payload = payload
        .to_json(oncue_proto::Format::Protobuf, &resent.payload)
        .unwrap();
    assert_eq!(
        (&payload["visitor"], &payload["referrer"]),
        (&json!("ann"), &json!("emit:1")),
        "what is hidden is kept"
    );
    let left = desk.get("/api/letters").await.ok_json();
    assert_eq!(left["letters"], 0, "{left}");
    desk.post(&path, &json!({ "data": data, "why": "again" }))
        .await
        .problem(404, "not-found");
    let dropped = desk.cluster.output("oncue", &["dlq", "dropped", "--json"]);
    let dropped = String::from_utf8_lossy(&dropped.stdout).into_owned();
    assert!(
        dropped.contains(id) && dropped.contains("a slip of the client"),
        "{dropped}"
    );
    let audit = desk.cluster.output("oncue", &["audit"]);
    assert_eq!(
        audit.status.code(),
        Some(0),
        "{}",
        String::from_utf8_lossy(&audit.stdout)
    );
}

/// Whoever sees to a cause is named to the others, and may leave it.
#[tokio::test]
async fn a_group_of_letters_is_taken_and_let_go() {
    let desk = Desk::open().await;
    let sent = desk.post("/api/publish", &viewed("/u", "reject")).await;
    assert_eq!(sent.status, 200, "{}", sent.text());
    let groups = async || {
        let said = desk.get("/api/letters").await.ok_json();
        said["groups"].as_array().cloned().unwrap_or_default()
    };
    let group = until("its letter", async || groups().await.into_iter().next()).await;
    let name = group["group"].as_str().expect("a name");
    assert_eq!(group["owner"], Value::Null);
    let path = format!("/api/letters/group/{name}/owner");
    let taken = desk.post(&path, &json!({ "note": "asked the shop" })).await;
    assert_eq!(taken.ok_json()["owner"]["note"], "asked the shop");
    let owner = groups().await.remove(0)["owner"].take();
    assert_eq!(
        (&owner["who"], &owner["note"]),
        (&json!("ann@127.0.0.1"), &json!("asked the shop"))
    );
    let long = desk.post(&path, &json!({ "note": "x".repeat(401) })).await;
    long.problem(400, "malformed");
    let unknown = "/api/letters/group/00000000/owner";
    desk.post(unknown, &json!({})).await.problem(409, "gone");
    desk.post(&path, &json!({ "release": true }))
        .await
        .ok_json();
    assert_eq!(groups().await[0]["owner"], Value::Null);
}
