//! A Redis that went back in time: who finds it out, and what is no alarm.

use oncue_core::app::AppName;
use oncue_core::store::{CommitEvent, Store};
use oncue_tests::any_store::AnyStore;
use oncue_tests::cluster::Cluster;

use crate::store::{alone, commit, handled};

/// As a worker of the function connects, which `oncue apply` has let in.
async fn connect(cluster: &Cluster) -> Store {
    cluster.store().await;
    cluster.redis_ok(&["HSET", "app:functions", "suite", "{}"]);
    let url = format!("redis://127.0.0.1:{}", cluster.redis_port);
    let store = Store::connect(&url, &AppName::default()).await;
    let store = store.expect("Redis");
    store.begin_record("suite").await.expect("begun");
    store
}

/// What the commit that finds the loss is answered means nothing, nor what any later one is.
async fn not_believed(store: &AnyStore, event: CommitEvent) {
    for _ in 0..2 {
        let refused = store.commit(&[alone(event.clone())]).await;
        let why = refused.expect_err("no answer to believe");
        assert!(
            why.away && why.message.contains("went back in time"),
            "{why}"
        );
    }
}

/// Redis came back from an older file: who misses commits of its own says so, for all.
#[tokio::test]
async fn a_redis_that_went_back_in_time_is_found_out() {
    let cluster = Cluster::new("").await;
    let url = format!("redis://127.0.0.1:{}", cluster.redis_port);
    let redis = connect(&cluster).await;
    let (store, other) = (AnyStore::from(redis.clone()), cluster.any_store().await);
    let numbered = async |store: &AnyStore, n: u64| {
        let mut event = handled(&format!("g{n}"), "/g");
        event.mark.sequence = 100 + n;
        commit(store, alone(event)).await
    };
    for n in 0..3 {
        numbered(&store, n).await;
    }
    let record = cluster.redis_cli(&["--scan", "--pattern", "app:commits:*"]);
    let (text, one) = (cluster.redis_cli(&["GET", &record]), "2 1700000000000");
    assert!(text.starts_with("4 "), "its start counts as one: {text}");
    assert!(
        redis.regressed().borrow().is_none()
            && redis.regression(&["suite"]).await.expect("asked").is_none()
    );
    // Two commits are lost; others have made more than that since.
    cluster.redis_cli(&["SET", &record, one]);
    for n in 10..20 {
        numbered(&other, n).await;
    }
    let mut event = handled("g3", "/g");
    event.mark.sequence = 103;
    not_believed(&store, event).await;
    let found = redis
        .regression(&["suite"])
        .await
        .expect("asked")
        .expect("found out");
    assert_eq!(
        (found.seen, found.found, found.since),
        (4, 2, 1_700_000_000_000)
    );
    assert_eq!(
        found.from.get("suite"),
        Some(&101),
        "from the first that is lost"
    );
    assert!(
        redis
            .regressed()
            .borrow()
            .as_ref()
            .is_some_and(|why| why.contains("oncue recover redis"))
    );
    let refused = Store::connect(&url, &AppName::default())
        .await
        .err()
        .expect("nobody starts on it")
        .to_string();
    assert!(refused.contains("went back in time"), "{refused}");
    redis.clear_regression(&["suite"]).await.expect("cleared");
    Store::connect(&url, &AppName::default())
        .await
        .expect("all is well again");
}

/// A worker that finds its loss only after it was restored raises no second alarm.
#[tokio::test]
async fn what_was_restored_is_no_loss() {
    let cluster = Cluster::new("").await;
    let redis = connect(&cluster).await;
    let store = AnyStore::from(redis.clone());
    for n in 0..3 {
        commit(&store, alone(handled(&format!("r{n}"), "/r"))).await;
    }
    let record = cluster.redis_cli(&["--scan", "--pattern", "app:commits:*"]);
    cluster.redis_cli(&["SET", &record, "1 1700000000000"]);
    redis.clear_regression(&["suite"]).await.expect("cleared");
    commit(&store, alone(handled("r3", "/r"))).await;
    assert!(
        redis.regressed().borrow().is_none()
            && redis.regression(&["suite"]).await.expect("asked").is_none()
    );
    cluster.redis_cli(&["SET", &record, "1 1700000000000"]);
    not_believed(&store, handled("r4", "/r")).await;
    assert!(
        redis.regressed().borrow().is_some(),
        "a loss since then is one"
    );
}

/// Found by power cuts just after a recovery: Redis lost that it had been restored, and with it every later loss.
#[tokio::test]
async fn a_restoration_that_was_lost_as_well_hides_no_loss() {
    let cluster = Cluster::new("").await;
    connect(&cluster)
        .await
        .clear_regression(&["suite"])
        .await
        .expect("restored");
    let of_before = cluster.redis_cli(&["--scan", "--pattern", "app:commits:*"]);
    cluster.redis_ok(&["DEL", &of_before]);
    let redis = connect(&cluster).await;
    let store = AnyStore::from(redis.clone());
    for n in 0..3 {
        commit(&store, alone(handled(&format!("l{n}"), "/l"))).await;
    }
    let record = cluster.redis_cli(&["--scan", "--pattern", "app:commits:*"]);
    cluster.redis_cli(&["SET", &record, "1 1700000000000"]);
    cluster.redis_cli(&["DEL", "app:epoch"]);
    not_believed(&store, handled("l3", "/l")).await;
    assert!(
        redis.regressed().borrow().is_some()
            && redis.regression(&["suite"]).await.expect("asked").is_some()
    );
}

#[tokio::test]
async fn an_emptied_redis_is_restored_from_the_beginning() {
    let cluster = Cluster::new("").await;
    let redis = connect(&cluster).await;
    let store = AnyStore::from(redis.clone());
    commit(&store, alone(handled("e0", "/e"))).await;
    cluster.redis_cli(&["FLUSHALL"]);
    not_believed(&store, handled("e1", "/e")).await;
    assert_eq!(
        redis
            .regression(&["suite"])
            .await
            .expect("asked")
            .expect("found out")
            .since,
        0
    );
}
