//! Memory is bounded: the oldest trace goes first.

use oncue_trace_viewer::store::Limits;
use serde_json::json;

use crate::harness::{LIMITS, Viewer, request, span, text, with};

async fn send(viewer: &Viewer, trace: u128, size: usize) {
    let big = with(
        span(trace, trace as u64, 0, "step"),
        "ballast",
        text(&"x".repeat(size)),
    );
    viewer
        .export(request(&format!("service{trace}"), vec![big]))
        .await;
}

#[tokio::test]
async fn the_oldest_trace_goes_when_there_are_too_many() {
    let viewer = Viewer::with(Limits {
        traces: 3,
        ..LIMITS
    })
    .await;
    for trace in 1..=5 {
        send(&viewer, trace, 1).await;
    }
    assert_eq!(viewer.found("").await, [5, 4, 3]);
    assert_eq!(
        viewer.data("/api/services").await,
        json!(["service3", "service4", "service5"])
    );
}

#[tokio::test]
async fn the_oldest_trace_goes_when_there_are_too_many_bytes() {
    let viewer = Viewer::with(Limits {
        bytes: 400_000,
        ..LIMITS
    })
    .await;
    for trace in 1..=9 {
        send(&viewer, trace, 30_000).await;
    }
    let kept = viewer.found("").await;
    assert!((2..=5).contains(&kept.len()), "{kept:?}");
    assert_eq!(kept, (1..=9).rev().take(kept.len()).collect::<Vec<_>>());
    let bytes = viewer.health().await["bytes"].as_u64().unwrap();
    assert!((200_000..=400_000).contains(&bytes), "{bytes}");
}

#[tokio::test]
async fn a_late_span_of_a_trace_that_is_gone_is_kept_as_a_new_one() {
    let viewer = Viewer::with(Limits {
        traces: 2,
        ..LIMITS
    })
    .await;
    for trace in [1, 2, 3, 1] {
        send(&viewer, trace, 1).await;
    }
    assert_eq!(viewer.found("").await, [3, 1]);
}

#[tokio::test]
async fn a_trace_has_a_last_span_and_says_so() {
    let viewer = Viewer::with(Limits {
        max_spans_per_trace: 3,
        ..LIMITS
    })
    .await;
    let spans = (1..=5).map(|id| span(1, id, 0, "step")).collect();
    let partial = viewer
        .export(request("loop", spans))
        .await
        .partial_success
        .expect("partial");
    assert_eq!(partial.rejected_spans, 2);
    assert!(
        partial.error_message.contains("3 spans"),
        "{}",
        partial.error_message
    );
    // One that is there may still be sent again.
    assert_eq!(
        viewer
            .export(request("loop", vec![span(1, 2, 0, "step")]))
            .await
            .partial_success,
        None
    );
    let trace = viewer.data("/api/traces/1").await;
    assert_eq!(trace[0]["spans"].as_array().map(Vec::len), Some(3));
    assert_eq!(
        trace[0]["spans"][0]["warnings"],
        json!(["2 spans of this trace were not kept: the trace is full"])
    );
}

#[tokio::test]
async fn one_huge_trace_leaves_room_for_the_others() {
    let viewer = Viewer::with(Limits {
        bytes: 400_000,
        ..LIMITS
    })
    .await;
    send(&viewer, 1, 1).await;
    for id in 1..=20 {
        let big = with(span(2, id, 0, "step"), "ballast", text(&"x".repeat(10_000)));
        viewer.export(request("huge", vec![big])).await;
    }
    assert_eq!(viewer.found("service=service1").await, [1]);
    let kept = viewer.data("/api/traces/2").await[0]["spans"]
        .as_array()
        .map_or(0, Vec::len);
    assert!((2..=5).contains(&kept), "{kept}");
}
