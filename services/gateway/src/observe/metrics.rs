//! Counts of the gateway for `/metrics` and OTLP. Series are few and all known beforehand, so a map is all it takes.

use std::collections::BTreeMap;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use oncue_http::Counts;
use oncue_telemetry::metrics::{Histogram, Labels, Metric, Seconds, dropped_contexts};
use parking_lot::Mutex;

const REQUEST: &str = "http.server.request.duration";
const REQUEST_HELP: &str = "Time until the answer begins.";
const SEND: &str = "messaging.client.operation.duration";
const SEND_HELP: &str = "Time until the stream acked an event.";

#[derive(Default)]
pub struct Metrics {
    requests: Mutex<BTreeMap<Request, Histogram>>,
    sends: Mutex<BTreeMap<Option<&'static str>, Histogram>>,
    events: Mutex<BTreeMap<(String, &'static str), u64>>,
    pub upload_bytes: AtomicU64,
    pub active: AtomicU64,
    /// Clients that wait for a flow or watch one.
    pub waiters: AtomicU64,
    pushed: OnceLock<Option<Pushed>>,
}

/// Same times where metrics are pushed.
struct Pushed {
    requests: Seconds,
    sends: Seconds,
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Request {
    method: &'static str,
    route: String,
    status: u16,
}

impl Metrics {
    /// Counts a request; `route` must come from a bounded set, never from the client.
    pub fn request(&self, method: &'static str, route: &str, status: u16, took: Duration) {
        let request = Request {
            method,
            route: route.to_owned(),
            status,
        };
        if let Some(pushed) = self.pushed() {
            pushed.requests.record(took, &request.labels());
        }
        self.requests
            .lock()
            .entry(request)
            .or_insert_with(Histogram::of_conventions)
            .record(took.as_secs_f64());
    }

    /// Counts a publish, which ended with an error of class `error` or well.
    pub fn sent(&self, error: Option<&'static str>, took: Duration) {
        if let Some(pushed) = self.pushed() {
            pushed.sends.record(took, &send_labels(error));
        }
        self.sends
            .lock()
            .entry(error)
            .or_insert_with(Histogram::of_conventions)
            .record(took.as_secs_f64());
    }

    fn pushed(&self) -> Option<&Pushed> {
        self.pushed.get_or_init(Pushed::new).as_ref()
    }

    /// Counts an event; `ty` is a type of the contract, or `unknown`.
    pub fn event(&self, ty: &str, outcome: &'static str) {
        *self
            .events
            .lock()
            .entry((ty.to_owned(), outcome))
            .or_default() += 1;
    }

    /// All metrics, with those of the listener: the same list each time, in the same order.
    pub fn list(&self, listener: &Counts) -> Vec<Metric> {
        let cut = [
            ("address", &listener.refused),
            ("idle", &listener.gave_way),
            ("reader", &listener.stalled),
        ];
        let cut = cut.map(|(reason, count)| {
            let labels = vec![("reason", reason.to_owned())];
            (labels, count.load(Ordering::Relaxed))
        });
        let requests = self.requests.lock();
        let requests = requests
            .iter()
            .map(|(request, times)| (request.labels(), times.clone()));
        let sends = self.sends.lock();
        let sent = sends.values().map(Histogram::count).sum();
        let sends = sends
            .iter()
            .map(|(error, times)| (send_labels(*error), times.clone()));
        let events = self.events.lock();
        let events = events
            .iter()
            .map(|((ty, outcome), count)| (event_labels(ty, outcome), *count));
        vec![
            Metric::seconds(REQUEST, REQUEST_HELP, requests.collect()),
            Metric::seconds(SEND, SEND_HELP, sends.collect()),
            Metric::sum(
                "messaging.client.sent.messages",
                "{message}",
                "Messages the gateway has tried to publish.",
                send_labels(None),
                sent,
            ),
            Metric::sums(
                "oncue.gateway.events",
                "{event}",
                "Events by type and what became of them.",
                events.collect(),
            ),
            Metric::sum(
                "oncue.gateway.upload_bytes",
                "By",
                "Bytes of stored uploads.",
                Vec::new(),
                self.upload_bytes.load(Ordering::Relaxed),
            ),
            Metric::gauge(
                "oncue.gateway.connections",
                "{connection}",
                "Open connections.",
                Vec::new(),
                listener.open.load(Ordering::Relaxed) as f64,
            ),
            Metric::sums(
                "oncue.gateway.connections_cut",
                "{connection}",
                "Connections refused (too many of their address) or ended (idle, or their client did not read).",
                cut.to_vec(),
            ),
            gauge(
                "oncue.gateway.waiters",
                "{client}",
                "Clients that wait for a flow.",
                &self.waiters,
            ),
            gauge(
                "http.server.active_requests",
                "{request}",
                "Requests not answered yet.",
                &self.active,
            ),
            dropped_contexts(),
        ]
    }
}

impl Pushed {
    /// `None` where metrics are not pushed.
    fn new() -> Option<Self> {
        Some(Self {
            requests: Seconds::new(REQUEST, REQUEST_HELP)?,
            sends: Seconds::new(SEND, SEND_HELP)?,
        })
    }
}

fn gauge(name: &'static str, unit: &'static str, help: &'static str, value: &AtomicU64) -> Metric {
    let value = value.load(Ordering::Relaxed) as f64;
    Metric::gauge(name, unit, help, Vec::new(), value)
}

fn event_labels(ty: &str, outcome: &str) -> Labels {
    vec![("type", ty.to_owned()), ("outcome", outcome.to_owned())]
}

fn send_labels(error: Option<&'static str>) -> Labels {
    let mut labels = vec![
        ("messaging.system", "nats".to_owned()),
        ("messaging.operation.name", "send".to_owned()),
    ];
    labels.extend(error.map(|class| ("error.type", class.to_owned())));
    labels
}

impl Request {
    fn labels(&self) -> Labels {
        vec![
            ("http.request.method", self.method.to_owned()),
            ("http.route", self.route.clone()),
            ("http.response.status_code", self.status.to_string()),
        ]
    }
}

#[cfg(test)]
mod tests {
    use oncue_telemetry::prometheus;

    use super::*;

    #[test]
    fn buckets_are_cumulative_and_labels_escaped() {
        let metrics = Metrics::default();
        metrics.request("GET", "/v1/\"x\"", 200, Duration::from_millis(7));
        metrics.request("GET", "/v1/\"x\"", 200, Duration::from_secs(61));
        let text = prometheus::render(&metrics.list(&Counts::default()), false);
        assert!(
            text.contains(
                "http_route=\"/v1/\\\"x\\\"\",http_response_status_code=\"200\",le=\"0.005\"} 0\n"
            ),
            "{text}"
        );
        assert!(
            text.contains("le=\"0.01\"} 1\n") && text.contains("le=\"10\"} 1\n"),
            "{text}"
        );
        assert!(text.contains("le=\"+Inf\"} 2\n"), "{text}");
    }
}
