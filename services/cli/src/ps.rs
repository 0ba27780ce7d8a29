//! `oncue ps`: what the bus knows of every function (consumers), what its workers say of themselves, and which of them
//! `oncue up` keeps (both on `$SRV`).

mod kept;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use oncue_core::bus::Bus;
use oncue_core::bus::info::ConsumerInfo;
use oncue_core::bus::layout::DLQ;
use oncue_core::config::Scale;
use serde::Serialize;

pub use self::kept::UP;
use self::kept::{Kept, State, state};
use crate::exit::{self, Failure};
use crate::paint::{BAD, CHANGED, DIM, NAME, PLAIN, remark, say};
use crate::services::{self, Instance};
use crate::settings::Settings;
use crate::table::{self, Cell, number, text};

/// Answers come within milliseconds; a worker busy for longer than this is worth being missed once.
const QUIET: Duration = Duration::from_millis(300);

#[derive(clap::Args)]
pub struct Args {
    /// Print one JSON array.
    #[arg(long)]
    json: bool,
}

/// One function, over all its replicas.
#[derive(Debug, Default, Serialize)]
struct Line {
    function: String,
    stream: Option<String>,
    state: State,
    /// Processes that answer.
    replicas: u64,
    /// Bounds within which `oncue up` scales; none for a function oncue.toml does not name.
    min: Option<u32>,
    max: Option<u32>,
    /// Events not yet handed to any worker.
    pending: u64,
    /// Events handed out and not yet acknowledged.
    in_flight: u64,
    redelivered: u64,
    applied: u64,
    duplicates: u64,
    retried: u64,
    failed: u64,
    dead: u64,
    average_ms: Option<f64>,
    last_error: Option<String>,
    instances: Vec<String>,
}

pub async fn run(args: &Args, settings: &Settings) -> Result<u8, Failure> {
    let bus = settings.bus().await?;
    let answering = services::by_name(services::ask(&bus, "$SRV.STATS", QUIET).await?);
    let consumers = consumers(&bus).await?;
    let kept = kept::all(answering.get(kept::UP).map_or(&[], Vec::as_slice));
    let config = &settings.config;
    let ours =
        |name: &&String| config.functions.contains_key(*name) || consumers.contains_key(*name);
    let names: BTreeSet<&String> = config
        .functions
        .keys()
        .chain(answering.keys().filter(ours))
        .collect();
    let lines: Vec<Line> = names
        .into_iter()
        .map(|name| {
            let scale = config
                .functions
                .get(name)
                .map(oncue_core::config::FunctionConfig::scale);
            let kept = kept.get(name);
            line(
                name,
                scale,
                kept,
                answering.get(name).map_or(&[], Vec::as_slice),
                consumers.get(name),
            )
        })
        .collect();
    if args.json {
        say(serde_json::to_string(&lines).unwrap_or_default());
    } else {
        say(table(&lines));
        for complaint in lines.iter().filter_map(complaint) {
            remark(complaint);
        }
    }
    let anybody = !kept.is_empty() || lines.iter().any(|l| l.replicas > 0);
    Ok(if anybody || lines.is_empty() {
        exit::OK
    } else {
        exit::SILENT
    })
}

/// Every durable consumer by name, with its stream: no program has to be asked, so `ps` works from anywhere.
pub async fn consumers(bus: &Bus) -> Result<BTreeMap<String, (String, ConsumerInfo)>, Failure> {
    let mut found = BTreeMap::new();
    for stream in streams(bus).await?.into_iter().filter(|s| s != DLQ) {
        for info in bus.consumers(&stream).await.map_err(Failure::silent)? {
            if let Some(name) = info.config.durable_name.clone() {
                found.insert(name, (stream.clone(), info));
            }
        }
    }
    Ok(found)
}

/// Names of the event streams: object stores and key-value buckets are none.
pub async fn streams(bus: &Bus) -> Result<Vec<String>, Failure> {
    let names = bus.stream_names().await.map_err(|e| {
        Failure::silent(e).advise("is JetStream on? `nats-server -js`, or let `oncue up` start one")
    })?;
    Ok(names
        .into_iter()
        .filter(|name| !name.starts_with("OBJ_") && !name.starts_with("KV_"))
        .collect())
}

fn line(
    name: &str,
    scale: Option<Scale>,
    kept: Option<&Kept>,
    instances: &[Instance],
    consumer: Option<&(String, ConsumerInfo)>,
) -> Line {
    let sum = |field: &str| instances.iter().map(|i| i.count(field)).sum();
    let info = consumer.map(|(_, info)| info.clone()).unwrap_or_default();
    let endpoints = || instances.iter().flat_map(|i| &i.endpoints);
    let (requests, time) = endpoints().fold((0, 0), |(n, t), e| {
        (n + e.num_requests, t + e.processing_time)
    });
    Line {
        function: name.to_owned(),
        stream: consumer.map(|(stream, _)| stream.clone()),
        state: state(kept, instances),
        replicas: instances.len() as u64,
        min: kept.map(|kept| kept.min).or(scale.map(|scale| scale.min)),
        max: kept.map(|kept| kept.max).or(scale.map(|scale| scale.max)),
        pending: info.num_pending,
        in_flight: info.num_ack_pending,
        redelivered: info.num_redelivered,
        applied: sum("applied"),
        duplicates: sum("duplicates"),
        retried: sum("retried"),
        failed: endpoints().map(|e| e.num_errors).sum(),
        dead: sum("dead"),
        average_ms: (requests > 0).then(|| (time as f64 / requests as f64 / 1e4).round() / 100.0),
        last_error: endpoints()
            .filter_map(|e| e.last_error.clone())
            .find(|e| !e.is_empty()),
        instances: instances.iter().map(|i| i.id.clone()).collect(),
    }
}

fn table(lines: &[Line]) -> String {
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
        "DEAD",
        "AVERAGE",
    ];
    let rows: Vec<Vec<Cell>> = lines.iter().map(row).collect();
    table::render(&head, &rows)
}

fn row(line: &Line) -> Vec<Cell> {
    let bad = |n: u64| number(n).style(if n > 0 { BAD } else { DIM });
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
        text(line.state.word()).style(line.state.style()),
        text(replicas)
            .right()
            .style(if few { CHANGED } else { PLAIN }),
        number(line.pending),
        number(line.in_flight),
        number(line.redelivered).style(if line.redelivered > 0 { CHANGED } else { PLAIN }),
        number(line.applied),
        number(line.duplicates),
        bad(line.failed),
        bad(line.dead),
        text(average).right(),
    ]
}

fn complaint(line: &Line) -> Option<String> {
    let name = &line.function;
    if line.state == State::Failing {
        return Some(format!(
            "{name}: a worker keeps ending; what it says is in the log of `oncue up`"
        ));
    }
    if line.state == State::Stopped && line.max != Some(0) {
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
    line.last_error
        .as_ref()
        .map(|error| format!("{name}: last error: {error}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_line_sums_replicas_and_reads_the_consumer() {
        let instance: Instance = serde_json::from_value(json!({ "name": "f", "id": "h-1", "endpoints": [
            { "num_requests": 4, "num_errors": 1, "processing_time": 10_000_000, "last_error": "", "data": { "applied": 3, "dead": 1 } }] }))
        .unwrap();
        let info = json!({ "num_pending": 7, "num_ack_pending": 2, "num_redelivered": 1 });
        let scale = |min, max| {
            Some(Scale {
                min,
                max,
                idle: Duration::ZERO,
            })
        };
        let both = [instance.clone(), instance];
        let consumer = ("web".into(), serde_json::from_value(info).unwrap());
        let fixed = line("f", scale(3, 3), None, &both, Some(&consumer));
        assert_eq!(
            (
                fixed.replicas,
                fixed.pending,
                fixed.in_flight,
                fixed.redelivered
            ),
            (2, 7, 2, 1)
        );
        assert_eq!(
            (fixed.applied, fixed.dead, fixed.failed, fixed.average_ms),
            (6, 2, 2, Some(2.5))
        );
        let elastic = line("g", scale(0, 4), None, &both, Some(&consumer));
        let shown = anstream::adapter::strip_str(&table(&[fixed, elastic])).to_string();
        let mut rows = shown.lines().skip(1);
        assert!(
            rows.next()
                .is_some_and(|l| l.starts_with("f         web     running       2/3    7")),
            "{shown}"
        );
        assert!(
            rows.next()
                .is_some_and(|l| l.starts_with("g         web     running    2/0..4    7")),
            "{shown}"
        );
    }

    #[test]
    fn a_function_nobody_runs_is_pointed_out() {
        let of = |max| {
            Some(Scale {
                min: 0,
                max,
                idle: Duration::ZERO,
            })
        };
        let there = (
            "web".into(),
            serde_json::from_value(json!({ "num_pending": 3 })).unwrap(),
        );
        let complained = complaint(&line("f", of(1), None, &[], Some(&there)));
        assert!(complained.is_some_and(|c| c.contains("3 events wait") && c.contains("oncue up")));
        assert!(complaint(&line("f", of(0), None, &[], Some(&there))).is_none());
        let asleep = Kept {
            min: 0,
            max: 1,
            workers: Vec::new(),
        };
        assert!(complaint(&line("f", of(1), Some(&asleep), &[], Some(&there))).is_none());
    }
}
