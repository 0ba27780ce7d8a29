use serde_json::json;

use super::*;

/// Name, triggers, emissions, table.
type Declared<'d> = (&'d str, &'d [&'d str], &'d [&'d str], Option<&'d str>);

fn topology(functions: &[Declared<'_>]) -> Topology {
    let mut topology = Topology::default();
    for (name, triggers, emits, table) in functions {
        let manifest = json!({ "name": name, "version": "1", "stream": "web", "triggers": triggers, "filters": triggers,
            "table": table, "emits": emits, "limits": { "concurrency": 1, "reserved_concurrency": 1, "timeout": "1s",
            "attempts": 1, "ack_wait": "1s", "start": "all" } });
        topology.add(serde_json::from_value(manifest).expect("a manifest"));
    }
    topology
}

const NOW: u64 = 100 * DAY_MS;

fn edge(source: &str, ty: &str, function: &str, days_ago: u64) -> Edge {
    let [source, ty, function] = [source, ty, function].map(str::to_owned);
    Edge {
        source,
        ty,
        function,
        count: 1,
        last: Some(NOW - days_ago * DAY_MS),
    }
}

fn of(kind: Kind, topology: &Topology, observed: &Observed) -> Vec<String> {
    let all = findings(topology, observed, NOW, 7);
    all.into_iter()
        .filter(|finding| finding.kind == kind)
        .map(|finding| finding.what)
        .collect()
}

#[test]
fn events_nobody_hears_and_functions_nobody_calls() {
    let topology = topology(&[
        ("f", &["a.b.in"], &["a.b.out"], None),
        ("g", &["a.b.never"], &[], None),
    ]);
    let observed = Observed {
        published: BTreeSet::from(["a.b.in".into(), "a.b.stray".into()]),
        ..<_>::default()
    };
    assert_eq!(
        of(Kind::Unheard, &topology, &observed),
        [
            "a.b.out, from f, has no function that acts on it",
            "a.b.stray, which somebody has published, has no function that acts on it"
        ]
    );
    assert_eq!(
        of(Kind::Untriggered, &topology, &observed),
        ["g acts on a.b.never, which nobody emits and nobody has published"]
    );
    let seen = Observed {
        edges: vec![
            edge("client", "a.b.never", "g", 0),
            edge("client", "a.b.in", "f", 0),
        ],
        ..observed
    };
    assert!(of(Kind::Untriggered, &topology, &seen).is_empty());
}

#[test]
fn what_clients_of_the_gateway_hear_is_heard() {
    let mut topology = topology(&[("f", &["a.b.in"], &["a.b.out"], None)]);
    let observed = Observed::default();
    assert_eq!(of(Kind::Unheard, &topology, &observed).len(), 1);
    topology.heard.insert("a.b.out".into());
    assert!(of(Kind::Unheard, &topology, &observed).is_empty());
}

#[test]
fn a_function_taken_out_of_the_file_is_told_until_it_runs_or_is_removed() {
    let mut topology = topology(&[("f", &["a.b.in"], &[], None), ("g", &["a.b.in"], &[], None)]);
    let mut observed = Observed {
        waiting: [("f".to_owned(), 0), ("g".to_owned(), 7)].into(),
        ..Observed::default()
    };
    assert!(
        of(Kind::Removed, &topology, &observed).is_empty(),
        "no file is known"
    );
    topology.declared.insert("f".into());
    assert_eq!(
        of(Kind::Removed, &topology, &observed),
        ["g is not in oncue.toml, and 7 events wait for it"]
    );
    topology.functions.get_mut("g").unwrap().running = 1;
    assert!(of(Kind::Removed, &topology, &observed).is_empty());
    topology.functions.get_mut("g").unwrap().running = 0;
    observed.waiting.remove("g");
    assert!(of(Kind::Removed, &topology, &observed).is_empty());
}

#[test]
fn a_timer_cues_only_the_function_it_names() {
    let mut topology = topology(&[
        ("f", &[TimerFired::TYPE], &[], None),
        ("g", &[TimerFired::TYPE], &[], None),
    ]);
    topology.schedules.push(topology::Scheduled {
        ty: TimerFired::TYPE.into(),
        function: Some("f".into()),
    });
    let found = of(Kind::Untriggered, &topology, &Observed::default());
    assert!(
        found.len() == 1 && found[0].starts_with("g acts on"),
        "{found:?}"
    );
}

#[test]
fn functions_that_are_not_used_any_more() {
    let mut topology = topology(&[
        ("old", &["a.b.c"], &[], None),
        ("new", &["a.b.c"], &[], None),
        ("fresh", &["a.b.c"], &[], None),
        ("idle", &["a.b.c"], &[], None),
    ]);
    topology.functions.get_mut("fresh").unwrap().seen = Some(NOW - DAY_MS);
    topology.functions.get_mut("idle").unwrap().seen = Some(NOW - 9 * DAY_MS);
    let observed = Observed {
        edges: vec![
            edge("client", "a.b.c", "old", 8),
            edge("client", "a.b.c", "new", 6),
        ],
        ..<_>::default()
    };
    assert_eq!(
        of(Kind::Unused, &topology, &observed),
        [
            "idle has never acted on an event",
            "old last acted on an event 8 days ago"
        ]
    );
    assert!(
        of(Kind::Unused, &topology, &Observed::default()).is_empty(),
        "where nothing is observed nothing is said"
    );
}

#[test]
fn edges_that_are_not_declared() {
    let topology = topology(&[
        ("f", &["a.b.in"], &["a.b.out"], None),
        ("g", &["a.b.out"], &[], None),
    ]);
    let good = [
        edge("client", "a.b.in", "f", 0),
        edge("/gateway", "a.b.in", "f", 0),
        edge("/schedule", "a.b.in", "f", 0),
        edge("/f", "a.b.out", "g", 0),
    ];
    assert!(
        of(
            Kind::Undeclared,
            &topology,
            &Observed {
                edges: good.to_vec(),
                ..<_>::default()
            }
        )
        .is_empty()
    );
    let bad = vec![
        edge("/f", "a.b.in", "f", 0),
        edge("/gone", "a.b.out", "g", 0),
        edge("client", "a.b.other", "f", 0),
        edge("client", "a.b.in", "gone", 0),
    ];
    let found = of(
        Kind::Undeclared,
        &topology,
        &Observed {
            edges: bad,
            ..<_>::default()
        },
    );
    for part in [
        "f does not declare to emit a.b.in",
        "no function gone",
        "f does not act on a.b.other",
    ] {
        assert!(
            found.iter().any(|what| what.contains(part)),
            "{part} in {found:?}"
        );
    }
    assert_eq!(found.len(), 4);
}

#[test]
fn circles_need_a_way_out() {
    let closed = [
        ("ping", &["a.b.ping"][..], &["a.b.pong"][..], None),
        ("pong", &["a.b.pong"], &["a.b.ping"], None),
    ];
    assert_eq!(
        of(Kind::Endless, &topology(&closed), &Observed::default()),
        ["nothing leads out of ping -> pong"]
    );
    let open = [
        closed[0],
        (
            "pong",
            &["a.b.pong"][..],
            &["a.b.ping", "a.b.done"][..],
            None,
        ),
    ];
    assert!(of(Kind::Endless, &topology(&open), &Observed::default()).is_empty());
    let heard = [
        closed[0],
        closed[1],
        ("log", &["a.b.ping"][..], &[][..], None),
    ];
    assert!(of(Kind::Endless, &topology(&heard), &Observed::default()).is_empty());
    let itself = [("self", &["a.b.c"][..], &["a.b.c"][..], None)];
    assert_eq!(
        of(Kind::Endless, &topology(&itself), &Observed::default()),
        ["nothing leads out of self"]
    );
}

#[test]
fn state_before_a_rejection_is_taken_back_by_whoever_owns_it() {
    let booking = (
        "book",
        &["a.trip.wished"][..],
        &["a.trip.booked"][..],
        Some("seats"),
    );
    let paying = (
        "pay",
        &["a.trip.booked"][..],
        &["a.trip.paid", "a.trip.rejected"][..],
        Some("accounts"),
    );
    let found = of(
        Kind::Uncompensated,
        &topology(&[booking, paying]),
        &Observed::default(),
    );
    assert_eq!(
        found,
        [
            "pay may emit a.trip.rejected after book has written \"seats\", and nothing takes that back"
        ]
    );
    let release = ("release", &["a.trip.rejected"][..], &[][..], Some("seats"));
    assert!(
        of(
            Kind::Uncompensated,
            &topology(&[booking, paying, release]),
            &Observed::default()
        )
        .is_empty()
    );
    let tell = ("tell", &["a.trip.rejected"][..], &[][..], Some("mails"));
    assert_eq!(
        of(
            Kind::Uncompensated,
            &topology(&[booking, paying, tell]),
            &Observed::default()
        )
        .len(),
        1
    );
}
