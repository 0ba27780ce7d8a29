//! Apps side by side, and versions one after the other: what changes while events come.

use std::time::{Duration, Instant};

use oncue_core::app::AppName;

use super::clients::held_up;
use super::{enough, gentle};
use crate::chaos::arena::{Arena, Setup};
use crate::chaos::faults::{Act, perform};
use crate::chaos::load::Shape;
use crate::chaos::report::{Plan, Report};

/// One of ten is refused by its function.
const ONE_IN_TEN: [&str; 10] = [
    "reject", "emit:1", "emit:1", "emit:1", "emit:1", "emit:1", "emit:1", "emit:1", "emit:1",
    "emit:1",
];

/// Which version of `misbehave` a process is.
fn version(change: &str) -> [(&'static str, String); 1] {
    [("ONCUE_TEST_CHANGE", change.to_owned())]
}

/// A second app on the same servers, with functions and tables of the same names, which hears the same events. Its workers
/// die as those of the first do; what it changes, prunes and gives up is its own.
pub async fn two_apps(plan: Plan) -> Report {
    let mut arena = Arena::open("A-1", &plan, Setup::default()).await;
    let folder = arena.cluster.dir.join("shop");
    std::fs::create_dir_all(&folder).expect("a folder");
    let file = folder.join("oncue.toml");
    let limits = "ack_wait = \"1s\"\nattempts = 20\n";
    let text = format!(
        "[app]\nname = \"shop\"\n[functions.misbehave]\n{limits}[functions.record]\n{limits}"
    );
    std::fs::write(&file, text).expect("written");
    let file = file.display().to_string();
    let env = [("ONCUE_CONFIG", file.clone())];
    let programs = ["misbehave", "misbehave", "record", "record"];
    let (cluster, nats) = (&arena.cluster, &arena.nats);
    arena.pool.join(cluster, nats, &programs, &env).await;
    let shop: AppName = "shop".parse().expect("a name");
    arena.neighbour = Some(shop.clone());
    arena.load(Shape {
        rate: 100,
        words: &ONE_IN_TEN,
        ..Shape::default()
    });
    arena.under_way(200).await;
    let end = Instant::now() + Duration::from_secs(plan.seconds);
    let mut first = true;
    while first || Instant::now() < end {
        first = false;
        perform(&mut arena, Act::KillWorker, Duration::ZERO).await;
        let app = ["--config", file.as_str()];
        let prune = [&app[..], &["apply", "--prune"]].concat();
        arena.says(&prune, 0, &["of app app, left as it is"]).await;
        let why = ["dlq", "drop", "--all", "--yes", "--why", "a test"];
        let drop = [&app[..], &why].concat();
        arena.says(&drop, 0, &[]).await;
        arena.report.each("change of the other app", 2);
        arena.flowing().await;
    }
    let mut report = arena.close().await;
    report.must_have_fired(&[&Act::KillWorker.name(), "change of the other app"]);
    report.must(report.dead > 0, "neither app had a letter");
    enough(&mut report, 100);
    report
}

/// Programs are replaced one after the other by those of a new version, whose rows the old one cannot read; for a while
/// both are at work. Half of the events are of a newer contract than either.
pub async fn two_versions(plan: Plan) -> Report {
    let setup = Setup {
        misbehave: 4,
        ..Setup::default()
    };
    let mut arena = Arena::open("U-1", &plan, setup).await;
    arena.load(Shape {
        rate: gentle(&plan),
        newer: true,
        ..Shape::default()
    });
    arena.under_way(100).await;
    let newer = version("rows");
    let upgraded = arena
        .pool
        .upgrade(&arena.cluster, "misbehave", 2, &newer)
        .await;
    arena.wait(Duration::from_secs(plan.seconds)).await;
    // The old one has come upon what the new one has upgraded, and has left it alone.
    let met = |arena: &Arena| {
        let mut logs = arena.pool.logs();
        logs.any(|log| log.contains("this program knows up to 1"))
    };
    arena
        .wait_until("an old program meets a row of the new one", met)
        .await;
    arena.flowing().await;
    let rest = arena
        .pool
        .upgrade(&arena.cluster, "misbehave", 0, &newer)
        .await;
    arena.report.each("program replaced", upgraded + rest);
    arena.settle().await;
    let newer = arena.sent.iter().filter(|sent| sent.newer).count() as u64;
    arena.report.effect("event of a newer contract", newer);
    let mut report = arena.close().await;
    report.must_have_fired(&["event of a newer contract"]);
    let replaced = report.faults.get("program replaced").copied();
    report.must(replaced == Some(4), "not every program was replaced");
    enough(&mut report, 100);
    report
}

/// What a change of trigger or key would lose is refused while events wait, by `apply` and by workers; the way around it
/// loses nothing.
pub async fn refused_changes(plan: Plan) -> Report {
    let mut arena = Arena::open("U-4", &plan, Setup::default()).await;
    arena.load(Shape {
        // All that waits while a command runs is redriven one by one.
        rate: 100,
        copies: false,
        ..Shape::default()
    });
    arena.under_way(100).await;
    for _ in 0..plan.seconds.div_ceil(10) {
        arena.pool.stop(Some("misbehave")).await;
        let waiting = held_up(&mut arena, 50).await;
        let changes = [
            ("trigger", "--set-aside misbehave"),
            ("key", "its key was its own, and is visitor"),
        ];
        for (change, said) in changes {
            arena.cluster.set("ONCUE_TEST_CHANGE", change);
            arena.says(&["apply"], 1, &[said]).await;
            arena.refuses_to_start(&[], "another configuration").await;
            let kind = format!("change of the {change}");
            arena.report.struck(&kind, waiting as usize);
        }
        arena.cluster.set("ONCUE_TEST_CHANGE", "");
        arena.pool.resume(&arena.cluster).await;
        arena.flowing().await;
    }
    set_aside(&mut arena).await;
    let mut report = arena.close().await;
    report.must_have_fired(&["change of the trigger", "change of the key", "set aside"]);
    enough(&mut report, 100);
    report
}

/// The new trigger is let in, with all that waits set aside; and the old one again, with all of it brought back. Events of
/// the new one that came meanwhile are nobody's, and set aside for good.
async fn set_aside(arena: &mut Arena) {
    arena.pool.stop(Some("misbehave")).await;
    held_up(arena, 50).await;
    arena.end_load().await;
    let waiting = held_up(arena, 1).await;
    arena.cluster.set("ONCUE_TEST_CHANGE", "trigger");
    let apply = ["apply", "--set-aside", "misbehave"];
    arena.says(&apply, 0, &["~ consumer"]).await;
    arena.report.struck("set aside", waiting as usize);
    arena.cluster.set("ONCUE_TEST_CHANGE", "");
    arena.says(&apply, 0, &["~ consumer"]).await;
    arena.pool.resume(&arena.cluster).await;
    redrive_views(arena).await;
}

/// Gives the views back that were set aside; the milestones stay.
async fn redrive_views(arena: &mut Arena) {
    let letters = oncue_admin::dead_letters::all(&arena.bus).await;
    let letters = letters.expect("NATS");
    let of_views = letters
        .iter()
        .filter(|letter| letter.content.event_type == "web.page.viewed");
    let views: Vec<String> = of_views.map(|letter| letter.number.to_string()).collect();
    let views: Vec<&str> = views.iter().map(String::as_str).collect();
    let redrive = [&["dlq", "redrive", "--yes", "--rate", "1000"], &views[..]].concat();
    arena.says(&redrive, 0, &[]).await;
}
