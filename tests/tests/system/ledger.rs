//! The flow ledger as Redis holds it, read by the library. The fields are written here as a worker writes them.

use std::time::Duration;

use oncue_core::model::flow::StepState;
use oncue_core::store::Keys;
use oncue_tests::cluster::Cluster;
use oncue_tests::events::root;

#[tokio::test]
async fn a_tracked_flow_from_its_root_to_its_end() {
    let cluster = Cluster::new("").await;
    let store = cluster.store().await;
    let keep = Duration::from_mins(1);
    cluster.redis_cli(&[
        "SADD",
        &Keys::default().listeners("web.page.viewed"),
        "count-views",
        "watch-views",
    ]);
    for id in ["a b:c", &"ü".repeat(64)] {
        assert!(store.flow(id).await.expect("asked").is_none());
        assert!(
            store
                .track(&root(id), "/home", keep)
                .await
                .expect("tracked")
        );
        let key = Keys::default().flow(id);
        let ttl: u64 = cluster.redis_cli(&["TTL", &key]).parse().expect("a number");
        assert!((1..=60).contains(&ttl), "it expires: {ttl}");
        let flow = store.flow(id).await.expect("asked").expect("tracked");
        assert_eq!(
            (
                flow.open,
                flow.events[0].id.as_str(),
                flow.events[0].key.as_str()
            ),
            (2, id, "/home")
        );

        cluster.redis_cli(&[
            "HSET",
            &key,
            &format!("s:{id}:count-views"),
            "d 9",
            "n",
            "1",
        ]);
        cluster.redis_cli(&[
            "HSET",
            &key,
            "e:next",
            &format!(r#"["web.page.milestone","/home","/count-views","{id}",8]"#),
        ]);
        assert!(
            !store
                .track(&root(id), "/home", keep)
                .await
                .expect("tracked"),
            "what is known stays"
        );
        let flow = store.flow(id).await.expect("asked").expect("tracked");
        let states: Vec<StepState> = flow.steps().map(|step| step.state).collect();
        assert_eq!(
            (flow.open, states),
            (1, vec![StepState::Done, StepState::Pending])
        );
        assert_eq!(
            (flow.events[1].id.as_str(), flow.events[1].depth),
            ("next", 1)
        );

        store.untrack(id).await.expect("taken back");
        assert!(store.flow(id).await.expect("asked").is_none());
    }
    // Nobody listens: complete at once.
    cluster.redis_cli(&["DEL", &Keys::default().listeners("web.page.viewed")]);
    store
        .track(&root("alone"), "/home", keep)
        .await
        .expect("tracked");
    let flow = store.flow("alone").await.expect("asked").expect("tracked");
    assert!(flow.is_complete() && flow.ended.is_some(), "{flow:?}");
}

#[tokio::test]
async fn what_is_no_ledger_is_an_error_that_says_so() {
    let cluster = Cluster::new("").await;
    let store = cluster.store().await;
    cluster.redis_cli(&["SET", &Keys::default().flow("text"), "x"]);
    let why = store.flow("text").await.expect_err("no hash");
    assert!(why.message.contains("WRONGTYPE") && !why.away, "{why}");
    cluster.redis_cli(&[
        "HSET",
        &Keys::default().flow("odd"),
        "n",
        "x",
        "\u{1}",
        "\u{2}",
        "s:odd:f",
        "",
    ]);
    assert_eq!(
        store.flow("odd").await.expect("asked").expect("there").open,
        1
    );
}

#[tokio::test]
async fn observed_edges_and_functions() {
    let cluster = Cluster::new("").await;
    let store = cluster.store().await;
    assert!(
        store.edges().await.expect("asked").is_empty()
            && store.functions().await.expect("asked").is_empty()
    );
    let edge = "/gateway\tweb.page.viewed\tcount-views";
    cluster.redis_cli(&["HINCRBY", "app:edges", edge, "3"]);
    cluster.redis_cli(&["HSET", "app:edges:at", edge, "77"]);
    let edges = store.edges().await.expect("asked");
    assert_eq!(
        (edges.len(), edges[0].count, edges[0].last),
        (1, 3, Some(77))
    );
    assert_eq!(
        (&*edges[0].source, &*edges[0].ty, &*edges[0].function),
        ("/gateway", "web.page.viewed", "count-views")
    );
    let manifest = cluster.output("count-views", &["--manifest"]);
    let mut manifest: serde_json::Value =
        serde_json::from_slice(&manifest.stdout).expect("a manifest");
    manifest["seen"] = 99.into();
    cluster.redis_cli(&[
        "HSET",
        "app:functions",
        "count-views",
        &manifest.to_string(),
    ]);
    let functions = store.functions().await.expect("asked");
    assert_eq!(
        (functions[0].manifest.name.as_str(), functions[0].seen),
        ("count-views", 99)
    );
    assert_eq!(functions[0].manifest.triggers, ["web.page.viewed"]);
}
