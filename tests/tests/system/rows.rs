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

fn oncue(cluster: &Cluster, args: &[&str]) -> (i32, String) {
    let output = cluster.output("oncue", args);
    let text = [output.stdout, output.stderr].concat();
    (
        output.status.code().unwrap_or(-1),
        String::from_utf8_lossy(&text).into_owned(),
    )
}

fn edit(cluster: &Cluster, more: &[&str]) -> (i32, String) {
    let edit = ["state", "edit", "pages", PAGE, "--reason", "a test"];
    oncue(cluster, &[&edit[..], more].concat())
}

/// `oncue state edit`: on record, seen by the worker that remembers the row, and never over a change it has not shown.
#[tokio::test]
async fn an_edit_by_hand_is_seen_and_on_record() {
    let cluster = Cluster::new("").await;
    let _worker = cluster.start("count-views").await;
    clicks(&cluster, 3).await;
    for (more, code, said) in [
        (&["--set", "views=100"][..], 2, "--yes"),
        (&["--set", "views=ten", "--yes"], 2, "of another kind"),
        (&["--set", "veiws=1", "--yes"], 2, "no field veiws"),
        (&["--unset", "veiws", "--yes"], 2, "no field veiws"),
        (&["--yes"], 2, "say what to change"),
    ] {
        let (found, text) = edit(&cluster, more);
        assert!(
            found == code && text.contains(said),
            "{more:?}: {found} {text}"
        );
    }
    clicks(&cluster, 1).await;
    let row = Keys::default().row("pages", PAGE);
    assert_eq!(
        cluster.redis_cli(&["HGET", &row, "views"]),
        "4",
        "nothing was written"
    );
    let (code, text) = edit(&cluster, &["--set", "views=100", "--yes"]);
    assert_eq!(code, 0, "{text}");
    clicks(&cluster, 1).await;
    assert_eq!(cluster.redis_cli(&["HGET", &row, "views"]), "101");
    let (code, text) = oncue(&cluster, &["state", "edits", "--json"]);
    assert_eq!(code, 0, "{text}");
    let edits: Vec<serde_json::Value> = text
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect();
    assert_eq!(edits.len(), 1, "{text}");
    assert_eq!(edits[0]["before"]["views"], 4);
    assert_eq!(edits[0]["set"]["views"], "100");
    assert_eq!(edits[0]["reason"], "a test");
    // What was shown is no longer so: nothing is written over it.
    let store = cluster.store().await;
    let stale = oncue_core::store::RowEdit {
        table: "pages",
        key: PAGE,
        version: 1,
        set: &[("views".to_owned(), "5".to_owned())],
        unset: &[],
        record: "{}",
    };
    assert!(!store.edit(&stale).await.expect("asked"));
    assert_eq!(cluster.redis_cli(&["HGET", &row, "views"]), "101");
}
