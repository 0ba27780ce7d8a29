//! The delivery protocol under functions and messages that misbehave.

use std::collections::{BTreeMap, BTreeSet};

use oncue_app_events::web::PageMilestone;
use oncue_core::app::AppName;
use oncue_core::bus::Bus;
use oncue_core::store::Store;
use oncue_proto::event;
use oncue_proto::oncue::v1::{DeadLetter, Envelope, Header};
use oncue_tests::cluster::{Cluster, Process, QUICK_REDELIVERY, free_port, named, until};
use oncue_tests::events::{envelope, told};
use oncue_tests::proxy::{Protocol, Proxy};
use prost::Message as _;
use serde_json::Value;

async fn cluster() -> Cluster {
    Cluster::new(&format!("[functions.misbehave]\n{QUICK_REDELIVERY}\n")).await
}

async fn dead_letters(cluster: &Cluster, bus: &Bus, expected: usize) -> Vec<DeadLetter> {
    until(&format!("{expected} dead letters"), async || {
        let letters = cluster.messages(bus, "dlq").await;
        (letters.len() >= expected).then(|| {
            letters
                .iter()
                .map(|m| DeadLetter::decode(&m.payload[..]).expect("a dead letter"))
                .collect()
        })
    })
    .await
}

#[tokio::test]
async fn failures_are_retried_or_set_aside_and_leave_no_trace_in_state() {
    let cluster = cluster().await;
    let _worker = cluster.start("misbehave").await;
    let (bus, store) = (cluster.bus().await, cluster.store().await);
    cluster.plain_publish([
        told("/a", ""),
        told("/a", "fail"),
        told("/a", "reject"),
        told("/a", "panic"),
        told("/a", "slow:60000"),
        told("/a", "behind"),
        told("/a", "fail-until:2"),
        told("/a", "fail-until:3"),
        told("/a", ""),
    ]);
    let letters = dead_letters(&cluster, &bus, 5).await;
    cluster.drained(&bus, "web", "misbehave").await;
    assert_eq!(letters.len(), 5);
    let found: BTreeSet<(String, String)> = letters
        .iter()
        .map(|l| (l.reason.clone(), l.message.clone()))
        .collect();
    let messages: Vec<&str> = found.iter().map(|(_, m)| m.as_str()).collect();
    for (reason, part) in [
        ("attempts", "told to fail"),
        ("rejected", "told to reject"),
        ("attempts", "told to panic"),
        ("attempts", "still running after 3s"),
        ("rejected", "behind the handler's back"),
    ] {
        assert!(
            found.iter().any(|(r, m)| r == reason && m.contains(part)),
            "{reason}: {part} not in {messages:?}"
        );
    }
    for letter in &letters {
        let attempts = if letter.reason == "rejected" { 1 } else { 3 };
        assert_eq!(letter.attempts, attempts, "{}", letter.message);
        let envelope = letter.envelope.as_ref().expect("the envelope");
        assert!(
            String::from_utf8_lossy(&envelope.payload).contains("/a"),
            "the whole payload is kept"
        );
        assert_eq!(
            (letter.stream.as_str(), letter.event_type.as_str()),
            ("web", "web.page.viewed")
        );
    }
    // Four succeeded; what the failed ones did to the row and in passing is gone.
    assert_eq!(cluster.field(&store, "tallies", "/a", "count").await, "4");
    assert_eq!(cluster.field(&store, "hits", "/a", "total").await, "4");
}

#[tokio::test]
async fn an_event_that_kills_the_process_is_set_aside_and_its_neighbours_are_applied() {
    let cluster = cluster().await;
    let (bus, store) = (cluster.bus().await, cluster.store().await);
    let mut worker = cluster.start("misbehave").await;
    cluster
        .plain_publish((0..30).map(|n| told(&format!("/k{n}"), if n == 15 { "exit" } else { "" })));
    let mut deaths = 0;
    while cluster.count(&bus, "dlq").await == 0 {
        let dead = until("the worker dies or the event is set aside", async || {
            let gone = !std::path::Path::new(&format!("/proc/{}", worker.pid())).exists()
                || std::fs::read_to_string(format!("/proc/{}/stat", worker.pid()))
                    .is_ok_and(|s| s.contains(") Z "));
            (gone || cluster.count(&bus, "dlq").await > 0).then_some(gone)
        })
        .await;
        if dead {
            deaths += 1;
            worker = cluster.start("misbehave").await;
        }
    }
    cluster.drained(&bus, "web", "misbehave").await;
    assert_eq!(deaths, 3, "as many deaths as attempts");
    let letters = dead_letters(&cluster, &bus, 1).await;
    assert_eq!((letters.len(), letters[0].reason.as_str()), (1, "attempts"));
    for n in (0..30).filter(|n| *n != 15) {
        assert_eq!(
            cluster
                .field(&store, "tallies", &format!("/k{n}"), "count")
                .await,
            "1",
            "/k{n}"
        );
    }
}

#[tokio::test]
async fn what_cannot_be_read_is_set_aside_at_first_sight() {
    let cluster = cluster().await;
    let _worker = cluster.start("misbehave").await;
    let bus = cluster.bus().await;
    let ok = r#"{"page":"/ok"}"#;
    let cases = [
        ("decode", envelope("web.page.viewed", &[], "{\"page\":")),
        (
            "decode",
            envelope("web.page.viewed", &[], "\u{1}\u{2}garbage"),
        ),
        ("decode", envelope("web.page.viewed", &[], "{}")), // no key
        (
            "decode",
            envelope("web.page.viewed", &[("ce-datacontenttype", "text/csv")], ok),
        ),
        (
            "decode",
            envelope("web.page.viewed", &[("ce-time", "yesterday")], ok),
        ),
        (
            "decode",
            envelope("web.page.viewed", &[("ce-id", &"x".repeat(200))], ok),
        ),
        (
            "decode",
            envelope("web.page.viewed", &[("ce-subject", "%C0%A0")], ok),
        ),
        (
            "decode",
            envelope(
                "web.page.viewed",
                &[("Content-Type", "application/cloudevents+json")],
                "[]",
            ),
        ),
        (
            "loop",
            envelope(
                "web.page.viewed",
                &[("ce-hopcount", "64"), ("ce-id", "looping")],
                ok,
            ),
        ),
        (
            "clock",
            envelope(
                "web.page.viewed",
                &[("ce-time", "2999-01-01T00:00:00Z"), ("ce-id", "far")],
                ok,
            ),
        ),
        (
            "too_old",
            envelope(
                "web.page.viewed",
                &[("ce-time", "2001-01-01T00:00:00Z"), ("ce-id", "old")],
                ok,
            ),
        ),
    ];
    for (_, envelope) in &cases {
        bus.publish(envelope).await.expect("the stream takes it");
    }
    let letters = dead_letters(&cluster, &bus, cases.len()).await;
    cluster.drained(&bus, "web", "misbehave").await;
    let mut expected: Vec<&str> = cases.iter().map(|(reason, _)| *reason).collect();
    let mut found: Vec<&str> = letters.iter().map(|l| l.reason.as_str()).collect();
    expected.sort_unstable();
    found.sort_unstable();
    assert_eq!(found, expected, "{letters:#?}");
    assert!(
        letters.iter().all(|l| l.attempts == 1),
        "no retries for what will never be readable"
    );
    assert_eq!(
        cluster.redis_cli(&["--scan", "--pattern", "*:s:*"]),
        "",
        "no handler ran"
    );
}

#[tokio::test]
async fn a_dead_letter_is_written_however_large_its_event_is() {
    let cluster = cluster().await;
    let _worker = cluster.start("misbehave").await;
    let bus = cluster.bus().await;
    let garbage = "x".repeat(bus.max_payload() - 500);
    bus.publish(&envelope("web.page.viewed", &[("ce-id", "huge")], &garbage))
        .await
        .expect("the stream takes it");
    let letters = dead_letters(&cluster, &bus, 1).await;
    cluster.drained(&bus, "web", "misbehave").await;
    assert_eq!(
        (letters[0].event_id.as_str(), letters[0].reason.as_str()),
        ("huge", "decode")
    );
    assert!(
        letters[0].sequence > 0
            && letters[0]
                .envelope
                .as_ref()
                .is_some_and(|e| e.payload.is_empty())
    );
}

#[tokio::test]
async fn a_row_that_cannot_be_read_ends_in_the_dead_letters() {
    let cluster = cluster().await;
    let _worker = cluster.start("misbehave").await;
    let bus = cluster.bus().await;
    for (page, command) in [
        ("/text", vec!["HSET", "KEY", "count", "abc"]),
        ("/set", vec!["SADD", "KEY", "x"]),
    ] {
        let key = oncue_core::store::Keys::default().row("tallies", page);
        let command: Vec<&str> = command
            .into_iter()
            .map(|part| if part == "KEY" { key.as_str() } else { part })
            .collect();
        cluster.redis_cli(&command);
        cluster.plain_publish([told(page, "")]);
    }
    let letters = dead_letters(&cluster, &bus, 2).await;
    cluster.drained(&bus, "web", "misbehave").await;
    assert!(
        letters
            .iter()
            .all(|l| l.reason == "attempts" && l.attempts == 3),
        "{letters:#?}"
    );
}

/// One that hangs on a dead dependency must not make the others wait in line behind it.
#[tokio::test]
async fn plain_failures_need_no_probation() {
    let cluster = cluster().await;
    let _worker = cluster.start("misbehave").await;
    let (bus, store) = (cluster.bus().await, cluster.store().await);
    // Each fails and then takes its time. One after another they would outlast the patience of `drained`.
    cluster.plain_publish((0..40).map(|n| told(&format!("/h{n}"), "fail-slow:2500")));
    cluster.drained(&bus, "web", "misbehave").await;
    for n in 0..40 {
        assert_eq!(
            cluster
                .field(&store, "tallies", &format!("/h{n}"), "count")
                .await,
            "1"
        );
    }
    assert_eq!(cluster.count(&bus, "dlq").await, 0);
}

#[tokio::test]
async fn copies_count_once_however_they_come() {
    let cluster = cluster().await;
    let _worker = cluster.start("misbehave").await;
    let (bus, store) = (cluster.bus().await, cluster.store().await);
    let structured = r#"{"specversion":"1.0","id":"same","source":"/t","type":"web.page.viewed","time":"TIME","data":{"page":"/c"}}"#;
    let time = event::format_time(event::now_ms());
    let structured = structured.replace("TIME", &time);
    for round in 0..3 {
        // No Nats-Msg-Id, so the stream really holds the copies; a time of its own or none, alone or in one batch.
        let with_time = [
            ("ce-id", "same"),
            ("ce-time", &*time),
            ("ce-type", "web.page.viewed"),
        ];
        let without = [("ce-id", "untimed"), ("ce-type", "web.page.viewed")];
        bus.publish(&envelope("web.page.viewed", &with_time, r#"{"page":"/c"}"#))
            .await
            .expect("taken");
        bus.publish(&envelope(
            "web.page.viewed.c",
            &[("Content-Type", "application/cloudevents+json")],
            &structured,
        ))
        .await
        .expect("taken");
        bus.publish(&envelope("web.page.viewed", &without, r#"{"page":"/c"}"#))
            .await
            .expect("taken");
        if round == 1 {
            cluster.drained(&bus, "web", "misbehave").await;
        }
    }
    cluster.drained(&bus, "web", "misbehave").await;
    assert_eq!(
        cluster.count(&bus, "web").await,
        9,
        "the stream holds every copy"
    );
    assert_eq!(cluster.field(&store, "tallies", "/c", "count").await, "2");
    assert_eq!(cluster.field(&store, "hits", "/c", "total").await, "2");
    let forged = [("ce-id", "same"), ("ce-time", &*time)];
    bus.publish(&envelope(
        "web.page.viewed",
        &forged,
        r#"{"page":"/c","visitor":"other"}"#,
    ))
    .await
    .expect("taken");
    assert_eq!(dead_letters(&cluster, &bus, 1).await[0].reason, "id_reuse");
    // Each further one is told of as well, and so is one under the id of an event that was set aside.
    let dead = [("ce-id", "dead"), ("ce-time", &*time)];
    for (headers, payload) in [
        (&forged, r#"{"page":"/c","visitor":"third"}"#),
        (&dead, r#"{"page":"/d","referrer":"reject"}"#),
        (&dead, r#"{"page":"/d","referrer":""}"#),
    ] {
        let event = envelope("web.page.viewed", headers, payload);
        bus.publish(&event).await.expect("taken");
        cluster.drained(&bus, "web", "misbehave").await;
    }
    let letters = dead_letters(&cluster, &bus, 4).await;
    let reasons: Vec<&str> = letters.iter().map(|letter| &*letter.reason).collect();
    assert_eq!(reasons, ["id_reuse", "id_reuse", "rejected", "id_reuse"]);
}

#[tokio::test]
async fn outputs_have_ids_of_their_own_and_delayed_ones_come_later() {
    let cluster = cluster().await;
    let _workers = cluster.start_all(&["misbehave", "rank-pages"]).await;
    let (bus, store) = (cluster.bus().await, cluster.store().await);
    cluster.plain_publish([told("/o", "emit:3"), told("/o", "later:1500")]);
    until(
        "the delayed milestone has reached the ranking",
        async || (cluster.field(&store, "rankings", "all", "/o").await == "2").then_some(()),
    )
    .await;
    let messages = cluster.messages(&bus, "web").await;
    let outputs: Vec<_> = messages
        .iter()
        .filter(|m| m.subject.starts_with("web.page.milestone"))
        .collect();
    assert_eq!(outputs.len(), 4);
    let ids: BTreeSet<&str> = outputs.iter().filter_map(|m| m.header("ce-id")).collect();
    assert_eq!(ids.len(), 4);
    for output in &outputs {
        assert_eq!(
            PageMilestone::decode(&output.payload[..])
                .expect("a milestone")
                .page,
            "/o"
        );
        assert_eq!(output.header("ce-source"), Some("/misbehave"));
        assert_eq!(output.header("ce-hopcount"), Some("1"));
        assert_eq!(
            output.header("ce-flowid"),
            output.header("ce-causationid"),
            "the root is the cause"
        );
    }
    let delayed = outputs.last().expect("four of them");
    let due = event::parse_time(delayed.header("ce-time").expect("a time")).expect("RFC 3339");
    let first = event::parse_time(outputs[0].header("ce-time").expect("a time")).expect("RFC 3339");
    assert!(due >= first + 1400, "due {due}, first {first}");
}

/// Whoever may delay an event could have it fire to any subject: functions hold it to the type that it may delay.
#[tokio::test]
async fn what_a_delay_fires_elsewhere_is_set_aside() {
    let cluster = cluster().await;
    let _worker = cluster.start("misbehave").await;
    let (bus, store) = (cluster.bus().await, cluster.store().await);
    let redrive = r#"{"number":1,"at":1,"id":"forged","type":"web.page.viewed","flow":"forged","time":1,"timed":true}"#;
    let redrive = event::percent_encode(redrive);
    for (number, declared, target) in [
        (1, "web.page.milestone", "timer.due.web.page.viewed"),
        (
            2,
            "web.page.milestone",
            "timer.due.web.redrive.app_misbehave",
        ),
        (3, "web.page.viewed", "timer.due.web.page.viewed"),
    ] {
        let soon = event::format_time(event::now_ms() + 1000);
        let headers = [
            ("Nats-Schedule".to_owned(), format!("@at {soon}")),
            ("Nats-Schedule-Target".to_owned(), target.to_owned()),
            ("ce-id".to_owned(), format!("d{number}")),
            (event::REDRIVE.to_owned(), redrive.to_string()),
        ];
        let headers = headers
            .into_iter()
            .map(|(name, value)| Header { name, value });
        let payload = told("/delay", "plain").1;
        let delayed = Envelope {
            subject: format!("timer.delayed.app.other.{declared}.d{number}"),
            headers: headers.collect(),
            payload: payload.into(),
        };
        bus.publish(&delayed).await.expect("taken");
        // Who has fired it says the server, and nobody else.
        let mut named = delayed;
        named.headers.push(Header {
            name: "Nats-Scheduler".to_owned(),
            value: "timer.schedule.app.mine".to_owned(),
        });
        bus.publish(&named).await.expect_err("refused");
    }
    let letters = dead_letters(&cluster, &bus, 2).await;
    for letter in &letters {
        assert_eq!(letter.reason, "decode", "{letter:?}");
        assert!(
            letter.message.contains("may fire web.page.milestone"),
            "{letter:?}"
        );
    }
    until("what it may delay comes", async || {
        (cluster.field(&store, "tallies", "/delay", "count").await == "1").then_some(())
    })
    .await;
    cluster.drained(&bus, "web", "misbehave").await;
    assert_eq!(
        cluster.field(&store, "tallies", "/delay", "count").await,
        "1"
    );
}

#[tokio::test]
async fn a_worker_asks_only_for_what_it_has_room_for_and_says_that_it_is_still_at_it() {
    let cluster = Cluster::new("[functions.misbehave]\nack_wait = \"1s\"\nconcurrency = 3\n").await;
    let _worker = cluster.start("misbehave").await;
    let (bus, store) = (cluster.bus().await, cluster.store().await);
    // Each runs for more than twice the ack wait, and three rounds of them queue up.
    cluster.plain_publish((0..9).map(|n| told(&format!("/q{n}"), "slow:2500")));
    let mut most = 0;
    until("all are applied", async || {
        let info = bus
            .api("CONSUMER.INFO.web.app_misbehave", &serde_json::Value::Null)
            .await
            .ok()?;
        most = most.max(info["num_ack_pending"].as_u64()?);
        assert_eq!(
            info["num_redelivered"], 0,
            "taken for lost while it was running"
        );
        let applied = cluster.field(&store, "tallies", "/q8", "count").await;
        (applied == "1" && info["num_ack_pending"] == 0).then_some(())
    })
    .await;
    assert_eq!(most, 3, "events in one worker's hands");
}

#[tokio::test]
async fn outputs_left_behind_are_swept_up() {
    use oncue_core::store::{CommitEvent, Mark, Purpose, Run};
    use oncue_proto::oncue::v1::Outbox;
    let config =
        format!("[functions.misbehave]\n{QUICK_REDELIVERY}\n[redis]\nkeep_outputs = \"0s\"\n");
    let cluster = Cluster::new(&config).await;
    let _worker = cluster.start("misbehave").await;
    let (bus, store) = (cluster.bus().await, cluster.store().await);
    // As if a worker had committed and vanished, and the server had lost the input: nobody will deliver it again.
    let milestone = PageMilestone {
        page: "/left".into(),
        views: 10,
    };
    let mut envelope = envelope(
        "web.page.milestone",
        &[("ce-id", "left-behind"), ("ce-type", "web.page.milestone")],
        "",
    );
    envelope.payload = milestone.encode_to_vec().into();
    let origin = event::Origin {
        stream: "web",
        stream_created: 1,
        sequence: 1,
        published: event::now_ms(),
        subject: "web.page.viewed",
    };
    let mark = Mark::new(
        "misbehave",
        "/left",
        &event::Meta::of_origin(&origin),
        3_600_000,
    );
    let outbox = Outbox {
        outputs: vec![envelope],
    }
    .encode_to_vec()
    .into();
    let handled = CommitEvent {
        mark,
        payload_hash: 1,
        ops: Vec::new(),
        outbox,
        purpose: Purpose::Apply,
        entry: None,
    };
    store
        .commit(&[Run {
            row: None,
            events: vec![handled],
        }])
        .await
        .expect("committed");
    until(
        "the output is published and no longer waiting",
        async || {
            let published = cluster
                .messages(&bus, "web")
                .await
                .iter()
                .any(|m| m.header("ce-id") == Some("left-behind"));
            (published
                && cluster
                    .redis_cli(&["--scan", "--pattern", "*:o:*"])
                    .is_empty())
            .then_some(())
        },
    )
    .await;
}

#[tokio::test]
async fn a_worker_waits_for_servers_that_are_away() {
    let mut cluster = cluster().await;
    let worker = cluster.start("misbehave").await;
    cluster.plain_publish((0..50).map(|n| told(&format!("/w{n}"), "emit:1")));
    cluster.redis.kill();
    cluster.plain_publish((50..100).map(|n| told(&format!("/w{n}"), "emit:1")));
    tokio::time::sleep(std::time::Duration::from_secs(3)).await; // longer than ack_wait: the events must stay in hand
    cluster.restart_redis().await;
    cluster
        .drained(&cluster.bus().await, "web", "misbehave")
        .await;
    cluster.nats.kill();
    cluster.restart_nats().await;
    cluster.plain_publish((100..150).map(|n| told(&format!("/w{n}"), "emit:1")));
    let (bus, store) = (cluster.bus().await, cluster.store().await);
    cluster.drained(&bus, "web", "misbehave").await;
    for n in 0..150 {
        assert_eq!(
            cluster
                .field(&store, "tallies", &format!("/w{n}"), "count")
                .await,
            "1",
            "/w{n} {}",
            worker.log()
        );
    }
    let messages = cluster.messages(&bus, "web").await;
    let ids: BTreeSet<&str> = messages
        .iter()
        .filter(|m| m.subject.contains("milestone"))
        .filter_map(|m| m.header("ce-id"))
        .collect();
    assert_eq!(ids.len(), 150);
    assert_eq!(
        cluster.count(&bus, "dlq").await,
        0,
        "an outage of Redis is nobody's failed attempt"
    );
}

#[tokio::test]
async fn another_configuration_on_the_server_is_refused_with_the_difference() {
    let mut cluster = cluster().await;
    cluster.start("misbehave").await.stop().await;
    std::fs::write(
        cluster.dir.join("oncue.toml"),
        named("[functions.misbehave]\nack_wait = \"7s\"\n"),
    )
    .expect("written");
    let mut refused = cluster.spawn("misbehave", &[]);
    assert_eq!(refused.exit().await, Some(1));
    let log = refused.log();
    assert!(
        log.contains("ack_wait: is 2000000000, should be 7000000000")
            && log.contains("oncue apply"),
        "{log}"
    );
    cluster.set("ONCUE_REDIS_URL", "redis://127.0.0.1:1");
    let mut lost = cluster.spawn("misbehave", &[]);
    assert_eq!(lost.exit().await, Some(1));
    assert!(
        lost.log()
            .contains("cannot reach Redis at redis://127.0.0.1:1"),
        "{}",
        lost.log()
    );
}

/// As clients retry: the same id with a fresh time, with none, with another key, long after the first.
#[tokio::test]
async fn a_retry_with_another_time_counts_once() {
    let cluster = cluster().await;
    let _worker = cluster.start("misbehave").await;
    let (bus, store) = (cluster.bus().await, cluster.store().await);
    let now = event::now_ms();
    let new = event::new_id();
    for id in ["order-17", &new, "0192f0c1-2b3c-7def-8123-456789abcdef"] {
        for minutes in [0, 10, 130] {
            let time = event::format_time(now - minutes * 60_000);
            let timed = [("ce-id", id), ("ce-time", &*time)];
            let payload = told(&format!("/{id}"), "").1;
            for headers in [&timed[..], &timed[..1]] {
                let event = envelope("web.page.viewed", headers, &payload);
                bus.publish(&event).await.expect("taken");
            }
        }
    }
    cluster.drained(&bus, "web", "misbehave").await;
    assert_eq!(cluster.count(&bus, "web").await, 18);
    for id in ["order-17", &new, "0192f0c1-2b3c-7def-8123-456789abcdef"] {
        let count = cluster
            .field(&store, "tallies", &format!("/{id}"), "count")
            .await;
        assert_eq!(count, "1", "{id}");
    }
    assert_eq!(cluster.count(&bus, "dlq").await, 0);
}

/// A consumer that is made anew brings every poison event again, and none of them a second letter.
#[tokio::test]
async fn a_new_consumer_writes_no_letter_again() {
    let cluster = Cluster::new(&format!(
        "[streams.dlq]\nduplicate_window = \"100ms\"\n[functions.misbehave]\n{QUICK_REDELIVERY}\n"
    ))
    .await;
    let bus = cluster.bus().await;
    let mut worker = cluster.start("misbehave").await;
    cluster.plain_publish((0..5).map(|n| told(&format!("/{n}"), "reject")));
    cluster.plain_publish([told("/fine", "")]);
    dead_letters(&cluster, &bus, 5).await;
    cluster.drained(&bus, "web", "misbehave").await;
    assert_eq!(worker.stop().await, Some(0));
    bus.api(
        "CONSUMER.DELETE.web.app_misbehave",
        &serde_json::Value::Null,
    )
    .await
    .expect("deleted");
    cluster.apply("misbehave");
    let _worker = cluster.start("misbehave").await;
    until("all came again", async || {
        let info = bus
            .api("CONSUMER.INFO.web.app_misbehave", &serde_json::Value::Null)
            .await
            .ok()?;
        (info["delivered"]["consumer_seq"].as_u64() >= Some(6)).then_some(())
    })
    .await;
    cluster.drained(&bus, "web", "misbehave").await;
    assert_eq!(cluster.count(&bus, "dlq").await, 5);
    let store = cluster.store().await;
    assert_eq!(
        cluster.field(&store, "tallies", "/fine", "count").await,
        "1"
    );
}

/// A process that ends with the test.
struct Ended(std::process::Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Redis closes no connection when its primary is demoted: somebody has to notice.
#[tokio::test]
async fn a_demoted_primary_is_left() {
    let mut cluster = cluster().await;
    let bus = cluster.bus().await;
    let proxy = Proxy::start(Protocol::Redis, cluster.redis_port, 1).await;
    let port = free_port();
    let folder = cluster.dir.join("promoted");
    std::fs::create_dir_all(&folder).expect("a folder");
    let mut command = std::process::Command::new("redis-server");
    command.args([
        "--bind",
        "127.0.0.1",
        "--save",
        "",
        "--port",
        &port.to_string(),
    ]);
    command.arg("--dir").arg(&folder);
    let primary = cluster.redis_port.to_string();
    command.args(["--replicaof", "127.0.0.1", &primary]);
    command.arg("--logfile").arg(folder.join("log"));
    let _promoted = Ended(command.spawn().expect("redis-server"));
    until("it follows", async || {
        let info = cluster.redis_cli(&["INFO", "replication"]);
        info.contains("state=online").then_some(())
    })
    .await;
    cluster.set(
        "ONCUE_REDIS_URL",
        &format!("redis://127.0.0.1:{}", proxy.port),
    );
    let mut worker = cluster.start("misbehave").await;
    cluster.plain_publish([told("/before", "")]);
    cluster.drained(&bus, "web", "misbehave").await;
    let connections = proxy.connections();
    assert!(connections > 0);
    // The broken twin: a client that only goes on with the connection it has.
    let mut stays = std::net::TcpStream::connect(("127.0.0.1", proxy.port)).expect("Redis");
    assert_eq!(asked(&mut stays, "SET twin 1"), "+OK");
    until("it has all", async || {
        let info = cluster.redis_cli(&["INFO", "replication"]);
        let number = |name: &str| {
            let (_, rest) = info.split_once(name)?;
            rest.split(|c: char| !c.is_ascii_digit())
                .next()?
                .parse::<u64>()
                .ok()
        };
        (number(",offset=")? == number("master_repl_offset:")?).then_some(())
    })
    .await;
    // The other takes over; who connects from now on comes to it, and nobody is told.
    let new = port.to_string();
    let promote = ["-p", &new, "REPLICAOF", "NO", "ONE"];
    let promoted = std::process::Command::new("redis-cli")
        .args(promote)
        .output();
    assert!(promoted.expect("redis-cli").status.success());
    proxy.lead_to(port);
    cluster.redis_ok(&["REPLICAOF", "127.0.0.1", &new]);
    cluster.plain_publish((0..20).map(|n| told(&format!("/after{n}"), "")));
    until("work goes on", async || {
        let info = bus
            .api("CONSUMER.INFO.web.app_misbehave", &serde_json::Value::Null)
            .await
            .ok()?;
        let done = info["num_pending"] == 0 && info["num_ack_pending"] == 0;
        (done && worker.log().contains("was to a replica")).then_some(())
    })
    .await;
    let refused = asked(&mut stays, "SET twin 2");
    assert!(
        refused.starts_with("-READONLY"),
        "nothing had to be left: {refused}"
    );
    let url = format!("redis://127.0.0.1:{port}");
    let store = Store::look(url.as_str(), &AppName::default())
        .await
        .expect("the new primary");
    for n in 0..20 {
        let count = cluster
            .field(&store, "tallies", &format!("/after{n}"), "count")
            .await;
        assert_eq!(count, "1", "no event is spent on it");
    }
    assert_eq!(cluster.count(&bus, "dlq").await, 0);
    assert_eq!(worker.stop().await, Some(0));
}

/// First line of the answer to a command.
fn asked(redis: &mut std::net::TcpStream, command: &str) -> String {
    use std::io::{BufRead as _, Write as _};
    redis
        .write_all(format!("{command}\r\n").as_bytes())
        .expect("sent");
    let mut line = String::new();
    let mut reader = std::io::BufReader::new(redis);
    reader.read_line(&mut line).expect("an answer");
    line.trim_end().to_owned()
}

/// Deliveries of one event that were given back since its row kept changing: of the event that had the most.
fn lost_deliveries(workers: &[Process]) -> usize {
    let mut lost: BTreeMap<String, usize> = BTreeMap::new();
    for worker in workers {
        for line in worker.log().lines() {
            if line.contains("the row keeps changing under it") {
                let line: Value = serde_json::from_str(line).unwrap_or_default();
                let event = line["fields"]["event"].as_str().or(line["event"].as_str());
                *lost
                    .entry(event.unwrap_or_default().to_owned())
                    .or_default() += 1;
            }
        }
    }
    lost.into_values().max().unwrap_or(0)
}

/// A slow event whose row other workers keep changing loses every race for it, and that is nobody's failure: it is given back
/// as often as it takes, and costs no attempt.
#[tokio::test]
async fn losing_races_is_no_attempt() {
    let config = "[functions.misbehave]\nattempts = 2\nack_wait = \"2s\"\n";
    let cluster = Cluster::new(config).await;
    let workers = cluster.start_all(&["misbehave"; 3]).await;
    let bus = cluster.bus().await;
    let mut published = 0;
    until(
        "an event has lost all races of more deliveries than there are attempts",
        async || {
            // Quick events all along, one by one so that every worker gets some, and a slow one about when the one before
            // it is done.
            if published % 300 == 0 {
                cluster.plain_publish([told("/hot", "slow:250")]);
            } else {
                cluster.plain_publish([told("/hot", "")]);
            }
            published += 1;
            let all = published % 20 == 0 && lost_deliveries(&workers) >= 4;
            all.then_some(())
        },
    )
    .await;
    cluster.drained(&bus, "web", "misbehave").await;
    assert_eq!(cluster.count(&bus, "dlq").await, 0);
    let store = cluster.store().await;
    let count = cluster.field(&store, "tallies", "/hot", "count").await;
    assert_eq!(count, published.to_string());
}
