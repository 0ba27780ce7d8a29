//! Events and rows as they happen, in server-sent events.

use std::fmt::Write as _;
use std::net::SocketAddr;

use oncue_core::store::Keys;
use oncue_gateway::server::Guards;
use oncue_tests::cluster::wait_for;
use oncue_tests::http::{ANSWER_TIMEOUT, JSON};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{Gateway, VIEWED};

const CONFIG: &str = r#"
[gateway]
stream = ["web.page.viewed"]
expose = ["pages"]
max_listeners = 3
listeners_per_address = 2
proxies = ["127.0.0.1"]
"#;
const STREAM: &str = "/v1/stream?type=web.page.viewed";

/// Answer in server-sent events that is being read.
struct Listener {
    stream: TcpStream,
    text: String,
}

/// One server-sent event.
#[derive(Debug)]
struct Heard {
    name: String,
    id: String,
    data: Value,
}

impl Listener {
    async fn open(at: SocketAddr, path: &str, headers: &[(&str, &str)]) -> Self {
        let mut stream = TcpStream::connect(at).await.unwrap();
        let mut head = format!("GET {path} HTTP/1.1\r\nhost: {at}\r\n");
        for (name, value) in headers {
            let _ = write!(head, "{name}: {value}\r\n");
        }
        stream
            .write_all(format!("{head}\r\n").as_bytes())
            .await
            .unwrap();
        let mut listener = Self {
            stream,
            text: String::new(),
        };
        let head = listener.until("\r\n\r\n").await;
        assert!(
            head.starts_with("HTTP/1.1 200") && head.contains("text/event-stream"),
            "{head}"
        );
        listener
    }

    /// Text up to a mark, which is left out.
    async fn until(&mut self, mark: &str) -> String {
        loop {
            if let Some(at) = self.text.find(mark) {
                let text = self.text[..at].to_owned();
                self.text.drain(..at + mark.len());
                return text;
            }
            assert!(self.more().await, "it ended: {}", self.text);
        }
    }

    /// Reads on; `false` at the end.
    async fn more(&mut self) -> bool {
        let mut bytes = [0; 4096];
        let read = timeout(ANSWER_TIMEOUT, self.stream.read(&mut bytes)).await;
        let read = read.expect("something in time").unwrap_or(0);
        // Chunks are lines of their own, and none of these tests has one in the middle of an event.
        self.text += &String::from_utf8_lossy(&bytes[..read]);
        read > 0
    }

    /// Next event with data.
    async fn event(&mut self) -> Heard {
        loop {
            let block = self.until("\n\n").await;
            let field = |name: &str| {
                let line = block.lines().find_map(|line| line.strip_prefix(name));
                line.map(|value| value.trim_start_matches(':').trim().to_owned())
            };
            let Some(data) = field("data") else {
                continue;
            };
            return Heard {
                name: field("event").unwrap_or_default(),
                id: field("id").unwrap_or_default(),
                data: serde_json::from_str(&data).unwrap(),
            };
        }
    }

    /// Id with which the answer begins.
    async fn begun(&mut self) -> String {
        let block = self.until("\n\n").await;
        let id = block.lines().find_map(|line| line.strip_prefix("id:"));
        id.expect(&block).trim().to_owned()
    }
}

async fn view(gateway: &Gateway, page: &str, id: &str) {
    let body = json!({ "page": page }).to_string();
    let answer = gateway
        .send("POST", VIEWED, &[JSON, ("ce-id", id)], body)
        .await;
    assert_eq!(answer.status, 202, "{}", answer.text());
}

#[tokio::test]
async fn events_are_heard_as_they_happen_and_resumed() {
    let gateway = Gateway::with(CONFIG, Guards::default()).await;
    view(&gateway, "/before", "0").await;
    let mut all = Listener::open(gateway.at, STREAM, &[]).await;
    let begun = all.begun().await;
    let mut of_one = Listener::open(gateway.at, &format!("{STREAM}&key=/b"), &[]).await;
    of_one.begun().await;
    for (page, id) in [("/a", "1"), ("/b", "2"), ("/c", "3")] {
        view(&gateway, page, id).await;
    }
    // A plain NATS client is heard as well.
    gateway
        .cluster
        .plain_publish([("web.page.viewed", r#"{"page":"/b"}"#.to_owned())]);
    let mut ids = Vec::new();
    for (page, id) in [("/a", "1"), ("/b", "2"), ("/c", "3")] {
        let heard = all.event().await;
        assert_eq!(
            (heard.name.as_str(), &heard.data["id"]),
            ("web.page.viewed", &json!(id))
        );
        assert_eq!(
            (&heard.data["subject"], &heard.data["data"]["page"]),
            (&json!(page), &json!(page))
        );
        ids.push(heard.id);
    }
    let plain = all.event().await;
    assert_eq!(plain.data["data"]["page"], "/b");
    assert_eq!(of_one.event().await.data["id"], "2");
    assert_eq!(of_one.event().await.data["id"], plain.data["id"]);
    drop(all);
    drop(of_one);

    // From any of them on, and from where it began.
    view(&gateway, "/d", "4").await;
    for (last, expected) in [(&ids[0], vec!["2", "3"]), (&begun, vec!["1", "2", "3"])] {
        let mut again = Listener::open(gateway.at, STREAM, &[("last-event-id", last)]).await;
        for id in expected {
            assert_eq!(again.event().await.data["id"], id);
        }
        again.event().await;
        assert_eq!(again.event().await.data["id"], "4");
    }
    let consumers = gateway.bus.function_consumers("web").await.unwrap();
    assert!(consumers.is_empty(), "{consumers:?}");
}

#[tokio::test]
async fn what_cannot_be_resumed_is_said() {
    let gateway = Gateway::with(CONFIG, Guards::default()).await;
    for id in ["1", "2", "3"] {
        view(&gateway, "/a", id).await;
    }
    let mut first = Listener::open(gateway.at, STREAM, &[]).await;
    let place = first.begun().await;
    drop(first);
    let (created, last) = place.split_once('-').unwrap();
    assert_eq!(last, "3");
    let purge = json!({ "seq": 3 });
    gateway.bus.api("STREAM.PURGE.web", &purge).await.unwrap();
    let reset = async |id: String| {
        let mut again = Listener::open(gateway.at, STREAM, &[("last-event-id", &id)]).await;
        let heard = again.event().await;
        assert_eq!(
            (heard.name.as_str(), heard.id.as_str()),
            ("reset", place.as_str()),
            "{heard:?}"
        );
        heard.data["reason"].as_str().unwrap().to_owned()
    };
    assert!(
        reset(format!("{created}-1"))
            .await
            .contains("no longer kept")
    );
    assert!(reset(format!("{created}-9")).await.contains("gone back"));
    assert!(reset("5-3".into()).await.contains("made anew"));
    assert!(
        reset("nonsense".into())
            .await
            .contains("none of this stream")
    );
    // What is still there is resumed.
    let last = format!("{created}-2");
    let mut again = Listener::open(gateway.at, STREAM, &[("last-event-id", &last)]).await;
    assert_eq!(again.event().await.data["id"], "3");

    // A stream that is made anew under those who listen.
    gateway
        .bus
        .api("STREAM.DELETE.web", &Value::Null)
        .await
        .unwrap();
    let config = gateway.cluster.config();
    let stream = oncue_core::bus::layout::stream(&config.app, "web", &config.stream("web"));
    gateway.bus.provide(&stream).await.unwrap();
    let heard = again.event().await;
    assert_eq!(heard.name, "reset", "{heard:?}");
    view(&gateway, "/new", "4").await;
    assert_eq!(again.event().await.data["id"], "4");
}

#[tokio::test]
async fn only_what_is_named_is_heard_and_by_so_many() {
    let gateway = Gateway::with(CONFIG, Guards::default()).await;
    gateway.get("/v1/stream").await.problem(400, "malformed");
    gateway
        .get(&format!("{STREAM}&type=a"))
        .await
        .problem(400, "malformed");
    gateway
        .get(&format!("{STREAM}&kee=a"))
        .await
        .problem(400, "malformed");
    let closed = gateway.get("/v1/stream?type=web.page.milestone").await;
    assert!(
        closed
            .problem(403, "forbidden")
            .contains("[gateway] stream")
    );
    gateway
        .get("/v1/stream?type=web.page.viewd")
        .await
        .problem(404, "unknown-type");

    let from = |address: &'static str| ("x-forwarded-for", address);
    let first = Listener::open(gateway.at, STREAM, &[from("192.0.2.1")]).await;
    let _second = Listener::open(gateway.at, STREAM, &[from("192.0.2.1")]).await;
    let third = gateway.send("GET", STREAM, &[from("192.0.2.1")], "").await;
    third.problem(429, "too-many-listeners");
    let _third = Listener::open(gateway.at, STREAM, &[from("192.0.2.2")]).await;
    let fourth = gateway.send("GET", STREAM, &[from("192.0.2.3")], "").await;
    fourth.problem(503, "busy");
    // One that goes leaves its place, once that is noticed.
    drop(first);
    view(&gateway, "/a", "1").await;
    wait_for("a place", async || {
        let mut stream = TcpStream::connect(gateway.at).await.unwrap();
        let head = format!(
            "GET {STREAM} HTTP/1.1\r\nhost: {}\r\nx-forwarded-for: 192.0.2.3\r\n\r\n",
            gateway.at
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).await.is_ok() && answer.ends_with(b"200")
    })
    .await;
}

/// Nothing is held for a client that does not read: what it has missed it reads from the stream.
#[tokio::test]
async fn a_slow_client_is_cut_off_and_resumes() {
    let gateway = Gateway::with(CONFIG, Guards::default()).await;
    let mut slow = Listener::open(gateway.at, STREAM, &[]).await;
    let begun = slow.begun().await;
    let referrer = "r".repeat(100 << 10);
    let total = 300;
    for number in 0..total {
        let body = json!({ "page": "/a", "referrer": referrer, "visitor": number.to_string() });
        let headers = [JSON];
        let answer = gateway
            .send("POST", VIEWED, &headers, body.to_string())
            .await;
        assert_eq!(answer.status, 202, "{}", answer.text());
    }
    // Its line was full long before that; it reads what was in there, and then comes the end.
    let mut read = 0;
    while slow.more().await {
        read += slow.text.len();
        slow.text.clear();
    }
    assert!(read < total * referrer.len(), "{read}");
    let mut again = Listener::open(gateway.at, STREAM, &[("last-event-id", &begun)]).await;
    for number in 0..total {
        let heard = again.whole().await;
        assert!(
            heard.contains(&format!("\"visitor\":\"{number}\"")),
            "{number}"
        );
    }
}

impl Listener {
    /// Next event with data as it came: a long one is in several chunks.
    async fn whole(&mut self) -> String {
        loop {
            let block = self.until("\n\n").await;
            if block.contains("data:") {
                return block;
            }
        }
    }
}

#[tokio::test]
async fn a_row_is_followed() {
    let gateway = Gateway::with(CONFIG, Guards::default()).await;
    let key = Keys::default().row("pages", "/home");
    let redis = |words: &[&str]| gateway.cluster.redis_ok(words);
    let follow = [("accept", "text/event-stream")];
    let mut follower = Listener::open(gateway.at, "/v1/state/pages/%2Fhome", &follow).await;
    assert_eq!(follower.event().await.name, "gone");
    redis(&["HSET", &key, "views", "1", "_v", "1"]);
    let heard = follower.event().await;
    assert_eq!(
        (heard.name.as_str(), &heard.data),
        ("row", &json!({ "views": 1 }))
    );
    // A change that commutes raises no version.
    redis(&["HINCRBY", &key, "views", "4"]);
    let heard = follower.event().await;
    assert_eq!(heard.data, json!({ "views": 5 }));
    drop(follower);
    let last = [follow[0], ("last-event-id", heard.id.as_str())];
    let mut again = Listener::open(gateway.at, "/v1/state/pages/%2Fhome", &last).await;
    redis(&["DEL", &key]);
    assert_eq!(
        again.event().await.name,
        "gone",
        "what it has is not told again"
    );
    let closed = gateway.send("GET", "/v1/state/secret/x", &follow, "").await;
    closed.problem(404, "not-found");
}

#[tokio::test]
async fn browsers_have_a_module() {
    let gateway = Gateway::start().await;
    let module = gateway.get("/v1/client.js").await;
    assert_eq!(module.status, 200);
    assert_eq!(
        module.header("content-type"),
        Some("text/javascript; charset=utf-8")
    );
    assert!(module.text().contains("export class Oncue"));
    let tag = module.header("etag").unwrap().to_owned();
    let again = gateway
        .send("GET", "/v1/client.js", &[("if-none-match", &tag)], "")
        .await;
    assert_eq!(again.status, 304);
}
