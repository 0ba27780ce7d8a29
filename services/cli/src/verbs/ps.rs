//! `oncue ps`: every function as the bus knows it (consumers), as its workers answer, and as `oncue up` keeps it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anstyle::Style;
use oncue_admin::functions::{FunctionState, Overview};
use oncue_admin::services::bounds::{self, SetBounds};
use oncue_admin::{consumers, dead_letters};
use oncue_core::bus::Bus;
use oncue_core::config::{FunctionConfig, Scale};
use oncue_core::model::audit::WAITING_MS;
use oncue_core::store::{Store, WaitingOutputs};
use oncue_proto::event;
use serde::Serialize;

use crate::exit::{self, Failure};
use crate::settings::Settings;
use crate::terminal::paint::{BAD, CHANGED, DIM, GOOD, NAME, PLAIN, remark, say};
use crate::terminal::table::{self, Cell, number, text};

/// Answers come within milliseconds; a worker busy for longer than this is worth being missed once.
const REPLY_GAP: Duration = Duration::from_millis(300);

#[derive(clap::Args)]
pub struct Args {
    /// Print one JSON array.
    #[arg(long)]
    json: bool,
}

/// One function, over all its replicas.
#[derive(Debug, Default, Serialize)]
struct FunctionRow {
    function: String,
    stream: Option<String>,
    state: FunctionState,
    /// Processes that answer.
    replicas: u64,
    /// Bounds within which `oncue up` scales; none for a function oncue.toml does not name.
    min: Option<u32>,
    max: Option<u32>,
    /// Bounds that somebody has set in place of those of oncue.toml.
    set_bounds: Option<SetBounds>,
    /// Events not yet handed to any worker.
    pending: u64,
    /// Events handed out and not yet acknowledged.
    in_flight: u64,
    redelivered: u64,
    /// Counts from here to `dead` are of all workers there ever were.
    applied: u64,
    duplicates: u64,
    retried: u64,
    failed: u64,
    dead: u64,
    /// Dead letters that are there now.
    open_letters: u64,
    /// Commits whose outputs are in no stream yet.
    waiting_outputs: u64,
    average_ms: Option<f64>,
    last_error: Option<String>,
    instances: Vec<String>,
}

pub async fn run(args: &Args, settings: &Settings) -> Result<u8, Failure> {
    let bus = settings.bus().await?;
    let overview = Overview::read(&bus, REPLY_GAP)
        .await
        .map_err(Failure::silent)?;
    let mut set = bounds::all(&bus).await.map_err(Failure::silent)?;
    let letters = dead_letters::counts(&bus).await.map_err(Failure::silent)?;
    // Without Redis only what runs now has counted anything.
    let store = settings.store().await.ok();
    let totals = match &store {
        Some(store) => store.counts().await.unwrap_or_default(),
        None => BTreeMap::new(),
    };
    let declared = &settings.config.functions;
    // Declared ones also where nobody runs them: what is missing is what one looks for.
    // And those that are gone from oncue.toml and not from the servers, for which events wait.
    let known = declared.keys().chain(overview.running());
    let left = overview.consumers.keys().filter(|_| !declared.is_empty());
    let names: BTreeSet<&String> = known.chain(left).collect();
    let waiting = match &store {
        Some(store) => waiting_outputs(&names, store).await,
        None => None,
    };
    let lines: Vec<FunctionRow> = names
        .into_iter()
        .map(|name| {
            let scale = declared.get(name).map(FunctionConfig::scale);
            let mut row = line(name, scale, &overview);
            row.set_bounds = set.remove(name);
            row.open_letters = letters.get(name).copied().unwrap_or_default();
            // What a worker has counted is some seconds old.
            if let Some(waiting) = &waiting {
                row.waiting_outputs = waiting.get(name).map_or(0, |waiting| waiting.commits);
            }
            if let Some(totals) = totals.get(name) {
                row.add_former(totals);
            }
            row
        })
        .collect();
    if args.json {
        say(serde_json::to_string(&lines).unwrap_or_default());
    } else {
        say(table(&lines));
        for complaint in lines.iter().filter_map(complaint) {
            remark(complaint);
        }
        for set in lines.iter().filter_map(bounds_remark) {
            remark(set);
        }
    }
    // Silence of all of them is an exit code of its own, for scripts that wait for a start.
    let anybody = !overview.supervised.is_empty() || lines.iter().any(|l| l.replicas > 0);
    Ok(if anybody || lines.is_empty() {
        exit::OK
    } else {
        exit::SILENT
    })
}

/// Outputs in no stream, by function, as `oncue doctor` asks for them; `None` where Redis does not say.
async fn waiting_outputs(
    names: &BTreeSet<&String>,
    store: &Store,
) -> Option<BTreeMap<String, WaitingOutputs>> {
    let names: Vec<&str> = names.iter().map(|name| name.as_str()).collect();
    let old = event::now_ms().saturating_sub(WAITING_MS);
    store.waiting_outputs(&names, old).await.ok()
}

/// Names of the event streams.
pub async fn streams(bus: &Bus) -> Result<Vec<String>, Failure> {
    let streams = consumers::event_streams(bus).await.map_err(|e| {
        Failure::silent(e).advise("is JetStream on? `nats-server -js`, or let `oncue up` start one")
    })?;
    Ok(streams
        .into_iter()
        .map(|stream| stream.config.name)
        .collect())
}

impl FunctionRow {
    /// Counts workers that have ended as well: what all have reported, which is some seconds old.
    fn add_former(&mut self, totals: &BTreeMap<String, u64>) {
        for (name, count) in [
            ("applied", &mut self.applied),
            ("duplicate", &mut self.duplicates),
            ("retried", &mut self.retried),
            ("dead", &mut self.dead),
        ] {
            let total = totals.get(name).copied().unwrap_or(0);
            *count = total.max(*count);
        }
        self.failed = self.failed.max(self.retried + self.dead);
    }
}

fn line(name: &str, scale: Option<Scale>, overview: &Overview) -> FunctionRow {
    let status = overview.status(name);
    let total = status.total();
    let info = status
        .consumer
        .map(|consumer| consumer.info.clone())
        .unwrap_or_default();
    let kept = status.supervised;
    FunctionRow {
        function: name.to_owned(),
        stream: status.consumer.map(|consumer| consumer.stream.clone()),
        state: status.state(),
        replicas: status.workers.len() as u64,
        min: kept.map(|kept| kept.min).or(scale.map(|scale| scale.min)),
        max: kept.map(|kept| kept.max).or(scale.map(|scale| scale.max)),
        set_bounds: None,
        pending: info.num_pending,
        in_flight: info.num_ack_pending,
        redelivered: info.num_redelivered,
        applied: total.stats.applied,
        duplicates: total.stats.duplicates,
        retried: total.stats.retried,
        failed: total.failed,
        dead: total.stats.dead,
        open_letters: 0,
        waiting_outputs: total.stats.waiting_outputs,
        average_ms: total.average_ms().map(|ms| (ms * 100.0).round() / 100.0),
        last_error: status.last_error().map(str::to_owned),
        instances: status.workers.iter().map(|one| one.id.clone()).collect(),
    }
}

/// Colour of a state.
fn style(state: FunctionState) -> Style {
    match state {
        FunctionState::Running => GOOD,
        FunctionState::Asleep => DIM,
        FunctionState::Starting | FunctionState::Stopping => CHANGED,
        FunctionState::Failing | FunctionState::Paused | FunctionState::Stopped => BAD,
    }
}

fn table(lines: &[FunctionRow]) -> String {
    let head = [
        "FUNCTION",
        "STREAM",
        "STATE",
        "REPLICAS",
        "LAG",
        "IN FLIGHT",
        "REDELIVERED",
        "APPLIED",
        "DUPLICATES",
        "FAILED",
        "OPEN LETTERS",
        "AVERAGE",
    ];
    let rows: Vec<Vec<Cell>> = lines.iter().map(row).collect();
    table::render(&head, &rows)
}

fn row(line: &FunctionRow) -> Vec<Cell> {
    let few = line.min.is_some_and(|min| line.replicas < u64::from(min));
    let replicas = match (line.min, line.max) {
        (Some(min), Some(max)) if min != max => format!("{}/{min}..{max}", line.replicas),
        (Some(min), _) => format!("{}/{min}", line.replicas),
        _ => line.replicas.to_string(),
    };
    let average = line
        .average_ms
        .map_or_else(|| "-".to_owned(), |ms| format!("{ms} ms"));
    vec![
        text(&line.function).style(NAME),
        text(line.stream.as_deref().unwrap_or("-")),
        text(line.state.word()).style(style(line.state)),
        text(replicas)
            .right()
            .style(if few { CHANGED } else { PLAIN }),
        number(line.pending),
        number(line.in_flight),
        number(line.redelivered).style(if line.redelivered > 0 { CHANGED } else { PLAIN }),
        number(line.applied),
        number(line.duplicates),
        bad(line.failed),
        bad(line.open_letters),
        text(average).right(),
    ]
}

/// A number that should be 0.
fn bad(n: u64) -> Cell {
    number(n).style(if n > 0 { BAD } else { DIM })
}

/// Sentence about a function that has other bounds than oncue.toml says.
fn bounds_remark(line: &FunctionRow) -> Option<String> {
    let name = &line.function;
    let SetBounds {
        min,
        max,
        by,
        reason,
        ..
    } = line.set_bounds.as_ref()?;
    Some(format!(
        "{name}: {min} to {max} workers on each machine, as {by} has set it ({reason}); `oncue scale {name} --reset` takes that away"
    ))
}

/// Sentence about a function that needs somebody.
fn complaint(line: &FunctionRow) -> Option<String> {
    let name = &line.function;
    if line.state == FunctionState::Failing {
        return Some(format!(
            "{name}: a worker keeps ending; what it says is in the log of `oncue up`"
        ));
    }
    if line.state == FunctionState::Stopped && line.max.is_none() {
        let waiting = line.pending;
        return Some(format!(
            "{name}: oncue.toml does not name it, and {waiting} events wait for it; `oncue remove {name}` takes it off the servers"
        ));
    }
    if line.state == FunctionState::Stopped && line.max != Some(0) {
        let waits = if line.pending > 0 {
            format!("{} events wait; ", line.pending)
        } else {
            String::new()
        };
        return Some(format!(
            "{name}: no worker answers; {waits}start it with `oncue up`"
        ));
    }
    if line.stream.is_none() {
        return Some(format!("{name}: it has no consumer; run `oncue apply`"));
    }
    if line.waiting_outputs > 0 {
        return Some(format!(
            "{name}: the outputs of {} commits are in no stream yet, and workers try again; `oncue doctor` says why",
            line.waiting_outputs
        ));
    }
    line.last_error
        .as_ref()
        .map(|error| format!("{name}: last error: {error}"))
}

#[cfg(test)]
mod tests {
    use oncue_admin::consumers::Consumer;
    use oncue_admin::services::{SupervisedFunction, workers};
    use oncue_core::bus::services::ServiceInstance;
    use serde_json::{Value, json};

    use super::*;

    fn overview(consumer: Value, instances: &[ServiceInstance]) -> Overview {
        let consumer = Consumer {
            function: "f".into(),
            stream: "web".into(),
            info: serde_json::from_value(consumer).expect("a consumer"),
        };
        Overview {
            consumers: [("f".to_owned(), consumer)].into(),
            workers: workers(instances),
            ..Overview::default()
        }
    }

    #[expect(clippy::unnecessary_wraps, reason = "as rows take it")]
    fn scale(min: u32, max: u32) -> Option<Scale> {
        Some(Scale {
            min,
            max,
            idle: Duration::ZERO,
        })
    }

    #[test]
    fn a_line_sums_replicas_and_reads_the_consumer() {
        let instance: ServiceInstance = serde_json::from_value(json!({ "name": "f", "id": "h-1", "endpoints": [
            { "num_requests": 4, "num_errors": 1, "processing_time": 10_000_000, "last_error": "", "data": { "applied": 3, "dead": 1 } }] }))
        .unwrap();
        let info = json!({ "num_pending": 7, "num_ack_pending": 2, "num_redelivered": 1 });
        let both = overview(info, &[instance.clone(), instance]);
        let fixed = line("f", scale(3, 3), &both);
        assert_eq!((fixed.replicas, fixed.redelivered), (2, 1));
        assert_eq!((fixed.pending, fixed.in_flight), (7, 2));
        assert_eq!(
            (fixed.applied, fixed.dead, fixed.failed, fixed.average_ms),
            (6, 2, 2, Some(2.5))
        );
        let elastic = line("f", scale(0, 4), &both);
        let shown = anstream::adapter::strip_str(&table(&[fixed, elastic])).to_string();
        let mut rows = shown.lines().skip(1);
        assert!(
            rows.next()
                .is_some_and(|l| l.starts_with("f         web     running       2/3    7")),
            "{shown}"
        );
        assert!(
            rows.next()
                .is_some_and(|l| l.starts_with("f         web     running    2/0..4    7")),
            "{shown}"
        );
    }

    #[test]
    fn counts_do_not_fall_when_a_worker_ends() {
        let mut row = line("f", scale(1, 1), &overview(json!({}), &[]));
        assert_eq!(row.applied, 0);
        let mut totals = BTreeMap::from([("applied".to_owned(), 40), ("dead".to_owned(), 2)]);
        row.add_former(&totals);
        assert_eq!((row.applied, row.dead, row.failed), (40, 2, 2));
        // What was reported last is older than what a worker says.
        totals.insert("applied".to_owned(), 39);
        row.add_former(&totals);
        assert_eq!(row.applied, 40);
    }

    #[test]
    fn a_function_nobody_runs_is_pointed_out() {
        let mut there = overview(json!({ "num_pending": 3 }), &[]);
        let complained = complaint(&line("f", scale(0, 1), &there));
        assert!(complained.is_some_and(|c| c.contains("3 events wait") && c.contains("oncue up")));
        assert!(complaint(&line("f", scale(0, 0), &there)).is_none());
        let asleep = SupervisedFunction {
            min: 0,
            max: 1,
            ..SupervisedFunction::default()
        };
        there.supervised.insert("f".into(), asleep);
        assert!(complaint(&line("f", scale(0, 1), &there)).is_none());
    }
}
