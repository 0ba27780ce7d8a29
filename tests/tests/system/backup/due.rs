//! What was due when a backup was taken, and what others have in the streams that apps share, through a restore.

use oncue_core::bus::layout::{DLQ, FIRED_TTL, TIMER};
use oncue_core::bus::{Bus, Outbound};
use oncue_tests::cluster::{Cluster, QUICK_REDELIVERY, until};
use serde_json::{Value, json};

use super::{folder, lose_everything, oncue};

/// Time for which nats-server keeps what has fired, where a test waits for its end: longer than a backup takes.
const SHORT_TTL: &str = "30s";

async fn cluster() -> Cluster {
    let more =
        format!("[streams.web]\nmax_bytes = \"1MiB\"\n[functions.misbehave]\n{QUICK_REDELIVERY}\n");
    let cluster = Cluster::new(&more).await;
    oncue(&cluster, &["apply"], 0);
    cluster
}

async fn publish(bus: &Bus, subject: &str, headers: &[(&str, &str)], payload: String) -> bool {
    let message = Outbound {
        subject: subject.to_owned(),
        headers: headers.iter().copied().collect(),
        payload: payload.into(),
    };
    bus.publish_each(vec![message]).await.remove(0).is_ok()
}

/// As nats-server leaves it behind when a schedule fires.
async fn fire(bus: &Bus, ty: &str, ttl: &str) {
    let subject = format!("timer.due.{ty}");
    let payload = r#"{"page":"/due","referrer":""}"#.to_owned();
    assert!(publish(bus, &subject, &[("Nats-TTL", ttl)], payload).await);
}

/// Fills the stream, so that it takes over no more.
async fn fill(bus: &Bus) {
    for size in [60_000, 10] {
        while publish(bus, "web.page.filler", &[], "x".repeat(size)).await {}
    }
}

async fn make_room(bus: &Bus) {
    let purged = bus.api("STREAM.PURGE.web", &Value::Null).await;
    purged.expect("room");
}

async fn taken(bus: &Bus) -> u64 {
    let filter = "web.page.viewed";
    let subjects = bus.stream_subjects("web", filter).await;
    let count = subjects.expect("subjects").get(filter).copied();
    count.unwrap_or(0)
}

/// Number of events that are due in a domain.
async fn due(bus: &Bus, domain: &str) -> u64 {
    let filter = format!("timer.due.{domain}.>");
    let subjects = bus.stream_subjects(TIMER, &filter).await;
    subjects.expect("subjects").values().sum()
}

async fn remove_stream(bus: &Bus, stream: &str) {
    let removed = bus
        .api(&format!("STREAM.DELETE.{stream}"), &Value::Null)
        .await;
    removed.expect("removed");
}

/// nats-server counts the time of what has fired from its first storing, and takes nothing out of a snapshot that is over it.
#[tokio::test]
async fn what_was_due_comes_from_a_backup_that_is_older_than_it_would_be_kept() {
    let cluster = cluster().await;
    let bus = cluster.bus().await;
    fill(&bus).await;
    fire(&bus, "web.page.viewed", SHORT_TTL).await;
    fire(&bus, "web.page.viewed", SHORT_TTL).await;
    let dir = folder(&cluster).display().to_string();
    oncue(&cluster, &["backup", &dir], 0);
    assert_eq!(due(&bus, "web").await, 2, "the backup took too long");
    until("it is kept no longer", async || {
        (due(&bus, "web").await == 0).then_some(())
    })
    .await;
    both_come_back(&cluster, &bus, &dir).await;
}

/// Two events were due when the backup was taken: they come once everything that was lost is put back.
async fn both_come_back(cluster: &Cluster, bus: &Bus, dir: &str) {
    lose_everything(cluster, bus).await;
    let text = oncue(cluster, &["restore", dir], 0);
    assert!(text.contains("2 events that were due"), "{text}");
    make_room(bus).await;
    until("what was due comes", async || {
        (taken(bus).await == 2).then_some(())
    })
    .await;
}

/// A `timer` that was made anew counts from 1 again: what the stream has of the former says nothing of it.
#[tokio::test]
async fn what_was_due_comes_if_timer_was_made_anew_before() {
    let cluster = cluster().await;
    let bus = cluster.bus().await;
    for _ in 0..8 {
        fire(&bus, "web.page.viewed", FIRED_TTL).await;
    }
    until("they are taken", async || {
        (taken(&bus).await == 8).then_some(())
    })
    .await;
    fill(&bus).await;
    remove_stream(&bus, TIMER).await;
    oncue(&cluster, &["apply"], 0);
    fire(&bus, "web.page.viewed", FIRED_TTL).await;
    fire(&bus, "web.page.viewed", FIRED_TTL).await;
    let dir = folder(&cluster).display().to_string();
    oncue(&cluster, &["backup", &dir], 0);
    both_come_back(&cluster, &bus, &dir).await;
}

/// What is due for another app stays, whether its own restore replaces the stream or finds none.
#[tokio::test]
async fn what_is_due_for_another_app_stays() {
    let cluster = cluster().await;
    let bus = cluster.bus().await;
    let bank = json!({
        "name": "bank",
        "subjects": ["bank.>"],
        "storage": "file",
        "discard": "new",
        "max_msgs": 1,
        "allow_direct": true,
        "sources": [{
            "name": TIMER,
            "subject_transforms": [{ "src": "timer.due.bank.>", "dest": "bank.>" }],
        }],
        "metadata": { "oncue.app": "shop" },
    });
    bus.api("STREAM.CREATE.bank", &bank).await.expect("made");
    assert!(publish(&bus, "bank.order.placed", &[], "{}".to_owned()).await);
    // There is no room for it.
    fire(&bus, "bank.order.paid", FIRED_TTL).await;
    let dir = folder(&cluster).display().to_string();
    oncue(&cluster, &["backup", &dir], 0);
    let created = bus.stream_created(TIMER).await.expect("a time");
    let replace = ["restore", &dir, "--replace", "--yes"];
    oncue(&cluster, &replace, 0);
    assert_eq!(due(&bus, "bank").await, 1);
    assert_eq!(bus.stream_created(TIMER).await.expect("a time"), created);
    // Without a stream that would take it: it is of an app all the same.
    remove_stream(&bus, "bank").await;
    oncue(&cluster, &replace, 0);
    assert_eq!(due(&bus, "bank").await, 1);
    // Lost alone, `timer` comes with what is due in a stream that is there.
    remove_stream(&bus, TIMER).await;
    bus.api("STREAM.CREATE.bank", &bank).await.expect("made");
    oncue(&cluster, &replace, 0);
    until("the other takes it", async || {
        let subjects = bus.stream_subjects("bank", "bank.order.paid").await;
        (!subjects.expect("subjects").is_empty()).then_some(())
    })
    .await;
}

/// Sequences go on behind the saved ones also in a stream that has hardly any room.
#[tokio::test]
async fn a_young_stream_of_another_app_is_not_filled_up() {
    const LAST: u64 = 20_000;
    let cluster = cluster().await;
    let bus = cluster.bus().await;
    let raised = bus.api("STREAM.PURGE.dlq", &json!({ "seq": LAST })).await;
    raised.expect("it was empty");
    assert!(publish(&bus, "dlq.app.misbehave", &[], "a letter".to_owned()).await);
    let dir = folder(&cluster).display().to_string();
    oncue(&cluster, &["backup", &dir], 0);
    lose_everything(&cluster, &bus).await;
    let small = json!({
        "name": DLQ,
        "subjects": ["dlq.>"],
        "storage": "file",
        "discard": "new",
        "max_bytes": 256 << 10,
        "allow_direct": true,
        "metadata": { "oncue.app": "shop" },
    });
    bus.api("STREAM.CREATE.dlq", &small).await.expect("made");
    assert!(publish(&bus, "dlq.shop.count", &[], "another".to_owned()).await);
    oncue(&cluster, &["restore", &dir], 0);
    let info = bus.stream_info(DLQ).await.expect("a stream");
    assert_eq!(info.state.messages, 2);
    assert!(info.state.last_seq > LAST);
}

/// Its consumer says of which stream it was, and so for how long it may come back to what it has applied.
#[tokio::test]
async fn marks_of_a_function_without_registration_stay_for_its_own_horizon() {
    let more =
        format!("[streams.web]\nhorizon = \"30d\"\n[functions.misbehave]\n{QUICK_REDELIVERY}\n");
    let cluster = Cluster::new(&more).await;
    oncue(&cluster, &["apply"], 0);
    cluster.redis_ok(&["DEL", "app:functions"]);
    let text = oncue(&cluster, &["remove", "misbehave", "--yes"], 0);
    assert!(text.contains("stays known for 726 h"), "{text}");
}
