//! Events that come in copies, again, or poisoned, and workers that come back to them.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::enough;
use crate::chaos::arena::{Arena, Setup};
use crate::chaos::faults::{Act, perform};
use crate::chaos::load::Shape;
use crate::chaos::report::{Plan, Report};

/// Every event in eight copies, over eight workers that take one at a time.
pub async fn same_event(plan: Plan) -> Report {
    const COPIES: usize = 8;
    let setup = Setup {
        misbehave: COPIES,
        concurrency: 1,
        ..Setup::default()
    };
    let mut arena = Arena::open("Z-3", &plan, setup).await;
    let events = 20 * plan.seconds.min(50);
    for n in 0..events {
        arena
            .tell(
                &format!("same-{n}"),
                &format!("/same-{}", n % 5),
                "emit:1",
                COPIES,
            )
            .await;
    }
    arena.report.fault("same event", events * COPIES as u64);
    arena.settle().await;
    let count = async |function, counter| arena.pool.counter(&arena.bus, function, counter).await;
    let [applied, duplicates, retried] =
        ["applied", "duplicates", "retried"].map(|counter| count("misbehave", counter));
    let (applied, duplicates, retried) = (applied.await, duplicates.await, retried.await);
    let deliveries = events * COPIES as u64 + arena.nats.wire().redeliveries_of("app_misbehave");
    let mut report = arena.close().await;
    report.note(format!(
        "{applied} applied, {duplicates} duplicate, {retried} given back"
    ));
    // A commit whose own reply was late is repeated and answers `duplicate`; together they are all there are.
    let ended = applied + duplicates + retried;
    report.must(
        ended == deliveries,
        format!("of {deliveries} deliveries {ended} ended as one of these"),
    );
    report.must(
        duplicates >= events * (COPIES as u64 - 1),
        "fewer duplicates than copies",
    );
    report
}

/// Workers are frozen while events fail in their hands; what they send on waking is read off the wire.
pub async fn late_words(plan: Plan) -> Report {
    // Longer than a busy machine keeps a process waiting: only who was frozen comes back too late.
    let ack_wait = Duration::from_secs(3);
    let mut arena = Arena::open(
        "Z-4",
        &plan,
        Setup {
            misbehave: 3,
            ack_wait,
            ..Setup::default()
        },
    )
    .await;
    let words = &[
        "fail-until:2",
        "slow:100",
        "emit:1",
        "emit:1",
        "emit:1",
        "emit:1",
    ];
    arena.load(Shape {
        rate: 150,
        words,
        ..Shape::default()
    });
    arena.under_way(100).await;
    let end = Instant::now() + Duration::from_secs(plan.seconds);
    while Instant::now() < end {
        perform(&mut arena, Act::FreezeWorker, ack_wait * 3).await;
        arena.wait(Duration::from_millis(300)).await;
    }
    arena.settle().await;
    let wire = arena.nats.wire();
    let mut report = arena.close().await;
    report.note(format!(
        "{} ACK, {} NAK, {} TERM",
        wire.acks, wire.naks, wire.terms
    ));
    report.note(format!(
        "{} late NAK, {} of them after a late +WPI",
        wire.late_naks, wire.late_naks_after_progress
    ));
    report.must_have_fired(&[&Act::FreezeWorker.name()]);
    report.must(report.redeliveries > 0, "nothing was delivered again");
    report.must(wire.naks > 0, "no NAK at all: the proxy saw nothing");
    report.must(wire.terms == 0, format!("{} TERM on the wire", wire.terms));
    // One may have been on its way when the process was frozen; one after a sign of life is a decision.
    let decided = wire.late_naks_after_progress;
    report.must(
        decided == 0,
        format!("{decided} NAK by workers that had come back too late"),
    );
    report
}

/// The consumers are deleted, so that new ones of the same name start from the beginning.
pub async fn replays(plan: Plan) -> Report {
    let mut arena = Arena::open("D-3", &plan, Setup::default()).await;
    arena.load(Shape {
        rate: 1000,
        most: 500 * plan.seconds,
        ..Shape::default()
    });
    arena.wait(Duration::from_secs(plan.seconds)).await;
    arena.settle().await;
    let before = arena.nats.wire().deliveries;
    for _ in 0..2 {
        for function in ["misbehave", "record"] {
            let deleted = arena
                .bus
                .api(&format!("CONSUMER.DELETE.web.app_{function}"), &Value::Null)
                .await;
            deleted.expect("there was one");
            arena.cluster.apply(function);
        }
        arena.report.fault("replay", 1);
        // Workers end when their consumer is gone, and are started again.
        arena.drain().await;
    }
    let replayed = arena.nats.wire().deliveries - before;
    arena.pool.gone.clear();
    let mut report = arena.close().await;
    report.note(format!("{replayed} deliveries again"));
    report.must(
        replayed >= 3 * report.operations,
        "not the whole stream was delivered again",
    );
    enough(&mut report, 100);
    report
}

/// Events are older than the horizon and their marks are gone when the stream comes again: only the fence is left.
pub async fn beyond_the_horizon(plan: Plan) -> Report {
    const HORIZON: Duration = Duration::from_secs(10);
    let mut arena = Arena::open(
        "D-1",
        &plan,
        Setup {
            horizon: "10s",
            ..Setup::default()
        },
    )
    .await;
    // On a slow machine an event may be too old before it was ever handled.
    arena.mortal = true;
    arena.load(Shape {
        most: 200,
        ..Shape::default()
    });
    arena.under_way(200).await;
    arena.settle().await;
    arena.wait(HORIZON + Duration::from_millis(500)).await;
    for mark in arena
        .cluster
        .redis_cli(&["--scan", "--pattern", "app:d:*"])
        .lines()
    {
        arena.cluster.redis_cli(&["UNLINK", mark]);
        arena.report.each("expired marks", 1);
    }
    for function in ["misbehave", "record"] {
        let deleted = arena
            .bus
            .api(&format!("CONSUMER.DELETE.web.app_{function}"), &Value::Null)
            .await;
        deleted.expect("there was one");
        arena.cluster.apply(function);
    }
    arena.again_as = Some("too_old");
    arena.drain().await;
    arena.pool.gone.clear();
    let mut report = arena.close().await;
    report.must_have_fired(&["expired marks"]);
    report.must(report.ok >= 100, "too few events were applied in time");
    report.must(
        report
            .reasons
            .keys()
            .any(|reason| reason.contains("too_old")),
        "nothing was refused as too old",
    );
    report
}

/// Poison has nowhere to go: it stays pending while its neighbours go on, and arrives once there is room.
pub async fn dlq_full(plan: Plan) -> Report {
    let setup = Setup {
        config: "[streams.dlq]\nmax_bytes = \"4KB\"\n".into(),
        attempts: 3,
        ..Setup::default()
    };
    let mut arena = Arena::open("Q-2", &plan, setup).await;
    arena.load(Shape {
        poison: 20,
        rate: 200,
        ..Shape::default()
    });
    arena.wait(Duration::from_secs(plan.seconds)).await;
    // Some twenty poisoned ones among them: more than there is room for.
    arena.under_way(400).await;
    arena.end_load().await;
    let poison = arena.sent().iter().filter(|sent| sent.is_poison()).count() as u64;
    let start = Instant::now();
    while arena.pending().await.is_none_or(|rest| rest > poison)
        && start.elapsed() < Duration::from_mins(2)
    {
        arena.wait(Duration::from_millis(100)).await;
    }
    let (rest, letters) = (
        arena.pending().await.unwrap_or_default(),
        arena.cluster.count(&arena.bus, "dlq").await,
    );
    arena
        .report
        .fault("refused letters", poison.saturating_sub(letters));
    arena.report.note(format!(
        "{poison} poisoned, {letters} letters fitted, {rest} waited"
    ));
    arena
        .report
        .must(rest <= poison, "neighbours did not go on");
    arena.report.must(
        letters < poison,
        "the stream of dead letters was never full",
    );
    let info = arena
        .bus
        .api("STREAM.INFO.dlq", &Value::Null)
        .await
        .expect("a stream");
    let mut config = info["config"].clone();
    config["max_bytes"] = json!(1 << 30);
    arena
        .bus
        .api("STREAM.UPDATE.dlq", &config)
        .await
        .expect("raised");
    let mut report = arena.close().await;
    report.must_have_fired(&["refused letters"]);
    report.must(
        report.dead >= poison,
        "not every poisoned event has its letter",
    );
    report
}

/// Seconds of a row in which a share of throughput means something.
const TELLING: u64 = 10;

/// The same load with and without poison, in the same cluster. A run long enough to tell must show that others hardly
/// notice.
pub async fn poison(plan: Plan) -> Report {
    let mut arena = Arena::open(
        "Q-4",
        &plan,
        Setup {
            attempts: 3,
            ..Setup::default()
        },
    )
    .await;
    let most = 800 * plan.seconds;
    let mut speeds = Vec::new();
    for poison in [0, 10] {
        let before = arena.sent().len();
        let start = Instant::now();
        arena.load(Shape {
            rate: 100_000,
            most,
            poison,
            copies: false,
            ..Shape::default()
        });
        arena.under_way(most).await;
        arena.end_load().await;
        let sent = &arena.sent()[before..];
        let failing = sent.iter().filter(|sent| sent.word == "fail").count() as u64;
        arena.report.each(
            "poison",
            sent.iter().filter(|sent| sent.is_poison()).count() as u64,
        );
        while arena.pending().await.is_none_or(|rest| rest > failing)
            && start.elapsed() < Duration::from_mins(3)
        {
            arena.wait(Duration::from_millis(20)).await;
        }
        speeds.push(most as f64 / start.elapsed().as_secs_f64());
        arena.drain().await;
    }
    let mut report = arena.close().await;
    let ratio = speeds[1] / speeds[0];
    report.note(format!(
        "{:.0} events/s clean, {:.0} with poison: {:.0} %",
        speeds[0],
        speeds[1],
        ratio * 100.0
    ));
    report.must(
        plan.seconds < TELLING || ratio >= 0.8,
        "poison slowed the others down",
    );
    report.must_have_fired(&["poison"]);
    report.must(report.dead > 0, "no poison was set aside");
    report
}

/// One key, a slow event, then a quick one. One worker keeps their order; with two the quick one passes the slow one.
/// Nobody may rely on more.
pub async fn order(plan: Plan) -> Report {
    let mut report = Report {
        live: plan.live.clone(),
        ..Report::default()
    };
    for (workers, expected) in [(1, ["first", "second"]), (2, ["second", "first"])] {
        let setup = Setup {
            misbehave: workers,
            concurrency: if workers == 1 { 200 } else { 1 },
            ..Setup::default()
        };
        let mut arena = Arena::open("O-2", &plan, setup).await;
        arena.tell("first", "/order", "slow:2500", 1).await;
        arena
            .wait_until("the first is in hand", |arena| {
                arena.pool.in_hand(&arena.nats, None) == 1
            })
            .await;
        arena.tell("second", "/order", "slow:1", 1).await;
        arena.settle().await;
        let ids = arena
            .cluster
            .field(&arena.store, "tallies", "/order", "ids")
            .await;
        let ids: Vec<String> = serde_json::from_str(&ids).unwrap_or_default();
        arena.report.must(
            ids == expected,
            format!("{workers} workers applied {ids:?}, not {expected:?}"),
        );
        arena
            .report
            .each("order broken", u64::from(ids == ["second", "first"]));
        report.add(arena.close().await);
    }
    report.must_have_fired(&["order broken"]);
    report
}
