//! Flows over HTTP: shown, waited for, streamed. The workers' side of the ledger is written by hand here.

use std::time::Duration;

use oncue_core::store::Keys;
use oncue_gateway::server::Guards;
use oncue_proto::event;
use oncue_tests::cluster::wait_for;
use oncue_tests::http::{ANSWER_TIMEOUT, Answer, JSON, request};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use super::{Gateway, VIEWED};

const TRACK: (&str, &str) = ("oncue-track", "1");
const BODY: &str = r#"{"page":"/home"}"#;

/// With functions that act on page views, and their consumers.
async fn gateway(functions: &[&str], more: &str) -> Gateway {
    let gateway = Gateway::with(more, Guards::default()).await;
    for function in functions {
        gateway.cluster.redis_ok(&[
            "SADD",
            &Keys::default().listeners("web.page.viewed"),
            function,
        ]);
        consumer(&gateway, function).await;
    }
    gateway
}

async fn consumer(gateway: &Gateway, function: &str) {
    let durable = format!("app_{function}");
    let config = json!({ "durable_name": durable, "ack_policy": "explicit", "filter_subject": "web.page.viewed" });
    let body = json!({ "stream_name": "web", "config": config });
    gateway
        .bus
        .api(&format!("CONSUMER.CREATE.web.app_{function}"), &body)
        .await
        .unwrap();
}

/// What a worker's commit would write: `function` is done with `event`.
fn done(gateway: &Gateway, flow: &str, event: &str, function: &str, open: u64) {
    let (now, key) = (event::now_ms().to_string(), Keys::default().flow(flow));
    let field = format!("s:{event}:{function}");
    let mut words = vec!["HSET", &key, &field];
    let (value, open) = (format!("d {now}"), open.to_string());
    words.extend([value.as_str(), "n", open.as_str()]);
    if open == "0" {
        words.extend(["end", &now]);
    }
    gateway.cluster.redis_ok(&words);
}

async fn post(gateway: &Gateway, headers: &[(&str, &str)]) -> Answer {
    gateway
        .send("POST", VIEWED, &[&[JSON], headers].concat(), BODY)
        .await
}

#[tokio::test]
async fn a_flow_is_tracked_from_before_its_event_is_there() {
    let gateway = gateway(&["count-views"], "").await;
    let answer = post(&gateway, &[TRACK, ("ce-id", "a b")]).await;
    assert_eq!(
        (answer.status, answer.header("location")),
        (202, Some("/v1/flows/a%20b"))
    );
    assert_eq!(answer.json()["tracked"], true);
    let headers = gateway.message("web", 1).await.headers;
    assert!(headers.contains("ce-tracked: 1\r\n"), "{headers}");

    let shown = gateway.get("/v1/flows/a%20b").await;
    assert_eq!(
        (shown.status, shown.header("cache-control")),
        (200, Some("no-store"))
    );
    let flow = shown.json();
    assert_eq!(
        (&flow["id"], &flow["status"], &flow["open"]),
        (&json!("a b"), &json!("running"), &json!(1))
    );
    assert_eq!(flow["waits_for"]["function"], "count-views");
    assert_eq!(flow["events"][0]["type"], "web.page.viewed");
    assert_eq!(
        (&flow["events"][0]["key"], &flow["events"][0]["source"]),
        (&json!("/home"), &json!("/gateway"))
    );
    assert_eq!(flow["events"][0]["steps"][0]["state"], "pending");

    // The same again changes nothing of what workers have written.
    done(&gateway, "a b", "a b", "count-views", 0);
    let again = post(&gateway, &[TRACK, ("ce-id", "a b")]).await;
    assert_eq!(
        (&again.json()["duplicate"], &again.json()["tracked"]),
        (&json!(true), &json!(true))
    );
    let flow = gateway.get("/v1/flows/a%20b").await.json();
    assert_eq!(
        (&flow["status"], &flow["open"], &flow["waits_for"]),
        (&json!("complete"), &json!(0), &Value::Null)
    );
    assert!(flow["ended"].as_u64().unwrap() >= flow["started"].as_u64().unwrap());
}

#[tokio::test]
async fn what_is_not_tracked_says_what_to_do() {
    let gateway = gateway(&["count-views"], "").await;
    let answer = post(&gateway, &[("ce-id", "plain")]).await;
    assert_eq!(
        (answer.status, answer.header("location")),
        (202, Some("/v1/flows/plain"))
    );
    assert_eq!(answer.json()["tracked"], false);
    assert!(!gateway.message("web", 1).await.headers.contains("tracked"));
    for headers in [
        vec![],
        vec![("prefer", "wait=5")],
        vec![("accept", "text/event-stream")],
    ] {
        let why = gateway
            .send("GET", "/v1/flows/plain", &headers, "")
            .await
            .problem(404, "not-found");
        for advice in [
            "Oncue-Track: 1",
            "Prefer: wait",
            "track = \"all\"",
            "oncue flow plain",
        ] {
            assert!(why.contains(advice), "{advice} in {why}");
        }
    }
    // An event that was there before without a ledger gets none: nobody would write into it.
    let again = post(&gateway, &[("ce-id", "plain"), ("prefer", "wait=20")]).await;
    assert_eq!(
        (again.status, again.header("preference-applied")),
        (202, None)
    );
    assert_eq!(
        (&again.json()["duplicate"], &again.json()["tracked"]),
        (&json!(true), &json!(false))
    );
    gateway
        .get("/v1/flows/plain")
        .await
        .problem(404, "not-found");
    gateway.get("/v1/flows/%00").await.problem(400, "malformed");
    gateway
        .get(&format!("/v1/flows/{}", "x".repeat(200)))
        .await
        .problem(400, "malformed");
}

#[tokio::test]
async fn prefer_wait_answers_with_the_whole_flow() {
    let gateway = gateway(&["count-views", "watch-views"], "").await;
    let waiting = post(
        &gateway,
        &[("prefer", "respond-async, wait=20"), ("ce-id", "w1")],
    );
    let working = async {
        wait_for("the event", || async { gateway.messages("web").await == 1 }).await;
        done(&gateway, "w1", "w1", "count-views", 1);
        sleep(Duration::from_millis(200)).await;
        let next = r#"["web.page.milestone","/home","/watch-views","w1",1]"#;
        gateway
            .cluster
            .redis_ok(&["HSET", &Keys::default().flow("w1"), "e:w2", next]);
        done(&gateway, "w1", "w1", "watch-views", 0);
    };
    let (answer, ()) = tokio::join!(waiting, working);
    assert_eq!(
        (answer.status, answer.header("preference-applied")),
        (200, Some("wait=20"))
    );
    assert_eq!(
        (answer.header("location"), answer.header("vary")),
        (Some("/v1/flows/w1"), Some("Prefer"))
    );
    let flow = answer.json();
    assert_eq!(
        (&flow["status"], flow["events"].as_array().unwrap().len()),
        (&json!("complete"), 2)
    );
    assert!(answer.header("traceparent").is_some());
}

#[tokio::test]
async fn a_wait_that_is_too_short_says_what_it_waits_for() {
    let gateway = gateway(&["count-views"], "[flows]\nmax_wait = \"1s\"\n").await;
    let answer = post(&gateway, &[("prefer", "wait=600"), ("ce-id", "slow")]).await;
    assert_eq!(
        (answer.status, answer.header("preference-applied")),
        (202, Some("wait=1"))
    );
    let body = answer.json();
    assert_eq!(
        (&body["id"], &body["open"], &body["sequence"]),
        (&json!("slow"), &json!(1), &json!(1))
    );
    assert_eq!(body["waits_for"]["function"], "count-views");
    assert_eq!(body["waits_for"]["state"], "pending");
    gateway.cluster.redis_ok(&[
        "HSET",
        &Keys::default().flow("slow"),
        "r:slow:count-views",
        "5 2",
        "w:slow:count-views",
        "6 no disk",
    ]);
    let shown = gateway
        .send("GET", "/v1/flows/slow", &[("prefer", "wait=0")], "")
        .await;
    assert_eq!(
        (shown.status, shown.header("preference-applied")),
        (202, Some("wait=0"))
    );
    let waits = &shown.json()["waits_for"];
    assert_eq!(
        (&waits["state"], &waits["attempts"], &waits["why"]),
        (&json!("waiting"), &json!(2), &json!("no disk"))
    );
    done(&gateway, "slow", "slow", "count-views", 0);
    assert_eq!(
        gateway
            .send("GET", "/v1/flows/slow", &[("prefer", "wait=1")], "")
            .await
            .status,
        200
    );
}

#[tokio::test]
async fn a_function_that_is_gone_is_not_waited_for_and_a_new_one_is() {
    let gateway = gateway(&["count-views", "retired"], "").await;
    post(&gateway, &[TRACK, ("ce-id", "f")]).await;
    gateway
        .bus
        .api("CONSUMER.DELETE.web.app_retired", &Value::Null)
        .await
        .unwrap();
    done(&gateway, "f", "f", "count-views", 1);
    let flow = gateway
        .send("GET", "/v1/flows/f", &[("prefer", "wait=20")], "")
        .await;
    assert_eq!(
        (flow.status, &flow.json()["status"]),
        (200, &json!("complete"))
    );
    assert_eq!(flow.json()["events"][0]["steps"][1]["state"], "removed");
    // It comes back: what it has not done is open again.
    consumer(&gateway, "retired").await;
    let flow = gateway.get("/v1/flows/f").await.json();
    assert_eq!(
        (&flow["status"], &flow["waits_for"]["function"]),
        (&json!("running"), &json!("retired"))
    );
}

#[tokio::test]
async fn uploads_are_tracked_and_waited_for_as_well() {
    let gateway = gateway(&[], "").await;
    // Nobody acts on uploads here, so the flow is complete at once.
    let answer = gateway
        .send("PUT", "/v1/files/a.png", &[("prefer", "wait=20")], "bytes")
        .await;
    assert_eq!(
        (answer.status, answer.header("preference-applied")),
        (200, Some("wait=20"))
    );
    let flow = answer.json();
    assert_eq!(
        answer.header("location").unwrap(),
        format!("/v1/flows/{}", flow["id"].as_str().unwrap())
    );
    let file = flow["events"][0]["key"].as_str().unwrap();
    assert_eq!(
        answer.header("link").unwrap(),
        format!("</v1/files/{file}>; rel=\"item\"")
    );
    assert_eq!(
        gateway.get(&format!("/v1/files/{file}")).await.text(),
        "bytes"
    );
    let plain = gateway.send("PUT", "/v1/files/b.png", &[], "bytes").await;
    assert_eq!(
        (plain.status, &plain.json()["tracked"]),
        (202, &json!(false))
    );
}

#[tokio::test]
async fn all_flows_or_none_by_configuration() {
    let gateway = gateway(&[], "[flows]\ntrack = \"all\"\n").await;
    assert_eq!(post(&gateway, &[]).await.json()["tracked"], true);
    let mut gateway = gateway;
    gateway.cluster.redis.kill();
    // Who asked for a ledger gets one or nothing; who did not is not held up by it.
    let asked = post(&gateway, &[TRACK]).await;
    assert!(asked.problem(503, "away").contains("nothing was taken"));
    let plain = post(&gateway, &[]).await;
    assert_eq!(
        (plain.status, &plain.json()["tracked"]),
        (202, &json!(false))
    );
}

#[tokio::test]
async fn an_event_that_was_refused_leaves_no_ledger() {
    let gateway = gateway(&["count-views"], "").await;
    post(&gateway, &[("ce-id", "taken")]).await;
    let other = gateway
        .send(
            "POST",
            VIEWED,
            &[JSON, TRACK, ("ce-id", "taken")],
            r#"{"page":"/other"}"#,
        )
        .await;
    other.problem(409, "id-reuse");
    gateway
        .get("/v1/flows/taken")
        .await
        .problem(404, "not-found");
}

/// Reads server-sent events until the stream ends or `enough`.
struct Events {
    stream: TcpStream,
    text: String,
}

impl Events {
    async fn open(gateway: &Gateway, flow: &str) -> Self {
        let mut stream = TcpStream::connect(gateway.at).await.unwrap();
        let head = format!(
            "GET /v1/flows/{flow} HTTP/1.1\r\nhost: localhost\r\naccept: text/event-stream\r\nconnection: close\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        Self {
            stream,
            text: String::new(),
        }
    }

    /// Names and contents so far.
    fn all(&self) -> Vec<(String, Value)> {
        let lines: Vec<&str> = self.text.lines().collect();
        let pairs = lines.windows(2).filter_map(|pair| {
            let name = pair[0].strip_prefix("event: ")?;
            Some((
                name.to_owned(),
                serde_json::from_str(pair[1].strip_prefix("data: ")?).ok()?,
            ))
        });
        pairs.collect()
    }

    async fn until(&mut self, count: usize) {
        while self.all().len() < count {
            assert!(self.more().await, "ended after {}", self.text);
        }
    }

    async fn end(&mut self) {
        while self.more().await {}
    }

    async fn more(&mut self) -> bool {
        let mut buffer = [0; 4096];
        let read = timeout(ANSWER_TIMEOUT, self.stream.read(&mut buffer))
            .await
            .expect("the stream goes on")
            .unwrap();
        self.text
            .push_str(&String::from_utf8_lossy(&buffer[..read]));
        read > 0
    }
}

#[tokio::test]
async fn progress_is_streamed_change_by_change_to_the_end() {
    let gateway = gateway(&["count-views"], "").await;
    post(&gateway, &[TRACK, ("ce-id", "s")]).await;
    let mut events = Events::open(&gateway, "s").await;
    events.until(1).await;
    assert!(
        events.text.contains("text/event-stream") && events.text.starts_with("HTTP/1.1 200"),
        "{}",
        events.text
    );
    assert_eq!(
        (events.all()[0].0.as_str(), &events.all()[0].1["open"]),
        ("flow", &json!(1))
    );
    // A second client does not miss what the first has seen.
    let mut second = Events::open(&gateway, "s").await;
    second.until(1).await;
    gateway
        .cluster
        .redis_ok(&["HSET", &Keys::default().flow("s"), "r:s:count-views", "5 1"]);
    events.until(2).await;
    let (name, step) = &events.all()[1];
    assert_eq!(
        (name.as_str(), &step["function"], &step["state"]),
        ("step", &json!("count-views"), &json!("running"))
    );
    let next = r#"["web.page.milestone","/home","/count-views","s",1]"#;
    gateway.cluster.redis_ok(&[
        "HSET",
        &Keys::default().flow("s"),
        "e:m",
        next,
        "s:m:rank-pages",
        "p 7",
        "n",
        "2",
    ]);
    events.until(3).await;
    assert_eq!(
        (events.all()[2].0.as_str(), &events.all()[2].1["id"]),
        ("event", &json!("m"))
    );
    consumer(&gateway, "rank-pages").await;
    done(&gateway, "s", "m", "rank-pages", 1);
    done(&gateway, "s", "s", "count-views", 0);
    events.end().await;
    let (name, last) = events.all().pop().unwrap();
    assert_eq!(
        (name.as_str(), &last["status"]),
        ("complete", &json!("complete"))
    );
    second.end().await;
    assert_eq!(second.all().pop().unwrap(), (name, last));
    let again = gateway.send(
        "GET",
        "/v1/flows/s",
        &[
            ("accept", "text/event-stream"),
            ("last-event-id", "complete"),
        ],
        "",
    );
    assert_eq!(again.await.status, 204);
}

#[tokio::test]
async fn waiters_are_bounded_and_share_one_look() {
    let gateway = gateway(
        &["count-views"],
        "[flows]\nmax_waiters = 40\n[gateway]\nproxies = [\"127.0.0.1\"]\n",
    )
    .await;
    post(&gateway, &[TRACK, ("ce-id", "busy")]).await;
    let asked = || gateway.cluster.redis_ok(&["INFO", "commandstats"]);
    let mut clients = Vec::new();
    for n in 0..40 {
        let at = gateway.at;
        clients.push(tokio::spawn(async move {
            // One address may have a quarter of them.
            let client = format!("192.0.2.{}", n % 4);
            let headers = [("prefer", "wait=20"), ("x-forwarded-for", client.as_str())];
            request(at, "GET", "/v1/flows/busy", &headers, b"").await
        }));
    }
    let gauge = async || gateway.get("/metrics").await.text();
    wait_for("40 waiters", || async {
        gauge().await.contains("oncue_gateway_waiters 40\n")
    })
    .await;
    let refused = post(&gateway, &[("prefer", "wait=20"), ("ce-id", "one more")]).await;
    assert!(
        refused.problem(503, "busy").contains("40 clients")
            && refused.header("retry-after").is_some()
    );
    assert_eq!(
        gateway.messages("web").await,
        1,
        "nothing was taken of the refused"
    );
    assert_eq!(
        gateway.get("/v1/flows/busy").await.status,
        200,
        "without waiting there is always an answer"
    );
    // Each came with one look of its own; from then on there is one for all.
    let looks = |stats: &str| -> u64 {
        let line = stats
            .lines()
            .find_map(|line| line.strip_prefix("cmdstat_hgetall:calls="))
            .unwrap();
        line.split(',').next().unwrap().parse().unwrap()
    };
    let before = looks(&asked());
    wait_for("ten looks", || async { looks(&asked()) >= before + 10 }).await;
    let (start, from) = (std::time::Instant::now(), looks(&asked()));
    sleep(Duration::from_millis(500)).await;
    let (took, made) = (start.elapsed(), looks(&asked()) - from);
    assert!(
        u128::from(made) <= took.as_millis() / 25 + 2,
        "{made} looks in {took:?} for 40 waiters"
    );
    done(&gateway, "busy", "busy", "count-views", 0);
    for client in clients {
        assert_eq!(client.await.unwrap().status, 200);
    }
    wait_for("no waiters", || async {
        gauge().await.contains("oncue_gateway_waiters 0\n")
    })
    .await;
}

#[tokio::test]
async fn clients_that_go_and_a_gateway_that_stops() {
    let mut gateway = gateway(&["count-views"], "[gateway]\nlisteners_per_address = 1\n").await;
    post(&gateway, &[TRACK, ("ce-id", "left")]).await;
    let mut events = Events::open(&gateway, "left").await;
    events.until(1).await;
    let second = [("accept", "text/event-stream")];
    let second = gateway.send("GET", "/v1/flows/left", &second, "").await;
    second.problem(429, "too-many-listeners");
    drop(events);
    wait_for("its place is free", || async {
        let mut again = Events::open(&gateway, "left").await;
        again.more().await && again.text.starts_with("HTTP/1.1 200")
    })
    .await;
    // Told to stop, it answers those who wait instead of keeping them, or being kept by them.
    let mut events = loop {
        // The last one may not be gone yet.
        let mut events = Events::open(&gateway, "left").await;
        if events.more().await && events.text.starts_with("HTTP/1.1 200") {
            break events;
        }
    };
    events.until(1).await;
    let at = gateway.at;
    let waiting = tokio::spawn(async move {
        request(at, "GET", "/v1/flows/left", &[("prefer", "wait=30")], b"").await
    });
    wait_for("the other waits", || async {
        let metrics = gateway.get("/metrics").await.text();
        metrics.contains("oncue_gateway_waiters 1\n")
    })
    .await;
    gateway.stop();
    assert_eq!(waiting.await.unwrap().status, 202);
    events.end().await;
    assert!(!events.text.contains("event: complete"), "{}", events.text);
}

#[tokio::test]
async fn one_address_leaves_places_to_wait_to_others() {
    let config = "[flows]\nmax_waiters = 8\n[gateway]\nproxies = [\"127.0.0.1\"]\n";
    let gateway = gateway(&["count-views"], config).await;
    post(&gateway, &[TRACK, ("ce-id", "busy")]).await;
    let mut clients = Vec::new();
    for _ in 0..2 {
        let at = gateway.at;
        clients.push(tokio::spawn(async move {
            let headers = [("prefer", "wait=20"), ("x-forwarded-for", "192.0.2.1")];
            request(at, "GET", "/v1/flows/busy", &headers, b"").await
        }));
    }
    wait_for("both wait", || async {
        let metrics = gateway.get("/metrics").await.text();
        metrics.contains("oncue_gateway_waiters 2\n")
    })
    .await;
    let wait = async |client: &str| {
        let headers = [("prefer", "wait=0"), ("x-forwarded-for", client)];
        gateway.send("GET", "/v1/flows/busy", &headers, "").await
    };
    let refused = wait("192.0.2.1").await;
    refused.problem(429, "too-many-listeners");
    assert_eq!(wait("192.0.2.2").await.status, 202);
    done(&gateway, "busy", "busy", "count-views", 0);
    for client in clients {
        assert_eq!(client.await.unwrap().status, 200);
    }
}

#[tokio::test]
async fn a_stream_of_a_flow_that_goes_on_ends_and_is_asked_for_again() {
    let guards = Guards {
        flow_stream: Duration::from_millis(200),
        ..Guards::default()
    };
    let gateway = Gateway::with("", guards).await;
    let listeners = Keys::default().listeners("web.page.viewed");
    gateway
        .cluster
        .redis_ok(&["SADD", &listeners, "count-views"]);
    consumer(&gateway, "count-views").await;
    post(&gateway, &[TRACK, ("ce-id", "long")]).await;
    for _ in 0..2 {
        let mut events = Events::open(&gateway, "long").await;
        events.end().await;
        let names: Vec<String> = events.all().into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["flow"], "{}", events.text);
    }
}

#[tokio::test]
async fn the_ledger_is_the_one_workers_read() {
    let gateway = gateway(&["count-views"], "").await;
    post(&gateway, &[TRACK, ("ce-id", "read")]).await;
    let redis = gateway.cluster.store().await;
    let flow = redis.flow("read").await.unwrap().unwrap();
    assert_eq!(
        (flow.open, flow.events[0].steps[0].function.as_str()),
        (1, "count-views")
    );
}
