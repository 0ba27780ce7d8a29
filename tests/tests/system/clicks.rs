//! The click flow: counts exact, milestones once, ranking and trends follow.

use std::collections::{BTreeMap, HashSet};

use oncue_app_events::web::{PageMilestone, TrendsPublished};
use oncue_core::bus::layout::{Mode, ScheduleChange};
use oncue_core::config::Config;
use oncue_tests::cluster::{Cluster, QUICK_REDELIVERY, until};
use prost::Message as _;

fn click(n: usize, pages: usize) -> (&'static str, String) {
    (
        "web.page.viewed",
        format!(
            r#"{{"page":"/p{}","visitor":"v{}","newer":{{"field":1}}}}"#,
            n % pages,
            n % 7
        ),
    )
}

/// Messages of one type in a stream, by id.
async fn milestones(cluster: &Cluster) -> Vec<(String, PageMilestone)> {
    let messages = cluster.messages(&cluster.bus().await, "web").await;
    let milestones = messages
        .into_iter()
        .filter(|m| m.subject.starts_with("web.page.milestone"));
    let read = |m: oncue_tests::cluster::Stored| {
        (
            m.header("ce-id").expect("an id").to_owned(),
            PageMilestone::decode(&m.payload[..]).expect("a milestone"),
        )
    };
    milestones.map(read).collect()
}

#[tokio::test]
async fn ten_thousand_clicks_by_three_workers_count_exactly() {
    let cluster = Cluster::new("").await;
    let _workers = cluster
        .start_all(&["count-views", "count-views", "count-views", "rank-pages"])
        .await;
    cluster.plain_publish((0..10_000).map(|n| click(n, 100)));
    let (bus, store) = (cluster.bus().await, cluster.store().await);
    cluster.drained(&bus, "web", "count-views").await;
    cluster.drained(&bus, "web", "rank-pages").await;

    for page in 0..100 {
        assert_eq!(
            cluster
                .field(&store, "pages", &format!("/p{page}"), "views")
                .await,
            "100",
            "/p{page}"
        );
        assert_eq!(
            cluster
                .field(&store, "rankings", "all", &format!("/p{page}"))
                .await,
            "100",
            "ranking of /p{page}"
        );
    }
    let milestones = milestones(&cluster).await;
    let ids: HashSet<&String> = milestones.iter().map(|(id, _)| id).collect();
    assert_eq!(
        (milestones.len(), ids.len()),
        (1000, 1000),
        "milestones and their ids"
    );
    let mut seen: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for (_, milestone) in milestones {
        seen.entry(milestone.page)
            .or_default()
            .push(milestone.views);
    }
    for (page, mut views) in seen {
        views.sort_unstable();
        assert_eq!(
            views,
            (1..=10).map(|n| n * 10).collect::<Vec<u64>>(),
            "{page}"
        );
    }
    // Rows can be read as an operator would.
    let key = cluster.redis_cli(&["--scan", "--pattern", "*:s:pages:/p7"]);
    assert_eq!(cluster.redis_cli(&["HGET", &key, "views"]), "100");
    assert!(
        cluster
            .redis_cli(&["HGET", &key, "last_seen"])
            .starts_with("20")
    );
    assert_eq!(
        cluster.redis_cli(&["PFCOUNT", &key.replace("pages", "visitors")]),
        "7"
    );
}

#[tokio::test]
async fn a_killed_worker_loses_and_doubles_nothing() {
    let cluster = Cluster::new(&format!("[functions.count-views]\n{QUICK_REDELIVERY}\n")).await;
    let mut victims = cluster.start_all(&["count-views", "count-views"]).await;
    let (bus, store) = (cluster.bus().await, cluster.store().await);
    let mut killed_in_mid_flow = 0;
    for round in 0..6 {
        cluster.plain_publish((0..1000).map(|n| click(n, 10)));
        // In mid-flow: some of this round is applied, the rest is still to come.
        until("work has begun", async || {
            let views: usize = cluster
                .field(&store, "pages", "/p0", "views")
                .await
                .parse()
                .unwrap_or(0);
            (views > round * 100).then_some(())
        })
        .await;
        let info = bus
            .api(
                "CONSUMER.INFO.web.app_count-views",
                &serde_json::Value::Null,
            )
            .await
            .expect("consumer");
        killed_in_mid_flow += u32::from(
            info["num_ack_pending"].as_u64() > Some(0) || info["num_pending"].as_u64() > Some(0),
        );
        victims.remove(0).kill();
        victims.push(cluster.start("count-views").await);
    }
    cluster.drained(&bus, "web", "count-views").await;
    for page in 0..10 {
        assert_eq!(
            cluster
                .field(&store, "pages", &format!("/p{page}"), "views")
                .await,
            "600",
            "/p{page}"
        );
    }
    // A copy may stand in the stream twice, but never under two ids.
    let ids: HashSet<String> = milestones(&cluster)
        .await
        .into_iter()
        .map(|(id, _)| id)
        .collect();
    assert_eq!(ids.len(), 600);
    assert!(
        killed_in_mid_flow > 0,
        "no worker was killed while there was work: the test did too little"
    );
}

#[tokio::test]
async fn sigterm_finishes_what_is_in_hand() {
    let cluster = Cluster::new("").await;
    let mut worker = cluster.start("misbehave").await;
    cluster.plain_publish((0..20).map(|n| {
        (
            "web.page.viewed",
            format!(r#"{{"page":"/s{n}","referrer":"slow:800"}}"#),
        )
    }));
    let bus = cluster.bus().await;
    let info = async |field: &str| {
        let info = bus
            .api("CONSUMER.INFO.web.app_misbehave", &serde_json::Value::Null)
            .await
            .expect("consumer");
        info[field].as_u64().unwrap_or(0)
    };
    until("events are in hand", async || {
        (info("num_ack_pending").await > 0).then_some(())
    })
    .await;
    assert_eq!(worker.stop().await, Some(0), "{}", worker.log());
    assert_eq!(info("num_ack_pending").await, 0, "left in hand");
    assert_eq!(info("num_redelivered").await, 0);
    let store = cluster.store().await;
    for n in 0..20 {
        assert_eq!(
            cluster
                .field(&store, "tallies", &format!("/s{n}"), "count")
                .await,
            "1"
        );
    }
}

#[tokio::test]
async fn time_is_a_trigger() {
    let toml = "[[schedule]]\nfunction = \"publish-trends\"\nevery = \"1s\"\n";
    let cluster = Cluster::new(toml).await;
    let _workers = cluster
        .start_all(&["count-views", "rank-pages", "publish-trends"])
        .await;
    cluster.plain_publish((0..40).map(|n| click(n, 2)));
    let bus = cluster.bus().await;
    let config = Config::parse(toml, None, |_| None).expect("a configuration");
    assert_eq!(
        bus.ensure_schedules(&config, Mode::Apply)
            .await
            .expect("applied")
            .len(),
        1
    );
    assert_eq!(
        bus.ensure_schedules(&config, Mode::Apply)
            .await
            .expect("applied"),
        Vec::new(),
        "a second apply"
    );
    let trends = until("trends of both pages are published twice", async || {
        let messages = cluster.messages(&bus, "web").await;
        let trends = messages
            .into_iter()
            .filter(|m| m.subject == "web.trends.published");
        let trends: Vec<_> = trends
            .filter_map(|m| TrendsPublished::decode(&m.payload[..]).ok())
            .filter(|t| t.trends.len() == 2)
            .collect();
        (trends.len() >= 2).then_some(trends)
    })
    .await;
    let best: Vec<(String, u64)> = trends[0]
        .trends
        .iter()
        .map(|t| (t.page.clone(), t.views))
        .collect();
    assert_eq!(best, [("/p0".to_owned(), 20), ("/p1".to_owned(), 20)]);
    // A schedule that is no longer written down is told of, stays, and goes when somebody asks for it. Another app's is
    // none of ours.
    let parse = |toml: &str| Config::parse(toml, None, |_| None).expect("a configuration");
    let name = "schedule timer.schedule.app.publish-trends".to_owned();
    let left_over = vec![ScheduleChange::LeftOver(name)];
    let other = parse("[app]\nname = \"shop\"\n");
    let touched = bus.ensure_schedules(&other, Mode::Prune).await;
    assert_eq!(touched.expect("applied"), Vec::new());
    let none = parse("");
    for mode in [Mode::Look, Mode::Apply, Mode::Prune] {
        let touched = bus.ensure_schedules(&none, mode).await;
        assert_eq!(touched.expect("applied"), left_over, "{mode:?}");
    }
    assert!(
        cluster
            .messages(&bus, "timer")
            .await
            .iter()
            .all(|m| !m.subject.starts_with("timer.schedule"))
    );
}
