//! What clients and operators send into a system that works: one id under many times, ids of others, events that fit while
//! what follows from them does not, a pause.

use std::time::{Duration, Instant};

use oncue_core::app::AppName;
use oncue_core::secret::id_secret;
use serde_json::{Value, json};

use super::enough;
use crate::chaos::arena::{Arena, Setup};
use crate::chaos::load::{FORGED_WITH_SECRET, Forger, Shape};
use crate::chaos::report::{Plan, Report};

/// A client that retries and stamps anew: each id comes under five times, one of them none.
pub async fn stamped_anew(plan: Plan) -> Report {
    let mut arena = Arena::open("I-1", &plan, Setup::default()).await;
    arena.load(Shape {
        rate: 200,
        stamps: 4,
        plain: false,
        ..Shape::default()
    });
    arena.under_way(100).await;
    arena.wait(Duration::from_secs(plan.seconds)).await;
    arena.settle().await;
    let copies = arena.extra;
    arena.report.each("sent again under another time", copies);
    let mut report = arena.close().await;
    report.must(
        copies >= 4 * report.operations,
        "not every event came again under another time",
    );
    enough(&mut report, 100);
    report
}

/// A stranger is always there first, with an event of his own under the id an output will have. He knows all that a client
/// can know; and of one event in ten the secret too, by which he has the very id. Then the output becomes a letter.
pub async fn forged(plan: Plan) -> Report {
    let setup = Setup {
        // Only what the server takes for a copy can hide the output.
        window: "2m",
        ..Setup::default()
    };
    let mut arena = Arena::open("I-2", &plan, setup).await;
    let secret = id_secret(&arena.bus, &arena.store).await;
    let forged = secret.ok().map(|secret| Forger { secret });
    arena.dies_as = Some("unpublishable");
    arena.load(Shape {
        rate: 200,
        forged,
        ..Shape::default()
    });
    arena.under_way(100).await;
    arena.wait(Duration::from_secs(plan.seconds)).await;
    arena.settle().await;
    let forged = arena.extra;
    arena.report.each("forged id", forged);
    let sent = arena.sent.iter();
    let taken = sent.filter(|sent| sent.id.as_deref().is_some_and(|id| !id.starts_with("web:")));
    let exact = taken.filter(|sent| sent.number.is_multiple_of(FORGED_WITH_SECRET));
    let exact = exact.count() as u64;
    let mut report = arena.close().await;
    report.must(exact > 0, "no output had its very id forged");
    report.must(
        report.dead == exact,
        format!(
            "{} letters for {exact} outputs whose id was taken",
            report.dead
        ),
    );
    enough(&mut report, 100);
    report
}

/// Changes the stream of the events behind everybody's back.
async fn change(arena: &Arena, field: &str, value: Value) {
    let info = arena.bus.api("STREAM.INFO.web", &Value::Null).await;
    let mut config = info.expect("a stream")["config"].clone();
    config[field] = value;
    let changed = arena.bus.api("STREAM.UPDATE.web", &config).await;
    changed.expect("changed");
}

/// Events fit into their stream, and what follows from them does not: each output becomes a letter, and goes on from there
/// once it fits.
pub async fn unpublishable(plan: Plan) -> Report {
    /// A view has some 200 bytes, a milestone twice as many, most of them headers.
    const BETWEEN: u64 = 300;
    let mut arena = Arena::open("I-3", &plan, Setup::default()).await;
    arena.load(Shape {
        rate: 200,
        copies: false,
        ..Shape::default()
    });
    arena.under_way(100).await;
    for _ in 0..plan.seconds.div_ceil(4) {
        change(&arena, "max_msg_size", json!(BETWEEN)).await;
        letters(&mut arena, 50).await;
        change(&arena, "max_msg_size", json!(-1)).await;
        let waiting = arena.cluster.count(&arena.bus, "dlq").await;
        arena.report.each("refused output", waiting);
        // While others come.
        let redrive = ["dlq", "redrive", "--all", "--yes", "--rate", "1000"];
        arena.says(&redrive, 0, &[]).await;
        arena.flowing().await;
    }
    arena.settle().await;
    // What was set aside while the command ran.
    arena
        .oncue(&["dlq", "redrive", "--all", "--yes", "--rate", "1000"])
        .await;
    let mut report = arena.close().await;
    report.must_have_fired(&["refused output"]);
    report.must(
        report.dead == 0,
        format!("{} outputs are still set aside", report.dead),
    );
    enough(&mut report, 100);
    report
}

/// Waits until so many letters are there.
async fn letters(arena: &mut Arena, least: u64) {
    let start = Instant::now();
    while arena.cluster.count(&arena.bus, "dlq").await < least {
        arena.wait(Duration::from_millis(50)).await;
        if start.elapsed() > Duration::from_mins(1) {
            let why = format!("fewer than {least} letters within a minute");
            return arena.report.failures.push(why);
        }
    }
}

/// Both consumers are paused under load: nothing is delivered, somebody is told, and with the pause over all goes on.
pub async fn paused(plan: Plan) -> Report {
    let mut arena = Arena::open("I-4", &plan, Setup::default()).await;
    arena.load(Shape::default());
    arena.under_way(100).await;
    for _ in 0..plan.seconds.div_ceil(4) {
        pause(&arena, &json!({ "pause_until": "2100-01-01T00:00:00Z" })).await;
        let waiting = held_up(&mut arena, 200).await;
        arena.report.struck("consumers paused", waiting as usize);
        arena.says(&["doctor"], 1, &["is paused"]).await;
        pause(&arena, &json!({})).await;
        arena.flowing().await;
    }
    let mut report = arena.close().await;
    report.must_have_fired(&["consumers paused"]);
    enough(&mut report, 100);
    report
}

async fn pause(arena: &Arena, until: &Value) {
    for function in ["misbehave", "record"] {
        let question = format!("CONSUMER.PAUSE.web.app_{function}");
        arena.bus.api(&question, until).await.expect("a consumer");
    }
}

/// Waits until so many events wait for the first stage; returns how many do.
pub(super) async fn held_up(arena: &mut Arena, least: u64) -> u64 {
    let start = Instant::now();
    loop {
        let waiting = arena.pending_of(&AppName::default(), "misbehave").await;
        let waiting = waiting.unwrap_or_default();
        if waiting >= least || start.elapsed() > Duration::from_mins(1) {
            return waiting;
        }
        arena.wait(Duration::from_millis(50)).await;
    }
}
