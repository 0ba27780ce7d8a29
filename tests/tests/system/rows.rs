//! A worker remembers rows that its own commits left, and yet sees whatever anybody else makes of them.

use oncue_core::store::row_key;
use oncue_tests::house::{House, must_fail};

use crate::twins::break_library;

const PAGE: &str = "/p";

async fn clicks(house: &House, n: usize) {
    let bus = house.bus().await;
    for _ in 0..n {
        house.plain_publish([(
            "web.page.viewed",
            format!(r#"{{"page":"{PAGE}","visitor":"v"}}"#),
        )]);
        house.drained(&bus, "web", "count-views").await;
    }
}

fn reads(house: &House) -> u64 {
    let stats = house.redis_cli(&["INFO", "commandstats"]);
    let calls = stats
        .lines()
        .find_map(|line| line.strip_prefix("cmdstat_hgetall:calls="));
    calls
        .and_then(|calls| calls.split(',').next()?.parse().ok())
        .unwrap_or_default()
}

/// Counts on from what an operator, or another worker, has put there.
async fn a_change_is_seen(house: &House) {
    let row = row_key("pages", PAGE);
    clicks(house, 1).await;
    house.redis_cli(&["HSET", &row, "views", "1000"]);
    clicks(house, 2).await;
    assert_eq!(house.redis_cli(&["HGET", &row, "views"]), "1002");
    house.redis_cli(&["HSET", &row, "note", "by hand"]);
    clicks(house, 1).await;
    assert_eq!(
        house.redis_cli(&["HMGET", &row, "views", "note"]),
        "1003\nby hand"
    );
    house.redis_cli(&["DEL", &row]);
    clicks(house, 1).await;
    assert_eq!(house.redis_cli(&["HGET", &row, "views"]), "1");
}

#[tokio::test]
async fn a_worker_alone_reads_a_row_once() {
    let house = House::new("").await;
    let _worker = house.start("count-views").await;
    clicks(&house, 1).await;
    let before = reads(&house);
    clicks(&house, 9).await;
    assert_eq!(
        house.redis_cli(&["HGET", &row_key("pages", PAGE), "views"]),
        "10"
    );
    assert_eq!(reads(&house), before, "it was read again");
    a_change_is_seen(&house).await;
    assert!(reads(&house) > before, "what was refused is read");
}

#[tokio::test]
async fn what_is_remembered_and_not_compared_overwrites() {
    let house = House::new("").await;
    let _worker = house.start("count-views").await;
    break_library(&house, "(not run.row or row_is_fresh(run, ARGV))", "true");
    must_fail("without the comparison", a_change_is_seen(&house)).await;
}
