//! The metrics of a worker, by the conventions for messaging and FaaS where there are some; ours begin with `oncue.`.
//!
//! | names | convention |
//! |---|---|
//! | `messaging.client.*`, `messaging.process.duration` | OpenTelemetry semantic conventions, messaging metrics |
//! | `faas.*` | OpenTelemetry semantic conventions, FaaS metrics |
//! | `oncue.*` | ours, where no convention has a name |
//!
//! Units are UCUM codes. Counts start with the process. Labels come from bounded sets: function,
//! operation, error class, dead letter reason; never a key or an id.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use oncue_core::bus::Bus;
use oncue_core::model::manifest::Manifest;

use crate::worker::counters::Counters;
use crate::worker::in_flight::InFlight;
use oncue_telemetry::metrics::{
    self, Histogram, INVOKE_HELP, Labels, Metric, OPERATION_HELP, PROCESS_HELP, Source,
};
use oncue_telemetry::prometheus;

/// Time between two looks at how much waits, where metrics are wanted.
const LAG_INTERVAL: Duration = Duration::from_secs(10);

/// Publishes the metrics of a worker that is ready now, on whichever ways the environment asks for.
///
/// Does nothing, and asks the server nothing, where metrics are neither pushed nor listened for.
pub(crate) fn publish(
    bus: &Bus,
    manifest: &Manifest,
    counters: &Arc<Counters>,
    in_flight: &Arc<InFlight>,
) {
    if !metrics::is_pushed() && oncue_telemetry::listen().is_none() {
        return;
    }
    let watched = Watched {
        function: manifest.name.clone(),
        counters: counters.clone(),
        in_flight: in_flight.clone(),
        init: oncue_telemetry::uptime(),
    };
    // Read when somebody asks: counting costs an event the same whether or not metrics are wanted.
    let source: Source = Arc::new(move || list(&watched));
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
    /// Label of most metrics.
    function: String,
    /// Shared with the worker.
    counters: Arc<Counters>,
    /// Shared with the worker; only its count is read.
    in_flight: Arc<InFlight>,
    /// From the start of telemetry to this call, when the worker is about to pull.
    init: Duration,
}

/// Asks the server again and again how many messages wait.
///
/// An error leaves the last number standing.
async fn watch_lag(bus: Bus, stream: String, function: String, counters: Arc<Counters>) {
    loop {
        if let Ok(consumer) = bus.consumer_info(&stream, &function).await {
            counters.lag.store(consumer.lag(), Ordering::Relaxed);
        }
        tokio::time::sleep(LAG_INTERVAL).await;
    }
}

/// All metrics of a worker: the same list each time, in the same order.
fn list(watched: &Watched) -> Vec<Metric> {
    let counters = &watched.counters;
    let mut all = messaging(counters, &watched.function);
    all.extend(faas(counters, watched.init));
    all.extend(ours(counters, &watched.function, watched.in_flight.count()));
    all
}

/// Metrics by the conventions for messaging.
fn messaging(counters: &Counters, function: &str) -> Vec<Metric> {
    // Error classes of [`Counters::send_histograms`], in its order; empty for success.
    let sends = ["", "publish"]
        .into_iter()
        .zip(counters.send_histograms())
        .collect();
    vec![
        Metric::sum(
            "messaging.client.consumed.messages",
            "{message}",
            "Messages delivered to this worker.",
            operation(function, "receive"),
            get(&counters.delivered),
        ),
        Metric::sum(
            "messaging.client.sent.messages",
            "{message}",
            "Messages this worker has tried to publish.",
            operation(function, "send"),
            get(&counters.sent),
        ),
        Metric::seconds(
            "messaging.process.duration",
            PROCESS_HELP,
            by_class(counters.run_histograms(), &operation(function, "process")),
        ),
        Metric::seconds(
            "messaging.client.operation.duration",
            OPERATION_HELP,
            by_class(sends, &operation(function, "send")),
        ),
    ]
}

/// Labels of the messaging conventions: system, operation and consumer group.
fn operation(function: &str, operation: &str) -> Labels {
    vec![
        ("messaging.system", "nats".to_owned()),
        ("messaging.operation.name", operation.to_owned()),
        ("messaging.consumer.group.name", function.to_owned()),
    ]
}

/// Metrics by the conventions for FaaS.
fn faas(counters: &Counters, init: Duration) -> Vec<Metric> {
    let classes = counters.classes();
    // A timeout is an error too, so `faas.errors` holds it as well.
    let timeouts = classes
        .iter()
        .find(|(name, _)| *name == "timeout")
        .map_or(0, |(_, count)| *count);
    let errors = classes
        .iter()
        .map(|(class, count)| (labelled(&trigger(), "error.type", class), *count));
    // FaaS has one duration for all ends, messaging one for each error class.
    let mut runs = Histogram::default();
    for (_, run) in counters.run_histograms() {
        runs.add(&run);
    }
    vec![
        Metric::seconds("faas.invoke_duration", INVOKE_HELP, vec![(trigger(), runs)]),
        Metric::sum(
            "faas.invocations",
            "{invocation}",
            "Events handled well.",
            trigger(),
            get(&counters.applied),
        ),
        Metric::sums(
            "faas.errors",
            "{error}",
            "Attempts that failed, by class.",
            errors.collect(),
        ),
        Metric::sum(
            "faas.timeouts",
            "{timeout}",
            "Handlers that ran too long.",
            trigger(),
            timeouts,
        ),
        Metric::sum(
            "faas.coldstarts",
            "{coldstart}",
            "Starts of this process.",
            trigger(),
            1,
        ),
        Metric::gauge(
            "faas.init_duration",
            "s",
            "From reading the configuration to the first pull.",
            trigger(),
            init.as_secs_f64(),
        ),
    ]
}

/// Trigger of the function: the convention knows `pubsub` for messages.
fn trigger() -> Labels {
    vec![("faas.trigger", "pubsub".to_owned())]
}

/// Metrics for which there are no conventions.
fn ours(counters: &Counters, function: &str, in_flight: usize) -> Vec<Metric> {
    let mine = vec![("oncue.function", function.to_owned())];
    let dead = counters
        .reasons()
        .into_iter()
        .map(|(reason, count)| (labelled(&mine, "oncue.reason", reason), count));
    let spans = ["handed", "delivered", "failed"]
        .into_iter()
        .zip(oncue_telemetry::spans_sent());
    let spans = spans.map(|(state, count)| (labelled(&mine, "oncue.state", state), count));
    vec![
        Metric::gauge(
            "oncue.lag",
            "{message}",
            "Messages that wait for this function or are in some worker's hands.",
            mine.clone(),
            get(&counters.lag) as f64,
        ),
        Metric::gauge(
            "oncue.outputs.waiting",
            "{commit}",
            "Commits of this function whose outputs are in no stream yet: it is full, absent or without a leader.",
            mine.clone(),
            get(&counters.waiting_outputs) as f64,
        ),
        Metric::gauge(
            "oncue.in_flight",
            "{message}",
            "Messages in this worker's hands.",
            mine.clone(),
            in_flight as f64,
        ),
        Metric::sum(
            "oncue.duplicates",
            "{message}",
            "Deliveries of events applied before.",
            mine.clone(),
            get(&counters.duplicates),
        ),
        Metric::sum(
            "oncue.conflicts",
            "{conflict}",
            "Runs whose row had changed under them.",
            mine.clone(),
            get(&counters.conflicts),
        ),
        Metric::sum(
            "oncue.retries",
            "{message}",
            "Deliveries given back for later.",
            mine.clone(),
            get(&counters.retried),
        ),
        Metric::sums(
            "oncue.dead_letters",
            "{message}",
            "Events set aside, by reason.",
            dead.collect(),
        ),
        Metric::sums(
            "oncue.telemetry.spans",
            "{span}",
            "Spans handed to the exporter, delivered, given up; the rest is queued or did not fit the queue.",
            spans.collect(),
        ),
        oncue_telemetry::metrics::dropped_contexts(),
    ]
}

fn get(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

/// Labels with one more.
fn labelled(labels: &Labels, name: &'static str, value: &str) -> Labels {
    let mut labels = labels.clone();
    labels.push((name, value.to_owned()));
    labels
}

/// Series of a histogram by error class; a class that has not come up yet has none, success always.
fn by_class(
    histograms: Vec<(&'static str, Histogram)>,
    labels: &Labels,
) -> Vec<(Labels, Histogram)> {
    let used = histograms
        .into_iter()
        .filter(|(class, histogram)| class.is_empty() || histogram.count() > 0);
    used.map(|(class, histogram)| {
        let labels = if class.is_empty() {
            labels.clone()
        } else {
            labelled(labels, "error.type", class)
        };
        (labels, histogram)
    })
    .collect()
}
