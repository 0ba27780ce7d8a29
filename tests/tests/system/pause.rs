//! A function that an operator pauses gets no event, whoever starts meanwhile, and all of them afterwards.

use std::time::Duration;

use oncue_tests::cluster::{Cluster, until};

const APP: &str = "[functions.count-views]\n";

fn oncue(cluster: &Cluster, args: &[&str]) -> (Option<i32>, String) {
    let output = cluster.output("oncue", args);
    let said = [output.stdout, output.stderr].concat();
    (
        output.status.code(),
        String::from_utf8_lossy(&said).into_owned(),
    )
}

fn view(cluster: &Cluster, count: usize) {
    let view = r#"{"page":"/","visitor":"v"}"#.to_owned();
    cluster.plain_publish((0..count).map(|_| ("web.page.viewed", view.clone())));
}

async fn counted(cluster: &Cluster, views: usize) {
    let store = cluster.store().await;
    until("the views are counted", async || {
        let row = cluster.row(&store, "pages", "/").await;
        (row.get("views") == Some(&views.to_string())).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_paused_function_gets_its_events_afterwards() {
    let cluster = Cluster::new(APP).await;
    let _worker = cluster.start("count-views").await;
    view(&cluster, 3);
    counted(&cluster, 3).await;
    let (code, said) = oncue(&cluster, &["pause", "count-views", "nobody"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(
        said.contains("nobody") && said.contains("it has count-views"),
        "{said}"
    );
    let (code, said) = oncue(&cluster, &["resume", "count-views"]);
    assert!(code == Some(0) && said.contains("was not paused"), "{said}");
    let (code, said) = oncue(&cluster, &["pause", "count-views"]);
    assert!(
        code == Some(0) && said.contains("`oncue resume count-views`"),
        "{said}"
    );
    view(&cluster, 4);
    // A worker that starts, and a layout that is applied, leave it as it is.
    let _other = cluster.start("count-views").await;
    let (code, said) = oncue(&cluster, &["apply"]);
    assert_eq!(code, Some(0), "{said}");
    tokio::time::sleep(Duration::from_secs(2)).await;
    counted(&cluster, 3).await;
    let (_, said) = oncue(&cluster, &["ps"]);
    assert!(said.contains("paused"), "{said}");
    let (code, said) = oncue(&cluster, &["doctor"]);
    assert!(
        code == Some(1) && said.contains("`oncue resume count-views`"),
        "{said}"
    );
    let (code, said) = oncue(&cluster, &["resume", "count-views"]);
    assert!(
        code == Some(0) && said.contains("gets its events again"),
        "{said}"
    );
    counted(&cluster, 7).await;
    // A pause with an end ends by itself.
    let (code, said) = oncue(&cluster, &["pause", "count-views", "--for", "3s"]);
    assert_eq!(code, Some(0), "{said}");
    view(&cluster, 2);
    counted(&cluster, 9).await;
    let (code, said) = oncue(&cluster, &["audit"]);
    assert_eq!(code, Some(0), "{said}");
}
