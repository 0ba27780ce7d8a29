//! The profile `ha`, with the files from `deploy/ha`: one of several servers fails and another takes over.

use std::time::{Duration, Instant};

use oncue_core::bus::Bus;
use serde_json::Value;

use super::enough;
use crate::chaos::arena::{Arena, Setup};
use crate::chaos::faults::{Victim, catch};
use crate::chaos::load::Shape;
use crate::chaos::report::{Plan, Report};
use crate::cluster::Servers;
use crate::cluster::replicas::{Routes, three_nodes};
use crate::proxy::Faults;

const RECOVERY_LIMIT: Duration = Duration::from_mins(1);

/// As `deploy/ha/oncue.env` has it.
fn batching(mut plan: Plan) -> Plan {
    plan.env.push(("ONCUE_BATCH_PUBLISH".into(), "true".into()));
    plan
}

/// Three nats-servers: the leader dies, two are paused, one is cut off from the others.
pub async fn cluster(plan: Plan) -> Report {
    let plan = batching(plan);
    let (nodes, routes) = three_nodes().await;
    let monitor = nodes[0].monitor();
    let servers = Servers {
        nodes,
        redis_ha: true,
        ..Servers::default()
    };
    let mut arena = Arena::open(
        "F-2",
        &plan,
        Setup {
            servers,
            replicas: 3,
            ..Setup::default()
        },
    )
    .await;
    arena.cluster.set("ONCUE_NATS_MONITOR", &monitor);
    arena.load(Shape {
        rate: 100,
        ..Shape::default()
    });
    arena.under_way(100).await;
    says_ha(&mut arena).await;
    for _ in 0..plan.seconds.div_ceil(30) {
        kill_leader(&mut arena).await;
        pause_two(&mut arena).await;
        cut_off_one(&mut arena, &routes).await;
    }
    let mut report = arena.close().await;
    report.must_have_fired(&["kill -9 leader", "two of three paused", "one cut off"]);
    enough(&mut report, 100);
    report
}

/// `oncue doctor`, asked once the rest of the layout is there, on all servers.
async fn says_ha(arena: &mut Arena) {
    arena.oncue(&["apply"]).await;
    // On a busy machine copies of streams that were just made take a while to catch up, and it says so.
    let start = Instant::now();
    loop {
        let (_, answer) = arena.oncue(&["doctor", "--json"]).await;
        let answer: Value = answer
            .find('{')
            .and_then(|at| serde_json::from_str(&answer[at..]).ok())
            .unwrap_or_default();
        let promised = answer["promised"].to_string();
        let is_right = answer["profile"] == "ha"
            && promised.contains("on three servers")
            && promised.contains("recover redis");
        if is_right {
            return;
        }
        if start.elapsed() > RECOVERY_LIMIT {
            let findings = &answer["findings"];
            let why = format!("`oncue doctor` does not say what `ha` promises: {findings}");
            return arena.report.failures.push(why);
        }
        arena.wait(Duration::from_millis(500)).await;
    }
}

async fn kill_leader(arena: &mut Arena) {
    let leader = leader(arena).await;
    let (_, in_hand) = catch(arena, Victim::Nats(leader)).await;
    arena.cluster.node(leader).kill();
    arena.report.struck("kill -9 leader", in_hand);
    // The other two go on without it.
    arena.flowing().await;
    arena.cluster.restart_node(leader).await;
    whole(arena).await;
}

/// Without a majority nothing is accepted; with it again, everything goes on.
async fn pause_two(arena: &mut Arena) {
    let awake = arena.rng.usize(..3);
    let paused = (0..3).filter(|n| *n != awake);
    paused
        .clone()
        .for_each(|n| arena.cluster.node(n).signal("STOP"));
    arena.wait(Duration::from_secs(1)).await; // acks on their way
    let before = arena.acked();
    arena.wait(Duration::from_secs(3)).await;
    let accepted = arena.acked() - before;
    paused.for_each(|n| arena.cluster.node(n).signal("CONT"));
    arena.report.fault("two of three paused", 1);
    arena.report.must(
        accepted == 0,
        format!("{accepted} events were accepted without a majority"),
    );
    arena.flowing().await;
    whole(arena).await;
}

/// Clients still reach the one that is cut off, and it must accept nothing that the others do not have.
async fn cut_off_one(arena: &mut Arena, routes: &Routes) {
    let alone = arena.rng.usize(..3);
    routes.isolate(alone);
    let length = Duration::from_millis(arena.rng.u64(3000..8000));
    arena.wait(length).await;
    let happened = routes.happened(alone);
    routes.heal();
    arena.report.fault("one cut off", u64::from(happened > 0));
    arena.flowing().await;
    whole(arena).await;
}

async fn cluster_of(bus: &Bus) -> Value {
    bus.api("STREAM.INFO.web", &Value::Null)
        .await
        .unwrap_or_default()["cluster"]
        .clone()
}

/// Which server leads the stream.
async fn leader(arena: &mut Arena) -> usize {
    let start = Instant::now();
    while start.elapsed() < RECOVERY_LIMIT {
        let leader = cluster_of(&arena.bus).await["leader"].clone();
        if let Some(n) = arena
            .cluster
            .servers
            .nodes
            .iter()
            .position(|node| leader == node.name.as_str())
        {
            return n;
        }
        arena.wait(Duration::from_millis(100)).await;
    }
    arena
        .report
        .failures
        .push(format!("the stream had no leader for {RECOVERY_LIMIT:?}"));
    0
}

/// Waits until all three have all of the stream.
async fn whole(arena: &mut Arena) {
    let start = Instant::now();
    while start.elapsed() < RECOVERY_LIMIT {
        let replicas = cluster_of(&arena.bus).await["replicas"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        if replicas.len() == 2
            && replicas
                .iter()
                .all(|r| r["current"] == true && r["offline"] != true)
        {
            return;
        }
        arena.wait(Duration::from_millis(100)).await;
    }
    arena.report.failures.push(format!(
        "a server had not caught up after {RECOVERY_LIMIT:?}"
    ));
}

/// The replica of Redis has not heard everything when the primary dies and it takes its place. What is lost is noticed,
/// and restored from the streams by one command.
pub async fn failover(plan: Plan) -> Report {
    let servers = Servers {
        redis_ha: true,
        ..Servers::default()
    };
    let mut arena = Arena::open(
        "F-1",
        &plan,
        Setup {
            servers,
            ..Setup::default()
        },
    )
    .await;
    // What follows from state that was rolled back may differ from what was published before.
    arena.again_as = Some("id_reuse");
    arena.load(Shape::default());
    arena.under_way(300).await;
    for _ in 0..plan.seconds.div_ceil(20) {
        fail_over(&mut arena).await;
        recover(&mut arena).await;
        arena.flowing().await;
    }
    arena.settle().await;
    arena.pool.gone.clear();
    let mut report = arena.close().await;
    report.must_have_fired(&["failover", "bytes not replicated", "alarm"]);
    enough(&mut report, 100);
    report
}

async fn fail_over(arena: &mut Arena) {
    let offset = |arena: &Arena| -> u64 {
        let info = arena.cluster.redis_cli(&["INFO", "replication"]);
        let line = info
            .lines()
            .find_map(|line| line.strip_prefix("master_repl_offset:"));
        line.and_then(|n| n.trim().parse().ok()).unwrap_or_default()
    };
    let replica = arena.cluster.replica.take().expect("a replica");
    // For so long the primary goes on alone, as `min-replicas-max-lag` lets it.
    replica.line.set(Faults {
        freeze: true,
        ..Faults::default()
    });
    let before = offset(arena);
    arena.wait(Duration::from_secs(2)).await;
    arena
        .wait_until("the primary has gone on alone", |arena| {
            offset(arena) > before + 100_000
        })
        .await;
    let (last, in_hand) = (offset(arena), catch(arena, Victim::Redis).await.1);
    arena.cluster.redis.kill();
    replica.line.cut();
    arena.cluster.promote(replica).await;
    arena.redis.lead_to(arena.cluster.redis_port);
    arena.redis.cut();
    arena.report.struck("failover", in_hand);
    arena
        .report
        .effect("bytes not replicated", last.saturating_sub(offset(arena)));
}

/// Waits for the alarm, then restores.
pub async fn recover(arena: &mut Arena) {
    let raised = arena.wait_until("workers notice that Redis went back in time", |arena| {
        !arena.alarms().is_empty()
    });
    let raised = raised.await;
    arena.report.effect("alarm", u64::from(raised));
    restore(arena).await;
}

/// What an operator does: stops the workers, restores, starts them again.
pub async fn restore(arena: &mut Arena) {
    arena.pool.kill_all();
    arena.says(&["recover", "redis", "--yes"], 0, &[]).await;
}
