//! Functions as `oncue top` shows them, from two looks at what workers and consumers say.

use std::time::Duration;

use oncue_admin::AdminError;
use oncue_admin::functions::{Activity, Overview, RateMeter};
use oncue_core::bus::Bus;

/// Longest pause between two answers.
/// A worker that is later is missed for one look; its function keeps its line, which comes from the consumer.
const REPLY_GAP: Duration = Duration::from_millis(200);

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

/// Looks again and again, and remembers the look before.
#[derive(Default)]
pub struct FunctionSampler {
    meter: RateMeter,
}

impl FunctionSampler {
    pub async fn look(&mut self, bus: &Bus) -> Result<Picture, AdminError> {
        let overview = Overview::read(bus, REPLY_GAP).await?;
        Ok(self.picture(&overview))
    }

    fn picture(&mut self, overview: &Overview) -> Picture {
        let mut activity = self.meter.update(overview.at, &overview.workers);
        // Consumers and not workers: a function that nobody runs has the lag one looks for.
        let functions = overview.consumers.values().map(|consumer| {
            let activity = activity.remove(&consumer.function).unwrap_or_default();
            Line {
                function: consumer.function.clone(),
                lag: consumer.info.num_pending,
                in_flight: consumer.info.num_ack_pending,
                ..line(activity)
            }
        });
        Picture {
            functions: functions.collect(),
        }
    }
}

fn line(activity: Activity) -> Line {
    // Of what is quiet the durations of before are shown rather than none.
    let durations = if activity.added.runs > 0 {
        activity.added.durations()
    } else {
        activity.total.durations()
    };
    Line {
        workers: activity.workers,
        rate: activity.per_second.applied,
        p50: durations.p50,
        p99: durations.p99,
        average: durations.average,
        error_rate: activity.per_second.failed,
        errors: activity.total.failed,
        dead: activity.total.stats.dead,
        last_error: activity.last_error,
        ..Line::default()
    }
}

#[cfg(test)]
mod tests {
    use oncue_admin::consumers::Consumer;
    use oncue_admin::services::workers;
    use serde_json::json;

    use super::*;

    fn overview(at: u64, applied: u64) -> Overview {
        let info = json!({ "num_pending": 7, "num_ack_pending": 3 });
        let consumer = Consumer {
            function: "f".into(),
            stream: "web".into(),
            info: serde_json::from_value(info).expect("a consumer"),
        };
        let instance = json!({ "name": "f", "id": "a", "endpoints": [{ "num_requests": applied, "num_errors": 2,
            "processing_time": applied * 3_000_000, "last_error": "no disk", "data": { "applied": applied, "dead": 1 } }] });
        let instance = serde_json::from_value(instance).expect("an instance");
        Overview {
            at,
            consumers: [("f".to_owned(), consumer)].into(),
            workers: workers(&[instance]),
            ..Overview::default()
        }
    }

    #[test]
    fn a_line_has_what_the_consumer_and_the_workers_say() {
        let mut sampler = FunctionSampler::default();
        let first = sampler.picture(&overview(1000, 10)).functions.remove(0);
        assert_eq!((first.rate, first.lag, first.in_flight), (0.0, 7, 3));
        assert_eq!((first.dead, first.errors), (1, 2));
        assert_eq!(
            (first.p99, first.average, first.last_error.as_str()),
            (Some(3.0), true, "no disk")
        );
        let second = sampler.picture(&overview(3000, 30)).functions.remove(0);
        assert_eq!((second.rate, second.workers), (10.0, 1));
    }
}
