//! The rows of the fault table, each for a few seconds. `make chaos` runs them for longer.

use std::time::Duration;

use oncue_tests::chaos::arena::{Arena, Link, Setup};
use oncue_tests::chaos::faults::{Act, Harm, perform};
use oncue_tests::chaos::report::{Plan, Report};
use oncue_tests::chaos::rows::find;
use oncue_tests::skip::skip;

/// `CHAOS_SEED`, or the same each time; printed, so that a failure can be had again.
fn seed() -> u64 {
    std::env::var("CHAOS_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok())
        .unwrap_or(20_261_124)
}

async fn row(id: &str) {
    let (seed, report) = run(id).await;
    if let Some(why) = &report.skipped {
        return skip(id, why);
    }
    assert!(
        report.passed(),
        "{id} with seed {seed}: {:#?}",
        report.failures
    );
}

async fn run(id: &str) -> (u64, Report) {
    let row = find(id).expect("a row of the table");
    let seed = seed();
    println!("again: CHAOS_SEED={seed} cargo nextest run -p oncue-tests --test system chaos");
    let report = (row.run)(Plan {
        seed,
        seconds: row.short,
        ..Plan::default()
    })
    .await;
    println!("{report:#?}");
    (seed, report)
}

/// What befalls an idle cluster proves nothing, and says so.
#[tokio::test]
async fn a_fault_that_harms_nobody_is_a_failure() {
    let acts = [
        Act::KillWorker,
        Act::KillAll,
        Act::Line(Link::Redis, Harm::LoseAnswer),
    ];
    let failures = async |act: Act| {
        let mut arena = Arena::open(
            "idle",
            &Plan {
                seed: 1,
                ..Plan::default()
            },
            Setup::default(),
        )
        .await;
        perform(&mut arena, act, Duration::from_millis(50)).await;
        arena.report.failures.clone()
    };
    let (one, all, line) = tokio::join!(failures(acts[0]), failures(acts[1]), failures(acts[2]));
    for (act, failures) in acts.iter().zip([one, all, line]) {
        assert!(
            failures.iter().any(|why| why.contains(&act.name())),
            "{}: {failures:?}",
            act.name()
        );
    }
}

macro_rules! rows {
    ($($name:ident $id:literal)*) => {
        $(#[tokio::test]
        async fn $name() {
            row($id).await;
        })*
    };
}

rows! {
    k2_workers_die "K-2"
    k3_nats_dies "K-3"
    k4_redis_dies "K-4"
    k5_all_die "K-5"
    h1_children_and_hosts_die "H-1"
    h2_children_freeze "H-2"
    h3_answers_are_torn_and_children_leak "H-3"
    z1_zombies "Z-1"
    z3_same_events "Z-3"
    z4_late_words "Z-4"
    d3_replays "D-3"
    d1_beyond_the_horizon "D-1"
    o2_order_breaks "O-2"
    n1_partitions "N-1"
    n2_bad_lines "N-2"
    n3_lost_replies "N-3"
    n4_lost_acks "N-4"
    n4b_torn_batches "N-4b"
    n5_reconnecting_crowd "N-5"
    n6_dead_lines "N-6"
    s1_disk_full "S-1"
    s2_out_of_memory "S-2"
    s3_unwilling_redis "S-3"
    s4_fsync_fails "S-4"
    n7_dead_lines_to_redis "N-7"
    w1_power_cut_redis_always "W-1"
    w2_power_cut_redis_everysec "W-2"
    w3_power_cut_nats_always "W-3"
    w4_power_cut_nats_default "W-4"
    w5_torn_log "W-5"
    f1_redis_failover "F-1"
    f2_nats_cluster "F-2"
    q2_dlq_full "Q-2"
    q4_poison "Q-4"
    i1_one_id_many_times "I-1"
    i2_forged_ids "I-2"
    i3_outputs_no_stream_takes "I-3"
    i4_paused_consumers "I-4"
    r1_flushed_under_four_workers "R-1"
    r2_put_back_while_stopped "R-2"
    r3_emptied_nats "R-3"
    r4_backup_and_restore "R-4"
    a1_two_apps "A-1"
    u1_two_versions "U-1"
    u2_terminations "U-2"
    u3_drift "U-3"
    u4_refused_changes "U-4"
    c1_clock_jumps "C-1"
}
