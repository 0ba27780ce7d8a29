//! Where marks stand: by the id alone, in buckets that stay small, for as long as they may be asked for.

use bytes::Bytes;
use oncue_core::store::mark::Area;
use oncue_core::store::{CommitEvent, Purpose, Run, Status};
use oncue_proto::event;
use oncue_tests::any_store::AnyStore;
use oncue_tests::cluster::Cluster;

use super::{HORIZON, alone, commit, handled, handled_at};
use crate::twins::break_library;

/// Whatever a copy says of its time, and whatever its key, the mark of its id is found.
pub async fn a_mark_is_found_by_the_id_alone(store: &AnyStore) {
    let now = event::now_ms();
    let ids = [event::new_id(), "any other".to_owned(), "s:1:99".to_owned()];
    for id in &ids {
        let first = handled_at(id, "/there", now, true);
        assert_eq!(commit(store, alone(first)).await, [Status::Applied], "{id}");
        for (key, time, timed) in [
            ("/there", now - 600_000, true),
            ("/there", now - HORIZON / 2, false),
            ("/elsewhere", now, true),
        ] {
            let copy = alone(handled_at(id, key, time, timed));
            assert_eq!(commit(store, copy).await, [Status::Duplicate(None)], "{id}");
        }
    }
}

/// Ids of one kind, as many as wanted.
fn ids(kind: &str, count: u64) -> Vec<String> {
    let id = |n: u64| match kind {
        "time" => event::new_id(),
        "position" => format!("s:1700000000000:{}", 1_000_000 + n),
        _ => format!("{kind}-{n}"),
    };
    (0..count).map(id).collect()
}

/// Events of these ids as busy workers commit them, with outputs, many runs in a call.
async fn commit_all(store: &AnyStore, ids: &[String]) -> Vec<Status> {
    let mut statuses = Vec::new();
    for (call, ids) in ids.chunks(200).enumerate() {
        let runs: Vec<Run> = ids
            .iter()
            .enumerate()
            .map(|(n, id)| {
                let mut event = handled(id, &format!("/{}", n % 20));
                event.mark.sequence = (1_000_000 + 200 * call + n) as u64;
                event.outbox = Bytes::from_static(b"out");
                alone(event)
            })
            .collect();
        let committed = store.commit(&runs).await.expect("a commit");
        statuses.extend(committed.statuses.into_iter().flatten());
        let outbox: Vec<String> = committed.outbox.into_iter().collect();
        store.published(&outbox, false).await.expect("marked");
    }
    statuses
}

fn used_memory(cluster: &Cluster) -> f64 {
    let info = cluster.redis_cli(&["INFO", "memory"]);
    let mut lines = info
        .lines()
        .filter_map(|line| line.strip_prefix("used_memory:"));
    let used = lines.next().expect("a number").trim();
    used.parse().expect("a number")
}

/// A mark for each event and function of three days is what Redis mostly holds.
#[tokio::test]
async fn a_mark_takes_less_than_thirty_bytes() {
    let cluster = Cluster::new("").await;
    let store = cluster.any_store().await;
    commit_all(&store, &ids("warm", 1000)).await;
    for (kind, count) in [
        ("time", 3_000),
        ("time", 40_000),
        ("position", 40_000),
        ("other", 40_000),
    ] {
        let ids = ids(kind, count);
        let before = used_memory(&cluster);
        let statuses = commit_all(&store, &ids).await;
        assert!(statuses.iter().all(|status| *status == Status::Applied));
        let each = (used_memory(&cluster) - before) / count as f64;
        println!("{count} marks of kind {kind}: {each:.1} bytes each");
        assert!(
            each < 30.0,
            "{count} marks of kind {kind} take {each:.1} bytes each"
        );
        assert!(each > 5.0, "that is no mark: {each:.1} bytes");
        // All of them are still there, through every split.
        let again = commit_all(&store, &ids).await;
        let duplicate = |status: &Status| matches!(status, Status::Duplicate(_));
        assert!(again.iter().all(duplicate), "a mark of kind {kind} is lost");
    }
}

/// A split that drops a part of a bucket would apply events again.
#[tokio::test]
async fn a_split_that_loses_marks_is_found_out() {
    let cluster = Cluster::new("").await;
    let store = cluster.any_store().await;
    break_library(&cluster, "for bit = 0, 1 do", "for bit = 0, 0 do");
    let ids = ids("other", 3000);
    commit_all(&store, &ids).await;
    let again = commit_all(&store, &ids).await;
    assert!(again.contains(&Status::Applied));
}

/// The directory of ids without a time begins a new generation now and then; what stands in the one before counts.
#[tokio::test]
async fn a_new_generation_does_not_forget_the_one_before() {
    let cluster = Cluster::new("").await;
    let store = cluster.any_store().await;
    let old = ids("other", 3000);
    commit_all(&store, &old).await;
    let directory = handled(&old[0], "/").mark.directory();
    assert_eq!(directory, format!("d:suite:{}", Area::Other));
    let age = |seconds: u64| {
        let text = cluster.redis_ok(&["GET", &directory]);
        let aged = text.lines().map(|line| {
            let mut words: Vec<u64> = line
                .split(' ')
                .map(|n| n.parse().expect("a number"))
                .collect();
            words[1] -= seconds;
            words
                .iter()
                .map(u64::to_string)
                .collect::<Vec<_>>()
                .join(" ")
        });
        let aged: Vec<String> = aged.collect();
        cluster.redis_ok(&["SET", &directory, &aged.join("\n"), "KEEPTTL"]);
        text
    };
    let before = age(37 * 3600);
    assert_eq!(before.lines().count(), 1);
    // A copy is known, and begins no generation; a new event begins one, as deep as the one before.
    assert_eq!(
        commit(&store, alone(handled(&old[7], "/"))).await,
        [Status::Duplicate(None)]
    );
    assert_eq!(
        commit(&store, alone(handled("new", "/"))).await,
        [Status::Applied]
    );
    let generations = cluster.redis_ok(&["GET", &directory]);
    let lines: Vec<&str> = generations.lines().collect();
    assert_eq!(lines.len(), 2, "{generations}");
    assert!(
        lines[0].starts_with("1 ") && lines[1].starts_with("0 "),
        "{generations}"
    );
    let depth = |line: &str| line.rsplit(' ').next().and_then(|n| n.parse::<u32>().ok());
    assert!(
        depth(lines[0]) >= depth(lines[1]).map(|depth| depth - 1),
        "{generations}"
    );
    let again = commit_all(&store, &old).await;
    assert!(
        again
            .iter()
            .all(|status| matches!(status, Status::Duplicate(_)))
    );
    // A dead letter of the old generation lives again by its redrive, and then counts as applied.
    let dead = CommitEvent {
        purpose: Purpose::DeadLetter,
        ..handled("dead", "/")
    };
    assert_eq!(commit(&store, alone(dead)).await, [Status::Applied]);
    age(37 * 3600);
    let redriven = || {
        let mut event = handled("dead", "/");
        event.mark.redrive = 1;
        alone(event)
    };
    assert_eq!(commit(&store, redriven()).await, [Status::Applied]);
    assert_eq!(commit(&store, redriven()).await, [Status::Duplicate(None)]);
    assert_eq!(
        commit(&store, alone(handled("dead", "/"))).await,
        [Status::Duplicate(None)]
    );
    // The oldest of three is older than horizon and grace: nobody can ask for what it holds.
    assert_eq!(cluster.redis_ok(&["GET", &directory]).lines().count(), 2);

    // A twin that reads the newest generation alone applies an event again.
    commit(&store, alone(handled("last", "/"))).await;
    age(37 * 3600);
    let all = "for nth, generation in ipairs(directory) do";
    let newest = "for nth, generation in ipairs({ directory[1] }) do";
    break_library(&cluster, all, newest);
    commit(&store, alone(handled("newest", "/"))).await;
    let last = commit(&store, alone(handled("last", "/"))).await;
    assert_eq!(last, [Status::Applied]);
}

/// A bucket that is still written to lives on, and its directory with it.
#[tokio::test]
async fn a_mark_lives_for_a_horizon_after_it_was_written() {
    let cluster = Cluster::new("").await;
    let store = cluster.any_store().await;
    commit(&store, alone(handled("first", "/"))).await;
    let keys = cluster.redis_ok(&["--scan", "--pattern", "d:*"]);
    let keys: Vec<&str> = keys.lines().collect();
    assert_eq!(keys.len(), 2, "a directory and a bucket: {keys:?}");
    let ttl = |key: &str| -> u64 { cluster.redis_ok(&["TTL", key]).parse().expect("a time") };
    let must = (HORIZON + oncue_core::store::GRACE_MS) / 1000;
    for key in &keys {
        assert!(
            (must..=must + 3700).contains(&ttl(key)),
            "{key}: {}",
            ttl(key)
        );
    }
    // Written to again much later, as its expiry says.
    let bucket = keys
        .iter()
        .find(|key| key.matches(':').count() > 2)
        .expect("a bucket");
    let soon = (event::now_ms() / 1000 + 100).to_string();
    cluster.redis_ok(&["HSET", bucket, "e", &soon]);
    for key in &keys {
        cluster.redis_ok(&["EXPIREAT", key, &soon]);
    }
    commit(&store, alone(handled("second", "/"))).await;
    for key in &keys {
        assert!(ttl(key) >= must, "{key}: {}", ttl(key));
    }
}
