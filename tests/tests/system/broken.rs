//! Clusters that are broken on purpose: what watches over a promise must see it broken. A check that cannot fail is none.

use std::path::PathBuf;

use oncue_core::bus::Bus;
use oncue_proto::event;
use oncue_proto::oncue::v1::{Envelope, Header};
use oncue_tests::chaos::report::{Plan, Report};
use oncue_tests::chaos::rows::find;
use oncue_tests::cluster::{Cluster, built, until};

/// Workers that break the protocol when they are told to; `make test` builds them before everything else.
fn sabotaged_binaries() -> PathBuf {
    built("failpoints/misbehave")
        .parent()
        .expect("a folder")
        .to_owned()
}

/// Runs a row with a broken cluster, up to three times: some damage takes the right moment. What counts is the verdict on
/// events; that a row found too little to do is not what is asked here.
async fn caught(sabotage: &str, row: &str, seen: fn(&Report) -> bool) {
    let mut failures = Vec::new();
    for seed in 1..=3 {
        let row = find(row).expect("a row of the table");
        let env = vec![("ONCUE_SABOTAGE".to_owned(), sabotage.to_owned())];
        let plan = Plan {
            seed,
            seconds: row.short,
            env,
            programs: Some(sabotaged_binaries()),
            ..Plan::default()
        };
        let report = (row.run)(plan).await;
        println!("{report:#?}");
        if seen(&report) && !report.passed() {
            return;
        }
        failures.extend(report.failures);
    }
    panic!("{sabotage} was not seen by {row}: {failures:?}");
}

#[tokio::test]
async fn a_cluster_without_seen_marks_is_caught() {
    caught("no-seen-marks", "Z-3", |report| report.doubled > 0).await;
}

/// What a client stamps anew is told by its mark alone.
#[tokio::test]
async fn without_seen_marks_what_is_stamped_anew_counts_again() {
    caught("no-seen-marks", "I-1", |report| report.doubled > 0).await;
}

#[tokio::test]
async fn a_cluster_that_acks_before_the_commit_is_caught() {
    caught("ack-first", "K-2", |report| report.lost > 0).await;
}

/// The same binaries, whole: what catches the others is no fault of theirs.
#[tokio::test]
async fn a_whole_cluster_passes() {
    let row = find("K-2").expect("a row of the table");
    let plan = Plan {
        seed: 7,
        seconds: row.short,
        programs: Some(sabotaged_binaries()),
        ..Plan::default()
    };
    let report = (row.run)(plan).await;
    assert!(report.passed(), "{report:#?}");
}

async fn cluster(sabotage: &str) -> (Cluster, Bus) {
    let mut cluster = Cluster::new("[functions.misbehave]\nack_wait = \"1s\"\n").await;
    cluster.start("misbehave").await.stop().await;
    cluster.set("ONCUE_SABOTAGE", sabotage);
    let bus = cluster.bus().await;
    (cluster, bus)
}

/// An event older than the horizon cannot be proven new: its mark may be gone.
#[tokio::test]
async fn without_the_fence_an_event_that_is_too_old_is_applied() {
    for (sabotage, applied, dead) in [("nothing", "", 1), ("no-fence", "1", 0)] {
        let (cluster, bus) = cluster(sabotage).await;
        let store = cluster.store().await;
        let time = event::format_time(event::now_ms() - 73 * 3600 * 1000);
        let headers = [("ce-id", "old"), ("ce-time", &time)].map(|(n, v)| Header {
            name: n.into(),
            value: v.into(),
        });
        let payload = br#"{"page":"/old"}"#.to_vec().into();
        let envelope = Envelope {
            subject: "web.page.viewed".into(),
            headers: headers.to_vec(),
            payload,
        };
        bus.publish(&envelope).await.expect("taken");
        let _worker = cluster.spawn_faulty("misbehave", "");
        until("it is settled", async || {
            let settled = cluster.field(&store, "tallies", "/old", "count").await == "1"
                || cluster.count(&bus, "dlq").await == 1;
            settled.then_some(())
        })
        .await;
        assert_eq!(
            cluster.field(&store, "tallies", "/old", "count").await,
            applied,
            "{sabotage}"
        );
        assert_eq!(cluster.count(&bus, "dlq").await, dead, "{sabotage}");
    }
}

/// The first run emits and its process dies before the commit; the second run, the one that counts, emits nothing.
#[tokio::test]
async fn publishing_first_publishes_what_never_became_true() {
    for (sabotage, published) in [("nothing", 0), ("publish-first", 1)] {
        let (cluster, bus) = cluster(sabotage).await;
        cluster.plain_publish([(
            "web.page.viewed",
            r#"{"page":"/once","referrer":"emit-first"}"#.to_owned(),
        )]);
        cluster
            .spawn_faulty("misbehave", "handler.done=return(abort)")
            .exit()
            .await;
        let _worker = cluster.start("misbehave").await;
        cluster.drained(&bus, "web", "misbehave").await;
        let messages = cluster.messages(&bus, "web").await;
        let milestones = messages
            .iter()
            .filter(|m| m.subject.starts_with("web.page.milestone"))
            .count();
        assert_eq!(milestones, published, "{sabotage}");
        assert_eq!(
            cluster
                .field(&cluster.store().await, "tallies", "/once", "count")
                .await,
            "1",
            "{sabotage}"
        );
    }
}

/// An event that kills its process must be run alone from then on. Were each delivery taken for one that left the process
/// alive, it would take its neighbours with it until all are at the attempt limit.
#[tokio::test]
async fn without_probation_the_neighbours_of_a_killer_are_set_aside_with_it() {
    const EVENTS: u64 = 30;
    for sabotage in ["nothing", "vouch-for-all"] {
        let (cluster, bus) = cluster(sabotage).await;
        for n in 0..EVENTS {
            let word = if n == 15 { "abort" } else { "" };
            let view = format!(r#"{{"page":"/k{n}","referrer":"{word}"}}"#);
            bus.publish_plain("web.page.viewed".into(), view.into())
                .await
                .expect("sent");
        }
        let mut worker = cluster.spawn_faulty("misbehave", "");
        until("all are applied or set aside", async || {
            let stat = std::fs::read_to_string(format!("/proc/{}/stat", worker.pid()));
            if stat.map_or(true, |stat| stat.contains(") Z ")) {
                worker = cluster.spawn_faulty("misbehave", "");
            }
            let info = bus
                .api("CONSUMER.INFO.web.app_misbehave", &serde_json::Value::Null)
                .await
                .expect("a consumer");
            // Of all numbers only this one is never ahead of what was really settled.
            (info["ack_floor"]["stream_seq"] == EVENTS).then_some(())
        })
        .await;
        let letters = cluster.count(&bus, "dlq").await;
        assert!(
            if sabotage == "nothing" {
                letters == 1
            } else {
                letters > 5
            },
            "{sabotage}: {letters} dead letters"
        );
    }
}
