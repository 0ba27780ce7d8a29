//! The gateway alone: small posts over connections that stay open, and one large upload.

use std::time::Duration;

use crate::bench::arena::{Arena, Profile};
use crate::bench::load::{flat_out, upload};
use crate::bench::paint::progress;
use crate::bench::plan::{Case, Figure, Goal, Plan, Row};
use crate::bench::stats::percentile;
use crate::bench::usage::{cpu, memory};
use crate::cluster::{Process, free_port, wait_for_port};

const CLIENTS: u64 = 32;

pub async fn gateway(plan: Plan) -> Case {
    let mut case = Case::default();
    let toml = "[streams.web]\nmax_bytes = \"4GiB\"\n[streams.objects]\nmax_bytes = \"3GiB\"\n";
    let mut arena = Arena::with(Profile::Fast, toml).await;
    case.rows.push(posts(&mut arena, plan).await);
    case.rows.push(uploads(&mut arena, plan).await);
    case
}

#[derive(Default)]
struct Posts {
    rates: Vec<f64>,
    p99: Vec<f64>,
    cpu: Vec<f64>,
}

/// Beside a gateway by hand that checks nothing and only publishes.
async fn posts(arena: &mut Arena, plan: Plan) -> Row {
    let (mut ours, mut theirs) = (Posts::default(), Posts::default());
    for round in 1..=plan.rounds {
        for (name, side) in [("oncue", &mut ours), ("limit", &mut theirs)] {
            progress(&format!(
                "gateway: round {round} of {}, {name}",
                plan.rounds
            ));
            arena.clean().await;
            let (process, port) = start(arena, name == "limit").await;
            let (before, time) = (cpu(process.pid()), Duration::from_secs(plan.size(3, 1)));
            let load =
                tokio::task::spawn_blocking(move || flat_out(port, "post", "", CLIENTS, time));
            let mut answers = load.await.expect("the load");
            let sent = answers.times.len();
            assert_eq!(
                arena.cluster.count(&arena.bus, "web").await,
                sent as u64,
                "events in the stream"
            );
            let events = sent as f64;
            side.rates.push(answers.rate);
            side.cpu.push((cpu(process.pid()) - before) / events);
            side.p99.push(percentile(&mut answers.times, 0.99));
        }
    }
    let ratios = ours
        .rates
        .iter()
        .zip(&theirs.rates)
        .map(|(ours, theirs)| ours / theirs);
    let ratio = Figure::new("oncue/limit", "", ratios);
    let figures = vec![
        Figure::new("oncue", "/s", ours.rates),
        Figure::new("limit", "/s", theirs.rates),
        ratio,
        Figure::new("oncue p99", "ms", ours.p99),
        Figure::new("limit p99", "ms", theirs.p99),
    ];
    let details = vec![
        Figure::new("oncue gateway", "us", ours.cpu),
        Figure::new("limit gateway", "us", theirs.cpu),
    ];
    Row {
        name: format!("small posts, {CLIENTS} clients"),
        figures,
        details,
    }
}

async fn start(arena: &mut Arena, by_hand: bool) -> (Process, u16) {
    let (port, cluster) = (free_port(), &mut arena.cluster);
    cluster.set("OTEL_SDK_DISABLED", "true");
    cluster.set("ONCUE_GATEWAY_LISTEN", &format!("127.0.0.1:{port}"));
    cluster.set("LIMIT_LISTEN", &format!("127.0.0.1:{port}"));
    if by_hand {
        arena.make_streams().await;
    }
    let process = if by_hand {
        arena.cluster.spawn("bench-limit", &["gateway"])
    } else {
        arena.cluster.spawn("oncue-gateway", &[])
    };
    wait_for_port(port).await;
    (process, port)
}

async fn uploads(arena: &mut Arena, plan: Plan) -> Row {
    let size: u64 = plan.size(1 << 30, 1 << 28);
    let mut block = vec![0; 1 << 20];
    fastrand::Rng::with_seed(1).fill(&mut block);
    let (mut speeds, mut peaks) = (Vec::new(), Vec::new());
    for round in 1..=plan.size(2, 1) {
        progress(&format!("gateway: upload {round}"));
        arena.clean().await;
        let gone = arena
            .bus
            .api("STREAM.DELETE.OBJ_app_files", &serde_json::Value::Null)
            .await;
        assert!(
            gone.as_ref()
                .err()
                .is_none_or(oncue_core::bus::ApiError::is_not_found),
            "{gone:?}"
        );
        let (process, port) = start(arena, false).await;
        let block = block.clone();
        let sent = tokio::task::spawn_blocking(move || upload(port, "large.bin", size, &block));
        let (seconds, answer) = sent.await.expect("the upload");
        assert!(
            answer.starts_with("HTTP/1.1 202") && answer.contains(&format!(":{size}")),
            "{answer}"
        );
        speeds.push(size as f64 / 1e6 / seconds);
        peaks.push(memory(process.pid(), "VmHWM") as f64 / 1024.0);
    }
    let peak = Figure::new("peak of the gateway", "MB", peaks).goal(Goal::AtMost(32.0));
    let figures = vec![Figure::new("oncue", "MB/s", speeds), peak];
    Row {
        name: format!("one upload of {} MiB", size >> 20),
        figures,
        details: Vec::new(),
    }
}
