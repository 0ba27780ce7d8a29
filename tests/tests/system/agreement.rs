//! Two servers that belong to one time: what one has lost while nobody ran is found at the next start, and recovered
//! without making anything twice.

use std::collections::BTreeSet;

use oncue_core::bus::Bus;
use oncue_tests::cluster::{Cluster, Process, QUICK_REDELIVERY, must_fail, until};
use serde_json::Value;

const PAGES: u64 = 50;
const VIEWS: u64 = 2000;
/// The server's own memory of ids is short, so that it hides no second copy.
const WINDOWS: &str =
    "[streams.web]\nduplicate_window = \"100ms\"\n[streams.dlq]\nduplicate_window = \"100ms\"\n";

fn oncue(cluster: &Cluster, args: &[&str]) -> (i32, String) {
    let output = cluster.output("oncue", args);
    let text = [output.stdout, output.stderr].concat();
    (
        output.status.code().unwrap_or(-1),
        String::from_utf8_lossy(&text).into_owned(),
    )
}

async fn counting(workers: usize) -> (Cluster, Vec<Process>) {
    let config = format!("{WINDOWS}[functions.count-views]\n{QUICK_REDELIVERY}\n");
    let cluster = Cluster::new(&config).await;
    let workers = cluster.start_all(&vec!["count-views"; workers]).await;
    (cluster, workers)
}

fn views() -> impl Iterator<Item = (&'static str, String)> {
    (0..VIEWS).map(|n| {
        let page = n % PAGES;
        (
            "web.page.viewed",
            format!(r#"{{"page":"/p{page}","visitor":"v{n}"}}"#),
        )
    })
}

/// Ids of milestones, and how many messages they are.
async fn milestones(cluster: &Cluster, bus: &Bus) -> (BTreeSet<String>, usize) {
    let messages = cluster.messages(bus, "web").await;
    let ids: Vec<String> = messages
        .iter()
        .filter(|message| message.subject.starts_with("web.page.milestone"))
        .map(|message| message.header("ce-id").expect("an id").to_owned())
        .collect();
    (ids.iter().cloned().collect(), ids.len())
}

async fn all_counted(cluster: &Cluster, bus: &Bus) {
    until("every view is delivered", async || {
        let info = bus
            .api("CONSUMER.INFO.web.app_count-views", &Value::Null)
            .await
            .ok()?;
        (info["num_pending"].as_u64() == Some(0)).then_some(())
    })
    .await;
    cluster.drained(bus, "web", "count-views").await;
}

async fn sum_of_views(cluster: &Cluster) -> u64 {
    let store = cluster.store().await;
    let mut sum = 0;
    for page in 0..PAGES {
        let views = cluster
            .field(&store, "pages", &format!("/p{page}"), "views")
            .await;
        sum += views.parse::<u64>().unwrap_or_default();
    }
    sum
}

/// Two thousand views by four workers, all done; then Redis is empty, and nobody was there to see it. With the different
/// milestones, and how many messages they were.
async fn emptied_while_stopped() -> (Cluster, Bus, BTreeSet<String>, usize) {
    let (cluster, mut workers) = counting(4).await;
    let bus = cluster.bus().await;
    cluster.plain_publish(views());
    all_counted(&cluster, &bus).await;
    for worker in &mut workers {
        assert_eq!(worker.stop().await, Some(0));
    }
    assert_eq!(sum_of_views(&cluster).await, VIEWS);
    let (before, messages) = milestones(&cluster, &bus).await;
    assert_eq!(before.len() as u64, VIEWS / 10);
    cluster.redis_ok(&["FLUSHALL"]);
    (cluster, bus, before, messages)
}

#[tokio::test]
async fn what_was_published_is_not_published_again() {
    let (cluster, bus, before, published) = emptied_while_stopped().await;
    // Every worker finds it at its start, and so does `doctor`.
    let mut refused = cluster.spawn("count-views", &[]);
    assert_eq!(refused.exit().await, Some(1));
    assert!(
        refused.log().contains("oncue recover redis"),
        "{}",
        refused.log()
    );
    let (code, told) = oncue(&cluster, &["doctor"]);
    assert!(code == 1 && told.contains("oncue recover redis"), "{told}");
    let (code, told) = oncue(&cluster, &["recover", "redis", "--yes"]);
    assert_eq!(code, 0, "{told}");
    let workers = cluster.start_all(&["count-views"; 4]).await;
    let (code, told) = oncue(&cluster, &["recover", "redis", "--since", "1h", "--yes"]);
    assert!(code == 1 && told.contains("still run"), "{told}");
    all_counted(&cluster, &bus).await;
    assert_eq!(sum_of_views(&cluster).await, VIEWS);
    let (after, messages) = milestones(&cluster, &bus).await;
    assert_eq!(after, before, "other milestones than before the loss");
    assert_eq!(messages, published, "a milestone was published again");
    // What comes from now on has its effects.
    cluster.plain_publish(views().take(PAGES as usize * 10));
    all_counted(&cluster, &bus).await;
    let (later, _) = milestones(&cluster, &bus).await;
    assert_eq!(later.len(), before.len() + PAGES as usize);
    let (code, told) = oncue(&cluster, &["audit"]);
    assert_eq!(code, 0, "{told}");
    drop(workers);
}

/// The broken twin: workers that are not told what had been acked publish all of it once more.
#[tokio::test]
async fn workers_that_do_not_know_of_the_recovery_publish_again() {
    let (cluster, bus, _, published) = emptied_while_stopped().await;
    let mut refused = cluster.spawn("count-views", &[]);
    refused.exit().await;
    let (code, told) = oncue(&cluster, &["recover", "redis", "--yes"]);
    assert_eq!(code, 0, "{told}");
    cluster.redis_ok(&["DEL", "app:restoring"]);
    let _workers = cluster.start_all(&["count-views"; 4]).await;
    all_counted(&cluster, &bus).await;
    let (_, messages) = milestones(&cluster, &bus).await;
    assert!(messages > published, "nothing was published again");
}

/// Letters are one for each event; one that was given up stays so.
#[tokio::test]
async fn a_recovery_writes_no_letter_twice() {
    let config = format!("{WINDOWS}[functions.misbehave]\n{QUICK_REDELIVERY}\n");
    let cluster = Cluster::new(&config).await;
    let bus = cluster.bus().await;
    let mut worker = cluster.start("misbehave").await;
    let told = |page: String, what: &str| {
        let payload = format!(r#"{{"page":"{page}","referrer":"{what}"}}"#);
        ("web.page.viewed", payload)
    };
    cluster.plain_publish((0..20).map(|n| told(format!("/good{n}"), "emit:1")));
    cluster.plain_publish((0..6).map(|n| told(format!("/dead{n}"), "reject")));
    let settled = async |letters: u64| {
        until("all are settled", async || {
            let info = bus
                .api("CONSUMER.INFO.web.app_misbehave", &Value::Null)
                .await
                .ok()?;
            let idle = info["num_pending"] == 0 && info["num_ack_pending"] == 0;
            let count = cluster.count(&bus, "dlq").await;
            (idle && count == letters).then_some(())
        })
        .await;
    };
    settled(6).await;
    // One of those that are given up has been tried once more before.
    let (_, told) = oncue(&cluster, &["dlq", "redrive", "1", "--yes"]);
    assert!(told.contains("#1 is #7 now"), "{told}");
    until("it has failed once more", async || {
        let dlq = bus.stream_info("dlq").await.ok()?;
        (dlq.state.last_seq == 7 && dlq.state.messages == 6).then_some(())
    })
    .await;
    settled(6).await;
    for number in ["7", "2"] {
        let (code, told) = oncue(&cluster, &["dlq", "drop", number, "--why", "obsolete"]);
        assert_eq!(code, 0, "{told}");
    }
    // A letter that is dropped leaves a record.
    settled(6).await;
    worker.stop().await;
    cluster.redis_ok(&["FLUSHALL"]);
    let (code, told) = oncue(&cluster, &["recover", "redis", "--since", "1h", "--yes"]);
    assert_eq!(code, 0, "{told}");
    let _worker = cluster.start("misbehave").await;
    settled(6).await;
    let (code, told) = oncue(&cluster, &["audit", "--json"]);
    let audits: Value = serde_json::from_str(&told).unwrap_or_else(|e| panic!("{e}: {told}"));
    assert_eq!(
        (code, &audits[0]["dead"], &audits[0]["applied"]),
        (0, &6.into(), &20.into())
    );
    let (_, told) = oncue(&cluster, &["dlq", "ls", "--json"]);
    assert!(told.contains("\"count\":4"), "{told}");
}

/// A hundred views are counted; then NATS comes back empty, and nobody was there to see it.
async fn emptied_nats() -> Cluster {
    let (mut cluster, mut workers) = counting(1).await;
    let bus = cluster.bus().await;
    cluster.plain_publish(views().take(100));
    all_counted(&cluster, &bus).await;
    assert_eq!(workers[0].stop().await, Some(0));
    assert_eq!(oncue(&cluster, &["tend", "--once"]).0, 0);
    // It remembers them as they were when it was looked last.
    let known = cluster.redis_ok(&["HGET", "app:streams", "web"]);
    assert!(known.contains("created"), "{known}");
    cluster.nats.kill();
    let store = cluster.dir.join("nats");
    assert!(store.is_dir(), "{} is not where it lies", store.display());
    std::fs::remove_dir_all(&store).expect("removed");
    cluster.restart_nats().await;
    cluster
}

async fn it_is_found_out(cluster: &Cluster) {
    let mut refused = cluster.spawn("count-views", &[]);
    assert_eq!(refused.exit().await, Some(1));
    assert!(
        refused.log().contains("oncue recover nats"),
        "{}",
        refused.log()
    );
    let (code, told) = oncue(cluster, &["doctor"]);
    assert!(code == 1 && told.contains("oncue recover nats"), "{told}");
}

/// The broken twin: without what Redis remembers of the streams, an emptied NATS is one that is new.
#[tokio::test]
async fn without_a_memory_of_streams_an_emptied_nats_is_a_new_one() {
    let cluster = emptied_nats().await;
    cluster.redis_ok(&["DEL", "app:streams", "app:progress"]);
    let (code, told) = oncue(&cluster, &["doctor"]);
    assert!(!told.contains("oncue recover nats"), "{code} {told}");
    must_fail("nothing is remembered", it_is_found_out(&cluster)).await;
}

/// An emptied NATS is no new one: Redis knows what its streams held.
#[tokio::test]
async fn an_emptied_nats_is_found_out() {
    let cluster = emptied_nats().await;
    it_is_found_out(&cluster).await;
    let (code, told) = oncue(&cluster, &["recover", "nats", "--yes"]);
    assert_eq!(code, 0, "{told}");
    let mut worker = cluster.start("count-views").await;
    let bus = cluster.bus().await;
    cluster.plain_publish(views().take(10));
    all_counted(&cluster, &bus).await;
    assert_eq!(sum_of_views(&cluster).await, 110);
    assert_eq!(worker.stop().await, Some(0));
}

/// Ids of outputs hang on a secret that outlives the loss of either server.
#[tokio::test]
async fn the_secret_survives_the_loss_of_either_server() {
    let cluster = Cluster::new("").await;
    let bus = cluster.bus().await;
    let secret = async || {
        let store = cluster.store().await;
        oncue_core::secret::id_secret(&bus, &store).await
    };
    let first = secret().await.expect("a secret");
    cluster.redis_ok(&["FLUSHALL"]);
    assert_eq!(secret().await.expect("from NATS"), first);
    bus.api("STREAM.DELETE.KV_oncue", &Value::Null)
        .await
        .expect("deleted");
    assert_eq!(secret().await.expect("from Redis"), first);
    // Servers of two installations are refused.
    let other = oncue_proto::event::IdSecret::random()
        .expect("random")
        .to_text();
    cluster.redis_ok(&["SET", "app:id-secret", &other]);
    let refused = secret().await.expect_err("two secrets").to_string();
    assert!(refused.contains("two installations"), "{refused}");
}
