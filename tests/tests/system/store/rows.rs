//! Rows: written whole or not at all, and only on what the handlers saw.

use oncue_core::store::{Change, Expected, Read, RowKey, Status};
use oncue_tests::any_store::AnyStore;

use super::{alone, commit, fields, handled, row, run, with_ops};

pub async fn all(store: &AnyStore) {
    rows_are_written_whole_and_versioned(store).await;
    a_row_that_moved_refuses_the_whole_run(store).await;
    a_remembered_row_is_compared_whole(store).await;
    a_blind_change_moves_the_row(store).await;
}

async fn rows_are_written_whole_and_versioned(store: &AnyStore) {
    let status = commit(
        store,
        run(
            "/r",
            0,
            &[("a", "1"), ("b", "x")],
            &[],
            vec![handled("r1", "/r"), handled("r2", "/r")],
        ),
    )
    .await;
    assert_eq!(status, [Status::Applied, Status::Applied]);
    assert_eq!(
        row(store, "/r").await,
        (1, fields(&[("a", "1"), ("b", "x")]))
    );
    assert_eq!(
        commit(
            store,
            run("/r", 1, &[("a", "2")], &["b"], vec![handled("r3", "/r")])
        )
        .await,
        [Status::Applied]
    );
    assert_eq!(row(store, "/r").await, (1, fields(&[("a", "2")])));
}

async fn a_remembered_row_is_compared_whole(store: &AnyStore) {
    let remembered = async |id: &str, known: &[(&str, &str)], set: &[(&str, &str)]| {
        let mut run = run("/k", 0, set, &[], vec![handled(id, "/k")]);
        let known = known
            .iter()
            .map(|(field, value)| ((*field).to_owned(), value.as_bytes().to_vec()))
            .collect();
        run.row.as_mut().expect("a row").basis = Expected::Fields(known);
        commit(store, run).await
    };
    assert_eq!(
        remembered("kept1", &[("a", "1")], &[("a", "2")]).await,
        [Status::Conflict],
        "there is none"
    );
    assert_eq!(
        remembered("kept1", &[], &[("a", "1"), ("_v", "x")]).await,
        [Status::Applied]
    );
    for known in [
        &[][..],
        &[("a", "1")],
        &[("a", "9"), ("_v", "x")],
        &[("a", "1"), ("_v", "x"), ("b", "")],
    ] {
        assert_eq!(
            remembered("kept2", known, &[("a", "2")]).await,
            [Status::Conflict],
            "{known:?}"
        );
    }
    assert_eq!(
        remembered("kept2", &[("_v", "x"), ("a", "1")], &[("a", "2")]).await,
        [Status::Applied]
    );
    assert_eq!(
        row(store, "/k").await,
        (1, fields(&[("_v", "x"), ("a", "2")]))
    );
}

/// What one function adds to a row that another holds is not written over by what that made of the old one.
async fn a_blind_change_moves_the_row(store: &AnyStore) {
    let held = async || {
        let ask = Read {
            row: Some(RowKey {
                table: "rows",
                key: "/b".to_owned(),
            }),
            marks: Vec::new(),
        };
        store
            .read(&[ask])
            .await
            .expect("a read")
            .remove(0)
            .row
            .version
    };
    // The first makes the row, which was read when there was none.
    for (id, change) in [
        (
            "blind1",
            Change::Add {
                field: "n".into(),
                by: 1,
            },
        ),
        (
            "blind2",
            Change::Add {
                field: "n".into(),
                by: 5,
            },
        ),
        (
            "blind3",
            Change::Max {
                field: "n".into(),
                to: 9,
            },
        ),
    ] {
        let version = held().await;
        assert_eq!(
            commit(store, alone(with_ops(id, "/b", vec![("rows", change)]))).await,
            [Status::Applied]
        );
        let old = run(
            "/b",
            version,
            &[("n", "2")],
            &[],
            vec![handled("blind4", "/b")],
        );
        assert_eq!(commit(store, old).await, [Status::Conflict]);
    }
    let (version, lower) = (
        held().await,
        Change::Max {
            field: "n".into(),
            to: 3,
        },
    );
    commit(
        store,
        alone(with_ops("blind5", "/b", vec![("rows", lower)])),
    )
    .await;
    assert_eq!(
        (held().await, row(store, "/b").await.1),
        (version, fields(&[("n", "9")])),
        "nothing was changed"
    );
}

async fn a_row_that_moved_refuses_the_whole_run(store: &AnyStore) {
    commit(
        store,
        run("/c", 0, &[("a", "1")], &[], vec![handled("c1", "/c")]),
    )
    .await;
    let stale = run(
        "/c",
        0,
        &[("a", "9")],
        &[],
        vec![handled("c2", "/c"), handled("c3", "/c")],
    );
    assert_eq!(
        commit(store, stale).await,
        [Status::Conflict, Status::Conflict]
    );
    assert_eq!(row(store, "/c").await, (1, fields(&[("a", "1")])));
    // Nothing of the refused run was marked as seen: it can be run again.
    assert_eq!(
        commit(
            store,
            run("/c", 1, &[("a", "2")], &[], vec![handled("c2", "/c")])
        )
        .await,
        [Status::Applied]
    );
}
