//! A process that ends, or freezes and wakes, at every single step of the protocol: for the first, a middle and the last
//! event of a batch, in the first and in the second stage of a flow. Whatever happens, each event counts once.

use std::collections::BTreeSet;
use std::os::unix::process::ExitStatusExt as _;
use std::process::Command;
use std::time::Duration;

use oncue_core::bus::Bus;
use oncue_core::failpoint::POINTS;
use oncue_core::store::Store;
use oncue_tests::cluster::{Cluster, Process, built, must_fail, until};

/// Events of one batch, each of a key of its own.
const EVENTS: usize = 5;
/// Milestones each of them causes.
const OUTPUTS: usize = 2;

#[derive(Clone, Copy, PartialEq)]
enum End {
    Abort,
    Freeze,
}

/// What a step does, so that there is something to crash at.
fn story(point: &str) -> &'static str {
    match point {
        "run.counted" | "retry.done" => "fail-until:2",
        "dead_letter.begin" | "dead_letter.published" | "dead_letter.recorded" => "reject",
        _ => "emit:2",
    }
}

/// The same for the second stage, which is told by the name of the page.
fn page(point: &str, cell: &str, n: usize) -> String {
    let told = match story(point) {
        "reject" => "refuse",
        "fail-until:2" => "falter",
        _ => "plain",
    };
    format!("/{told}-{cell}-{n}")
}

/// The first, a middle and the last of the times a process comes to the point.
fn positions(point: &str, stage: usize) -> [usize; 3] {
    let hits = match (stage, point) {
        (2, "read.done" | "handler.done") => EVENTS, // those of one key are read together
        (2, _) | (1, "publish.one") => EVENTS * OUTPUTS,
        _ => EVENTS,
    };
    [0, hits / 2, hits - 1]
}

struct Matrix {
    cluster: Cluster,
    bus: Bus,
    store: Store,
    cells: usize,
}

impl Matrix {
    async fn new() -> Self {
        let quick = "ack_wait = \"1s\"";
        let cluster = Cluster::new(&format!(
            "[functions.misbehave]\n{quick}\n[functions.record]\n{quick}\n"
        ))
        .await;
        // Both consumers are there before the first event.
        for mut worker in cluster.start_all(&["misbehave", "record"]).await {
            worker.stop().await;
        }
        let (bus, store) = (cluster.bus().await, cluster.store().await);
        Self {
            cluster,
            bus,
            store,
            cells: 0,
        }
    }

    async fn cell(&mut self, stage: usize, point: &str, position: usize, end: End) {
        self.cells += 1;
        let cell = format!("{}-{position}", point.replace('.', "-"));
        let letters = self.cluster.count(&self.bus, "dlq").await;
        let what = if stage == 1 { story(point) } else { "emit:2" };
        let body = |n| {
            format!(
                r#"{{"page":"{}","referrer":"{what}"}}"#,
                page(point, &cell, n)
            )
        };
        self.cluster
            .plain_publish((0..EVENTS).map(|n| ("web.page.viewed", body(n))));
        if stage == 2 {
            let mut first = self.cluster.start("misbehave").await;
            self.cluster.drained(&self.bus, "web", "misbehave").await;
            first.stop().await;
        }
        let function = ["misbehave", "record"][stage - 1];
        let action = if end == End::Abort { "abort" } else { "freeze" };
        let mut faulty = self.cluster.spawn_faulty(
            function,
            &format!("{point}={position}*off->1*return({action})"),
        );
        let wanted = if end == End::Abort { 'Z' } else { 'T' };
        until(
            &format!(
                "{function} comes to {point} for the {position}th time: {}",
                faulty.log()
            ),
            async || (faulty.state() == Some(wanted)).then_some(()),
        )
        .await;
        if end == End::Abort {
            let status = faulty.end().await;
            assert_eq!(
                status.signal(),
                Some(libc::SIGABRT),
                "{point}: {status}, which is no crash: {}",
                faulty.log()
            );
        }
        let mut workers = self.cluster.start_all(&["misbehave", "record"]).await;
        self.settle().await;
        if end == End::Freeze {
            faulty.signal("CONT");
            tokio::time::sleep(Duration::from_millis(300)).await;
            assert_eq!(
                faulty.stop().await,
                Some(0),
                "{point}: a process that wakes up stops as asked: {}",
                faulty.log()
            );
            self.settle().await;
        }
        stop(&mut workers).await;
        self.check(stage, point, &cell, letters).await;
    }

    async fn settle(&self) {
        self.cluster.drained(&self.bus, "web", "misbehave").await;
        self.cluster.drained(&self.bus, "web", "record").await;
    }

    async fn check(&self, stage: usize, point: &str, cell: &str, letters: u64) {
        let told = story(point);
        for n in 0..EVENTS {
            let page = page(point, cell, n);
            let count = async |table, field: &'static str| {
                self.cluster.field(&self.store, table, &page, field).await
            };
            let (applied, recorded) = match (stage, told) {
                (1, "reject") => ("", ""),
                (1, "fail-until:2") | (2, "reject") => ("1", ""),
                _ => ("1", "2"),
            };
            assert_eq!(
                count("tallies", "count").await,
                applied,
                "{point} {page}: tallies"
            );
            assert_eq!(
                count("hits", "total").await,
                applied,
                "{point} {page}: hits"
            );
            assert_eq!(
                count("records", "count").await,
                recorded,
                "{point} {page}: records"
            );
            let ids: Vec<String> =
                serde_json::from_str(&count("records", "ids").await).unwrap_or_default();
            assert!(ids.len() < 2 || ids[0] != ids[1], "{point} {page}: {ids:?}");
        }
        let dead = if told == "reject" {
            EVENTS * if stage == 1 { 1 } else { OUTPUTS }
        } else {
            0
        };
        let found = self.cluster.count(&self.bus, "dlq").await - letters;
        assert_eq!(found, dead as u64, "{point}: dead letters, each once");
    }
}

/// All points at one position, in a cluster of its own.
async fn column(stage: usize, which: usize, end: End) {
    let mut matrix = Matrix::new().await;
    // The second stage has no outputs to publish.
    let absent = |point: &str| {
        // Of an event that comes again: `system emptied` brings one there.
        point == "duplicate.found"
            || stage == 2 && (point.starts_with("publish") || point == "mark.done")
    };
    for point in POINTS.iter().filter(|point| !absent(point)) {
        matrix
            .cell(stage, point, positions(point, stage)[which], end)
            .await;
    }
    let all = if stage == 1 { 14 } else { 10 };
    assert_eq!(matrix.cells, all, "a matrix with holes proves nothing");
}

async fn stop(workers: &mut [Process]) {
    for worker in workers {
        assert_eq!(worker.stop().await, Some(0), "{}", worker.log());
    }
}

macro_rules! matrix {
    ($($stage:literal $end:ident: $first:ident $middle:ident $last:ident)*) => {
        $(matrix!(@ $stage $end $first 0);
        matrix!(@ $stage $end $middle 1);
        matrix!(@ $stage $end $last 2);)*
    };
    (@ $stage:literal $end:ident $name:ident $which:literal) => {
        #[tokio::test]
        async fn $name() {
            Box::pin(column($stage, $which, End::$end)).await;
        }
    };
}

// A process that dies, or freezes and wakes, loses and doubles nothing.
matrix! {
    1 Abort: dies_with_the_first_event dies_with_a_middle_event dies_with_the_last_event
    2 Abort: dies_with_the_first_of_the_second_stage dies_with_a_middle_one_of_the_second_stage dies_with_the_last_of_the_second_stage
    1 Freeze: freezes_with_the_first_event freezes_with_a_middle_event freezes_with_the_last_event
    2 Freeze: freezes_with_the_first_of_the_second_stage freezes_with_a_middle_one_of_the_second_stage freezes_with_the_last_of_the_second_stage
}

/// The broken twin: a worker that acks before it commits loses what it dies with, in either stage, and its cell says so.
#[tokio::test]
async fn a_process_that_acks_before_the_commit_fails_its_cell() {
    for (stage, table) in [(1, "tallies"), (2, "records")] {
        let mut matrix = Matrix::new().await;
        matrix.cluster.set("ONCUE_SABOTAGE", "ack-first");
        let why = must_fail(
            "the loss was not seen",
            matrix.cell(stage, "handler.done", 0, End::Abort),
        )
        .await;
        // By its effect, or already by the worker that finds the mark of an acked event missing.
        let found = why.contains(&format!(": {table}")) || why.contains("oncue recover redis");
        assert!(found, "stage {stage}: {why}");
    }
}

/// What users run has no crash points: their names are in the binary built for tests and in no other.
#[test]
fn crash_points_are_in_no_binary_but_those_for_tests() {
    let names = [
        "dead_letter.recorded",
        "ONCUE_SABOTAGE",
        "built with failpoints",
    ];
    let all: BTreeSet<String> = names.map(str::to_owned).into();
    assert_eq!(
        found(&names, "failpoints/misbehave"),
        all,
        "they are looked for in the wrong way"
    );
    for binary in ["misbehave", "count-views", "make-thumbnails"] {
        assert_eq!(found(&names, binary), BTreeSet::new(), "{binary}");
    }
}

/// Which of these words a binary has in it.
fn found(words: &[&str], binary: &str) -> BTreeSet<String> {
    let mut grep = Command::new("grep");
    grep.arg("-aoF");
    for word in words {
        grep.args(["-e", word]);
    }
    let output = grep.arg(built(binary)).output().expect("grep runs");
    // 1 says that there is none of them, anything above that it could not look.
    assert!(matches!(output.status.code(), Some(0 | 1)), "{output:?}");
    let found = String::from_utf8_lossy(&output.stdout);
    found.lines().map(str::to_owned).collect()
}
