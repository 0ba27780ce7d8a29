//! A Redis that is emptied while a worker stands at any step of an event. What the worker was told before says nothing of
//! what is there now: it ends, `oncue recover redis` brings everything back, and each event counts once.

use std::collections::{BTreeMap, BTreeSet};

use oncue_core::bus::Bus;
use oncue_core::failpoint::POINTS;
use oncue_core::store::Store;
use oncue_proto::oncue::v1::DeadLetter;
use oncue_tests::cluster::{Cluster, Process, must_fail, until};
use oncue_tests::events::told;
use prost::Message as _;

/// Events of a cell, each of a key of its own.
const EVENTS: usize = 3;
/// The server of the letters forgets their ids at once, so that it does not hide what the worker writes twice.
const CONFIG: &str = "[streams.dlq]\nduplicate_window = \"100ms\"\n[functions.misbehave]\nack_wait = \"1s\"\n\
                      [functions.record]\nack_wait = \"1s\"\n";

/// A step at which Redis is emptied, and one before it at which an earlier process died.
struct Cell {
    died_at: Option<&'static str>,
    at: &'static str,
    story: &'static str,
}

impl Cell {
    /// The first event of a process comes to a step.
    fn first(at: &'static str) -> Self {
        let story = match at {
            "run.counted" | "retry.done" => "fail-until:2",
            "dead_letter.begin" | "dead_letter.published" | "dead_letter.recorded" => "reject",
            _ => "emit:1",
        };
        let died_at = (at == "duplicate.found").then_some("commit.done");
        Self { died_at, at, story }
    }

    /// A process that has committed nothing is given an event that was set aside and not acked.
    fn letter_written() -> Self {
        Self {
            died_at: Some("dead_letter.recorded"),
            at: "pulled",
            story: "reject",
        }
    }
}

/// Cells one after another on the same servers: each loss is also one of what was restored before.
struct Column {
    cluster: Cluster,
    bus: Bus,
    cells: Vec<(String, &'static str)>,
}

impl Column {
    async fn new() -> Self {
        let cluster = Cluster::new(CONFIG).await;
        // Both consumers are there before the first event.
        for mut worker in cluster.start_all(&["misbehave", "record"]).await {
            worker.stop().await;
        }
        let bus = cluster.bus().await;
        Self {
            cluster,
            bus,
            cells: Vec::new(),
        }
    }

    async fn play(&mut self, cell: Cell) {
        let name = format!("{}-{}", self.cells.len(), cell.at.replace('.', "-"));
        let events = (0..EVENTS).map(|n| told(&format!("/{name}-{n}"), cell.story));
        self.cluster.plain_publish(events);
        if let Some(point) = cell.died_at {
            self.until_it_stands(point, "abort", 'Z').await;
        }
        let mut worker = self.until_it_stands(cell.at, "freeze", 'T').await;
        self.cluster.redis_ok(&["FLUSHALL"]);
        self.cluster
            .plain_publish([told(&format!("/{name}-after"), "emit:1")]);
        worker.signal("CONT");
        let noticed = until("it ends, or has done it all", async || {
            if !worker.is_alive() {
                return Some(true);
            }
            let consumer = self.bus.consumer_info("web", "misbehave").await.ok()?;
            (consumer.num_pending == 0 && consumer.num_ack_pending == 0).then_some(false)
        })
        .await;
        worker.kill();
        let known = ["recover", "redis", "--yes"];
        let unknown = ["recover", "redis", "--yes", "--since", "1h"];
        let args: &[&str] = if noticed { &known } else { &unknown };
        let recovered = self.cluster.output("oncue", args);
        assert!(recovered.status.success(), "{name}: {recovered:?}");
        self.cells.push((name.clone(), cell.story));
        self.check().await;
        let log = worker.log();
        assert!(log.contains("Redis went back in time"), "{name}: {log}");
    }

    async fn until_it_stands(&self, point: &str, how: &str, state: char) -> Process {
        let failpoints = format!("{point}=1*return({how})");
        let worker = self.cluster.spawn_faulty("misbehave", &failpoints);
        until(&format!("it comes to {point}"), async || {
            (worker.state() == Some(state)).then_some(())
        })
        .await;
        worker
    }

    /// Every event of every cell so far has counted once, with one output or one letter.
    async fn check(&self) {
        let mut workers = self.cluster.start_all(&["misbehave", "record"]).await;
        self.cluster.drained(&self.bus, "web", "misbehave").await;
        self.cluster.drained(&self.bus, "web", "record").await;
        for worker in &mut workers {
            assert_eq!(worker.stop().await, Some(0), "{}", worker.log());
        }
        let store = self.cluster.store().await;
        let letters = self.letters().await;
        for (name, story) in &self.cells {
            let pages = (0..EVENTS).map(|n| (format!("/{name}-{n}"), *story));
            for (page, story) in pages.chain([(format!("/{name}-after"), "emit:1")]) {
                let wanted = match story {
                    "reject" => [0, 0, 1],
                    "emit:1" => [1, 1, 0],
                    _ => [1, 0, 0],
                };
                let found = [
                    self.applied(&store, "tallies", &page).await,
                    self.applied(&store, "records", &page).await,
                    letters.get(&page).copied().unwrap_or(0),
                ];
                assert_eq!(found, wanted, "{page}: applied, recorded, letters");
            }
        }
    }

    /// How often a page was counted, each time by another event.
    async fn applied(&self, store: &Store, table: &str, page: &str) -> usize {
        let ids = self.cluster.field(store, table, page, "ids").await;
        let ids: Vec<String> = serde_json::from_str(&ids).unwrap_or_default();
        let different: BTreeSet<&String> = ids.iter().collect();
        assert_eq!(different.len(), ids.len(), "{table} {page}: {ids:?}");
        ids.len()
    }

    /// Letters by key.
    async fn letters(&self) -> BTreeMap<String, usize> {
        let mut letters = BTreeMap::new();
        for message in self.cluster.messages(&self.bus, "dlq").await {
            let letter = DeadLetter::decode(&message.payload[..]).expect("a letter");
            *letters.entry(letter.key).or_default() += 1;
        }
        letters
    }
}

async fn column(cells: impl IntoIterator<Item = Cell>) -> usize {
    let mut column = Column::new().await;
    for cell in cells {
        column.play(cell).await;
    }
    column.cells.len()
}

#[tokio::test]
async fn whatever_step_a_worker_is_at_when_redis_is_emptied_nothing_is_lost_and_nothing_doubled() {
    let (first, second) = POINTS.split_at(POINTS.len() / 2);
    let second = second.iter().copied().map(Cell::first);
    let (first, second) = Box::pin(async {
        tokio::join!(
            column(first.iter().copied().map(Cell::first)),
            column(second.chain([Cell::letter_written()])),
        )
    })
    .await;
    assert_eq!(
        first + second,
        POINTS.len() + 1,
        "a matrix with holes proves nothing"
    );
}

/// Letters of two functions, one behind the other: after a recovery each function knows its own again.
#[tokio::test]
async fn letters_of_two_functions_are_not_written_again() {
    const PAIRS: usize = 20;
    let column = Column::new().await;
    let (cluster, bus) = (&column.cluster, &column.bus);
    let mut workers = cluster.start_all(&["misbehave", "record"]).await;
    for n in 0..PAIRS {
        // The second stage refuses what is on such a page.
        let refused = told(&format!("/refuse-{n}"), "emit:1");
        cluster.plain_publish([told(&format!("/rejected-{n}"), "reject"), refused]);
    }
    until("all letters are there", async || {
        (cluster.count(bus, "dlq").await == 2 * PAIRS as u64).then_some(())
    })
    .await;
    cluster.redis_ok(&["FLUSHALL"]);
    cluster.plain_publish([told("/after", "emit:1")]);
    until("a worker notices", async || {
        workers
            .iter_mut()
            .any(|worker| !worker.is_alive())
            .then_some(())
    })
    .await;
    workers.iter_mut().for_each(Process::kill);
    let recovered = cluster.output("oncue", &["recover", "redis", "--yes"]);
    assert!(recovered.status.success(), "{recovered:?}");
    column.check().await;
    assert_eq!(cluster.count(bus, "dlq").await, 2 * PAIRS as u64);
}

/// The broken twin: a worker that believes what a Redis says which has lost its record loses an output, and writes a second
/// letter.
#[tokio::test]
async fn a_worker_that_believes_an_emptied_redis_loses_an_output_and_writes_a_second_letter() {
    let cells = [
        (Cell::first("duplicate.found"), "[1, 0, 0]"),
        (Cell::letter_written(), "[0, 0, 2]"),
    ];
    for (cell, harm) in cells {
        let mut column = Column::new().await;
        column.cluster.set("ONCUE_SABOTAGE", "no-record");
        let why = must_fail("the harm was not seen", column.play(cell)).await;
        assert!(why.contains(harm), "{why}");
    }
}
