//! Dead letters in the hands of an operator: listed, shown, redriven, dropped.

use oncue_core::bus::Bus;
use oncue_proto::event;
use oncue_proto::oncue::v1::{DeadLetter, DeadLetterDropped, Envelope};
use oncue_tests::cluster::{Cluster, QUICK_REDELIVERY, Stored, until};
use oncue_tests::events::{envelope, told};
use prost::Message as _;
use serde_json::Value;

/// Two functions that act on the same event.
async fn cluster(more: &str) -> Cluster {
    Cluster::new(&format!(
        "[functions.misbehave]\n{QUICK_REDELIVERY}\n[functions.count-views]\n{QUICK_REDELIVERY}\n{more}"
    ))
    .await
}

fn send(headers: &[(&str, &str)], (subject, payload): (&str, String)) -> Envelope {
    envelope(subject, headers, payload)
}

/// Exit code and what was printed, results and remarks.
fn oncue(cluster: &Cluster, args: &[&str]) -> (i32, String, String) {
    let output = cluster.output("oncue", args);
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    (
        output.status.code().unwrap_or(-1),
        text(output.stdout),
        text(output.stderr),
    )
}

fn listed(cluster: &Cluster, args: &[&str]) -> Vec<Value> {
    let (code, out, err) = oncue(cluster, &[&["dlq", "ls", "--json"], args].concat());
    assert_eq!(code, 0, "{err}");
    serde_json::from_str(&out).expect("JSON")
}

async fn letters(cluster: &Cluster, bus: &Bus, expected: usize) -> Vec<DeadLetter> {
    let all = until(&format!("{expected} dead letters"), async || {
        let found = cluster.messages(bus, "dlq").await;
        let found: Vec<Stored> = found
            .into_iter()
            .filter(|m| m.subject.starts_with("dlq.app."))
            .collect();
        (found.len() >= expected).then_some(found)
    })
    .await;
    assert_eq!(all.len(), expected);
    all.iter()
        .map(|m| DeadLetter::decode(&m.payload[..]).expect("a dead letter"))
        .collect()
}

/// Publishes to a `misbehave` that gives up at the first failure, and lets it set the events aside.
async fn set_aside(cluster: &mut Cluster, bus: &Bus, events: Vec<Envelope>) -> Vec<DeadLetter> {
    cluster.set("ONCUE_ATTEMPTS", "1");
    let mut worker = cluster.start("misbehave").await;
    let expected = events.len();
    for event in &events {
        bus.publish(event).await.expect("the stream takes it");
    }
    let letters = letters(cluster, bus, expected).await;
    cluster.drained(bus, "web", "misbehave").await;
    assert_eq!(worker.stop().await, Some(0));
    cluster.set("ONCUE_ATTEMPTS", "3");
    letters
}

#[tokio::test]
async fn letters_of_one_cause_are_one_group_and_one_letter_is_shown_whole() {
    let mut cluster = cluster("").await;
    let bus = cluster.bus().await;
    let garbage = ("web.page.viewed", "\u{1}garbage".to_owned());
    let told = |what| send(&[], told("/a", what));
    let events = ["fail", "reject", "reject", "reject", "panic"]
        .map(told)
        .into_iter();
    set_aside(
        &mut cluster,
        &bus,
        events
            .chain([send(&[("ce-id", "unread")], garbage)])
            .collect(),
    )
    .await;
    let groups = listed(&cluster, &[]);
    let find = |reason: &str, part: &str| {
        let found = groups
            .iter()
            .find(|g| g["reason"] == reason && g["message"].to_string().contains(part));
        found
            .unwrap_or_else(|| panic!("{reason} {part} not in {groups:#?}"))
            .clone()
    };
    assert_eq!(groups.len(), 4, "{groups:#?}");
    assert_eq!(find("rejected", "told to reject")["count"], 3);
    for group in [
        find("rejected", "reject"),
        find("attempts", "told to fail"),
        find("attempts", "panicked"),
    ] {
        assert!(
            group["site"]
                .as_str()
                .is_some_and(|site| site.contains("misbehave.rs:")),
            "{group}"
        );
    }
    assert_eq!(find("decode", "")["site"], "");
    let (_, table, _) = oncue(&cluster, &["dlq", "ls", "--reason", "rejected"]);
    assert!(
        table.starts_with("GROUP") && table.contains("misbehave.rs:") && table.lines().count() == 2,
        "{table}"
    );
    assert_eq!(listed(&cluster, &["--each"]).len(), 6);
    assert_eq!(listed(&cluster, &["--function", "count-views"]).len(), 0);

    cluster.set("ONCUE_TRACE_UI", "http://traces.example/");
    let group = find("attempts", "told to fail")["group"]
        .as_str()
        .expect("a group")
        .to_owned();
    let (code, page, err) = oncue(&cluster, &["dlq", "show", &group]);
    assert_eq!(code, 0, "{err}");
    for part in [
        "told to fail",
        "misbehave.rs:",
        "\"page\": \"/a\"",
        "http://traces.example/trace/",
        "web:1",
        "once",
    ] {
        assert!(page.contains(part), "{part} is not in\n{page}");
    }
    let (_, page, _) = oncue(&cluster, &["dlq", "show", "unread"]);
    // Bytes of a type with sensitive fields are shown in no form.
    assert!(
        page.contains("it has sensitive fields") && !page.contains("67 61 72 62"),
        "{page}"
    );
    assert_eq!(oncue(&cluster, &["dlq", "show", "nobody"]).0, 2);
}

/// Copies that the server does not know as such.
async fn copy_again(bus: &Bus, redriven: &[Stored]) {
    let mut last = 0;
    for (n, copy) in redriven.iter().enumerate() {
        let mut headers: Vec<(&str, &str)> = copy
            .headers
            .lines()
            .filter_map(|line| line.split_once(": "))
            .collect();
        headers.retain(|(name, _)| *name != "Nats-Msg-Id");
        let again = format!("copy-{n}");
        headers.push(("Nats-Msg-Id", &again));
        let payload = String::from_utf8_lossy(&copy.payload).into_owned();
        last = bus
            .publish(&send(&headers, (&copy.subject, payload)))
            .await
            .expect("a copy")
            .sequence;
    }
    until("the copies are delivered", async || {
        let info = bus
            .api("CONSUMER.INFO.web.app_misbehave", &Value::Null)
            .await
            .ok()?;
        (info["delivered"]["stream_seq"].as_u64() >= Some(last)).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_redriven_event_is_applied_once_by_its_function_alone_whoever_redrives_it() {
    let mut cluster = cluster("").await;
    let _other = cluster.start("count-views").await;
    let (bus, store) = (cluster.bus().await, cluster.store().await);
    // One with id and time, one with an id alone, one that brings nothing.
    let now = event::format_time(event::now_ms());
    let full = [
        ("ce-id", "full"),
        ("ce-time", now.as_str()),
        (
            "traceparent",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        ),
    ];
    let pages = ["/full", "/id", "/plain"];
    let headers: [&[(&str, &str)]; 3] = [&full, &[("Nats-Msg-Id", "id")], &[]];
    let events = headers
        .iter()
        .zip(pages)
        .map(|(headers, page)| send(headers, told(page, "fail-until:2")));
    let before = set_aside(&mut cluster, &bus, events.collect()).await;

    let (code, _, err) = oncue(&cluster, &["dlq", "redrive", "--all"]);
    assert!(
        code == 2 && err.contains("--yes"),
        "nobody can be asked here: {code} {err}"
    );
    let _worker = cluster.start("misbehave").await;
    let mut both = [(); 2].map(|()| cluster.spawn("oncue", &["dlq", "redrive", "--all", "--yes"]));
    for redrive in &mut both {
        assert_eq!(redrive.exit().await, Some(0), "{}", redrive.log());
    }
    cluster.drained(&bus, "web", "misbehave").await;
    assert_eq!(listed(&cluster, &[]).len(), 0, "the letters are gone");
    let redriven: Vec<Stored> = cluster
        .messages(&bus, "web")
        .await
        .into_iter()
        .filter(|m| m.subject == "web.redrive.app_misbehave")
        .collect();
    assert_eq!(redriven.len(), 3, "two at once are one");
    assert!(
        redriven[0]
            .header("traceparent")
            .is_some_and(|t| t.contains("0af7651916cd43dd")),
        "the trace goes on"
    );
    copy_again(&bus, &redriven).await;
    cluster.drained(&bus, "web", "misbehave").await;
    cluster.drained(&bus, "web", "count-views").await;
    for (letter, page) in before.iter().map(|l| (l, l.key.clone())) {
        let field =
            async |table, name: &'static str| cluster.field(&store, table, &page, name).await;
        assert_eq!(field("tallies", "count").await, "1", "{page}");
        assert_eq!(
            field("tallies", "ids").await,
            format!("[{:?}]", letter.event_id),
            "{page} keeps its identity"
        );
        assert_eq!(
            field("pages", "views").await,
            "1",
            "{page}: nobody else has seen it again"
        );
    }
    assert_eq!(cluster.count(&bus, "dlq").await, 0);
}

#[tokio::test]
async fn a_cause_that_comes_back_stops_its_group_at_the_canary() {
    let mut cluster = cluster("").await;
    let bus = cluster.bus().await;
    set_aside(
        &mut cluster,
        &bus,
        (0..5)
            .map(|n| send(&[], told(&format!("/{n}"), "reject")))
            .collect(),
    )
    .await;
    let _worker = cluster.start("misbehave").await;
    let (code, table, err) = oncue(
        &cluster,
        &["dlq", "redrive", "--reason", "rejected", "--yes"],
    );
    assert!(
        code == 1 && err.contains("the other 4 are left untouched"),
        "{code} {err}"
    );
    let sums: Vec<&str> = table
        .lines()
        .nth(1)
        .expect("a row")
        .split_whitespace()
        .skip(1)
        .collect();
    assert_eq!(sums, ["misbehave", "1", "0", "1", "0", "4"], "{table}");
    let mut redrives: Vec<u32> = letters(&cluster, &bus, 5)
        .await
        .iter()
        .map(|letter| letter.redrives)
        .collect();
    redrives.sort_unstable();
    assert_eq!(redrives, [0, 0, 0, 0, 1]);
    // Nobody would hear it: then it stays where it is.
    bus.api("CONSUMER.DELETE.web.app_misbehave", &Value::Null)
        .await
        .expect("deleted");
    let (code, _, err) = oncue(&cluster, &["dlq", "redrive", "--all", "--yes"]);
    assert!(code == 1 && err.contains("oncue apply"), "{code} {err}");
    letters(&cluster, &bus, 5).await;
}

/// Who sees to a cause is told to the others, and binds nobody.
#[tokio::test]
async fn a_group_has_an_owner_until_it_is_let_go() {
    let mut cluster = cluster("").await;
    let bus = cluster.bus().await;
    set_aside(&mut cluster, &bus, vec![send(&[], told("/u", "reject"))]).await;
    let shown = listed(&cluster, &[]).remove(0);
    let group = shown["group"].as_str().expect("a name").to_owned();
    assert_eq!(shown["owner"], Value::Null);
    let (code, _, err) = oncue(&cluster, &["dlq", "take", "nothing"]);
    assert!(
        code == 2 && err.contains("no group is called nothing"),
        "{code} {err}"
    );
    let (code, out, err) = oncue(
        &cluster,
        &["dlq", "take", &group, "--note", "asked the shop"],
    );
    assert!(
        code == 0 && out.contains("sees to it"),
        "{code} {out} {err}"
    );
    let owner = listed(&cluster, &[]).remove(0)["owner"].take();
    assert_eq!(owner["note"], "asked the shop");
    let who = owner["who"].as_str().expect("a name");
    let (_, table, _) = oncue(&cluster, &["dlq", "ls"]);
    assert!(table.contains("OWNER") && table.contains(who), "{table}");
    let (code, _, err) = oncue(&cluster, &["dlq", "drop", &group, "--why", "a test"]);
    assert_eq!(code, 0, "{err}");
    let (code, out, _) = oncue(&cluster, &["dlq", "take", &group, "--release"]);
    assert!(
        code == 0 && out.contains("nobody sees to it any more"),
        "{code} {out}"
    );
}

/// What cannot be read has the identity of its place, and a redriven copy stands in another: it must keep the first.
#[tokio::test]
async fn an_event_that_still_cannot_be_read_remains_the_same_event() {
    let mut cluster = cluster("").await;
    let bus = cluster.bus().await;
    let headers = [("ce-subject", "%C0%A0"), ("twice", "a"), ("twice", "b")];
    let before = set_aside(&mut cluster, &bus, vec![send(&headers, told("/u", ""))]).await;
    let _worker = cluster.start("misbehave").await;
    for n in 1..=2 {
        let (code, _, err) = oncue(&cluster, &["dlq", "redrive", "--all"]);
        assert!(
            code == 1 && err.contains("failed again for the same cause"),
            "{code} {err}"
        );
        let renamed = format!("#{n} is #{} now", n + 1);
        assert!(err.contains(&renamed), "{err}");
        let after = letters(&cluster, &bus, 1).await;
        assert_eq!(
            (&after[0].event_id, after[0].redrives),
            (&before[0].event_id, n)
        );
        let headers = &after[0].envelope.as_ref().expect("the envelope").headers;
        assert_eq!(
            headers.iter().filter(|h| h.name == "twice").count(),
            2,
            "{headers:?}"
        );
    }
}

#[tokio::test]
async fn a_letter_older_than_the_horizon_can_be_redriven() {
    let mut cluster = cluster("[streams.web]\nhorizon = \"2s\"\n").await;
    let (bus, store) = (cluster.bus().await, cluster.store().await);
    let events = [
        send(&[], told("/plain", "fail-until:2")),
        send(&[("ce-id", "x")], told("/id", "fail-until:2")),
    ];
    set_aside(&mut cluster, &bus, events.to_vec()).await;
    tokio::time::sleep(std::time::Duration::from_secs(3)).await;
    let _worker = cluster.start("misbehave").await;
    let (code, table, err) = oncue(&cluster, &["dlq", "redrive", "--all", "--yes"]);
    assert_eq!(code, 0, "{table}{err}");
    for page in ["/plain", "/id"] {
        assert_eq!(
            cluster.field(&store, "tallies", page, "count").await,
            "1",
            "{page}"
        );
    }
    assert_eq!(cluster.count(&bus, "dlq").await, 0);
}

#[tokio::test]
async fn a_dry_run_says_what_would_happen_and_changes_nothing() {
    let mut cluster = cluster("").await;
    let bus = cluster.bus().await;
    let old = [("ce-time", "2001-01-01T00:00:00Z"), ("ce-id", "old")];
    let failing = ["fail", "reject", "panic"].map(|what| send(&[], told("/f", what)));
    let events = [send(&old, told("/e", "emit:2"))]
        .into_iter()
        .chain(failing);
    set_aside(&mut cluster, &bus, events.collect()).await;
    let state = |cluster: &Cluster| cluster.redis_cli(&["--scan", "--pattern", "*:[so]:*"]);
    assert_eq!(state(&cluster), "");
    let messages = cluster.count(&bus, "web").await;

    let (code, out, err) = oncue(&cluster, &["dlq", "redrive", "old", "--dry-run"]);
    assert_eq!(code, 0, "{out}{err}");
    for part in [
        "would be applied",
        "count = 1",
        r#"ids = ["old"]"#,
        "hits Add",
        "web.page.milestone /e",
    ] {
        assert!(out.contains(part), "{part} is not in\n{out}");
    }
    assert_eq!(
        out.matches(r#"{"page":"/e","views":"1"}"#).count(),
        2,
        "{out}"
    );
    let (code, out, _) = oncue(&cluster, &["dlq", "redrive", "--all", "--dry-run"]);
    assert_eq!(code, 1);
    for part in [
        "would fail: told to fail at ",
        "set aside again: told to reject at ",
        "told to panic at ",
        "1 of 4",
    ] {
        assert!(out.contains(part), "{part} is not in\n{out}");
    }
    assert_eq!(
        (state(&cluster), cluster.count(&bus, "web").await),
        (String::new(), messages)
    );
    letters(&cluster, &bus, 4).await;
}

#[tokio::test]
async fn a_dropped_letter_leaves_a_record_of_who_and_why() {
    let mut cluster = cluster("").await;
    cluster.set("USER", "grace");
    let bus = cluster.bus().await;
    let events = ["reject", "reject"].map(|what| send(&[], told("/d", what)));
    let ids: Vec<String> = set_aside(&mut cluster, &bus, events.to_vec())
        .await
        .into_iter()
        .map(|l| l.event_id)
        .collect();
    assert_eq!(
        oncue(&cluster, &["dlq", "drop", "--all", "--why", "obsolete"]).0,
        2,
        "two, and nobody to ask"
    );
    assert_eq!(
        oncue(&cluster, &["dlq", "drop", "1"]).0,
        2,
        "no reason given"
    );
    let (code, _, err) = oncue(&cluster, &["dlq", "drop", "1", "--why", "obsolete"]);
    assert_eq!(code, 0, "{err}");
    letters(&cluster, &bus, 1).await;
    let stored = cluster
        .messages(&bus, "dlq")
        .await
        .into_iter()
        .find(|m| m.subject == "dlq.letter.dropped.app");
    let record =
        DeadLetterDropped::decode(&stored.expect("a record").payload[..]).expect("a record");
    assert!(
        record.who.starts_with("grace@") && record.why == "obsolete" && record.event_id == ids[0],
        "{record:?}"
    );
    let (_, out, _) = oncue(&cluster, &["dlq", "dropped", "--json"]);
    assert!(
        out.contains("\"why\":\"obsolete\"") && out.contains(&ids[0]),
        "{out}"
    );
    assert_eq!(listed(&cluster, &[])[0]["count"], 1);
}

/// A letter that was left behind by a redrive: as if whoever sent it had died before he took the letter away.
async fn left_behind(bus: &Bus, letter: &Stored) -> String {
    let headers: Vec<(&str, &str)> = letter
        .headers
        .lines()
        .filter_map(|line| line.split_once(": "))
        .filter(|(name, _)| *name != "Nats-Msg-Id")
        .collect();
    let again = Envelope {
        payload: letter.payload.clone().into(),
        ..send(&headers, (&letter.subject, String::new()))
    };
    let ack = bus.publish(&again).await.expect("a letter");
    ack.sequence.to_string()
}

/// Neither is done once more what a redrive has done, nor is that given up which is on its way.
#[tokio::test]
async fn a_letter_whose_event_was_redriven_is_neither_edited_nor_given_up() {
    let mut cluster = cluster("").await;
    let (bus, store) = (cluster.bus().await, cluster.store().await);
    set_aside(
        &mut cluster,
        &bus,
        vec![send(&[], told("/l", "fail-until:2"))],
    )
    .await;
    let letter = cluster.messages(&bus, "dlq").await.remove(0);
    let counted = async || cluster.field(&store, "tallies", "/l", "count").await;
    let edit = |number: &str| {
        let data = r#"{"page":"/l","visitor":"v"}"#;
        let args = ["dlq", "edit", number, "--data", data, "--why", "t", "--yes"];
        oncue(&cluster, &args)
    };
    let drop = |number: &str| oncue(&cluster, &["dlq", "drop", number, "--why", "t"]);

    // On its way: nobody has come to it.
    assert_eq!(oncue(&cluster, &["pause", "misbehave"]).0, 0);
    let (_, _, err) = oncue(&cluster, &["dlq", "redrive", "1", "--wait", "0s"]);
    let number = left_behind(&bus, &letter).await;
    for (code, _, said) in [edit(&number), drop(&number)] {
        assert!(
            code == 1 && said.contains("still before it"),
            "{code} {said} {err}"
        );
    }
    assert_eq!(cluster.count(&bus, "dlq").await, 1);
    let (code, out, err) = oncue(&cluster, &["audit", "misbehave", "--json"]);
    let audit: Value = serde_json::from_str(&out).expect("JSON");
    let sums = (&audit[0]["dead"], &audit[0]["pending"]);
    assert_eq!(
        sums,
        (&Value::from(0), &Value::from(1)),
        "{code} {out} {err}"
    );

    // Done: it is taken away, and nothing happens once more.
    assert_eq!(oncue(&cluster, &["resume", "misbehave"]).0, 0);
    let _worker = cluster.start("misbehave").await;
    cluster.drained(&bus, "web", "misbehave").await;
    assert_eq!(counted().await, "1");
    let (code, _, said) = edit(&number);
    assert!(
        code == 1 && said.contains("was applied by a redrive"),
        "{code} {said}"
    );
    let number = left_behind(&bus, &letter).await;
    let (code, _, said) = drop(&number);
    assert!(
        code == 1 && said.contains("was applied by a redrive"),
        "{code} {said}"
    );
    let number = left_behind(&bus, &letter).await;
    let (code, _, said) = oncue(&cluster, &["dlq", "redrive", &number]);
    assert!(
        code == 0 && said.contains("was applied by a redrive"),
        "{code} {said}"
    );
    assert_eq!(
        cluster.count(&bus, "dlq").await,
        0,
        "nor is it on record as given up"
    );
    cluster.drained(&bus, "web", "misbehave").await;
    assert_eq!(counted().await, "1");
}

/// Two looks at a letter are no lock: what goes through both of them, the stream tells apart.
#[tokio::test]
async fn of_a_redrive_and_an_edit_at_the_same_moment_one_happens() {
    let mut cluster = cluster("").await;
    let (bus, store) = (cluster.bus().await, cluster.store().await);
    let events = [("/e", "fail-until:2"), ("/r", "fail-until:9")];
    let events = events.map(|(page, what)| send(&[], told(page, what)));
    set_aside(&mut cluster, &bus, events.into()).await;
    let letters = cluster.messages(&bus, "dlq").await;
    let edit = |number: &str| {
        let data = r#"{"page":"/edited","visitor":"v"}"#;
        let args = ["dlq", "edit", number, "--data", data, "--why", "t", "--yes"];
        oncue(&cluster, &args)
    };

    // An edit was sent, and whoever redrives has looked at the letter before.
    let (code, _, err) = edit("1");
    assert_eq!(code, 0, "{err}");
    let number = left_behind(&bus, &letters[0]).await;
    let (code, out, err) = oncue(&cluster, &["dlq", "redrive", &number, "--wait", "0s"]);
    assert!(
        code != 0 && err.contains("still before it"),
        "{code} {out} {err}"
    );
    // Whoever edits goes on where he was interrupted.
    assert_eq!(edit(&number).0, 0);

    // A redrive was sent and its function has failed again, and whoever edits has looked at the letter before.
    let worker = cluster.start("misbehave").await;
    let (code, out, err) = oncue(&cluster, &["dlq", "redrive", "2"]);
    assert!(
        code != 0 && err.contains("failed again"),
        "{code} {out} {err}"
    );
    let number = left_behind(&bus, &letters[1]).await;
    let (code, out, err) = edit(&number);
    assert!(
        code == 1 && err.contains("still before it"),
        "{code} {out} {err}"
    );

    cluster.drained(&bus, "web", "misbehave").await;
    let mut counted = Vec::new();
    for page in ["/edited", "/e", "/r"] {
        counted.push(cluster.field(&store, "tallies", page, "count").await);
    }
    assert_eq!(counted, ["1", "", ""]);
    drop(worker);
}

#[tokio::test]
async fn the_payload_of_an_event_too_large_for_its_letter_comes_from_the_stream() {
    let mut cluster = cluster("").await;
    let (bus, store) = (cluster.bus().await, cluster.store().await);
    let big = |page: &str, id: &str| {
        let body = format!(
            r#"{{"page":"{page}","visitor":"{}"}}"#,
            "x".repeat(bus.max_payload() - 500)
        );
        send(
            &[("ce-time", "2001-01-01T00:00:00Z"), ("ce-id", id)],
            ("web.page.viewed", body),
        )
    };
    let letters = set_aside(
        &mut cluster,
        &bus,
        vec![big("/big", "big"), big("/gone", "gone")],
    )
    .await;
    assert!(letters.iter().all(|letter| {
        letter
            .envelope
            .as_ref()
            .is_some_and(|e| e.payload.is_empty())
    }));
    let (_, page, _) = oncue(&cluster, &["dlq", "show", "big"]);
    assert!(
        page.contains("\"page\": \"/big\""),
        "{}",
        &page[..500.min(page.len())]
    );
    let gone = letters
        .iter()
        .find(|letter| letter.event_id == "gone")
        .expect("gone")
        .sequence;
    bus.delete_message("web", gone).await.expect("deleted");
    let _worker = cluster.start("misbehave").await;
    let (code, table, err) = oncue(&cluster, &["dlq", "redrive", "--all", "--yes"]);
    assert!(
        code == 1 && err.contains(&format!("web:{gone}, where it stood, is gone")),
        "{code} {table} {err}"
    );
    assert_eq!(cluster.field(&store, "tallies", "/big", "count").await, "1");
    let left = listed(&cluster, &["--each"]);
    assert!(left.len() == 1 && left[0]["event"] == "gone", "{left:?}");
}
