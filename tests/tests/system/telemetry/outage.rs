//! A collector that is away, dumb or slow is nobody's trouble: every event is handled, memory stays bounded, and the end of
//! the process waits for nobody.

use std::time::Duration;

use oncue_tests::cluster::{Cluster, free_port, until};
use oncue_tests::collector::{Collector, Manners};
use serde_json::json;

use super::cluster;

const EVENTS: usize = 3000;

/// Far more spans than the queue holds.
async fn handle_all(cluster: &Cluster, http: &str) {
    let mut worker = cluster.start("misbehave").await;
    let bus = cluster.bus().await;
    let before = resident(worker.pid());
    let events = (0..EVENTS).map(|n| {
        (
            "web.page.viewed",
            json!({ "page": format!("/{}", n % 50) }).to_string(),
        )
    });
    cluster.plain_publish(events);
    cluster.drained(&bus, "web", "misbehave").await;
    let store = cluster.store().await;
    let total = async || cluster.field(&store, "tallies", "/0", "count").await;
    until("all are applied", async || {
        (total().await == (EVENTS / 50).to_string()).then_some(())
    })
    .await;
    assert_eq!(cluster.count(&bus, "dlq").await, 0);
    // Queue and batch hold 2,560 spans at most; a leak would keep all 9,000.
    let grown = resident(worker.pid()).saturating_sub(before);
    assert!(
        grown < 40 << 10,
        "{grown} KiB more than before, with {http}"
    );
    assert_eq!(
        worker.stop().await,
        Some(0),
        "it stops as asked, with {http}"
    );
}

/// Resident memory in KiB.
fn resident(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok())
        .expect("VmRSS")
}

#[tokio::test]
async fn an_absent_collector_is_nobodys_trouble() {
    let there = Collector::start(Manners::Prompt).await;
    let nowhere = format!("http://127.0.0.1:{}", free_port());
    for protocol in ["http/protobuf", "grpc"] {
        let env = [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", nowhere.as_str()),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", protocol),
        ];
        handle_all(&cluster(&there, &env).await, protocol).await;
    }
}

#[tokio::test]
async fn a_collector_that_never_answers_is_nobodys_trouble() {
    let mute = Collector::start(Manners::Mute).await;
    handle_all(&cluster(&mute, &[]).await, "a mute collector").await;
    assert!(mute.connections() > 0, "it was talked to");
}

#[tokio::test]
async fn a_slow_collector_is_nobodys_trouble_and_gets_what_it_can_take() {
    let slow = Collector::start(Manners::Slow(Duration::from_millis(500))).await;
    handle_all(&cluster(&slow, &[]).await, "a slow collector").await;
    assert!(!slow.spans().is_empty());
}
