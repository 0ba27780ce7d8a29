//! What workers answer on `$SRV.STATS` and `$SRV.INFO` [NATS ADR-32].

use std::collections::BTreeSet;

use oncue_core::bus::PlainMessage;
use oncue_core::model::manifest::Manifest;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// One worker process, as it says of itself.
#[derive(Debug, Clone, Default)]
pub struct Running {
    pub function: String,
    pub id: String,
    pub version: String,
    pub started: String,
    pub counts: Counts,
    pub last_error: String,
    pub histogram: Option<Histogram>,
}

/// Since the worker started, but for `in_flight`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub struct Counts {
    pub delivered: u64,
    pub applied: u64,
    pub duplicates: u64,
    pub conflicts: u64,
    pub retried: u64,
    pub dead: u64,
    pub in_flight: u64,
    #[serde(skip)]
    pub runs: u64,
    #[serde(skip)]
    pub busy_nanos: u64,
}

/// How long handlers ran: `counts[i]` runs took at most `bounds[i]` milliseconds, the last of them longer than all bounds.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
pub struct Histogram {
    pub bounds: Vec<f64>,
    pub counts: Vec<u64>,
}

impl Histogram {
    /// Adds the runs of another worker; one that counts by other bounds is left out.
    pub fn add(&mut self, other: &Self) {
        if self.bounds == other.bounds && self.counts.len() == other.counts.len() {
            self.counts
                .iter_mut()
                .zip(&other.counts)
                .for_each(|(sum, more)| *sum += more);
        }
    }
}

#[derive(Deserialize)]
struct Stats {
    name: String,
    id: String,
    #[serde(default)]
    version: String,
    #[serde(default)]
    started: String,
    #[serde(default)]
    endpoints: Vec<Endpoint>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Endpoint {
    num_requests: u64,
    processing_time: u64,
    last_error: Option<String>,
    data: Option<Value>,
}

/// Whoever answers in another form is no worker of ours.
pub fn running(notes: &[PlainMessage]) -> Vec<Running> {
    let stats = notes
        .iter()
        .filter_map(|note| serde_json::from_slice::<Stats>(&note.payload).ok());
    stats.filter_map(one).collect()
}

fn one(stats: Stats) -> Option<Running> {
    let endpoint = stats.endpoints.into_iter().next()?;
    // `oncue up` and services of others answer as well, and handle no event.
    let data = endpoint.data.filter(|data| data["delivered"].is_u64())?;
    let mut counts = Counts::deserialize(&data).ok()?;
    (counts.runs, counts.busy_nanos) = (endpoint.num_requests, endpoint.processing_time);
    let histogram = Histogram::deserialize(&data["duration_ms"]).ok();
    Some(Running {
        function: stats.name,
        id: stats.id,
        version: stats.version,
        started: stats.started,
        counts,
        last_error: endpoint.last_error.unwrap_or_default(),
        histogram: histogram.filter(|h| h.counts.len() == h.bounds.len() + 1),
    })
}

/// Functions that `oncue up` starts when an event comes, and does not run now.
pub fn asleep(notes: &[PlainMessage]) -> BTreeSet<String> {
    let ups = notes
        .iter()
        .filter_map(|note| serde_json::from_slice::<Value>(&note.payload).ok());
    let functions = ups.filter(|up| up["name"] == "oncue-up").flat_map(|up| {
        let data = up["endpoints"][0]["data"]
            .as_object()
            .cloned()
            .unwrap_or_default();
        data.into_iter().filter(|(_, crew)| {
            crew["min"] == 0 && crew["workers"].as_array().is_some_and(Vec::is_empty)
        })
    });
    functions.map(|(name, _)| name).collect()
}

pub fn manifests(notes: &[PlainMessage]) -> Vec<Manifest> {
    let manifest = |note: &PlainMessage| -> Option<Manifest> {
        let info: Value = serde_json::from_slice(&note.payload).ok()?;
        serde_json::from_str(info["endpoints"][0]["metadata"]["manifest"].as_str()?).ok()
    };
    notes.iter().filter_map(manifest).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn note(body: &Value) -> PlainMessage {
        PlainMessage {
            subject: String::new(),
            reply: None,
            headers: Vec::new(),
            payload: body.to_string().into(),
        }
    }

    #[test]
    fn who_sleeps_is_said_by_oncue_up() {
        let crew = |min: u32, workers: Value| json!({ "min": min, "max": 4, "workers": workers });
        let data = json!({ "a": crew(0, json!([])), "b": crew(1, json!([])), "c": crew(0, json!([{ "pid": 1, "phase": "up" }])) });
        let up = json!({ "name": "oncue-up", "id": "oncue-up-1", "endpoints": [{ "data": data }] });
        assert_eq!(asleep(&[note(&up)]).into_iter().collect::<Vec<_>>(), ["a"]);
        assert!(running(&[note(&up)]).is_empty());
    }

    #[test]
    fn workers_are_read_and_strangers_passed_over() {
        let ours = json!({ "type": "io.nats.micro.v1.stats_response", "name": "f", "id": "host-1", "version": "0.1.0",
            "started": "2026-01-01T00:00:00Z", "endpoints": [{ "num_requests": 3, "processing_time": 9000, "last_error": "",
            "data": { "delivered": 4, "applied": 3, "in_flight": 1, "duration_ms": { "bounds": [1, 5.0], "counts": [1, 2, 0] } } }] });
        let stranger = json!({ "name": "x", "id": "y", "endpoints": [{ "num_requests": 1 }] });
        let read = running(&[note(&ours), note(&stranger), note(&json!([]))]);
        assert_eq!(read.len(), 1);
        assert_eq!(
            (
                read[0].counts.delivered,
                read[0].counts.runs,
                read[0].counts.dead
            ),
            (4, 3, 0)
        );
        let mut sum = read[0].histogram.clone().unwrap();
        sum.add(&read[0].histogram.clone().unwrap());
        sum.add(&Histogram {
            bounds: vec![7.0],
            counts: vec![9, 9],
        });
        assert_eq!(sum.counts, [2, 4, 0]);
    }
}
