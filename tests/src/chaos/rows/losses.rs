//! A server that comes back empty, or as it was before, and what brings everything back: `oncue recover` and
//! `oncue restore`.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::Path;
use std::time::{Duration, Instant};

use oncue_core::app::AppName;
use oncue_core::secret::id_secret;
use oncue_proto::event::now_ms;
use serde_json::Value;

use super::{enough, gentle, ha};
use crate::chaos::arena::{Arena, Setup};
use crate::chaos::faults::{Victim, catch};
use crate::chaos::load::Shape;
use crate::chaos::power::measured;
use crate::chaos::report::{Plan, Report};

/// Redis is emptied while four workers of each function are at it, with letters that wait and letters that were given up.
pub async fn flushed(plan: Plan) -> Report {
    let setup = Setup {
        misbehave: 4,
        record: 4,
        attempts: 3,
        // Longer than a busy machine keeps a process waiting: who is given an event twice publishes twice.
        ack_wait: Duration::from_secs(3),
        config: "[streams.dlq]\nduplicate_window = \"100ms\"\n".into(),
        ..Setup::default()
    };
    let mut arena = Arena::open("R-1", &plan, setup).await;
    // What was in flight meets its row in another order, and may say something else than before.
    arena.again_as = Some("id_reuse");
    arena.load(Shape {
        rate: gentle(&plan),
        words: &["emit:1", "emit:1", "emit:1", "emit:1", "reject"],
        copies: false,
        ..Shape::default()
    });
    arena.under_way(200).await;
    // Of the last loss: how far the server had given events out, how many of those were not acked, and the end of the
    // stream.
    let mut given = 0;
    let mut flight = 0;
    let mut end = 0;
    for _ in 0..plan.seconds.div_ceil(20) {
        drop_letters(&mut arena).await;
        let in_hand = catch(&mut arena, Victim::All).await.1;
        let info = arena.bus.consumer_info("web", "misbehave").await;
        let info = info.expect("a consumer");
        given = info.delivered.stream_seq;
        flight = info.num_ack_pending;
        let stream = arena.bus.stream_info("web").await.expect("a stream");
        end = stream.state.last_seq;
        arena.cluster.redis_cli(&["FLUSHALL"]);
        arena.pool.thaw();
        arena.report.struck("FLUSHALL", in_hand);
        ha::recover(&mut arena).await;
        arena.flowing().await;
    }
    arena.settle().await;
    arena.pool.gone.clear();
    let again = published_again(&arena, end).await;
    let before = again.iter().filter(|cause| **cause <= given).count() as u64;
    let mut report = arena.close().await;
    report.note(format!(
        "{flight} of {given} events were in flight, and {before} published again"
    ));
    report.must(
        before <= flight,
        format!("{before} events published again, and only {flight} were in flight"),
    );
    report.must_have_fired(&["FLUSHALL", "alarm", "given up"]);
    report.must(report.dead > 2, "no letter waited");
    enough(&mut report, 100);
    report
}

/// Places of the events whose output is in the stream up to this sequence and after it. A worker that starts repeats
/// outputs of its neighbours that wait for an ack, so that pairs on one side say nothing about the loss.
async fn published_again(arena: &Arena, end: u64) -> BTreeSet<u64> {
    let secret = id_secret(&arena.bus, &arena.store).await;
    let secret = secret.expect("both servers have it");
    let causes = arena.sent.iter();
    let causes: HashMap<String, u64> = causes
        .filter_map(|sent| Some((sent.follows(&secret)?, sent.sequence)))
        .collect();
    let mut again = BTreeSet::new();
    let mut seen = HashSet::new();
    let info = arena.bus.stream_info("web").await.expect("a stream");
    for sequence in info.state.first_seq..=info.state.last_seq {
        let message = arena.cluster.message(&arena.bus, "web", sequence).await;
        let Some(message) = message.filter(|m| m.subject.starts_with("web.page.milestone")) else {
            continue;
        };
        let id = message.header("ce-id").unwrap_or_default().to_owned();
        if sequence <= end {
            seen.insert(id);
        } else if seen.contains(&id) {
            again.extend(causes.get(&id));
        }
    }
    again
}

/// Gives two letters up.
async fn drop_letters(arena: &mut Arena) {
    for _ in 0..2 {
        let start = Instant::now();
        let number = loop {
            let letters = oncue_admin::dead_letters::all(&arena.bus).await;
            let first = letters
                .ok()
                .and_then(|letters| Some(letters.first()?.number));
            match first {
                Some(number) => break number.to_string(),
                None if start.elapsed() > Duration::from_secs(30) => return,
                None => arena.wait(Duration::from_millis(50)).await,
            }
        };
        let drop = ["dlq", "drop", number.as_str(), "--why", "obsolete"];
        arena.says(&drop, 0, &[]).await;
        arena.report.effect("given up", 1);
    }
}

fn copy(from: &Path, to: &Path) -> u64 {
    std::fs::create_dir_all(to).expect("a folder");
    let files = std::fs::read_dir(from).expect("a folder").flatten();
    let bytes = files.map(|file| std::fs::copy(file.path(), to.join(file.file_name())));
    bytes.map(|bytes| bytes.expect("copied")).sum()
}

/// Redis is put back as it was a while ago, and nobody is there to see it.
pub async fn put_back(plan: Plan) -> Report {
    let mut arena = Arena::open("R-2", &plan, Setup::default()).await;
    arena.again_as = Some("id_reuse");
    arena.load(Shape {
        rate: gentle(&plan),
        ..Shape::default()
    });
    arena.under_way(100).await;
    for round in 0..plan.seconds.div_ceil(20) {
        let log = arena.cluster.dir.join("appendonlydir");
        let aside = arena.cluster.dir.join(format!("aside-{round}"));
        arena.cluster.redis.signal("STOP");
        let before = copy(&log, &aside);
        arena.cluster.redis.signal("CONT");
        let acked = arena.acked();
        arena.under_way(acked + 100).await;
        arena.pool.stop(None).await;
        arena.cluster.redis.kill();
        let after = copy(&log, &arena.cluster.dir.join("newest"));
        std::fs::remove_dir_all(&log).expect("removed");
        copy(&aside, &log);
        arena.cluster.restart_redis().await;
        arena.report.fault("Redis put back", 1);
        arena
            .report
            .effect("bytes gone", after.saturating_sub(before));
        arena.refuses_to_start(&[], "oncue recover redis").await;
        arena.says(&["doctor"], 1, &["oncue recover redis"]).await;
        arena.says(&["recover", "redis", "--yes"], 0, &[]).await;
        arena.pool.resume(&arena.cluster).await;
        arena.flowing().await;
    }
    let mut report = arena.close().await;
    report.must_have_fired(&["Redis put back", "bytes gone"]);
    enough(&mut report, 200);
    report
}

/// NATS comes back empty, with outputs in it that nobody had heard yet. Redis still has them.
pub async fn emptied_nats(plan: Plan) -> Report {
    let mut arena = Arena::open("R-3", &plan, Setup::default()).await;
    arena.load(Shape::default());
    arena.under_way(100).await;
    arena.pool.stop(Some("record")).await;
    arena.wait(Duration::from_secs(plan.seconds.min(20))).await;
    arena.end_load().await;
    let app = AppName::default();
    while arena.pending_of(&app, "misbehave").await != Some(0) {
        arena.wait(Duration::from_millis(50)).await;
    }
    let unheard = arena.pending_of(&app, "record").await.unwrap_or_default();
    arena.pool.stop(None).await;
    arena.cluster.nats.kill();
    std::fs::remove_dir_all(arena.cluster.dir.join("nats")).expect("removed");
    arena.cluster.restart_nats().await;
    arena.report.struck("NATS emptied", unheard as usize);
    arena.refuses_to_start(&[], "oncue recover nats").await;
    arena.says(&["doctor"], 1, &["oncue recover nats"]).await;
    arena.says(&["recover", "nats", "--yes"], 0, &[]).await;
    let created = arena.bus.stream_created("web").await;
    arena.created = created.expect("made anew");
    arena.pool.resume(&arena.cluster).await;
    arena.load(Shape::default());
    arena.under_way(100).await;
    let mut report = arena.close().await;
    report.must_have_fired(&["NATS emptied"]);
    enough(&mut report, 200);
    report
}

/// A backup is taken under load, then everything is lost. What was acked before it is there once; what came later is
/// named, and sent again by its client.
pub async fn backup(plan: Plan) -> Report {
    let mut arena = Arena::open("R-4", &plan, Setup::default()).await;
    arena.load(Shape {
        rate: gentle(&plan),
        plain: false,
        ..Shape::default()
    });
    arena.under_way(200).await;
    arena.wait(Duration::from_secs(plan.seconds.min(30))).await;
    let info = arena.bus.stream_info("web").await.expect("a stream");
    let before = info.state.last_seq;
    let dir = arena.cluster.dir.join("backup").display().to_string();
    arena
        .says(&["backup", &dir], 0, &["holds the app app"])
        .await;
    // Whoever was under way when the backup ended may be in it; these are not.
    arena.end_load().await;
    arena.load(Shape {
        plain: false,
        ..Shape::default()
    });
    arena.under_way(20).await;
    let after = arena.acked();
    arena.end_load().await;
    arena.drain().await;
    arena.pool.stop(None).await;
    arena.tend.stop().await;
    lose_everything(&arena).await;
    arena.report.struck("everything lost", after as usize);
    arena
        .says(&["restore", &dir, "--yes"], 0, &["came after the backup"])
        .await;
    arena.tend = arena.cluster.spawn("oncue", &["tend"]);
    arena.pool.resume(&arena.cluster).await;
    arena.drain().await;
    arena.says(&["audit"], 0, &["web: sequences"]).await;
    let all = std::mem::take(&mut arena.sent);
    let later = all.iter().filter(|sent| sent.sequence > before);
    let later: Vec<_> = later.cloned().collect();
    arena.sent = all
        .into_iter()
        .filter(|sent| sent.sequence <= before)
        .collect();
    let restored = measured(&mut arena).await;
    arena.report.must(
        restored.lost == 0 && restored.doubled == 0,
        format!(
            "of {} events acked before the backup {} were lost and {} doubled",
            restored.operations, restored.lost, restored.doubled
        ),
    );
    let named = later.len();
    arena.report.note(format!(
        "{} events acked before the backup, {named} while it was taken and after it",
        restored.operations
    ));
    for sent in &later {
        let event = sent.again(Some(now_ms())).expect("each has an id");
        arena.bus.publish(&event).await.expect("taken");
    }
    arena.sent.extend(later);
    let mut report = arena.close().await;
    report.must(named > 0, "nothing came after the backup");
    report.must_have_fired(&["everything lost"]);
    enough(&mut report, 200);
    report
}

/// Nothing is left of either server.
async fn lose_everything(arena: &Arena) {
    arena.cluster.redis_ok(&["FLUSHALL"]);
    arena.cluster.redis_ok(&["FUNCTION", "FLUSH"]);
    for stream in arena.bus.stream_names().await.expect("streams") {
        let question = format!("STREAM.DELETE.{stream}");
        let deleted = arena.bus.api(&question, &Value::Null).await;
        deleted.expect("deleted");
    }
}
