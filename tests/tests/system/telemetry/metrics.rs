//! Metrics as the conventions want them, to whoever asks: Prometheus, OTLP, `$SRV.STATS`.

use std::time::Duration;

use oncue_core::bus::Bus;
use oncue_tests::cluster::{free_port, until, wait_for_port};
use oncue_tests::collector::{Collector, text};
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::number_data_point::Value;

use super::{TRACE, tell, traced, traceparent};

/// The last value of a sum, where it carries this label.
fn sum(collector: &Collector, name: &str, label: (&str, &str)) -> Option<i64> {
    let mut points = collector
        .metrics()
        .into_iter()
        .filter(|metric| metric.name == name)
        .filter_map(|metric| match metric.data? {
            Data::Sum(sum) => {
                sum.data_points
                    .into_iter()
                    .rfind(|point| text(&point.attributes, label.0) == label.1)?
                    .value
            }
            _ => None,
        });
    match points.next_back()? {
        Value::AsInt(value) => Some(value),
        Value::AsDouble(_) => None,
    }
}

/// How often a histogram was filled, by its error class.
fn count(collector: &Collector, name: &str, class: &str) -> Option<u64> {
    let metrics = collector.metrics();
    let last = metrics.iter().rfind(|metric| metric.name == name)?;
    assert_eq!(last.unit, "s");
    let Some(Data::Histogram(histogram)) = &last.data else {
        return None;
    };
    let point = histogram
        .data_points
        .iter()
        .find(|point| text(&point.attributes, "error.type") == class)?;
    assert_eq!(point.explicit_bounds[..3], [0.005, 0.01, 0.025]);
    Some(point.count)
}

/// Lines of `/metrics` after what the test sends.
fn expected() -> Vec<String> {
    let group = "messaging_consumer_group_name=\"misbehave\"";
    let mine = "{oncue_function=\"misbehave\"";
    vec![
        format!(
            "messaging_client_consumed_messages_total{{messaging_system=\"nats\",messaging_operation_name=\"receive\",{group}}} 8\n"
        ),
        format!(
            "messaging_client_sent_messages_total{{messaging_system=\"nats\",messaging_operation_name=\"send\",{group}}} 5\n"
        ),
        format!(
            "messaging_process_duration_seconds_count{{messaging_system=\"nats\",messaging_operation_name=\"process\",{group}}} 3\n"
        ),
        format!(
            "messaging_process_duration_seconds_count{{messaging_system=\"nats\",messaging_operation_name=\"process\",{group},error_type=\"panic\"}} 3\n"
        ),
        "faas_invocations_total{faas_trigger=\"pubsub\"} 3\n".to_owned(),
        "faas_errors_total{faas_trigger=\"pubsub\",error_type=\"rejected\"} 1\n".to_owned(),
        "faas_coldstarts_total{faas_trigger=\"pubsub\"} 1\n".to_owned(),
        format!("oncue_retries_total{mine}}} 3\n"),
        format!("oncue_dead_letters_total{mine},oncue_reason=\"rejected\"}} 1\n"),
        format!("oncue_dead_letters_total{mine},oncue_reason=\"attempts\"}} 1\n"),
        format!("oncue_in_flight{mine}}} 0\n"),
    ]
}

#[tokio::test]
async fn the_same_counts_are_told_on_every_way() {
    let port = free_port();
    let (cluster, collector) = traced(&[
        ("ONCUE_METRICS_LISTEN", &format!("127.0.0.1:{port}")),
        ("OTEL_METRICS_EXPORTER", "otlp"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "200"),
    ])
    .await;
    let _worker = cluster.start("misbehave").await;
    wait_for_port(port).await;
    let bus = cluster.bus().await;
    for (id, word) in [
        ("a", ""),
        ("b", "emit:3"),
        ("c", "fail-until:2"),
        ("d", "reject"),
        ("e", "panic"),
    ] {
        tell(
            &bus,
            &[("ce-id", id), ("traceparent", &traceparent(true))],
            word,
        )
        .await;
    }
    until("two dead letters", async || {
        (cluster.count(&bus, "dlq").await == 2).then_some(())
    })
    .await;
    cluster.drained(&bus, "web", "misbehave").await;

    let client = reqwest::Client::new();
    let scrape = async |accept: &str| {
        let request = client
            .get(format!("http://127.0.0.1:{port}/metrics"))
            .header("accept", accept);
        request
            .send()
            .await
            .expect("an answer")
            .text()
            .await
            .expect("text")
    };
    let expected = expected();
    until("all of it is counted", async || {
        let text = scrape("text/plain").await;
        expected
            .iter()
            .all(|line| text.contains(line))
            .then_some(())
    })
    .await;
    let open = scrape("application/openmetrics-text; version=1.0.0").await;
    assert!(
        open.ends_with("# EOF\n") && open.contains(&format!("# {{trace_id=\"{TRACE}\"}}")),
        "{open}"
    );

    until("the same over OTLP", async || {
        let consumed = sum(
            &collector,
            "messaging.client.consumed.messages",
            ("messaging.consumer.group.name", "misbehave"),
        );
        let dead = sum(
            &collector,
            "oncue.dead_letters",
            ("oncue.reason", "rejected"),
        );
        let good = count(&collector, "messaging.process.duration", "");
        let panics = count(&collector, "messaging.process.duration", "panic");
        ((consumed, dead, good, panics) == (Some(8), Some(1), Some(3), Some(3))).then_some(())
    })
    .await;
    check_stats(&bus).await;
}

async fn check_stats(bus: &Bus) {
    let answers = bus
        .ask_all("$SRV.STATS.misbehave", Duration::from_millis(500))
        .await
        .expect("answers");
    let stats: serde_json::Value = serde_json::from_slice(&answers[0].payload).expect("JSON");
    let endpoint = &stats["endpoints"][0];
    let spread = &endpoint["data"]["duration_ms"];
    let (bounds, counts) = (
        spread["bounds"].as_array().expect("bounds"),
        spread["counts"].as_array().expect("counts"),
    );
    assert_eq!(
        (bounds.len() + 1, &bounds[0], &bounds[18]),
        (counts.len(), &0.1.into(), &10_000.0.into())
    );
    let runs: u64 = counts.iter().filter_map(serde_json::Value::as_u64).sum();
    assert_eq!((runs, endpoint["num_requests"].as_u64()), (8, Some(8)));
    let last = endpoint["last_error"].as_str().expect("text");
    assert!(
        last.contains(" at tests/src/bin/misbehave.rs:") && !last.contains("told"),
        "{last}"
    );
}
