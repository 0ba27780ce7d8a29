//! A ledger is read as far as it goes, whatever somebody has written into it.

use std::time::Duration;

use oncue::testing::MapStore;
use oncue_core::model::flow::{Flow, FlowEvent, StepState, tree};
use oncue_core::store::Keys;
use oncue_tests::any_store::AnyStore;
use oncue_tests::events::root;

fn read(fields: &[(&str, &str)]) -> Flow {
    let bytes = |text: &str| text.as_bytes().to_vec();
    Flow::read(
        "root",
        fields
            .iter()
            .map(|(field, value)| (bytes(field), bytes(value))),
    )
    .expect("a flow")
}

fn upload() -> Vec<(&'static str, &'static str)> {
    vec![
        (
            "e:root",
            r#"["files.file.uploaded","f1","/gateway","",100]"#,
        ),
        (
            "e:a",
            r#"["files.file.inspected","f1","/inspect-file","root",110]"#,
        ),
        (
            "e:b:c",
            r#"["files.file.accepted","o1","/enforce-quota","a",120]"#,
        ),
        ("s:root:inspect-file", "d 109"),
        ("r:root:inspect-file", "105 2"),
        ("w:root:inspect-file", "103 first try: no such file"),
        ("s:a:enforce-quota", "d 119"),
        ("s:b:c:make-thumbnails", "p 121"),
        ("r:b:c:make-thumbnails", "130 3"),
        ("w:b:c:make-thumbnails", "131 out of memory"),
        ("s:b:c:notify-webhook", "p 122"),
        ("r:b:c:notify-webhook", "140 1"),
        ("s:b:c:track-file", "x 125"),
        ("n", "2"),
        ("at", "99"),
    ]
}

#[test]
fn events_steps_and_states() {
    let flow = read(&upload());
    assert_eq!(
        (flow.open, flow.started, flow.ended, flow.is_complete()),
        (2, 99, None, false)
    );
    let events: Vec<(&str, u32)> = flow
        .events
        .iter()
        .map(|event| (event.id.as_str(), event.depth))
        .collect();
    assert_eq!(events, [("root", 0), ("a", 1), ("b:c", 2)]);
    let [root, _, accepted] = &flow.events[..] else {
        panic!("{flow:?}")
    };
    assert_eq!(
        (&*root.ty, &*root.key, &*root.source, root.time),
        ("files.file.uploaded", "f1", "/gateway", 100)
    );
    let inspect = &root.steps[0];
    assert_eq!(
        (inspect.state, inspect.started, inspect.ended),
        (StepState::Done, Some(105), Some(109))
    );
    assert_eq!(
        (inspect.attempts, inspect.failed, inspect.why.as_deref()),
        (2, Some(103), Some("first try: no such file"))
    );
    let states: Vec<_> = accepted
        .steps
        .iter()
        .map(|step| (step.function.as_str(), step.state))
        .collect();
    assert_eq!(
        states,
        [
            ("make-thumbnails", StepState::Waiting),
            ("notify-webhook", StepState::Running),
            ("track-file", StepState::Dead)
        ]
    );
    let (event, step) = flow.waits_for().expect("it waits");
    assert_eq!(
        (event.id.as_str(), step.function.as_str()),
        ("b:c", "make-thumbnails")
    );
}

#[test]
fn complete_is_only_what_has_nothing_open() {
    let done = read(&[
        ("e:r", r#"["t","","","",1]"#),
        ("s:r:f", "d 5"),
        ("n", "0"),
        ("at", "1"),
        ("end", "5"),
    ]);
    assert_eq!((done.is_complete(), done.ended), (true, Some(5)));
    assert!(done.waits_for().is_none());
    // Whoever wrote 0 beside an open step is not believed, nor is an end before the end.
    let early = read(&[("s:r:f", "p 5"), ("n", "0"), ("end", "5")]);
    assert_eq!((early.is_complete(), early.ended), (false, None));
    assert_eq!(read(&[("s:r:f", "d 5"), ("n", "1")]).open, 1);
    assert!(
        read(&[("at", "7")]).is_complete(),
        "nobody listens, so nobody is waited for"
    );
}

/// What workers write of an event that came again, once Redis has lost its ledger, is none.
#[test]
fn notes_and_closed_steps_alone_are_no_ledger() {
    let fields = [("r:e:f", "7 1"), ("w:e:f", "8 why"), ("s:e:f", "x 9")];
    let fields = fields.map(|(name, value)| (name.as_bytes().to_vec(), value.as_bytes().to_vec()));
    assert!(Flow::read("e", fields).is_none());
    // A run that came after the end moves no time of it.
    let again = read(&[
        ("e:e", r#"["t","","","",1]"#),
        ("s:e:f", "d 5000"),
        ("r:e:f", "90000 1"),
        ("n", "0"),
    ]);
    let step = again.steps().next().expect("a step");
    assert_eq!(
        (step.started, step.ended, step.attempts),
        (None, Some(5000), 1)
    );
}

#[test]
fn functions_that_are_gone_hold_nothing_up() {
    let mut flow = read(&upload());
    flow.without_removed(|function| function != "make-thumbnails" && function != "inspect-file");
    let state = |name: &str| {
        flow.steps()
            .find(|step| step.function == name)
            .map(|step| step.state)
    };
    assert_eq!(
        (state("make-thumbnails"), state("inspect-file")),
        (Some(StepState::Removed), Some(StepState::Done))
    );
    assert_eq!(
        (
            flow.open,
            flow.waits_for().map(|(_, step)| step.function.as_str())
        ),
        (1, Some("notify-webhook"))
    );
    let why = flow
        .steps()
        .find(|step| step.function == "make-thumbnails")
        .and_then(|step| step.why.clone());
    assert_eq!(why.as_deref(), Some("out of memory"), "it stays visible");
}

#[test]
fn hostile_contents_are_passed_over_or_shown_as_they_are() {
    let deep = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
    let flow = read(&[
        ("", ""),
        ("e:", "[]"),
        ("e:json", "{\"type\":1}"),
        ("e:short", "[\"only.a.type\"]"),
        ("e:kinds", "[1,[],{},null,-5]"),
        ("e:deep", &deep),
        ("s:nofunction", "p 1"),
        ("s:lost:f", "p 18446744073709551616"),
        ("s:lost:g", "\u{1b}[2J"),
        ("r:lost:f", "x y"),
        ("w:lost:g", "-1 never"),
        ("w:only:failed", "9"),
        ("zz:a:b", "p 1"),
        ("n", "-3"),
        ("at", "soon"),
        ("end", "18446744073709551615"),
    ]);
    let mut ids: Vec<&str> = flow.events.iter().map(|event| event.id.as_str()).collect();
    ids.sort_unstable();
    // A note alone, of a run of an event that came again, makes no step.
    assert_eq!(ids, ["", "deep", "json", "kinds", "lost", "short"]);
    assert_eq!(flow.open, 2, "what is not known to be closed is open");
    let short = flow
        .events
        .iter()
        .find(|event| event.id == "short")
        .unwrap();
    assert_eq!(
        (&*short.ty, &*short.cause, short.time),
        ("only.a.type", "", 0)
    );
    assert!(flow.steps().all(|step| step.function != "failed"));
    serde_json::to_string(&flow).expect("it can be shown");

    let bytes = [
        (b"e:\xff\xfe".to_vec(), vec![0xff; 40]),
        (vec![0; 3], vec![0; 3]),
    ];
    assert_eq!(
        Flow::read("x", bytes).unwrap().events[0].id,
        "\u{fffd}\u{fffd}"
    );
    assert!(Flow::read("x", []).is_none());
}

#[test]
fn every_event_stands_once_behind_its_cause_even_in_circles() {
    let event = |id: &str, cause: &str, time| FlowEvent {
        id: id.into(),
        cause: cause.into(),
        time,
        ..<_>::default()
    };
    let order = |events| -> String {
        let placed = tree(events)
            .into_iter()
            .map(|event| format!("{}{} ", event.id, event.depth));
        placed.collect()
    };
    // Late clocks do not put an effect before its cause; siblings go by time.
    let late = vec![
        event("b2", "a", 9),
        event("b1", "a", 3),
        event("c", "b2", 1),
        event("a", "", 5),
    ];
    assert_eq!(order(late), "a0 b11 b21 c2 ");
    assert_eq!(
        order(vec![
            event("x", "y", 2),
            event("y", "x", 1),
            event("z", "y", 0),
            event("me", "me", 3)
        ]),
        "me0 z0 y0 x1 "
    );
    assert_eq!(order(vec![event("orphan", "elsewhere", 1)]), "orphan0 ");
    let mut chain: Vec<FlowEvent> = (0..50_000_i32)
        .map(|n| event(&n.to_string(), &(n - 1).to_string(), 7))
        .collect();
    chain.reverse();
    let chain = tree(chain);
    assert!(
        chain
            .iter()
            .enumerate()
            .all(|(at, event)| event.depth as usize == at && event.id == at.to_string())
    );
}

#[tokio::test]
async fn a_ledger_begins_with_its_root_and_whoever_listens() {
    let map = MapStore::default();
    map.set_now(50);
    map.put(
        &Keys::default().listeners("web.page.viewed"),
        "count-views",
        "",
    );
    let store = AnyStore::Map(map.clone());
    let keep = Duration::from_mins(1);
    assert!(store.flow("e1").await.unwrap().is_none());
    assert!(store.track(&root("e1"), "/home", keep).await.unwrap());
    map.put(&Keys::default().flow("e1"), "s:e1:count-views", "d 60");
    map.put(&Keys::default().flow("e1"), "n", "0");
    assert!(
        !store.track(&root("e1"), "/home", keep).await.unwrap(),
        "the second time changes nothing"
    );
    let flow = store.flow("e1").await.unwrap().unwrap();
    assert!(
        flow.is_complete() && flow.events[0].steps[0].state == StepState::Done,
        "{flow:?}"
    );
    assert_eq!((flow.started, &*flow.events[0].key), (50, "/home"));
    store.untrack("e1").await.unwrap();
    assert!(store.flow("e1").await.unwrap().is_none());
}

#[test]
fn keys_are_named_as_rows_are() {
    for id in [
        "plain",
        "with space",
        "~tilde",
        &"ü".repeat(64),
        &"long".repeat(100),
    ] {
        assert_eq!(
            Keys::default().flow(id),
            Keys::default().row("T", id).replace(":s:T:", ":f:")
        );
    }
}

#[tokio::test]
async fn observed_edges_and_functions() {
    let map = MapStore::default();
    map.put("edges", "/gateway\tweb.page.viewed\tcount-views", "12");
    map.put("edges", "client\tweb.page.viewed\tcount-views", "many");
    map.put("edges", "no tabs", "1");
    map.put("edges", "a\tb\tc\td", "1");
    map.put("edges:at", "/gateway\tweb.page.viewed\tcount-views", "99");
    map.put("edges:at", "gone\tgone\tgone", "99");
    let manifest = r#"{"name":"f","version":"1","stream":"web","triggers":["a.b.c"],"filters":["a.b.c"],"table":null,"emits":[],
        "limits":{"concurrency":1,"reserved_concurrency":1,"timeout":"1s","attempts":1,"ack_wait":"1s","start":"all"},"seen":77,"new":1}"#;
    map.put("functions", "f", manifest);
    map.put("functions", "broken", "{");
    map.put("functions", "older", r#"{"name":"older","seen":1}"#);
    let store = AnyStore::Map(map);
    let edges = store.edges().await.unwrap();
    let shown: Vec<_> = edges
        .iter()
        .map(|e| (e.source.as_str(), e.count, e.last))
        .collect();
    assert_eq!(shown, [("/gateway", 12, Some(99)), ("client", 0, None)]);
    let functions = store.functions().await.unwrap();
    assert_eq!(functions.len(), 1);
    assert_eq!(
        (functions[0].manifest.name.as_str(), functions[0].seen),
        ("f", 77)
    );
}
