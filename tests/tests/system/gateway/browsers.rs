//! What pages of other sites may do, and what answers tell browsers.

use std::io::Read as _;

use oncue_gateway::server::Guards;
use oncue_tests::http::JSON;

use super::{Gateway, VIEWED};

const VIEW: &str = r#"{"page":"/home","visitor":"v1"}"#;

#[tokio::test]
async fn only_pages_that_are_named_may_use_the_api() {
    let config =
        "[auth.a]\nkeys = true\n[gateway]\ncors = { origins = [\"https://shop.example\"] }\n";
    let gateway = Gateway::with(config, Guards::default()).await;
    let ask = async |origin: &str| {
        let asked = [
            ("origin", origin),
            ("access-control-request-method", "POST"),
            (
                "access-control-request-headers",
                "content-type,authorization",
            ),
        ];
        gateway.send("OPTIONS", VIEWED, &asked, "").await
    };
    let allowed = ask("https://shop.example").await;
    assert_eq!(allowed.status, 200, "{}", allowed.head);
    let origin = allowed.header("access-control-allow-origin");
    assert_eq!(origin, Some("https://shop.example"));
    let headers = allowed.header("access-control-allow-headers").unwrap();
    assert!(headers.contains("authorization"), "{headers}");
    assert_eq!(allowed.header("access-control-allow-credentials"), None);
    for other in ["https://evil.example", "http://shop.example", "null"] {
        let refused = ask(other).await;
        assert_eq!(
            refused.header("access-control-allow-origin"),
            None,
            "{other}"
        );
    }
    let write = async |origin: &str| {
        let headers = [JSON, ("origin", origin), ("sec-fetch-site", "cross-site")];
        gateway.send("POST", VIEWED, &headers, VIEW).await
    };
    let taken = write("https://shop.example").await;
    assert_eq!(taken.status, 202, "{}", taken.text());
    let origin = taken.header("access-control-allow-origin");
    assert_eq!(origin, Some("https://shop.example"));
    let exposed = taken.header("access-control-expose-headers").unwrap();
    for name in ["ce-id", "ce-source", "ce-type", "ce-time", "ratelimit"] {
        assert!(exposed.split(',').any(|one| one == name), "{exposed}");
    }
    write("https://evil.example")
        .await
        .problem(403, "forbidden");
    assert_eq!(gateway.messages("web").await, 1);
    // What is no preflight is answered as always, and a preflight under a name that is not this gateway's is not.
    let sender = [("webhook-request-origin", "sender.example")];
    let leave = gateway.send("OPTIONS", VIEWED, &sender, "").await;
    let origin = leave.header("webhook-allowed-origin");
    assert_eq!((leave.status, origin), (200, Some("sender.example")));
    let elsewhere = [
        ("host", "elsewhere.example"),
        ("origin", "https://shop.example"),
        ("access-control-request-method", "POST"),
    ];
    let misdirected = gateway.send("OPTIONS", VIEWED, &elsewhere, "").await;
    misdirected.problem(421, "misdirected");
    let asked = [
        ("origin", "https://shop.example"),
        ("access-control-request-method", "DELETE"),
        ("access-control-request-headers", "ce-id,x-tenant"),
    ];
    let of_a_route = gateway.send("OPTIONS", VIEWED, &asked, "").await;
    let methods = of_a_route.header("access-control-allow-methods").unwrap();
    assert!(
        methods.contains("DELETE") && methods.contains("PATCH"),
        "{methods}"
    );
    let headers = of_a_route.header("access-control-allow-headers").unwrap();
    assert!(headers.contains("x-tenant"), "{headers}");
}

#[tokio::test]
async fn answers_are_hardened_and_text_is_made_smaller() {
    let cluster = oncue_tests::cluster::Cluster::new("[gateway]\nsite = \"page\"\n").await;
    let folder = cluster.dir.join("page");
    std::fs::create_dir(&folder).unwrap();
    let text = "<p>hello".repeat(1000);
    std::fs::write(folder.join("index.html"), &text).unwrap();
    let gateway = on_its_file(cluster).await;
    let plain = gateway.get("/").await;
    assert_eq!(plain.text(), text);
    assert_eq!(plain.header("x-content-type-options"), Some("nosniff"));
    assert_eq!(plain.header("x-frame-options"), Some("SAMEORIGIN"));
    assert_eq!(
        plain.header("strict-transport-security"),
        None,
        "not without TLS"
    );
    let small = gateway
        .send("GET", "/", &[("accept-encoding", "gzip")], "")
        .await;
    assert_eq!(small.header("content-encoding"), Some("gzip"));
    assert!(small.body.len() < text.len() / 4, "{}", small.body.len());
    let tag = small.header("etag").unwrap();
    assert!(tag.starts_with("W/"), "{tag}");
    let mut whole = String::new();
    let body = dechunked(&small.body);
    flate2::read::GzDecoder::new(&body[..])
        .read_to_string(&mut whole)
        .unwrap();
    assert_eq!(whole, text);
    let known = [("accept-encoding", "gzip"), ("if-none-match", tag)];
    assert_eq!(gateway.send("GET", "/", &known, "").await.status, 304);
    // Files come back as they were sent, whatever a browser could unpack.
    let file = gateway.send("PUT", "/v1/files/a.txt", &[], &text).await;
    let path = format!("/v1/files/{}", file.json()["file"].as_str().unwrap());
    let file = gateway
        .send("GET", &path, &[("accept-encoding", "gzip")], "")
        .await;
    assert_eq!(file.header("content-encoding"), None);
    assert_eq!(file.body.len(), text.len());
}

async fn on_its_file(cluster: oncue_tests::cluster::Cluster) -> Gateway {
    Gateway::on(cluster, Guards::default()).await
}

/// Body without the marks of its chunks.
fn dechunked(mut body: &[u8]) -> Vec<u8> {
    let mut whole = Vec::new();
    while let Some(end) = body.windows(2).position(|two| two == b"\r\n") {
        let size = std::str::from_utf8(&body[..end]).unwrap();
        let size = usize::from_str_radix(size, 16).unwrap();
        if size == 0 {
            break;
        }
        whole.extend_from_slice(&body[end + 2..end + 2 + size]);
        body = &body[end + 4 + size..];
    }
    whole
}
