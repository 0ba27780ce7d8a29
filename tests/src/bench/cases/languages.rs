//! The click pipeline as functions in Python and TypeScript, beside what else is written in these languages.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use oncue_app_events::web::PageMilestone;
use prost::Message as _;

use crate::bench::arena::{Arena, INPUT, OUTPUT, Run, Side, Work};
use crate::bench::contest::Contest;
use crate::bench::paint::progress;
use crate::bench::peers::{self, Peer};
use crate::bench::plan::{Case, Figure, Goal, Plan, Row};
use crate::bench::stats::percentile;
use crate::bench::usage::memory;

/// What is asked of a language: its function, the framework, the loop by hand, and the ratios to them.
struct Language {
    side: Side,
    framework: Peer,
    over_framework: f64,
    loop_by_hand: Peer,
    over_loop: f64,
}

pub async fn python(plan: Plan) -> Case {
    let language = Language {
        side: Side::Python,
        framework: Peer::FastStream,
        over_framework: 8.0,
        loop_by_hand: Peer::NatsPy,
        over_loop: 2.0,
    };
    language.case(plan).await
}

pub async fn typescript(plan: Plan) -> Case {
    let language = Language {
        side: Side::TypeScript,
        framework: Peer::NestJs,
        over_framework: 2.0,
        loop_by_hand: Peer::NatsJs,
        over_loop: 1.3,
    };
    language.case(plan).await
}

impl Language {
    async fn case(self, plan: Plan) -> Case {
        let mut case = Case::default();
        if let Some(why) = peers::missing() {
            case.skipped = Some(why);
            return case;
        }
        let mut arena = peers::arena().await;
        let mut work = Work::default();
        work.clicks.events = plan.size(30_000, 10_000);
        let mut hot = work.clone();
        hot.clicks.keys = 1;
        let by_hand = self.loop_by_hand.name();
        let framework = self.framework.name();
        let contest = Contest::default()
            .with("oncue", self.side, work.clone())
            .with(framework, Side::Peer(self.framework), work.clone())
            .with(by_hand, Side::Peer(self.loop_by_hand), work.clone())
            .with("one key", self.side, hot)
            .with("rust", Side::Oncue, work);
        let contest = contest
            .hold(&mut arena, self.side.name(), plan.rounds)
            .await;
        let names = ["oncue", framework, by_hand, "one key", "rust"];
        let mut figures: Vec<Figure> = names.iter().map(|name| contest.rate(name)).collect();
        let over_framework = Goal::AtLeast(self.over_framework);
        let over_loop = Goal::AtLeast(self.over_loop);
        figures.extend([
            contest.ratio("oncue", framework).goal(over_framework),
            contest.ratio("oncue", by_hand).goal(over_loop),
            contest.ratio("one key", "oncue").goal(Goal::AtLeast(0.8)),
            host_cost(&contest).goal(Goal::AtMost(6.0)),
        ]);
        case.rows.push(Row {
            name: "100 keys, one child".to_owned(),
            figures,
            details: names
                .iter()
                .flat_map(|name| contest.details(name))
                .collect(),
        });
        case
    }
}

/// CPU of the host alone for each event, above what the worker in Rust needs for it with its handler.
fn host_cost(contest: &Contest) -> Figure {
    let own = |run: &Run| run.cpu.worker - run.cpu.child;
    let runs = contest.runs("oncue").iter().zip(contest.runs("rust"));
    Figure::new(
        "host above rust",
        "us",
        runs.map(|(host, rust)| own(host) - own(rust)),
    )
}

/// A host at rest, and one hop through it where events come one by one.
pub async fn hosts(plan: Plan) -> Case {
    let mut case = Case::default();
    if let Some(why) = peers::missing() {
        case.skipped = Some(why);
        return case;
    }
    let mut arena = peers::arena().await;
    let mut resident: HashMap<&str, [Vec<f64>; 2]> = HashMap::new();
    let mut times: HashMap<&str, Vec<f64>> = HashMap::new();
    let sides = [Side::Oncue, Side::Python, Side::TypeScript];
    for round in 1..=plan.rounds {
        for side in sides {
            let (name, of) = (side.name(), plan.rounds);
            progress(&format!("hosts: round {round} of {of}, {name}"));
            let found = one(&mut arena, side, plan.size(1_000, 200)).await;
            let [host, child] = resident.entry(side.name()).or_default();
            host.push(found.host);
            child.push(found.child);
            times.entry(side.name()).or_default().push(found.p50);
        }
    }
    let memory = |side: Side, which: usize| resident[side.name()][which].iter().copied();
    case.rows.push(row(
        "at rest",
        vec![
            Figure::new("worker in Rust", "MB", memory(Side::Oncue, 0)),
            Figure::new("host", "MB", memory(Side::Python, 0)).goal(Goal::AtMost(14.0)),
            Figure::new("Python child", "MB", memory(Side::Python, 1)).goal(Goal::AtMost(30.0)),
            Figure::new("Node child", "MB", memory(Side::TypeScript, 1)),
        ],
    ));
    let p50 = |side: Side| times[side.name()].iter().copied();
    let more = |side: Side| {
        p50(side)
            .zip(p50(Side::Oncue))
            .map(|(ours, rust)| ours - rust)
    };
    case.rows.push(row(
        "one hop at 100/s, p50",
        vec![
            Figure::new("rust", "ms", p50(Side::Oncue)),
            Figure::new("python", "ms", p50(Side::Python)),
            Figure::new("typescript", "ms", p50(Side::TypeScript)),
            Figure::new("python more", "ms", more(Side::Python)).goal(Goal::AtMost(1.5)),
            Figure::new("typescript more", "ms", more(Side::TypeScript)).goal(Goal::AtMost(1.5)),
        ],
    ));
    case
}

fn row(name: &str, figures: Vec<Figure>) -> Row {
    Row {
        name: name.to_owned(),
        figures,
        details: Vec::new(),
    }
}

/// A function at rest and at 100 events a second.
struct Quiet {
    /// Resident MB of the worker, and of its child.
    host: f64,
    child: f64,
    /// Milliseconds from an event that is published to the one that follows.
    p50: f64,
}

async fn one(arena: &mut Arena, side: Side, events: u64) -> Quiet {
    arena.clean().await;
    let mut workers = arena.start(side, &Work::default()).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let megabytes = |pid| memory(pid, "VmRSS") as f64 / 1024.0;
    let host = megabytes(workers[0].pid());
    let child = workers[0].children().into_iter().map(megabytes).sum();
    let mut outputs = arena
        .bus
        .subscribe(&format!("{OUTPUT}.>"))
        .await
        .expect("a subscription");
    let bus = arena.bus.clone();
    let publishing = tokio::spawn(async move {
        let mut ticks = tokio::time::interval(Duration::from_millis(10));
        let mut sent = HashMap::new();
        for number in 0..events {
            ticks.tick().await;
            let page = format!("p{number}");
            let payload = format!(r#"{{"page":"{page}","visitor":"v"}}"#);
            sent.insert(page, Instant::now());
            bus.publish_plain(INPUT.to_owned(), payload.into())
                .await
                .expect("published");
        }
        sent
    });
    let mut seen: HashMap<String, Instant> = HashMap::new();
    while (seen.len() as u64) < events {
        let next = tokio::time::timeout(Duration::from_secs(30), outputs.next()).await;
        let note = next.expect("an event follows").expect("NATS");
        let made = PageMilestone::decode(&note.payload[..]).expect("a milestone");
        seen.entry(made.page).or_insert_with(Instant::now);
    }
    let sent = publishing.await.expect("published");
    let mut times: Vec<f64> = sent
        .iter()
        .map(|(page, at)| seen[page].duration_since(*at).as_secs_f64() * 1000.0)
        .collect();
    for worker in &mut workers {
        assert_eq!(worker.stop().await, Some(0), "{}", worker.log());
    }
    Quiet {
        host,
        child,
        p50: percentile(&mut times, 0.5),
    }
}
