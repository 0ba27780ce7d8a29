//! One suite, both stores: whatever the map answers, Redis must answer, and the other way round.

use std::time::Duration;

use bytes::Bytes;
use oncue::testing::MapStore;
use oncue_core::store::{
    Change, CommitEvent, Entry, Expected, Keys, Mark, Op, Purpose, Read, RowChange, RowKey, Run,
    StateValue, Status, StoredOutputs,
};
use oncue_proto::event::{self, Incoming, Origin};
use oncue_tests::any_store::AnyStore;
use oncue_tests::cluster::Cluster;

use crate::twins::break_library;

mod marks;
mod places;
mod rows;

const HORIZON: u64 = 3_600_000;
/// Function of all events here.
const FUNCTION: &str = "suite";

pub fn handled(id: &str, key: &str) -> CommitEvent {
    handled_at(id, key, event::now_ms(), true)
}

fn handled_at(id: &str, key: &str, time: u64, timed: bool) -> CommitEvent {
    let origin = Origin {
        stream: "s",
        stream_created: 1,
        sequence: 1,
        published: time,
        subject: "web.page.viewed",
    };
    let Incoming { mut meta, .. } =
        event::read([].into_iter(), Bytes::new(), &origin).expect("a plain message");
    (meta.id, meta.timed) = (id.to_owned(), timed);
    let mark = Mark::new(FUNCTION, key, &meta, HORIZON);
    CommitEvent {
        mark,
        payload_hash: 7,
        ops: Vec::new(),
        outbox: Bytes::new(),
        purpose: Purpose::Apply,
        entry: None,
    }
}

fn with_ops(id: &str, key: &str, ops: Vec<(&'static str, Change)>) -> CommitEvent {
    let ops = ops
        .into_iter()
        .map(|(table, change)| Op { table, change })
        .collect();
    CommitEvent {
        ops,
        ..handled(id, key)
    }
}

fn run(
    key: &str,
    version: u64,
    set: &[(&str, &str)],
    del: &[&str],
    events: Vec<CommitEvent>,
) -> Run {
    let set = set
        .iter()
        .map(|(field, value)| ((*field).to_owned(), value.as_bytes().to_vec()))
        .collect();
    let del = del.iter().map(|field| (*field).to_owned()).collect();
    let key = RowKey {
        table: "rows",
        key: key.to_owned(),
    };
    Run {
        row: Some(RowChange {
            key,
            basis: Expected::Version(version),
            set,
            del,
        }),
        events,
    }
}

pub fn alone(event: CommitEvent) -> Run {
    Run {
        row: None,
        events: vec![event],
    }
}

/// Version 1 stands for the one the row has.
pub async fn commit(store: &AnyStore, mut run: Run) -> Vec<Status> {
    if let Some(row) = run
        .row
        .as_mut()
        .filter(|row| row.basis == Expected::Version(1))
    {
        let ask = Read {
            row: Some(row.key.clone()),
            marks: Vec::new(),
        };
        row.basis = Expected::Version(
            store
                .read(&[ask])
                .await
                .expect("a read")
                .remove(0)
                .row
                .version,
        );
    }
    store
        .commit(&[run])
        .await
        .expect("a commit")
        .statuses
        .remove(0)
}

/// Whether the row is there, as a version, and its fields.
async fn row(store: &AnyStore, key: &str) -> (u64, Vec<(String, String)>) {
    let ask = Read {
        row: Some(RowKey {
            table: "rows",
            key: key.to_owned(),
        }),
        marks: Vec::new(),
    };
    let row = store.read(&[ask]).await.expect("a read").remove(0).row;
    (
        row.version.min(1),
        row.fields
            .into_iter()
            .map(|(f, v)| (f, String::from_utf8(v).expect("text")))
            .collect(),
    )
}

fn fields(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs
        .iter()
        .map(|(f, v)| ((*f).to_owned(), (*v).to_owned()))
        .collect()
}

async fn an_event_is_applied_once_and_brings_its_neighbours_back(store: &AnyStore) {
    commit(
        store,
        run("/d", 0, &[("n", "1")], &[], vec![handled("d1", "/d")]),
    )
    .await;
    let again = run(
        "/d",
        1,
        &[("n", "3")],
        &[],
        vec![handled("d1", "/d"), handled("d2", "/d")],
    );
    assert_eq!(
        commit(store, again).await,
        [Status::Duplicate(None), Status::Conflict]
    );
    assert_eq!(row(store, "/d").await, (1, fields(&[("n", "1")])));
    let ask = Read {
        row: None,
        marks: vec![handled("d1", "/d").mark, handled("d2", "/d").mark],
    };
    assert_eq!(
        store.read(&[ask]).await.expect("a read")[0].seen,
        [true, false]
    );
}

async fn two_copies_in_one_run_are_not_both_applied(store: &AnyStore) {
    let twice = run(
        "/t",
        0,
        &[("n", "2")],
        &[],
        vec![handled("t1", "/t"), handled("t1", "/t")],
    );
    assert_eq!(
        commit(store, twice).await,
        [Status::Conflict, Status::Conflict]
    );
    assert_eq!(row(store, "/t").await, (0, Vec::new()));
}

fn with_outputs(id: &str, key: &str, outputs: &'static str) -> CommitEvent {
    CommitEvent {
        outbox: Bytes::from_static(outputs.as_bytes()),
        ..handled(id, key)
    }
}

/// Commits runs of one event each and says where their outputs wait.
async fn outbox(store: &AnyStore, events: &[CommitEvent]) -> String {
    let runs: Vec<Run> = events.iter().cloned().map(alone).collect();
    let committed = store.commit(&runs).await.expect("a commit");
    assert!(
        committed
            .statuses
            .iter()
            .flatten()
            .all(|status| *status == Status::Applied),
        "{committed:?}"
    );
    committed.outbox.expect("outputs wait")
}

/// Outputs that wait, or are kept, by where they do.
async fn waiting(store: &AnyStore, until: u64) -> Vec<(String, Vec<StoredOutputs>)> {
    let left = store.unpublished(FUNCTION, until).await.expect("a list");
    left.into_iter()
        .map(|left| (left.outbox_key, left.frames))
        .collect()
}

fn frame(event: &CommitEvent) -> StoredOutputs {
    StoredOutputs {
        id: event.mark.id,
        outputs: event.outbox.clone(),
    }
}

async fn outputs_wait_until_they_are_published(store: &AnyStore) {
    let now = event::now_ms();
    let events = [
        with_outputs("o1", "/o", "out"),
        handled("o2", "/o"),
        with_outputs("o3", "/other", "more"),
    ];
    let key = outbox(store, &events).await;
    // The second run's outputs are not taken: what the first has stored is what is published.
    let again = async |id, key| commit(store, alone(with_outputs(id, key, "again"))).await;
    assert_eq!(
        again("o1", "/o").await,
        [Status::Duplicate(Some(Bytes::from_static(b"out")))]
    );
    assert_eq!(
        again("o3", "/other").await,
        [Status::Duplicate(Some(Bytes::from_static(b"more")))]
    );
    assert_eq!(again("o2", "/o").await, [Status::Duplicate(None)]);
    let frames = vec![frame(&events[0]), frame(&events[2])];
    assert_eq!(waiting(store, now + 60_000).await, [(key.clone(), frames)]);
    assert_eq!(waiting(store, now - 60_000).await, []);
    store.published(&[key], false).await.expect("marked");
    assert_eq!(again("o1", "/o").await, [Status::Duplicate(None)]);
    assert_eq!(waiting(store, now + 60_000).await, []);
}

async fn a_refused_run_leaves_no_outputs(store: &AnyStore) {
    let first = outbox(store, &[with_outputs("w1", "/w", "first")]).await;
    store.published(&[first], false).await.expect("marked");
    let runs = [("w2", "before"), ("w1", "again"), ("w3", "behind")]
        .map(|(id, outputs)| with_outputs(id, "/w", outputs));
    let committed = store
        .commit(&runs.clone().map(alone))
        .await
        .expect("a commit");
    assert_eq!(
        committed.statuses,
        [
            [Status::Applied],
            [Status::Duplicate(None)],
            [Status::Applied]
        ]
    );
    let key = committed.outbox.expect("outputs wait");
    let frames = vec![frame(&runs[0]), frame(&runs[2])];
    assert_eq!(
        waiting(store, event::now_ms() + 60_000).await,
        [(key.clone(), frames)]
    );
    store.published(&[key], false).await.expect("marked");
    let committed = store
        .commit(&[alone(with_outputs("w2", "/w", "new"))])
        .await
        .expect("a commit");
    assert_eq!(
        committed.outbox, None,
        "nothing was applied, so nothing waits"
    );
}

async fn an_outbox_can_be_published_in_part(store: &AnyStore) {
    let now = event::now_ms();
    let events = [
        with_outputs("h1", "/half", "one"),
        with_outputs("h2", "/half", "two"),
    ];
    let key = outbox(store, &events).await;
    store
        .split(&key, &[frame(&events[1])], &[frame(&events[0])])
        .await
        .expect("split");
    assert_eq!(
        waiting(store, now + 60_000).await,
        [(key.clone(), vec![frame(&events[1])])]
    );
    let mut kept = store.kept(FUNCTION, now - 60_000, 0).await.expect("a list");
    kept.retain(|kept| kept.outbox_key.starts_with(&key));
    assert_eq!(
        kept.iter().map(|kept| &kept.frames[..]).collect::<Vec<_>>(),
        [[frame(&events[0])]]
    );
    assert_eq!(
        commit(store, alone(events[0].clone())).await,
        [Status::Duplicate(None)]
    );
    let two = Status::Duplicate(Some(Bytes::from_static(b"two")));
    assert_eq!(commit(store, alone(events[1].clone())).await, [two]);
    store.published(&[key], false).await.expect("marked");
    assert_eq!(waiting(store, now + 60_000).await, []);
}

async fn published_outputs_can_be_kept_for_a_while(store: &AnyStore) {
    let event = with_outputs("k1", "/kept", "kept");
    let key = outbox(store, std::slice::from_ref(&event)).await;
    let kept = async |since| -> Vec<String> {
        let kept = store.kept(FUNCTION, since, 0).await.expect("a list");
        let keys = kept.into_iter().map(|kept| kept.outbox_key);
        // Other parts of the suite keep outputs of the same function.
        keys.filter(|kept| *kept == key).collect()
    };
    let now = event::now_ms();
    assert!(kept(now - 60_000).await.is_empty(), "not published yet");
    store
        .published(std::slice::from_ref(&key), true)
        .await
        .expect("marked");
    assert_eq!(
        commit(store, alone(event)).await,
        [Status::Duplicate(None)],
        "it is published, so nothing is left to do"
    );
    assert_eq!(waiting(store, now + 60_000).await, []);
    assert_eq!(kept(now - 60_000).await, std::slice::from_ref(&key));
    assert!(kept(now + 60_000).await.is_empty());
    store.forget(FUNCTION, now - 60_000).await.expect("looked");
    assert_eq!(kept(now - 60_000).await, std::slice::from_ref(&key));
    store
        .forget(FUNCTION, now + 60_000)
        .await
        .expect("forgotten");
    assert!(kept(now - 60_000).await.is_empty());
}

async fn a_dead_letter_lives_again_only_for_a_later_redrive(store: &AnyStore) {
    let now = event::now_ms();
    let old = now - HORIZON - 60_000;
    let redriven = |number| {
        let mut event = handled_at("rd", "/rd", old, true);
        (event.mark.redrive, event.mark.fence) = (number, now);
        event
    };
    let seen = async |number| {
        let ask = Read {
            row: None,
            marks: vec![redriven(number).mark],
        };
        store.read(&[ask]).await.expect("a read")[0].seen[0]
    };
    commit(
        store,
        alone(CommitEvent {
            purpose: Purpose::DeadLetter,
            ..handled_at("rd", "/rd", old, true)
        }),
    )
    .await;
    assert_eq!(commit(store, alone(redriven(0))).await, [Status::Dead]);
    assert!(seen(0).await && !seen(1).await);
    // It failed again: the first redrive is spent, the second is not.
    assert_eq!(
        commit(
            store,
            alone(CommitEvent {
                purpose: Purpose::DeadLetter,
                ..redriven(1)
            })
        )
        .await,
        [Status::Applied]
    );
    assert_eq!(commit(store, alone(redriven(1))).await, [Status::Dead]);
    assert!(seen(1).await && !seen(2).await);
    assert_eq!(commit(store, alone(redriven(2))).await, [Status::Applied]);
    assert_eq!(
        commit(store, alone(redriven(2))).await,
        [Status::Duplicate(None)]
    );
    assert_eq!(
        commit(store, alone(redriven(3))).await,
        [Status::Duplicate(None)],
        "applied is applied"
    );
    assert!(seen(3).await);
    let count = async |number| {
        store
            .started(&[redriven(number).mark])
            .await
            .expect("counted")[0]
    };
    assert_eq!(
        (count(1).await, count(1).await, count(2).await),
        (1, 2, 1),
        "each redrive has attempts of its own"
    );
}

async fn the_age_fence_holds(store: &AnyStore) {
    let now = event::now_ms();
    let cases = [
        ("old", now - HORIZON - 60_000, Status::TooOld),
        ("young", now - HORIZON + 60_000, Status::Applied),
        ("ahead", now + 1_800_000, Status::Applied),
        ("future", now + 7_200_000, Status::Clock),
    ];
    for (id, time, expected) in cases {
        assert_eq!(
            commit(store, alone(handled_at(id, "/f", time, true))).await,
            [expected],
            "{id}"
        );
    }
    // A dead letter is recorded however old the event is, and then stays dead.
    let dead = CommitEvent {
        purpose: Purpose::DeadLetter,
        ..handled_at("old", "/f", now - HORIZON - 60_000, true)
    };
    assert_eq!(commit(store, alone(dead)).await, [Status::Applied]);
    assert_eq!(
        commit(
            store,
            alone(handled_at("old", "/f", now - HORIZON - 60_000, true))
        )
        .await,
        [Status::Dead]
    );
}

async fn an_untimed_event_is_known_under_another_time(store: &AnyStore) {
    let now = event::now_ms();
    assert_eq!(
        commit(
            store,
            alone(handled_at("u1", "/u", now - HORIZON / 2, false))
        )
        .await,
        [Status::Applied]
    );
    assert_eq!(
        commit(store, alone(handled_at("u1", "/u", now, false))).await,
        [Status::Duplicate(None)]
    );
    // A copy that stands later in the stream may be handled first, on the other side of a bucket's end.
    let edge = now / HORIZON * HORIZON;
    assert_eq!(
        commit(store, alone(handled_at("u2", "/u", edge + 1000, false))).await,
        [Status::Applied]
    );
    assert_eq!(
        commit(store, alone(handled_at("u2", "/u", edge - 1000, false))).await,
        [Status::Duplicate(None)]
    );
    let ask = Read {
        row: None,
        marks: vec![handled_at("u1", "/u", now, false).mark],
    };
    assert_eq!(store.read(&[ask]).await.expect("a read")[0].seen, [true]);
}

/// Redis went back in time between the look-up and the commit: an event that was known is new again.
async fn asking_after_an_event_applies_nothing(store: &AnyStore) {
    let recall = CommitEvent {
        purpose: Purpose::Recall,
        ..handled("q1", "/q")
    };
    assert_eq!(
        commit(store, alone(recall.clone())).await,
        [Status::Conflict]
    );
    assert_eq!(
        commit(store, alone(handled("q1", "/q"))).await,
        [Status::Applied]
    );
    assert_eq!(
        commit(store, alone(recall)).await,
        [Status::Duplicate(None)]
    );
}

async fn an_id_with_another_payload_is_not_a_duplicate(store: &AnyStore) {
    commit(store, alone(handled("i1", "/i"))).await;
    let forged = CommitEvent {
        payload_hash: 8,
        ..handled("i1", "/i")
    };
    assert_eq!(commit(store, alone(forged)).await, [Status::IdReuse]);
    // The same where the first was set aside, but for what comes again itself.
    let dead = CommitEvent {
        purpose: Purpose::DeadLetter,
        ..handled("i2", "/i")
    };
    commit(store, alone(dead)).await;
    let another = CommitEvent {
        payload_hash: 8,
        ..handled("i2", "/i")
    };
    assert_eq!(commit(store, alone(another)).await, [Status::IdReuse]);
    let again = alone(handled("i2", "/i"));
    assert_eq!(commit(store, again).await, [Status::Dead]);
}

async fn blind_operations_commute(store: &AnyStore) {
    let add = |by| {
        (
            "hits",
            Change::Add {
                field: "n".into(),
                by,
            },
        )
    };
    for (id, ops) in [
        ("b1", vec![add(5)]),
        (
            "b2",
            vec![
                add(-2),
                (
                    "hits",
                    Change::Max {
                        field: "top".into(),
                        to: 4,
                    },
                ),
            ],
        ),
    ] {
        assert_eq!(
            commit(store, alone(with_ops(id, "/b", ops))).await,
            [Status::Applied]
        );
    }
    commit(
        store,
        alone(with_ops(
            "b3",
            "/b",
            vec![(
                "hits",
                Change::Max {
                    field: "top".into(),
                    to: 3,
                },
            )],
        )),
    )
    .await;
    let Some(StateValue::Row(hits)) = store.show("hits", "/b").await.expect("shown") else {
        panic!("no row")
    };
    assert_eq!(
        hits.fields,
        [
            ("n".to_owned(), b"3".to_vec()),
            ("top".to_owned(), b"4".to_vec())
        ]
    );
    for (n, member) in ["x", "y", "x", "z"].into_iter().enumerate() {
        let ops = vec![
            (
                "members",
                Change::SetAdd {
                    member: member.into(),
                },
            ),
            (
                "best",
                Change::TopN {
                    member: member.into(),
                    score: n as i64,
                    limit: 2,
                },
            ),
            (
                "kinds",
                Change::Distinct {
                    member: member.into(),
                },
            ),
        ];
        commit(store, alone(with_ops(&format!("m{n}"), "/b", ops))).await;
    }
    let Some(StateValue::Members(mut members)) = store.show("members", "/b").await.expect("shown")
    else {
        panic!("no set")
    };
    members.sort();
    assert_eq!(members, ["x", "y", "z"]);
    let best = StateValue::Ranking(vec![("z".into(), 3.0), ("x".into(), 2.0)]);
    assert_eq!(store.show("best", "/b").await.expect("shown"), Some(best));
    assert_eq!(
        store.show("kinds", "/b").await.expect("shown"),
        Some(StateValue::Count(3))
    );
}

fn add_to(table: &'static str, by: i64) -> (&'static str, Change) {
    (
        table,
        Change::Add {
            field: "n".into(),
            by,
        },
    )
}

#[allow(clippy::too_many_lines)] // one scenario, whose steps build on each other
async fn a_bad_operation_changes_nothing_at_all(store: &AnyStore) {
    commit(
        store,
        alone(with_ops(
            "v1",
            "/v",
            vec![("things", Change::SetAdd { member: "x".into() })],
        )),
    )
    .await;
    let add = (
        "counts",
        Change::Add {
            field: "n".into(),
            by: 1,
        },
    );
    let clash = (
        "things",
        Change::Add {
            field: "n".into(),
            by: 1,
        },
    );
    let bad = with_ops("v2", "/v", vec![add, clash]);
    let status = commit(
        store,
        run("/v", 0, &[("a", "1")], &[], vec![handled("v3", "/v"), bad]),
    )
    .await;
    assert_eq!(
        status,
        [Status::Conflict, Status::Invalid("add on a set".into())]
    );
    assert_eq!(row(store, "/v").await, (0, Vec::new()));
    assert_eq!(store.show("counts", "/v").await.expect("shown"), None);
    // Against each other as well as against what is there: nothing half applied.
    let clashing = vec![
        add_to("mixed", 1),
        ("mixed", Change::SetAdd { member: "x".into() }),
    ];
    assert_eq!(
        commit(store, alone(with_ops("v6", "/v", clashing))).await,
        [Status::Invalid("sadd on a hash".into())]
    );
    assert_eq!(store.show("mixed", "/v").await.expect("shown"), None);
    let halves = ["v7", "v8"]
        .map(|id| with_ops(id, "/v", vec![add_to("halves", 8_000_000_000_000_000_000)]));
    let status = commit(store, run("/v", 0, &[("a", "1")], &[], halves.to_vec())).await;
    assert_eq!(
        status,
        [Status::Conflict, Status::Invalid("add overflows".into())]
    );
    assert_eq!(
        (
            row(store, "/v").await,
            store.show("halves", "/v").await.expect("shown")
        ),
        ((0, Vec::new()), None)
    );
    let odd = run("/odd", 0, &[("n", "007")], &[], vec![handled("v9", "/odd")]);
    commit(store, odd).await;
    let bad = alone(with_ops("v10", "/odd", vec![add_to("rows", 1)]));
    assert_eq!(
        commit(store, bad).await,
        [Status::Invalid(
            "add on a field that holds no integer".into()
        )]
    );
    let max = |id, to| {
        alone(with_ops(
            id,
            "/v",
            vec![(
                "stamps",
                Change::Max {
                    field: "n".into(),
                    to,
                },
            )],
        ))
    };
    for (id, to) in [
        ("v11", 9_007_199_254_740_992),
        ("v12", 9_007_199_254_740_993),
        ("v13", -5),
    ] {
        assert_eq!(commit(store, max(id, to)).await, [Status::Applied]);
    }
    let Some(StateValue::Row(stamps)) = store.show("stamps", "/v").await.expect("shown") else {
        panic!("no row")
    };
    assert_eq!(
        stamps.fields,
        [("n".to_owned(), b"9007199254740993".to_vec())]
    );
    let overflow = |id, by| {
        with_ops(
            id,
            "/v",
            vec![(
                "big",
                Change::Add {
                    field: "n".into(),
                    by,
                },
            )],
        )
    };
    assert_eq!(
        commit(store, alone(overflow("v4", i64::MAX / 2))).await,
        [Status::Applied]
    );
    assert_eq!(
        commit(store, alone(overflow("v5", i64::MAX))).await,
        [Status::Invalid("add overflows".into())]
    );
}

async fn one_bad_run_does_not_fail_its_neighbours(store: &AnyStore) {
    commit(
        store,
        run("/n", 0, &[("a", "1")], &[], vec![handled("n1", "/n")]),
    )
    .await;
    let stale = run("/n", 0, &[("a", "2")], &[], vec![handled("n2", "/n")]);
    let fine = run("/n2", 0, &[("a", "1")], &[], vec![handled("n3", "/n2")]);
    let statuses = store
        .commit(&[stale, fine])
        .await
        .expect("a commit")
        .statuses;
    assert_eq!(statuses, [[Status::Conflict], [Status::Applied]]);
}

async fn runs_are_counted(store: &AnyStore) {
    let (one, other) = (handled("s1", "/s").mark, handled("s2", "/s").mark);
    assert_eq!(
        store
            .started(&[one.clone(), other.clone()])
            .await
            .expect("counted"),
        [1, 1]
    );
    assert_eq!(store.started(&[one]).await.expect("counted"), [2]);
    let other = [other];
    assert_eq!(store.started(&other).await.expect("counted"), [2]);
    // Nobody's failure: taken back, also before anything was counted.
    store.uncount(&other[0]).await.expect("taken back");
    assert_eq!(store.started(&other).await.expect("counted"), [2]);
    let first = [handled("s3", "/s").mark];
    store.uncount(&first[0]).await.expect("taken back");
    assert_eq!(store.started(&first).await.expect("counted"), [0]);
    assert_eq!(store.started(&first).await.expect("counted"), [1]);
}

pub async fn suite(store: &AnyStore) {
    runs_are_counted(store).await;
    rows::all(store).await;
    an_event_is_applied_once_and_brings_its_neighbours_back(store).await;
    two_copies_in_one_run_are_not_both_applied(store).await;
    outputs_wait_until_they_are_published(store).await;
    a_refused_run_leaves_no_outputs(store).await;
    an_outbox_can_be_published_in_part(store).await;
    published_outputs_can_be_kept_for_a_while(store).await;
    a_dead_letter_lives_again_only_for_a_later_redrive(store).await;
    the_age_fence_holds(store).await;
    an_untimed_event_is_known_under_another_time(store).await;
    asking_after_an_event_applies_nothing(store).await;
    an_id_with_another_payload_is_not_a_duplicate(store).await;
    blind_operations_commute(store).await;
    a_bad_operation_changes_nothing_at_all(store).await;
    one_bad_run_does_not_fail_its_neighbours(store).await;
    places::a_mark_says_where_its_event_stands(store).await;
    marks::a_mark_is_found_by_the_id_alone(store).await;
}

#[tokio::test]
async fn the_map_passes_the_suite() {
    suite(&AnyStore::Map(MapStore::default())).await;
}

#[tokio::test]
async fn redis_passes_the_suite() {
    let cluster = Cluster::new("").await;
    suite(&cluster.any_store().await).await;
    // Every mark expires, so that memory follows the horizon and not history.
    let marks = cluster.redis_cli(&["--scan", "--pattern", "app:d:*"]);
    assert!(marks.lines().count() > 0, "no marks were made");
    for key in marks.lines() {
        let ttl: i64 = cluster.redis_cli(&["TTL", key]).parse().expect("a number");
        assert!(ttl > 0, "{key} never expires");
    }
}

#[tokio::test]
async fn a_library_that_is_gone_is_waited_for() {
    let cluster = Cluster::new("").await;
    let store = cluster.any_store().await;
    cluster.redis_cli(&["FUNCTION", "FLUSH"]);
    let refused = store.commit(&[alone(handled("again", "/x"))]).await;
    let refused = refused.expect_err("nothing can be committed");
    assert!(refused.away, "it will be back: {refused}");
    cluster.store().await.lay_out().await.expect("loaded");
    assert_eq!(
        commit(&store, alone(handled("again", "/x"))).await,
        [Status::Applied]
    );
}

/// Outputs are written before the commit that names them. If that is never made, they go by themselves.
#[tokio::test]
async fn outputs_of_a_commit_that_never_came_expire() {
    let cluster = Cluster::new("").await;
    let store = cluster.any_store().await;
    let left = || {
        let key = cluster.redis_cli(&["--scan", "--pattern", "*:o:suite:*"]);
        let seconds: i64 = cluster.redis_cli(&["TTL", &key]).parse().expect("seconds");
        (key, seconds)
    };
    let commit = "local function commit(KEYS, ARGV)";
    break_library(
        &cluster,
        commit,
        &format!("{commit} do return redis.error_reply('BROKEN') end"),
    );
    store
        .commit(&[alone(with_outputs("never", "/never", "lost"))])
        .await
        .expect_err("no commit");
    let (key, seconds) = left();
    assert!(
        !key.is_empty() && (1..=60).contains(&seconds),
        "{key:?} stays for {seconds} s"
    );
    cluster.redis_cli(&["DEL", &key]);
    cluster.redis_cli(&["FUNCTION", "FLUSH"]);
    let store = cluster.any_store().await;
    outbox(&store, &[with_outputs("made", "/made", "kept")]).await;
    assert_eq!(
        left().1,
        -1,
        "what is committed stays until it is published"
    );
}

/// A ledger opens no step for others by an event that one function alone was sent, and stays for as long as the longest that was
/// asked for.
#[tokio::test]
async fn a_ledger_waits_for_nobody_who_is_not_asked() {
    let cluster = Cluster::new("").await;
    let store = cluster.any_store().await;
    for function in [FUNCTION, "other"] {
        cluster.redis_ok(&["SADD", "app:l:web.page.viewed", function]);
    }
    let ledger = Keys::default().flow("f");
    let entry = |id: &str, keep: u64, is_own: bool| Entry {
        flow: "f".to_owned(),
        keep: Duration::from_secs(keep),
        id: id.to_owned(),
        ty: "web.page.viewed".to_owned(),
        content: "[]".to_owned(),
        is_own,
        follows: Vec::new(),
    };
    let mut open = Vec::new();
    for (id, keep, is_own) in [
        ("edited", 1000, true),
        ("all", 5000, false),
        ("late", 100, true),
    ] {
        let event = CommitEvent {
            entry: Some(Box::new(entry(id, keep, is_own))),
            ..handled(id, "/")
        };
        assert_eq!(commit(&store, alone(event)).await, [Status::Applied]);
        let other = cluster.redis_ok(&["HEXISTS", &ledger, &format!("s:{id}:other")]);
        open.push(other);
    }
    assert_eq!(open, ["0", "1", "0"]);
    assert_eq!(cluster.redis_ok(&["HGET", &ledger, "n"]), "1");
    let ttl: u64 = cluster.redis_ok(&["TTL", &ledger]).parse().expect("a time");
    assert!((4000..=5000).contains(&ttl), "{ttl}");
}
