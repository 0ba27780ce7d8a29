//! A worker remembers rows that its own commits left, and yet sees whatever anybody else makes of them.

use oncue_core::store::Keys;
use oncue_tests::cluster::{Cluster, must_fail};

use crate::twins::break_library;

const PAGE: &str = "/p";

async fn clicks(cluster: &Cluster, n: usize) {
    let bus = cluster.bus().await;
    for _ in 0..n {
        cluster.plain_publish([(
            "web.page.viewed",
            format!(r#"{{"page":"{PAGE}","visitor":"v"}}"#),
        )]);
        cluster.drained(&bus, "web", "count-views").await;
    }
}

fn reads(cluster: &Cluster) -> u64 {
    let stats = cluster.redis_cli(&["INFO", "commandstats"]);
    let calls = stats
        .lines()
        .find_map(|line| line.strip_prefix("cmdstat_hgetall:calls="));
    calls
        .and_then(|calls| calls.split(',').next()?.parse().ok())
        .unwrap_or_default()
}

/// Counts on from what an operator, or another worker, has put there.
async fn a_change_is_seen(cluster: &Cluster) {
    let row = Keys::default().row("pages", PAGE);
    clicks(cluster, 1).await;
    cluster.redis_cli(&["HSET", &row, "views", "1000"]);
    clicks(cluster, 2).await;
    assert_eq!(cluster.redis_cli(&["HGET", &row, "views"]), "1002");
    cluster.redis_cli(&["HSET", &row, "note", "by hand"]);
    clicks(cluster, 1).await;
    assert_eq!(
        cluster.redis_cli(&["HMGET", &row, "views", "note"]),
        "1003\nby hand"
    );
    cluster.redis_cli(&["DEL", &row]);
    clicks(cluster, 1).await;
    assert_eq!(cluster.redis_cli(&["HGET", &row, "views"]), "1");
}

#[tokio::test]
async fn a_worker_alone_reads_a_row_once() {
    let cluster = Cluster::new("").await;
    let _worker = cluster.start("count-views").await;
    clicks(&cluster, 1).await;
    let before = reads(&cluster);
    clicks(&cluster, 9).await;
    assert_eq!(
        cluster.redis_cli(&["HGET", &Keys::default().row("pages", PAGE), "views"]),
        "10"
    );
    assert_eq!(reads(&cluster), before, "it was read again");
    a_change_is_seen(&cluster).await;
    assert!(reads(&cluster) > before, "what was refused is read");
}

#[tokio::test]
async fn what_is_remembered_and_not_compared_overwrites() {
    let cluster = Cluster::new("").await;
    let _worker = cluster.start("count-views").await;
    break_library(&cluster, "(not run.row or row_is_fresh(run, ARGV))", "true");
    must_fail("without the comparison", a_change_is_seen(&cluster)).await;
}
