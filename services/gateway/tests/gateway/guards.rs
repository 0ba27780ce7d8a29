//! Clients that are slow, many, or gone, and a gateway that is told to stop.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use oncue_gateway::server::Guards;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use crate::harness::{Answer, JSON, LONG, VIEWED, World, answer, wait_for};

/// Writes these very bytes and reads what comes.
pub async fn raw(at: SocketAddr, message: &[u8]) -> Option<Answer> {
    let mut stream = TcpStream::connect(at).await.unwrap();
    let (mut reader, mut writer) = stream.split();
    let (_, answer) = tokio::join!(writer.write_all(message), answer(&mut reader));
    answer
}

fn guards() -> Guards {
    Guards {
        head: Duration::from_millis(400),
        body: Duration::from_millis(400),
        ..Guards::default()
    }
}

async fn closes(stream: &mut TcpStream) -> Vec<u8> {
    let mut rest = Vec::new();
    let read = timeout(LONG, stream.read_to_end(&mut rest))
        .await
        .expect("the connection is still open");
    let _ = read; // a reset is an end as well
    rest
}

#[tokio::test]
async fn half_a_head_is_not_waited_for() {
    let world = World::with("", guards()).await;
    for start in [
        "",
        "GET / HT",
        "GET /healthz HTTP/1.1\r\nhost: x\r\nx-slow: ",
    ] {
        let mut stream = TcpStream::connect(world.at).await.unwrap();
        stream.write_all(start.as_bytes()).await.unwrap();
        closes(&mut stream).await;
    }
    // Byte after byte is no better.
    let mut stream = TcpStream::connect(world.at).await.unwrap();
    let started = Instant::now();
    for byte in "GET /healthz HTTP/1.1\r\nx-slow: yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy".bytes() {
        if stream.write_all(&[byte]).await.is_err() {
            break;
        }
        sleep(Duration::from_millis(50)).await;
    }
    assert!(
        !String::from_utf8_lossy(&closes(&mut stream).await).contains("200"),
        "{:?}",
        started.elapsed()
    );
}

#[tokio::test]
async fn a_body_that_does_not_come() {
    let world = World::with("", guards()).await;
    for head in [format!("POST {VIEWED}"), "PUT /v1/files/x".to_owned()] {
        let message = format!(
            "{head} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{{"
        );
        raw(world.at, message.as_bytes())
            .await
            .expect("an answer")
            .problem(408, "slow-body");
    }
    // A trickle is not progress.
    let mut stream = TcpStream::connect(world.at).await.unwrap();
    stream
        .write_all(b"PUT /v1/files/x HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 10000\r\n\r\n")
        .await
        .unwrap();
    for _ in 0..12 {
        if stream.write_all(b"x").await.is_err() {
            break;
        }
        sleep(Duration::from_millis(50)).await;
    }
    let text = String::from_utf8_lossy(&closes(&mut stream).await).into_owned();
    assert!(text.starts_with("HTTP/1.1 408"), "{text}");
}

#[tokio::test]
async fn connections_beyond_the_cap_wait() {
    let world = World::with(
        "",
        Guards {
            connections: 2,
            ..guards()
        },
    )
    .await;
    let first = TcpStream::connect(world.at).await.unwrap();
    let second = TcpStream::connect(world.at).await.unwrap();
    sleep(Duration::from_millis(100)).await;
    let started = Instant::now();
    assert_eq!(
        world.get("/healthz").await.status,
        200,
        "served when a place is free"
    );
    assert!(started.elapsed() > Duration::from_millis(150));
    drop((first, second));
}

#[tokio::test]
async fn heads_hyper_refuses() {
    let world = World::start().await;
    for (bad, status) in [
        (
            "GET / HTTP/1.1\r\nhost: x\r\nbad header\r\n\r\n".to_owned(),
            400,
        ),
        (
            "POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n"
                .to_owned(),
            400,
        ),
        (
            format!(
                "GET / HTTP/1.1\r\nhost: x\r\n{}\r\n",
                "a: b\r\n".repeat(200)
            ),
            431,
        ),
        (
            format!(
                "GET / HTTP/1.1\r\nhost: x\r\na: {}\r\n\r\n",
                "b".repeat(400_000)
            ),
            431,
        ),
    ] {
        assert_eq!(
            raw(world.at, bad.as_bytes())
                .await
                .expect("an answer")
                .status,
            status
        );
    }
    // Of two lengths, one is a lie.
    let smuggled = format!(
        "POST {VIEWED} HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\nGET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
    );
    let answer = raw(world.at, smuggled.as_bytes()).await.expect("an answer");
    assert_eq!(answer.status, 400, "{answer:?}");
}

#[tokio::test]
async fn what_is_in_hand_is_finished() {
    let mut world = World::start().await;
    let body = r#"{"page":"/home"}"#;
    let mut busy = TcpStream::connect(world.at).await.unwrap();
    let head = format!(
        "POST {VIEWED} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    busy.write_all(head.as_bytes()).await.unwrap();
    let mut idle = TcpStream::connect(world.at).await.unwrap();
    sleep(Duration::from_millis(100)).await;
    world.stop();
    closes(&mut idle).await;
    sleep(Duration::from_millis(100)).await;
    assert!(
        TcpStream::connect(world.at).await.is_err(),
        "nothing new is accepted"
    );
    busy.write_all(body.as_bytes()).await.unwrap();
    let text = String::from_utf8_lossy(&closes(&mut busy).await).into_owned();
    assert!(text.starts_with("HTTP/1.1 202"), "{text}");
    timeout(LONG, world.served.take().unwrap())
        .await
        .expect("it ends")
        .unwrap();
    assert_eq!(world.messages("web").await, 1);
}

#[tokio::test]
async fn stopping_does_not_wait_for_ever() {
    let mut world = World::with(
        "",
        Guards {
            drain: Duration::from_millis(300),
            ..Guards::default()
        },
    )
    .await;
    let mut stuck = TcpStream::connect(world.at).await.unwrap();
    stuck
        .write_all(
            format!(
                "POST {VIEWED} HTTP/1.1\r\nhost: x\r\n{}: {}\r\ncontent-length: 9\r\n\r\n",
                JSON.0, JSON.1
            )
            .as_bytes(),
        )
        .await
        .unwrap();
    sleep(Duration::from_millis(100)).await;
    world.stop();
    timeout(Duration::from_secs(5), world.served.take().unwrap())
        .await
        .expect("it ends")
        .unwrap();
}

#[tokio::test]
async fn functions_too_far_behind_are_given_no_more() {
    let world = World::with("[gateway]\nmax_lag = 5\n", Guards::default()).await;
    let post = || world.send("POST", VIEWED, &[JSON], r#"{"page":"/home"}"#);
    let config = json!({ "durable_name": "slow", "ack_policy": "explicit" });
    let consumer = json!({ "stream_name": "web", "config": config, "action": "create" });
    world
        .bus
        .api("CONSUMER.CREATE.web.slow", &consumer)
        .await
        .unwrap();
    for _ in 0..5 {
        assert_eq!(post().await.status, 202);
    }
    let refused = post().await;
    assert!(
        refused
            .problem(503, "behind")
            .starts_with("slow has 5 events to handle")
    );
    assert_eq!(refused.header("retry-after"), Some("2"));
    assert_eq!(world.messages("web").await, 5);
    // Files have functions of their own, and nobody is behind there.
    assert_eq!(world.send("PUT", "/v1/files/x", &[], "x").await.status, 202);
    world
        .bus
        .api("CONSUMER.DELETE.web.slow", &Value::Null)
        .await
        .unwrap();
    wait_for("a new look", || async { post().await.status == 202 }).await;
}

#[tokio::test]
async fn bodies_have_no_more_room_than_there_is() {
    let world = World::with(
        "",
        Guards {
            memory: 10_000,
            ..guards()
        },
    )
    .await;
    let body = |n: usize| format!(r#"{{"page":"/home","visitor":"{}"}}"#, "v".repeat(n));
    let refused = world.send("POST", VIEWED, &[JSON], body(20_000)).await;
    refused.problem(503, "busy");
    assert!(refused.header("retry-after").is_some());
    for _ in 0..20 {
        assert_eq!(
            world.send("POST", VIEWED, &[JSON], body(2000)).await.status,
            202,
            "the room is given back"
        );
    }
}

#[tokio::test]
async fn uploads_beyond_the_cap_are_refused() {
    let world = World::with(
        "",
        Guards {
            uploads: 1,
            ..Guards::default()
        },
    )
    .await;
    let mut first = TcpStream::connect(world.at).await.unwrap();
    first
        .write_all(b"PUT /v1/files/a HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 2\r\n\r\na")
        .await
        .unwrap();
    wait_for("the first holds the place", || async {
        world.send("PUT", "/v1/files/b", &[], "b").await.status == 503
    })
    .await;
    world
        .send("PUT", "/v1/files/b", &[], "b")
        .await
        .problem(503, "busy");
    first.write_all(b"a").await.unwrap();
    assert!(String::from_utf8_lossy(&closes(&mut first).await).starts_with("HTTP/1.1 202"));
    assert_eq!(world.send("PUT", "/v1/files/b", &[], "b").await.status, 202);
}
