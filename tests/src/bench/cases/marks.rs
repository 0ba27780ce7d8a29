//! Memory that Redis keeps of each event: its seen-mark, for as long as the horizon lasts.

use crate::bench::arena::{Arena, Profile, Side, Work};
use crate::bench::plan::{Case, Figure, Goal, Plan, Row};

pub async fn marks(plan: Plan) -> Case {
    let mut case = Case::default();
    let mut arena = Arena::open(Profile::Fast).await;
    // Buckets are split as marks come, so the cost of one goes up and down a little with their number.
    for events in plan.size(&[10_000, 100_000, 300_000][..], &[10_000, 40_000][..]) {
        let mut work = Work::default();
        work.clicks.events = *events;
        work.every = 10;
        let mut marks = Vec::new();
        let mut all = Vec::new();
        for _ in 0..plan.size(2, 1) {
            arena.run(Side::Oncue, &work).await;
            let cluster = &arena.cluster;
            let usage = ["MEMORY", "USAGE", "app:d:bench-clicks", "SAMPLES", "0"];
            marks.push(bytes(&cluster.redis_cli(&usage)) / *events as f64);
            let info = cluster.redis_cli(&["INFO", "memory"]);
            let data = info
                .lines()
                .find_map(|line| line.strip_prefix("used_memory_dataset:"));
            all.push(bytes(data.unwrap_or_default()) / *events as f64);
        }
        let marks = Figure::new("a mark", "B", marks).goal(Goal::AtMost(30.0));
        case.rows.push(Row {
            name: format!("{events} events"),
            figures: vec![marks],
            details: vec![Figure::new("all of Redis", "B", all)],
        });
    }
    case
}

fn bytes(text: &str) -> f64 {
    let number = text.trim().trim_start_matches("(integer) ");
    number
        .parse()
        .unwrap_or_else(|_| panic!("{text:?} are no bytes"))
}
