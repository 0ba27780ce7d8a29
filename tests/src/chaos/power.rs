//! Loss of power without losing power: a server's data lies in a file system inside an image file. At any moment the
//! image is copied and the copy mounted; it holds what was fsynced, while what only the page cache knew is gone.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use oncue_core::store::{
    Change, CommitEvent, Expected, Mark, Op, Purpose, Regression, Row as StateRow, RowChange,
    RowKey, Run,
};
use serde_json::json;

use super::arena::{Arena, Link, Setup};
use super::checker;
use super::load::Shape;
use super::report::{Plan, Report};
use super::rows::enough;
use super::rows::ha::restore;
use super::rows::stores::{is_root, run};
use crate::cluster::{Cluster, Servers, free_port, until};

/// A file system in a file; unmounted and removed when dropped.
struct Disk {
    image: PathBuf,
    mount: PathBuf,
    copies: u32,
}

impl Disk {
    fn new(name: &str) -> Result<Self, String> {
        if !is_root() {
            return Err("mounting an image needs root".into());
        }
        let folder =
            std::env::temp_dir().join(format!("oncue-power-{}-{name}", std::process::id()));
        let disk = Self {
            image: folder.join("image-0"),
            mount: folder.join("disk"),
            copies: 0,
        };
        std::fs::create_dir_all(&disk.mount).map_err(|e| e.to_string())?;
        let file = std::fs::File::create(&disk.image).map_err(|e| e.to_string())?;
        file.set_len(256 << 20).map_err(|e| e.to_string())?;
        if !run(
            "mkfs.ext4",
            &[
                "-q",
                "-F",
                "-E",
                "lazy_itable_init=0",
                &disk.image.display().to_string(),
            ],
        ) {
            return Err("mkfs.ext4 is not there".into());
        }
        disk.mount()
            .then_some(disk)
            .ok_or_else(|| "no loop device can be mounted here".into())
    }

    /// The journal is committed every ten minutes, that is never: only fsync writes.
    fn mount(&self) -> bool {
        let (image, mount) = (
            self.image.display().to_string(),
            self.mount.display().to_string(),
        );
        run("mount", &["-o", "loop,commit=600", &image, &mount])
    }

    /// What a power cut now would have left becomes the disk. The server must be frozen, and be killed by `kill`.
    fn cut(&mut self, kill: impl FnOnce()) {
        self.copies += 1;
        let copy = self.image.with_file_name(format!("image-{}", self.copies));
        let (from, to) = (self.image.display().to_string(), copy.display().to_string());
        assert!(
            run("cp", &["--sparse=always", &from, &to]),
            "the image is copied"
        );
        kill();
        self.unmount();
        let _ = std::fs::remove_file(&self.image);
        self.image = copy;
        assert!(self.mount(), "the copy is mounted");
    }

    fn unmount(&self) {
        let mount = self.mount.display().to_string();
        if !run("umount", &[&mount]) {
            run("umount", &["-l", &mount]);
        }
    }

    fn data(&self) -> PathBuf {
        let data = self.mount.join("data");
        std::fs::create_dir_all(&data).expect("a folder on the disk");
        data
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.unmount();
        let _ = std::fs::remove_dir_all(self.image.parent().unwrap_or(Path::new("/nonexistent")));
    }
}

fn cannot(why: &str) -> Report {
    Report::skipped(format!("cannot run here: {why}"))
}

fn cuts(plan: &Plan) -> u64 {
    plan.cuts.unwrap_or(if plan.long {
        (plan.seconds * 2).clamp(5, 20)
    } else {
        2
    })
}

fn servers(link: Link, disk: &Disk, strong: bool) -> Servers {
    let data = Some(disk.data());
    let sync = if strong {
        "\nsync_interval: always"
    } else {
        ""
    };
    if link == Link::Nats {
        return Servers {
            nats_dir: data,
            jetstream: format!("max_file_store: 100GB{sync}"),
            ..Servers::default()
        };
    }
    let policy = if strong { "always" } else { "everysec" };
    let redis_args = vec!["--appendfsync".into(), policy.into()];
    Servers {
        redis_dir: data,
        redis_args,
        ..Servers::default()
    }
}

/// One server loses power under load, again and again; everything else goes on.
async fn cut_again_and_again(
    name: &str,
    plan: &Plan,
    link: Link,
    strong: bool,
) -> Result<(Arena, Disk), String> {
    let mut disk = Disk::new(&format!("{}-{}", name.to_lowercase(), plan.seed))?;
    let setup = Setup {
        servers: servers(link, &disk, strong),
        ..Setup::default()
    };
    let mut arena = Arena::open(name, plan, setup).await;
    // Streams and consumers were made long ago, as in real life; the question is what happens to events.
    run("sync", &["-f", &disk.data().display().to_string()]);
    // The place of a lost message is given to another one, and with it the id of an event that has none of its own.
    let plain = strong || link == Link::Redis;
    arena.load(Shape {
        rate: 300,
        plain,
        ..Shape::default()
    });
    arena.under_way(100).await;
    let lossy = link == Link::Redis && !strong;
    for n in 0.. {
        // A cut just after an fsync loses nothing; one that loses something must be among them.
        let seen = !lossy || arena.report.faults.contains_key("lost commits") || n > 20;
        if n >= cuts(plan) && seen {
            break;
        }
        let pause = Duration::from_millis(arena.rng.u64(200..1500));
        arena.wait(pause).await;
        arena.flowing().await;
        let stored = arena.cluster.count(&arena.bus, "web").await;
        let server = if link == Link::Nats {
            &mut arena.cluster.nats
        } else {
            &mut arena.cluster.redis
        };
        server.signal("STOP");
        std::thread::sleep(Duration::from_millis(30)); // a write under way comes to its end
        disk.cut(|| server.kill());
        if link == Link::Nats {
            arena.cluster.restart_nats().await;
        } else {
            arena.cluster.restart_redis().await;
        }
        arena.report.fault("power cut", 1);
        if link == Link::Nats {
            let left = left(&mut arena).await;
            arena
                .report
                .effect("lost messages", stored.saturating_sub(left));
        }
        if lossy {
            recover(&mut arena).await;
        }
    }
    arena.wait(Duration::from_millis(500)).await;
    Ok((arena, disk))
}

/// Messages the stream still has, once it answers.
async fn left(arena: &mut Arena) -> u64 {
    let start = Instant::now();
    loop {
        let count = arena.cluster.count(&arena.bus, "web").await;
        if count > 0 || start.elapsed() > Duration::from_mins(1) {
            return count;
        }
        arena.wait(Duration::from_millis(50)).await;
    }
}

async fn strong(name: &'static str, plan: Plan, link: Link) -> Report {
    let (arena, _disk) = match cut_again_and_again(name, &plan, link, true).await {
        Ok(ready) => ready,
        Err(why) => return cannot(&why),
    };
    let mut report = arena.close().await;
    let lost = report
        .faults
        .get("lost messages")
        .copied()
        .unwrap_or_default();
    report.must(
        lost == 0,
        format!("{lost} messages are gone from the stream"),
    );
    report.must_have_fired(&["power cut"]);
    enough(&mut report, 100);
    report
}

pub async fn redis_always(plan: Plan) -> Report {
    strong("W-1", plan, Link::Redis).await
}

pub async fn nats_always(plan: Plan) -> Report {
    strong("W-3", plan, Link::Nats).await
}

/// The check without consequences: what was lost is told, not held against the row.
pub async fn measured(arena: &mut Arena) -> Report {
    let before = std::mem::take(&mut arena.report);
    checker::check(arena).await;
    std::mem::replace(&mut arena.report, before)
}

/// Waits for the alarm that Redis went back in time, then does what restores it.
async fn recover(arena: &mut Arena) {
    let start = Instant::now();
    let alarms = loop {
        let alarms = arena.alarms();
        if !alarms.is_empty() || start.elapsed() > Duration::from_secs(5) {
            break alarms;
        }
        arena.wait(Duration::from_millis(100)).await;
    };
    let alarms: Vec<Regression> = alarms
        .iter()
        .filter_map(|alarm| serde_json::from_str(alarm).ok())
        .collect();
    if alarms.is_empty() {
        return; // nothing was lost
    }
    arena.report.effect("alarm", 1);
    arena.report.effect(
        "lost commits",
        alarms.iter().map(|alarm| alarm.seen - alarm.found).sum(),
    );
    restore(arena).await;
}

/// The broken twin of W-1: loss is seen, by the workers too. Then `oncue recover redis`, which restores every lost
/// effect, once.
pub async fn redis_everysec(plan: Plan) -> Report {
    let (mut arena, _disk) = match cut_again_and_again("W-2", &plan, Link::Redis, false).await {
        Ok(ready) => ready,
        Err(why) => return cannot(&why),
    };
    // What follows from state that was rolled back may differ from what was published before; its second form is set
    // aside, as its id was used.
    arena.again_as = Some("id_reuse");
    arena.settle().await;
    arena.pool.gone.clear();
    let mut report = arena.close().await;
    report.must_have_fired(&["power cut", "alarm", "lost commits"]);
    report
}

/// The broken twin of W-3: loss is seen, nothing is doubled, and what comes afterwards is not harmed.
pub async fn nats_default(plan: Plan) -> Report {
    let (mut arena, _disk) = match cut_again_and_again("W-4", &plan, Link::Nats, false).await {
        Ok(ready) => ready,
        Err(why) => return cannot(&why),
    };
    arena.settle().await;
    let loss = measured(&mut arena).await;
    let mut report = std::mem::take(&mut arena.report);
    for n in 0..100 {
        arena
            .tell(
                &format!("after-{n}"),
                &format!("/after-{}", n % 4),
                "emit:1",
                1,
            )
            .await;
    }
    arena.drain().await;
    report.failures.append(&mut arena.report.failures);
    let after = measured(&mut arena).await;
    report.must(
        after.lost <= loss.lost,
        "events published after the cuts were lost",
    );
    report.must(
        after.doubled == 0,
        format!("{} events doubled", after.doubled),
    );
    report.must(
        after.dead == 0,
        format!("{} events are dead letters", after.dead),
    );
    report.note(format!(
        "{} events lost by the cuts (default sync_interval), as is said of it",
        loss.lost
    ));
    report.must_have_fired(&["power cut", "lost messages"]);
    let (ok, operations) = (after.ok, after.operations);
    Report {
        ok,
        operations,
        lost: loss.lost,
        redeliveries: after.redeliveries,
        copies: after.copies,
        ..report
    }
}

/// Events of a commit that is torn.
const TORN: u64 = 5;

/// One commit of five events stands last in the log of Redis; the log is cut at every place within.
pub async fn torn_log(plan: Plan) -> Report {
    let mut cluster = Cluster::new("").await;
    let store = cluster.store().await;
    for call in 0..4 {
        let run = commit(call, TORN);
        let statuses = store.commit(&[run]).await.expect("committed").statuses;
        assert_eq!(statuses[0].len() as u64, TORN);
    }
    cluster.redis.kill();
    let log = cluster
        .dir
        .join("appendonlydir")
        .join("appendonly.aof.1.incr.aof");
    let whole = std::fs::read(&log).expect("the log of Redis");
    let (mut report, mut rng) = (Report::default(), fastrand::Rng::with_seed(plan.seed));
    let tail = whole.len().min(2048);
    let samples = if plan.long {
        (plan.seconds as usize * 10).min(tail)
    } else {
        16
    };
    let mut places: Vec<usize> = (whole.len() - tail..=whole.len()).collect();
    rng.shuffle(&mut places);
    for place in places.into_iter().take(samples) {
        std::fs::write(&log, &whole[..place]).expect("torn");
        cluster.redis_port = free_port();
        cluster.restart_redis().await;
        let parts = until("Redis has read its log", async || parts(&cluster)).await;
        report.operations += 1;
        report.each("torn log", 1);
        let calls = parts[0] / TORN;
        let all_or_nothing = parts.iter().all(|part| *part == calls * TORN);
        report.must(
            all_or_nothing,
            format!(
                "cut at {place} of {}: row, counter, marks, outboxes are {parts:?}",
                whole.len()
            ),
        );
        report.ok += u64::from(all_or_nothing);
        cluster.redis.kill();
    }
    report
}

/// What the parts of the commits say: the row's count, the counter in passing, seen-marks, outboxes and their index.
fn parts(cluster: &Cluster) -> Option<Vec<u64>> {
    let keys = |pattern: &str| -> Vec<String> {
        cluster
            .redis_cli(&["--scan", "--pattern", pattern])
            .lines()
            .map(str::to_owned)
            .collect()
    };
    if cluster.redis_cli(&["PING"]) != "PONG" {
        return None;
    }
    let number = |args: &[&str]| cluster.redis_cli(args).parse::<u64>().unwrap_or_default();
    let sum = |pattern: &str, verb: &str| {
        keys(pattern)
            .iter()
            .map(|key| number(&[verb, key]))
            .sum::<u64>()
    };
    let field = |pattern: &str, field: &str| {
        keys(pattern)
            .iter()
            .map(|key| number(&["HGET", key, field]))
            .sum::<u64>()
    };
    // Number of buckets, then of marks.
    let head = cluster.redis_cli(&["HGET", "app:d:torn", "h"]);
    let marks = head.split(' ').nth(1).and_then(|count| count.parse().ok());
    let marks = marks.unwrap_or_default();
    Some(vec![
        field("*:s:tallies:*", "count"),
        field("*:s:hits:*", "total"),
        marks,
        // One outbox for all events of a commit; before the commit it is there as well, but only for a while.
        keys("*:o:torn:*")
            .iter()
            .filter(|key| cluster.redis_cli(&["TTL", key]) == "-1")
            .count() as u64
            * TORN,
        sum("*:u:*", "ZCARD") * TORN,
    ])
}

fn commit(call: u64, events: u64) -> Run {
    let handled = (0..events).map(|n| {
        let origin = oncue_proto::event::Origin {
            stream: "web",
            stream_created: 1,
            sequence: call * events + n + 1,
            published: oncue_proto::event::now_ms(),
            subject: "web.page.viewed",
        };
        let mark = Mark::new(
            "torn",
            "/torn",
            &oncue_proto::event::Meta::of_origin(&origin),
            3_600_000,
        );
        let op = Op {
            table: "hits",
            change: Change::Add {
                field: "total".into(),
                by: 1,
            },
        };
        let outbox = vec![b'o'; 60].into();
        CommitEvent {
            mark,
            payload_hash: n as u32,
            ops: vec![op],
            outbox,
            purpose: Purpose::Apply,
            entry: None,
        }
    });
    let count = json!((call + 1) * events).to_string().into_bytes();
    let version = StateRow::default().version + call;
    let key = RowKey {
        table: "tallies",
        key: "/torn".into(),
    };
    let row = RowChange {
        key,
        basis: Expected::Version(version),
        set: vec![("count".into(), count)],
        del: Vec::new(),
    };
    Run {
        row: Some(row),
        events: handled.collect(),
    }
}
