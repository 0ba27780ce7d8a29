//! Where marks stand: by the id alone, in buckets that stay small, for as long as they may be asked for.

use bytes::Bytes;
use oncue_core::store::{CommitEvent, GRACE_MS, Purpose, Run, Status, Store};
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
                event.mark.sequence = 5_000_000_000 + (200 * call + n) as u64;
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

/// Bytes that Redis takes for the marks.
fn usage(cluster: &Cluster) -> f64 {
    let usage = cluster.redis_ok(&["MEMORY", "USAGE", MARKS, "SAMPLES", "0"]);
    usage.parse().expect("a number")
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
        let before = usage(&cluster);
        let statuses = commit_all(&store, &ids).await;
        assert!(statuses.iter().all(|status| *status == Status::Applied));
        let each = (usage(&cluster) - before) / count as f64;
        println!("{count} marks of kind {kind}: {each:.1} bytes each");
        assert!(
            each < 30.0,
            "{count} marks of kind {kind} take {each:.1} bytes each"
        );
        assert!(each > 15.0, "that is no mark: {each:.1} bytes");
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
    break_library(&cluster, "table.concat(move)", "table.concat({ move[1] })");
    let ids = ids("other", 3000);
    commit_all(&store, &ids).await;
    let again = commit_all(&store, &ids).await;
    assert!(again.contains(&Status::Applied));
}

/// Head of the marks of the suite's function: buckets, marks in them, the bucket where upkeep is, when it was there, and
/// when all goes.
fn head(cluster: &Cluster) -> [u64; 5] {
    let text = cluster.redis_ok(&["HGET", MARKS, "h"]);
    let words: Vec<u64> = text
        .split(' ')
        .map(|word| word.parse().expect("a number"))
        .collect();
    words.try_into().expect("five numbers")
}

fn set_head(cluster: &Cluster, head: [u64; 5]) {
    let words = head.map(|word| word.to_string()).join(" ");
    cluster.redis_ok(&["HSET", MARKS, "h", &words]);
}

const MARKS: &str = "app:d:suite";

/// Moves the marks that are there `hours` back, as if they had been written then.
fn age(cluster: &Cluster, hours: u64) {
    let older = "for _, bucket in ipairs(redis.call('HKEYS', KEYS[1])) do \
                   if bucket ~= 'h' then \
                     local text, at, aged = redis.call('HGET', KEYS[1], bucket), 1, {} \
                     while at <= #text do \
                       local following = at + 11 + string.byte(text, at + 10) \
                       local slot = (string.byte(text, at) - ARGV[1] / 12) % 256 \
                       aged[#aged + 1] = string.char(slot) .. string.sub(text, at + 1, following - 1) \
                       at = following \
                     end \
                     redis.call('HSET', KEYS[1], bucket, table.concat(aged)) \
                   end \
                 end";
    cluster.redis_cli(&["EVAL", older, "1", MARKS, &hours.to_string()]);
}

/// Upkeep as it is half a day after it was there last.
async fn tend(cluster: &Cluster, store: &Store) {
    let mut head = head(cluster);
    head[3] -= 12 * 3600;
    set_head(cluster, head);
    store.drop_expired_marks("suite").await.expect("upkeep");
}

/// Marks that nobody can ask for any more go, and with them the buckets they stood in; those that may still be asked for
/// stay, whatever else is written and dropped.
#[tokio::test]
async fn a_mark_lives_for_a_horizon_and_not_for_ever() {
    let cluster = Cluster::new("").await;
    let store = cluster.any_store().await;
    let redis = cluster.store().await;
    let (old, new) = (ids("old", 5000), ids("new", 500));
    commit_all(&store, &old).await;
    let begun = head(&cluster);
    assert_eq!(begun[1], 5000);
    assert!((5000 / 16..5000 / 14).contains(&begun[0]), "{begun:?}");
    tend(&cluster, &redis).await;
    assert_eq!(head(&cluster)[1], 5000);
    assert!(commit_all(&store, &old).await.iter().all(is_duplicate));
    // A day later, which is more than horizon, grace and a slot.
    age(&cluster, 24);
    commit_all(&store, &new).await;
    let before = usage(&cluster);
    tend(&cluster, &redis).await;
    let after = head(&cluster);
    assert_eq!(after[1], 500, "{after:?}");
    assert!(after[0] < 500 / 4 + 2, "{after:?}");
    let freed = before - usage(&cluster);
    assert!(freed > 5000.0 * 20.0, "only {freed} bytes are free again");
    assert!(commit_all(&store, &new).await.iter().all(is_duplicate));
    let fields: u64 = cluster
        .redis_ok(&["HLEN", MARKS])
        .parse()
        .expect("a number");
    assert!(fields <= after[0] + 1, "{fields} fields, {after:?}");
    // Nothing is looked at twice in one round.
    let tended = head(&cluster)[3];
    redis.drop_expired_marks("suite").await.expect("upkeep");
    assert_eq!(head(&cluster)[3], tended);
}

fn is_duplicate(status: &Status) -> bool {
    matches!(status, Status::Duplicate(_))
}

/// The twin of upkeep that takes what is still needed applies an event again.
#[tokio::test]
async fn upkeep_that_drops_too_early_is_found_out() {
    let cluster = Cluster::new("").await;
    let store = cluster.any_store().await;
    // Before, since whoever connects brings the whole library.
    let redis = cluster.store().await;
    break_library(&cluster, "% 256 < 128 do", "% 256 >= 128 do");
    let ids = ids("other", 1000);
    commit_all(&store, &ids).await;
    tend(&cluster, &redis).await;
    assert!(commit_all(&store, &ids).await.contains(&Status::Applied));
}

/// However many buckets there are, a look of upkeep comes forward, and ends.
#[tokio::test]
async fn upkeep_of_many_buckets_comes_to_an_end() {
    let cluster = Cluster::new("").await;
    let store = cluster.any_store().await;
    let redis = cluster.store().await;
    commit(&store, alone(handled("one", "/"))).await;
    for buckets in [1_000_000, 20_000_000, 60_000_000] {
        let now = event::now_ms() / 1000;
        let expires = head(&cluster)[4];
        set_head(&cluster, [buckets, 16 * buckets, 0, now - 60, expires]);
        redis.drop_expired_marks("suite").await.expect("upkeep");
        let tended = head(&cluster)[3];
        assert!(
            tended + 2 >= now,
            "{buckets} buckets: {} s behind",
            now - tended
        );
    }
}

/// A redrive finds the mark of the dead letter whatever came between, and leaves one mark in its place.
#[tokio::test]
async fn a_redriven_event_has_one_mark() {
    let cluster = Cluster::new("").await;
    let store = cluster.any_store().await;
    let dead = CommitEvent {
        purpose: Purpose::DeadLetter,
        ..handled("dead", "/")
    };
    assert_eq!(commit(&store, alone(dead)).await, [Status::Applied]);
    commit_all(&store, &ids("between", 3000)).await;
    let redriven = || {
        let mut event = handled("dead", "/");
        event.mark.redrive = 1;
        alone(event)
    };
    assert_eq!(commit(&store, redriven()).await, [Status::Applied]);
    assert_eq!(head(&cluster)[1], 3001);
    assert_eq!(commit(&store, redriven()).await, [Status::Duplicate(None)]);
    let first = alone(handled("dead", "/"));
    assert_eq!(commit(&store, first).await, [Status::Duplicate(None)]);
}

/// The marks of a function that no worker looks after go as well, all at once.
#[tokio::test]
async fn all_marks_go_in_the_end() {
    let cluster = Cluster::new("").await;
    let store = cluster.any_store().await;
    commit(&store, alone(handled("first", "/"))).await;
    let ttl = || -> u64 { cluster.redis_ok(&["TTL", MARKS]).parse().expect("a time") };
    let must = (HORIZON + GRACE_MS) / 1000;
    let slack = 36 * 3600 + 60;
    assert!((must..=must + slack).contains(&ttl()), "{}", ttl());
    // Written to again much later, as its head says.
    let soon = event::now_ms() / 1000 + 100;
    let mut aged = head(&cluster);
    aged[4] = soon;
    set_head(&cluster, aged);
    cluster.redis_ok(&["EXPIREAT", MARKS, &soon.to_string()]);
    commit(&store, alone(handled("second", "/"))).await;
    assert!(ttl() >= must, "{}", ttl());
}
