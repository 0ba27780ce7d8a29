//! What the functions do, from two looks at what workers and consumers say.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use oncue_core::bus::Bus;
use oncue_core::bus::info::ConsumerInfo;
use serde_json::Value;

use crate::exit::Failure;
use crate::ps;
use crate::services::{self, Instance};

const QUIET: Duration = Duration::from_millis(200);

/// All functions, by name, at one moment.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Picture {
    pub functions: Vec<Line>,
}

/// One function over all its workers.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Line {
    pub function: String,
    pub workers: usize,
    /// Events applied per second since the last look.
    pub rate: f64,
    /// Events not yet handed to any worker.
    pub lag: u64,
    /// Handed out and not yet acknowledged.
    pub in_flight: u64,
    /// Milliseconds of a handler's run, of those since the last look if there were any. Without a histogram both are
    /// the average, and `average` says so.
    pub p50: Option<f64>,
    pub p99: Option<f64>,
    pub average: bool,
    /// Failed runs per second, and since the workers started.
    pub error_rate: f64,
    pub errors: u64,
    pub dead: u64,
    pub last_error: String,
}

/// Counters of one worker at one look.
#[derive(Debug, Clone, Default)]
struct Counts {
    function: String,
    applied: u64,
    errors: u64,
    dead: u64,
    runs: u64,
    busy_ms: f64,
    bounds: Vec<f64>,
    buckets: Vec<u64>,
    last_error: String,
}

impl Counts {
    fn of(instance: &Instance) -> Self {
        let endpoints = || instance.endpoints.iter();
        let histogram = endpoints()
            .find_map(|e| Some(&e.data.as_ref()?["duration_ms"]))
            .unwrap_or(&Value::Null);
        let list = |name: &str| histogram[name].as_array().cloned().unwrap_or_default();
        Self {
            function: instance.name.clone(),
            applied: instance.count("applied"),
            errors: endpoints().map(|e| e.num_errors).sum(),
            dead: instance.count("dead"),
            runs: endpoints().map(|e| e.num_requests).sum(),
            busy_ms: endpoints().map(|e| e.processing_time).sum::<u64>() as f64 / 1e6,
            bounds: list("bounds").iter().filter_map(Value::as_f64).collect(),
            buckets: list("counts").iter().filter_map(Value::as_u64).collect(),
            last_error: endpoints()
                .filter_map(|e| e.last_error.clone())
                .find(|e| !e.is_empty())
                .unwrap_or_default(),
        }
    }

    /// What was added since `before`; a worker that is new, or that was restarted, has done all of it since.
    fn since(&self, before: Option<&Self>) -> Self {
        let Some(before) = before.filter(|before| before.runs <= self.runs) else {
            return self.clone();
        };
        let bucket = |(at, now): (usize, &u64)| {
            now.saturating_sub(before.buckets.get(at).copied().unwrap_or(0))
        };
        Self {
            applied: self.applied.saturating_sub(before.applied),
            errors: self.errors.saturating_sub(before.errors),
            dead: self.dead.saturating_sub(before.dead),
            runs: self.runs - before.runs,
            busy_ms: (self.busy_ms - before.busy_ms).max(0.0),
            buckets: self.buckets.iter().enumerate().map(bucket).collect(),
            ..self.clone()
        }
    }

    fn add(&mut self, other: &Self) {
        self.applied += other.applied;
        self.errors += other.errors;
        self.dead += other.dead;
        self.runs += other.runs;
        self.busy_ms += other.busy_ms;
        if self.bounds.is_empty() {
            self.bounds.clone_from(&other.bounds);
            self.buckets = vec![0; other.buckets.len()];
        }
        // Workers of another version may count in other buckets; those are left to their own kind.
        if self.bounds == other.bounds {
            self.buckets
                .iter_mut()
                .zip(&other.buckets)
                .for_each(|(sum, more)| *sum += more);
        }
        if self.last_error.is_empty() {
            self.last_error.clone_from(&other.last_error);
        }
    }

    /// p50, p99, and whether both are only the average.
    fn durations(&self) -> (Option<f64>, Option<f64>, bool) {
        let of = |q: f64| quantile(&self.bounds, &self.buckets, q);
        if let (Some(p50), Some(p99)) = (of(0.5), of(0.99)) {
            return (Some(p50), Some(p99), false);
        }
        let average = (self.runs > 0).then(|| self.busy_ms / self.runs as f64);
        (average, average, true)
    }
}

/// A quantile out of a histogram, straight between the bounds of its bucket; above the last bound, that bound.
fn quantile(bounds: &[f64], buckets: &[u64], q: f64) -> Option<f64> {
    let total: u64 = buckets.iter().sum();
    if total == 0 || bounds.is_empty() {
        return None;
    }
    let (wanted, mut below) = (q * total as f64, 0.0);
    for (at, count) in buckets.iter().enumerate() {
        let here = *count as f64;
        if below + here >= wanted && here > 0.0 {
            let Some(high) = bounds.get(at) else {
                return bounds.last().copied();
            };
            let low = if at == 0 { 0.0 } else { bounds[at - 1] };
            return Some(low + (high - low) * ((wanted - below) / here));
        }
        below += here;
    }
    bounds.last().copied()
}

#[derive(Default)]
pub struct Sampler {
    before: Option<(Instant, BTreeMap<String, Counts>)>,
}

impl Sampler {
    pub async fn look(&mut self, bus: &Bus) -> Result<Picture, Failure> {
        let instances = services::ask(bus, "$SRV.STATS", QUIET).await?;
        let consumers = ps::consumers(bus).await?;
        Ok(self.picture(&instances, &consumers, Instant::now()))
    }

    fn picture(
        &mut self,
        instances: &[Instance],
        consumers: &BTreeMap<String, (String, ConsumerInfo)>,
        now: Instant,
    ) -> Picture {
        let counts: BTreeMap<String, Counts> = instances
            .iter()
            .filter(|i| consumers.contains_key(&i.name))
            .map(|i| (i.id.clone(), Counts::of(i)))
            .collect();
        let seconds = self
            .before
            .as_ref()
            .map(|(then, _)| now.duration_since(*then).as_secs_f64().max(0.001));
        let mut functions = Vec::new();
        for (function, (_, info)) in consumers {
            let (mut all, mut new, mut workers) = (Counts::default(), Counts::default(), 0);
            for (id, own) in counts.iter().filter(|(_, own)| own.function == *function) {
                workers += 1;
                all.add(own);
                let before = self.before.as_ref().and_then(|(_, before)| before.get(id));
                new.add(&own.since(before));
            }
            let rate = |n: u64| seconds.map_or(0.0, |seconds| n as f64 / seconds);
            let (p50, p99, average) = if new.runs > 0 {
                new.durations()
            } else {
                all.durations()
            };
            functions.push(Line {
                function: function.clone(),
                workers,
                rate: rate(new.applied),
                lag: info.num_pending,
                in_flight: info.num_ack_pending,
                p50,
                p99,
                average,
                error_rate: rate(new.errors),
                errors: all.errors,
                dead: all.dead,
                last_error: all.last_error,
            });
        }
        self.before = Some((now, counts));
        Picture { functions }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn consumer(info: Value) -> ConsumerInfo {
        serde_json::from_value(info).unwrap()
    }

    fn instance(id: &str, runs: u64, applied: u64, buckets: &Value) -> Instance {
        let mut data = json!({ "applied": applied, "dead": 1 });
        if !buckets.is_null() {
            data["duration_ms"] = json!({ "bounds": [1, 10, 100], "counts": buckets });
        }
        serde_json::from_value(json!({ "name": "f", "id": id, "endpoints": [
            { "num_requests": runs, "num_errors": 2, "processing_time": runs * 3_000_000, "last_error": "no disk", "data": data }] }))
        .unwrap()
    }

    #[test]
    fn rates_are_what_came_between_two_looks() {
        let consumers = BTreeMap::from([(
            "f".to_owned(),
            (
                "web".to_owned(),
                consumer(json!({ "num_pending": 7, "num_ack_pending": 3 })),
            ),
        )]);
        let (mut sampler, start) = (Sampler::default(), Instant::now());
        let none = Value::Null;
        let first = sampler
            .picture(&[instance("a", 10, 10, &none)], &consumers, start)
            .functions
            .remove(0);
        assert_eq!(
            (
                first.rate,
                first.lag,
                first.in_flight,
                first.dead,
                first.errors
            ),
            (0.0, 7, 3, 1, 2)
        );
        assert_eq!(
            (first.p99, first.average, first.last_error.as_str()),
            (Some(3.0), true, "no disk")
        );
        // One goes on, one is new, and one has started again under its old name.
        let later = start + Duration::from_secs(2);
        let second = sampler.picture(
            &[instance("a", 30, 30, &none), instance("b", 4, 4, &none)],
            &consumers,
            later,
        );
        assert_eq!(
            (second.functions[0].rate, second.functions[0].workers),
            (12.0, 2)
        );
        let third = sampler.picture(
            &[instance("a", 6, 6, &none)],
            &consumers,
            later + Duration::from_secs(1),
        );
        assert_eq!(Some(third.functions[0].rate), Some(6.0));
    }

    #[test]
    fn quantiles_come_from_the_histogram_of_the_last_interval() {
        assert_eq!(
            quantile(&[1.0, 10.0, 100.0], &[0, 100, 0, 0], 0.5),
            Some(5.5)
        );
        assert_eq!(
            quantile(&[1.0, 10.0, 100.0], &[50, 49, 0, 1], 0.99),
            Some(10.0)
        );
        assert_eq!(
            quantile(&[1.0, 10.0, 100.0], &[0, 0, 0, 5], 0.5),
            Some(100.0)
        );
        assert_eq!(
            (quantile(&[], &[5], 0.5), quantile(&[1.0], &[0, 0], 0.5)),
            (None, None)
        );
        let consumers = BTreeMap::from([("f".to_owned(), ("web".to_owned(), consumer(json!({}))))]);
        let (mut sampler, start) = (Sampler::default(), Instant::now());
        sampler.picture(
            &[instance("a", 100, 100, &json!([100, 0, 0, 0]))],
            &consumers,
            start,
        );
        let second = sampler.picture(
            &[instance("a", 110, 110, &json!([100, 0, 10, 0]))],
            &consumers,
            start,
        );
        assert_eq!(
            (second.functions[0].p50, second.functions[0].average),
            (Some(55.0), false)
        );
    }
}
