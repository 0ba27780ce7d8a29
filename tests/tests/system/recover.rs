//! What an operator does when a server has lost something: the sums, and both ways back.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use oncue_core::bus::Bus;
use oncue_core::store::Store;
use oncue_proto::event;
use oncue_proto::oncue::v1::{Envelope, Header};
use oncue_tests::cluster::{Cluster, Process, QUICK_REDELIVERY, until};
use oncue_tests::events::told;
use serde_json::{Value, json};

async fn cluster() -> Cluster {
    Cluster::new(&format!(
        "[functions.misbehave]\n{QUICK_REDELIVERY}\n[functions.record]\n{QUICK_REDELIVERY}\n"
    ))
    .await
}

fn oncue(cluster: &Cluster, args: &[&str]) -> (i32, String, String) {
    let output = cluster.output("oncue", args);
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    (
        output.status.code().unwrap_or(-1),
        text(output.stdout),
        text(output.stderr),
    )
}

fn audit(cluster: &Cluster) -> (i32, Vec<Value>) {
    let (code, out, err) = oncue(cluster, &["audit", "--json"]);
    (
        code,
        serde_json::from_str(&out).unwrap_or_else(|e| panic!("{e}: {out}{err}")),
    )
}

fn sums(audit: &Value) -> [u64; 6] {
    ["accepted", "applied", "dead", "pending", "lost", "expired"]
        .map(|name| audit[name].as_u64().expect(name))
}

#[tokio::test]
async fn an_audit_accounts_for_every_event_and_names_what_is_lost() {
    let cluster = cluster().await;
    let bus = cluster.bus().await;
    let (code, out, err) = oncue(&cluster, &["audit"]);
    assert!(
        code == 0 && out.is_empty() && err.contains("misbehave: it has no consumer yet"),
        "{code} {out} {err}"
    );
    let mut workers = cluster.start_all(&["misbehave", "record"]).await;
    cluster.plain_publish([
        told("/a", ""),
        told("/b", "emit:2"),
        told("/refuse", "emit:1"),
        told("/c", "reject"),
    ]);
    let headers = [
        ("ce-id", "known"),
        ("ce-type", "web.page.viewed"),
        ("Nats-Msg-Id", "first"),
    ];
    for nth in ["first", "copy"] {
        let headers = headers.map(|(n, v)| Header {
            name: n.into(),
            value: if v == "first" { nth } else { v }.into(),
        });
        let (subject, payload) = told("/known", "");
        let subject = event::subject(subject, "/known");
        bus.publish(&Envelope {
            subject,
            headers: headers.into(),
            payload: payload.into(),
        })
        .await
        .expect("taken");
    }
    settle(&cluster, &bus, 9).await;
    for worker in &mut workers {
        assert_eq!(worker.stop().await, Some(0));
    }
    cluster.plain_publish([told("/later", ""), told("/later", "")]);
    let (code, audits) = audit(&cluster);
    assert_eq!(
        (code, sums(&audits[0]), sums(&audits[1])),
        (0, [7, 4, 1, 2, 0, 0], [3, 2, 1, 0, 0, 0]),
        "{audits:?}"
    );
    let (_, table, _) = oncue(&cluster, &["audit", "misbehave"]);
    assert!(
        table.contains("= APPLIED") && table.lines().count() == 2,
        "{table}"
    );

    // Where its mark stands, and so that it is not found there.
    let id = event::hash(&[b"known"]);
    let id: String = id[..9].iter().map(|byte| format!("{byte:02x}")).collect();
    let forget = "local id = string.gsub(ARGV[1], '..', function(hex) return string.char(tonumber(hex, 16)) end) \
                  local bucket = string.rep('\\0', 4) \
                  local text = redis.call('HGET', KEYS[1], bucket) \
                  local at = string.find(text, id, 1, true) \
                  local other = string.sub(text, 1, at - 1) .. string.rep('?', #id) .. string.sub(text, at + #id) \
                  redis.call('HSET', KEYS[1], bucket, other) \
                  return 1";
    let marks = "app:d:misbehave";
    assert_eq!(cluster.redis_cli(&["EVAL", forget, "1", marks, &id]), "1");
    let (code, audits) = audit(&cluster);
    assert_eq!(
        (code, sums(&audits[0])),
        (1, [7, 3, 1, 2, 1, 0]),
        "{audits:?}"
    );
    assert_eq!(audits[0]["lost_ids"], json!(["known"]));
    let (code, out, _) = oncue(&cluster, &["audit"]);
    assert!(
        code == 1 && out.contains("misbehave has lost:\n  known"),
        "{out}"
    );
}

/// The broken twin: a worker that acks before it commits, and dies in between, has lost what no consumer will bring again.
#[tokio::test]
async fn an_audit_finds_what_a_broken_worker_has_lost() {
    for (sabotage, lost, code) in [("nothing", 0, 0), ("ack-first", 1, 1)] {
        let mut cluster = cluster().await;
        cluster.start("misbehave").await.stop().await;
        cluster.set("ONCUE_SABOTAGE", sabotage);
        cluster.plain_publish([told("/gone", "")]);
        cluster
            .spawn_faulty("misbehave", "handler.done=return(abort)")
            .exit()
            .await;
        cluster.set("ONCUE_SABOTAGE", "nothing");
        if lost == 0 {
            let (bus, mut worker) = (cluster.bus().await, cluster.start("misbehave").await);
            cluster.drained(&bus, "web", "misbehave").await;
            worker.stop().await;
        } else {
            // The next one misses the mark of what was acked.
            let mut refused = cluster.spawn("misbehave", &[]);
            assert_eq!(refused.exit().await, Some(1));
        }
        let (exit, audits) = audit(&cluster);
        assert_eq!(
            (exit, sums(&audits[0])),
            (code, [1, 1 - lost, 0, 0, lost, 0]),
            "{sabotage}: {audits:?}"
        );
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a folder");
    for entry in std::fs::read_dir(from).expect("a folder").flatten() {
        std::fs::copy(entry.path(), to.join(entry.file_name())).expect("copied");
    }
}

struct Loss {
    cluster: Cluster,
    bus: Bus,
    store: Store,
    workers: Vec<Process>,
}

const EVENTS: usize = 30;

/// Thirty events through both stages and two dead letters; then Redis comes back as it was after the first ten.
async fn lose_commits() -> Loss {
    let mut cluster = cluster().await;
    let (bus, store) = (cluster.bus().await, cluster.store().await);
    let mut workers = cluster.start_all(&["misbehave", "record"]).await;
    cluster.plain_publish((0..10).map(|n| told(&format!("/p{n}"), "emit:1")));
    settle(&cluster, &bus, 20).await;
    let (log, aside) = (cluster.dir.join("appendonlydir"), cluster.dir.join("aside"));
    copy(&log, &aside);
    cluster.plain_publish((10..EVENTS).map(|n| told(&format!("/p{n}"), "emit:1")));
    cluster.plain_publish([told("/dead", "reject"), told("/dead", "reject")]);
    settle(&cluster, &bus, 62).await;
    cluster.redis.kill();
    std::fs::remove_dir_all(&log).expect("removed");
    copy(&aside, &log);
    cluster.restart_redis().await;
    cluster.plain_publish([told("/alarm", "")]);
    assert_eq!(workers[0].exit().await, Some(1), "{}", workers[0].log());
    assert!(
        workers[0].log().contains("Redis went back in time"),
        "{}",
        workers[0].log()
    );
    workers[1].kill();
    let mut refused = cluster.spawn("record", &[]);
    assert_eq!(refused.exit().await, Some(1));
    assert!(
        refused.log().contains("oncue recover redis"),
        "{}",
        refused.log()
    );
    workers.clear();
    Loss {
        cluster,
        bus,
        store,
        workers,
    }
}

/// Everything is done, once the stream holds as many messages as there must be: a consumer hears of one a moment later.
async fn settle(cluster: &Cluster, bus: &Bus, messages: u64) {
    until(&format!("{messages} messages"), async || {
        (cluster.count(bus, "web").await >= messages).then_some(())
    })
    .await;
    for (function, subject) in [
        ("misbehave", "web.page.viewed"),
        ("record", "web.page.milestone"),
    ] {
        let last = bus
            .api("STREAM.MSG.GET.web", &json!({ "last_by_subj": subject }))
            .await
            .expect("the last event");
        until(&format!("{function} has it all"), async || {
            let info = bus
                .api(&format!("CONSUMER.INFO.web.app_{function}"), &Value::Null)
                .await
                .ok()?;
            (info["delivered"]["stream_seq"].as_u64() >= last["message"]["seq"].as_u64())
                .then_some(())
        })
        .await;
    }
    cluster.drained(bus, "web", "misbehave").await;
    cluster.drained(bus, "web", "record").await;
}

impl Loss {
    /// How many pages have their effect in both stages, none of them twice.
    async fn effects(&self) -> usize {
        let mut whole = 0;
        for n in 0..EVENTS {
            let page = format!("/p{n}");
            let mut counts = Vec::new();
            for table in ["tallies", "records"] {
                let ids = self.cluster.field(&self.store, table, &page, "ids").await;
                let ids: Vec<String> = serde_json::from_str(&ids).unwrap_or_default();
                assert!(ids.len() < 2, "{table} {page}: {ids:?}");
                assert_eq!(
                    self.cluster
                        .field(&self.store, table, &page, "count")
                        .await
                        .parse()
                        .unwrap_or(0),
                    ids.len()
                );
                counts.push(ids.len());
            }
            whole += usize::from(counts == [1, 1]);
        }
        whole
    }

    async fn start_again(&mut self) {
        self.workers = self.cluster.start_all(&["misbehave", "record"]).await;
        settle(&self.cluster, &self.bus, 63).await;
        self.store = self.cluster.store().await; // the connection from before the loss fails once
    }
}

#[tokio::test]
async fn what_redis_lost_is_restored_from_the_streams_and_counts_once() {
    let mut loss = lose_commits().await;
    let (code, out, _) = oncue(&loss.cluster, &["doctor"]);
    assert!(
        code == 1 && out.contains("went back in time") && out.contains("oncue recover redis"),
        "{out}"
    );
    let (code, _, err) = oncue(&loss.cluster, &["recover", "redis"]);
    assert!(code == 2 && err.contains("--yes"), "{err}");
    let (code, out, err) = oncue(&loss.cluster, &["recover", "redis", "--yes"]);
    assert_eq!(code, 0, "{out}{err}");
    let again = |function: &str| -> u64 {
        let row = out
            .lines()
            .find(|line| line.starts_with(function))
            .unwrap_or_else(|| panic!("{function}: {out}"));
        row.split_whitespace()
            .last()
            .and_then(|n| n.parse().ok())
            .expect("a number")
    };
    assert!(again("misbehave") >= 33 && again("record") >= 30, "{out}");
    loss.start_again().await;
    assert_eq!(loss.effects().await, EVENTS);
    assert_eq!(
        loss.cluster
            .field(&loss.store, "tallies", "/alarm", "count")
            .await,
        "1"
    );
    assert_eq!(
        loss.cluster.count(&loss.bus, "dlq").await,
        2,
        "no dead letter more, none less"
    );
    let messages = loss.cluster.messages(&loss.bus, "web").await;
    let milestones: Vec<&str> = messages.iter().filter_map(|m| m.header("ce-id")).collect();
    let different: BTreeSet<&str> = milestones.iter().copied().collect();
    assert_eq!(different.len(), EVENTS, "outputs have the ids they had");
    let (code, audits) = audit(&loss.cluster);
    assert_eq!(
        (code, sums(&audits[0])),
        (0, [33, 31, 2, 0, 0, 0]),
        "{audits:?}"
    );
    let (code, _, err) = oncue(&loss.cluster, &["recover", "redis", "--yes"]);
    assert!(code == 1 && err.contains("still run"), "{err}");
    for worker in &mut loss.workers {
        assert_eq!(worker.stop().await, Some(0));
    }
    let (code, _, err) = oncue(&loss.cluster, &["recover", "redis", "--yes"]);
    assert!(
        code == 2 && err.contains("--since"),
        "nothing stands any more: {err}"
    );
    let (code, _, err) = oncue(
        &loss.cluster,
        &["recover", "redis", "--since", "1h", "--yes"],
    );
    assert_eq!(code, 0, "once more, for nothing: {err}");
    loss.start_again().await;
    assert_eq!(loss.effects().await, EVENTS);
}

/// Waits until each page is counted, and none twice.
async fn counted(cluster: &Cluster, pages: &[String]) {
    let store = cluster.store().await;
    for page in pages {
        until("it is counted", async || {
            let count = cluster.field(&store, "tallies", page, "count").await;
            assert!(count.is_empty() || count == "1", "{page}: {count}");
            (count == "1").then_some(())
        })
        .await;
    }
}

/// One event that fails again and again holds the ack floor back; what was acked beyond it is lost with Redis all the same.
#[tokio::test]
async fn what_was_acked_beyond_an_event_that_is_retried_is_restored() {
    let mut cluster = Cluster::new(&format!(
        "[functions.misbehave]\n{QUICK_REDELIVERY}\nattempts = 1000\n"
    ))
    .await;
    let bus = cluster.bus().await;
    let mut worker = cluster.start("misbehave").await;
    cluster.plain_publish([told("/before", "emit:1"), told("/stuck", "fail")]);
    counted(&cluster, &["/before".to_owned()]).await;
    let (log, aside) = (cluster.dir.join("appendonlydir"), cluster.dir.join("aside"));
    copy(&log, &aside);
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let since = event::format_time(event::now_ms());
    let pages: Vec<String> = (0..5).map(|n| format!("/p{n}")).collect();
    cluster.plain_publish(pages.iter().map(|page| told(page, "emit:1")));
    counted(&cluster, &pages).await;
    until("all is published", async || {
        (cluster.count(&bus, "web").await == 13).then_some(())
    })
    .await;
    worker.stop().await;
    cluster.redis.kill();
    std::fs::remove_dir_all(&log).expect("removed");
    copy(&aside, &log);
    cluster.restart_redis().await;
    let (code, audits) = audit(&cluster);
    assert_eq!(
        (code, sums(&audits[0])),
        (1, [7, 1, 0, 1, 5, 0]),
        "{audits:?}"
    );
    let recover = ["recover", "redis", "--since", &since, "--yes"];
    let (code, out, err) = oncue(&cluster, &recover);
    assert_eq!(code, 0, "{out}{err}");
    let _worker = cluster.start("misbehave").await;
    counted(&cluster, &pages).await;
    let (code, audits) = audit(&cluster);
    assert_eq!(
        (code, sums(&audits[0])),
        (0, [7, 6, 0, 1, 0, 0]),
        "{audits:?}"
    );
    assert_eq!(
        cluster.count(&bus, "web").await,
        13,
        "nothing is published again"
    );
}

/// The broken twin: taking only the alarm away leaves the effects lost. The audit says so, and no worker starts on it.
#[tokio::test]
async fn without_going_back_in_the_streams_effects_are_missing() {
    let loss = lose_commits().await;
    loss.cluster.redis_cli(&["DEL", "app:regressed:misbehave"]);
    let mut refused = loss.cluster.spawn("misbehave", &[]);
    assert_eq!(refused.exit().await, Some(1));
    assert!(refused.log().contains("oncue recover redis"));
    let (code, audits) = audit(&loss.cluster);
    assert_eq!((code, &audits[0]["lost"]), (1, &json!(22)), "{audits:?}");
}

/// Outputs of twenty events are in the stream, nobody has acted on them yet, and NATS comes back empty.
async fn lose_outputs() -> Cluster {
    let mut cluster = cluster().await;
    let bus = cluster.bus().await;
    let mut worker = cluster.start("misbehave").await;
    cluster.plain_publish((0..20).map(|n| told(&format!("/p{n}"), "emit:2")));
    until("all outputs are there", async || {
        (cluster.count(&bus, "web").await == 60).then_some(())
    })
    .await;
    cluster.drained(&bus, "web", "misbehave").await;
    assert_eq!(worker.stop().await, Some(0));
    cluster.nats.kill();
    std::fs::remove_dir_all(cluster.dir.join("nats")).expect("removed");
    cluster.restart_nats().await;
    cluster
}

async fn all_recorded(cluster: &Cluster, bus: &Bus) {
    let store = cluster.store().await;
    cluster.drained(bus, "web", "record").await;
    for n in 0..20 {
        let page = format!("/p{n}");
        assert_eq!(
            cluster.field(&store, "records", &page, "count").await,
            "2",
            "{page}"
        );
    }
    assert_eq!(cluster.count(bus, "dlq").await, 0);
}

#[tokio::test]
async fn outputs_that_nats_lost_are_published_again_by_a_worker() {
    let cluster = lose_outputs().await;
    // As if nobody had started since these streams were made: only then does a worker go on by itself.
    cluster.redis_ok(&["DEL", "app:streams"]);
    cluster.apply("misbehave");
    // Only workers of the function itself do: others may not publish what follows from it.
    let _record = cluster.start("record").await;
    let worker = cluster.start("misbehave").await;
    worker
        .wait_for_line("published again what it may have lost")
        .await;
    let bus = cluster.bus().await;
    until("all outputs are back", async || {
        (cluster.count(&bus, "web").await == 40).then_some(())
    })
    .await;
    all_recorded(&cluster, &bus).await;
    let (code, out, err) = oncue(&cluster, &["recover", "nats", "--yes"]);
    assert_eq!(code, 0, "{err}");
    assert_eq!(
        numbers(&out),
        [0, 40],
        "by hand there is nothing left to do: {out}"
    );
}

#[tokio::test]
async fn outputs_that_nats_lost_are_published_again_by_hand() {
    let cluster = lose_outputs().await;
    // Streams that are gone are made first.
    for expected in [[40, 0], [0, 40]] {
        let (code, out, err) = oncue(&cluster, &["recover", "nats", "--since", "1h", "--yes"]);
        assert_eq!((code, numbers(&out)), (0, expected.to_vec()), "{out}{err}");
    }
    let _worker = cluster.start("record").await;
    all_recorded(&cluster, &cluster.bus().await).await;
}

fn numbers(table: &str) -> Vec<u64> {
    table
        .lines()
        .filter_map(|line| line.split_whitespace().last()?.parse().ok())
        .collect()
}
