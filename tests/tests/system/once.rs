//! Calls to the outside that must not be repeated: at most one run on an event, whatever happens to it.

use oncue_core::bus::Bus;
use oncue_proto::oncue::v1::DeadLetter;
use oncue_tests::cluster::{Cluster, until};
use oncue_tests::events::told;
use prost::Message as _;

fn calls(cluster: &Cluster) -> Vec<String> {
    let calls = std::fs::read_to_string(cluster.dir.join("calls")).unwrap_or_default();
    calls
        .lines()
        .map(|line| line.split(' ').next().unwrap_or_default().to_owned())
        .collect()
}

async fn letters(cluster: &Cluster, bus: &Bus) -> Vec<DeadLetter> {
    let messages = cluster.messages(bus, "dlq").await;
    messages
        .iter()
        .map(|m| DeadLetter::decode(&m.payload[..]).expect("a dead letter"))
        .collect()
}

async fn cluster() -> Cluster {
    let mut cluster = Cluster::new("[functions.call-once]\nack_wait = \"1s\"\n").await;
    let calls = cluster.dir.join("calls").display().to_string();
    cluster.set("CALLS", &calls);
    cluster
}

#[tokio::test]
async fn a_call_that_was_interrupted_is_never_made_again() {
    let cluster = cluster().await;
    let mut worker = cluster.start("call-once").await;
    let bus = cluster.bus().await;
    cluster.plain_publish([told("/fine", ""), told("/failed", "fail")]);
    until("one failed", async || {
        (letters(&cluster, &bus).await.len() == 1).then_some(())
    })
    .await;
    cluster.plain_publish([told("/interrupted", "exit")]);
    worker.exit().await;
    let _worker = cluster.start("call-once").await;
    let letters = until("two dead letters", async || {
        Some(letters(&cluster, &bus).await).filter(|l| l.len() == 2)
    })
    .await;
    cluster.drained(&bus, "web", "call-once").await;
    let mut made = calls(&cluster);
    made.sort();
    assert_eq!(made, ["/failed", "/fine", "/interrupted"], "each once");
    let reasons: Vec<&str> = letters
        .iter()
        .map(|letter| letter.reason.as_str())
        .collect();
    assert_eq!(reasons, ["attempts", "outcome_unknown"]);
    assert!(
        letters[1].message.contains("may have been made or not"),
        "{}",
        letters[1].message
    );
}

/// At every step of the protocol the process ends; the call is made once or, before it was begun, not yet.
#[tokio::test]
async fn no_crash_point_makes_a_call_twice() {
    let cluster = cluster().await;
    cluster.start("call-once").await.stop().await;
    let bus = cluster.bus().await;
    let points = [
        "pulled",
        "read.done",
        "run.counted",
        "handler.done",
        "commit.done",
        "ack.done",
    ];
    for point in points {
        cluster.plain_publish([told(&format!("/{point}"), "")]);
        let mut faulty = cluster.spawn_faulty("call-once", &format!("{point}=return(abort)"));
        faulty.exit().await;
        let mut worker = cluster.start("call-once").await;
        cluster.drained(&bus, "web", "call-once").await;
        worker.stop().await;
    }
    let mut made = calls(&cluster);
    made.sort();
    // Begun and counted, but interrupted before the call: whether it was made cannot be known, so it is not.
    assert_eq!(
        made,
        [
            "/ack.done",
            "/commit.done",
            "/handler.done",
            "/pulled",
            "/read.done"
        ]
    );
    let unknown: Vec<String> = letters(&cluster, &bus)
        .await
        .into_iter()
        .map(|letter| letter.key)
        .collect();
    assert_eq!(unknown, ["/run.counted", "/handler.done"]);
}
