use std::collections::BTreeMap;

use super::*;
use crate::sample::{Counts, Stream};

fn worker(function: &str, delivered: u64, dead: u64) -> Running {
    let counts = Counts {
        delivered,
        dead,
        runs: delivered,
        busy_nanos: delivered * 2_000_000,
        ..Counts::default()
    };
    Running {
        function: function.into(),
        id: format!("{function}-1"),
        counts,
        ..Running::default()
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
        table: None,
        emits: texts(emits),
        limits: Limits::default(),
    }
}

fn consumer(function: &str, pending: u64) -> Consumer {
    Consumer {
        function: function.into(),
        stream: "web".into(),
        triggers: vec!["web.a.b".into()],
        pending,
        ..Consumer::default()
    }
}

fn look(at: u64, running: Vec<Running>, consumers: Vec<Consumer>) -> Sample {
    Sample {
        at,
        running,
        consumers,
        manifests: vec![manifest("f", &["web.a.b"], &["web.c.d"])],
        ..Sample::default()
    }
}

fn rate(board: &Board) -> String {
    board.function("f").unwrap().vitals.rate().to_string()
}

fn health(board: &Board) -> Health {
    board.function("f").unwrap().vitals.health()
}

#[test]
fn rates_are_differences_and_a_first_look_has_none() {
    let board = Board::default();
    board.apply(&look(
        1000,
        vec![worker("f", 500, 0)],
        vec![consumer("f", 0)],
    ));
    assert_eq!(rate(&board), "0");
    board.apply(&look(
        2000,
        vec![worker("f", 510, 0)],
        vec![consumer("f", 0)],
    ));
    assert_eq!(rate(&board), "5", "half of what the newest look says");
    board.apply(&look(3000, vec![worker("f", 0, 0)], vec![consumer("f", 0)]));
    assert_eq!(
        rate(&board),
        "2.5",
        "a worker that began anew has done nothing"
    );
}

#[test]
fn the_colour_says_what_is_wrong() {
    let board = Board::default();
    board.apply(&look(1000, vec![], vec![consumer("f", 0)]));
    assert_eq!(health(&board), Health::Off);
    board.apply(&look(2000, vec![], vec![consumer("f", 3)]));
    assert_eq!(health(&board), Health::Stuck);
    board.apply(&look(3000, vec![worker("f", 0, 0)], vec![consumer("f", 3)]));
    assert_eq!(health(&board), Health::Ok);
    board.apply(&look(
        4000,
        vec![worker("f", 1, 0)],
        vec![consumer("f", 300)],
    ));
    assert_eq!(health(&board), Health::Behind);
    board.apply(&look(5000, vec![worker("f", 2, 1)], vec![consumer("f", 0)]));
    assert_eq!(health(&board), Health::Failing);
    board.apply(&look(
        70_000,
        vec![worker("f", 2, 1)],
        vec![consumer("f", 0)],
    ));
    assert_eq!(health(&board), Health::Ok, "a minute later");
    board.apply(&look(90_000, vec![], vec![consumer("f", 0)]));
    assert_eq!(health(&board), Health::Off, "silent for too long");
}

#[test]
fn the_graph_has_a_new_version_only_when_it_is_another() {
    let board = Board::default();
    board.apply(&look(1000, vec![], vec![consumer("f", 0)]));
    let first = board.news(0).version;
    board.apply(&look(2000, vec![worker("f", 1, 0)], vec![consumer("f", 9)]));
    assert_eq!(board.news(0).version, first);
    board.apply(&look(
        3000,
        vec![],
        vec![consumer("f", 0), consumer("stranger", 0)],
    ));
    assert_eq!(board.news(0).version, first + 1);
    assert_eq!(board.function("stranger").unwrap().card.known, "consumer");
    board.apply(&look(4000, vec![], vec![consumer("f", 0)]));
    assert!(board.function("stranger").is_none());
}

#[test]
fn traffic_is_told_apart_by_source_and_type() {
    let board = Board::default();
    board.apply(&look(1000, vec![], vec![consumer("f", 0)]));
    let shares = BTreeMap::from([
        (("/f".to_owned(), "web.c.d".to_owned()), 3),
        ((String::new(), "web.a.b".to_owned()), 1),
    ]);
    let mix = Mix {
        stream: "web".into(),
        taken: 400,
        shares,
    };
    let streams = vec![Stream {
        name: "web".into(),
        last: 400,
        ..Stream::default()
    }];
    board.apply(&Sample {
        mixes: vec![mix],
        streams,
        ..look(2000, vec![], vec![consumer("f", 0)])
    });
    let tick = board.seen().tick(0);
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
    assert_eq!(board.ends()["web"], 400);
}
