//! Notifying the outside, with a receiver that answers what each test wants.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use oncue_proto::oncue::v1::DeadLetter;
use oncue_tests::cluster::{Cluster, Process, QUICK_REDELIVERY, until};
use oncue_tests::http::receiver::{KEY, Received, Receiver, Reply, assert_signed, say, secret};
use prost::Message as _;
use serde_json::{Value, json};

const OLD_KEY: [u8; 32] = [7; 32];

/// A cluster with the function in it, told to notify `url`.
async fn cluster(url: &str, env: &[(&str, &str)]) -> (Cluster, Process) {
    let mut cluster = Cluster::new(&format!(
        "[functions.notify-webhook]\n{QUICK_REDELIVERY}\nattempts = 4\n"
    ))
    .await;
    cluster.set("WEBHOOK_URL", url);
    cluster.set("WEBHOOK_SECRET", &secret(&KEY));
    for (name, value) in env {
        cluster.set(name, value);
    }
    let worker = cluster.start("notify-webhook").await;
    (cluster, worker)
}

/// The same, with a receiver on this machine, which is allowed.
async fn notifying(replies: Vec<Reply>, env: &[(&str, &str)]) -> (Cluster, Process, Receiver) {
    let receiver = Receiver::start(replies).await;
    let url = format!("http://127.0.0.1:{}/hook?token=hunter2", receiver.port);
    let (cluster, worker) =
        cluster(&url, &[&[("WEBHOOK_ALLOW_PRIVATE", "true")], env].concat()).await;
    (cluster, worker, receiver)
}

fn accept(cluster: &Cluster, file: &str) {
    let event = json!({ "file": file, "owner": "ann", "size": "7", "mediaType": "text/plain" });
    cluster.plain_publish([("files.file.accepted", event.to_string())]);
}

async fn dead_letter(cluster: &Cluster) -> DeadLetter {
    let bus = cluster.bus().await;
    until("a dead letter", async || {
        let letters = cluster.messages(&bus, "dlq").await;
        letters
            .first()
            .map(|letter| DeadLetter::decode(&letter.payload[..]).expect("a dead letter"))
    })
    .await
}

async fn done(cluster: &Cluster) {
    let bus = cluster.bus().await;
    cluster.drained(&bus, "files", "notify-webhook").await;
    assert_eq!(
        cluster.count(&bus, "dlq").await,
        0,
        "{:#?}",
        cluster.messages(&bus, "dlq").await
    );
}

fn timestamp(request: &Received) -> u64 {
    request
        .header("webhook-timestamp")
        .parse()
        .expect("seconds")
}

#[tokio::test]
async fn an_accepted_file_is_one_signed_request() {
    let secrets = format!("{} {}", secret(&KEY), secret(&OLD_KEY));
    let (cluster, _worker, receiver) = notifying(
        vec![say("204 No Content", "")],
        &[("WEBHOOK_SECRET", &secrets)],
    )
    .await;
    accept(&cluster, "one");
    receiver.wait_for(1).await;
    done(&cluster).await;
    let received = receiver.received();
    let [request] = &received[..] else {
        panic!("one request, not {}", received.len())
    };
    assert!(
        request
            .head
            .starts_with("POST /hook?token=hunter2 HTTP/1.1\r\n"),
        "{}",
        request.head
    );
    assert_eq!(
        request.header("host"),
        format!("127.0.0.1:{}", receiver.port)
    );
    assert_eq!(request.header("content-type"), "application/json");
    assert_eq!(
        request.header("idempotency-key"),
        request.header("webhook-id")
    );
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("after 1970")
        .as_secs();
    assert!(now.abs_diff(timestamp(request)) < 60);
    assert_signed(request, &[&KEY, &OLD_KEY]);
    let body: Value = serde_json::from_str(&request.body).expect("JSON");
    assert_eq!(body["type"], "files.file.accepted");
    assert!(
        body["timestamp"]
            .as_str()
            .is_some_and(|time| time.starts_with("20")),
        "{body}"
    );
    assert_eq!(
        body["data"],
        json!({ "file": "one", "owner": "ann", "size": "7", "mediaType": "text/plain" })
    );
}

#[tokio::test]
async fn a_receiver_in_trouble_is_asked_again_under_the_same_id() {
    // Slow enough that no two attempts fall into one second.
    let trouble = |status: &str| {
        let Reply::Say(text) = say(status, "not now") else {
            unreachable!("said at once")
        };
        Reply::SayAfter(Duration::from_millis(1100), text)
    };
    let replies = vec![
        trouble("503 Service Unavailable"),
        trouble("429 Too Many Requests"),
        say("200 OK", "thank you"),
    ];
    let (cluster, _worker, receiver) = notifying(replies, &[]).await;
    accept(&cluster, "one");
    let received = receiver.wait_for(3).await;
    done(&cluster).await;
    for pair in received.windows(2) {
        assert_eq!(pair[0].header("webhook-id"), pair[1].header("webhook-id"));
        assert_eq!(pair[0].body, pair[1].body);
        assert!(timestamp(&pair[0]) < timestamp(&pair[1]));
    }
    for request in &received {
        assert_signed(request, &[&KEY]);
    }
    assert_eq!(receiver.received().len(), 3);
    accept(&cluster, "two");
    let received = receiver.wait_for(4).await;
    assert_ne!(
        received[3].header("webhook-id"),
        received[0].header("webhook-id"),
        "another event, another id"
    );
}

#[tokio::test]
async fn a_refusal_is_set_aside_with_its_reason_and_without_secrets() {
    let body = format!(
        "no owner ann; asked for /hook?token=hunter2 {}",
        "and so on ".repeat(1000)
    );
    let (cluster, worker, receiver) = notifying(vec![say("400 Bad Request", &body)], &[]).await;
    accept(&cluster, "one");
    let letter = dead_letter(&cluster).await;
    assert_eq!((letter.reason.as_str(), letter.attempts), ("rejected", 1));
    let expected = format!(
        "http://127.0.0.1:{}/hook answered 400 Bad Request: no owner ann; asked for /hook?*** and",
        receiver.port
    );
    assert!(letter.message.starts_with(&expected), "{}", letter.message);
    assert!(letter.message.len() < 400, "{}", letter.message.len());
    worker.wait_for_line("dead-lettered").await;
    for hidden in ["hunter2", &secret(&KEY), &STANDARD.encode(KEY)] {
        assert!(
            !worker.log().contains(hidden) && !letter.message.contains(hidden),
            "{hidden}"
        );
    }
    assert_eq!(receiver.received().len(), 1);
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    for status in ["302 Found", "307 Temporary Redirect"] {
        let elsewhere = Receiver::start(vec![say("200 OK", "")]).await;
        let moved = format!(
            "HTTP/1.1 {status}\r\nLocation: http://localhost:{}/admin\r\nContent-Length: 0\r\n\r\n",
            elsewhere.port
        );
        let (cluster, _worker, receiver) = notifying(vec![Reply::Say(moved)], &[]).await;
        accept(&cluster, "one");
        let letter = dead_letter(&cluster).await;
        assert_eq!(letter.reason, "rejected");
        assert!(
            letter
                .message
                .contains(&format!("answered {status}; redirects are not followed")),
            "{}",
            letter.message
        );
        assert_eq!((receiver.received().len(), elsewhere.connections()), (1, 0));
    }
}

#[tokio::test]
async fn a_private_address_is_not_called() {
    let receiver = Receiver::start(vec![say("200 OK", "")]).await;
    for host in ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "2130706433"] {
        let (cluster, _worker) = cluster(
            &format!("http://{host}:{}/hook?token=hunter2", receiver.port),
            &[],
        )
        .await;
        accept(&cluster, "one");
        let letter = dead_letter(&cluster).await;
        assert_eq!((letter.reason.as_str(), letter.attempts), ("rejected", 1));
        assert!(
            letter.message.starts_with("ssrf: http://"),
            "{}",
            letter.message
        );
        assert!(
            letter.message.contains("is a loopback address"),
            "{}",
            letter.message
        );
        assert!(!letter.message.contains("hunter2"), "{}", letter.message);
    }
    assert_eq!(receiver.connections(), 0);
}

#[tokio::test]
async fn silence_is_a_failed_attempt() {
    let (cluster, worker, receiver) = notifying(
        vec![Reply::Silence, say("200 OK", "")],
        &[
            ("WEBHOOK_TIMEOUT", "400ms"),
            ("ONCUE_TRACE_MESSAGES", "true"),
        ],
    )
    .await;
    accept(&cluster, "one");
    let received = receiver.wait_for(2).await;
    done(&cluster).await;
    assert_eq!(
        received[0].header("webhook-id"),
        received[1].header("webhook-id")
    );
    assert!(
        worker.log().contains("no answer within 400ms"),
        "{}",
        worker.log()
    );
}

#[tokio::test]
async fn a_receiver_that_stays_in_trouble_leaves_a_dead_letter() {
    let (cluster, _worker, receiver) =
        notifying(vec![say("500 Internal Server Error", "oh no")], &[]).await;
    accept(&cluster, "one");
    let letter = dead_letter(&cluster).await;
    assert_eq!((letter.reason.as_str(), letter.attempts), ("attempts", 4));
    assert!(
        letter
            .message
            .ends_with("answered 500 Internal Server Error: oh no"),
        "{}",
        letter.message
    );
    assert_eq!(receiver.received().len(), 4);
}

#[tokio::test]
async fn a_worker_killed_while_it_waits_asks_again_under_the_same_id() {
    let (cluster, mut worker, receiver) =
        notifying(vec![Reply::Silence, say("200 OK", "")], &[]).await;
    accept(&cluster, "one");
    receiver.wait_for(1).await;
    worker.kill();
    let _worker = cluster.start("notify-webhook").await;
    let received = receiver.wait_for(2).await;
    done(&cluster).await;
    assert_eq!(
        received[0].header("webhook-id"),
        received[1].header("webhook-id")
    );
}

#[tokio::test]
async fn without_an_address_events_pass_by() {
    let (cluster, worker) = cluster("", &[("WEBHOOK_SECRET", "")]).await;
    accept(&cluster, "one");
    accept(&cluster, "two");
    worker.wait_for_line("WEBHOOK_URL is not set").await;
    done(&cluster).await;
    assert_eq!(
        worker.log().matches("WEBHOOK_URL is not set").count(),
        1,
        "{}",
        worker.log()
    );
}

#[tokio::test]
async fn every_mistake_in_the_environment_is_a_line() {
    let mut cluster = Cluster::new("").await;
    assert_eq!(
        cluster
            .output("notify-webhook", &["--manifest"])
            .status
            .code(),
        Some(0),
        "the manifest needs no address"
    );
    cluster.set(
        "WEBHOOK_URL",
        "https://ann:hunter2@example.com/?token=hunter3",
    );
    cluster.set("WEBHOOK_SECRET", "hunter4");
    cluster.set("WEBHOOK_DELIVERY", "sometimes");
    let output = cluster.output("notify-webhook", &[]);
    assert_eq!(output.status.code(), Some(2));
    let told = String::from_utf8_lossy(&output.stderr);
    let lines: Vec<&str> = told.lines().collect();
    assert_eq!(lines.len(), 3, "{told}");
    assert!(
        lines
            .iter()
            .all(|line| line.starts_with("notify-webhook: WEBHOOK_")),
        "{told}"
    );
    assert!(!told.contains("hunter"), "{told}");
}
