//! The metrics of a worker, by the conventions for messaging and FaaS where there are some; ours begin with `oncue.`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde_json::Value;

use crate::telemetry;
use crate::telemetry::metrics::{
    self, INVOKE_HELP, Labels, Metric, OPERATION_HELP, PROCESS_HELP, Points, Source, Spread, Timings,
};
use crate::telemetry::prometheus;
use crate::worker::Worker;

/// Between two looks at how much waits, where somebody wants to know.
const LAG: Duration = Duration::from_secs(10);

/// Publishes the metrics of a worker that became ready after `init`, on whichever ways the environment asks for.
pub(crate) fn publish(worker: &Arc<Worker>, stream: &str, init: Duration) {
    if metrics::meter().is_none() && telemetry::listen().is_none() {
        return;
    }
    let watched = worker.clone();
    let source: Source = Arc::new(move || list(&watched, init));
    let ends: Vec<&'static str> = worker.counters.run_spreads().iter().map(|(end, _)| *end).collect();
    Timings::start(worker.function.name, &ends);
    metrics::observe(&source);
    tokio::spawn(prometheus::serve(source));
    tokio::spawn(lag(worker.clone(), stream.to_owned()));
}

/// Asks the server again and again how many messages wait.
async fn lag(worker: Arc<Worker>, stream: String) {
    let question = format!("CONSUMER.INFO.{stream}.{}", worker.function.name);
    loop {
        if let Ok(info) = worker.bus.api(&question, &Value::Null).await {
            let waiting = info["num_pending"].as_u64().unwrap_or(0) + info["num_ack_pending"].as_u64().unwrap_or(0);
            worker.counters.lag.store(waiting, Ordering::Relaxed);
        }
        tokio::time::sleep(LAG).await;
    }
}

/// The same list each time, in the same order.
fn list(worker: &Worker, init: Duration) -> Vec<Metric> {
    let (counters, name) = (&worker.counters, worker.function.name);
    let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let operation = |operation: &str| {
        vec![
            ("messaging.system", "nats".to_owned()),
            ("messaging.operation.name", operation.to_owned()),
            ("messaging.consumer.group.name", name.to_owned()),
        ]
    };
    let ours = || vec![("oncue.function", name.to_owned())];
    let pubsub = || vec![("faas.trigger", "pubsub".to_owned())];
    let sum = |name, unit, help, labels: Labels, value| Metric {
        name,
        unit,
        help,
        points: Points::Sums(vec![(labels, value)]),
    };
    let gauge = |name, unit, help, labels: Labels, value| Metric {
        name,
        unit,
        help,
        points: Points::Gauges(vec![(labels, value)]),
    };
    let classes = counters.classes();
    let of = |class: &str| classes.iter().find(|(name, _)| *name == class).map_or(0, |(_, count)| *count);
    let errors = classes.iter().map(|(class, count)| (labelled(pubsub(), "error.type", class), *count)).collect();
    let dead = counters
        .reasons()
        .into_iter()
        .map(|(reason, count)| (labelled(ours(), "oncue.reason", reason), count))
        .collect();
    let [handed, delivered, failed] = telemetry::spans_sent();
    let spans = [("handed", handed), ("delivered", delivered), ("failed", failed)];
    vec![
        sum(
            "messaging.client.consumed.messages",
            "{message}",
            "Messages delivered to this worker.",
            operation("receive"),
            get(&counters.delivered),
        ),
        sum(
            "messaging.client.sent.messages",
            "{message}",
            "Messages this worker has tried to publish.",
            operation("send"),
            get(&counters.sent),
        ),
        spreads("messaging.process.duration", PROCESS_HELP, counters.run_spreads(), || operation("process")),
        spreads(
            "messaging.client.operation.duration",
            OPERATION_HELP,
            ["", "publish"].into_iter().zip(counters.send_spreads()).collect(),
            || operation("send"),
        ),
        spreads("faas.invoke_duration", INVOKE_HELP, vec![("", all_runs(counters.run_spreads()))], pubsub),
        sum("faas.invocations", "{invocation}", "Events handled well.", pubsub(), get(&counters.applied)),
        Metric {
            name: "faas.errors",
            unit: "{error}",
            help: "Attempts that failed, by class.",
            points: Points::Sums(errors),
        },
        sum("faas.timeouts", "{timeout}", "Handlers that ran too long.", pubsub(), of("timeout")),
        sum("faas.coldstarts", "{coldstart}", "Starts of this process.", pubsub(), 1),
        gauge(
            "faas.init_duration",
            "s",
            "From the start of this process to its first pull.",
            pubsub(),
            init.as_secs_f64(),
        ),
        gauge(
            "oncue.lag",
            "{message}",
            "Messages that wait for this function or are in some worker's hands.",
            ours(),
            get(&counters.lag) as f64,
        ),
        gauge("oncue.in_flight", "{message}", "Messages in the hands of this worker.", ours(), worker.in_hand() as f64),
        sum(
            "oncue.duplicates",
            "{message}",
            "Deliveries of events that had been applied before.",
            ours(),
            get(&counters.duplicates),
        ),
        sum(
            "oncue.conflicts",
            "{conflict}",
            "Runs whose row had changed under them.",
            ours(),
            get(&counters.conflicts),
        ),
        sum("oncue.retries", "{message}", "Deliveries given back for later.", ours(), get(&counters.retried)),
        Metric {
            name: "oncue.dead_letters",
            unit: "{message}",
            help: "Events set aside, by reason.",
            points: Points::Sums(dead),
        },
        Metric {
            name: "oncue.telemetry.spans",
            unit: "{span}",
            help: "Spans handed to the exporter, delivered, and given up; what is missing is queued or did not fit the queue.",
            points: Points::Sums(
                spans.into_iter().map(|(state, count)| (labelled(ours(), "oncue.state", state), count)).collect(),
            ),
        },
    ]
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
    let labelled = |class: &str| if class.is_empty() { labels() } else { labelled(labels(), "error.type", class) };
    let used =
        by_class.into_iter().filter(|(class, spread)| class.is_empty() || spread.counts.iter().any(|count| *count > 0));
    Metric {
        name,
        unit: "s",
        help,
        points: Points::Spreads(used.map(|(class, spread)| (labelled(class), spread)).collect()),
    }
}

fn all_runs(runs: Vec<(&'static str, Spread)>) -> Spread {
    let mut all = Spread::default();
    for (_, run) in runs {
        all.counts.resize(run.counts.len(), 0);
        all.counts.iter_mut().zip(&run.counts).for_each(|(sum, count)| *sum += count);
        (all.bounds, all.sum) = (run.bounds, all.sum + run.sum);
    }
    all
}
