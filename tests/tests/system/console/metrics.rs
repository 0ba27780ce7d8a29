//! `/metrics` of the console: the whole app in one place, as rules and dashboard of `deploy/monitoring` name it.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::Ordering;

use oncue_core::bus::layout;
use oncue_core::config::Limits;
use oncue_tests::cluster::{Cluster, QUICK_REDELIVERY, free_port, until, wait_for, wait_for_port};
use oncue_tests::http;
use serde_json::json;

use super::{Console, TOKEN, viewed};

/// Metrics that a file of `deploy/monitoring` names.
fn named(file: &str) -> BTreeSet<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/monitoring");
    let text = std::fs::read_to_string(folder.join(file)).expect("a file");
    // Labels have the same prefix; they stand before `=`, and behind `by (` and `on (`.
    let labels = [
        "oncue_app",
        "oncue_function",
        "oncue_kind",
        "oncue_outcome",
        "oncue_server",
        "oncue_state",
        "oncue_stream",
    ];
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == ':'));
    let metrics = words.filter(|word| word.starts_with("oncue_") && !labels.contains(word));
    metrics.map(str::to_owned).collect()
}

/// Value of the first series whose line begins with this.
fn value(text: &str, series: &str) -> Option<f64> {
    let line = text.lines().find(|line| line.starts_with(series))?;
    line.rsplit(' ').next()?.parse().ok()
}

#[tokio::test]
async fn rules_and_dashboard_name_only_what_is_served_with_a_value() {
    let console = Console::open().await;
    let consumer = layout::consumer(
        "app_count",
        "web",
        &layout::filters(&["web.page.viewed"]),
        &Limits::default(),
    );
    console.bus.provide(&consumer).await.unwrap();
    console
        .pretend("count", &["web.page.viewed"], &[])
        .await
        .store(5, Ordering::Relaxed);
    console
        .supervise(&json!({ "count": { "min": 0, "max": 4, "wanted": 2, "workers": [] } }))
        .await;
    console.set_aside("count", "e-1", "here").await;
    console
        .publish(&viewed("e-2"), "/home", json!({ "page": "/home" }))
        .await;
    let manifest = json!({ "name": "count", "version": "9", "stream": "web", "triggers": ["web.page.viewed"], "filters": [],
        "table": null, "emits": [], "limits": { "concurrency": 1, "reserved_concurrency": 1, "timeout": "1s", "attempts": 1,
        "ack_wait": "1s", "start": "all" } });
    let manifest = serde_json::from_value(manifest).expect("a manifest");
    console.store.register(&manifest).await.unwrap();
    let counts = [("applied".to_owned(), 7), ("run:100".to_owned(), 7)];
    console.store.add_counts("count", &counts).await.unwrap();
    let mut text = String::new();
    wait_for("all numbers", async || {
        text = console.get("/metrics").await.text();
        text.contains("oncue_function_dead_letters{oncue_app=\"app\",oncue_function=\"count\"} 1")
            && value(&text, "oncue_function_replicas_wanted").is_some()
    })
    .await;
    let one = "{oncue_app=\"app\",oncue_function=\"count\"";
    for (series, expected) in [
        (
            "oncue_up{oncue_app=\"app\",oncue_server=\"redis\"}".to_owned(),
            1.0,
        ),
        (format!("oncue_function_lag{one}}}"), 1.0),
        (format!("oncue_function_replicas_running{one}}}"), 1.0),
        (format!("oncue_function_replicas_wanted{one}}}"), 2.0),
        (
            format!("oncue_function_state{one},oncue_state=\"running\"}}"),
            1.0,
        ),
        (
            format!("oncue_function_state{one},oncue_state=\"stopped\"}}"),
            0.0,
        ),
        (
            format!("oncue_function_events_total{one},oncue_outcome=\"applied\"}}"),
            7.0,
        ),
        (format!("oncue_function_duration_seconds_count{one}}}"), 7.0),
        (
            "oncue_stream_messages{oncue_app=\"app\",oncue_stream=\"dlq\"}".to_owned(),
            1.0,
        ),
    ] {
        assert_eq!(value(&text, &series), Some(expected), "{series}\n{text}");
    }
    assert!(value(&text, "oncue_function_oldest_pending_age_seconds").is_some_and(|age| age > 0.0));
    for file in ["rules.yml", "dashboard.json"] {
        let named = named(file);
        assert!(named.len() > 8, "{file} names {named:?}");
        for metric in named {
            let is_served = text.lines().any(|line| {
                line.strip_prefix(metric.as_str())
                    .is_some_and(|rest| rest.starts_with(['{', ' ']))
            });
            assert!(
                is_served,
                "{file} names {metric}, of which there is no value:\n{text}"
            );
        }
    }
    let open = console
        .send(
            "GET",
            "/metrics",
            &[("accept", "application/openmetrics-text")],
            "",
        )
        .await;
    assert!(open.text().ends_with("# EOF\n"));
    assert!(
        open.header("content-type")
            .unwrap()
            .starts_with("application/openmetrics-text")
    );
}

#[tokio::test]
async fn a_scraper_sends_the_token_where_there_is_one() {
    let console = Console::with(Some(TOKEN), false).await;
    console.get("/metrics").await.problem(401, "login");
    let wrong = [("authorization", "Bearer not-the-token-at-all")];
    console
        .send("GET", "/metrics", &wrong, "")
        .await
        .problem(401, "login");
    let bearer = format!("Bearer {TOKEN}");
    let right = [("authorization", bearer.as_str())];
    assert_eq!(
        console.send("GET", "/metrics", &right, "").await.status,
        200
    );
    let cookie = console.login().await;
    assert_eq!(
        console
            .send("GET", "/metrics", &[("cookie", &cookie)], "")
            .await
            .status,
        200
    );
    // The token itself opens nothing else: a scraper's configuration is read by many.
    console
        .send("GET", "/api/functions/x", &right, "")
        .await
        .problem(401, "login");
}

#[tokio::test]
async fn counts_stay_when_a_worker_goes_and_go_on_with_the_next() {
    let config = format!("[functions.misbehave]\n{QUICK_REDELIVERY}\n");
    let mut cluster = Cluster::new(&config).await;
    let port = free_port();
    cluster.set("ONCUE_CONSOLE_LISTEN", &format!("127.0.0.1:{port}"));
    let mut worker = cluster.start("misbehave").await;
    let bus = cluster.bus().await;
    let _console = cluster.spawn("oncue-console", &[]);
    wait_for_port(port).await;
    let at = ([127, 0, 0, 1], port).into();
    let app = cluster.config().app;
    let series = |outcome: &str| {
        format!(
            "oncue_function_events_total{{oncue_app=\"{app}\",oncue_function=\"misbehave\",oncue_outcome=\"{outcome}\"}}"
        )
    };
    let counted = async |outcome: &str, expected: f64| {
        let series = series(outcome);
        until(&format!("{expected} {outcome}"), async || {
            let text = http::request(at, "GET", "/metrics", &[], "").await.text();
            (value(&text, &series)? >= expected).then_some(text)
        })
        .await
    };
    let send = |number: u32, referrer: &str| {
        let payload = json!({ "page": format!("/{number}"), "referrer": referrer }).to_string();
        cluster.plain_publish([("web.page.viewed", payload)]);
    };
    (0..6).for_each(|number| send(number, ""));
    send(6, "reject");
    counted("dead", 1.0).await;
    counted("applied", 6.0).await;
    assert_eq!(worker.stop().await, Some(0));
    wait_for("the worker to be forgotten", async || {
        let text = http::request(at, "GET", "/metrics", &[], "").await.text();
        value(&text, "oncue_function_replicas_running") == Some(0.0)
    })
    .await;
    let text = counted("applied", 6.0).await;
    assert_eq!(
        value(&text, &series("applied")),
        Some(6.0),
        "nobody runs it\n{text}"
    );
    send(7, "");
    let mut second = cluster.start("misbehave").await;
    cluster.drained(&bus, "web", "misbehave").await;
    let text = counted("applied", 7.0).await;
    assert_eq!(value(&text, &series("dead")), Some(1.0), "{text}");
    assert_eq!(second.stop().await, Some(0));
}
