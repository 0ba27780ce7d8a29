//! What leaves the processes about themselves, taken by a collector of the test's own: to the letter of the conventions,
//! whole where something failed, nothing of a payload, and never in the way.

mod conventions;
mod failures;
mod metrics;
mod outage;
mod secret;

use oncue_core::bus::Bus;
use oncue_proto::oncue::v1::{Envelope, Header};
use oncue_tests::cluster::{Cluster, QUICK_REDELIVERY, until};
use oncue_tests::collector::{Collector, Manners, Received};
use serde_json::json;

/// A cluster whose spans go to a collector of its own.
async fn cluster(collector: &Collector, env: &[(&str, &str)]) -> Cluster {
    let mut cluster = Cluster::new(&format!("[functions.misbehave]\n{QUICK_REDELIVERY}\n")).await;
    for (name, value) in [
        ("OTEL_SDK_DISABLED", "false"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url.as_str()),
        ("OTEL_BSP_SCHEDULE_DELAY", "100"),
    ] {
        cluster.set(name, value);
    }
    for (name, value) in env {
        cluster.set(name, value);
    }
    cluster
}

async fn traced(env: &[(&str, &str)]) -> (Cluster, Collector) {
    let collector = Collector::start(Manners::Prompt).await;
    (cluster(&collector, env).await, collector)
}

/// Waits for all spans of a kind.
async fn spans(
    collector: &Collector,
    what: &str,
    at_least: usize,
    fit: impl Fn(&Received) -> bool,
) -> Vec<Received> {
    until(what, async || {
        let found: Vec<Received> = collector.spans().into_iter().filter(&fit).collect();
        (found.len() >= at_least).then_some(found)
    })
    .await
}

/// An event that tells `misbehave` what to do, as another client would publish it.
async fn tell(bus: &Bus, headers: &[(&str, &str)], word: &str) {
    tell_of(
        bus,
        headers,
        &json!({ "page": "/p", "referrer": word }).to_string(),
    )
    .await;
}

async fn tell_of(bus: &Bus, headers: &[(&str, &str)], payload: &str) {
    let headers = headers
        .iter()
        .map(|(n, v)| Header {
            name: (*n).to_owned(),
            value: (*v).to_owned(),
        })
        .collect();
    let payload = payload.as_bytes().to_vec().into();
    bus.publish(&Envelope {
        subject: "web.page.viewed".to_owned(),
        headers,
        payload,
    })
    .await
    .expect("NATS takes it");
}

/// Trace and parent of what a test publishes.
const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "b7ad6b7169203331";

fn traceparent(sampled: bool) -> String {
    format!("00-{TRACE}-{PARENT}-{:02x}", u8::from(sampled))
}
