//! The client against a collector that answers what the test wants.

use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTracePartialSuccess, ExportTraceServiceResponse as Answer,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;

#[test]
fn an_address_of_its_own_stands_and_a_general_one_is_completed() {
    for (own, general, grpc, insecure, expected) in [
        (None, None, false, false, "http://localhost:4318/v1/traces"),
        (None, None, true, false, "http://localhost:4317"),
        (
            None,
            Some("http://c:1/"),
            false,
            false,
            "http://c:1/v1/traces",
        ),
        (
            Some("http://c:1/x"),
            Some("http://d"),
            false,
            false,
            "http://c:1/x",
        ),
        (Some("c:1"), None, true, true, "http://c:1"),
        (Some("c:1"), None, true, false, "https://c:1"),
    ] {
        assert_eq!(url(Signal::Traces, own, general, grpc, insecure), expected);
    }
}

#[test]
fn headers_are_pairs() {
    let read = headers(" X-Tenant = blue%2Cgreen ,b=, =c,d");
    assert_eq!(
        read,
        [
            ("x-tenant".into(), "blue,green".into()),
            ("b".into(), String::new())
        ]
    );
}

#[test]
fn a_header_that_cannot_be_sent_takes_no_spans_along() {
    let headers = headers("x-a=two%0Alines,x b=1,x-c=fine");
    let target = Target {
        headers,
        ..target(String::new())
    };
    assert_eq!(
        Client::new(target).target.headers,
        [("x-c".to_owned(), "fine".to_owned())]
    );
}

fn target(url: String) -> Target {
    Target {
        signal: Signal::Traces,
        grpc: false,
        gzip: false,
        url,
        headers: vec![("x-tenant".to_owned(), "blue".to_owned())],
        timeout: Duration::from_secs(20),
    }
}

/// Collector that takes as many connections as there are answers, one request on each, and closes them.
struct Collector {
    url: String,
    heard: tokio::task::JoinHandle<Vec<String>>,
}

impl Collector {
    async fn start(answers: Vec<Vec<u8>>) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/v1/traces", listener.local_addr().unwrap());
        let heard = tokio::spawn(async move {
            let mut heard = Vec::new();
            for answer in answers {
                let (mut socket, _) = listener.accept().await.unwrap();
                let mut request = vec![0; 4096];
                let read = socket.read(&mut request).await.unwrap();
                socket.write_all(&answer).await.unwrap();
                heard.push(String::from_utf8_lossy(&request[..read]).into_owned());
            }
            heard
        });
        Self { url, heard }
    }
}

fn taken() -> Vec<u8> {
    b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n".to_vec()
}

#[tokio::test]
async fn what_a_collector_refuses_is_told() {
    let partial = ExportTracePartialSuccess {
        rejected_spans: 3,
        error_message: "too many".into(),
    };
    let refusal = Answer {
        partial_success: Some(partial),
    };
    let body = refusal.encode_to_vec();
    let mut answer =
        format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len()).into_bytes();
    answer.extend(body);
    let collector = Collector::start(vec![answer]).await;
    let mut client = Client::new(target(collector.url.clone()));
    assert_eq!(client.send(vec![1, 2, 3]).await, Ok(refusal));
    let heard = collector.heard.await.unwrap().remove(0).to_lowercase();
    for part in [
        "post /v1/traces http/1.1",
        "host: 127.0.0.1:",
        "application/x-protobuf",
        "x-tenant: blue",
        "content-length: 3",
        "user-agent: oncue/",
    ] {
        assert!(heard.contains(part), "{part} in {heard}");
    }
}

#[tokio::test]
async fn a_connection_that_the_collector_closed_is_opened_again() {
    let collector = Collector::start(vec![taken(), taken()]).await;
    let mut client = Client::new(target(collector.url.clone()));
    for _ in 0..2 {
        assert_eq!(client.send(vec![1]).await, Ok(Answer::default()));
    }
    assert_eq!(collector.heard.await.unwrap().len(), 2);
}

#[tokio::test]
async fn credentials_of_a_url_are_sent_as_such() {
    let collector = Collector::start(vec![taken()]).await;
    let url = collector.url.replace("http://", "http://me:a%20b@");
    assert_eq!(
        Client::new(target(url)).send(vec![1]).await,
        Ok(Answer::default())
    );
    let heard = collector.heard.await.unwrap().remove(0);
    assert!(heard.contains("authorization: Basic bWU6YSBi"), "{heard}");
    assert!(!heard.contains('@'), "{heard}");
}

#[cfg(feature = "gzip")]
#[tokio::test]
async fn a_body_is_compressed_where_that_is_asked_for() {
    use std::io::Read as _;

    let collector = Collector::start(vec![taken()]).await;
    let target = Target {
        gzip: true,
        ..target(collector.url.clone())
    };
    let mut client = Client::new(target);
    assert_eq!(client.send(vec![1; 999]).await, Ok(Answer::default()));
    let heard = collector.heard.await.unwrap().remove(0);
    assert!(heard.contains("content-encoding: gzip"), "{heard}");
    let packed = http::packed(&client.target, vec![1; 999]).unwrap();
    let mut read = Vec::new();
    flate2::read::GzDecoder::new(&*packed)
        .read_to_end(&mut read)
        .unwrap();
    assert_eq!(read, vec![1; 999]);
}

#[tokio::test]
async fn a_collector_that_cannot_take_them_is_an_error_that_says_so() {
    let full = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n".to_vec();
    let collector = Collector::start(vec![full]).await;
    let url = collector.url.clone();
    assert_eq!(
        send(&url).await,
        Err("the collector answers 503 Service Unavailable".to_owned())
    );
    collector.heard.await.unwrap(); // nobody listens any more
    assert!(
        send(&url).await.is_err_and(|why| why.contains("refused")),
        "the innermost cause is told"
    );
    assert!(
        send("https://127.0.0.1/v1/traces")
            .await
            .is_err_and(|why| why.contains("only http://")),
        "TLS is refused, not left out"
    );
}

async fn send(url: &str) -> Result<Answer, String> {
    Client::new(target(url.to_owned())).send(vec![1]).await
}
