//! Lines between workers and servers that are cut, half open, slow or treacherous.

use std::time::{Duration, Instant};

use super::{Storm, enough};
use crate::chaos::arena::{Arena, Link, Setup};
use crate::chaos::faults::{Act, Harm, perform};
use crate::chaos::load::Shape;
use crate::chaos::report::{Plan, Report};
use crate::proxy::Faults;

fn both(harms: &[Harm]) -> Vec<Act> {
    let links = [Link::Nats, Link::Redis];
    links.into_iter().flat_map(|link| harms.iter().map(move |harm| Act::Line(link, *harm))).collect()
}

pub async fn partitions(plan: Plan) -> Report {
    let harms = [Harm::Cut, Harm::Refuse, Harm::HalfOpenUp, Harm::HalfOpenDown, Harm::HalfOpen, Harm::Freeze];
    Storm { redelivers: false, ..Storm::new("N-1") }.run(plan, &both(&harms)).await
}

pub async fn bad_lines(plan: Plan) -> Report {
    let harms = [Harm::Latency, Harm::Throttle, Harm::Slices, Harm::ResetUp, Harm::ResetDown];
    Storm { redelivers: false, ..Storm::new("N-2") }.run(plan, &both(&harms)).await
}

/// The same harm again and again, a moment apart.
async fn again(name: &'static str, plan: &Plan, act: Act, shape: Shape) -> Arena {
    let mut arena = Arena::open(name, plan, Setup::default()).await;
    arena.load(shape);
    arena.under_way(100).await;
    let end = Instant::now() + Duration::from_secs(plan.seconds);
    while Instant::now() < end {
        perform(&mut arena, act, Duration::from_millis(50)).await;
        let pause = Duration::from_millis(arena.rng.u64(100..400));
        arena.wait(pause).await;
    }
    arena
}

pub async fn lost_replies(plan: Plan) -> Report {
    let act = Act::Line(Link::Redis, Harm::LoseAnswer);
    let mut arena = again("N-3", &plan, act, Shape::default()).await;
    arena.settle().await;
    let mut duplicates = 0;
    for function in ["misbehave", "record"] {
        duplicates += arena.crew.counter(&arena.bus, function, "duplicates").await;
    }
    let mut report = arena.close().await;
    report.must_have_fired(&[&act.name()]);
    report.note(format!("{duplicates} answers `duplicate`"));
    report.must(duplicates > 0, "no commit was repeated: the lost replies harmed nobody");
    enough(&mut report, 100);
    report
}

pub async fn lost_acks(plan: Plan) -> Report {
    let act = Act::Line(Link::Nats, Harm::LoseAnswer);
    let arena = again("N-4", &plan, act, Shape::default()).await;
    let mut report = arena.close().await;
    report.must_have_fired(&[&act.name()]);
    report.must(report.copies > 0, "no output was published again");
    report.must(report.redeliveries > 0, "nothing was delivered again");
    enough(&mut report, 100);
    report
}

/// Many workers lose both their connections at once.
pub async fn storm(plan: Plan) -> Report {
    let crowd = if plan.long { 40 } else { 8 };
    let setup = Setup { misbehave: crowd, record: 2, ..Setup::default() };
    let mut arena = Arena::open("N-5", &plan, setup).await;
    arena.load(Shape::default());
    arena.under_way(100).await;
    let all = arena.nats.connections();
    arena.nats.set(Faults { refuse: true, ..Faults::default() });
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
    let after: Vec<u128> =
        arena.nats.wire().accepted.iter().filter(|at| **at >= healed).map(|at| (*at - healed).as_millis()).collect();
    let busiest = after.iter().map(|at| after.iter().filter(|other| *other / 100 == at / 100).count()).max();
    arena.wait(Duration::from_secs(plan.seconds.min(10))).await;
    let mut report = arena.close().await;
    report.must(back >= all, format!("only {back} of {all} connections came back"));
    report.note(format!(
        "{} came back within {} ms, at most {} of them in one tenth of a second",
        after.len(),
        after.iter().max().unwrap_or(&0),
        busiest.unwrap_or_default()
    ));
    enough(&mut report, 100);
    report
}
