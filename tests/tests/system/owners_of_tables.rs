//! Rows of a table have one owner: a function under another name, or a second one, would count again what is in them.

use std::time::Duration;

use oncue_core::model::manifest::Manifest;
use oncue_core::store::Store;
use oncue_tests::cluster::{Cluster, until};

fn oncue(cluster: &Cluster, args: &[&str]) -> (i32, String) {
    let output = cluster.output("oncue", args);
    let text = [output.stdout, output.stderr].concat();
    (
        output.status.code().unwrap_or(-1),
        String::from_utf8_lossy(&text).into_owned(),
    )
}

#[track_caller]
fn refused(cluster: &Cluster, args: &[&str], words: &[&str]) {
    let (code, said) = oncue(cluster, args);
    assert_eq!(code, 1, "{args:?}: {said}");
    for word in words {
        assert!(said.contains(word), "{args:?}: {word:?} is not in\n{said}");
    }
}

#[track_caller]
fn taken(cluster: &Cluster, args: &[&str]) {
    let (code, said) = oncue(cluster, args);
    assert_eq!(code, 0, "{args:?}: {said}");
}

/// Function `count-views` as it was let in, under the name that it had before.
async fn under_its_former_name(cluster: &Cluster, store: &Store) -> Manifest {
    taken(cluster, &["apply"]);
    let known = store.functions().await.expect("Redis").remove(0).manifest;
    assert_eq!(known.name, "count-views");
    let forgotten = store.forget_function(&known.name, None).await;
    forgotten.expect("Redis");
    let former = Manifest {
        name: "count-pages".to_owned(),
        ..known
    };
    store.register(&former).await.expect("Redis");
    former
}

async fn one_view_counted(cluster: &Cluster, store: &Store) {
    let mut worker = cluster.start("count-views").await;
    let view = r#"{"page":"/","visitor":"v"}"#.to_owned();
    cluster.plain_publish([("web.page.viewed", view)]);
    until("it is counted", async || {
        (!cluster.row(store, "pages", "/").await.is_empty()).then_some(())
    })
    .await;
    worker.stop().await;
}

#[tokio::test]
async fn a_function_under_another_name_does_not_count_again() {
    let cluster = Cluster::new("[functions.count-views]\n").await;
    let store = cluster.store().await;
    one_view_counted(&cluster, &store).await;
    let former = under_its_former_name(&cluster, &store).await;
    let said = [
        "the table pages",
        "those of count-pages",
        "gone from oncue.toml and not from the servers",
        "keep the name count-pages",
        "`oncue remove count-pages`",
    ];
    for command in ["check", "apply"] {
        refused(&cluster, &[command], &said);
    }
    // Gone from the servers as well, its rows are still what it has counted.
    let hour = Duration::from_hours(1);
    let forgotten = store.forget_function(&former.name, Some(hour)).await;
    forgotten.expect("Redis");
    let said = ["count-pages has written them", "keep the name count-pages"];
    for command in ["check", "apply"] {
        refused(&cluster, &[command], &said);
    }
    // Without rows nothing counts twice.
    let place = store.keys().row("pages", "/");
    cluster.redis_ok(&["DEL", &place]);
    taken(&cluster, &["apply"]);
    let owners = store.table_owners().await.expect("Redis");
    assert_eq!(owners["pages"], "count-views");
}

#[tokio::test]
async fn a_function_that_is_forgotten_leaves_its_rows_to_others() {
    let cluster = Cluster::new("[functions.count-views]\n").await;
    let store = cluster.store().await;
    one_view_counted(&cluster, &store).await;
    let former = under_its_former_name(&cluster, &store).await;
    let forgotten = store.forget_function(&former.name, None).await;
    forgotten.expect("Redis");
    taken(&cluster, &["apply"]);
}

/// The second owner is a script; the first is refused nothing.
#[tokio::test]
async fn a_table_that_two_functions_declare_is_the_first_ones() {
    let cluster = Cluster::new(
        "[functions.count-views]\n\
         [functions.a-rival]\nrun = [\"cat\"]\nprotocol = \"lines\"\non = [\"web.page.viewed\"]\ntable = \"pages\"\n",
    )
    .await;
    let said = [
        "table pages",
        "those of a-rival",
        "give count-views a table of its own",
    ];
    refused(&cluster, &["check", "--static"], &said);
    refused(&cluster, &["apply"], &said);
    // Who was let in first keeps it, whatever its name.
    let store = cluster.store().await;
    let forgotten = store.forget_function("a-rival", None).await;
    forgotten.expect("Redis");
    let _worker = cluster.start("count-views").await;
    refused(
        &cluster,
        &["apply"],
        &["a-rival writes rows", "those of count-views"],
    );
}

/// The demo has such a pair.
#[tokio::test]
async fn a_function_on_its_schedule_works_on_the_rows_of_another() {
    let cluster = Cluster::new(
        "[functions.rank-pages]\n[functions.publish-trends]\n\
         [[schedule]]\nfunction = \"publish-trends\"\nevery = \"1h\"\n",
    )
    .await;
    taken(&cluster, &["check"]);
    taken(&cluster, &["apply"]);
    taken(&cluster, &["apply"]);
}
