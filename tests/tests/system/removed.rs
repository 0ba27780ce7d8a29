//! Messages that somebody takes out of a stream before their function has had them: found, named, and kept on record until
//! an operator takes them for lost. What Oncue purges itself is no such thing.

use oncue_core::bus::Bus;
use oncue_tests::cluster::{Cluster, until};
use serde_json::{Value, json};

const CONFIG: &str = "[flows]\ntrack = \"all\"\n";
const PAGES: usize = 100;

fn views(referrer: &str) -> impl Iterator<Item = (&'static str, String)> {
    (0..10 * PAGES).map(move |n| {
        let page = n % PAGES;
        (
            "web.page.viewed",
            format!(r#"{{"page":"/p{page}","visitor":"v{n}","referrer":"{referrer}"}}"#),
        )
    })
}

fn oncue(cluster: &Cluster, args: &[&str]) -> (i32, String) {
    let output = cluster.output("oncue", args);
    let text = [output.stdout, output.stderr].concat();
    (
        output.status.code().unwrap_or(-1),
        String::from_utf8_lossy(&text).into_owned(),
    )
}

/// Sums of a function as `oncue audit --json` has them.
fn audit(cluster: &Cluster, function: &str) -> (i32, Value) {
    let output = cluster.output("oncue", &["audit", function, "--json"]);
    let sums: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    (output.status.code().unwrap_or(-1), sums[0].clone())
}

fn removed_messages(sums: &Value) -> u64 {
    let removed = sums["removed"].as_array().expect("a list");
    let messages = removed.iter().map(|removed| removed["messages"].as_u64());
    messages.map(Option::unwrap_or_default).sum()
}

async fn purge(bus: &Bus, subject: &str) -> u64 {
    let purged = bus
        .api("STREAM.PURGE.web", &json!({ "filter": subject }))
        .await
        .expect("purged");
    purged["purged"].as_u64().expect("a number")
}

/// A thousand views counted, their milestones in the stream, and nobody there to rank them.
async fn milestones_waiting() -> (Cluster, Bus, u64) {
    let cluster = Cluster::new(CONFIG).await;
    let mut workers = cluster.start_all(&["count-views", "rank-pages"]).await;
    let bus = cluster.bus().await;
    workers.pop().expect("two").stop().await;
    cluster.plain_publish(views(""));
    cluster.drained(&bus, "web", "count-views").await;
    workers.pop().expect("one").stop().await;
    let info = bus.consumer_info("web", "rank-pages").await.expect("there");
    assert_eq!(info.num_pending, PAGES as u64, "a milestone for each page");
    // How far all are is known from here on.
    assert_eq!(oncue(&cluster, &["tend", "--once"]).0, 0);
    (cluster, bus, info.num_pending)
}

#[tokio::test]
async fn what_somebody_purges_is_missed() {
    let (cluster, bus, waiting) = milestones_waiting().await;
    let (code, sums) = audit(&cluster, "rank-pages");
    assert_eq!((code, removed_messages(&sums)), (0, 0), "{sums}");
    let messages = cluster.messages(&bus, "web").await;
    let is_milestone = |subject: &str| subject.starts_with("web.page.milestone");
    let milestone = messages
        .iter()
        .find(|message| is_milestone(&message.subject))
        .expect("a milestone");
    let flow = milestone.header("ce-flowid").expect("a flow").to_owned();
    let removed = purge(&bus, "web.page.milestone").await;
    let removed = removed + purge(&bus, "web.page.milestone.*").await;
    assert_eq!(removed, waiting);
    // Nobody runs: the audit finds it by itself.
    let (code, sums) = audit(&cluster, "rank-pages");
    assert_eq!((code, removed_messages(&sums)), (1, waiting), "{sums}");
    assert_eq!(sums["pending"], 0, "{sums}");
    let (code, told) = oncue(&cluster, &["audit", "rank-pages"]);
    assert!(
        code == 1 && told.contains("somebody has taken 100 messages out of web"),
        "{told}"
    );
    // Who tends the servers finds it as well, and keeps it on record, whatever comes behind.
    let (code, told) = oncue(&cluster, &["tend", "--once"]);
    assert!(
        code == 1 && told.contains("somebody has taken 100 messages out of web"),
        "{told}"
    );
    let mut worker = cluster.start("rank-pages").await;
    cluster.plain_publish([(
        "web.page.milestone",
        r#"{"page":"/late","views":"10"}"#.to_owned(),
    )]);
    cluster.drained(&bus, "web", "rank-pages").await;
    worker.stop().await;
    let (code, sums) = audit(&cluster, "rank-pages");
    assert_eq!((code, removed_messages(&sums)), (1, waiting), "{sums}");
    assert_eq!(sums["applied"], 1, "{sums}");
    let (code, told) = oncue(&cluster, &["doctor"]);
    assert!(
        code == 1 && told.contains("somebody has taken 100 messages"),
        "{told}"
    );
    // A flow that waited for one of them says so, once it is too old to be on its way.
    let told = until("the flow says lost", async || {
        let (_, told) = oncue(&cluster, &["flow", &flow]);
        told.contains("lost").then_some(told)
    })
    .await;
    assert!(told.contains("1 of 2 steps will never be taken"), "{told}");
    let (code, _) = oncue(&cluster, &["flow", &flow, "--follow"]);
    assert_eq!(code, 1, "nothing to wait for");
    // Taken for lost, with what Redis has kept published again where the server does not remember its id.
    let (code, told) = oncue(&cluster, &["recover", "nats", "--yes"]);
    assert_eq!(code, 0, "{told}");
    let (code, sums) = audit(&cluster, "rank-pages");
    assert_eq!((code, removed_messages(&sums)), (0, 0), "{sums}");
}

/// The broken twin: without the memory of how far a function was, nothing tells of the hole.
#[tokio::test]
async fn without_the_known_progress_nothing_is_missed() {
    let (cluster, bus, _) = milestones_waiting().await;
    purge(&bus, "web.page.milestone").await;
    purge(&bus, "web.page.milestone.*").await;
    cluster.redis_ok(&["DEL", "app:progress"]);
    let (code, sums) = audit(&cluster, "rank-pages");
    assert_eq!((code, removed_messages(&sums)), (0, 0), "{sums}");
}

/// Own purges take what is done and old; nobody is told that it was taken too early.
#[tokio::test]
async fn own_purges_are_not_missed() {
    let cluster = Cluster::new("").await;
    let mut workers = cluster.start_all(&["count-views", "rank-pages"]).await;
    let bus = cluster.bus().await;
    let store = cluster.store().await;
    cluster.plain_publish(views(""));
    cluster.drained(&bus, "web", "count-views").await;
    cluster.drained(&bus, "web", "rank-pages").await;
    // As a worker purges: first it is on record how far all are.
    let below = oncue_core::bus::purgeable(&bus, "web", std::time::Duration::ZERO).await;
    let below = below.expect("asked").expect("old and done");
    oncue_core::agreement::watch_all_removed(&bus, &store, "web")
        .await
        .expect("looked");
    let purged = oncue_core::bus::purge(&bus, "web", below).await;
    assert!(
        purged.expect("purged") >= 10 * PAGES as u64,
        "too little was purged"
    );
    cluster.plain_publish(views("again"));
    cluster.drained(&bus, "web", "count-views").await;
    for worker in &mut workers {
        worker.stop().await;
    }
    for function in ["count-views", "rank-pages"] {
        let (code, sums) = audit(&cluster, function);
        assert_eq!((code, removed_messages(&sums)), (0, 0), "{sums}");
    }
    assert!(store.removed().await.expect("asked").is_empty());
}
