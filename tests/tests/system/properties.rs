//! Random runs of commits, on Redis and on the map in step: whatever is asked, both answer the same and show the same,
//! and each run is applied whole or not at all.
//!
//! The seed is fixed; `PROPTEST_RNG_SEED=...` takes another, `PROPTEST_CASES=...` more of them, and a failure prints its
//! smallest case.

use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};

use bytes::Bytes;
use oncue::testing::MapStore;
use oncue_core::store::{
    CommitEvent, Expected, Fields, GRACE_MS, Mark, Op, Read, Row, RowChange, RowKey, Run, SKEW_MS,
    StateValue, Status, StoredOutputs, Unpublished,
};
use oncue_proto::event::{self, Meta, Origin};
use oncue_tests::any_store::AnyStore;
use oncue_tests::cluster::Cluster;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{FileFailurePersistence, RngSeed, TestError, TestRunner};

use self::plans::{EventPlan, RowPlan, RunPlan, Step, step};
use crate::twins::break_library;

mod plans;

const HORIZON: u64 = 3_600_000;
const MARGIN: u64 = 300_000;
const FUNCTION: &str = "properties";
/// The table of rows, then one for each kind of blind operation.
const TABLES: [&str; 5] = ["rows", "hits", "things", "best", "kinds"];
const KEYS: usize = 2;
const IDS: usize = 16;
/// How far from now, and on which side of the fences.
const AGES: [i64; 5] = [
    -60_000,
    -((HORIZON - MARGIN) as i64),
    -((HORIZON + MARGIN) as i64),
    (SKEW_MS - MARGIN) as i64,
    (SKEW_MS + MARGIN) as i64,
];

/// What the handlers are said to have seen: what is there, or not quite.
fn basis(
    Row {
        version,
        mut fields,
    }: Row,
    plan: &RowPlan,
) -> Expected {
    if !plan.remembered {
        return Expected::Version(version + plan.ahead);
    }
    match (plan.ahead, fields.first_mut()) {
        (0, _) => {}
        (1, Some((_, value))) => value.push(b'0'),
        (2, Some(_)) => drop(fields.pop()),
        _ => fields.push(("z".into(), Vec::new())),
    }
    Expected::Fields(fields)
}

/// One case on both stores, with keys and ids of its own.
struct Pair<'s> {
    redis: &'s AnyStore,
    map: AnyStore,
    number: u32,
    now: u64,
}

impl Pair<'_> {
    fn key(&self, key: usize) -> String {
        format!("/{}/{key}", self.number)
    }

    fn mark(&self, key: usize, id: usize, age: usize, timed: bool) -> Mark {
        let time = self.now.saturating_add_signed(AGES[age]);
        let origin = Origin {
            stream: "s",
            stream_created: 1,
            sequence: 1,
            published: time,
            subject: "web.page.viewed",
        };
        // Of each kind of id: one that carries its time, one of a place in a stream, any other.
        let number = self.number as usize * IDS + id;
        let id = match id % 3 {
            0 => format!(
                "{:012x}7{:03x}8{:015x}",
                1_700_000_000_000 + number * 600_000,
                0,
                number
            ),
            1 => format!("s:1:{}", number * 2000),
            _ => format!("other-{number}"),
        };
        let meta = Meta {
            id,
            timed,
            ..Meta::of_origin(&origin)
        };
        Mark::new(FUNCTION, &self.key(key), &meta, HORIZON)
    }

    /// A plan as a run on one of the stores: versions are of its own clock.
    async fn run(&self, plan: &RunPlan, store: &AnyStore) -> Run {
        let row = match &plan.row {
            None => None,
            Some(row) => {
                let key = RowKey {
                    table: TABLES[0],
                    key: self.key(plan.key),
                };
                let ask = Read {
                    row: Some(key.clone()),
                    marks: Vec::new(),
                };
                // Redis does not read what is no hash; the map has no row there.
                let there = store
                    .read(&[ask])
                    .await
                    .map_or_else(|_| Row::default(), |mut found| found.remove(0).row);
                let set: Fields = row
                    .set
                    .iter()
                    .map(|(f, v)| (f.clone(), v.clone().into_bytes()))
                    .collect();
                Some(RowChange {
                    key,
                    basis: basis(there, row),
                    set,
                    del: row.del.clone(),
                })
            }
        };
        let handled = |event: &EventPlan| CommitEvent {
            mark: self.mark(plan.key, event.id, event.age, event.timed),
            payload_hash: event.payload,
            ops: event
                .ops
                .iter()
                .map(|(table, change)| Op {
                    table: TABLES[*table],
                    change: change.clone(),
                })
                .collect(),
            outbox: Bytes::from(event.outbox.clone()),
            purpose: event.purpose,
            entry: None,
        };
        Run {
            row,
            events: plan.events.iter().map(handled).collect(),
        }
    }

    /// Everything that can be seen of the case in one of the stores.
    async fn seen(
        &self,
        store: &AnyStore,
    ) -> (Vec<Option<StateValue>>, Vec<bool>, Vec<Vec<StoredOutputs>>) {
        let (mut shown, mut known) = (Vec::new(), Vec::new());
        for key in 0..KEYS {
            for table in TABLES {
                let mut found = store.show(table, &self.key(key)).await.expect("shown");
                match &mut found {
                    Some(StateValue::Members(members)) => members.sort(),
                    Some(StateValue::Row(row)) => row.version = row.version.min(1),
                    _ => {}
                }
                shown.push(found);
            }
            let marks = (0..IDS).flat_map(|id| [(id, 0, true), (id, 2, true), (id, 0, false)]);
            let marks: Vec<Mark> = marks
                .map(|(id, age, timed)| self.mark(key, id, age, timed))
                .collect();
            known.extend(
                store
                    .read(&[Read { row: None, marks }])
                    .await
                    .expect("read")
                    .remove(0)
                    .seen,
            );
        }
        let mut waiting: Vec<Vec<StoredOutputs>> = self
            .waiting(store)
            .await
            .into_iter()
            .map(|left| left.frames)
            .collect();
        waiting.sort_by_key(|frames| {
            frames
                .iter()
                .map(|f| (f.id, f.outputs.clone()))
                .collect::<Vec<_>>()
        });
        (shown, known, waiting)
    }

    /// Outboxes of the case that wait to be published.
    async fn waiting(&self, store: &AnyStore) -> Vec<Unpublished> {
        let ours: Vec<[u8; 16]> = (0..IDS).map(|id| self.mark(0, id, 0, true).id).collect();
        let mut waiting = store
            .unpublished(FUNCTION, self.now + MARGIN)
            .await
            .expect("listed");
        waiting.retain(|left| left.frames.iter().any(|frame| ours.contains(&frame.id)));
        waiting
    }

    async fn commit(&self, plans: &[RunPlan], tally: &Tally) {
        let (mut runs, mut same) = (Vec::new(), Vec::new());
        for plan in plans {
            runs.push(self.run(plan, self.redis).await);
            same.push(self.run(plan, &self.map).await);
        }
        let before = self.seen(self.redis).await;
        let answers = self
            .redis
            .commit(&runs)
            .await
            .expect("Redis takes every run")
            .statuses;
        let expected = self
            .map
            .commit(&same)
            .await
            .expect("a map does not fail")
            .statuses;
        for (redis, map) in answers.iter().zip(&expected) {
            assert!(agree(redis, map), "Redis: {redis:?}, map: {map:?}");
        }
        for statuses in &answers {
            let applied = statuses
                .iter()
                .filter(|status| **status == Status::Applied)
                .count();
            assert!(
                applied == 0 || applied == statuses.len(),
                "half a run: {statuses:?}"
            );
            for status in statuses {
                tally.count(status);
            }
        }
        let after = self.seen(self.redis).await;
        assert_eq!(after, self.seen(&self.map).await, "Redis, map");
        if answers
            .iter()
            .flatten()
            .all(|status| *status != Status::Applied)
        {
            assert_eq!(before, after, "refused, and yet something has changed");
        }
    }

    async fn publish(&self, wanted: impl Fn(&StoredOutputs) -> bool) {
        for store in [self.redis, &self.map] {
            let waiting = self
                .waiting(store)
                .await
                .into_iter()
                .filter(|left| left.frames.iter().any(&wanted));
            let keys: Vec<String> = waiting.map(|left| left.outbox_key).collect();
            store.published(&keys, false).await.expect("marked");
        }
    }
}

/// The same, but where the map is known to differ, always in refusing: Redis looks at the kind of the row only when
/// nothing else is in the way, and what the two say of an event behind one with a bad operation depends on how much of
/// that they had taken into account, see `known::a_bad_event_is_known_to_condemn_its_neighbour`.
fn agree(redis: &[Status], map: &[Status]) -> bool {
    let no_row = |status: &Status| matches!(status, Status::Invalid(why) if why.starts_with("the row is a "));
    if map.iter().all(no_row) {
        return !redis.contains(&Status::Applied);
    }
    let bad = |status: &Status| matches!(status, Status::Invalid(_));
    let first = redis.iter().position(bad).unwrap_or(redis.len());
    let softened = |(at, status): (usize, &Status)| {
        if at > first && bad(status) {
            Status::Conflict
        } else {
            status.clone()
        }
    };
    redis
        .iter()
        .enumerate()
        .map(softened)
        .eq(map.iter().enumerate().map(softened))
}

/// How often each status was answered.
#[derive(Default)]
struct Tally(Mutex<BTreeMap<String, u32>>);

impl Tally {
    fn count(&self, status: &Status) {
        let name = match status {
            Status::Invalid(_) => "Invalid".to_owned(),
            Status::Duplicate(Some(_)) => "Duplicate with outputs".to_owned(),
            other => format!("{other:?}"),
        };
        *self.0.lock().entry(name).or_default() += 1;
    }
}

async fn play(redis: &AnyStore, steps: &[Step], tally: &Tally) {
    // Each case has names of its own, also while a failing one is made smaller.
    static CASES: AtomicU32 = AtomicU32::new(0);
    let number = CASES.fetch_add(1, Ordering::Relaxed);
    let pair = Pair {
        redis,
        map: AnyStore::Map(MapStore::default()),
        number,
        now: event::now_ms(),
    };
    for step in steps {
        match step {
            Step::Commit(plans) => pair.commit(plans, tally).await,
            Step::Publish(key, id) => {
                let id = pair.mark(*key, *id, 0, true).id;
                pair.publish(|frame| frame.id == id).await;
            }
        }
    }
    pair.publish(|_| true).await; // the next case may share the partition
    assert_eq!(
        pair.seen(redis).await,
        pair.seen(&pair.map).await,
        "Redis, map"
    );
}

/// A mark may go only when nothing that it could still recognise passes the fence. All were written after `since` (Unix
/// ms).
fn marks_outlive_the_fence(cluster: &Cluster, since: u64) {
    let keys = cluster.redis_cli(&["--scan", "--pattern", "app:d:*"]);
    let mut checked = 0;
    for key in keys.lines().take(100) {
        let expires: u64 = cluster
            .redis_cli(&["EXPIRETIME", key])
            .parse()
            .expect("a time");
        assert!(
            (expires + 1) * 1000 >= since + HORIZON + GRACE_MS,
            "{key} goes at {expires}"
        );
        checked += 1;
    }
    assert!(checked > 0, "no marks were made");
}

fn config() -> ProptestConfig {
    let mut config = ProptestConfig {
        max_shrink_iters: 500,
        ..ProptestConfig::default()
    };
    if config.rng_seed == RngSeed::Random {
        config.rng_seed = RngSeed::Fixed(20_261_123);
    }
    if std::env::var_os("PROPTEST_CASES").is_none() {
        config.cases = 40;
    }
    config.failure_persistence = Some(Box::new(FileFailurePersistence::Off));
    config
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime")
}

/// Plays case after case until one goes wrong.
fn play_all(
    runtime: &tokio::runtime::Runtime,
    redis: &AnyStore,
    config: ProptestConfig,
    tally: &Tally,
) -> Result<(), TestError<Vec<Step>>> {
    TestRunner::new(config).run(&vec(step(), 1..25), |steps| {
        runtime.block_on(play(redis, &steps, tally));
        Ok(())
    })
}

#[test]
fn redis_and_the_map_agree_on_everything() {
    let runtime = runtime();
    let cluster = runtime.block_on(Cluster::new(""));
    let redis = runtime.block_on(cluster.any_store());
    let (config, tally) = (config(), Tally::default());
    let seed = config.rng_seed;
    println!("{} cases, {seed:?}", config.cases);
    let since = event::now_ms();
    let outcome = play_all(&runtime, &redis, config, &tally);
    if let Err(TestError::Fail(why, steps)) = &outcome {
        panic!("{seed:?}: {why}\nin {steps:#?}");
    }
    assert!(outcome.is_ok(), "{outcome:?}");
    let tally = tally.0.into_inner();
    println!("{tally:?}");
    for (status, fewest) in [
        ("Applied", 150),
        ("Conflict", 50),
        ("Duplicate(None)", 20),
        ("Duplicate with outputs", 20),
    ] {
        assert!(
            tally.get(status).is_some_and(|n| *n > fewest),
            "too few {status}: {tally:?}"
        );
    }
    for status in ["Dead", "TooOld", "Clock", "IdReuse", "Invalid"] {
        assert!(
            tally.get(status).is_some_and(|n| *n > 10),
            "too few {status}: {tally:?}"
        );
    }
    marks_outlive_the_fence(&cluster, since);
}

/// Random runs that find nothing wrong with a store that is wrong are no test.
#[test]
fn each_broken_twin_disagrees() {
    let runtime = runtime();
    let cluster = runtime.block_on(Cluster::new(""));
    let twins = [
        (
            "seen-check off",
            "local status = mark and ",
            "local status = false and ",
        ),
        ("half a run", "return not run.statuses and (", "return ("),
        (
            "operations checked one by one",
            "plan.kinds[op.key] = want",
            "",
        ),
        (
            "outputs not listed",
            "redis.call('ZADD', index, now, key)",
            "",
        ),
        (
            "outputs of what was refused",
            "cut = cut or run.outbox > 0",
            "",
        ),
        (
            "content not compared",
            "if there[i + 1] ~= ARGV[at + known + i - 1] then return false end",
            "",
        ),
        (
            "more fields not noticed",
            "return redis.call('HLEN', run.row) == known + (there[1] and 1 or 0)",
            "return true",
        ),
        (
            "version not raised",
            "math.max(micros, run.version + 1)",
            "run.version",
        ),
    ];
    for (name, line, broken) in twins {
        cluster.redis_cli(&["FLUSHALL"]);
        cluster.redis_cli(&["FUNCTION", "FLUSH"]);
        let redis = runtime.block_on(cluster.any_store());
        break_library(&cluster, line, broken);
        let config = ProptestConfig {
            max_shrink_iters: 0,
            ..config()
        };
        let outcome = play_all(&runtime, &redis, config, &Tally::default());
        assert!(
            matches!(outcome, Err(TestError::Fail(..))),
            "nothing found with {name}: {outcome:?}"
        );
    }
}
