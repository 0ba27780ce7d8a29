//! Counts for `/metrics`, in the Prometheus text format. Few series, all known beforehand, so a map and its rendering are
//! all it takes.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Upper bounds in seconds [OpenTelemetry HTTP metrics].
const BOUNDS: [f64; 14] = [0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0];

#[derive(Default)]
pub struct Metrics {
    requests: Mutex<BTreeMap<Request, Histogram>>,
    events: Mutex<BTreeMap<(String, &'static str), u64>>,
    pub upload_bytes: AtomicU64,
    pub connections: AtomicU64,
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Request {
    method: &'static str,
    route: String,
    status: u16,
}

#[derive(Default)]
struct Histogram {
    /// Not cumulative; that is done when it is shown.
    counts: [u64; BOUNDS.len()],
    count: u64,
    sum: f64,
}

/// A panic elsewhere does not make a count wrong.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Metrics {
    /// `route` must come from a bounded set, never from the client.
    pub fn request(&self, method: &'static str, route: &str, status: u16, took: Duration) {
        let mut requests = lock(&self.requests);
        let histogram = requests.entry(Request { method, route: route.to_owned(), status }).or_default();
        let seconds = took.as_secs_f64();
        if let Some(bucket) = BOUNDS.iter().position(|bound| seconds <= *bound) {
            histogram.counts[bucket] += 1;
        }
        histogram.count += 1;
        histogram.sum += seconds;
    }

    /// `ty` is a type of the contract, or `unknown`.
    pub fn event(&self, ty: &str, outcome: &'static str) {
        *lock(&self.events).entry((ty.to_owned(), outcome)).or_default() += 1;
    }

    /// `waiters` are clients that wait for a flow.
    pub fn render(&self, waiters: usize) -> String {
        let mut out = String::from("# HELP http_server_request_duration_seconds Time until the answer begins.\n");
        out.push_str("# TYPE http_server_request_duration_seconds histogram\n");
        for (request, histogram) in &*lock(&self.requests) {
            histogram.render(request, &mut out);
        }
        out.push_str("# HELP oncue_gateway_events_total Events by type and what became of them.\n");
        out.push_str("# TYPE oncue_gateway_events_total counter\n");
        for ((ty, outcome), count) in &*lock(&self.events) {
            let _ =
                writeln!(out, "oncue_gateway_events_total{{type=\"{}\",outcome=\"{outcome}\"}} {count}", escape(ty));
        }
        let mut plain = |name: &str, kind: &str, help: &str, value: u64| {
            let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}");
        };
        let load = |value: &AtomicU64| value.load(Ordering::Relaxed);
        plain("oncue_gateway_upload_bytes_total", "counter", "Bytes of stored uploads.", load(&self.upload_bytes));
        plain("oncue_gateway_connections", "gauge", "Open connections.", load(&self.connections));
        plain("oncue_gateway_waiters", "gauge", "Clients that wait for a flow or watch one.", waiters as u64);
        out
    }
}

impl Histogram {
    fn render(&self, request: &Request, out: &mut String) {
        const NAME: &str = "http_server_request_duration_seconds";
        let Request { method, route, status } = request;
        let labels = format!(
            "http_request_method=\"{method}\",http_route=\"{}\",http_response_status_code=\"{status}\"",
            escape(route)
        );
        let mut below = 0;
        for (bound, count) in BOUNDS.iter().zip(self.counts) {
            below += count;
            let _ = writeln!(out, "{NAME}_bucket{{{labels},le=\"{bound}\"}} {below}");
        }
        let _ = writeln!(out, "{NAME}_bucket{{{labels},le=\"+Inf\"}} {}", self.count);
        let _ = writeln!(out, "{NAME}_sum{{{labels}}} {}\n{NAME}_count{{{labels}}} {}", self.sum, self.count);
    }
}

fn escape(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_cumulative_and_labels_escaped() {
        let metrics = Metrics::default();
        metrics.request("GET", "/v1/\"x\"", 200, Duration::from_millis(7));
        metrics.request("GET", "/v1/\"x\"", 200, Duration::from_secs(61));
        let text = metrics.render(0);
        assert!(
            text.contains("http_route=\"/v1/\\\"x\\\"\",http_response_status_code=\"200\",le=\"0.005\"} 0\n"),
            "{text}"
        );
        assert!(text.contains("le=\"0.01\"} 1\n") && text.contains("le=\"10\"} 1\n"), "{text}");
        assert!(text.contains("le=\"+Inf\"} 2\n"), "{text}");
    }
}
