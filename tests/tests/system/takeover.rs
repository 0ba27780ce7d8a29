//! Events in the hand of a process that died are taken over by the one that starts in its place, long before their ack wait
//! is over.

use std::time::Duration;

use oncue_core::store::Store;
use oncue_tests::cluster::{Cluster, Process, until};
use oncue_tests::events::told;

/// Longer than any test.
const ACK_WAIT: &str = "ack_wait = \"20m\"\ntimeout = \"10m\"";

async fn cluster() -> Cluster {
    Cluster::new(&format!("[functions.misbehave]\n{ACK_WAIT}\n")).await
}

async fn start(cluster: &Cluster, hands: &str) -> Process {
    let hands = cluster.dir.join("hands").join(hands).display().to_string();
    let worker = cluster.spawn_with("misbehave", &[], &[("ONCUE_HANDS", hands)]);
    worker.wait_for_line("ready").await;
    worker
}

async fn count(cluster: &Cluster, store: &Store, page: &str) -> String {
    cluster.field(store, "tallies", page, "count").await
}

/// A worker that has ten events in hand, one of which kept it busy when it was killed.
async fn killed_with_events_in_hand(cluster: &Cluster) {
    let mut worker = start(cluster, "first").await;
    cluster.plain_publish([told("/slow", "slow:600000")]);
    cluster.plain_publish((0..9).map(|n| told(&format!("/p{n}"), "slow:600000")));
    let bus = cluster.bus().await;
    until("all are in hand", async || {
        let consumer = bus.consumer_info("web", "misbehave").await.ok()?;
        (consumer.num_ack_pending == 10).then_some(())
    })
    .await;
    worker.kill();
}

#[tokio::test]
async fn what_a_dead_process_had_in_hand_is_taken_over_at_once() {
    let cluster = cluster().await;
    killed_with_events_in_hand(&cluster).await;
    let bus = cluster.bus().await;
    // Another process of the function does not know what was in the dead one's hand.
    let mut other = start(&cluster, "other").await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let consumer = bus.consumer_info("web", "misbehave").await.expect("NATS");
    assert_eq!(
        (consumer.num_ack_pending, consumer.num_redelivered),
        (10, 0)
    );
    other.kill();
    // The one that starts in its place does.
    let mut next = start(&cluster, "first").await;
    next.wait_for_line("given back what the process before this one may have had in hand")
        .await;
    until("they are delivered once more", async || {
        let consumer = bus.consumer_info("web", "misbehave").await.ok()?;
        (consumer.num_redelivered > 0).then_some(())
    })
    .await;
    next.kill();
}

#[tokio::test]
async fn what_was_done_is_not_done_again() {
    let cluster = cluster().await;
    let store = cluster.store().await;
    let mut worker = start(&cluster, "first").await;
    cluster.plain_publish((0..50).map(|n| told(&format!("/p{n}"), "")));
    cluster
        .drained(&cluster.bus().await, "web", "misbehave")
        .await;
    worker.kill();
    // All fifty are in the file, and none is in hand.
    let mut next = start(&cluster, "first").await;
    cluster.plain_publish([told("/p0", "")]);
    until("the next one is counted", async || {
        (count(&cluster, &store, "/p0").await == "2").then_some(())
    })
    .await;
    for n in 1..50 {
        assert_eq!(count(&cluster, &store, &format!("/p{n}")).await, "1");
    }
    next.stop().await;
    // Stopped in order, it leaves nothing.
    assert!(!cluster.dir.join("hands/first").exists());
}
