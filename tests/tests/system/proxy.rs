//! The fault proxy does what it says, between real clients and real servers, and counts it.

use std::time::{Duration, Instant};

use oncue_core::app::AppName;
use oncue_core::bus::pull::Capacity;
use oncue_core::bus::{Bus, layout};
use oncue_core::config::{FunctionConfig, Limits, StreamConfig};
use oncue_core::store::{CommitEvent, Mark, Purpose, Run, Store};
use oncue_proto::oncue::v1::Envelope;
use oncue_tests::cluster::{Cluster, until};
use oncue_tests::proxy::{Direction, Faults, Protocol, Proxy};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

async fn redis() -> (Cluster, Proxy, TcpStream) {
    let cluster = Cluster::new("").await;
    let proxy = Proxy::start(Protocol::Redis, cluster.redis_port, 1).await;
    let socket = TcpStream::connect(("127.0.0.1", proxy.port))
        .await
        .expect("the proxy");
    (cluster, proxy, socket)
}

/// Sends one command and returns what has come within the time, empty for nothing, `closed` for the end.
async fn say(socket: &mut TcpStream, command: &str) -> String {
    let words: Vec<String> = command
        .split(' ')
        .map(|word| format!("${}\r\n{word}\r\n", word.len()))
        .collect();
    let request = format!("*{}\r\n{}", words.len(), words.concat());
    if socket.write_all(request.as_bytes()).await.is_err() {
        return "closed".into();
    }
    let mut answer = vec![0; 4096];
    match tokio::time::timeout(Duration::from_secs(2), socket.read(&mut answer)).await {
        Err(_) => String::new(),
        Ok(Ok(n)) if n > 0 => String::from_utf8_lossy(&answer[..n]).into_owned(),
        Ok(_) => "closed".into(),
    }
}

#[tokio::test]
async fn connections_are_cut_refused_and_half_open() {
    let (_cluster, proxy, mut socket) = redis().await;
    assert_eq!(say(&mut socket, "PING").await, "+PONG\r\n");
    proxy.cut();
    assert_eq!(say(&mut socket, "PING").await, "closed");
    proxy.set(Faults {
        refuse: true,
        ..Faults::default()
    });
    let mut refused = TcpStream::connect(("127.0.0.1", proxy.port))
        .await
        .expect("the proxy");
    assert_eq!(say(&mut refused, "PING").await, "closed");
    proxy.heal();
    let mut socket = TcpStream::connect(("127.0.0.1", proxy.port))
        .await
        .expect("the proxy");
    for swallow in [&[Direction::Up], &[Direction::Down]] {
        assert_eq!(say(&mut socket, "PING").await, "+PONG\r\n");
        proxy.set(Faults {
            swallow,
            ..Faults::default()
        });
        assert_eq!(say(&mut socket, "INCR n").await, "");
        proxy.heal();
        assert_eq!(
            say(&mut socket, "PING").await,
            "closed",
            "a line that lost bytes is of no use"
        );
        socket = TcpStream::connect(("127.0.0.1", proxy.port))
            .await
            .expect("the proxy");
    }
    assert_eq!(
        say(&mut socket, "GET n").await,
        "$1\r\n1\r\n",
        "swallowed upwards it never happened, downwards it did"
    );
    for (fault, times) in [("cut", 1), ("refuse", 1), ("swallow", 2)] {
        assert_eq!(proxy.fired_of(fault), times, "{fault}");
    }
}

#[tokio::test]
async fn bytes_are_held_delayed_throttled_and_sliced() {
    let (_cluster, proxy, mut socket) = redis().await;
    proxy.set(Faults {
        freeze: true,
        ..Faults::default()
    });
    assert_eq!(say(&mut socket, "INCR n").await, "");
    proxy.heal();
    let mut late = [0; 4];
    socket
        .read_exact(&mut late)
        .await
        .expect("what was held back comes");
    assert_eq!(&late, b":1\r\n");
    let slow = |faults: Faults| proxy.set(faults);
    let start = Instant::now();
    slow(Faults {
        latency: Duration::from_millis(100),
        jitter: Duration::from_millis(50),
        ..Faults::default()
    });
    assert_eq!(say(&mut socket, "PING").await, "+PONG\r\n");
    assert!(start.elapsed() >= Duration::from_millis(200), "both ways");
    slow(Faults {
        slices: true,
        ..Faults::default()
    });
    let mut whole = say(&mut socket, "ECHO abcdefgh").await;
    while whole.len() < "$8\r\nabcdefgh\r\n".len() {
        let mut more = [0; 64];
        let n = socket.read(&mut more).await.expect("the rest");
        whole.push_str(&String::from_utf8_lossy(&more[..n]));
    }
    assert_eq!(whole, "$8\r\nabcdefgh\r\n");
    let start = Instant::now();
    slow(Faults {
        bytes_per_second: 100,
        ..Faults::default()
    });
    assert!(
        !say(&mut socket, &format!("ECHO {}", "x".repeat(30)))
            .await
            .is_empty()
    );
    assert!(
        start.elapsed() >= Duration::from_millis(400),
        "70 bytes at 100 a second"
    );
    let fired = proxy.fired();
    for fault in ["freeze", "delay", "slice", "throttle"] {
        assert!(fired.contains_key(fault), "{fault} in {fired:?}");
    }
}

#[tokio::test]
async fn a_reset_comes_in_mid_frame() {
    let (_cluster, proxy, mut socket) = redis().await;
    proxy.set(Faults {
        reset: Some(Direction::Down),
        ..Faults::default()
    });
    assert_eq!(say(&mut socket, "INCR n").await, ":1\r");
    assert_eq!(say(&mut socket, "PING").await, "closed");
    let mut socket = TcpStream::connect(("127.0.0.1", proxy.port))
        .await
        .expect("the proxy");
    proxy.set(Faults {
        reset: Some(Direction::Up),
        ..Faults::default()
    });
    assert_eq!(say(&mut socket, "INCR n").await, "closed");
    let mut socket = TcpStream::connect(("127.0.0.1", proxy.port))
        .await
        .expect("the proxy");
    assert_eq!(
        say(&mut socket, "GET n").await,
        "$1\r\n1\r\n",
        "half a request is none"
    );
    assert_eq!(proxy.fired_of("reset"), 2);
}

#[tokio::test]
async fn exactly_the_next_reply_of_a_commit_is_lost() {
    let (cluster, proxy, _) = redis().await;
    let url = format!("redis://127.0.0.1:{}", proxy.port);
    drop(cluster.store().await); // which lays out Redis
    let redis = Store::connect(&url, &AppName::default())
        .await
        .expect("through the proxy");
    let store = redis.clone();
    let commit = async |n: u64| {
        let origin = oncue_proto::event::Origin {
            stream: "web",
            stream_created: 1,
            sequence: n,
            published: oncue_proto::event::now_ms(),
            subject: "web.page.viewed",
        };
        let mark = Mark::new(
            "f",
            "/k",
            &oncue_proto::event::Meta::of_origin(&origin),
            3_600_000,
        );
        let handled = CommitEvent {
            mark,
            payload_hash: 1,
            ops: Vec::new(),
            outbox: Vec::new().into(),
            purpose: Purpose::Apply,
            entry: None,
        };
        store
            .commit(&[Run {
                row: None,
                events: vec![handled],
            }])
            .await
    };
    commit(1).await.expect("the function is loaded");
    proxy.set(Faults {
        lose_answers: 1,
        ..Faults::default()
    });
    redis.ping().await.expect("other replies pass");
    assert!(commit(2).await.expect_err("its reply is lost").away);
    let again = until("the client is connected again", async || {
        commit(2).await.ok()
    })
    .await;
    assert_eq!(
        again.statuses,
        [[oncue_core::store::Status::Duplicate(None)]],
        "it had been executed"
    );
    assert_eq!(proxy.fired_of("lost answer"), 1);
    drop(cluster);
}

#[tokio::test]
async fn exactly_the_next_publish_ack_is_lost_and_settlements_are_watched() {
    let cluster = Cluster::new("").await;
    let proxy = Proxy::start(Protocol::Nats, cluster.nats_port, 1).await;
    let bus = Bus::connect(&format!("nats://127.0.0.1:{}", proxy.port), "test")
        .await
        .expect("through the proxy");
    bus.provide(&layout::stream(
        &AppName::default(),
        "web",
        &StreamConfig::default(),
    ))
    .await
    .expect("a stream");
    let send = async |text: &'static str| {
        bus.publish(&Envelope {
            subject: "web.x".into(),
            headers: Vec::new(),
            payload: text.into(),
        })
        .await
    };
    assert_eq!(send("a").await.expect("acked").sequence, 1);
    proxy.set(Faults {
        lose_answers: 1,
        ..Faults::default()
    });
    let info = bus
        .api("STREAM.INFO.web", &serde_json::Value::Null)
        .await
        .expect("no publish ack, so it passes");
    assert_eq!(info["state"]["messages"], 1);
    let connections = proxy.wire().accepted.len();
    assert!(send("b").await.is_err(), "its ack is lost");
    assert_eq!(
        send("c").await.expect("acked").sequence,
        3,
        "b is stored all the same"
    );
    assert_eq!(
        (proxy.fired_of("lost answer"), proxy.wire().accepted.len()),
        (1, connections),
        "on the same connection"
    );

    proxy.judge(Duration::from_millis(300));
    let function = FunctionConfig {
        concurrency: Some(2),
        ..FunctionConfig::default()
    };
    let limits = Limits::default().with(&function);
    bus.provide(&layout::consumer(
        "app_judged",
        "web",
        &["web.x".into()],
        &limits,
    ))
    .await
    .expect("a consumer");
    let created = bus.stream_created("web").await.expect("a stream");
    let mut pull = bus.pull("web", created, "judged").await.expect("a pull");
    let mut held = pull.ask(Capacity::of(2)).await.expect("asked");
    while held.len() < 2 {
        held.extend(pull.next().await.expect("delivered"));
    }
    let none = Duration::ZERO;
    bus.retry(&held[0].ticket(), none).await;
    bus.flush().await;
    tokio::time::sleep(Duration::from_millis(600)).await;
    bus.retry(&held[1].ticket(), none).await;
    bus.publish_plain("$JS.ACK.somebody.elses".into(), "+TERM".into())
        .await
        .expect("told");
    bus.flush().await;
    let wire = until("the last is seen", async || {
        Some(proxy.wire()).filter(|wire| wire.terms == 1)
    })
    .await;
    assert_eq!((wire.naks, wire.late_naks, wire.terms), (2, 1, 1));
    assert_eq!(
        (wire.deliveries, wire.redeliveries),
        (2, 0),
        "nobody asked for what was given back"
    );
    let mut held = pull.ask(Capacity::of(2)).await.expect("asked");
    while held.len() < 2 {
        held.extend(pull.next().await.expect("delivered"));
    }
    assert_eq!(proxy.in_hand(proxy.port), 2);
    bus.ack(&held[0].ticket()).await;
    bus.flush().await;
    let wire = until("the ack is seen", async || {
        Some(proxy.wire()).filter(|wire| wire.acks == 1)
    })
    .await;
    assert_eq!(
        (
            wire.deliveries,
            wire.redeliveries,
            proxy.in_hand(proxy.port)
        ),
        (4, 2, 1)
    );
}
