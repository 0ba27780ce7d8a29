//! Every way in, and every way to be turned away.

use std::time::Duration;

use oncue_trace_viewer::{ingest::MAX_REQUEST, store::Limits};
use opentelemetry_proto::tonic::{
    collector::trace::v1::{ExportTraceServiceRequest, trace_service_client::TraceServiceClient},
    common::v1::any_value::Value as Any,
};
use prost::Message;
use serde_json::{Value, json};
use tokio::{io::AsyncWriteExt, net::TcpStream, time::timeout};
use tonic::{Code, codec::CompressionEncoding, transport::Channel};

use crate::harness::{LIMITS, Viewer, gzip, request, span, text, with};

const PROTOBUF: (&str, &str) = ("content-type", "application/x-protobuf");
const JSON: (&str, &str) = ("content-type", "application/json; charset=utf-8");
const GZIP: (&str, &str) = ("content-encoding", "gzip");

async fn client(viewer: &Viewer) -> TraceServiceClient<Channel> {
    TraceServiceClient::connect(format!("http://{}", viewer.at.otlp_grpc))
        .await
        .expect("gRPC")
}

fn one_span() -> ExportTraceServiceRequest {
    request("shop", vec![span(7, 1, 0, "buy")])
}

#[tokio::test]
async fn grpc_plain_and_gzip() {
    let viewer = Viewer::start().await;
    let answer = client(&viewer)
        .await
        .export(one_span())
        .await
        .expect("taken")
        .into_inner();
    assert_eq!(answer.partial_success, None);
    let mut zipped = client(&viewer)
        .await
        .send_compressed(CompressionEncoding::Gzip);
    zipped
        .export(request("till", vec![span(8, 1, 0, "pay")]))
        .await
        .expect("taken");
    assert_eq!(viewer.data("/api/services").await, json!(["shop", "till"]));
}

#[tokio::test]
async fn grpc_refuses_what_unpacks_too_large() {
    let viewer = Viewer::start().await;
    let bomb = with(
        span(7, 1, 0, "bomb"),
        "zeros",
        text(&"0".repeat(MAX_REQUEST)),
    );
    let mut zipped = client(&viewer)
        .await
        .send_compressed(CompressionEncoding::Gzip);
    let status = zipped
        .export(request("shop", vec![bomb]))
        .await
        .expect_err("too large");
    assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
    assert_eq!(viewer.data("/api/services").await, json!([]));
}

#[tokio::test]
async fn grpc_takes_as_much_as_http() {
    let viewer = Viewer::with(Limits {
        bytes: 1 << 30,
        ..LIMITS
    })
    .await;
    let large = with(
        span(7, 1, 0, "large"),
        "zeros",
        text(&"0".repeat(MAX_REQUEST - 1000)),
    );
    client(&viewer)
        .await
        .export(request("shop", vec![large]))
        .await
        .expect("taken");
    assert_eq!(viewer.data("/api/services").await, json!(["shop"]));
}

#[tokio::test]
async fn http_protobuf_plain_and_gzip() {
    let viewer = Viewer::start().await;
    let answer = viewer.post(&[PROTOBUF], &one_span().encode_to_vec()).await;
    assert_eq!(
        (answer.status, answer.header("content-type")),
        (200, Some("application/x-protobuf"))
    );
    assert_eq!(answer.body, b"", "an empty ExportTraceServiceResponse");
    let other = request("till", vec![span(8, 1, 0, "pay")]).encode_to_vec();
    assert_eq!(
        viewer.post(&[PROTOBUF, GZIP], &gzip(&other)).await.status,
        200
    );
    assert_eq!(viewer.data("/api/services").await, json!(["shop", "till"]));
}

fn json_request() -> Value {
    json!({"resourceSpans": [{
        "resource": {"attributes": [{"key": "service.name", "value": {"stringValue": "browser"}}]},
        "scopeSpans": [{"scope": {"name": "fetch"}, "spans": [{
            "traceId": "5B8EFFF798038103D269B633813FC60C", "spanId": "EEE19B7EC3C1B174", "parentSpanId": null,
            "name": "load", "kind": 3, "startTimeUnixNano": "1544712660000000000", "endTimeUnixNano": 1_544_712_661_000_000_000_u64,
            "attributes": [
                {"key": "whole", "value": {"intValue": "9007199254740993"}},
                {"key": "small", "value": {"intValue": 3}},
                {"key": "none", "value": {"arrayValue": {}}},
                {"key": "odd", "value": {"doubleValue": "NaN"}},
                {"key": "list", "value": {"arrayValue": {"values": [{"intValue": "1"}, {"boolValue": true}]}}},
            ],
            "status": null, "notYetKnown": {"a": 1}
        }]}]
    }]})
}

#[tokio::test]
async fn http_json_with_hex_ids_and_numbers_as_text() {
    let viewer = Viewer::start().await;
    let answer = viewer
        .post(&[JSON], json_request().to_string().as_bytes())
        .await;
    assert_eq!(
        (answer.status, answer.header("content-type")),
        (200, Some("application/json"))
    );
    assert_eq!(answer.json(), json!({}));
    let trace = viewer
        .data("/api/traces/5b8efff798038103d269b633813fc60c")
        .await;
    let span = &trace[0]["spans"][0];
    assert_eq!(span["spanID"], "eee19b7ec3c1b174");
    assert_eq!(
        (&span["startTime"], &span["duration"]),
        (&json!(1_544_712_660_000_000_u64), &json!(1_000_000))
    );
    assert_eq!(span["references"], json!([]));
    let expected = [
        json!({"key": "whole", "type": "int64", "value": "9007199254740993"}),
        json!({"key": "small", "type": "int64", "value": 3}),
        json!({"key": "none", "type": "string", "value": "[]"}),
        json!({"key": "odd", "type": "string", "value": "NaN"}),
        json!({"key": "list", "type": "string", "value": "[1,true]"}),
        json!({"key": "span.kind", "type": "string", "value": "client"}),
        json!({"key": "otel.scope.name", "type": "string", "value": "fetch"}),
    ];
    assert_eq!(span["tags"], json!(expected));
}

#[tokio::test]
async fn http_json_gzipped() {
    let viewer = Viewer::start().await;
    assert_eq!(
        viewer
            .post(&[JSON, GZIP], &gzip(json_request().to_string().as_bytes()))
            .await
            .status,
        200
    );
    assert_eq!(viewer.data("/api/services").await, json!(["browser"]));
}

#[tokio::test]
async fn too_large_is_413_and_so_is_a_decompression_bomb() {
    let viewer = Viewer::start().await;
    let bomb = gzip(&vec![0; MAX_REQUEST + 1]);
    assert!(bomb.len() < 100_000);
    for encoding in [PROTOBUF, JSON] {
        assert_eq!(viewer.post(&[encoding, GZIP], &bomb).await.status, 413);
    }
    assert_eq!(
        viewer
            .post(&[PROTOBUF], &vec![0; MAX_REQUEST + 1])
            .await
            .status,
        413,
        "the same without compression"
    );
    // One byte less is merely malformed, so it was the size that was refused.
    assert_eq!(
        viewer
            .post(&[PROTOBUF, GZIP], &gzip(&vec![0; MAX_REQUEST]))
            .await
            .status,
        400
    );
}

#[tokio::test]
async fn malformed_requests_are_400_in_their_own_encoding() {
    let viewer = Viewer::start().await;
    let short_id = r#"{"resourceSpans": [{"scopeSpans": [{"spans": [{"traceId": "xyz"}]}]}]}"#;
    for body in ["{", "[1]", short_id] {
        let answer = viewer.post(&[JSON], body.as_bytes()).await;
        assert_eq!(
            (answer.status, &answer.json()["code"]),
            (400, &json!(3)),
            "{body}"
        );
    }
    let answer = viewer.post(&[PROTOBUF], b"not protobuf").await;
    assert_eq!(
        (answer.status, answer.header("content-type")),
        (400, Some("application/x-protobuf"))
    );
    assert!(
        answer.text().contains("malformed"),
        "google.rpc.Status has the message as text"
    );
    assert_eq!(
        viewer.post(&[PROTOBUF, GZIP], b"not gzip").await.status,
        400
    );
    assert_eq!(viewer.data("/api/services").await, json!([]));
}

#[tokio::test]
async fn a_request_that_never_ends_does_not_keep_the_viewer_from_stopping() {
    let viewer = Viewer::start().await;
    let mut exporter = TcpStream::connect(viewer.at.otlp_http)
        .await
        .expect("listens");
    let half = b"POST /v1/traces HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 9\r\n\r\n{";
    exporter.write_all(half).await.expect("sent");
    let _channel = client(&viewer).await;
    // Asked later on its own connection, so the half request has been read by then.
    viewer.health().await;
    timeout(Duration::from_mins(1), viewer.stop())
        .await
        .expect("stops");
}

#[tokio::test]
async fn other_media_types_are_415() {
    let viewer = Viewer::start().await;
    let body = one_span().encode_to_vec();
    assert_eq!(
        viewer
            .post(&[("content-type", "text/plain")], &body)
            .await
            .status,
        415
    );
    assert_eq!(viewer.post(&[], &body).await.status, 415);
    assert_eq!(
        viewer
            .post(&[PROTOBUF, ("content-encoding", "br")], &body)
            .await
            .status,
        415
    );
}

#[tokio::test]
async fn spans_without_proper_ids_are_counted_out_and_the_rest_kept() {
    let viewer = Viewer::start().await;
    let mut short = span(9, 1, 0, "short");
    short.trace_id.pop();
    let spans = vec![
        span(7, 1, 0, "fine"),
        span(0, 1, 0, "no trace"),
        span(9, 0, 0, "no span"),
        short,
    ];
    let partial = viewer
        .export(request("shop", spans.clone()))
        .await
        .partial_success
        .expect("partial");
    assert_eq!(partial.rejected_spans, 3);
    assert!(
        partial.error_message.contains("16 bytes"),
        "{}",
        partial.error_message
    );
    assert_eq!(viewer.found("").await, [7]);
    let answer = viewer
        .post(
            &[JSON],
            &serde_json::to_vec(&request("shop", spans)).unwrap(),
        )
        .await;
    assert_eq!(answer.json()["partialSuccess"]["rejectedSpans"], "3");
}

#[tokio::test]
async fn a_span_sent_twice_shows_once() {
    let viewer = Viewer::start().await;
    viewer
        .export(request(
            "shop",
            vec![with(span(7, 1, 0, "buy"), "try", Any::IntValue(1))],
        ))
        .await;
    let before = viewer.health().await;
    viewer
        .export(request(
            "shop",
            vec![with(span(7, 1, 0, "buy"), "try", Any::IntValue(2))],
        ))
        .await;
    let trace = viewer.data("/api/traces/7").await;
    assert_eq!(trace[0]["spans"].as_array().map(Vec::len), Some(1));
    assert_eq!(trace[0]["spans"][0]["tags"][0]["value"], 2);
    assert_eq!(viewer.health().await, before, "and takes its room once");
}
