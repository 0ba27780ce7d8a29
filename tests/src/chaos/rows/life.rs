//! What operators do and clocks do.

use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use super::enough;
use crate::chaos::arena::{Arena, Setup};
use crate::chaos::load::Shape;
use crate::chaos::report::{Plan, Report};
use crate::cluster::{Cluster, Servers, free_port};

pub async fn terminations(plan: Plan) -> Report {
    // One worker of each function: two that take turns on a row give events back for having lost the race. The ack wait
    // is longer than any machine is slow: what comes again was left behind.
    let ack_wait = Duration::from_secs(30);
    let mut arena = Arena::open(
        "U-2",
        &plan,
        Setup {
            misbehave: 1,
            record: 1,
            ack_wait,
            ..Setup::default()
        },
    )
    .await;
    arena.load(Shape {
        words: &["emit:1", "slow:50"],
        ..Shape::default()
    });
    arena.under_way(100).await;
    for _ in 0..plan.seconds.div_ceil(3) {
        let codes = arena.pool.roll(&arena.cluster).await;
        arena.report.each("SIGTERM worker", codes.len() as u64);
        arena.report.must(
            codes.iter().all(|code| *code == Some(0)),
            format!("exit codes {codes:?}"),
        );
        arena.wait(Duration::from_millis(500)).await;
    }
    let mut report = arena.close().await;
    report.must_have_fired(&["SIGTERM worker"]);
    // What the server has in its own queue when a worker unsubscribes never reaches it, and goes to the next one at once.
    let unsent = report.unsent;
    let left = report.redeliveries - unsent;
    report.must(
        left == 0,
        format!(
            "{left} events were left in hand; {} were given back with a word",
            report.naks
        ),
    );
    report
        .note(format!("{unsent} events were still with the server when their worker left, which sent them elsewhere"));
    enough(&mut report, 100);
    report
}

/// A consumer, then a stream, edited by hand: refused with the difference, and left as it is.
pub async fn drift(plan: Plan) -> Report {
    let servers = Servers {
        programs: plan.programs,
        ..Servers::default()
    };
    let cluster = Cluster::with("[functions.misbehave]\nack_wait = \"2s\"\n", servers).await;
    cluster.start("misbehave").await.stop().await;
    let bus = cluster.bus().await;
    let mut report = Report::default();
    let changes = [
        (
            "CONSUMER.INFO.web.app_misbehave",
            "CONSUMER.CREATE.web.app_misbehave",
            "ack_wait",
            json!(9_000_000_000_u64),
        ),
        (
            "STREAM.INFO.web",
            "STREAM.UPDATE.web",
            "max_bytes",
            json!(12_345_678),
        ),
    ];
    for (info, update, field, value) in changes {
        let mut config = bus.api(info, &Value::Null).await.expect("there is one")["config"].clone();
        let before = config[field].clone();
        config[field] = value.clone();
        let body = |config: &Value| {
            if update.starts_with("STREAM") {
                return config.clone();
            }
            json!({ "stream_name": "web", "config": config, "action": "update" })
        };
        bus.api(update, &body(&config)).await.expect("edited");
        let mut refused = cluster.spawn("misbehave", &[]);
        let (code, log) = (refused.exit().await, refused.log());
        report.each("edit", 1);
        report.operations += 1;
        let wanted = format!("{field}: is {value}, should be {before}");
        report.must(
            code == Some(1) && log.contains(&wanted),
            format!("exit {code:?}, no {wanted:?} in {log}"),
        );
        let after =
            bus.api(info, &Value::Null).await.expect("there is one")["config"][field].clone();
        report.must(
            after == value,
            format!("{field} was written back to {after}"),
        );
        config[field] = before;
        bus.api(update, &body(&config)).await.expect("put back");
    }
    cluster.start("misbehave").await.stop().await;
    report
}

fn faketime() -> Option<PathBuf> {
    let folders = [
        "/usr/lib/x86_64-linux-gnu/faketime",
        "/usr/lib/aarch64-linux-gnu/faketime",
        "/usr/lib/faketime",
    ];
    folders
        .iter()
        .map(|folder| Path::new(folder).join("libfaketime.so.1"))
        .find(|path| path.exists())
}

/// Whether Redis comes up in this environment.
fn starts_with(env: &[(String, String)]) -> bool {
    let port = free_port();
    let mut command = Command::new("redis-server");
    command
        .args(["--port", &port.to_string(), "--save", ""])
        .envs(env.iter().cloned());
    let Ok(mut child) = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn() else {
        return false;
    };
    let up = (0..100).any(|_| {
        std::thread::sleep(Duration::from_millis(50));
        TcpStream::connect(("127.0.0.1", port)).is_ok()
    });
    let _ = (child.kill(), child.wait());
    up
}

/// Redis alone decides ages, so its clock alone matters.
pub async fn clock_jumps(plan: Plan) -> Report {
    let Some(library) = faketime() else {
        return Report::skipped("libfaketime is not there (package faketime)");
    };
    let clock =
        std::env::temp_dir().join(format!("oncue-clock-{}-{}", std::process::id(), plan.seed));
    let set = |offset: &str| std::fs::write(&clock, offset).expect("the clock is set");
    set("+0s");
    let env = [
        // The allocator of the C library first: others ask for the time before the faker is ready to answer.
        ("LD_PRELOAD", format!("{}:libc.so.6", library.display())),
        ("FAKETIME_TIMESTAMP_FILE", clock.display().to_string()),
        ("FAKETIME_NO_CACHE", "1".into()),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1".into()),
    ];
    let redis_env: Vec<_> = env
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect();
    if !starts_with(&redis_env) {
        return Report::skipped("this redis-server does not start under libfaketime");
    }
    let servers = Servers {
        redis_env,
        ..Servers::default()
    };
    let mut arena = Arena::open(
        "C-1",
        &plan,
        Setup {
            servers,
            ..Setup::default()
        },
    )
    .await;
    // An hour behind, what is new lies at the edge of what may come from the future.
    arena.mortal = true;
    arena.load(Shape::default());
    arena.under_way(100).await;
    let seconds = || -> i64 {
        arena
            .cluster
            .redis_cli(&["TIME"])
            .lines()
            .next()
            .and_then(|s| s.parse().ok())
            .unwrap_or(0)
    };
    let mut jumped = 0;
    for offset in ["+3600s", "-3600s", "+0s"] {
        let before = seconds();
        set(offset);
        jumped += u64::from((seconds() - before).abs() > 1800);
        tokio::time::sleep(Duration::from_millis(plan.seconds * 300)).await;
    }
    arena.report.each("clock jump", jumped);
    let mut report = arena.close().await;
    let _ = std::fs::remove_file(&clock);
    report.must(
        jumped == 3,
        format!("the clock jumped {jumped} times, not 3"),
    );
    enough(&mut report, 100);
    // A fence that takes every clock for a wrong one would leave dead letters alone.
    let half = report.operations / 2;
    report.must(
        report.ok >= half,
        format!(
            "only {} of {} events were applied",
            report.ok, report.operations
        ),
    );
    report
}
