//! What workers do on the side: publish again what NATS may have lost, purge what nobody needs any more.

use std::time::Duration;

use oncue_core::bus::{self, Bus};
use oncue_proto::event;
use oncue_tests::cluster::{Cluster, until};
use oncue_tests::events::told;
use serde_json::{Value, json};

/// Ids of the milestones in the stream.
async fn milestones(cluster: &Cluster) -> Vec<String> {
    let messages = cluster.messages(&cluster.bus().await, "web").await;
    let milestones = messages
        .iter()
        .filter(|m| m.subject.starts_with("web.page.milestone"));
    milestones
        .filter_map(|m| m.header("ce-id").map(str::to_owned))
        .collect()
}

/// What NATS acked and lost is still in Redis for a while, and published again without anybody asking.
#[tokio::test]
async fn outputs_that_nats_lost_are_published_again() {
    for keep in ["5m", "0s"] {
        let config = format!(
            "[functions.misbehave]\nack_wait = \"1s\"\n[redis]\nkeep_outputs = \"{keep}\"\n"
        );
        let mut cluster = Cluster::new(&config).await;
        let mut worker = cluster.start("misbehave").await;
        cluster.plain_publish((0..20).map(|n| told(&format!("/l{n}"), "emit:2")));
        cluster
            .drained(&cluster.bus().await, "web", "misbehave")
            .await;
        let before = milestones(&cluster).await;
        assert_eq!(before.len(), 40);
        worker.stop().await;
        cluster.nats.kill();
        std::fs::remove_dir_all(cluster.dir.join("nats")).expect("emptied");
        cluster.restart_nats().await;
        assert!(
            cluster
                .bus()
                .await
                .api("STREAM.INFO.web", &Value::Null)
                .await
                .is_err(),
            "the store is not empty"
        );
        // As if nobody had started since the streams were made: else workers refuse until `oncue recover nats`.
        cluster.redis_ok(&["DEL", "app:streams"]);
        cluster.apply("misbehave");
        let _worker = cluster.start("misbehave").await;
        if keep == "5m" {
            let mut after = until("all are there again", async || {
                Some(milestones(&cluster).await).filter(|ids| ids.len() >= 40)
            })
            .await;
            let mut before = before;
            before.sort();
            after.sort();
            assert_eq!(before, after, "the same ids");
        } else {
            // The broken twin: nothing is kept, so nothing comes back.
            tokio::time::sleep(Duration::from_secs(3)).await;
            assert_eq!(milestones(&cluster).await.len(), 0);
        }
    }
}

/// Purges what is older and done, as a worker does; how much that was.
async fn purge(bus: &Bus, window: Duration) -> u64 {
    match bus::purgeable(bus, "web", window).await.expect("asked") {
        Some(below) => bus::purge(bus, "web", below).await.expect("purged"),
        None => 0,
    }
}

/// Old and done with by everybody: both, or it stays.
#[tokio::test]
async fn only_what_is_old_and_done_is_purged() {
    let cluster = Cluster::new("[functions.misbehave]\nack_wait = \"1s\"\n").await;
    let mut workers = cluster.start_all(&["misbehave", "call-once"]).await;
    let bus = cluster.bus().await;
    let mut other = workers.pop().expect("two");
    other.stop().await;
    cluster.plain_publish((0..10).map(|n| told(&format!("/p{n}"), "")));
    cluster.drained(&bus, "web", "misbehave").await;
    let now = Duration::ZERO;
    assert_eq!(purge(&bus, now).await, 0, "call-once has seen none of them");
    let calls = cluster.dir.join("calls").display().to_string();
    let mut cluster = cluster;
    cluster.set("CALLS", &calls);
    let _other = cluster.start("call-once").await;
    cluster.drained(&bus, "web", "call-once").await;
    assert_eq!(purge(&bus, Duration::from_hours(1)).await, 0, "young");
    cluster.plain_publish([told("/slow", "slow:2500")]);
    until("it is in hand", async || {
        let info = bus
            .api("CONSUMER.INFO.web.app_misbehave", &Value::Null)
            .await
            .ok()?;
        (info["num_ack_pending"] == 1).then_some(())
    })
    .await;
    assert_eq!(purge(&bus, now).await, 10, "all but the one in hand");
    cluster.drained(&bus, "web", "misbehave").await;
    cluster.drained(&bus, "web", "call-once").await;
    assert_eq!(purge(&bus, now).await, 1);
    assert_eq!(cluster.count(&bus, "web").await, 0);
}

/// The first message at or after a moment, found without reading them all.
#[tokio::test]
async fn a_place_in_time_is_found() {
    let cluster = Cluster::new("").await;
    let mut worker = cluster.start("misbehave").await;
    worker.stop().await;
    let bus = cluster.bus().await;
    assert_eq!(
        bus.first_since("web", 0).await.expect("asked"),
        None,
        "an empty stream"
    );
    cluster.plain_publish((0..50).map(|n| told(&format!("/a{n}"), "")));
    tokio::time::sleep(Duration::from_millis(30)).await;
    let between = event::now_ms();
    tokio::time::sleep(Duration::from_millis(30)).await;
    cluster.plain_publish((0..50).map(|n| told(&format!("/b{n}"), "")));
    for gone in [51, 52, 7] {
        bus.delete_message("web", gone).await.expect("deleted");
    }
    assert_eq!(bus.first_since("web", 0).await.expect("asked"), Some(1));
    // The two that came first after the moment are gone; anything from the last one before to the next one there will do.
    let found = bus
        .first_since("web", between)
        .await
        .expect("asked")
        .expect("a place");
    assert!((51..=53).contains(&found), "{found}");
    assert_eq!(
        bus.first_since("web", event::now_ms() + 60_000)
            .await
            .expect("asked"),
        Some(101)
    );
}

/// Outputs of many events go out as one write; where a batch is refused they go one by one. Either way each is there once.
#[tokio::test]
async fn outputs_are_published_in_batches_or_else_one_by_one() {
    let config = "[functions.misbehave]\nack_wait = \"1s\"\n[nats]\nbatch_publish = true\n";
    for refused in [false, true] {
        let cluster = Cluster::new(config).await;
        let worker = cluster.start("misbehave").await;
        let bus = cluster.bus().await;
        if refused {
            let info = bus
                .api("STREAM.INFO.web", &Value::Null)
                .await
                .expect("a stream");
            let mut config = info["config"].clone();
            config["allow_atomic"] = false.into();
            bus.api("STREAM.UPDATE.web", &config)
                .await
                .expect("changed");
        }
        cluster.plain_publish((0..100).map(|n| told(&format!("/b{n}"), "emit:3")));
        cluster.drained(&bus, "web", "misbehave").await;
        let messages = cluster.messages(&bus, "web").await;
        let milestones: Vec<_> = messages
            .iter()
            .filter(|m| m.subject.starts_with("web.page.milestone"))
            .collect();
        let ids: std::collections::BTreeSet<&str> = milestones
            .iter()
            .filter_map(|m| m.header("ce-id"))
            .collect();
        assert_eq!(
            (milestones.len(), ids.len()),
            (300, 300),
            "{}",
            worker.log()
        );
        let batched = milestones
            .iter()
            .filter(|m| m.header("Nats-Batch-Id").is_some())
            .count();
        assert_eq!(
            worker.log().contains("publishing one by one"),
            refused,
            "{}",
            worker.log()
        );
        assert!(refused || batched > 100, "{batched} of 300 in batches");
    }
}

/// A key is no subject of the stream, however many there are: what the server does to find the next event grows with its
/// subjects. Those who subscribe still hear of one key alone.
#[tokio::test]
async fn keys_are_no_subjects_of_a_stream() {
    let cluster = Cluster::new("").await;
    let bus = cluster.bus().await;
    let _worker = cluster.start("misbehave").await;
    let mut heard = bus
        .subscribe("web.page.viewed.home")
        .await
        .expect("a subscription");
    bus.api("STREAM.INFO.web", &Value::Null)
        .await
        .expect("an answer, so the server knows of the subscription");
    for subject in [
        "web.page.viewed.home",
        "web.page.viewed.about",
        "web.page.viewed",
    ] {
        cluster.plain_publish([(subject, r#"{"page":"/home","visitor":"v"}"#.to_owned())]);
    }
    cluster.drained(&bus, "web", "misbehave").await;
    let info = bus
        .api("STREAM.INFO.web", &json!({ "subjects_filter": ">" }))
        .await
        .expect("its subjects");
    assert_eq!(info["state"]["subjects"]["web.page.viewed"], 3, "{info}");
    assert_eq!(
        info["state"]["subjects"]
            .as_object()
            .map(serde_json::Map::len),
        Some(1),
        "{info}"
    );
    assert_eq!(
        heard.next().await.expect("one").subject,
        "web.page.viewed.home"
    );
}

/// A program that runs for ever and says nothing does not hold up the audit of the others.
#[tokio::test]
async fn an_audit_ends_where_a_program_does_not_know_the_question() {
    let mut cluster = Cluster::new("[functions.misbehave]\n[functions.record]\n").await;
    for function in ["misbehave", "record"] {
        let mut worker = cluster.start(function).await;
        assert_eq!(worker.stop().await, Some(0));
    }
    let built = cluster.program("record");
    let own = built.parent().expect("a folder").display().to_string();
    let folder = cluster.dir.join("programs");
    std::fs::create_dir_all(&folder).expect("a folder");
    for (name, rest) in [
        ("misbehave", "exec sleep 1000"),
        ("record", "exec {own}/record \"$@\""),
    ] {
        let path = folder.join(name);
        let rest = rest.replace("{own}", &own);
        let script =
            format!("#!/bin/sh\n[ \"$1\" = --manifest ] && exec {own}/{name} --manifest\n{rest}\n");
        std::fs::write(&path, script).expect("a program");
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&path, mode).expect("set");
    }
    cluster.set("ONCUE_BIN_DIR", &folder.display().to_string());
    let output = cluster.output("oncue", &["audit"]);
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(
        text.contains("misbehave runs with --audit and says nothing"),
        "{text}"
    );
    assert!(
        text.lines()
            .any(|line| line.starts_with("record") && line.contains('0')),
        "{text}"
    );
}
