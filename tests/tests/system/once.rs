//! Calls to the outside that must not be repeated: at most one run on an event, whatever happens to it.

use std::sync::Arc;

use oncue_core::bus::Bus;
use oncue_core::store::{Mark, RunStart};
use oncue_proto::oncue::v1::DeadLetter;
use oncue_tests::cluster::{Cluster, until};
use oncue_tests::events::{envelope, told};
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

/// A run that only waits for its turn has not begun: of a worker that is killed one is unknown, and no other.
#[tokio::test]
async fn of_a_queue_only_the_call_that_was_begun_is_unknown() {
    for (program, attempts) in [("call-once", "6"), ("misbehave", "1")] {
        let mut cluster = cluster().await;
        cluster.set("ONCUE_ATTEMPTS", attempts);
        cluster.start(program).await.stop().await;
        let bus = cluster.bus().await;
        let first = if program == "call-once" {
            "wait"
        } else {
            "slow:600000"
        };
        cluster.plain_publish([told("/queue", first)]);
        cluster.plain_publish([(); 4].map(|()| told("/queue", "")));
        let mut worker = cluster.start(program).await;
        until("the first has begun", async || {
            let counted = cluster.redis_cli(&["--raw", "KEYS", "*:r:*:t"]);
            let consumer = bus.consumer_info("web", program).await.ok()?;
            (consumer.num_ack_pending == 5 && counted.lines().count() == 1).then_some(())
        })
        .await;
        worker.kill();
        worker.exit().await;
        let _worker = cluster.start(program).await;
        cluster.drained(&bus, "web", program).await;
        let letters = letters(&cluster, &bus).await;
        assert_eq!(letters.len(), 1, "{program}: {letters:#?}");
    }
}

/// Of a copy that comes while the call is under way nobody says that its outcome is unknown.
#[tokio::test]
async fn a_copy_waits_while_the_call_is_under_way() {
    let cluster = cluster().await;
    let _first = cluster.start("call-once").await;
    let bus = cluster.bus().await;
    let (subject, payload) = told("/copied", "wait");
    let copy = envelope(subject, &[("ce-id", "the-one")], payload);
    bus.publish(&copy).await.expect("stored");
    until("the call has begun", async || {
        (calls(&cluster).len() == 1).then_some(())
    })
    .await;
    let second = cluster.start("call-once").await;
    // Whoever has the first takes some of them, and queues them behind it.
    until("another worker has met a copy", async || {
        bus.publish(&copy).await.expect("stored");
        let met = second.log().contains("a copy of it is being handled");
        met.then_some(())
    })
    .await;
    std::fs::write(cluster.dir.join("calls.go"), "").expect("a file");
    cluster.drained(&bus, "web", "call-once").await;
    assert_eq!(calls(&cluster), ["/copied"]);
    assert_eq!(letters(&cluster, &bus).await.len(), 0);
}

/// An answer of Redis may be lost, and who asks again must not count once more.
#[tokio::test]
async fn a_run_counts_once_however_often_it_is_counted() {
    let cluster = cluster().await;
    cluster.start("call-once").await.stop().await;
    let store = cluster.store().await;
    let function: Arc<str> = "call-once".into();
    let run = |id: &str, number, only_first| RunStart {
        mark: Mark::of_id(&function, id),
        number,
        message: number,
        only_first,
    };
    let (mut counts, mut copies) = (Vec::new(), Vec::new());
    let asked = [
        [run("a", 1, true), run("b", 1, false)],
        [run("a", 1, true), run("b", 1, false)],
        [run("a", 2, true), run("b", 2, false)],
        [run("a", 1, true), run("b", 2, false)],
        [run("a", 3, true), run("b", 3, false)],
    ];
    for runs in asked {
        let found = store.started(&runs).await.expect("counts");
        counts.push([found[0].begun, found[1].begun]);
        copies.push([found[0].since_copy.is_some(), found[1].since_copy.is_some()]);
    }
    assert_eq!(counts, [[1, 1], [1, 1], [2, 2], [1, 2], [2, 3]]);
    let none = [false, false];
    let both = [true, true];
    assert_eq!(copies, [none, none, both, [false, true], both]);
}
