//! Clients that are slow, many, or gone, and a gateway that is told to stop.

use std::time::Duration;

use oncue_gateway::server::Guards;
use oncue_tests::cluster::{Cluster, Servers, must_fail, wait_for};
use oncue_tests::http::{ANSWER_TIMEOUT, JSON};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use super::{Gateway, VIEWED};

fn guards() -> Guards {
    Guards {
        head: Duration::from_millis(400),
        body: Duration::from_millis(400),
        ..Guards::default()
    }
}

async fn closes(stream: &mut TcpStream) -> Vec<u8> {
    let mut rest = Vec::new();
    let read = timeout(ANSWER_TIMEOUT, stream.read_to_end(&mut rest))
        .await
        .expect("the connection is still open");
    let _ = read; // a reset is an end as well
    rest
}

/// Sends byte after byte, each well within the limit, until the connection is closed; what was answered. A limit that began anew
/// with each byte would never end it.
async fn trickle(stream: &mut TcpStream) -> String {
    const MOST: usize = 200;
    let mut answer = Vec::new();
    for _ in 0..MOST {
        let sent = stream.write_all(b"y").await;
        let next = timeout(Duration::from_millis(50), stream.read_buf(&mut answer)).await;
        let is_closed = matches!(next, Ok(Ok(0) | Err(_)));
        if is_closed || sent.is_err() && next.is_err() {
            return String::from_utf8_lossy(&answer).into_owned();
        }
    }
    panic!("the connection is still open after {MOST} bytes");
}

#[tokio::test]
async fn half_a_head_is_not_waited_for() {
    let gateway = Gateway::with("", guards()).await;
    for start in [
        "",
        "GET / HT",
        "GET /healthz HTTP/1.1\r\nhost: localhost\r\nx-slow: ",
    ] {
        let mut stream = TcpStream::connect(gateway.at).await.unwrap();
        stream.write_all(start.as_bytes()).await.unwrap();
        closes(&mut stream).await;
    }
    // Byte after byte is no better.
    let mut stream = TcpStream::connect(gateway.at).await.unwrap();
    let head = b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nx-slow: ";
    stream.write_all(head).await.unwrap();
    let answer = trickle(&mut stream).await;
    assert!(!answer.contains("200"), "{answer}");
}

#[tokio::test]
async fn a_body_that_does_not_come() {
    let gateway = Gateway::with("", guards()).await;
    for head in [format!("POST {VIEWED}"), "PUT /v1/files/x".to_owned()] {
        let message = format!(
            "{head} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{{"
        );
        gateway
            .raw(message.as_bytes())
            .await
            .expect("an answer")
            .problem(408, "slow-body");
    }
    // A trickle is not progress.
    let mut stream = TcpStream::connect(gateway.at).await.unwrap();
    stream
        .write_all(b"PUT /v1/files/x HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: 10000\r\n\r\n")
        .await
        .unwrap();
    let text = trickle(&mut stream).await;
    assert!(text.starts_with("HTTP/1.1 408"), "{text}");
}

#[tokio::test]
async fn connections_that_only_lie_there_stop_nobody() {
    let config = "[gateway]\nconnections_per_address = 20\n";
    gives_way(&Gateway::with(config, Guards::default()).await).await;
}

/// The broken twin: without a limit for one address its idle connections all stay, until there are no more.
#[tokio::test]
async fn without_a_limit_by_address_nothing_gives_way() {
    let config = "[gateway]\nconnections_per_address = 1000\n";
    let gateway = Gateway::with(config, Guards::default()).await;
    must_fail("nothing is in the way", gives_way(&gateway)).await;
}

/// Of sixty connections that only lie there, forty give way to those of who asks.
async fn gives_way(gateway: &Gateway) {
    let mut idle = Vec::new();
    for n in 0..60 {
        let mut stream = TcpStream::connect(gateway.at).await.unwrap();
        let begun = ["", "GET /healthz HTTP/1.1\r\nhost"][n % 2];
        stream.write_all(begun.as_bytes()).await.unwrap();
        idle.push(stream);
    }
    assert_eq!(gateway.get("/healthz").await.status, 200);
    let posted = gateway.send("POST", VIEWED, &[JSON], r#"{"page":"/home"}"#);
    assert_eq!(posted.await.status, 202);
    let metrics = gateway.get("/metrics").await.text();
    let cut = "oncue_gateway_connections_cut_total{reason=\"idle\"} ";
    let gave_way = metrics.lines().find_map(|line| line.strip_prefix(cut));
    let gave_way: u64 = gave_way.expect("a count").parse().unwrap();
    assert!(gave_way >= 40, "{gave_way}");
    let open = "oncue_gateway_connections ";
    let open = metrics.lines().find_map(|line| line.strip_prefix(open));
    assert!(open.unwrap().parse::<u64>().unwrap() <= 20, "{metrics}");
}

#[tokio::test]
async fn an_upload_slower_than_the_least_rate_frees_its_place() {
    let config = "[gateway]\ntransfers_per_address = 2\nmin_rate = \"100KiB\"\n";
    let gateway = Gateway::with(config, guards()).await;
    let mut slow = Vec::new();
    for _ in 0..2 {
        let mut stream = TcpStream::connect(gateway.at).await.unwrap();
        let head = b"PUT /v1/files/x HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: 10000000\r\n\r\n";
        stream.write_all(head).await.unwrap();
        slow.push(stream);
    }
    let put = || gateway.send("PUT", "/v1/files/y", &[], "y");
    wait_for("they hold all places of their address", || async {
        put().await.status == 429
    })
    .await;
    let refused = put().await;
    assert!(
        refused
            .problem(429, "too-many-transfers")
            .starts_with("2 are the most")
    );
    assert_eq!(refused.header("retry-after"), Some("1"));
    // 2 KiB in each tenth of a second: a stream without an end, and too slow.
    for stream in &mut slow {
        let (mut reader, mut writer) = stream.split();
        let trickle = async {
            while writer.write_all(&[0; 2048]).await.is_ok() {
                sleep(Duration::from_millis(100)).await;
            }
        };
        let mut answer = [0; 12];
        tokio::select! {
            () = trickle => panic!("no answer"),
            read = timeout(ANSWER_TIMEOUT, reader.read_exact(&mut answer)) => {
                read.expect("an answer").unwrap();
            }
        }
        assert_eq!(&answer, b"HTTP/1.1 408");
    }
    wait_for("a place", || async { put().await.status == 202 }).await;
}

#[tokio::test]
async fn clients_behind_a_proxy_are_told_apart() {
    let config = "[gateway]\ntransfers_per_address = 1\nproxies = [\"127.0.0.0/8\"]\n";
    let gateway = Gateway::with(config, Guards::default()).await;
    let at = &gateway;
    let put = |client: &'static str| {
        let headers = [("x-forwarded-for", client)];
        async move { at.send("PUT", "/v1/files/y", &headers, "y").await }
    };
    let mut first = TcpStream::connect(gateway.at).await.unwrap();
    let head = "PUT /v1/files/x HTTP/1.1\r\nhost: localhost\r\nx-forwarded-for: 192.0.2.1\r\n\
                connection: close\r\ncontent-length: 2\r\n\r\nx";
    first.write_all(head.as_bytes()).await.unwrap();
    wait_for("its place is taken", || async {
        put("192.0.2.1").await.status == 429
    })
    .await;
    assert_eq!(put("192.0.2.2").await.status, 202);
    // Who stands before the last one may be made up.
    let made_up = put("192.0.2.2, 192.0.2.1").await;
    made_up.problem(429, "too-many-transfers");
    first.write_all(b"x").await.unwrap();
    let taken = closes(&mut first).await;
    assert!(taken.starts_with(b"HTTP/1.1 202"));
}

/// Slow readers of one file wait on a line of their own: publishing goes on, and whoever does not read is cut off.
#[tokio::test]
async fn readers_that_do_not_read_stop_nobody() {
    const READERS: usize = 200;
    let config = "[gateway]\ntransfers_per_address = 1000\n";
    let guards = Guards {
        write: Duration::from_secs(3),
        ..Guards::default()
    };
    // As a server does whose client does not keep up, only sooner. It counts what it is writing until all of that is
    // written, so that up to twice what is asked for at a time stands there.
    let servers = Servers {
        nats: "max_pending: 40MB".into(),
        ..Servers::default()
    };
    let cluster = Cluster::with(config, servers).await;
    let gateway = Gateway::on(cluster, guards).await;
    let stored = gateway.send("PUT", "/v1/files/x", &[], vec![7; 12 << 20]);
    let file = stored.await.json()["file"].as_str().unwrap().to_owned();
    let path = format!("/v1/files/{file}");
    let mut readers = Vec::new();
    for _ in 0..READERS {
        readers.push(TcpStream::connect(gateway.at).await.unwrap());
    }
    let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    for stream in &mut readers {
        stream.write_all(request.as_bytes()).await.unwrap();
    }
    for n in 0..50 {
        let body = format!(r#"{{"page":"/{n}"}}"#);
        let posted = gateway.send("POST", VIEWED, &[JSON], body).await;
        assert_eq!(posted.status, 202, "{}", posted.text());
        assert_eq!(gateway.get("/readyz").await.status, 200);
    }
    let log = std::fs::read_to_string(gateway.cluster.dir.join("nats.log")).unwrap();
    assert!(!log.contains("Slow Consumer"), "{log}");
    let whole = gateway.get(&path).await;
    assert_eq!((whole.status, whole.body.len()), (200, 12 << 20));
    wait_for("they are cut off", || async {
        let metrics = gateway.get("/metrics").await.text();
        metrics.contains(&format!(
            "connections_cut_total{{reason=\"reader\"}} {READERS}\n"
        ))
    })
    .await;
    let mut received = Vec::new();
    for stream in &mut readers {
        let _ = timeout(ANSWER_TIMEOUT, stream.read_to_end(&mut received)).await;
        assert!(received.starts_with(b"HTTP/1.1 200"));
        assert!(received.len() < 12 << 20, "all of it was read");
        received.clear();
    }
}

#[tokio::test]
async fn heads_hyper_refuses() {
    let gateway = Gateway::start().await;
    for (bad, status) in [
        (
            "GET / HTTP/1.1\r\nhost: localhost\r\nbad header\r\n\r\n".to_owned(),
            400,
        ),
        (
            "POST / HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n"
                .to_owned(),
            400,
        ),
        (
            format!(
                "GET / HTTP/1.1\r\nhost: localhost\r\n{}\r\n",
                "a: b\r\n".repeat(200)
            ),
            431,
        ),
        (
            format!(
                "GET / HTTP/1.1\r\nhost: localhost\r\na: {}\r\n\r\n",
                "b".repeat(400_000)
            ),
            431,
        ),
    ] {
        assert_eq!(
            gateway.raw(bad.as_bytes()).await.expect("an answer").status,
            status
        );
    }
    // Of two lengths, one is a lie.
    let smuggled = format!(
        "POST {VIEWED} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 4\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\nGET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"
    );
    let answer = gateway.raw(smuggled.as_bytes()).await.expect("an answer");
    assert_eq!(answer.status, 400, "{answer:?}");
}

#[tokio::test]
async fn what_is_in_hand_is_finished() {
    let mut gateway = Gateway::start().await;
    let body = r#"{"page":"/home"}"#;
    let mut busy = TcpStream::connect(gateway.at).await.unwrap();
    let head = format!(
        "POST {VIEWED} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    busy.write_all(head.as_bytes()).await.unwrap();
    let mut idle = TcpStream::connect(gateway.at).await.unwrap();
    sleep(Duration::from_millis(100)).await;
    gateway.stop();
    closes(&mut idle).await;
    sleep(Duration::from_millis(100)).await;
    assert!(
        TcpStream::connect(gateway.at).await.is_err(),
        "nothing new is accepted"
    );
    busy.write_all(body.as_bytes()).await.unwrap();
    let text = String::from_utf8_lossy(&closes(&mut busy).await).into_owned();
    assert!(text.starts_with("HTTP/1.1 202"), "{text}");
    timeout(ANSWER_TIMEOUT, gateway.served.take().unwrap())
        .await
        .expect("it ends")
        .unwrap();
    assert_eq!(gateway.messages("web").await, 1);
}

#[tokio::test]
async fn stopping_does_not_wait_for_ever() {
    let mut gateway = Gateway::with(
        "",
        Guards {
            drain: Duration::from_millis(300),
            ..Guards::default()
        },
    )
    .await;
    let mut stuck = TcpStream::connect(gateway.at).await.unwrap();
    stuck
        .write_all(
            format!(
                "POST {VIEWED} HTTP/1.1\r\nhost: localhost\r\n{}: {}\r\ncontent-length: 9\r\n\r\n",
                JSON.0, JSON.1
            )
            .as_bytes(),
        )
        .await
        .unwrap();
    sleep(Duration::from_millis(100)).await;
    gateway.stop();
    timeout(Duration::from_secs(5), gateway.served.take().unwrap())
        .await
        .expect("it ends")
        .unwrap();
}

#[tokio::test]
async fn functions_too_far_behind_are_given_no_more() {
    let gateway = Gateway::with("[gateway]\nmax_lag = 5\n", Guards::default()).await;
    let post = || gateway.send("POST", VIEWED, &[JSON], r#"{"page":"/home"}"#);
    let config = json!({ "durable_name": "app_slow", "ack_policy": "explicit" });
    let consumer = json!({ "stream_name": "web", "config": config, "action": "create" });
    gateway
        .bus
        .api("CONSUMER.CREATE.web.app_slow", &consumer)
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
    assert_eq!(gateway.messages("web").await, 5);
    // Files have functions of their own, and nobody is behind there.
    assert_eq!(
        gateway.send("PUT", "/v1/files/x", &[], "x").await.status,
        202
    );
    gateway
        .bus
        .api("CONSUMER.DELETE.web.app_slow", &Value::Null)
        .await
        .unwrap();
    wait_for("a new look", || async { post().await.status == 202 }).await;
}

#[tokio::test]
async fn bodies_have_no_more_room_than_there_is() {
    let gateway = Gateway::with(
        "",
        Guards {
            memory: 10_000,
            ..guards()
        },
    )
    .await;
    let body = |n: usize| format!(r#"{{"page":"/home","visitor":"{}"}}"#, "v".repeat(n));
    let refused = gateway.send("POST", VIEWED, &[JSON], body(20_000)).await;
    refused.problem(503, "busy");
    assert!(refused.header("retry-after").is_some());
    for _ in 0..20 {
        assert_eq!(
            gateway
                .send("POST", VIEWED, &[JSON], body(2000))
                .await
                .status,
            202,
            "the room is given back"
        );
    }
}

#[tokio::test]
async fn uploads_beyond_the_cap_are_refused() {
    let gateway = Gateway::with(
        "",
        Guards {
            uploads: 1,
            ..Guards::default()
        },
    )
    .await;
    let mut first = TcpStream::connect(gateway.at).await.unwrap();
    first
        .write_all(b"PUT /v1/files/a HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: 2\r\n\r\na")
        .await
        .unwrap();
    wait_for("the first holds the place", || async {
        gateway.send("PUT", "/v1/files/b", &[], "b").await.status == 503
    })
    .await;
    gateway
        .send("PUT", "/v1/files/b", &[], "b")
        .await
        .problem(503, "busy");
    first.write_all(b"a").await.unwrap();
    assert!(String::from_utf8_lossy(&closes(&mut first).await).starts_with("HTTP/1.1 202"));
    assert_eq!(
        gateway.send("PUT", "/v1/files/b", &[], "b").await.status,
        202
    );
}

/// A client that fills a stream leaves room for those inside: what functions emit is still taken.
#[tokio::test]
async fn the_last_of_a_stream_is_for_functions() {
    let config = "[streams.web]\nmax_bytes = \"256KiB\"\nreserve = \"64KiB\"\n";
    keeps_room(&Gateway::with(config, Guards::default()).await).await;
}

/// The broken twin: without a reserve clients fill the stream to its last byte, and nothing follows any more.
#[tokio::test]
async fn without_a_reserve_nothing_is_left_for_functions() {
    let config = "[streams.web]\nmax_bytes = \"256KiB\"\nreserve = \"0B\"\n";
    let gateway = Gateway::with(config, Guards::default()).await;
    must_fail("there is no reserve", keeps_room(&gateway)).await;
}

async fn keeps_room(gateway: &Gateway) {
    let payload = json!({ "page": "/home", "referrer": "x".repeat(8000) }).to_string();
    let mut taken = 0;
    let refused = loop {
        let answer = gateway.send("POST", VIEWED, &[JSON], &payload).await;
        if answer.status != 202 {
            break answer;
        }
        taken += 1;
        assert!(taken < 40, "more than the stream holds");
    };
    let why = refused.problem(503, "full");
    assert!(
        why.starts_with("stream web is full but for 64 KiB"),
        "{why}"
    );
    assert_eq!(gateway.messages("web").await, taken);
    let used = gateway.bus.stream_info("web").await.unwrap().state.bytes;
    assert!((150 << 10..=192 << 10).contains(&used), "{used}");
    // From inside, by plain NATS, the stream takes more.
    let inside = (0..4).map(|_| ("web.page.viewed", payload.clone()));
    gateway.cluster.plain_publish(inside);
    wait_for("they are there", || async {
        gateway.messages("web").await == taken + 4
    })
    .await;
}
