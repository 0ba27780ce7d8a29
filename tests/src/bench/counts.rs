//! What one event costs the worker in instructions and allocations, counted by valgrind. A worker handles a backlog and
//! another one twice as long; the difference is what the events cost, without start and end.
//!
//! Counts differ by how events fall into batches, a little; times would differ by half. So these can be a gate.

use std::process::Command;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::arena::{Arena, Profile, Side, Work, consumer};
use super::fill::fill;
use super::paint::progress;
use crate::cluster::until;

const EVENTS: u64 = 2000;
/// What may be more than what is on record, in parts of it.
const MARGIN: f64 = 0.05;
/// What a batch allocates is shared by its events, and batches differ from run to run.
const ALLOCATION_MARGIN: f64 = 0.5;

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Counts {
    pub instructions: f64,
    pub allocations: f64,
    /// Bytes allocated, those given back as well.
    pub bytes: f64,
}

/// Why there is nothing to count here.
pub fn missing() -> Option<String> {
    let found = Command::new("valgrind")
        .arg("--version")
        .output()
        .is_ok_and(|output| output.status.success());
    (!found).then(|| "valgrind is not installed (apt-get install valgrind)".to_owned())
}

impl Counts {
    pub async fn measure() -> Self {
        let mut arena = Arena::open(Profile::Fast).await;
        let (once, twice) = (
            instructions(&mut arena, EVENTS).await,
            instructions(&mut arena, 2 * EVENTS).await,
        );
        let (few, many) = (
            allocations(&mut arena, EVENTS).await,
            allocations(&mut arena, 2 * EVENTS).await,
        );
        let each = |more: f64, less: f64| (more - less) / EVENTS as f64;
        Self {
            instructions: each(twice, once),
            allocations: each(many.1, few.1),
            bytes: each(many.0, few.0),
        }
    }

    #[must_use]
    pub fn least(self, other: &Self) -> Self {
        Self {
            instructions: self.instructions.min(other.instructions),
            allocations: self.allocations.min(other.allocations),
            bytes: self.bytes.min(other.bytes),
        }
    }

    /// What has become more than the margin allows, a line each.
    pub fn above(&self, recorded: &Self) -> Vec<String> {
        let pairs = [
            (
                "instructions",
                self.instructions,
                recorded.instructions,
                MARGIN,
            ),
            (
                "allocations",
                self.allocations,
                recorded.allocations,
                ALLOCATION_MARGIN,
            ),
            (
                "bytes allocated",
                self.bytes,
                recorded.bytes,
                ALLOCATION_MARGIN,
            ),
        ];
        let more = pairs
            .into_iter()
            .filter(|(_, now, then, margin)| *now > then * (1.0 + margin));
        more.map(|(what, now, then, _)| {
            format!("{what} of an event: {now:.0}, on record are {then:.0}")
        })
        .collect()
    }
}

async fn instructions(arena: &mut Arena, events: u64) -> f64 {
    let out = arena.cluster.dir.join("callgrind.out");
    let log = under(
        arena,
        events,
        "callgrind",
        &format!("--callgrind-out-file={}", out.display()),
    )
    .await;
    number(&log, "Collected :")[0]
}

/// Bytes and blocks.
async fn allocations(arena: &mut Arena, events: u64) -> (f64, f64) {
    let out = arena.cluster.dir.join("dhat.out");
    let log = under(
        arena,
        events,
        "dhat",
        &format!("--dhat-out-file={}", out.display()),
    )
    .await;
    let total = number(&log, "Total:");
    (total[0], total[1])
}

/// The numbers on the line that holds `label`.
fn number(log: &str, label: &str) -> Vec<f64> {
    let line = log
        .lines()
        .find_map(|line| line.split_once(label))
        .unwrap_or_else(|| panic!("no {label:?} in {log}"));
    let words = line.1.split_whitespace().map(|word| word.replace(',', ""));
    words.filter_map(|word| word.parse().ok()).collect()
}

/// One worker under one tool, on a backlog that is there before it starts; what the tool says at the end.
async fn under(arena: &mut Arena, events: u64, tool: &str, out: &str) -> String {
    progress(&format!("counts: {events} events under {tool}"));
    arena.clean().await;
    // As if outputs had been published again after this start of NATS already: a worker does that once, when its first look
    // comes, which under valgrind may be in the middle of the backlog.
    let server = arena.bus.server_id();
    let lease = format!("app:lease:restored:{server}");
    arena.cluster.redis_cli(&["SET", &lease, "1", "EX", "3600"]);
    let mut work = Work::default();
    work.clicks.events = events;
    // Makes the streams and the consumer.
    for mut worker in arena.start(Side::Oncue, &work).await {
        worker.stop().await;
    }
    let (port, clicks) = (arena.cluster.nats_port, work.clicks);
    tokio::task::spawn_blocking(move || fill(port, clicks))
        .await
        .expect("the backlog");
    let wrapper = ["valgrind", &format!("--tool={tool}"), out];
    let mut worker = arena.cluster.spawn_under(&wrapper, "bench-clicks");
    until("the worker takes the first event", async || {
        let info = arena
            .bus
            .api(
                &format!("CONSUMER.INFO.{}", consumer(Side::Oncue)),
                &serde_json::Value::Null,
            )
            .await;
        info.ok()
            .filter(|info| info["delivered"]["consumer_seq"].as_u64() > Some(0))
            .map(drop)
    })
    .await;
    arena
        .drained(consumer(Side::Oncue), std::slice::from_mut(&mut worker))
        .await;
    // What rides in the next write to Redis, rides now.
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(worker.stop().await, Some(0), "{}", worker.log());
    worker.log()
}
