//! Stores that are broken on purpose: the suite must see it.

use oncue_core::store::{CommitEvent, Status};
use oncue_tests::cluster::Cluster;

use crate::store::{alone, commit, handled, suite};

/// Puts a broken copy of the function library in the place of the real one.
pub fn break_library(cluster: &Cluster, line: &str, broken: &str) {
    let listed = cluster.redis_cli(&["FUNCTION", "LIST", "WITHCODE"]);
    let code = &listed[listed.find("#!lua").expect("the library is loaded")..];
    assert_eq!(
        code.matches(line).count(),
        1,
        "{line:?} is not (or not only once) in commit.lua"
    );
    let loaded = cluster.redis_cli(&["FUNCTION", "LOAD", "REPLACE", &code.replace(line, broken)]);
    assert!(loaded.starts_with("oncue_"), "{loaded}");
}

/// A suite that passes a broken store is no suite.
#[tokio::test]
async fn each_broken_twin_fails_the_suite() {
    let cluster = Cluster::new("").await;
    let twins = [
        (
            "seen-check off",
            "local status = mark and ",
            "local status = false and ",
        ),
        (
            "fence off",
            "local fenced = now > group.oldest + horizon or",
            "local fenced = false or",
        ),
        (
            "version check off",
            "(not run.row or row_is_fresh(run, ARGV))",
            "true",
        ),
        (
            "copies in one run",
            "if run.ids[ids[i]] then run.copies",
            "if false then run.copies",
        ),
        (
            "payload check off",
            "if payload_hash(mark) ~= payload_hash(own)",
            "if false",
        ),
        (
            "payload check off where the first is dead",
            "if is_known and payload_hash(mark)",
            "if false and payload_hash(mark)",
        ),
        (
            "redrives unlimited",
            "if group.redrive > struct.unpack('>I4', mark, MARK_REDRIVE) then",
            "if group.redrive > 0 then",
        ),
        (
            "redrives ignored",
            "if group.redrive > struct.unpack('>I4', mark, MARK_REDRIVE) then",
            "if false then",
        ),
        ("half a run", "return not run.statuses and (", "return ("),
        (
            "outputs not stored",
            "redis.call('PERSIST', key)",
            "redis.call('DEL', key)",
        ),
        (
            "outputs of one run alone",
            "redis.call('SET', key, table.concat(kept))",
            "redis.call('SET', key, kept[1])",
        ),
        ("outputs of refused runs", "cut = cut or run.outbox > 0", ""),
        (
            "operations unchecked",
            "why = why or check_op(run.ops[at], own)",
            "why = nil",
        ),
        (
            "operations checked one by one",
            "plan.kinds[op.key] = want",
            "",
        ),
        (
            "asking applies",
            "if group.kind == 'q' then refuse(run, group.first + i, 'conflict', '') end",
            "",
        ),
        (
            "blind changes not told",
            "redis.call('HSET', key, '_v', string.format('%.0f', math.max(micros, version + 1)))",
            "",
        ),
        (
            "row written blindly",
            "redis.call('HSET', run.row, unpack(ARGV, from, math.min(from + 1999, last)))",
            "",
        ),
    ];
    for (name, line, broken) in twins {
        cluster.redis_cli(&["FLUSHALL"]);
        cluster.redis_cli(&["FUNCTION", "FLUSH"]);
        let store = cluster.any_store().await;
        break_library(&cluster, line, broken);
        let outcome = tokio::spawn(async move { suite(&store).await }).await;
        assert!(outcome.is_err(), "the suite passes with {name}");
    }
}

/// Outputs are written right before their commit. Should they be gone by then, nothing may be committed without them.
#[tokio::test]
async fn nothing_is_committed_without_its_outputs() {
    let cluster = Cluster::new("").await;
    let store = cluster.any_store().await;
    let function = format!("oncue_commit_{}", library(&cluster));
    let call = |outbox: &str| {
        cluster.redis_cli(&[
            "FCALL", &function, "4", "record", outbox, "index", "marks", "86400000", "1000",
            "worker 1", "3", "0",
        ])
    };
    assert!(call("gone").contains("TRYAGAIN"), "{}", call("gone"));
    assert_eq!(cluster.redis_cli(&["EXISTS", "record", "index"]), "0");
    cluster.redis_cli(&["SET", "there", "abc", "EX", "60"]);
    assert!(!call("there").contains("TRYAGAIN"));
    assert_eq!(
        cluster.redis_cli(&["EXISTS", "record", "there", "index"]),
        "1",
        "of no run, no outputs"
    );

    // What is committed stays; what was refused leaves nothing behind.
    let output = |id: &str| CommitEvent {
        outbox: bytes::Bytes::from_static(b"out"),
        ..handled(id, "/x")
    };
    assert_eq!(
        commit(&store, alone(output("once"))).await,
        [Status::Applied]
    );
    assert!(matches!(
        commit(&store, alone(output("once"))).await[..],
        [Status::Duplicate(Some(_))]
    ));
    let outboxes = cluster.redis_cli(&["--scan", "--pattern", "*:o:*"]);
    assert_eq!(outboxes.lines().count(), 1, "{outboxes}");
    assert_eq!(cluster.redis_cli(&["TTL", &outboxes]), "-1");
}

/// Calls of one worker may come in another order than it sent them. A record that said less than before would be taken for
/// a Redis that went back in time, and stop every worker.
#[tokio::test]
async fn a_late_call_does_not_lower_the_record() {
    let cluster = Cluster::new("").await;
    let _store = cluster.any_store().await;
    let function = format!("oncue_commit_{}", library(&cluster));
    let call = |number: &str| {
        cluster.redis_cli(&[
            "FCALL", &function, "4", "record", "outbox", "index", "marks", "86400000", "1000",
            number, "0", "0",
        ])
    };
    let record = || cluster.redis_cli(&["GET", "record"]);
    call("9");
    for (number, said, then) in [
        ("12", "9 ", "12 "),
        ("10", "12 ", "12 "),
        ("13", "12 ", "13 "),
    ] {
        let before = call(number);
        assert!(before.starts_with(said), "{number}: {before:?}");
        assert!(record().starts_with(then), "{number}: {:?}", record());
    }
    break_library(
        &cluster,
        "if before and count_of(before) > count_of(record) then",
        "if false then",
    );
    call("10");
    assert!(
        record().starts_with("10 "),
        "the broken twin: {:?}",
        record()
    );
}

fn library(cluster: &Cluster) -> String {
    let list = cluster.redis_cli(&["FUNCTION", "LIST"]);
    let name = list
        .lines()
        .find_map(|line| line.trim().strip_prefix("oncue_commit_"));
    name.expect("the library is there").to_owned()
}
