//! The table of faults. A row is one function from a plan to a report.

mod kill;
mod network;

use std::pin::Pin;

use super::arena::{Arena, Setup};
use super::faults::{Act, play, schedule};
use super::load::Shape;
use super::report::{Plan, Report};

pub struct Row {
    pub id: &'static str,
    pub what: &'static str,
    /// Seconds of load in the short form.
    pub short: u64,
    pub run: fn(Plan) -> Running,
}

pub type Running = Pin<Box<dyn Future<Output = Report>>>;

const fn row(id: &'static str, what: &'static str, short: u64, run: fn(Plan) -> Running) -> Row {
    Row { id, what, short, run }
}

pub const ROWS: &[Row] = &[
    row("K-2", "kill -9 of any worker, again and again", 3, |plan| Box::pin(kill::workers(plan))),
    row("K-3", "kill -9 of nats-server under load", 4, |plan| Box::pin(kill::nats(plan))),
    row("K-4", "kill -9 of redis-server under load", 4, |plan| Box::pin(kill::redis(plan))),
    row("K-5", "kill -9 of both servers and all workers", 4, |plan| Box::pin(kill::all(plan))),
    row("Z-1", "SIGSTOP for three ack waits, then SIGCONT", 4, |plan| Box::pin(kill::zombies(plan))),
    row("N-1", "workers cut off from Redis, NATS, both, one way", 6, |plan| Box::pin(network::partitions(plan))),
    row("N-2", "latency, 10 KB/s, resets, slices", 6, |plan| Box::pin(network::bad_lines(plan))),
];

pub fn find(id: &str) -> Option<&'static Row> {
    ROWS.iter().find(|row| row.id.eq_ignore_ascii_case(id))
}

/// What a row asks for besides its acts.
#[derive(Debug, Clone)]
struct Storm {
    name: &'static str,
    setup: Setup,
    shape: Shape,
    pause_ms: std::ops::Range<u64>,
    mortal: bool,
    /// Whether the fault must have made the server deliver again.
    redelivers: bool,
}

impl Storm {
    fn new(name: &'static str) -> Self {
        let (setup, shape) = (Setup::default(), Shape::default());
        Self { name, setup, shape, pause_ms: 100..600, mortal: false, redelivers: true }
    }

    /// Load, and acts drawn from the seed until the time is over.
    async fn run(self, plan: Plan, acts: &[Act]) -> Report {
        let mut arena = Arena::open(self.name, &plan, self.setup).await;
        arena.mortal = self.mortal;
        arena.load(self.shape);
        arena.under_way(100).await;
        let steps = schedule(&mut arena.rng, acts, self.pause_ms, plan.seconds);
        play(&mut arena, &steps).await;
        let mut report = arena.close().await;
        for act in acts {
            report.must_have_fired(&[&act.name()]);
        }
        enough(&mut report, 100 * plan.seconds.min(10));
        report
            .must(!self.redelivers || report.redeliveries > 0, "nothing was delivered again: the fault harmed nobody");
        report
    }
}

/// A run that did too little is a failed run.
fn enough(report: &mut Report, least: u64) {
    let operations = report.operations;
    report.must(operations >= least, format!("only {operations} events, {least} are the least"));
}
