//! The table of faults. A row is one function from a plan to a report.

mod changes;
mod clients;
mod events;
pub(super) mod ha;
mod hosts;
mod kill;
mod life;
mod losses;
mod network;
pub(super) mod stores;

use std::pin::Pin;

use super::arena::{Arena, Setup};
use super::faults::{Act, play, schedule};
use super::load::{Shape, USUAL};
use super::power;
use super::report::{Plan, Report};

pub struct Row {
    pub id: &'static str,
    pub what: &'static str,
    /// Seconds of load in the short form.
    pub short: u64,
    /// Whether more time means more events and more faults, so that it takes part again as long as there is time.
    pub endless: bool,
    pub run: fn(Plan) -> Running,
}

pub type Running = Pin<Box<dyn Future<Output = Report>>>;

const fn row(id: &'static str, what: &'static str, short: u64, run: fn(Plan) -> Running) -> Row {
    Row {
        id,
        what,
        short,
        endless: false,
        run,
    }
}

const fn endless(
    id: &'static str,
    what: &'static str,
    short: u64,
    run: fn(Plan) -> Running,
) -> Row {
    Row {
        endless: true,
        ..row(id, what, short, run)
    }
}

pub const ROWS: &[Row] = &[
    endless("K-2", "kill -9 of any worker, again and again", 3, |plan| {
        Box::pin(kill::workers(plan))
    }),
    endless("K-3", "kill -9 of nats-server under load", 2, |plan| {
        Box::pin(kill::nats(plan))
    }),
    endless("K-4", "kill -9 of redis-server under load", 4, |plan| {
        Box::pin(kill::redis(plan))
    }),
    endless(
        "K-5",
        "kill -9 of both servers and all workers",
        2,
        |plan| Box::pin(kill::all(plan)),
    ),
    endless(
        "Z-1",
        "SIGSTOP for three ack waits, then SIGCONT",
        4,
        |plan| Box::pin(kill::zombies(plan)),
    ),
    endless(
        "H-1",
        "kill -9 of a child in Python, and of its host",
        2,
        |plan| Box::pin(hosts::killed(plan)),
    ),
    endless(
        "H-2",
        "SIGSTOP of a child in Python, until its deadline",
        2,
        |plan| Box::pin(hosts::frozen(plan)),
    ),
    endless(
        "H-3",
        "answers of a child torn in mid-frame, and children that leak",
        2,
        |plan| Box::pin(hosts::torn(plan)),
    ),
    row(
        "Z-3",
        "eight workers are given the same events",
        1,
        |plan| Box::pin(events::same_event(plan)),
    ),
    row(
        "Z-4",
        "no TERM and no late NAK by a resumed worker",
        4,
        |plan| Box::pin(events::late_words(plan)),
    ),
    row("D-3", "the whole stream replayed twice", 2, |plan| {
        Box::pin(events::replays(plan))
    }),
    row(
        "D-1",
        "delivered again beyond the horizon, marks expired",
        1,
        |plan| Box::pin(events::beyond_the_horizon(plan)),
    ),
    row(
        "O-2",
        "order across workers breaks, as is said",
        1,
        |plan| Box::pin(events::order(plan)),
    ),
    endless(
        "N-1",
        "workers cut off from Redis, NATS, both, one way",
        4,
        |plan| Box::pin(network::partitions(plan)),
    ),
    endless("N-2", "latency, 10 KB/s, resets, slices", 4, |plan| {
        Box::pin(network::bad_lines(plan))
    }),
    endless(
        "N-3",
        "the reply of a commit is lost after its execution",
        3,
        |plan| Box::pin(network::lost_replies(plan)),
    ),
    endless(
        "N-4",
        "a publish ack is lost, the connection stays",
        6,
        |plan| Box::pin(network::lost_acks(plan)),
    ),
    row(
        "N-4b",
        "an atomic batch loses its ack, a message, its leave",
        6,
        |plan| Box::pin(network::torn_batches(plan)),
    ),
    row("N-5", "all workers reconnect at once", 2, |plan| {
        Box::pin(network::storm(plan))
    }),
    row("N-6", "dead lines to NATS that nobody heals", 1, |plan| {
        Box::pin(network::dead_lines_to_nats(plan))
    }),
    row("N-7", "dead lines to Redis that nobody heals", 1, |plan| {
        Box::pin(network::dead_lines_to_redis(plan))
    }),
    row(
        "S-1",
        "disk full, then space again: NATS and Redis",
        3,
        |plan| Box::pin(stores::disk_full(plan)),
    ),
    row("S-2", "Redis at maxmemory, then raised", 3, |plan| {
        Box::pin(stores::out_of_memory(plan))
    }),
    row(
        "S-3",
        "Redis BUSY, LOADING, READONLY, MISCONF, functions gone",
        4,
        |plan| Box::pin(stores::unwilling(plan)),
    ),
    row("S-4", "fsync of Redis fails with EIO", 3, |plan| {
        Box::pin(stores::fsync_fails(plan))
    }),
    row("W-1", "power cut of Redis, appendfsync always", 2, |plan| {
        Box::pin(power::redis_always(plan))
    }),
    row(
        "W-2",
        "power cut of Redis, everysec: loss, then recover",
        2,
        |plan| Box::pin(power::redis_everysec(plan)),
    ),
    row(
        "W-3",
        "power cut of NATS, sync_interval always",
        2,
        |plan| Box::pin(power::nats_always(plan)),
    ),
    row(
        "W-4",
        "power cut of NATS, default: loss and nothing doubled",
        2,
        |plan| Box::pin(power::nats_default(plan)),
    ),
    row("W-5", "the log of Redis torn inside a commit", 2, |plan| {
        Box::pin(power::torn_log(plan))
    }),
    row(
        "F-1",
        "a replica of Redis takes over, behind: loss, then recover",
        2,
        |plan| Box::pin(ha::failover(plan)),
    ),
    row(
        "F-2",
        "three NATS servers: leader killed, two paused, one cut off",
        2,
        |plan| Box::pin(ha::cluster(plan)),
    ),
    row(
        "Q-2",
        "stream of dead letters full, then raised",
        2,
        |plan| Box::pin(events::dlq_full(plan)),
    ),
    row("Q-4", "one event in ten is poison", 1, |plan| {
        Box::pin(events::poison(plan))
    }),
    row(
        "I-1",
        "one id again and again, stamped anew each time",
        2,
        |plan| Box::pin(clients::stamped_anew(plan)),
    ),
    row(
        "I-2",
        "ids of outputs forged before their cause",
        2,
        |plan| Box::pin(clients::forged(plan)),
    ),
    row(
        "I-3",
        "outputs that no stream takes, then redriven",
        2,
        |plan| Box::pin(clients::unpublishable(plan)),
    ),
    row("I-4", "consumers paused under load", 1, |plan| {
        Box::pin(clients::paused(plan))
    }),
    row(
        "R-1",
        "FLUSHALL under four workers, with letters, then recover",
        2,
        |plan| Box::pin(losses::flushed(plan)),
    ),
    row(
        "R-2",
        "Redis put back while all are stopped, then recover",
        2,
        |plan| Box::pin(losses::put_back(plan)),
    ),
    row("R-3", "NATS comes back empty, then recover", 1, |plan| {
        Box::pin(losses::emptied_nats(plan))
    }),
    row(
        "R-4",
        "a backup under load, all lost, then restore",
        1,
        |plan| Box::pin(losses::backup(plan)),
    ),
    row(
        "A-1",
        "two apps with equal names of functions and tables",
        2,
        |plan| Box::pin(changes::two_apps(plan)),
    ),
    row(
        "U-1",
        "an old and a new version at work at once",
        2,
        |plan| Box::pin(changes::two_versions(plan)),
    ),
    row("U-2", "SIGTERM of every worker under load", 3, |plan| {
        Box::pin(life::terminations(plan))
    }),
    row("U-3", "consumer and stream edited by hand", 1, |plan| {
        Box::pin(life::drift(plan))
    }),
    row(
        "U-4",
        "trigger and key changed while events wait",
        1,
        |plan| Box::pin(changes::refused_changes(plan)),
    ),
    row("C-1", "the clock of Redis jumps an hour", 3, |plan| {
        Box::pin(life::clock_jumps(plan))
    }),
];

/// Rows of the fault table that are not played here, and where they are.
pub const ABSENT: &[(&str, &str)] = &[
    (
        "K-1",
        "abort and freeze at each crash point: `system crash`, in `make test`",
    ),
    (
        "K-6",
        "everysec with a slow fsync: only measures a loss that W-2 measures as well",
    ),
    (
        "Z-2",
        "frozen beyond the horizon: the fence in D-1, the freeze in `system crash`, both in `model`",
    ),
    ("D-2", "an id with another payload: `system delivery`"),
    (
        "D-4",
        "NATS with an empty store: R-3, `system upkeep`, and W-4 for what a power cut takes",
    ),
    (
        "Q-1",
        "handlers that exit, panic, loop, overflow, use up memory: `system poison`",
    ),
    (
        "Q-3",
        "dead letters redriven, twice and at once: `system dlq`",
    ),
    (
        "O-1",
        "order by key over many workers: not promised; O-2 shows that it breaks",
    ),
    ("L-1", "24 h soak: `chaos --minutes 1440` is that"),
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
        Self {
            name,
            setup,
            shape,
            pause_ms: 100..600,
            mortal: false,
            redelivers: true,
        }
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
        report.must(
            !self.redelivers || report.redeliveries > 0,
            "nothing was delivered again: the fault harmed nobody",
        );
        report
    }
}

/// Events in a second of a row in which they pile up while commands run: few where nobody has time for them.
pub(super) fn gentle(plan: &Plan) -> u64 {
    if plan.long { USUAL } else { 100 }
}

/// A run that did too little is a failed run.
pub(super) fn enough(report: &mut Report, least: u64) {
    let operations = report.operations;
    report.must(
        operations >= least,
        format!("only {operations} events, {least} are the least"),
    );
}
