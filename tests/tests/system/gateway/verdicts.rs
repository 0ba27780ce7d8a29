//! One verdict for HTTP, plain NATS and `oncue pub`: an odd event is refused by all of them, in the same words.

use oncue_proto::oncue::v1::{DeadLetter, Envelope, Header};
use oncue_tests::cluster::{QUICK_REDELIVERY, until};
use prost::Message as _;

use super::{Gateway, VIEWED};
use oncue_gateway::server::Guards;

const JSON: (&str, &str) = ("content-type", "application/json");
const STRUCTURED: (&str, &str) = ("content-type", "application/cloudevents+json");
const HOME: &str = r#"{"page":"/home"}"#;

/// An event that nobody takes.
struct Odd {
    name: &'static str,
    headers: Vec<(&'static str, &'static str)>,
    body: String,
    status: u16,
    /// Words that both answers hold.
    words: &'static str,
}

fn odd(
    name: &'static str,
    headers: &[(&'static str, &'static str)],
    body: impl Into<String>,
    status: u16,
    words: &'static str,
) -> Odd {
    Odd {
        name,
        headers: headers.to_vec(),
        body: body.into(),
        status,
        words,
    }
}

fn structured(members: &str) -> String {
    format!(r#"{{{members},"type":"web.page.viewed","source":"/t","data":{HOME}}}"#)
}

fn odd_events() -> Vec<Odd> {
    vec![
        odd(
            "version 2.0",
            &[JSON, ("ce-specversion", "2.0")],
            HOME,
            400,
            "is not \"1.0\"",
        ),
        odd(
            "version 0.3",
            &[JSON, ("ce-specversion", "0.3")],
            HOME,
            400,
            "is not \"1.0\"",
        ),
        odd(
            "a version that is a number",
            &[STRUCTURED],
            structured(r#""specversion":1.0,"id":"a""#),
            400,
            "attribute specversion is not a string",
        ),
        odd(
            "an old version",
            &[STRUCTURED],
            structured(r#""specversion":"0.3","id":"b""#),
            400,
            "is not \"1.0\"",
        ),
        odd(
            "a version by another name",
            &[STRUCTURED],
            structured(r#""SpecVersion":"1.0","id":"c""#),
            400,
            "specversion is missing",
        ),
        odd(
            "an id that is a number",
            &[STRUCTURED],
            structured(r#""specversion":"1.0","id":7"#),
            400,
            "attribute id is not a string",
        ),
        odd(
            "a source of two lines",
            &[JSON, ("ce-source", "/a%0D%0Ab")],
            HOME,
            400,
            "without control characters",
        ),
        odd(
            "a time that is none",
            &[JSON, ("ce-time", "yesterday")],
            HOME,
            400,
            "RFC 3339",
        ),
        odd(
            "another charset",
            &[("content-type", "application/json; charset=utf-16le")],
            HOME,
            415,
            "in UTF-8",
        ),
        odd(
            "a byte order mark",
            &[JSON],
            format!("\u{feff}{HOME}"),
            400,
            "byte order mark",
        ),
        odd("no key", &[JSON], r#"{"visitor":"v"}"#, 400, "key"),
    ]
}

#[tokio::test]
async fn every_way_in_judges_alike() {
    let config = format!("[functions.misbehave]\n{QUICK_REDELIVERY}\n");
    let gateway = Gateway::with(&config, Guards::default()).await;
    let _worker = gateway.cluster.start("misbehave").await;
    let events = odd_events();
    for odd in &events {
        let answer = gateway.send("POST", VIEWED, &odd.headers, &odd.body).await;
        assert_eq!(answer.status, odd.status, "{}", odd.name);
        let detail = answer.json()["detail"].to_string().replace("\\\"", "\"");
        assert!(detail.contains(odd.words), "{}: {detail}", odd.name);
    }
    assert_eq!(gateway.messages("web").await, 0, "nothing of it was taken");
    for odd in &events {
        let headers = odd.headers.iter().map(|(name, value)| Header {
            name: (*name).to_owned(),
            value: (*value).to_owned(),
        });
        let event = Envelope {
            subject: "web.page.viewed".into(),
            headers: headers.collect(),
            payload: odd.body.clone().into_bytes().into(),
        };
        gateway.bus.publish(&event).await.expect("taken");
    }
    let letters = until("all are set aside", async || {
        let letters = gateway.cluster.messages(&gateway.bus, "dlq").await;
        (letters.len() == events.len()).then_some(letters)
    })
    .await;
    let letters: Vec<DeadLetter> = letters
        .iter()
        .map(|message| DeadLetter::decode(&message.payload[..]).expect("a letter"))
        .collect();
    for (nth, odd) in events.iter().enumerate() {
        let letter = letters
            .iter()
            .find(|letter| letter.sequence == nth as u64 + 1);
        let letter = letter.unwrap_or_else(|| panic!("{} has no letter", odd.name));
        assert!(
            letter.message.contains(odd.words),
            "{}: {}",
            odd.name,
            letter.message
        );
    }
}

/// What no field can hold is refused, and not made the nearest that it can.
#[tokio::test]
async fn an_integer_that_no_field_can_hold_is_refused() {
    use oncue_proto::{Catalog, Format};
    let catalog = Catalog::builtin()
        .with(oncue_app_events::DESCRIPTORS)
        .expect("a contract");
    let milestone = catalog.get("web.page.milestone").expect("a type");
    let check = |views: &str| {
        let json = format!(r#"{{"page":"/m","views":{views}}}"#);
        milestone.check(Format::Json, json.as_bytes())
    };
    for fits in [
        "7",
        "10.0",
        "\"18446744073709551615\"",
        "18446744073709551615",
        "1e3",
    ] {
        assert!(check(fits).is_ok(), "{fits}: {:?}", check(fits));
    }
    for too_much in [
        "18446744073709551616",
        "\"18446744073709551616\"",
        "1e30",
        "-1",
    ] {
        assert!(check(too_much).is_err(), "{too_much}");
    }
}

#[tokio::test]
async fn an_event_older_than_the_horizon_is_refused_at_the_door() {
    let gateway = Gateway::with("[streams.web]\nhorizon = \"1h\"\n", Guards::default()).await;
    let time = oncue_proto::event::format_time(oncue_proto::event::now_ms() - 3_700_000);
    let answer = gateway
        .send("POST", VIEWED, &[JSON, ("ce-time", &time)], HOME)
        .await;
    assert!(answer.problem(400, "too-old").contains("horizon"));
    assert_eq!(gateway.messages("web").await, 0);
}

#[tokio::test]
async fn a_request_names_one_host() {
    let gateway = Gateway::start().await;
    for (hosts, status) in [
        ("", 400),
        ("host: a\r\nhost: b\r\n", 400),
        ("host: localhost\r\n", 200),
    ] {
        let request = format!("GET /healthz HTTP/1.1\r\n{hosts}connection: close\r\n\r\n");
        let answer = gateway.raw(request.as_bytes()).await.expect("an answer");
        assert_eq!(answer.status, status, "{hosts:?}");
    }
}
