//! The metrics of a worker, by the conventions for messaging and FaaS where there are some; ours begin with `oncue.`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use oncue_core::bus::Bus;
use oncue_core::model::manifest::Manifest;

use crate::worker::counters::Counters;
use crate::worker::in_flight::InFlight;
use oncue_telemetry::metrics::{
    self, INVOKE_HELP, Labels, Metric, OPERATION_HELP, PROCESS_HELP, Points, Source, Spread,
    Timings,
};
use oncue_telemetry::prometheus;

/// Between two looks at how much waits, where somebody wants to know.
const LAG_INTERVAL: Duration = Duration::from_secs(10);

/// Publishes the metrics of a worker that is ready now, on whichever ways the environment asks for.
pub(crate) fn publish(
    bus: &Bus,
    manifest: &Manifest,
    counters: &Arc<Counters>,
    in_flight: &Arc<InFlight>,
) {
    if metrics::meter().is_none() && oncue_telemetry::listen().is_none() {
        return;
    }
    let watched = Watched {
        function: manifest.name.clone(),
        counters: counters.clone(),
        in_flight: in_flight.clone(),
        init: oncue_telemetry::uptime(),
    };
    let source: Source = Arc::new(move || list(&watched));
    let ends: Vec<&'static str> = counters.run_spreads().iter().map(|(end, _)| *end).collect();
    Timings::start(&manifest.name, &ends);
    metrics::observe(&source);
    tokio::spawn(prometheus::serve(source));
    tokio::spawn(watch_lag(
        bus.clone(),
        manifest.stream.clone(),
        manifest.name.clone(),
        counters.clone(),
    ));
}

/// State of a worker from which its metrics are made.
struct Watched {
    function: String,
    counters: Arc<Counters>,
    in_flight: Arc<InFlight>,
    init: Duration,
}

/// Asks the server again and again how many messages wait.
async fn watch_lag(bus: Bus, stream: String, function: String, counters: Arc<Counters>) {
    loop {
        if let Ok(consumer) = bus.consumer_info(&stream, &function).await {
            counters.lag.store(consumer.lag(), Ordering::Relaxed);
        }
        tokio::time::sleep(LAG_INTERVAL).await;
    }
}

/// The same list each time, in the same order.
fn list(watched: &Watched) -> Vec<Metric> {
    let mut all = messaging(watched);
    all.extend(faas(&watched.counters, watched.init));
    all.extend(ours(watched));
    all
}

fn messaging(watched: &Watched) -> Vec<Metric> {
    let counters = &watched.counters;
    let labels = |operation: &str| {
        vec![
            ("messaging.system", "nats".to_owned()),
            ("messaging.operation.name", operation.to_owned()),
            ("messaging.consumer.group.name", watched.function.clone()),
        ]
    };
    let sum = |name, help, operation, count| sum(name, "{message}", help, labels(operation), count);
    let sends = ["", "publish"]
        .into_iter()
        .zip(counters.send_spreads())
        .collect();
    vec![
        sum(
            "messaging.client.consumed.messages",
            "Messages delivered to this worker.",
            "receive",
            get(&counters.delivered),
        ),
        sum(
            "messaging.client.sent.messages",
            "Messages this worker has tried to publish.",
            "send",
            get(&counters.sent),
        ),
        spreads(
            "messaging.process.duration",
            PROCESS_HELP,
            counters.run_spreads(),
            || labels("process"),
        ),
        spreads(
            "messaging.client.operation.duration",
            OPERATION_HELP,
            sends,
            || labels("send"),
        ),
    ]
}

fn faas(counters: &Counters, init: Duration) -> Vec<Metric> {
    let labels = || vec![("faas.trigger", "pubsub".to_owned())];
    let classes = counters.classes();
    let timeouts = classes
        .iter()
        .find(|(name, _)| *name == "timeout")
        .map_or(0, |(_, count)| *count);
    let errors = classes
        .iter()
        .map(|(class, count)| (labelled(labels(), "error.type", class), *count));
    vec![
        spreads(
            "faas.invoke_duration",
            INVOKE_HELP,
            vec![("", all_runs(counters.run_spreads()))],
            labels,
        ),
        sum(
            "faas.invocations",
            "{invocation}",
            "Events handled well.",
            labels(),
            get(&counters.applied),
        ),
        sums(
            "faas.errors",
            "{error}",
            "Attempts that failed, by class.",
            errors.collect(),
        ),
        sum(
            "faas.timeouts",
            "{timeout}",
            "Handlers that ran too long.",
            labels(),
            timeouts,
        ),
        sum(
            "faas.coldstarts",
            "{coldstart}",
            "Starts of this process.",
            labels(),
            1,
        ),
        gauge(
            "faas.init_duration",
            "s",
            "From reading the configuration to the first pull.",
            labels(),
            init.as_secs_f64(),
        ),
    ]
}

fn ours(watched: &Watched) -> Vec<Metric> {
    let counters = &watched.counters;
    let labels = || vec![("oncue.function", watched.function.clone())];
    let sum = |name, unit, help, count: &AtomicU64| sum(name, unit, help, labels(), get(count));
    let dead = counters
        .reasons()
        .into_iter()
        .map(|(reason, count)| (labelled(labels(), "oncue.reason", reason), count));
    let spans = ["handed", "delivered", "failed"]
        .into_iter()
        .zip(oncue_telemetry::spans_sent());
    let spans = spans.map(|(state, count)| (labelled(labels(), "oncue.state", state), count));
    vec![
        gauge(
            "oncue.lag",
            "{message}",
            "Messages that wait for this function or are in some worker's hands.",
            labels(),
            get(&counters.lag) as f64,
        ),
        gauge(
            "oncue.in_flight",
            "{message}",
            "Messages in this worker's hands.",
            labels(),
            watched.in_flight.count() as f64,
        ),
        sum(
            "oncue.duplicates",
            "{message}",
            "Deliveries of events applied before.",
            &counters.duplicates,
        ),
        sum(
            "oncue.conflicts",
            "{conflict}",
            "Runs whose row had changed under them.",
            &counters.conflicts,
        ),
        sum(
            "oncue.retries",
            "{message}",
            "Deliveries given back for later.",
            &counters.retried,
        ),
        sums(
            "oncue.dead_letters",
            "{message}",
            "Events set aside, by reason.",
            dead.collect(),
        ),
        sums(
            "oncue.telemetry.spans",
            "{span}",
            "Spans handed to the exporter, delivered, given up; the rest is queued or did not fit the queue.",
            spans.collect(),
        ),
    ]
}

fn get(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

fn sum(
    name: &'static str,
    unit: &'static str,
    help: &'static str,
    labels: Labels,
    value: u64,
) -> Metric {
    sums(name, unit, help, vec![(labels, value)])
}

fn sums(
    name: &'static str,
    unit: &'static str,
    help: &'static str,
    points: Vec<(Labels, u64)>,
) -> Metric {
    Metric {
        name,
        unit,
        help,
        points: Points::Sums(points),
    }
}

fn gauge(
    name: &'static str,
    unit: &'static str,
    help: &'static str,
    labels: Labels,
    value: f64,
) -> Metric {
    Metric {
        name,
        unit,
        help,
        points: Points::Gauges(vec![(labels, value)]),
    }
}

fn labelled(mut labels: Labels, name: &'static str, value: &str) -> Labels {
    labels.push((name, value.to_owned()));
    labels
}

fn spreads(
    name: &'static str,
    help: &'static str,
    by_class: Vec<(&'static str, Spread)>,
    labels: impl Fn() -> Labels,
) -> Metric {
    let labelled = |class: &str| {
        if class.is_empty() {
            labels()
        } else {
            labelled(labels(), "error.type", class)
        }
    };
    let used = by_class
        .into_iter()
        .filter(|(class, spread)| class.is_empty() || spread.counts.iter().any(|count| *count > 0));
    Metric {
        name,
        unit: "s",
        help,
        points: Points::Spreads(
            used.map(|(class, spread)| (labelled(class), spread))
                .collect(),
        ),
    }
}

fn all_runs(runs: Vec<(&'static str, Spread)>) -> Spread {
    let mut all = Spread::default();
    for (_, run) in runs {
        all.counts.resize(run.counts.len(), 0);
        all.counts
            .iter_mut()
            .zip(&run.counts)
            .for_each(|(sum, count)| *sum += count);
        (all.bounds, all.sum) = (run.bounds, all.sum + run.sum);
    }
    all
}
