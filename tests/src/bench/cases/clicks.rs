//! The click pipeline in all its shapes, beside the loop written by hand.

use std::time::Duration;

use crate::bench::arena::{Arena, Profile, Side, Work};
use crate::bench::burn;
use crate::bench::contest::Contest;
use crate::bench::fill::Headers;
use crate::bench::plan::{Case, Figure, Goal, Plan, Row};

/// So much on one machine that no round is over before its clock is right.
fn work(plan: Plan) -> Work {
    let mut work = Work::default();
    work.clicks.events = plan.size(50_000, 20_000);
    work
}

pub async fn clicks(plan: Plan) -> Case {
    let (mut case, mut arena) = (Case::default(), Arena::open(Profile::Fast).await);
    let mut work = work(plan);
    let contest = Contest::of(&work)
        .with("inbox", Side::Inbox, work.clone())
        .with("events", Side::Events, work.clone());
    let contest = contest.hold(&mut arena, "clicks", plan.rounds).await;
    let mut row = contest.row("100 keys", Some(Goal::AtLeast(1.0)));
    row.figures.extend([
        contest.ratio("oncue", "inbox"),
        contest.ratio("oncue", "events"),
    ]);
    case.rows.push(row);
    if !plan.quick {
        work.clicks.headers = Headers::IdOnly;
        let contest = Contest::of(&work)
            .hold(&mut arena, "clicks without ce- headers", plan.rounds)
            .await;
        case.rows
            .push(contest.row("100 keys, no header but the id", None));
    }
    case
}

pub async fn workers(plan: Plan) -> Case {
    let (mut case, mut arena) = (Case::default(), Arena::open(Profile::Fast).await);
    for workers in plan.size(&[1, 2, 4][..], &[2][..]) {
        let work = Work {
            workers: *workers,
            ..work(plan)
        };
        let contest = Contest::of(&work)
            .hold(&mut arena, &format!("{workers} workers"), plan.rounds)
            .await;
        case.rows
            .push(contest.row(&format!("{workers} workers"), None));
    }
    // Where the function itself is what takes the time.
    let mut burning = work(plan);
    burning.clicks.events = plan.size(20_000, 10_000);
    burning.env = vec![(
        "BENCH_BURN",
        burn::rounds(Duration::from_micros(50)).to_string(),
    )];
    let mut contest = Contest::default();
    for (name, workers) in [("one", 1), ("two", 2), ("four", 4)] {
        contest = contest.with(
            name,
            Side::Oncue,
            Work {
                workers,
                ..burning.clone()
            },
        );
    }
    let contest = contest.hold(&mut arena, "burning 50 us", plan.rounds).await;
    let names = ["one", "two", "four"];
    let mut figures: Vec<Figure> = names.iter().map(|name| contest.rate(name)).collect();
    figures.extend([contest.ratio("two", "one"), contest.ratio("four", "one")]);
    let details = names
        .iter()
        .flat_map(|name| contest.details(name))
        .collect();
    case.rows.push(Row {
        name: "burning 50 us, by workers".into(),
        figures,
        details,
    });
    case
}

pub async fn hot(plan: Plan) -> Case {
    let (mut case, mut arena) = (Case::default(), Arena::open(Profile::Fast).await);
    let (cool, mut hot) = (work(plan), work(plan));
    hot.clicks.keys = 1;
    let contest = Contest::of(&hot)
        .with("100 keys", Side::Oncue, cool)
        .hold(&mut arena, "hot", plan.rounds)
        .await;
    let mut row = contest.row("one key", None);
    row.figures
        .push(contest.ratio("oncue", "100 keys").goal(Goal::AtLeast(0.9)));
    case.rows.push(row);
    case
}

pub async fn keys(plan: Plan) -> Case {
    let (mut case, mut arena) = (Case::default(), Arena::open(Profile::Fast).await);
    let mut work = work(plan);
    work.clicks.events = plan.size(100_000, 20_000);
    work.clicks.keys = work.clicks.events;
    let contest = Contest::of(&work)
        .hold(&mut arena, "keys", plan.rounds)
        .await;
    case.rows
        .push(contest.row(&format!("{} keys", work.clicks.keys), None));
    case
}

pub async fn tenth(plan: Plan) -> Case {
    let (mut case, mut arena) = (Case::default(), Arena::open(Profile::Fast).await);
    let work = Work {
        every: 10,
        ..work(plan)
    };
    let contest = Contest::of(&work)
        .hold(&mut arena, "tenth", plan.rounds)
        .await;
    case.rows
        .push(contest.row("an output at every tenth", None));
    case
}

pub async fn payload(plan: Plan) -> Case {
    let (mut case, mut arena) = (Case::default(), Arena::open(Profile::Fast).await);
    for (name, payload, events) in [
        ("200 B", 200, 20_000),
        ("4 KiB", 4 << 10, 10_000),
        ("64 KiB", 64 << 10, 2_000),
    ] {
        let mut work = work(plan);
        work.clicks.payload = payload;
        work.clicks.events = plan.size(events, events / 2);
        let contest = Contest::of(&work)
            .hold(&mut arena, &format!("payload of {name}"), plan.rounds)
            .await;
        case.rows.push(contest.row(name, None));
    }
    case
}

/// All sizes in each round, so that what an event costs is compared with the same minutes' smallest backlog.
pub async fn backlog(plan: Plan) -> Case {
    let (mut case, mut arena) = (Case::default(), Arena::open(Profile::Fast).await);
    let sizes = [("10 k", 10_000), ("100 k", 100_000), ("1 M", 1_000_000)];
    let sizes = &sizes[..plan.size(3, 2)];
    let mut contest = Contest::default();
    for (name, events) in sizes {
        let mut work = work(plan);
        work.clicks.events = *events;
        contest = contest.with(name, Side::Oncue, work.clone()).with(
            &format!("limit {name}"),
            Side::Limit,
            work,
        );
    }
    let contest = contest.hold(&mut arena, "backlog", plan.rounds).await;
    for (name, _) in sizes {
        let limit = format!("limit {name}");
        let goal = (*name == "1 M").then_some(Goal::AtMost(1.1));
        let growth = |of: &str, to: &str| {
            let runs = contest.runs(of).iter().zip(contest.runs(to));
            Figure::new(
                &format!("cost {of}/{to}"),
                "",
                runs.map(|(of, to)| of.cpu.total() / to.cpu.total()),
            )
        };
        // Called the same in every row.
        let plain = |figure: Figure| {
            let called = figure.name.replace(&limit, "limit").replace(name, "oncue");
            Figure {
                name: called,
                ..figure
            }
        };
        let figures = [
            contest.rate(name),
            contest.rate(&limit),
            contest.ratio(name, &limit),
        ]
        .map(plain);
        let mut row = Row {
            name: (*name).to_owned(),
            figures: figures.to_vec(),
            ..Row::default()
        };
        row.figures.extend([
            contest.by_cpu(name, &limit),
            Figure {
                goal,
                ..growth(name, "10 k")
            },
        ]);
        row.figures.push(growth(&limit, "limit 10 k"));
        let details = [contest.details(name), contest.details(&limit)].concat();
        row.details.extend(details.into_iter().map(plain));
        case.rows.push(row);
    }
    case
}

pub async fn durable(plan: Plan) -> Case {
    let (mut case, mut arena) = (Case::default(), Arena::open(Profile::Durable).await);
    let mut work = work(plan);
    work.clicks.events = plan.size(5_000, 2_000);
    let contest = Contest::of(&work)
        .hold(&mut arena, "durable", plan.rounds)
        .await;
    case.rows
        .push(contest.row("both servers on disk before they answer", None));
    case
}

pub async fn slow(plan: Plan) -> Case {
    let (mut case, mut arena) = (Case::default(), Arena::open(Profile::Fast).await);
    let alone = work(plan);
    let beside = Work {
        slow: true,
        ..alone.clone()
    };
    let contest =
        Contest::default()
            .with("alone", Side::Oncue, alone)
            .with("beside", Side::Oncue, beside);
    let contest = contest.hold(&mut arena, "slow", plan.rounds).await;
    let ratio = contest.ratio("beside", "alone").goal(Goal::AtLeast(0.9));
    let details = [contest.details("alone"), contest.details("beside")].concat();
    let figures = vec![contest.rate("alone"), contest.rate("beside"), ratio];
    case.rows.push(Row {
        name: "a function that sleeps 1 s on each of the same events".into(),
        figures,
        details,
    });
    case
}
