//! What was once wrong with the store, each on a real Redis, named after what broke.

use bytes::Bytes;
use oncue::testing::MapStore;
use oncue_core::store::{
    Change, CommitEvent, Expected, Keys, Mark, Op, Purpose, Read, Row, RowChange, RowKey, Run,
    StateValue, Status,
};
use oncue_proto::event::{self, Meta, Origin};
use oncue_tests::any_store::AnyStore;
use oncue_tests::cluster::Cluster;

const KEY: &str = "/known";

fn handled(id: &str, ops: Vec<(&'static str, Change)>) -> CommitEvent {
    let now = event::now_ms();
    let origin = Origin {
        stream: "s",
        stream_created: 1,
        sequence: 1,
        published: now,
        subject: "web.page.viewed",
    };
    let mark = Mark::new(
        "known",
        KEY,
        &Meta {
            id: id.to_owned(),
            ..Meta::of_origin(&origin)
        },
        3_600_000,
    );
    let ops = ops
        .into_iter()
        .map(|(table, change)| Op { table, change })
        .collect();
    CommitEvent {
        mark,
        payload_hash: 7,
        ops,
        outbox: Bytes::new(),
        purpose: Purpose::Apply,
        entry: None,
    }
}

fn row_key_of_test() -> RowKey {
    RowKey {
        table: "rows",
        key: KEY.to_owned(),
    }
}

/// A run of one event on the row.
fn sets(id: &str, version: u64, fields: &[(&str, &str)]) -> Run {
    let set = fields
        .iter()
        .map(|(field, value)| ((*field).to_owned(), value.as_bytes().to_vec()))
        .collect();
    let row = RowChange {
        key: row_key_of_test(),
        basis: Expected::Version(version),
        set,
        del: Vec::new(),
    };
    Run {
        row: Some(row),
        events: vec![handled(id, Vec::new())],
    }
}

fn max(to: i64) -> (&'static str, Change) {
    (
        "best",
        Change::Max {
            field: "n".into(),
            to,
        },
    )
}

fn add(by: i64) -> (&'static str, Change) {
    (
        "sums",
        Change::Add {
            field: "n".into(),
            by,
        },
    )
}

async fn commit(store: &AnyStore, run: Run) -> Vec<Status> {
    store
        .commit(&[run])
        .await
        .expect("a commit")
        .statuses
        .remove(0)
}

async fn row(store: &AnyStore) -> Row {
    let ask = Read {
        row: Some(row_key_of_test()),
        marks: Vec::new(),
    };
    store.read(&[ask]).await.expect("a read").remove(0).row
}

async fn version(store: &AnyStore) -> u64 {
    row(store).await.version
}

async fn fields(store: &AnyStore) -> Vec<(String, Vec<u8>)> {
    row(store).await.fields
}

/// As `model` found it: a sum to which three events add 10, 1 and 100. Redis loses the first and goes on with the second; a
/// worker that read the sum before, and holds the third, must not find the version it knows.
#[tokio::test]
async fn a_row_kept_through_a_rollback_overwrote_another() {
    let cluster = Cluster::new("").await;
    let store = cluster.any_store().await;
    assert_eq!(
        commit(&store, sets("first", 0, &[("sum", "10")])).await,
        [Status::Applied]
    );
    let held = version(&store).await;
    cluster.redis_cli(&["DEL", &Keys::default().row("rows", KEY)]);
    assert_eq!(cluster.redis_cli(&["DEL", "app:d:known"]), "1");
    assert_eq!(
        commit(&store, sets("second", 0, &[("sum", "1")])).await,
        [Status::Applied]
    );
    assert_eq!(
        commit(&store, sets("third", held, &[("sum", "110")])).await,
        [Status::Conflict]
    );
    assert_eq!(fields(&store).await, [("sum".to_owned(), b"1".to_vec())]);
}

/// The bound was checked against a field that is not there as if it were 0, and then the number itself was written.
#[tokio::test]
async fn the_lowest_number_stuck() {
    let cluster = Cluster::new("").await;
    let store = cluster.any_store().await;
    let alone = |event| Run {
        row: None,
        events: vec![event],
    };
    let refused = [Status::Invalid("max overflows".into())];
    assert_eq!(
        commit(&store, alone(handled("lowest", vec![max(i64::MIN)]))).await,
        refused
    );
    assert_eq!(
        commit(&store, alone(handled("higher", vec![max(5)]))).await,
        [Status::Applied]
    );
}

/// What a refused event would have done was counted when the next one of its run was checked, and `invalid` is a dead
/// letter, not another try.
#[tokio::test]
async fn a_bad_event_condemned_its_neighbour() {
    let cluster = Cluster::new("").await;
    let much = 8_000_000_000_000_000_000;
    for store in [
        cluster.any_store().await,
        AnyStore::Map(MapStore::default()),
    ] {
        let clash = ("sums", Change::SetAdd { member: "x".into() });
        let events = vec![
            handled("bad", vec![add(much), clash]),
            handled("good", vec![add(much)]),
        ];
        let refused = [Status::Invalid("sadd on a hash".into()), Status::Conflict];
        assert_eq!(commit(&store, Run { row: None, events }).await, refused);
        let alone = Run {
            row: None,
            events: vec![handled("good", vec![add(much)])],
        };
        assert_eq!(commit(&store, alone).await, [Status::Applied]);
    }
}

/// `_v` is where the version is kept; an author, or data that become field names, may use the name all the same.
#[tokio::test]
async fn a_field_named_as_the_version_was_lost() {
    let cluster = Cluster::new("").await;
    let store = cluster.any_store().await;
    assert_eq!(
        commit(
            &store,
            sets("row", 0, &[("__v", "yours"), ("_v", "mine"), ("a", "1")])
        )
        .await,
        [Status::Applied]
    );
    let expected = [("__v", "yours"), ("_v", "mine"), ("a", "1")]
        .map(|(f, v)| (f.to_owned(), v.as_bytes().to_vec()));
    assert_eq!(fields(&store).await, expected);
    let counted = (
        "counts",
        Change::Add {
            field: "_v".into(),
            by: 3,
        },
    );
    let alone = Run {
        row: None,
        events: vec![handled("count", vec![counted])],
    };
    assert_eq!(commit(&store, alone).await, [Status::Applied]);
    let Some(StateValue::Row(row)) = store.show("counts", KEY).await.expect("shown") else {
        panic!("no row")
    };
    assert!(row.version > 0);
    assert_eq!(row.fields, [("_v".to_owned(), b"3".to_vec())]);
}

/// A long key is stored under `~` and its hash, and so was a short key that is spelled that way, if it has the partition.
#[test]
fn two_keys_shared_a_row() {
    let spelled = |long: &str| {
        let redis = Keys::default().row("rows", long);
        redis.rsplit(':').next().unwrap_or_default().to_owned()
    };
    let long = (0..10_000).map(|n| format!("{n}{}", "k".repeat(256)));
    let long = long
        .into_iter()
        .find(|long| event::partition(long) == event::partition(&spelled(long)));
    let long = long.expect("one key in 256 will do");
    assert_ne!(
        Keys::default().row("rows", &long),
        Keys::default().row("rows", &spelled(&long))
    );
}
