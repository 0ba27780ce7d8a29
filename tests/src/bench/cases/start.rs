//! A worker that starts and one that waits: time to the first commit, memory, processor, size.

use std::time::{Duration, Instant};

use crate::bench::arena::{Arena, Profile, Side, Work};
use crate::bench::cases::traces::traced;
use crate::bench::fill::fill;
use crate::bench::paint::progress;
use crate::bench::plan::{Case, Figure, Goal, Plan, Row};
use crate::bench::sink::Sink;
use crate::bench::usage::{cpu, memory};
use crate::cluster::{Process, built};

pub async fn start(plan: Plan) -> Case {
    let (mut case, mut arena) = (Case::default(), Arena::open(Profile::Fast).await);
    let sink = Sink::start();
    let work = Work {
        env: traced(&sink, "1"),
        ..Work::default()
    };
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    let (mut resident, mut idle) = (Vec::new(), Vec::new());
    for (side, times) in [(Side::Oncue, &mut ours), (Side::Limit, &mut theirs)] {
        arena.clean().await;
        // The first one makes the streams; the last of Oncue's stays and waits.
        stop(arena.start(side, &work).await).await;
        for round in 1..=plan.size(11, 5) {
            progress(&format!("start: {}, {round}", side.name()));
            let (time, worker) = cold(&mut arena, side, round).await;
            times.push(time);
            if side == Side::Oncue && round <= plan.size(3, 1) {
                tokio::time::sleep(Duration::from_secs(2)).await;
                let (before, begun) = (cpu(worker.pid()), Instant::now());
                tokio::time::sleep(Duration::from_secs(plan.size(10, 3))).await;
                idle.push(
                    (cpu(worker.pid()) - before) / begun.elapsed().as_micros() as f64 * 100.0,
                );
                resident.push(memory(worker.pid(), "VmRSS") as f64 / 1024.0);
            }
            stop(vec![worker]).await;
        }
    }
    let cold = Figure::new("oncue", "ms", ours).goal(Goal::AtMost(25.0));
    let row = |name: &str, figures| Row {
        name: name.to_owned(),
        figures,
        details: Vec::new(),
    };
    case.rows.push(row(
        "spawn to first commit, tracing on",
        vec![cold, Figure::new("limit", "ms", theirs)],
    ));
    let resident = Figure::new("resident", "MB", resident).goal(Goal::AtMost(12.0));
    case.rows.push(row(
        "at rest, tracing on",
        vec![resident, Figure::new("of a core", "%", idle)],
    ));
    let size = std::fs::metadata(built("bench-clicks"))
        .expect("a binary")
        .len() as f64
        / 1e6;
    case.rows.push(row(
        "size of a worker",
        vec![Figure::new("binary", "MB", [size]).goal(Goal::AtMost(12.0))],
    ));
    case
}

/// One event waits; milliseconds from the spawn of a worker to the ack that follows its commit.
async fn cold(arena: &mut Arena, side: Side, round: u64) -> (f64, Process) {
    let mut clicks = Work::default().clicks;
    (clicks.events, clicks.first) = (1, round);
    let port = arena.cluster.nats_port;
    tokio::task::spawn_blocking(move || fill(port, clicks))
        .await
        .expect("an event");
    let consumer = crate::bench::arena::consumer(side);
    let mut acks = arena
        .bus
        .subscribe(&format!("$JS.ACK.{consumer}.>"))
        .await
        .expect("a subscription");
    arena.bus.flush().await;
    let begin = Instant::now();
    let worker = match side {
        Side::Oncue => arena.cluster.spawn("bench-clicks", &[]),
        _ => arena.cluster.spawn("bench-limit", &["batched"]),
    };
    let ack = tokio::time::timeout(Duration::from_secs(30), acks.next()).await;
    let ack = ack
        .unwrap_or_else(|_| panic!("nothing happened: {}", worker.log()))
        .expect("NATS");
    assert!(ack.payload.starts_with(b"+ACK"), "not acked: {ack:?}");
    (begin.elapsed().as_secs_f64() * 1000.0, worker)
}

async fn stop(workers: Vec<Process>) {
    for mut worker in workers {
        worker.stop().await;
    }
}
