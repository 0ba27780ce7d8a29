//! Counts for `/metrics` and OTLP. Few series, all known beforehand, so a map is all it takes.

use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use oncue_telemetry::metrics::{self, BOUNDS, Labels, Metric, Points, Spread};
use opentelemetry::KeyValue;
use opentelemetry::metrics::Histogram;

const REQUEST: (&str, &str) = (
    "http.server.request.duration",
    "Time until the answer begins.",
);
const SEND: (&str, &str) = (
    "messaging.client.operation.duration",
    "Time until the stream acked an event.",
);

#[derive(Default)]
pub struct Metrics {
    requests: Mutex<BTreeMap<Request, Times>>,
    sends: Mutex<BTreeMap<Option<&'static str>, Times>>,
    events: Mutex<BTreeMap<(String, &'static str), u64>>,
    pub upload_bytes: AtomicU64,
    pub connections: AtomicU64,
    pub active: AtomicU64,
    /// Clients that wait for a flow or watch one.
    pub waiters: AtomicU64,
    /// The same times where metrics are pushed.
    pushed: OnceLock<Option<[Histogram<f64>; 2]>>,
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Request {
    method: &'static str,
    route: String,
    status: u16,
}

#[derive(Default)]
struct Times {
    /// Not cumulative; the last is for what is longer than every bound.
    counts: [u64; BOUNDS.len() + 1],
    sum: f64,
}

impl Metrics {
    /// `route` must come from a bounded set, never from the client.
    pub fn request(&self, method: &'static str, route: &str, status: u16, took: Duration) {
        let request = Request {
            method,
            route: route.to_owned(),
            status,
        };
        if let Some([times, _]) = self.pushed() {
            times.record(took.as_secs_f64(), &attributes(&request.labels()));
        }
        self.requests.lock().entry(request).or_default().add(took);
    }

    /// A publish ended, with an error of class `error` or well.
    pub fn sent(&self, error: Option<&'static str>, took: Duration) {
        if let Some([_, times]) = self.pushed() {
            times.record(took.as_secs_f64(), &attributes(&send_labels(error)));
        }
        self.sends.lock().entry(error).or_default().add(took);
    }

    fn pushed(&self) -> Option<&[Histogram<f64>; 2]> {
        let make = || {
            Some([
                metrics::seconds(REQUEST.0, REQUEST.1)?,
                metrics::seconds(SEND.0, SEND.1)?,
            ])
        };
        self.pushed.get_or_init(make).as_ref()
    }

    /// `ty` is a type of the contract, or `unknown`.
    pub fn event(&self, ty: &str, outcome: &'static str) {
        *self
            .events
            .lock()
            .entry((ty.to_owned(), outcome))
            .or_default() += 1;
    }

    /// The same list each time, in the same order.
    pub fn list(&self) -> Vec<Metric> {
        let load = |value: &AtomicU64| value.load(Ordering::Relaxed);
        let requests = self
            .requests
            .lock()
            .iter()
            .map(|(request, times)| (request.labels(), times.spread()))
            .collect();
        let sends: Vec<_> = self
            .sends
            .lock()
            .iter()
            .map(|(error, times)| (send_labels(*error), times.spread()))
            .collect();
        let sent = sends
            .iter()
            .map(|(_, spread)| spread.counts.iter().sum::<u64>())
            .sum();
        let events = self.events.lock();
        let events = events.iter().map(|((ty, outcome), count)| {
            (
                vec![("type", ty.clone()), ("outcome", (*outcome).to_owned())],
                *count,
            )
        });
        vec![
            Metric {
                name: REQUEST.0,
                unit: "s",
                help: REQUEST.1,
                points: Points::Spreads(requests),
            },
            Metric {
                name: SEND.0,
                unit: "s",
                help: SEND.1,
                points: Points::Spreads(sends),
            },
            Metric {
                name: "messaging.client.sent.messages",
                unit: "{message}",
                help: "Messages the gateway has tried to publish.",
                points: Points::Sums(vec![(send_labels(None), sent)]),
            },
            Metric {
                name: "oncue.gateway.events",
                unit: "{event}",
                help: "Events by type and what became of them.",
                points: Points::Sums(events.collect()),
            },
            Metric {
                name: "oncue.gateway.upload_bytes",
                unit: "By",
                help: "Bytes of stored uploads.",
                points: Points::Sums(vec![(Vec::new(), load(&self.upload_bytes))]),
            },
            gauge(
                "oncue.gateway.connections",
                "{connection}",
                "Open connections.",
                load(&self.connections),
            ),
            gauge(
                "oncue.gateway.waiters",
                "{client}",
                "Clients that wait for a flow or watch one.",
                load(&self.waiters),
            ),
            gauge(
                "http.server.active_requests",
                "{request}",
                "Requests not answered yet.",
                load(&self.active),
            ),
        ]
    }
}

fn gauge(name: &'static str, unit: &'static str, help: &'static str, value: u64) -> Metric {
    Metric {
        name,
        unit,
        help,
        points: Points::Gauges(vec![(Vec::new(), value as f64)]),
    }
}

fn send_labels(error: Option<&'static str>) -> Labels {
    let mut labels = vec![
        ("messaging.system", "nats".to_owned()),
        ("messaging.operation.name", "send".to_owned()),
    ];
    labels.extend(error.map(|class| ("error.type", class.to_owned())));
    labels
}

fn attributes(labels: &Labels) -> Vec<KeyValue> {
    labels
        .iter()
        .map(|(name, value)| KeyValue::new(*name, value.clone()))
        .collect()
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

impl Times {
    fn add(&mut self, took: Duration) {
        let seconds = took.as_secs_f64();
        self.counts[BOUNDS.partition_point(|bound| *bound < seconds)] += 1;
        self.sum += seconds;
    }

    fn spread(&self) -> Spread {
        Spread {
            bounds: BOUNDS.to_vec(),
            counts: self.counts.to_vec(),
            sum: self.sum,
            exemplars: Vec::new(),
        }
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
        let text = prometheus::render(&metrics.list(), false);
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
