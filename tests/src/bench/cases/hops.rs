//! From the HTTP request to the last of three commits, at a rate that does not wait for anybody, beside the same three
//! hops written by hand.

use std::collections::HashMap;
use std::time::Instant;

use crate::bench::arena::{Arena, OUTPUT, Profile, Side};
use crate::bench::check;
use crate::bench::load::steady;
use crate::bench::paint::progress;
use crate::bench::plan::{Case, Figure, Goal, Plan, Row};
use crate::bench::stats::percentile;
use crate::cluster::{Process, free_port, until, wait_for_port};

const LAST: &str = "web.trends.published";

pub async fn hops(plan: Plan) -> Case {
    let (mut case, mut arena) = (Case::default(), Arena::open(Profile::Fast).await);
    for rate in [100, 1000] {
        let events = rate * plan.size(if rate == 100 { 10 } else { 5 }, 3);
        let mut shares: HashMap<&str, [Vec<f64>; 3]> = HashMap::new();
        for round in 1..=plan.rounds {
            for side in [Side::Oncue, Side::Limit] {
                progress(&format!(
                    "hops at {rate}/s: round {round} of {}, {}",
                    plan.rounds,
                    side.name()
                ));
                let mut times = one(&mut arena, side, events, rate).await;
                let found = shares.entry(side.name()).or_default();
                for (values, of) in found.iter_mut().zip([0.5, 0.99, 0.999]) {
                    values.push(percentile(&mut times, of));
                }
            }
        }
        let (ours, theirs) = (&shares["oncue"], &shares["limit"]);
        for (at, (name, most)) in [("p50", Some(1.3)), ("p99", Some(1.5)), ("p99.9", None)]
            .into_iter()
            .enumerate()
        {
            let ratios = ours[at]
                .iter()
                .zip(&theirs[at])
                .map(|(ours, theirs)| ours / theirs);
            let ratio = Figure::new("oncue/limit", "", ratios);
            let goal = most.filter(|_| rate == 100).map(Goal::AtMost);
            let figures = vec![
                Figure::new("oncue", "ms", ours[at].iter().copied()),
                Figure::new("limit", "ms", theirs[at].iter().copied()),
                Figure { goal, ..ratio },
            ];
            case.rows.push(Row {
                name: format!("{rate}/s {name}"),
                figures,
                details: Vec::new(),
            });
        }
    }
    case
}

/// Milliseconds from when each event was due to the ack that follows its last commit.
async fn one(arena: &mut Arena, side: Side, events: u64, rate: u64) -> Vec<f64> {
    arena.clean().await;
    let port = free_port();
    let (_running, last) = start(arena, side, port).await;
    // Acks are plain messages: who listens learns of each, and nobody does more than without.
    let mut acks = arena
        .bus
        .subscribe(&format!("$JS.ACK.web.{last}.>"))
        .await
        .expect("a subscription");
    let load = tokio::task::spawn_blocking(move || steady(port, "hop", events, rate));
    let mut acked: HashMap<u64, Instant> = HashMap::new();
    while (acked.len() as u64) < events {
        let next = tokio::time::timeout(std::time::Duration::from_mins(1), acks.next()).await;
        let note = next
            .unwrap_or_else(|_| panic!("{} of {events} came through", acked.len()))
            .expect("NATS");
        if note.payload.starts_with(b"+ACK") {
            let sequence = note
                .subject
                .split('.')
                .nth(5)
                .and_then(|s| s.parse().ok())
                .expect("a sequence");
            acked.entry(sequence).or_insert_with(Instant::now);
        }
    }
    let due = load.await.expect("the load");
    let roots = check::headers(
        arena,
        &[LAST, &format!("{LAST}.>")],
        &["ce-flowid", "Nats-Msg-Id"],
    )
    .await;
    assert_eq!(roots.len() as u64, events, "events of the last hop");
    let time = |(sequence, root): (u64, String)| {
        let number = root
            .split(['-', '.'])
            .nth(1)
            .and_then(|n| n.parse::<usize>().ok())
            .expect("a number");
        acked[&sequence].duration_since(due[number]).as_secs_f64() * 1000.0
    };
    roots.into_iter().map(time).collect()
}

/// A gateway on `port` and three hops, ready; and the name of the last consumer.
async fn start(arena: &mut Arena, side: Side, port: u16) -> (Vec<Process>, &'static str) {
    let cluster = &mut arena.cluster;
    cluster.set("OTEL_SDK_DISABLED", "true");
    let mut running = Vec::new();
    if side == Side::Oncue {
        cluster.set("ONCUE_GATEWAY_LISTEN", &format!("127.0.0.1:{port}"));
        running.push(cluster.spawn("oncue-gateway", &[]));
        for hop in ["1", "2", "3"] {
            cluster.set("BENCH_HOP", hop);
            running.push(cluster.start("bench-hop").await);
        }
        wait_for_port(port).await;
        return (running, "bench-hop-3");
    }
    arena.make_streams().await;
    let hops = [
        ("hop1", "web.page.viewed", OUTPUT),
        ("hop2", OUTPUT, LAST),
        ("hop3", LAST, ""),
    ];
    for (name, input, output) in hops {
        arena.make_consumer(name, &[input]).await;
        let env = [
            ("LIMIT_STREAM", "web"),
            ("LIMIT_CONSUMER", name),
            ("LIMIT_OUTPUT", output),
            ("LIMIT_EVERY", "1"),
        ];
        for (name, value) in env {
            arena.cluster.set(name, value);
        }
        let process = arena.cluster.spawn("bench-limit", &["batched"]);
        process.wait_for_line("ready").await;
        running.push(process);
    }
    arena
        .cluster
        .set("LIMIT_LISTEN", &format!("127.0.0.1:{port}"));
    running.push(arena.cluster.spawn("bench-limit", &["gateway"]));
    until("the hand-written gateway", async || {
        std::net::TcpStream::connect(("127.0.0.1", port)).ok()
    })
    .await;
    (running, "hop3")
}
