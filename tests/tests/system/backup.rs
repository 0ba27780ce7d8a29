//! Backups taken under load, and put back once everything is lost: what was acked before is there once, and what came
//! later is named.

mod due;

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use oncue_core::bus::Bus;
use oncue_core::store::Store;
use oncue_proto::oncue::v1::{Envelope, Header};
use oncue_tests::cluster::{Cluster, Process, QUICK_REDELIVERY, must_fail, until, wait_for};
use serde_json::Value;

/// Events in the streams before the backup begins, at least.
const BEFORE: u64 = 1_000;

async fn cluster() -> Cluster {
    Cluster::new(&format!(
        "[functions.misbehave]\n{QUICK_REDELIVERY}\n[functions.record]\n{QUICK_REDELIVERY}\n"
    ))
    .await
}

#[track_caller]
fn oncue(cluster: &Cluster, args: &[&str], code: i32) -> String {
    let output = cluster.output("oncue", args);
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    assert_eq!(output.status.code(), Some(code), "{args:?}: {text}");
    text
}

/// A view of a page of its own, with an id; a milestone follows from it.
fn view(n: u64) -> Envelope {
    let header = |name: &str, value: String| Header {
        name: name.to_owned(),
        value,
    };
    Envelope {
        subject: "web.page.viewed".to_owned(),
        headers: vec![
            header("ce-specversion", "1.0".into()),
            header("ce-id", format!("view-{n}")),
            header("ce-type", "web.page.viewed".into()),
            header("ce-source", "/test".into()),
            header("Nats-Msg-Id", format!("view-{n}")),
        ],
        payload: format!(r#"{{"page":"/p{n}","referrer":"emit:1"}}"#).into(),
    }
}

/// A client that publishes until it is told to stop, and counts what was acked.
struct Client {
    acked: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    task: tokio::task::JoinHandle<()>,
}

impl Client {
    fn start(bus: &Bus) -> Self {
        let acked = Arc::new(AtomicU64::new(0));
        let stop = Arc::new(AtomicBool::new(false));
        let task = {
            let bus = bus.clone();
            let acked = acked.clone();
            let stop = stop.clone();
            tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    let n = acked.load(Ordering::Relaxed);
                    bus.publish(&view(n)).await.expect("acked");
                    acked.store(n + 1, Ordering::Relaxed);
                }
            })
        };
        Self { acked, stop, task }
    }

    fn acked(&self) -> u64 {
        self.acked.load(Ordering::Relaxed)
    }

    async fn stop(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.expect("a client");
        self.acked.load(Ordering::Relaxed)
    }
}

/// Nothing is left of either server.
pub async fn lose_everything(cluster: &Cluster, bus: &Bus) {
    cluster.redis_ok(&["FLUSHALL"]);
    cluster.redis_ok(&["FUNCTION", "FLUSH"]);
    for stream in bus.stream_names().await.expect("streams") {
        let deleted = bus
            .api(&format!("STREAM.DELETE.{stream}"), &Value::Null)
            .await;
        deleted.expect("deleted");
    }
}

/// Ids in the rows of a table, by page; each page once.
async fn ids(cluster: &Cluster, store: &Store, table: &str, n: u64) -> Vec<String> {
    let ids = cluster.field(store, table, &format!("/p{n}"), "ids").await;
    if ids.is_empty() {
        return Vec::new();
    }
    serde_json::from_str(&ids).expect("a list")
}

fn folder(cluster: &Cluster) -> PathBuf {
    cluster.dir.join("backup")
}

async fn drained(cluster: &Cluster, bus: &Bus) {
    for function in ["misbehave", "record"] {
        cluster.drained(bus, "web", function).await;
    }
}

async fn stop(workers: Vec<Process>) {
    for mut worker in workers {
        worker.stop().await;
    }
}

// The client goes on while the commands run.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_under_load_brings_back_all_that_was_acked_before_it_once() {
    let cluster = cluster().await;
    let bus = cluster.bus().await;
    oncue(&cluster, &["apply"], 0);
    let workers = cluster
        .start_all(&["misbehave", "misbehave", "record", "record"])
        .await;
    let client = Client::start(&bus);
    wait_for("the client has published enough", async || {
        client.acked() >= BEFORE
    })
    .await;
    let before = client.acked();
    let dir = folder(&cluster).display().to_string();
    let text = oncue(&cluster, &["backup", &dir], 0);
    assert!(text.contains("holds the app app"), "{text}");
    let during = client.acked();
    assert!(during > before, "nothing came while the backup was taken");
    wait_for("more comes after it", async || {
        client.acked() >= during + 200
    })
    .await;
    let all = client.stop().await;
    drained(&cluster, &bus).await;
    stop(workers).await;
    lose_everything(&cluster, &bus).await;

    let text = oncue(&cluster, &["restore", &dir, "--yes"], 0);
    assert!(text.contains("came after the backup"), "{text}");
    println!("{text}");
    let workers = cluster
        .start_all(&["misbehave", "misbehave", "record", "record"])
        .await;
    drained(&cluster, &bus).await;
    let audit = oncue(&cluster, &["audit"], 0);
    assert!(audit.contains("web: sequences"), "{audit}");
    let store = cluster.store().await;
    let mut later = 0;
    for n in 0..all {
        let views = ids(&cluster, &store, "tallies", n).await;
        let recorded = ids(&cluster, &store, "records", n).await;
        assert!(views.len() <= 1, "/p{n} counted {views:?}");
        assert!(recorded.len() <= 1, "/p{n} recorded {recorded:?}");
        if n < before {
            assert_eq!(
                views,
                [format!("view-{n}")],
                "/p{n} was acked before the backup"
            );
        }
        // Whatever has its effect has what follows from it, once.
        assert_eq!(views.len(), recorded.len(), "/p{n}");
        later += u64::from(n >= before && !views.is_empty());
    }
    assert!(
        later < all - before,
        "the backup cannot hold what came after it"
    );

    // Sent again, all of it is there, and none of it twice.
    for n in 0..all {
        bus.publish(&view(n)).await.expect("acked");
    }
    drained(&cluster, &bus).await;
    let mut distinct = BTreeSet::new();
    for n in 0..all {
        let views = ids(&cluster, &store, "tallies", n).await;
        let recorded = ids(&cluster, &store, "records", n).await;
        assert_eq!((views.len(), recorded.len()), (1, 1), "/p{n}");
        distinct.extend(recorded);
    }
    assert_eq!(distinct.len() as u64, all);
    stop(workers).await;
}

#[tokio::test]
async fn an_event_without_an_id_is_not_taken_for_one_of_before_the_restore() {
    new_ones_count(true).await;
}

/// The broken twin: a backup that does not say how far its streams had come while Redis was copied. Places are given anew
/// that Redis knows, and what comes to them is taken for seen.
#[tokio::test]
async fn a_backup_that_does_not_know_how_far_it_is_loses_new_ones() {
    let said = must_fail("places are given twice", Box::pin(new_ones_count(false))).await;
    assert!(said.contains("the new ones are counted"), "{said}");
}

/// Redis of a backup is newer than its streams; whether it says so is up to the caller.
async fn new_ones_count(says_how_far: bool) {
    let cluster = cluster().await;
    let bus = cluster.bus().await;
    oncue(&cluster, &["apply"], 0);
    let store = cluster.store().await;
    let plain = |n: u64| {
        let view = format!(r#"{{"page":"/p{n}","referrer":""}}"#);
        ("web.page.viewed", view)
    };
    cluster.plain_publish((0..10).map(plain));
    // The streams are copied, then ten more are applied, and then Redis is copied: as if the backup had taken that long.
    let dir = folder(&cluster).display().to_string();
    let store_of_streams = bus.snapshot("web", |_| Ok(())).await.expect("a snapshot");
    assert_eq!(store_of_streams.messages(), 10);
    let workers = cluster.start_all(&["misbehave"]).await;
    oncue(&cluster, &["backup", &dir], 0);
    cluster.plain_publish((10..20).map(plain));
    drained(&cluster, &bus).await;
    let second = cluster.dir.join("second").display().to_string();
    oncue(&cluster, &["backup", &second], 0);
    stop(workers).await;
    // Redis of the second, streams of the first.
    let contents = |dir: &str| format!("{dir}/contents.json");
    let read = |dir: &str| -> Value {
        let json = std::fs::read(contents(dir)).expect("contents");
        serde_json::from_slice(&json).expect("JSON")
    };
    let mut mixed = read(&dir);
    let of_second = read(&second);
    mixed["redis"] = of_second["redis"].clone();
    mixed["entries"] = of_second["entries"].clone();
    let streams = mixed["streams"].as_array_mut().expect("streams");
    let newer = of_second["streams"].as_array().expect("streams");
    for (first, second) in streams.iter_mut().zip(newer) {
        if says_how_far {
            first["last"] = second["last"].clone();
        }
    }
    std::fs::write(contents(&dir), mixed.to_string()).expect("written");
    std::fs::copy(
        format!("{second}/redis.entries"),
        format!("{dir}/redis.entries"),
    )
    .expect("copied");
    lose_everything(&cluster, &bus).await;
    oncue(&cluster, &["restore", &dir, "--yes"], 0);
    let workers = cluster.start_all(&["misbehave"]).await;
    cluster.plain_publish((20..30).map(plain));
    let last = bus.stream_info("web").await.expect("a stream");
    until("they are delivered", async || {
        let consumer = bus.consumer_info("web", "misbehave").await.ok()?;
        (consumer.delivered.stream_seq >= last.state.last_seq).then_some(())
    })
    .await;
    cluster.drained(&bus, "web", "misbehave").await;
    let mut counted = 0;
    for n in 20..30 {
        counted += ids(&cluster, &store, "tallies", n).await.len();
    }
    assert_eq!(counted, 10, "the new ones are counted");
    for n in 0..20 {
        assert_eq!(ids(&cluster, &store, "tallies", n).await.len(), 1, "/p{n}");
    }
    stop(workers).await;
}

#[tokio::test]
async fn what_is_no_backup_of_this_app_changes_nothing() {
    let cluster = cluster().await;
    let bus = cluster.bus().await;
    oncue(&cluster, &["apply"], 0);
    let store = cluster.store().await;
    let workers = cluster.start_all(&["misbehave"]).await;
    cluster.plain_publish((0..5).map(|n| {
        let view = format!(r#"{{"page":"/p{n}","referrer":""}}"#);
        ("web.page.viewed", view)
    }));
    drained(&cluster, &bus).await;
    let dir = folder(&cluster);
    let name = dir.display().to_string();
    oncue(&cluster, &["backup", &name], 0);
    for file in std::fs::read_dir(&dir).expect("a folder") {
        let mode = file
            .expect("a file")
            .metadata()
            .expect("its data")
            .permissions()
            .mode();
        assert_eq!(mode & 0o077, 0, "others can read the secret of the app");
    }
    assert!(oncue(&cluster, &["backup", &name], 2).contains("is not empty"));
    // Running workers, servers that hold the app, and a damaged file each keep it from being restored.
    assert!(oncue(&cluster, &["restore", &name], 1).contains("misbehave still run"));
    stop(workers).await;
    let text = oncue(&cluster, &["restore", &name], 1);
    assert!(
        text.contains("stream web") && text.contains("--replace"),
        "{text}"
    );
    assert!(oncue(&cluster, &["restore", "/tmp"], 2).contains("is no complete backup"));
    let web = dir.join("web.stream");
    let whole = std::fs::read(&web).expect("a stream");
    std::fs::write(&web, &whole[..whole.len() - 1]).expect("written");
    let replace = ["restore", &name, "--replace", "--yes"];
    assert!(oncue(&cluster, &replace, 2).contains("web.stream is not as it was written"));
    assert_eq!(cluster.count(&bus, "web").await, 5);
    std::fs::write(&web, &whole).expect("written");
    let other = cluster.dir.join("other.toml");
    std::fs::write(&other, "[app]\nname = \"other\"\n").expect("written");
    let other = other.display().to_string();
    let text = oncue(&cluster, &["--config", &other, "restore", &name], 2);
    assert!(text.contains("of the app app, and this is other"), "{text}");
    // Another app's keys in the same Redis stay as they are.
    cluster.redis_ok(&["SET", "other:row", "1"]);
    oncue(&cluster, &replace, 0);
    assert_eq!(cluster.redis_ok(&["GET", "other:row"]), "1");
    let workers = cluster.start_all(&["misbehave"]).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    drained(&cluster, &bus).await;
    for n in 0..5 {
        assert_eq!(ids(&cluster, &store, "tallies", n).await.len(), 1, "/p{n}");
    }
    stop(workers).await;
}
