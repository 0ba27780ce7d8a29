use std::collections::BTreeMap;

use oncue_admin::consumers::Consumer;
use oncue_admin::functions::Overview;
use oncue_admin::services::counters::Counters;
use oncue_core::app::AppName;
use oncue_core::bus::info::StreamInfo;
use oncue_core::bus::services::WorkerStats;

use super::*;

fn worker(function: &str, delivered: u64, dead: u64) -> Worker {
    Worker {
        function: function.into(),
        id: format!("{function}-1"),
        counters: Counters {
            stats: WorkerStats {
                delivered,
                dead,
                ..WorkerStats::default()
            },
            runs: delivered,
            busy_nanos: delivered * 2_000_000,
            ..Counters::default()
        },
        ..Worker::default()
    }
}

fn manifest(name: &str, triggers: &[&str], emits: &[&str]) -> Manifest {
    let texts = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect();
    Manifest {
        name: name.into(),
        version: "1".into(),
        stream: "web".into(),
        triggers: texts(triggers),
        filters: Vec::new(),
        key: None,
        table: None,
        row_version: 1,
        delays: Vec::new(),
        changes: Vec::new(),
        files: oncue_core::model::manifest::FileUse::None,
        emits: texts(emits),
        limits: Limits::default(),
    }
}

fn consumer(function: &str, pending: u64) -> Consumer {
    let app = AppName::default();
    let durable = app.consumer(function);
    let info = json!({ "num_pending": pending, "config": { "durable_name": durable, "filter_subject": "web.a.b" } });
    let info = serde_json::from_value(info).expect("a consumer");
    Consumer::of(&app, "web", info).expect("a durable one")
}

fn look(at: u64, workers: Vec<Worker>, consumers: Vec<Consumer>) -> Look {
    let consumers = consumers.into_iter();
    Look {
        overview: Overview {
            at,
            workers,
            consumers: consumers.map(|one| (one.function.clone(), one)).collect(),
            ..Overview::default()
        },
        manifests: vec![manifest("f", &["web.a.b"], &["web.c.d"])],
        ..Look::default()
    }
}

fn rate(snapshot: &Snapshot) -> String {
    snapshot.function("f").unwrap().status.rate().to_string()
}

fn health(snapshot: &Snapshot) -> Health {
    snapshot.function("f").unwrap().status.health()
}

#[test]
fn rates_are_differences_and_a_first_look_has_none() {
    let snapshot = Snapshot::default();
    snapshot.apply(&look(
        1000,
        vec![worker("f", 500, 0)],
        vec![consumer("f", 0)],
    ));
    assert_eq!(rate(&snapshot), "0");
    snapshot.apply(&look(
        2000,
        vec![worker("f", 510, 0)],
        vec![consumer("f", 0)],
    ));
    assert_eq!(rate(&snapshot), "5", "half of what the newest look says");
    snapshot.apply(&look(3000, vec![worker("f", 0, 0)], vec![consumer("f", 0)]));
    assert_eq!(
        rate(&snapshot),
        "2.5",
        "a worker that began anew has done nothing"
    );
}

#[test]
fn the_colour_says_what_is_wrong() {
    let snapshot = Snapshot::default();
    snapshot.apply(&look(1000, vec![], vec![consumer("f", 0)]));
    assert_eq!(health(&snapshot), Health::Off);
    let mut handed_out = consumer("f", 0);
    handed_out.info.num_ack_pending = 5;
    snapshot.apply(&look(1500, vec![], vec![handed_out]));
    assert_eq!(
        health(&snapshot),
        Health::Stuck,
        "whoever held them is gone"
    );
    let function = snapshot.function("f").expect("f");
    let reason = function.status.reason("f").unwrap_or_default();
    assert!(reason.starts_with("5 events wait"), "{reason}");
    assert_eq!(function.status.in_flight(), 5);
    snapshot.apply(&look(2000, vec![], vec![consumer("f", 3)]));
    assert_eq!(health(&snapshot), Health::Stuck);
    snapshot.apply(&look(3000, vec![worker("f", 0, 0)], vec![consumer("f", 3)]));
    assert_eq!(health(&snapshot), Health::Ok);
    snapshot.apply(&look(
        4000,
        vec![worker("f", 1, 0)],
        vec![consumer("f", 300)],
    ));
    assert_eq!(health(&snapshot), Health::Behind);
    snapshot.apply(&look(5000, vec![worker("f", 2, 1)], vec![consumer("f", 0)]));
    assert_eq!(health(&snapshot), Health::Failing);
    snapshot.apply(&look(
        70_000,
        vec![worker("f", 2, 1)],
        vec![consumer("f", 0)],
    ));
    assert_eq!(health(&snapshot), Health::Ok, "a minute later");
    snapshot.apply(&look(90_000, vec![], vec![consumer("f", 0)]));
    assert_eq!(health(&snapshot), Health::Off, "silent for too long");
}

#[test]
fn the_graph_has_a_new_version_only_when_it_is_another() {
    let snapshot = Snapshot::default();
    snapshot.apply(&look(1000, vec![], vec![consumer("f", 0)]));
    let first = snapshot.news(0).version;
    snapshot.apply(&look(2000, vec![worker("f", 1, 0)], vec![consumer("f", 9)]));
    assert_eq!(snapshot.news(0).version, first);
    snapshot.apply(&look(
        3000,
        vec![],
        vec![consumer("f", 0), consumer("stranger", 0)],
    ));
    assert_eq!(snapshot.news(0).version, first + 1);
    assert_eq!(
        snapshot.function("stranger").unwrap().view.known,
        "consumer"
    );
    snapshot.apply(&look(4000, vec![], vec![consumer("f", 0)]));
    assert!(snapshot.function("stranger").is_none());
}

#[test]
fn traffic_is_told_apart_by_source_and_type() {
    let snapshot = Snapshot::default();
    snapshot.apply(&look(1000, vec![], vec![consumer("f", 0)]));
    let source = |source: &str, ty: &str| TrafficSource {
        source: source.to_owned(),
        ty: ty.to_owned(),
    };
    let mix = TrafficMix {
        taken: 400,
        shares: BTreeMap::from([(source("/f", "web.c.d"), 3), (source("", "web.a.b"), 1)]),
    };
    let mut second = look(2000, vec![], vec![consumer("f", 0)]);
    second.mixes = vec![mix];
    let mut stream = StreamInfo::default();
    stream.config.name = "web".into();
    stream.state.last_seq = 400;
    second.overview.streams = vec![stream];
    snapshot.apply(&second);
    let tick = snapshot.seen().tick(0);
    assert_eq!(
        tick["types"],
        serde_json::json!([50.0, 150.0]),
        "web.a.b, web.c.d: {tick}"
    );
    assert_eq!(
        tick["edges"],
        serde_json::json!([0.0, 150.0]),
        "f hears nothing, and sends"
    );
    assert_eq!(snapshot.ends()["web"], 400);
}

#[test]
fn who_stands_still_for_another_reason_says_which() {
    let snapshot = Snapshot::default();
    let mut paused = consumer("f", 3);
    paused.info.paused = true;
    snapshot.apply(&look(1000, vec![worker("f", 0, 0)], vec![paused]));
    assert_eq!(health(&snapshot), Health::Paused);
    let mut waiting = worker("f", 1, 1);
    waiting.counters.stats.waiting_outputs = 2;
    snapshot.apply(&look(2000, vec![waiting], vec![consumer("f", 0)]));
    assert_eq!(health(&snapshot), Health::Blocked);
}
