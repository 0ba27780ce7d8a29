//! `PUT /v1/files/{name}` and reading back.

use std::time::Duration;

use oncue_core::bus::info::StreamState;
use oncue_gateway::server::Guards;
use oncue_proto::files::FileUploaded;
use oncue_tests::cluster::{Stored, wait_for};
use prost::Message as _;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::Gateway;

fn bytes(length: usize) -> Vec<u8> {
    (0..length).map(|i| (i * 31 % 251) as u8).collect()
}

async fn stored(gateway: &Gateway) -> StreamState {
    gateway.stream("OBJ_app_files").await
}

#[tokio::test]
async fn a_file_goes_in_and_comes_out() {
    let gateway = Gateway::start().await;
    let content = bytes(700_000);
    let answer = gateway
        .send(
            "PUT",
            "/v1/files/a%20b.png",
            &[("oncue-owner", "ann")],
            &content,
        )
        .await;
    assert_eq!(answer.status, 202, "{}", answer.text());
    let json = answer.json();
    let file = json["file"].as_str().unwrap();
    assert_eq!(
        answer.header("link"),
        Some(format!("</v1/files/{file}>; rel=\"item\"").as_str())
    );
    assert_eq!(
        (json["size"].as_u64(), answer.header("traceparent")),
        (Some(700_000), json["traceparent"].as_str())
    );
    let Stored {
        headers, payload, ..
    } = gateway.message("files", 1).await;
    let event = FileUploaded::decode(&payload[..]).unwrap();
    assert_eq!(
        (
            event.file.as_str(),
            event.name.as_str(),
            event.owner.as_str(),
            event.size
        ),
        (file, "a b.png", "ann", 700_000)
    );
    assert_eq!(event.sha256, json["sha256"].as_str().unwrap());
    assert!(
        headers.contains(&format!("ce-id: {}", json["id"].as_str().unwrap()))
            && headers.contains("ce-time"),
        "{headers}"
    );

    let path = format!("/v1/files/{file}");
    let got = gateway.get(&path).await;
    assert!(got.status == 200 && got.body == content);
    let tag = format!("\"{}\"", event.sha256);
    for (name, value) in [
        ("content-type", "application/octet-stream"),
        (
            "content-disposition",
            "attachment; filename=\"a b.png\"; filename*=UTF-8''a%20b.png",
        ),
        ("x-content-type-options", "nosniff"),
        ("accept-ranges", "bytes"),
        ("content-length", "700000"),
        ("etag", &tag),
    ] {
        assert_eq!(got.header(name), Some(value), "{}", got.head);
    }
    let head = gateway.send("HEAD", &path, &[], "").await;
    assert_eq!(
        (head.status, head.header("content-length"), head.body.len()),
        (200, Some("700000"), 0)
    );
    // A range is of GET alone [RFC 9110 section 14.2].
    for range in ["bytes=0-9", "bytes=900000-"] {
        let head = gateway.send("HEAD", &path, &[("range", range)], "").await;
        assert_eq!(
            (
                head.status,
                head.header("content-length"),
                head.header("content-range")
            ),
            (200, Some("700000"), None)
        );
    }
    assert_eq!(
        gateway
            .send("GET", &path, &[("if-none-match", &tag)], "")
            .await
            .status,
        304
    );
    assert_eq!(
        gateway
            .send("GET", &path, &[("if-none-match", "\"x\"")], "")
            .await
            .status,
        200
    );
}

#[tokio::test]
async fn ranges() {
    let gateway = Gateway::start().await;
    let content = bytes(300_000);
    let json = gateway
        .send("PUT", "/v1/files/x", &[], &content)
        .await
        .json();
    let path = format!("/v1/files/{}", json["file"].as_str().unwrap());
    let part = async |range: &str| gateway.send("GET", &path, &[("range", range)], "").await;
    for (range, from, to) in [
        ("bytes=0-9", 0, 10),
        ("bytes=131070-131075", 131_070, 131_076),
        ("bytes=299990-", 299_990, 300_000),
        ("bytes=-5", 299_995, 300_000),
    ] {
        let got = part(range).await;
        assert_eq!(got.status, 206, "{range}");
        assert_eq!(
            got.header("content-range"),
            Some(format!("bytes {from}-{}/300000", to - 1).as_str())
        );
        assert_eq!(
            got.header("content-length"),
            Some((to - from).to_string().as_str())
        );
        assert!(got.body == content[from..to], "{range}");
    }
    let beyond = part("bytes=300000-").await;
    beyond.problem(416, "range");
    assert_eq!(beyond.header("content-range"), Some("bytes */300000"));
    for whole in ["bytes=0-1,5-6", "lines=1-2", "bytes=9-1"] {
        assert_eq!(part(whole).await.status, 200, "{whole}");
    }
    let other = gateway
        .send(
            "GET",
            &path,
            &[("range", "bytes=0-9"), ("if-range", "\"other\"")],
            "",
        )
        .await;
    assert_eq!((other.status, other.body.len()), (200, 300_000));
}

#[tokio::test]
async fn an_empty_file_is_a_file() {
    let gateway = Gateway::start().await;
    let json = gateway.send("PUT", "/v1/files/empty", &[], "").await.json();
    assert_eq!(
        json["sha256"],
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    );
    let path = format!("/v1/files/{}", json["file"].as_str().unwrap());
    let got = gateway.get(&path).await;
    assert_eq!((got.status, got.body.len()), (200, 0));
    gateway
        .send("GET", &path, &[("range", "bytes=0-")], "")
        .await
        .problem(416, "range");
}

#[tokio::test]
async fn derived_pictures_are_shown_and_others_are_attachments() {
    let gateway = Gateway::start().await;
    let put = async |name: &str, media_type: &str| {
        let source = futures_util::stream::iter([Ok(bytes::Bytes::from_static(b"picture"))]);
        gateway
            .bus
            .put_object(name, &[("media_type", media_type)], source, 1000)
            .await
            .unwrap();
    };
    put("abc.64", "image/png").await;
    put("abc.256", "text/html").await;
    let got = gateway.get("/v1/files/abc/derived/64").await;
    assert_eq!(
        (got.status, got.header("content-type"), got.text().as_str()),
        (200, Some("image/png"), "picture")
    );
    assert!(
        got.header("content-security-policy")
            .unwrap()
            .contains("sandbox")
    );
    assert!(got.header("cache-control").unwrap().contains("max-age"));
    assert_eq!(got.header("x-content-type-options"), Some("nosniff"));
    assert_eq!(
        gateway
            .send(
                "GET",
                "/v1/files/abc/derived/64",
                &[("range", "bytes=0-3")],
                ""
            )
            .await
            .text(),
        "pict"
    );
    // The kind is the app's own word; the object is the same.
    assert_eq!(
        gateway.get("/v1/files/abc/thumbnails/64").await.text(),
        "picture"
    );
    let other = gateway.get("/v1/files/abc/derived/256").await;
    assert_eq!(
        (other.status, other.header("content-type")),
        (200, Some("application/octet-stream"))
    );
    let disposition = other.header("content-disposition").unwrap();
    assert!(disposition.starts_with("attachment"), "{disposition}");
    for nothing in [
        "abc/derived/1024",
        "abc/derived/x",
        "abc/derived/6%34",
        "abc/derived/",
        "abc/derived",
        "abc.64",
        "abc",
        "a%2Fb",
        "a.b/derived/64",
        &"x".repeat(65),
    ] {
        gateway
            .get(&format!("/v1/files/{nothing}"))
            .await
            .problem(404, "not-found");
    }
}

#[tokio::test]
async fn a_retry_gives_the_same_file() {
    let gateway = Gateway::start().await;
    let key = [("idempotency-key", "up-1")];
    let first = gateway.send("PUT", "/v1/files/a.txt", &key, "hello").await;
    let again = gateway.send("PUT", "/v1/files/a.txt", &key, "hello").await;
    assert_eq!((first.status, again.status), (202, 202), "{}", again.text());
    assert_eq!(first.json(), again.json());
    gateway
        .send("PUT", "/v1/files/a.txt", &key, "another")
        .await
        .problem(409, "id-reuse");
    assert_eq!(gateway.messages("files").await, 1);
    assert!(
        !gateway
            .message("files", 1)
            .await
            .headers
            .contains("ce-time")
    );
    let state = stored(&gateway).await;
    assert_eq!(
        state.messages, 2,
        "one chunk and its description: {state:?}"
    );
    // The key is the owner's own.
    let other = gateway
        .send(
            "PUT",
            "/v1/files/a.txt",
            &[key[0], ("oncue-owner", "bob")],
            "another",
        )
        .await;
    assert!(other.status == 202 && other.json()["file"] != first.json()["file"]);
}

/// Two requests with one key at a time: one file stands, and whoever was told that it does is right.
#[tokio::test]
async fn two_uploads_under_one_key_leave_the_file_that_was_accepted() {
    for (second, status) in [("world", 409), ("hello", 202)] {
        let gateway = Gateway::start().await;
        let head = "PUT /v1/files/a.txt HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\nidempotency-key: up-7\r\n\
                    content-length: 5\r\n\r\n";
        let mut slow = TcpStream::connect(gateway.at).await.unwrap();
        let begun = [head, &second[..1]].concat();
        slow.write_all(begun.as_bytes()).await.unwrap();
        tokio::time::sleep(Duration::from_millis(300)).await;
        let key = [("idempotency-key", "up-7")];
        let first = gateway.send("PUT", "/v1/files/a.txt", &key, "hello").await;
        assert_eq!(first.status, 202, "{}", first.text());
        slow.write_all(&second.as_bytes()[1..]).await.unwrap();
        let mut answer = String::new();
        slow.read_to_string(&mut answer).await.unwrap();
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status}")),
            "{answer}"
        );
        let file = first.json()["file"].as_str().unwrap().to_owned();
        let there = gateway.get(&format!("/v1/files/{file}")).await;
        assert_eq!((there.status, &*there.text()), (200, "hello"));
        assert_eq!(gateway.messages("files").await, 1);
        wait_for("the other bytes to go", || async {
            stored(&gateway).await.messages == 2
        })
        .await;
    }
}

#[tokio::test]
async fn refusals_leave_nothing_behind() {
    let gateway = Gateway::with("[gateway]\nmax_file = \"300KiB\"\n", Guards::default()).await;
    for bad in [
        "",
        "..",
        "a%00b",
        "%ff",
        "a%2F",
        "..%2f..%2fx",
        "a%5cb.jpg",
        &"x".repeat(256),
    ] {
        gateway
            .send("PUT", &format!("/v1/files/{bad}"), &[], "x")
            .await
            .problem(400, "malformed");
    }
    for bad in [
        ("oncue-owner", ""),
        ("oncue-owner", &"x".repeat(129)),
        ("idempotency-key", &"x".repeat(129)),
    ] {
        gateway
            .send("PUT", "/v1/files/x", &[bad], "x")
            .await
            .problem(400, "malformed");
    }
    gateway
        .send("PUT", "/v1/files/x", &[], bytes(400_000))
        .await
        .problem(413, "too-large");
    let head = "PUT /v1/files/x HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n";
    let body = [
        format!("{:x}\r\n", 400_000).into_bytes(),
        bytes(400_000),
        b"\r\n0\r\n\r\n".to_vec(),
    ]
    .concat();
    gateway
        .raw(&[head.as_bytes(), &body].concat())
        .await
        .unwrap()
        .problem(413, "too-large");
    wait_for("chunks of refused uploads to go", || async {
        stored(&gateway).await.messages == 0
    })
    .await;
    assert_eq!(gateway.messages("files").await, 0);
}

#[tokio::test]
async fn an_aborted_upload_leaves_nothing_behind() {
    let gateway = Gateway::start().await;
    let mut client = TcpStream::connect(gateway.at).await.unwrap();
    client
        .write_all(
            b"PUT /v1/files/x HTTP/1.1\r\nhost: localhost\r\ncontent-length: 8000000\r\n\r\n",
        )
        .await
        .unwrap();
    client.write_all(&bytes(5_000_000)).await.unwrap();
    wait_for("chunks to arrive", || async {
        stored(&gateway).await.messages > 8
    })
    .await;
    drop(client);
    wait_for("the chunks to go", || async {
        stored(&gateway).await.messages == 0
    })
    .await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(stored(&gateway).await.messages, 0, "none may come after");
    assert_eq!(gateway.messages("files").await, 0);
}

#[tokio::test]
async fn a_file_nobody_was_told_of_is_taken_back() {
    let gateway = Gateway::with("", Guards::default()).await;
    // There is room, and the stream takes no message of this size.
    let info = gateway.bus.api("STREAM.INFO.files", &Value::Null).await;
    let mut config = info.expect("a stream")["config"].clone();
    config["max_msg_size"] = json!(1);
    let changed = gateway.bus.api("STREAM.UPDATE.files", &config).await;
    changed.expect("changed");
    let answer = gateway
        .send("PUT", "/v1/files/x", &[], bytes(300_000))
        .await;
    answer.problem(413, "too-large");
    wait_for("the chunks to go", || async {
        stored(&gateway).await.messages == 1
    })
    .await; // the mark of a deleted object
}

#[tokio::test]
async fn a_full_bucket_is_503() {
    let gateway = Gateway::with(
        "[streams.objects]\nmax_bytes = \"500KiB\"\n",
        Guards::default(),
    )
    .await;
    gateway
        .send("PUT", "/v1/files/x", &[], bytes(2_000_000))
        .await
        .problem(503, "full");
    wait_for("the chunks to go", || async {
        stored(&gateway).await.messages == 0
    })
    .await;
    assert_eq!(
        gateway
            .send("PUT", "/v1/files/x", &[], bytes(200_000))
            .await
            .status,
        202
    );
}
