//! Input no gateway has looked at, as any client of NATS may publish it: each has its stated answer, none takes the worker
//! down, and what is fine beside it is applied. What the gateway answers stands in the gateway's own tests.

use std::collections::BTreeMap;

use oncue_proto::oncue::v1::{DeadLetter, Envelope, Header};
use oncue_tests::cluster::{Cluster, Process, QUICK_REDELIVERY, must_fail, until};
use prost::Message as _;
use serde_json::Value;

struct Case {
    id: &'static str,
    headers: Vec<(String, String)>,
    payload: String,
}

fn case(id: &'static str, headers: &[(&str, &str)], payload: impl Into<String>) -> Case {
    let headers = headers
        .iter()
        .map(|(n, v)| ((*n).to_owned(), (*v).to_owned()))
        .collect();
    Case {
        id,
        headers,
        payload: payload.into(),
    }
}

fn told(page: &str, what: &str) -> String {
    serde_json::json!({ "page": page, "referrer": what }).to_string()
}

/// Set aside, each with this reason and after one attempt.
fn refused() -> Vec<(&'static str, Case)> {
    let deep = format!(
        "{{\"page\":{}{}}}",
        "[".repeat(100_000),
        "]".repeat(100_000)
    );
    let groups = "\u{b}".repeat(50_000); // a group opened in a group, and so on
    let protobuf = ("ce-datacontenttype", "application/protobuf");
    let many: Vec<(String, String)> = (0..500)
        .map(|n| (format!("x-{n}"), "y".repeat(100)))
        .collect();
    vec![
        (
            "bounds",
            case("long-key", &[], told(&"/long".repeat(1000), "")),
        ),
        (
            "bounds",
            Case {
                id: "header-bomb",
                headers: many,
                payload: told("/bomb", ""),
            },
        ),
        ("decode", case("truncated", &[], "{\"page\":\"/x\"")),
        ("decode", case("nested", &[], deep)),
        ("decode", case("nested-groups", &[protobuf], groups)),
        ("decode", case("wrong-type", &[], r#"{"page":["/x"]}"#)),
        (
            "decode",
            case("not-utf8", &[protobuf], "\u{a}\u{2}\u{7f}\u{80}"),
        ),
        ("decode", case("no-key", &[], r#"{"visitor":"v"}"#)),
        (
            "decode",
            case(
                "year-1",
                &[("ce-time", "0001-01-01T00:00:00Z")],
                told("/x", ""),
            ),
        ),
        (
            "decode",
            case("negative", &[("ce-time", "-1")], told("/x", "")),
        ),
        (
            "clock",
            case(
                "future",
                &[("ce-time", "9999-12-31T23:59:59Z")],
                told("/x", ""),
            ),
        ),
        (
            "too_old",
            case(
                "1970",
                &[("ce-time", "1970-01-01T00:00:00Z")],
                told("/x", ""),
            ),
        ),
        (
            "decode",
            case(
                "other-media",
                &[("ce-datacontenttype", "application/xml")],
                told("/x", ""),
            ),
        ),
        (
            "loop",
            case("loop", &[("ce-hopcount", "4000000000")], told("/x", "")),
        ),
        // Headers have no order: each delivery could take another id.
        (
            "decode",
            case("two-ids", &[("Ce-Id", "another")], told("/x", "")),
        ),
        ("rejected", case("explosion", &[], told("/x", "emit:257"))),
        ("rejected", case("reject", &[], told("/x", "reject"))),
    ]
}

/// Applied, under the key that is given.
fn accepted() -> Vec<(String, Case)> {
    let odd = [
        "/{p1}",
        "/a\r\nb",
        "/nul\u{0}",
        "/*.>",
        "~0123456789abcdef",
        "$JS.API",
        "/\u{202e}x",
        "/日本",
    ];
    let mut cases: Vec<(String, Case)> = odd
        .iter()
        .enumerate()
        .map(|(n, key)| {
            (
                (*key).to_owned(),
                case(
                    ["k0", "k1", "k2", "k3", "k4", "k5", "k6", "k7"][n],
                    &[],
                    told(key, ""),
                ),
            )
        })
        .collect();
    cases.push((
        "/new".into(),
        case(
            "newer",
            &[],
            r#"{"page":"/new","field_of_tomorrow":{"a":[1]}}"#,
        ),
    ));
    cases.push((
        "/trace".into(),
        case(
            "bad-trace",
            &[
                ("traceparent", "00-zz-yy-01"),
                ("baggage", &"b".repeat(10_000)),
            ],
            told("/trace", ""),
        ),
    ));
    let deep = format!(
        "{{\"page\":\"/deep\",\"unknown\":{}{}}}",
        "[".repeat(100_000),
        "]".repeat(100_000)
    );
    cases.push(("/deep".into(), case("nested-unknown", &[], deep)));
    // Only `oncue dlq redrive` is heard, and only on its own subject.
    let forged =
        r#"{"number":9,"at":1,"id":"other","type":"a.b.c","flow":"f","time":1,"timed":true}"#;
    cases.push((
        "/forged".into(),
        case(
            "forged-redrive",
            &[("Oncue-Redrive", forged)],
            told("/forged", ""),
        ),
    ));
    cases
}

/// A message that cannot be read as an event has an identity of its own; its headers are kept.
fn sent_id(letter: &DeadLetter) -> String {
    let headers = letter
        .envelope
        .as_ref()
        .map(|envelope| &envelope.headers[..])
        .unwrap_or_default();
    headers
        .iter()
        .find(|header| header.name == "ce-id")
        .map(|header| header.value.clone())
        .unwrap_or_default()
}

fn envelope(subject: &str, case: &Case) -> Envelope {
    let id = [("ce-id".to_owned(), case.id.to_owned())];
    let headers = id
        .iter()
        .chain(&case.headers)
        .map(|(n, v)| Header {
            name: n.clone(),
            value: v.clone(),
        })
        .collect();
    Envelope {
        subject: subject.to_owned(),
        headers,
        payload: case.payload.clone().into_bytes().into(),
    }
}

#[tokio::test]
async fn every_bad_input_has_its_answer_and_none_harms_its_neighbours() {
    let cluster = Cluster::new(&format!("[functions.misbehave]\n{QUICK_REDELIVERY}\n")).await;
    let worker = cluster.start("misbehave").await;
    answers(&cluster, worker).await;
}

/// The broken twin: a worker that takes an event however old it is.
#[tokio::test]
async fn a_worker_that_takes_what_it_must_refuse_is_caught() {
    let mut cluster = Cluster::new(&format!("[functions.misbehave]\n{QUICK_REDELIVERY}\n")).await;
    cluster.set("ONCUE_SABOTAGE", "no-fence");
    let worker = cluster.spawn_faulty("misbehave", "");
    worker.wait_for_line("\"message\":\"ready\"").await;
    let why = must_fail("an event of 1970 was taken", answers(&cluster, worker)).await;
    assert!(
        !why.contains("\"1970\""),
        "its letter is missing, so it cannot be named: {why}"
    );
}

/// The broken twin: a worker that takes one of the two ids of a message sees one id only.
#[tokio::test]
async fn a_worker_that_takes_one_of_two_ids_is_caught() {
    let cluster = Cluster::new(&format!("[functions.misbehave]\n{QUICK_REDELIVERY}\n")).await;
    let worker = cluster.start("misbehave").await;
    let mut as_read = refused();
    let two = as_read.iter_mut().find(|(_, case)| case.id == "two-ids");
    two.expect("a case").1.headers.clear();
    let why = must_fail("one id was taken", answers_to(&cluster, worker, as_read)).await;
    assert!(
        !why.contains("\"two-ids\""),
        "its letter is missing, so it cannot be named: {why}"
    );
}

async fn answers(cluster: &Cluster, worker: Process) {
    answers_to(cluster, worker, refused()).await;
}

async fn answers_to(cluster: &Cluster, mut worker: Process, refused: Vec<(&'static str, Case)>) {
    let (bus, store) = (cluster.bus().await, cluster.store().await);
    let accepted = accepted();
    for (_, case) in &refused {
        bus.publish(&envelope("web.page.viewed", case))
            .await
            .unwrap_or_else(|e| panic!("{}: {e}", case.id));
    }
    for (_, case) in &accepted {
        bus.publish(&envelope("web.page.viewed", case))
            .await
            .unwrap_or_else(|e| panic!("{}: {e}", case.id));
    }
    // On the subject of redrives, without what a redrive brings.
    bus.publish(&envelope(
        "web.redrive.app_misbehave",
        &case("not-a-redrive", &[], told("/x", "")),
    ))
    .await
    .expect("taken");
    let expected = refused.len() + 1;
    let last = bus
        .api("STREAM.INFO.web", &Value::Null)
        .await
        .expect("a stream")["state"]["last_seq"]
        .as_u64();
    until("all were delivered", async || {
        let info = bus
            .api("CONSUMER.INFO.web.app_misbehave", &Value::Null)
            .await
            .ok()?;
        (info["delivered"]["stream_seq"].as_u64() >= last).then_some(())
    })
    .await;
    cluster.drained(&bus, "web", "misbehave").await;
    // A letter is written before its event is done.
    let messages = cluster.messages(&bus, "dlq").await;
    let letters: BTreeMap<String, DeadLetter> = messages
        .iter()
        .map(|m| DeadLetter::decode(&m.payload[..]).expect("a dead letter"))
        .map(|letter| (sent_id(&letter), letter))
        .collect();
    assert_eq!(letters.len(), expected, "{:#?}", letters.keys());
    for (reason, case) in &refused {
        let letter = letters
            .get(case.id)
            .unwrap_or_else(|| panic!("{} is not set aside", case.id));
        assert_eq!(
            (letter.reason.as_str(), letter.attempts),
            (*reason, 1),
            "{}: {}",
            case.id,
            letter.message
        );
    }
    for (key, case) in &accepted {
        assert_eq!(
            cluster.field(&store, "tallies", key, "count").await,
            "1",
            "{}",
            case.id
        );
        let ids = cluster.field(&store, "tallies", key, "ids").await;
        assert_eq!(ids, format!("[{:?}]", case.id));
    }
    assert_eq!(
        cluster.field(&store, "tallies", "/x", "count").await,
        "",
        "nothing refused has left a trace"
    );
    assert_eq!(worker.stop().await, Some(0), "{}", worker.log());
}
