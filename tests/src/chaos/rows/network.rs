//! Lines between workers and servers that are cut, half open, slow or treacherous.

use std::time::{Duration, Instant};

use serde_json::Value;

use super::{Storm, enough};
use crate::chaos::arena::{Arena, Link, Setup};
use crate::chaos::faults::{Act, Harm, perform};
use crate::chaos::load::Shape;
use crate::chaos::report::{Plan, Report};
use crate::proxy::Faults;

fn each_and_both(harms: &[Harm]) -> Vec<Act> {
    let links = [Link::Nats, Link::Redis, Link::Both];
    links
        .into_iter()
        .flat_map(|link| harms.iter().map(move |harm| Act::Line(link, *harm)))
        .collect()
}

pub async fn partitions(plan: Plan) -> Report {
    let harms = [
        Harm::Cut,
        Harm::Refuse,
        Harm::HalfOpenUp,
        Harm::HalfOpenDown,
        Harm::HalfOpen,
        Harm::Freeze,
    ];
    Storm {
        redelivers: false,
        ..Storm::new("N-1")
    }
    .run(plan, &each_and_both(&harms))
    .await
}

pub async fn bad_lines(plan: Plan) -> Report {
    let harms = [
        Harm::Latency,
        Harm::Throttle,
        Harm::Slices,
        Harm::ResetUp,
        Harm::ResetDown,
    ];
    let links = [Link::Nats, Link::Redis];
    let acts = links
        .into_iter()
        .flat_map(|link| harms.map(|harm| Act::Line(link, harm)));
    Storm {
        redelivers: false,
        ..Storm::new("N-2")
    }
    .run(plan, &acts.collect::<Vec<Act>>())
    .await
}

/// The same harms again and again, a moment apart.
async fn again(name: &'static str, plan: &Plan, setup: Setup, acts: &[Act]) -> Arena {
    let mut arena = Arena::open(name, plan, setup).await;
    arena.load(Shape::default());
    arena.under_way(100).await;
    let end = Instant::now() + Duration::from_secs(plan.seconds);
    while Instant::now() < end {
        for act in acts {
            perform(&mut arena, *act, Duration::from_millis(50)).await;
            let pause = Duration::from_millis(arena.rng.u64(100..400));
            arena.wait(pause).await;
        }
    }
    arena
}

pub async fn lost_replies(plan: Plan) -> Report {
    let act = Act::Line(Link::Redis, Harm::LoseAnswer);
    let mut arena = again("N-3", &plan, Setup::default(), &[act]).await;
    arena.settle().await;
    let mut duplicates = 0;
    for function in ["misbehave", "record"] {
        duplicates += arena.pool.counter(&arena.bus, function, "duplicates").await;
    }
    let mut report = arena.close().await;
    report.must_have_fired(&[&act.name()]);
    report.note(format!("{duplicates} answers `duplicate`"));
    report.must(
        duplicates > 0,
        "no commit was repeated: the lost replies harmed nobody",
    );
    enough(&mut report, 100);
    report
}

pub async fn lost_acks(plan: Plan) -> Report {
    let act = Act::Line(Link::Nats, Harm::LoseAnswer);
    let arena = again("N-4", &plan, Setup::default(), &[act]).await;
    let mut report = arena.close().await;
    report.must_have_fired(&[&act.name()]);
    report.must(report.copies > 0, "no output was published again");
    report.must(report.redeliveries > 0, "nothing was delivered again");
    enough(&mut report, 100);
    report
}

/// Outputs go out in atomic batches: the one ack of a batch is lost, a batch loses a message on its way, and for a while
/// the stream takes none. What did not go out as one goes out one by one.
pub async fn torn_batches(plan: Plan) -> Report {
    let acts = [Harm::LoseBatchAck, Harm::TearBatch].map(|harm| Act::Line(Link::Nats, harm));
    let setup = Setup {
        config: "[nats]\nbatch_publish = true\n".into(),
        ..Setup::default()
    };
    let mut arena = again("N-4b", &plan, setup, &acts).await;
    let singly = |arena: &Arena| {
        arena
            .pool
            .logs()
            .map(|log| log.matches("publishing one by one").count())
            .sum::<usize>()
    };
    let lost = arena.report.faults.values().sum::<u64>() as usize;
    arena
        .wait_until("each batch that was harmed goes out one by one", |arena| {
            singly(arena) >= lost
        })
        .await;
    let before = singly(&arena);
    allow_batches(&arena, false).await;
    arena
        .wait_until("a batch is refused", |arena| singly(arena) > before)
        .await;
    let refused = singly(&arena) - before;
    allow_batches(&arena, true).await;
    arena.report.fault("batch refused", refused as u64);
    let mut report = arena.close().await;
    report.must_have_fired(&[&acts[0].name(), &acts[1].name(), "batch refused"]);
    report.note(format!("{} batches went out one by one", before + refused));
    report.must(report.copies > 0, "no output was published again");
    enough(&mut report, 100);
    report
}

async fn allow_batches(arena: &Arena, allowed: bool) {
    let mut config = arena
        .bus
        .api("STREAM.INFO.web", &Value::Null)
        .await
        .expect("a stream")["config"]
        .clone();
    config["allow_atomic"] = allowed.into();
    arena
        .bus
        .api("STREAM.UPDATE.web", &config)
        .await
        .expect("changed");
}

/// All lines to a server go dead at once, as when a router forgets them: nothing comes any more and nothing says so.
/// Nobody heals them; workers must notice by themselves and connect anew.
async fn dead_lines(name: &'static str, plan: Plan, link: Link, notice: Duration) -> Report {
    let mut arena = Arena::open(name, &plan, Setup::default()).await;
    arena.load(Shape {
        rate: 100,
        ..Shape::default()
    });
    arena.under_way(100).await;
    let (lines, proxy) = (arena.pool.len(), arena.proxies(link).next().expect("one"));
    let (below, start) = (proxy.let_die(), Instant::now());
    let left = |arena: &Arena| {
        arena
            .proxies(link)
            .map(|proxy| proxy.open_below(below))
            .sum::<usize>()
    };
    while left(&arena) > 0 && start.elapsed() < notice {
        arena.wait(Duration::from_millis(50)).await;
    }
    let (rest, fault) = (left(&arena), format!("{} line dead", link.name()));
    arena.report.must(
        rest == 0,
        format!(
            "{rest} of {lines} dead lines to {} were not noticed",
            link.name()
        ),
    );
    arena.report.fault(&fault, lines as u64);
    arena.report.note(format!(
        "{} of {lines} noticed within {} s",
        lines - rest,
        start.elapsed().as_secs()
    ));
    if rest == 0 {
        // The dead lines are gone and nothing was healed: what is handled now came over new ones.
        let before = arena.nats.wire().acks;
        arena
            .wait_until("events are handled over new lines", |arena| {
                arena.nats.wire().acks > before + 50
            })
            .await;
    }
    arena.settle().await;
    let gone = arena.pool.gone.len();
    let mut report = arena.close().await;
    report.must(gone == 0, "a worker ended rather than connect anew");
    enough(&mut report, 100);
    report
}

pub async fn dead_lines_to_nats(plan: Plan) -> Report {
    // Two pings that stay unanswered, ten seconds apart.
    dead_lines("N-6", plan, Link::Nats, Duration::from_mins(2)).await
}

pub async fn dead_lines_to_redis(plan: Plan) -> Report {
    // There is always a question that waits for its answer.
    dead_lines("N-7", plan, Link::Redis, Duration::from_secs(30)).await
}

/// Many workers lose both their connections at once.
pub async fn storm(plan: Plan) -> Report {
    let crowd = if plan.long { 40 } else { 8 };
    let setup = Setup {
        misbehave: crowd,
        record: 2,
        ..Setup::default()
    };
    let mut arena = Arena::open("N-5", &plan, setup).await;
    arena.load(Shape::default());
    arena.under_way(100).await;
    let all = arena.nats.connections();
    arena.nats.set(Faults {
        refuse: true,
        ..Faults::default()
    });
    arena.nats.cut();
    arena.redis.cut();
    arena.report.fault("all cut", all as u64);
    arena.wait(Duration::from_millis(500)).await;
    arena.nats.heal();
    let healed = Instant::now();
    for _ in 0..600 {
        if arena.nats.connections() >= all {
            break;
        }
        arena.wait(Duration::from_millis(100)).await;
    }
    let back = arena.nats.connections();
    let after: Vec<u128> = arena
        .nats
        .wire()
        .accepted
        .iter()
        .filter(|at| **at >= healed)
        .map(|at| (*at - healed).as_millis())
        .collect();
    let busiest = after
        .iter()
        .map(|at| {
            after
                .iter()
                .filter(|other| *other / 100 == at / 100)
                .count()
        })
        .max();
    arena.wait(Duration::from_secs(plan.seconds.min(10))).await;
    let mut report = arena.close().await;
    report.must(
        back >= all,
        format!("only {back} of {all} connections came back"),
    );
    report.note(format!(
        "{} came back within {} ms, at most {} of them in one tenth of a second",
        after.len(),
        after.iter().max().unwrap_or(&0),
        busiest.unwrap_or_default()
    ));
    enough(&mut report, 100);
    report
}
