//! What the UI asks, answered from a small shop: gateway -> orders -> payment, and payment fails.

use opentelemetry_proto::tonic::{
    common::v1::any_value::Value as Any,
    trace::v1::{
        Span,
        span::{Event, SpanKind},
    },
};
use serde_json::{Value, json};

use crate::harness::{Viewer, attribute, escape, failed, http, linked, request, span, text, with};

fn kind(mut span: Span, kind: SpanKind) -> Span {
    span.kind = kind as i32;
    span
}

async fn shop() -> Viewer {
    let viewer = Viewer::start().await;
    viewer
        .export(request(
            "gateway",
            vec![kind(span(1, 10, 0, "POST /orders"), SpanKind::Server)],
        ))
        .await;
    viewer
        .export(request(
            "orders",
            vec![kind(span(1, 11, 10, "place"), SpanKind::Consumer)],
        ))
        .await;
    let mut charge = failed(span(1, 12, 11, "charge"), "card declined");
    charge.end_time_unix_nano += 9_000_000;
    charge.events.push(Event {
        time_unix_nano: 13_000,
        name: "exception".to_owned(),
        attributes: vec![attribute("exception.type", text("Declined"))],
        ..Event::default()
    });
    viewer
        .export(request(
            "payment",
            vec![with(charge, "amount", Any::IntValue(42))],
        ))
        .await;
    viewer
        .export(request(
            "gateway",
            vec![kind(span(2, 20, 0, "GET /orders"), SpanKind::Server)],
        ))
        .await;
    viewer
}

fn tags(pairs: &Value) -> String {
    format!("tags={}", escape(&pairs.to_string()))
}

#[tokio::test]
async fn services_and_operations_are_those_of_all_spans() {
    let viewer = shop().await;
    let answer = viewer.get("/api/services").await.json();
    let services = json!(["gateway", "orders", "payment"]);
    assert_eq!(
        answer,
        json!({"data": services, "total": 3, "limit": 0, "offset": 0, "errors": null})
    );
    assert_eq!(
        viewer.get("/api/v3/services").await.json(),
        json!({"services": services})
    );
    assert_eq!(
        viewer.data("/api/services/gateway/operations").await,
        json!(["GET /orders", "POST /orders"])
    );
    let operation = json!({"name": "place", "spanKind": "consumer"});
    assert_eq!(
        viewer.data("/api/operations?service=orders").await,
        json!([operation])
    );
    assert_eq!(
        viewer
            .data("/api/operations?service=orders&spanKind=server")
            .await,
        json!([])
    );
    assert_eq!(viewer.get("/api/operations").await.status, 400);
    viewer
        .export(request(
            "orders",
            vec![kind(span(3, 1, 0, "place"), SpanKind::Server)],
        ))
        .await;
    assert_eq!(
        viewer.data("/api/services/orders/operations").await,
        json!(["place"]),
        "one name with two kinds"
    );
}

#[tokio::test]
async fn a_trace_is_found_by_a_service_that_did_not_begin_it() {
    let viewer = shop().await;
    assert_eq!(viewer.found("service=payment").await, [1]);
    assert_eq!(viewer.found("service=nobody").await, [0; 0]);
    assert_eq!(viewer.found("service=payment&operation=charge").await, [1]);
    assert_eq!(
        viewer.found("service=gateway&operation=charge").await,
        [0; 0],
        "both hold for one span or it is no match"
    );
}

#[tokio::test]
async fn newest_first_and_no_more_than_asked() {
    let viewer = shop().await;
    assert_eq!(viewer.found("service=gateway").await, [2, 1]);
    assert_eq!(viewer.found("service=gateway&limit=1").await, [2]);
}

#[tokio::test]
async fn tags_filter() {
    let viewer = shop().await;
    for present in [
        json!({"amount": "42"}),
        json!({"amount": 42}),
        json!({"error": "true"}),
        json!({"otel.status_code": "ERROR", "amount": "42"}),
        json!({"exception.type": "Declined"}),
    ] {
        assert_eq!(viewer.found(&tags(&present)).await, [1], "{present}");
    }
    for absent in [
        json!({"amount": "43"}),
        json!({"amount": "42", "error": "false"}),
        json!({"span.kind": "client"}),
    ] {
        assert_eq!(viewer.found(&tags(&absent)).await, [0; 0], "{absent}");
    }
    assert_eq!(
        viewer
            .found(&format!(
                "service=gateway&{}",
                tags(&json!({"error": true}))
            ))
            .await,
        [0; 0]
    );
}

#[tokio::test]
async fn duration_and_time_filters() {
    let viewer = shop().await;
    assert_eq!(viewer.found("minDuration=1.5ms").await, [1]);
    assert_eq!(viewer.found("minDuration=10ms&maxDuration=10ms").await, [1]);
    assert_eq!(viewer.found("minDuration=10001us").await, [0; 0]);
    assert_eq!(
        viewer.found("service=gateway&maxDuration=999us").await,
        [0; 0]
    );
    assert_eq!(viewer.found("start=20&end=20").await, [2]);
    assert_eq!(viewer.found("end=19").await, [1]);
    assert_eq!(viewer.found("start=21").await, [0; 0]);
    assert_eq!(
        viewer.found("lookback=1h").await,
        [0; 0],
        "these spans are from 1970"
    );
    let answer = viewer.get("/api/traces?minDuration=10").await;
    assert_eq!(
        (answer.status, &answer.json()["errors"][0]["code"]),
        (400, &json!(400))
    );
}

#[tokio::test]
async fn traces_by_id() {
    let viewer = shop().await;
    assert_eq!(
        viewer
            .found("traceID=2&traceID=00000000000000000000000000000001&traceID=3")
            .await,
        [2, 1]
    );
    assert_eq!(viewer.get("/api/traces?traceID=zz").await.status, 400);
    assert_eq!(viewer.get("/api/traces/zz").await.status, 400);
    let missing = viewer.get("/api/traces/3").await;
    assert_eq!(
        (missing.status, &missing.json()["errors"][0]["msg"]),
        (404, &json!("trace not found"))
    );
    assert_eq!(viewer.get("/api/nothing").await.status, 404);
}

#[tokio::test]
async fn an_error_is_visible_as_jaeger_shows_it() {
    let viewer = shop().await;
    let trace = viewer.data("/api/traces/1").await;
    let span = &trace[0]["spans"][2];
    assert_eq!(
        trace[0]["processes"][span["processID"].as_str().unwrap()]["serviceName"],
        "payment"
    );
    assert_eq!(
        (&span["operationName"], &span["duration"]),
        (&json!("charge"), &json!(10_000))
    );
    let parent = json!({"refType": "CHILD_OF", "traceID": format!("{:032x}", 1), "spanID": format!("{:016x}", 11)});
    assert_eq!(span["references"], json!([parent]));
    let expected = [
        json!({"key": "amount", "type": "int64", "value": 42}),
        json!({"key": "error", "type": "bool", "value": true}),
        json!({"key": "otel.status_code", "type": "string", "value": "ERROR"}),
        json!({"key": "otel.status_description", "type": "string", "value": "card declined"}),
    ];
    assert_eq!(span["tags"], json!(expected));
    let fields = [
        json!({"key": "event", "type": "string", "value": "exception"}),
        json!({"key": "exception.type", "type": "string", "value": "Declined"}),
    ];
    assert_eq!(span["logs"], json!([{"timestamp": 13, "fields": fields}]));
    assert!(
        !trace[0]["spans"][0]["tags"].to_string().contains("error"),
        "only the failed span"
    );
}

#[tokio::test]
async fn one_process_per_service_and_resource() {
    let viewer = Viewer::start().await;
    let mut second = request("shop", vec![span(1, 3, 0, "c")]);
    let resource = second.resource_spans[0].resource.as_mut().unwrap();
    resource
        .attributes
        .push(attribute("service.instance.id", text("two")));
    for request in [
        request("shop", vec![span(1, 1, 0, "a")]),
        request("shop", vec![span(1, 2, 0, "b")]),
        second,
    ] {
        viewer.export(request).await;
    }
    let trace = viewer.data("/api/traces/1").await;
    let processes: Vec<_> = (0..3)
        .map(|index| trace[0]["spans"][index]["processID"].clone())
        .collect();
    assert_eq!(processes, [json!("p1"), json!("p1"), json!("p2")]);
    assert_eq!(trace[0]["processes"]["p2"]["tags"][0]["value"], "two");
}

fn edge(parent: &str, child: &str, count: usize) -> Value {
    json!({"parent": parent, "child": child, "callCount": count})
}

#[tokio::test]
async fn dependencies_by_parent() {
    let viewer = shop().await;
    viewer
        .export(request("orders", vec![span(1, 14, 11, "own step")]))
        .await;
    let expected = json!([edge("gateway", "orders", 1), edge("orders", "payment", 1)]);
    assert_eq!(
        viewer
            .data("/api/dependencies?endTs=1000&lookback=1000")
            .await,
        expected
    );
    assert_eq!(
        viewer
            .data("/api/dependencies?endTs=1000&lookback=10")
            .await,
        json!([]),
        "outside the time asked for"
    );
}

#[tokio::test]
async fn dependencies_by_link_only_where_the_parent_is_missing() {
    let viewer = shop().await;
    let both = linked(span(1, 30, 12, "mail"), 1, 12);
    let foreign = linked(span(3, 31, 999, "digest"), 1, 12);
    let fan_in = linked(
        linked(linked(span(4, 32, 0, "digest"), 1, 12), 1, 12),
        2,
        20,
    );
    let parent_wins = linked(span(1, 33, 12, "mail"), 2, 20);
    viewer
        .export(request("mail", vec![both, foreign, fan_in, parent_wins]))
        .await;
    let calls = viewer.data("/api/dependencies").await;
    let to_mail: Vec<_> = calls
        .as_array()
        .unwrap()
        .iter()
        .filter(|call| call["child"] == "mail")
        .collect();
    assert_eq!(
        to_mail,
        [&edge("gateway", "mail", 1), &edge("payment", "mail", 4)]
    );
}

#[tokio::test]
async fn links_are_references_except_to_the_parent() {
    let viewer = Viewer::start().await;
    viewer
        .export(request(
            "mail",
            vec![linked(linked(span(1, 2, 1, "send"), 1, 1), 5, 6)],
        ))
        .await;
    let references = viewer.data("/api/traces/1").await[0]["spans"][0]["references"].take();
    let kinds: Vec<_> = references
        .as_array()
        .unwrap()
        .iter()
        .map(|reference| &reference["refType"])
        .collect();
    assert_eq!(kinds, ["CHILD_OF", "FOLLOWS_FROM"]);
    assert_eq!(references[1]["traceID"], format!("{:032x}", 5));
}

#[tokio::test]
async fn health_says_how_much_is_stored() {
    let viewer = shop().await;
    let health = viewer.health().await;
    assert_eq!(
        (&health["status"], &health["traces"], &health["spans"]),
        (&json!("StatusOK"), &json!(2), &json!(4))
    );
}

/// A page of somebody whose name leads to this machine reads nothing.
#[tokio::test]
async fn a_name_of_somebody_elses_is_refused() {
    let viewer = shop().await;
    for (host, status) in [
        ("evil.example", 421),
        ("evil.example:16686", 421),
        ("127.0.0.1.evil.example", 421),
        ("localhost:16686", 200),
        ("[::1]:16686", 200),
    ] {
        let head = [("host", host)];
        let answer = http(viewer.at.ui, "GET", "/api/services", &head, b"").await;
        assert_eq!(answer.status, status, "{host}: {}", answer.text());
    }
    viewer.stop().await;
}
