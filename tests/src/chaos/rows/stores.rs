//! Servers that are full, busy, read-only, forgetful, or whose disk fails.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::enough;
use crate::chaos::arena::{Arena, Setup};
use crate::chaos::load::Shape;
use crate::chaos::report::{Plan, Report};
use crate::cluster::Servers;

/// Runs a command of the system; false if it is absent or fails.
pub fn run(program: &str, args: &[&str]) -> bool {
    let status = Command::new(program)
        .args(args)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    status.is_ok_and(|status| status.success())
}

pub fn is_root() -> bool {
    Command::new("id")
        .arg("-u")
        .output()
        .is_ok_and(|output| output.stdout == b"0\n")
}

/// A disk of limited size; unmounted when dropped.
pub struct SmallDisk(pub PathBuf);

impl SmallDisk {
    fn new(name: &str, size: &str) -> Option<Self> {
        let path = std::env::temp_dir().join(format!("oncue-disk-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&path).ok()?;
        let mounted = is_root()
            && run(
                "mount",
                &[
                    "-t",
                    "tmpfs",
                    "-o",
                    &format!("size={size}"),
                    "tmpfs",
                    path.to_str()?,
                ],
            );
        mounted.then_some(Self(path))
    }

    /// Leaves not a byte.
    fn fill(&self) {
        let file = std::fs::File::create(self.0.join("filler")).expect("room for a name");
        let mut writer = &file;
        let block = vec![0; 1 << 12];
        while let Ok(1..) = std::io::Write::write(&mut writer, &block) {}
    }

    fn free(&self) {
        let _ = std::fs::remove_file(self.0.join("filler"));
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        run("umount", &["-l", &self.0.display().to_string()]);
        let _ = std::fs::remove_dir(&self.0);
    }
}

/// First Redis has no room, then NATS; each is given room and, where it has ended, started again.
pub async fn disk_full(plan: Plan) -> Report {
    let name = format!("{}-{}", plan.seed, plan.seconds);
    let disks = (
        SmallDisk::new(&format!("redis-{name}"), "32m"),
        SmallDisk::new(&format!("nats-{name}"), "64m"),
    );
    let (Some(redis), Some(nats)) = disks else {
        return Report::skipped("mounting a small tmpfs needs root");
    };
    let servers = Servers {
        jetstream: "max_file_store: 100GB".into(),
        redis_dir: Some(redis.0.clone()),
        nats_dir: Some(nats.0.clone()),
        ..Servers::default()
    };
    let mut arena = Arena::open(
        "S-1",
        &plan,
        Setup {
            servers,
            ..Setup::default()
        },
    )
    .await;
    arena.load(Shape::default());
    arena.under_way(100).await;
    let long = Duration::from_secs(plan.seconds.clamp(1, 10));

    redis.fill();
    let ended = until_ended(&mut arena, long, false).await;
    arena.report.fault("Redis disk full", u64::from(ended));
    redis.free();
    if ended {
        arena.cluster.restart_redis().await;
    }
    arena.wait(Duration::from_secs(1)).await;

    let (acked, refused) = (arena.acked(), arena.refused());
    nats.fill();
    arena.wait(long).await;
    arena
        .wait_until("NATS refuses what it has no room for", |arena| {
            arena.refused() > refused
        })
        .await;
    arena
        .report
        .fault("NATS disk full", arena.refused() - refused);
    arena.report.note(format!(
        "{} acks while the disk of NATS was full",
        arena.acked() - acked
    ));
    nats.free();
    // A server that could not write may have switched JetStream off until it is started again.
    arena.cluster.nats.kill();
    arena.cluster.restart_nats().await;
    arena.wait(Duration::from_secs(1)).await;
    let mut report = arena.close().await;
    report.must_have_fired(&["Redis disk full", "NATS disk full"]);
    enough(&mut report, 100);
    report
}

/// Waits for a server to end by itself.
async fn until_ended(arena: &mut Arena, long: Duration, nats: bool) -> bool {
    let start = Instant::now();
    while start.elapsed() < long + Duration::from_secs(10) {
        let server = if nats {
            &mut arena.cluster.nats
        } else {
            &mut arena.cluster.redis
        };
        if !server.is_alive() {
            return true;
        }
        arena.wait(Duration::from_millis(50)).await;
    }
    false
}

pub async fn out_of_memory(plan: Plan) -> Report {
    let mut arena = Arena::open("S-2", &plan, Setup::default()).await;
    arena.load(Shape::default());
    arena.under_way(100).await;
    for _ in 0..plan.seconds.div_ceil(4) {
        let (limit, off) = (
            ["CONFIG", "SET", "maxmemory", "1mb"],
            ["CONFIG", "SET", "maxmemory", "0"],
        );
        counted(&mut arena, "OOM", &limit, &off, Duration::from_secs(2)).await;
    }
    let mut report = arena.close().await;
    report.must_have_fired(&["OOM"]);
    enough(&mut report, 100);
    report
}

/// Commands that Redis has answered with this error since it was started.
fn error_count(arena: &Arena, kind: &str) -> u64 {
    let stats = arena.cluster.redis_cli(&["INFO", "errorstats"]);
    let line = stats
        .lines()
        .find_map(|line| line.strip_prefix(&format!("errorstat_{kind}:count=")));
    line.and_then(|count| count.trim().parse().ok())
        .unwrap_or_default()
}

/// Every way in which a Redis that is up can be of no help.
pub async fn unwilling(plan: Plan) -> Report {
    const SECOND: Duration = Duration::from_secs(1);
    let mut arena = Arena::open("S-3", &plan, Setup::default()).await;
    arena.load(Shape::default());
    arena.under_way(300).await;
    for _ in 0..plan.seconds.div_ceil(8) {
        busy(&mut arena).await;
        let (on, off) = (["REPLICAOF", "127.0.0.1", "1"], ["REPLICAOF", "NO", "ONE"]);
        counted(&mut arena, "READONLY", &on, &off, SECOND).await;
        let setting = "min-replicas-to-write";
        let (on, off) = (
            ["CONFIG", "SET", setting, "1"],
            ["CONFIG", "SET", setting, "0"],
        );
        counted(&mut arena, "NOREPLICAS", &on, &off, SECOND).await;
        snapshot_fails(&mut arena).await;
        arena.cluster.redis_cli(&["FUNCTION", "FLUSH"]);
        let back = arena.wait_until("the functions are loaded again", |arena| {
            !arena.cluster.redis_cli(&["FUNCTION", "LIST"]).is_empty()
        });
        let back = back.await;
        arena.report.fault("FUNCTION FLUSH", u64::from(back));
        loading(&mut arena).await;
    }
    let mut report = arena.close().await;
    report.must_have_fired(&[
        "BUSY",
        "READONLY",
        "NOREPLICAS",
        "MISCONF",
        "FUNCTION FLUSH",
        "LOADING",
    ]);
    enough(&mut report, 100);
    report
}

/// Brings Redis into a state for a while, until it has refused a command for it, and counts those.
async fn counted(arena: &mut Arena, kind: &str, on: &[&str], off: &[&str], least: Duration) {
    let before = error_count(arena, kind);
    arena.cluster.redis_cli(on);
    arena.wait(least).await;
    arena
        .wait_until(&format!("Redis answers {kind}"), |arena| {
            error_count(arena, kind) > before
        })
        .await;
    arena.report.fault(kind, error_count(arena, kind) - before);
    arena.cluster.redis_cli(off);
    arena.wait(Duration::from_millis(500)).await;
}

/// A snapshot that cannot be written makes Redis refuse to write anything (MISCONF), until one can.
async fn snapshot_fails(arena: &mut Arena) {
    // There is a folder where the snapshot would go.
    let folder = arena.cluster.dir.join("dump.rdb");
    std::fs::create_dir_all(folder.join("full")).expect("a folder");
    arena
        .cluster
        .redis_cli(&["CONFIG", "SET", "stop-writes-on-bgsave-error", "yes"]);
    arena.cluster.redis_cli(&["BGSAVE"]);
    let failed = |arena: &Arena| {
        arena
            .cluster
            .redis_cli(&["INFO", "persistence"])
            .contains("bgsave_status:err")
    };
    arena.wait_until("a snapshot fails", failed).await;
    // Redis looks at it only where snapshots are asked for.
    let (on, off) = (
        ["CONFIG", "SET", "save", "3600 1"],
        ["CONFIG", "SET", "save", ""],
    );
    counted(arena, "MISCONF", &on, &off, Duration::from_secs(1)).await;
    std::fs::remove_dir_all(folder).expect("removed");
}

async fn busy(arena: &mut Arena) {
    arena
        .cluster
        .redis_cli(&["CONFIG", "SET", "busy-reply-threshold", "100"]);
    let port = arena.cluster.redis_port.to_string();
    let mut script = cli(&port, &["EVAL", "while true do end", "0"]);
    arena.wait(Duration::from_millis(1500)).await;
    let busy = |arena: &Arena| arena.cluster.redis_cli(&["PING"]).contains("BUSY");
    let busy = arena.wait_until("Redis answers BUSY", busy).await;
    arena.report.fault("BUSY", u64::from(busy));
    arena.cluster.redis_cli(&["SCRIPT", "KILL"]);
    let _ = script.wait();
}

/// Started with data, Redis answers LOADING until it has read it; slowed down so that somebody hears it.
async fn loading(arena: &mut Arena) {
    // It looks up from its log every 1,024 commands.
    arena
        .wait_until("the log of Redis is long enough", |arena| {
            commands(arena) > 5000
        })
        .await;
    arena.cluster.redis.kill();
    let delay = (Duration::from_secs(3).as_micros() as usize / commands(arena)).max(1);
    arena.cluster.servers.redis_args = vec!["--key-load-delay".into(), delay.to_string()];
    arena.cluster.restart_redis().await;
    let (start, mut heard) = (Instant::now(), 0);
    while start.elapsed() < Duration::from_mins(1) {
        if !arena.cluster.redis_cli(&["PING"]).contains("LOADING") {
            break;
        }
        heard += 1;
        arena.wait(Duration::from_millis(100)).await;
    }
    arena.report.fault("LOADING", heard);
    arena.cluster.servers.redis_args.clear();
}

/// Commands in the log of Redis.
fn commands(arena: &Arena) -> usize {
    let log = arena
        .cluster
        .dir
        .join("appendonlydir")
        .join("appendonly.aof.1.incr.aof");
    let log = std::fs::read(log).unwrap_or_default();
    log.windows(3).filter(|bytes| bytes == b"\r\n*").count()
}

fn cli(port: &str, args: &[&str]) -> Child {
    let mut command = Command::new("redis-cli");
    command
        .args(["-p", port])
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command.spawn().expect("redis-cli")
}

/// strace makes the fifth fsync from now fail; Redis ends rather than answer, and is started again.
pub async fn fsync_fails(plan: Plan) -> Report {
    if !run("strace", &["-V"]) {
        return Report::skipped("strace is not there");
    }
    if !run("strace", &["-o", "/dev/null", "true"]) {
        return Report::skipped("strace may not trace here");
    }
    let mut arena = Arena::open("S-4", &plan, Setup::default()).await;
    arena.load(Shape::default());
    arena.under_way(100).await;
    for _ in 0..plan.seconds.div_ceil(3) {
        let trace = arena.cluster.dir.join("strace.txt");
        let mut tracer = inject(arena.cluster.redis.pid(), &trace);
        let ended = until_ended(&mut arena, Duration::from_secs(10), false).await;
        let _ = (tracer.kill(), tracer.wait());
        let injected = std::fs::read_to_string(&trace)
            .unwrap_or_default()
            .matches("(INJECTED)")
            .count();
        arena.report.fault("EIO", injected as u64);
        arena
            .report
            .must(ended, "Redis went on after a failed fsync");
        arena.cluster.redis.kill();
        arena.cluster.restart_redis().await;
        arena.wait(Duration::from_secs(1)).await;
    }
    let mut report = arena.close().await;
    report.must_have_fired(&["EIO"]);
    enough(&mut report, 100);
    report
}

fn inject(pid: u32, trace: &Path) -> Child {
    let mut command = Command::new("strace");
    command.args(["-f", "-p", &pid.to_string(), "-e", "trace=fdatasync,fsync"]);
    command
        .args(["-e", "inject=fdatasync,fsync:error=EIO:when=5+", "-o"])
        .arg(trace);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("strace")
}
