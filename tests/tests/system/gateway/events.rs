//! `POST /v1/events/{type}`.

use oncue_app_events::web::PageViewed;
use oncue_core::contract;
use oncue_gateway::server::Guards;
use oncue_proto::event;
use oncue_tests::cluster::{Stored, wait_for};
use oncue_tests::http::{ANSWER_TIMEOUT, JSON};
use prost::Message as _;
use serde_json::json;

use super::{Gateway, VIEWED};

const HOME: &str = r#"{"page":"/home","visitor":"v1"}"#;
const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

#[tokio::test]
async fn json_is_taken_as_it_was_written() {
    let gateway = Gateway::start().await;
    let body = r#"{ "page": "/home", "visitor": "v1", "newer": [1.50] }"#;
    let answer = gateway.send("POST", VIEWED, &[JSON], body).await;
    assert_eq!(answer.status, 202, "{}", answer.text());
    let taken = answer.json();
    assert_eq!(taken["flow"], taken["id"]);
    assert_eq!(
        (&taken["type"], &taken["key"]),
        (&json!("web.page.viewed"), &json!("/home"))
    );
    assert_eq!(
        (&taken["stream"], &taken["sequence"], &taken["duplicate"]),
        (&json!("web"), &json!(1), &json!(false))
    );
    assert_eq!(answer.header("traceparent"), taken["traceparent"].as_str());
    let Stored {
        headers, payload, ..
    } = gateway.message("web", 1).await;
    assert_eq!(String::from_utf8(payload).unwrap(), body);
    for line in [
        "ce-source: /gateway",
        "ce-datacontenttype: application/json",
        "ce-subject: /home",
        "ce-hopcount: 0",
        "ce-time: 20",
    ] {
        assert!(headers.contains(line), "{line} in {headers}");
    }
    assert!(headers.contains(&format!(
        "traceparent: {}",
        answer.header("traceparent").unwrap()
    )));
    assert!(headers.contains(&format!("Nats-Msg-Id: {}", taken["id"].as_str().unwrap())));
}

#[tokio::test]
async fn protobuf_with_fields_of_a_newer_contract() {
    let gateway = Gateway::start().await;
    let mut body = PageViewed {
        page: "a".into(),
        visitor: "v".into(),
        ..PageViewed::default()
    }
    .encode_to_vec();
    body.extend([0xfa, 0x06, 0x01, b'x']); // field 111
    for media_type in ["application/protobuf", "application/x-protobuf"] {
        let answer = gateway
            .send("POST", VIEWED, &[("content-type", media_type)], &body)
            .await;
        assert_eq!(answer.status, 202, "{}", answer.text());
        let Stored {
            headers, payload, ..
        } = gateway
            .message("web", answer.json()["sequence"].as_u64().unwrap())
            .await;
        assert_eq!(payload, body);
        assert!(
            headers.contains("ce-datacontenttype: application/protobuf"),
            "{headers}"
        );
    }
}

#[tokio::test]
async fn cloudevents_in_both_modes() {
    let gateway = Gateway::start().await;
    let hour_ago = oncue_proto::event::now_ms() / 1000 * 1000 - 3_600_000;
    let time = oncue_proto::event::format_time(hour_ago);
    let short = time.replace(".000", "");
    let binary = [
        JSON,
        ("ce-specversion", "1.0"),
        ("ce-id", "a%20b"),
        ("ce-source", "/shop"),
        ("ce-type", "web.page.viewed"),
        ("ce-time", &*short),
    ];
    let answer = gateway.send("POST", VIEWED, &binary, HOME).await;
    assert_eq!(
        (answer.status, &answer.json()["id"]),
        (202, &json!("a b")),
        "{}",
        answer.text()
    );
    let headers = gateway.message("web", 1).await.headers;
    assert!(
        headers.contains(&format!("ce-time: {time}")) && headers.contains("ce-source: /shop"),
        "{headers}"
    );

    let structured = [(
        "content-type",
        "application/cloudevents+json; charset=UTF-8",
    )];
    let event = r#"{"specversion":"1.0","id":"s1","source":"/shop","type":"web.page.viewed","data":{"page" : "/x"}}"#;
    let answer = gateway.send("POST", VIEWED, &structured, event).await;
    assert_eq!(answer.status, 202, "{}", answer.text());
    let Stored {
        headers, payload, ..
    } = gateway.message("web", 2).await;
    assert_eq!(payload, br#"{"page" : "/x"}"#);
    assert!(
        !headers.contains("ce-time"),
        "an id without a time goes without: {headers}"
    );
    let event = r#"{"specversion":"1.0","id":"s2","source":"/shop","type":"web.page.viewed","datacontenttype":"application/protobuf","data_base64":"CgIveA=="}"#;
    assert_eq!(
        gateway
            .send("POST", VIEWED, &structured, event)
            .await
            .json()["key"],
        "/x"
    );

    for (broken, why) in [
        ("{", "not a structured CloudEvent"),
        (
            r#"{"specversion":"1.0","type":"web.page.viewed"}"#,
            "neither data nor data_base64",
        ),
        (
            r#"{"specversion":"1.0","data":{},"data_base64":""}"#,
            "both",
        ),
        (
            r#"{"specversion":"0.3","data":{"page":"a"}}"#,
            "specversion",
        ),
        (r#"{"data":{"page":"a"}}"#, "specversion"),
        (
            r#"{"specversion":"1.0","type":"web.other","data":{"page":"a"}}"#,
            "the path says",
        ),
        (
            r#"{"specversion":"1.0","data_base64":"***"}"#,
            "data_base64",
        ),
        (
            r#"{"specversion":"1.0","id":7,"data":{"page":"a"}}"#,
            "id is not a string",
        ),
    ] {
        let detail = gateway
            .send("POST", VIEWED, &structured, broken)
            .await
            .problem(400, "malformed");
        assert!(detail.contains(why), "{detail}");
    }
    let batch = [("content-type", "application/cloudevents-batch+protobuf")];
    let detail = gateway.send("POST", VIEWED, &batch, "[]").await;
    let detail = detail.problem(415, "media-type");
    assert!(detail.contains("only the JSON form"), "{detail}");
}

#[tokio::test]
#[allow(clippy::too_many_lines)] // one scenario, whose steps build on each other
async fn refusals() {
    let gateway = Gateway::start().await;
    let post = async |path: &str, headers: &[(&str, &str)], body: &str| {
        gateway.send("POST", path, headers, body).await
    };
    assert!(
        post("/v1/events/web.page.viewd", &[JSON], HOME)
            .await
            .problem(404, "unknown-type")
            .contains("web.page.viewed")
    );
    for bad in [
        "web.page.%3E",
        "web..viewed",
        "web.*.viewed",
        "web.p%20q.x",
        "web.page.%ff",
        "web.page.view%C3%A9d",
        &"x".repeat(65),
    ] {
        post(&format!("/v1/events/{bad}"), &[JSON], HOME)
            .await
            .problem(400, "malformed");
    }
    for platform in [
        "dlq.letter.written",
        "timer.fired.now",
        "dlq",
        "timer.timer.fired",
    ] {
        post(&format!("/v1/events/{platform}"), &[JSON], HOME)
            .await
            .problem(403, "forbidden");
    }
    for (body, why) in [
        ("{", "line 1"),
        ("[]", "web.PageViewed"),
        (r#"{"page":7}"#, "line 1"),
        (r#"{"page":"a"} x"#, "trailing"),
    ] {
        let detail = post(VIEWED, &[JSON], body).await.problem(400, "malformed");
        assert!(detail.contains(why), "{detail}");
    }
    post(
        VIEWED,
        &[("content-type", "application/protobuf")],
        "\u{1}\u{2}garbage",
    )
    .await
    .problem(400, "malformed");
    let deep = format!(
        "{{\"page\":\"a\",\"x\":{}{}}}",
        "[".repeat(5000),
        "]".repeat(5000)
    );
    post(VIEWED, &[JSON], &deep).await.problem(400, "malformed");
    for empty in ["{}", r#"{"page":""}"#] {
        assert!(
            post(VIEWED, &[JSON], empty)
                .await
                .problem(400, "empty-key")
                .contains("page")
        );
    }
    // A page of any site may send what has no content type, without asking first.
    let unsaid = post(VIEWED, &[], HOME).await;
    assert!(
        unsaid
            .problem(415, "media-type")
            .contains("-H 'content-type: application/json'")
    );
    post(
        VIEWED,
        &[("content-type", "application/x-www-form-urlencoded")],
        "a=b",
    )
    .await
    .problem(415, "media-type");
    post(VIEWED, &[JSON, ("content-encoding", "gzip")], HOME)
        .await
        .problem(415, "media-type");
    let long = "x".repeat(129);
    for header in [
        ("ce-id", long.as_str()),
        ("idempotency-key", long.as_str()),
        ("ce-id", ""),
        ("ce-time", "yesterday"),
        ("ce-specversion", "2"),
        ("ce-type", "a.b.c"),
        ("ce-id", "a%00"),
    ] {
        post(VIEWED, &[JSON, header], HOME)
            .await
            .problem(400, "malformed");
    }
    post(VIEWED, &[JSON, ("ce-id", "a"), ("ce-id", "b")], HOME)
        .await
        .problem(400, "malformed");
    let later = event::format_time(event::now_ms() + 2 * 3600 * 1000);
    post(VIEWED, &[JSON, ("ce-time", &later)], HOME)
        .await
        .problem(400, "clock");
    for foreign in [
        ("sec-fetch-site", "cross-site"),
        ("sec-fetch-site", "same-site"),
        ("origin", "http://evil.example"),
        ("origin", "null"),
    ] {
        post(VIEWED, &[JSON, foreign], HOME)
            .await
            .problem(403, "forbidden");
        let put = gateway.send("PUT", "/v1/files/x", &[foreign], "x").await;
        put.problem(403, "forbidden");
    }
    let rebound = [JSON, ("host", "evil.example:8080")];
    let refused = post(VIEWED, &rebound, HOME).await;
    assert!(
        refused
            .problem(421, "misdirected")
            .contains("[gateway] hosts")
    );
    let read = gateway.send("GET", "/healthz", &[("host", "evil.example")], "");
    assert_eq!(read.await.status, 421);
    assert_eq!(
        gateway.messages("web").await,
        0,
        "nothing refused may be in the stream"
    );
    // Known to the bus, not to clients.
    let reserved = [
        JSON,
        ("Nats-Expected-Stream", "other"),
        ("Nats-TTL", "1s"),
        ("x-unknown", "1"),
    ];
    assert_eq!(post(VIEWED, &reserved, HOME).await.status, 202);
    let own = format!("http://{}", gateway.at);
    for ours in [
        [JSON, ("origin", &own)],
        [JSON, ("sec-fetch-site", "same-origin")],
        [JSON, ("host", "localhost:1")],
    ] {
        assert_eq!(post(VIEWED, &ours, HOME).await.status, 202, "{ours:?}");
    }
    assert!(!gateway.message("web", 1).await.headers.contains("Nats-TTL"));
}

#[tokio::test]
async fn one_id_counts_once() {
    let gateway = Gateway::start().await;
    for (header, id) in [("ce-id", "c1"), ("Idempotency-Key", "k1")] {
        let first = gateway
            .send(
                "POST",
                VIEWED,
                &[JSON, (header, id), ("traceparent", PARENT)],
                HOME,
            )
            .await;
        let again = gateway
            .send("POST", VIEWED, &[JSON, (header, id)], HOME)
            .await;
        assert_eq!((first.status, again.status), (202, 202), "{}", again.text());
        let (first, again) = (first.json(), again.json());
        assert_eq!((&first["id"], &again["id"]), (&json!(id), &json!(id)));
        assert_eq!(
            (&first["duplicate"], &again["duplicate"]),
            (&json!(false), &json!(true))
        );
        assert_eq!(first["sequence"], again["sequence"]);
        assert_eq!(
            first["traceparent"], again["traceparent"],
            "the trace in which it was handled"
        );
        let other = gateway
            .send(
                "POST",
                VIEWED,
                &[JSON, (header, id)],
                r#"{"page":"/other"}"#,
            )
            .await;
        assert!(other.problem(409, "id-reuse").contains(id));
        let other = gateway
            .send(
                "POST",
                "/v1/events/web.page.milestone",
                &[JSON, (header, id)],
                HOME,
            )
            .await;
        // Closed to clients, before anything else is looked at.
        assert!(other.problem(403, "forbidden").contains("public"));
    }
    assert_eq!(gateway.messages("web").await, 2);
    // Quoted, as the draft of the header wants it, is the same key.
    let quoted = gateway
        .send("POST", VIEWED, &[JSON, ("idempotency-key", "\"k1\"")], HOME)
        .await;
    assert_eq!(quoted.json()["duplicate"], true);
}

#[tokio::test]
async fn a_trace_is_continued_and_a_broken_one_ignored() {
    let gateway = Gateway::start().await;
    let trace_id = &PARENT[3..35];
    let headers = [
        JSON,
        ("traceparent", PARENT),
        ("tracestate", "a=1"),
        ("baggage", "k=v"),
    ];
    let answer = gateway.send("POST", VIEWED, &headers, HOME).await;
    assert!(answer.header("traceparent").unwrap().contains(trace_id));
    let stored = gateway.message("web", 1).await.headers;
    assert!(
        stored.contains(trace_id)
            && stored.contains("tracestate: a=1")
            && stored.contains("baggage: k=v"),
        "{stored}"
    );
    let long = format!("k={}", "v".repeat(9000));
    let many: Vec<_> = (0..33).map(|n| format!("vvvv{n}=1")).collect();
    let many = [
        JSON,
        ("traceparent", PARENT),
        ("tracestate", &many.join(",")),
    ];
    assert_eq!(gateway.send("POST", VIEWED, &many, HOME).await.status, 202);
    let stored = gateway.message("web", 2).await.headers;
    assert!(
        stored.contains(trace_id) && !stored.contains("vvvv"),
        "{stored}"
    );
    for bad in [
        (
            "traceparent",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
        ),
        (
            "traceparent",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        ),
        ("traceparent", "nonsense"),
        ("baggage", &long),
        ("tracestate", &long),
    ] {
        let answer = gateway.send("POST", VIEWED, &[JSON, bad], HOME).await;
        assert_eq!(answer.status, 202, "{bad:?}");
        let traceparent = answer.header("traceparent").unwrap();
        assert!(
            traceparent.len() == 55 && !traceparent.contains(trace_id),
            "{traceparent}"
        );
        let stored = gateway
            .message("web", answer.json()["sequence"].as_u64().unwrap())
            .await
            .headers;
        assert!(
            !stored.contains("vvvv") && stored.contains(traceparent),
            "{stored}"
        );
    }
    // Nothing is dropped unseen.
    let metrics = gateway.get("/metrics").await.text();
    for counted in [r#"{header="tracestate"} 2"#, r#"{header="baggage"} 1"#] {
        let line = format!("oncue_telemetry_context_dropped_total{counted}\n");
        assert!(metrics.contains(&line), "{metrics}");
    }
    let problem = gateway
        .send("POST", VIEWED, &[JSON, ("traceparent", PARENT)], "{")
        .await;
    assert_eq!(problem.json()["trace_id"], trace_id);
}

#[tokio::test]
async fn too_large() {
    let gateway = Gateway::with("[gateway]\nmax_event = \"1KiB\"\n", Guards::default()).await;
    let body = format!(r#"{{"page":"{}"}}"#, "x".repeat(2000));
    gateway
        .send("POST", VIEWED, &[JSON], &body)
        .await
        .problem(413, "too-large");
    // Chunked: nobody says beforehand how long it is.
    let chunk = format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len());
    let head = format!(
        "POST {VIEWED} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
    );
    gateway
        .raw(&[head.as_bytes(), chunk.as_bytes()].concat())
        .await
        .unwrap()
        .problem(413, "too-large");

    let gateway = Gateway::with("[gateway]\nmax_event = \"4MiB\"\n", Guards::default()).await;
    let body = format!(r#"{{"page":"a","visitor":"{}"}}"#, "x".repeat(1_048_500));
    gateway
        .send("POST", VIEWED, &[JSON], &body)
        .await
        .problem(413, "too-large");
    assert_eq!(
        gateway.send("POST", VIEWED, &[JSON], HOME).await.status,
        202,
        "the connection to NATS has survived"
    );
}

/// A limit is called by its name: this stream has room.
#[tokio::test]
async fn another_limit_than_the_streams_own_is_not_called_a_full_stream() {
    let gateway = Gateway::start().await;
    let bus = gateway.cluster.bus().await;
    let info = bus.api("STREAM.INFO.web", &json!(null)).await;
    let mut config = info.expect("a stream")["config"].clone();
    config["max_msgs_per_subject"] = json!(1);
    config["discard_new_per_subject"] = json!(true);
    let changed = bus.api("STREAM.UPDATE.web", &config).await;
    changed.expect("changed");
    let taken = gateway.send("POST", VIEWED, &[JSON], HOME).await;
    assert_eq!(taken.status, 202, "{}", taken.text());
    let refused = gateway.send("POST", VIEWED, &[JSON], HOME).await;
    let why = refused.problem(503, "bus-unable");
    assert!(why.contains("per subject"), "{why}");
}

#[tokio::test]
async fn a_full_stream_is_503_and_never_202() {
    let gateway = Gateway::with("[streams.web]\nmax_bytes = \"16KiB\"\n", Guards::default()).await;
    let body = format!(r#"{{"page":"/home","visitor":"{}"}}"#, "v".repeat(4000));
    let mut taken = 0;
    let refused = loop {
        let answer = gateway.send("POST", VIEWED, &[JSON], &body).await;
        if answer.status != 202 {
            break answer;
        }
        taken += 1;
        assert!(taken < 10, "never full");
    };
    refused.problem(503, "full");
    assert!(refused.header("retry-after").is_some());
    assert!(taken > 0 && gateway.messages("web").await == taken);
}

#[tokio::test]
async fn without_nats_it_is_503() {
    let mut gateway = Gateway::start().await;
    assert_eq!(
        gateway.send("POST", VIEWED, &[JSON], HOME).await.status,
        202
    );
    gateway.cluster.nats.kill();
    let started = std::time::Instant::now();
    let answer = gateway.send("POST", VIEWED, &[JSON], HOME).await;
    answer.problem(503, "away");
    assert!(answer.header("retry-after").is_some() && started.elapsed() < ANSWER_TIMEOUT);
    wait_for("not ready", || async {
        gateway.get("/readyz").await.status == 503
    })
    .await;
    assert!(
        gateway
            .get("/readyz")
            .await
            .problem(503, "not-ready")
            .contains("NATS")
    );
    gateway
        .send("PUT", "/v1/files/a", &[], "x")
        .await
        .problem(503, "away");
    gateway.get("/v1/files/abc").await.problem(503, "away");
    assert_eq!(gateway.get("/healthz").await.status, 200);
}

#[tokio::test]
async fn a_stream_that_was_deleted_is_503() {
    let gateway = Gateway::start().await;
    gateway
        .bus
        .api("STREAM.DELETE.web", &serde_json::Value::Null)
        .await
        .unwrap();
    gateway
        .send("POST", VIEWED, &[JSON], HOME)
        .await
        .problem(503, "away");
}

#[tokio::test]
async fn a_type_that_is_applied_while_the_gateway_runs_is_taken() {
    const NEW: &str = "/v1/events/web.page.glance";
    let gateway = Gateway::start().await;
    let answer = gateway.send("POST", NEW, &[JSON], HOME).await;
    answer.problem(404, "unknown-type");
    // Another program's contract: the demo's, with one type under a name of the same length.
    let mut set = oncue_app_events::DESCRIPTORS.to_vec();
    let ours = b"web.page.viewed";
    let at = set.windows(ours.len()).position(|window| window == ours);
    let at = at.expect("an event type");
    set[at..at + ours.len()].copy_from_slice(b"web.page.glance");
    contract::store(&gateway.bus, "glance", set)
        .await
        .expect("stored");
    wait_for("the gateway has taken it over", async || {
        let answer = gateway.send("POST", NEW, &[JSON], HOME).await;
        answer.status == 202
    })
    .await;
    // Those that it began with stay.
    let answer = gateway.send("POST", VIEWED, &[JSON], HOME).await;
    assert_eq!(answer.status, 202, "{}", answer.text());
}
