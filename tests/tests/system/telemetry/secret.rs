//! Nothing of a payload leaves in telemetry: a secret is planted in every field, sent through every way an event can end,
//! and looked for in every byte that comes out.

use std::time::Duration;

use oncue_core::bus::Bus;
use oncue_tests::cluster::{free_port, until, wait_for_port};
use serde_json::json;

use super::{spans, tell_of, traced, traceparent};

const SECRET: &str = "hunter2-s3cr3t-hunter2";

fn payload(word: &str) -> String {
    json!({ "page": format!("/{SECRET}"), "visitor": SECRET, "referrer": word, "at": null })
        .to_string()
}

/// Ways to fail before a handler is asked.
fn unreadable() -> Vec<(&'static str, String)> {
    vec![
        ("bad-type", json!({ "page": [SECRET] }).to_string()),
        (
            "bad-time",
            json!({ "page": "/x", "at": SECRET }).to_string(),
        ),
        ("cut-off", format!("{{\"page\":\"{SECRET}")),
        ("no-object", format!("\"{SECRET}\"")),
        ("no-key", json!({ "visitor": SECRET }).to_string()),
    ]
}

fn find(text: &[u8]) -> Option<String> {
    let at = text
        .windows(SECRET.len())
        .position(|part| part == SECRET.as_bytes())?;
    let from = at.saturating_sub(300);
    Some(String::from_utf8_lossy(&text[from..(at + 100).min(text.len())]).into_owned())
}

/// Through success, failures of every kind, a retry, a time-out; past the handler; over HTTP.
async fn send_all(bus: &Bus, client: &reqwest::Client, url: &str) {
    let ways = [
        "",
        "emit:2",
        "later:1",
        "fail-until:2",
        "fail-quoting",
        "reject-quoting",
        "panic-quoting",
        "slow:5000",
        "emit:257",
    ];
    for word in ways {
        let parent = traceparent(true);
        tell_of(
            bus,
            &[
                ("traceparent", &parent),
                ("ce-id", word),
                ("ce-subject", SECRET),
            ],
            &payload(word),
        )
        .await;
    }
    for (id, payload) in unreadable() {
        tell_of(
            bus,
            &[("ce-id", id), ("ce-datacontenttype", "application/json")],
            &payload,
        )
        .await;
    }
    for (body, id) in [
        (payload(""), "by-http"),
        (json!({ "page": [SECRET] }).to_string(), "bad-by-http"),
    ] {
        let request = client
            .post(format!("{url}/v1/events/web.page.viewed"))
            .header("ce-id", id);
        request
            .header("content-type", "application/json")
            .body(body)
            .send()
            .await
            .expect("an answer");
    }
}

#[tokio::test]
#[allow(clippy::too_many_lines)] // one scenario, whose steps build on each other
async fn a_planted_secret_is_found_in_nothing_that_comes_out() {
    let (http, metrics) = (free_port(), free_port());
    let (mut cluster, collector) = traced(&[
        ("OTEL_METRICS_EXPORTER", "otlp"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "200"),
    ])
    .await;
    cluster.set("ONCUE_GATEWAY_LISTEN", &format!("127.0.0.1:{http}"));
    let gateway = cluster.spawn("oncue-gateway", &[]);
    cluster.set("ONCUE_METRICS_LISTEN", &format!("127.0.0.1:{metrics}"));
    let worker = cluster.start("misbehave").await;
    cluster.set("ONCUE_METRICS_LISTEN", "");
    let counter = cluster.start("count-views").await;
    wait_for_port(http).await;
    wait_for_port(metrics).await;
    let (bus, client) = (cluster.bus().await, reqwest::Client::new());
    let url = format!("http://127.0.0.1:{http}");

    send_all(&bus, &client, &url).await;
    until("every failure is set aside", async || {
        (cluster.count(&bus, "dlq").await >= 15).then_some(())
    })
    .await;
    cluster.drained(&bus, "web", "misbehave").await;
    cluster.drained(&bus, "web", "count-views").await;

    let worst = [
        "fail-quoting",
        "reject-quoting",
        "panic-quoting",
        "bad-type",
        "cut-off",
    ];
    spans(
        &collector,
        "spans of all that failed",
        worst.len(),
        |span| {
            span.tag("oncue.outcome") == "dead"
                && worst.contains(&span.tag("messaging.message.id").as_str())
                && span.service() == "misbehave"
        },
    )
    .await;
    until("metrics", async || {
        (!collector.metrics().is_empty()).then_some(())
    })
    .await;
    let services = bus
        .ask_all("$SRV.STATS", Duration::from_millis(500))
        .await
        .expect("answers");
    let infos = bus
        .ask_all("$SRV.INFO", Duration::from_millis(500))
        .await
        .expect("answers");
    assert!(services.len() >= 2 && infos.len() >= 2);
    let scraped = async |url: String| {
        client
            .get(url)
            .send()
            .await
            .expect("an answer")
            .bytes()
            .await
            .expect("a body")
    };
    let places = [
        ("what was exported", collector.bytes()),
        ("the worker's log", worker.log().into_bytes()),
        ("the other worker's log", counter.log().into_bytes()),
        ("the gateway's log", gateway.log().into_bytes()),
        (
            "the worker's metrics",
            scraped(format!("http://127.0.0.1:{metrics}/metrics"))
                .await
                .to_vec(),
        ),
        (
            "the gateway's metrics",
            scraped(format!("{url}/metrics")).await.to_vec(),
        ),
        (
            "$SRV.STATS",
            services
                .iter()
                .flat_map(|note| note.payload.to_vec())
                .collect(),
        ),
        (
            "$SRV.INFO",
            infos
                .iter()
                .flat_map(|note| note.payload.to_vec())
                .collect(),
        ),
    ];
    for (place, bytes) in &places {
        assert!(
            !bytes.is_empty(),
            "{place} is empty, so nothing was looked for"
        );
        assert_eq!(find(bytes), None, "the secret is in {place}");
    }
    // The search would find it: the letters carry it on purpose.
    let letters = cluster.messages(&bus, "dlq").await;
    assert!(letters.iter().any(|letter| find(&letter.payload).is_some()));
    let stats = String::from_utf8_lossy(&places[6].1).into_owned();
    assert!(
        stats.contains("\"last_error\":\"") && stats.contains("duration_ms"),
        "{stats}"
    );
}

#[tokio::test]
async fn who_asks_for_the_texts_gets_them() {
    let (cluster, collector) = traced(&[("ONCUE_TRACE_MESSAGES", "true")]).await;
    let worker = cluster.start("misbehave").await;
    let bus = cluster.bus().await;
    tell_of(&bus, &[("ce-id", "refused")], &payload("reject-quoting")).await;
    let dead = spans(&collector, "its span", 1, |span| {
        span.tag("oncue.outcome") == "dead"
    })
    .await;
    let status = dead[0].span.status.clone().expect("a status").message;
    assert!(
        status.contains("will not handle") && status.contains(SECRET),
        "{status}"
    );
    worker.wait_for_line("will not handle").await;
}
