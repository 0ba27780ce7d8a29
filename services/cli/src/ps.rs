//! `oncue ps`: what the bus knows of every function (consumers) and what its workers say of themselves (`$SRV`).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use oncue::bus::Bus;
use oncue::bus::layout::DLQ;
use serde::Serialize;
use serde_json::{Value, json};

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
    /// Processes that answer.
    replicas: u64,
    /// Processes `oncue up` should keep running; none for a function oncue.toml does not name.
    wanted: Option<u32>,
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
    let config = &settings.config;
    let ours = |name: &&String| config.functions.contains_key(*name) || consumers.contains_key(*name);
    let names: BTreeSet<&String> = config.functions.keys().chain(answering.keys().filter(ours)).collect();
    let lines: Vec<Line> = names
        .into_iter()
        .map(|name| {
            let wanted = config.functions.get(name).map(|f| f.replicas.unwrap_or(1));
            line(name, wanted, answering.get(name).map_or(&[], Vec::as_slice), consumers.get(name))
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
    let anybody = lines.iter().any(|l| l.replicas > 0);
    Ok(if anybody || lines.is_empty() { exit::OK } else { exit::SILENT })
}

/// Every durable consumer by name, with its stream: no program has to be asked, so `ps` works from anywhere.
pub async fn consumers(bus: &Bus) -> Result<BTreeMap<String, (String, Value)>, Failure> {
    let mut found = BTreeMap::new();
    for stream in streams(bus).await?.into_iter().filter(|s| s != DLQ) {
        let mut offset = 0;
        loop {
            let page = bus
                .api(&format!("CONSUMER.LIST.{stream}"), &json!({ "offset": offset }))
                .await
                .map_err(Failure::silent)?;
            let list = page["consumers"].as_array().cloned().unwrap_or_default();
            offset += list.len() as u64;
            for info in &list {
                if let Some(name) = info["config"]["durable_name"].as_str() {
                    found.insert(name.to_owned(), (stream.clone(), info.clone()));
                }
            }
            if list.is_empty() || offset >= page["total"].as_u64().unwrap_or_default() {
                break;
            }
        }
    }
    Ok(found)
}

/// Names of the event streams: object stores and key-value buckets are none.
pub async fn streams(bus: &Bus) -> Result<Vec<String>, Failure> {
    let answer = bus
        .api("STREAM.NAMES", &Value::Null)
        .await
        .map_err(|e| Failure::silent(e).advise("is JetStream on? `nats-server -js`, or let `oncue up` start one"))?;
    let names = answer["streams"].as_array().into_iter().flatten().filter_map(Value::as_str);
    Ok(names.filter(|name| !name.starts_with("OBJ_") && !name.starts_with("KV_")).map(str::to_owned).collect())
}

fn line(name: &str, wanted: Option<u32>, instances: &[Instance], consumer: Option<&(String, Value)>) -> Line {
    let sum = |field: &str| instances.iter().map(|i| i.count(field)).sum();
    let of = |field: &str| consumer.and_then(|(_, info)| info[field].as_u64()).unwrap_or_default();
    let endpoints = || instances.iter().flat_map(|i| &i.endpoints);
    let (requests, time) = endpoints().fold((0, 0), |(n, t), e| (n + e.num_requests, t + e.processing_time));
    Line {
        function: name.to_owned(),
        stream: consumer.map(|(stream, _)| stream.clone()),
        replicas: instances.len() as u64,
        wanted,
        pending: of("num_pending"),
        in_flight: of("num_ack_pending"),
        redelivered: of("num_redelivered"),
        applied: sum("applied"),
        duplicates: sum("duplicates"),
        retried: sum("retried"),
        failed: endpoints().map(|e| e.num_errors).sum(),
        dead: sum("dead"),
        average_ms: (requests > 0).then(|| (time as f64 / requests as f64 / 1e4).round() / 100.0),
        last_error: endpoints().filter_map(|e| e.last_error.clone()).find(|e| !e.is_empty()),
        instances: instances.iter().map(|i| i.id.clone()).collect(),
    }
}

fn table(lines: &[Line]) -> String {
    let head = [
        "FUNCTION",
        "STREAM",
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
    let few = line.wanted.is_some_and(|wanted| line.replicas < u64::from(wanted));
    let replicas = match line.wanted {
        Some(wanted) => format!("{}/{wanted}", line.replicas),
        None => line.replicas.to_string(),
    };
    let average = line.average_ms.map_or_else(|| "-".to_owned(), |ms| format!("{ms} ms"));
    vec![
        text(&line.function).style(NAME),
        text(line.stream.as_deref().unwrap_or("-")),
        text(replicas).right().style(if few { CHANGED } else { PLAIN }),
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
    if line.replicas == 0 && line.wanted != Some(0) {
        return Some(format!("{}: no worker answers; start it with `oncue up`", line.function));
    }
    if line.stream.is_none() {
        return Some(format!("{}: it has no consumer; run `oncue apply`", line.function));
    }
    line.last_error.as_ref().map(|error| format!("{}: last error: {error}", line.function))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_sums_replicas_and_reads_the_consumer() {
        let instance: Instance = serde_json::from_value(json!({ "name": "f", "id": "h-1", "endpoints": [
            { "num_requests": 4, "num_errors": 1, "processing_time": 10_000_000, "last_error": "", "data": { "applied": 3, "dead": 1 } }] }))
        .unwrap();
        let info = json!({ "num_pending": 7, "num_ack_pending": 2, "num_redelivered": 1 });
        let line = line("f", Some(3), &[instance.clone(), instance], Some(&("web".into(), info)));
        assert_eq!((line.replicas, line.pending, line.in_flight, line.redelivered), (2, 7, 2, 1));
        assert_eq!((line.applied, line.dead, line.failed, line.average_ms), (6, 2, 2, Some(2.5)));
        let shown = anstream::adapter::strip_str(&table(&[line])).to_string();
        assert!(shown.lines().nth(1).is_some_and(|l| l.starts_with("f         web          2/3    7")), "{shown}");
    }

    #[test]
    fn a_function_nobody_runs_is_pointed_out() {
        assert!(complaint(&line("f", Some(1), &[], None)).is_some_and(|c| c.contains("oncue up")));
        assert!(complaint(&line("f", Some(0), &[], Some(&("web".into(), Value::Null)))).is_none());
    }
}
