//! Events that harm whoever handles them, each in its own way: each costs its function the attempts it is allowed and not
//! more, its neighbours in the batch are applied, and it ends as a dead letter.

use oncue_core::bus::Bus;
use oncue_tests::cluster::{Cluster, Process, must_fail, until};
use oncue_tests::events::{letters, told};

/// As many as the function's limit of attempts.
const ATTEMPTS: u32 = 3;
const NEIGHBOURS: usize = 20;

/// Starts the worker again each time it dies, as whoever runs it would, until the dead letter is there. Returns how
/// often it died.
async fn keep_running(cluster: &Cluster, bus: &Bus, start: impl Fn(&Cluster) -> Process) -> u32 {
    let (mut worker, mut deaths) = (start(cluster), 0);
    loop {
        let dead = until("the worker dies or the event is set aside", async || {
            let gone = matches!(worker.state(), None | Some('Z'));
            (gone || cluster.count(bus, "dlq").await > 0).then_some(gone)
        })
        .await;
        if !dead {
            cluster.drained(bus, "web", "misbehave").await;
            return deaths;
        }
        deaths += 1;
        assert!(
            deaths <= ATTEMPTS,
            "died more often than the event may be tried: {}",
            worker.log()
        );
        worker = start(cluster);
    }
}

async fn poison(what: &str, deadly: bool, start: impl Fn(&Cluster) -> Process) {
    poison_in(
        &Cluster::new("[functions.misbehave]\nack_wait = \"1s\"\n").await,
        what,
        deadly,
        start,
    )
    .await;
}

async fn poison_in(
    cluster: &Cluster,
    what: &str,
    deadly: bool,
    start: impl Fn(&Cluster) -> Process,
) {
    cluster.start("misbehave").await.stop().await;
    let (bus, store) = (cluster.bus().await, cluster.store().await);
    let middle = NEIGHBOURS / 2;
    cluster.plain_publish(
        (0..=NEIGHBOURS).map(|n| told(&format!("/k{n}"), if n == middle { what } else { "" })),
    );
    let deaths = keep_running(cluster, &bus, start).await;
    assert_eq!(deaths, if deadly { ATTEMPTS } else { 0 }, "{what}");
    let letters = letters(cluster, &bus).await;
    assert_eq!(
        (
            letters.len(),
            letters[0].reason.as_str(),
            letters[0].key.as_str()
        ),
        (1, "attempts", "/k10"),
        "{what}"
    );
    for n in (0..=NEIGHBOURS).filter(|n| *n != middle) {
        assert_eq!(
            cluster
                .field(&store, "tallies", &format!("/k{n}"), "count")
                .await,
            "1",
            "{what}: /k{n}"
        );
    }
    assert_eq!(
        cluster
            .field(&store, "tallies", &format!("/k{middle}"), "count")
            .await,
        "",
        "{what}: no effect"
    );
}

fn plain(cluster: &Cluster) -> Process {
    cluster.spawn("misbehave", &[])
}

#[tokio::test]
async fn an_error_costs_its_attempts() {
    Box::pin(poison("fail", false, plain)).await;
}

#[tokio::test]
async fn a_panic_costs_its_attempts() {
    Box::pin(poison("panic", false, plain)).await;
}

#[tokio::test]
async fn an_exit_costs_as_many_processes_as_attempts() {
    Box::pin(poison("exit", true, plain)).await;
}

#[tokio::test]
async fn an_abort_costs_as_many_processes_as_attempts() {
    Box::pin(poison("abort", true, plain)).await;
}

#[tokio::test]
async fn a_segmentation_fault_costs_as_many_processes_as_attempts() {
    Box::pin(poison("segv", true, plain)).await;
}

#[tokio::test]
async fn a_stack_overflow_costs_as_many_processes_as_attempts() {
    Box::pin(poison("overflow", true, plain)).await;
}

/// The broken twin: where no limit holds, poison kills one process after the other, and is caught.
#[tokio::test]
async fn poison_without_a_limit_is_caught() {
    let cluster = Cluster::new("[functions.misbehave]\nack_wait = \"1s\"\nattempts = 1000\n").await;
    let why = must_fail(
        "nobody counted the deaths",
        Box::pin(poison_in(&cluster, "exit", true, plain)),
    )
    .await;
    assert!(
        why.contains("died more often than the event may be tried"),
        "{why}"
    );
}

/// The thread never comes back, so no timeout of the runtime could end it.
#[tokio::test]
async fn an_endless_loop_costs_as_many_processes_as_attempts() {
    Box::pin(poison("loop", true, plain)).await;
}

/// 1 GiB of address space: far above what a worker needs, and soon used up.
#[tokio::test]
async fn running_out_of_memory_costs_as_many_processes_as_attempts() {
    Box::pin(poison("hog", true, |cluster| {
        cluster.spawn_limited("misbehave", 1 << 20)
    }))
    .await;
}

/// Where a handler failed is in its dead letter: what an operator needs to tell one fault from another.
#[tokio::test]
async fn a_dead_letter_says_where_in_the_source_it_failed() {
    let cluster = Cluster::new("[functions.misbehave]\nack_wait = \"1s\"\n").await;
    let _worker = cluster.start("misbehave").await;
    let bus = cluster.bus().await;
    cluster.plain_publish(["fail", "reject", "panic"].map(|what| told(&format!("/{what}"), what)));
    let letters = until("three dead letters", async || {
        Some(letters(&cluster, &bus).await).filter(|l| l.len() == 3)
    })
    .await;
    let source = include_str!("../../src/bin/misbehave.rs");
    for letter in letters {
        let (file, line) = letter.site.rsplit_once(':').expect("file:line");
        let line = source
            .lines()
            .nth(line.parse::<usize>().expect("a number") - 1)
            .expect("a line");
        assert!(
            file.ends_with("tests/src/bin/misbehave.rs"),
            "{}",
            letter.site
        );
        assert!(
            line.contains(&letter.key[1..]),
            "{} is {line:?}",
            letter.site
        );
        assert!(letter.accepted_at.is_some() && letter.at.is_some() && letter.time.is_some());
    }
}
