//! The contract as clients in other languages see it: media types, canonical JSON, and the catalog's words.

use std::time::Duration;

use oncue_app_events::files::{FileAccepted, FileRejected};
use oncue_app_events::web::{PageMilestone, PageViewed, Trend, TrendsPublished};
use oncue_proto::files::FileUploaded;
use oncue_proto::oncue::v1::{Envelope, Header, TimerFired};
use oncue_proto::{
    Catalog, CatalogError, Delayed, Draft, Emit, Event as _, Format, Trigger, decode,
};
use pbjson_types::Timestamp;
use prost::Message;
use serde_json::{Value, json};

/// The platform's types and the app's.
fn app() -> Catalog {
    Catalog::builtin()
        .with(oncue_app_events::DESCRIPTORS)
        .expect("a contract")
}

fn view() -> PageViewed {
    let at = Some(Timestamp {
        seconds: 1_700_000_000,
        nanos: 500_000_000,
    });
    PageViewed {
        page: "/home".into(),
        visitor: "v1".into(),
        referrer: String::new(),
        at,
    }
}

#[test]
fn media_types_name_a_format() {
    for (media_type, format) in [
        ("application/json", Some(Format::Json)),
        ("Application/JSON; charset=utf-8", Some(Format::Json)),
        ("text/json", Some(Format::Json)),
        (" application/problem+json ", Some(Format::Json)),
        ("application/protobuf", Some(Format::Protobuf)),
        (
            "application/x-protobuf;messageType=web.PageViewed",
            Some(Format::Protobuf),
        ),
        ("application/vnd.google.protobuf", Some(Format::Protobuf)),
        ("text/plain", None),
        ("image/svg+json", None),
        ("application/jsonp", None),
        ("", None),
    ] {
        assert_eq!(Format::of_media_type(media_type), format, "{media_type}");
    }
    for format in [Format::Json, Format::Protobuf] {
        assert_eq!(Format::of_media_type(format.media_type()), Some(format));
    }
}

#[test]
fn a_payload_that_does_not_say_is_looked_at() {
    for json in ["{}", "{not quite", " \n\t{\"page\":1}\n"] {
        assert_eq!(Format::sniff(json.as_bytes()), Format::Json);
    }
    // A newline is also the tag of the first field, and `{` its length.
    let page = |page: String| {
        PageViewed {
            page,
            ..PageViewed::default()
        }
        .encode_to_vec()
    };
    let odd = [
        page("p".repeat(123)),
        page("{}".repeat(5)),
        page("{".into()),
    ];
    assert!(
        odd.iter()
            .all(|message| message.trim_ascii_start().starts_with(b"{") || message[2] == b'{')
    );
    for message in odd.into_iter().chain([
        Vec::new(),
        view().encode_to_vec(),
        b"[]".to_vec(),
        b"\n".to_vec(),
    ]) {
        assert_eq!(Format::sniff(&message), Format::Protobuf, "{message:?}");
    }
}

#[test]
fn json_is_the_canonical_mapping() {
    let upload = FileUploaded {
        file: "f".into(),
        size: u64::MAX,
        at: view().at,
        ..FileUploaded::default()
    };
    let json = serde_json::to_value(&upload).expect("JSON");
    assert_eq!(
        json,
        json!({ "file": "f", "size": "18446744073709551615", "at": "2023-11-14T22:13:20.500+00:00" })
    );
    assert_eq!(
        decode::<FileUploaded>(Format::Json, json.to_string().as_bytes()).expect("JSON"),
        upload
    );
    let accepted = FileAccepted {
        media_type: "image/png".into(),
        ..FileAccepted::default()
    };
    assert_eq!(
        serde_json::to_value(&accepted).expect("JSON"),
        json!({ "mediaType": "image/png" })
    );
    let envelope = Envelope {
        subject: "s".into(),
        headers: vec![Header {
            name: "n".into(),
            value: "v".into(),
        }],
        payload: vec![0xfb, 0xff].into(),
    };
    let json = serde_json::to_value(&envelope).expect("JSON");
    assert_eq!(
        json,
        json!({ "subject": "s", "headers": [{ "name": "n", "value": "v" }], "payload": "+/8=" })
    );
}

/// Both ways of reading JSON must agree: the generated types' and the catalog's.
fn read(payload: &Value) -> Result<FileUploaded, String> {
    let payload = payload.to_string();
    let typed = decode::<FileUploaded>(Format::Json, payload.as_bytes()).map_err(|e| e.to_string());
    let catalog = app();
    let entry = catalog.get(FileUploaded::TYPE).expect("an entry");
    let dynamic = entry.to_protobuf(Format::Json, payload.as_bytes());
    match (&typed, dynamic) {
        (Ok(typed), Ok(dynamic)) => {
            assert_eq!(
                <FileUploaded as Message>::decode(dynamic.as_slice()).as_ref(),
                Ok(typed),
                "{payload}"
            );
        }
        (Err(_), Err(_)) => {}
        (typed, dynamic) => panic!("{payload}: typed {typed:?}, dynamic {dynamic:?}"),
    }
    typed
}

#[test]
fn json_is_read_as_clients_write_it() {
    let big = FileUploaded {
        size: (1 << 53) + 1,
        ..FileUploaded::default()
    };
    for size in [json!("9007199254740993"), json!(9_007_199_254_740_993_u64)] {
        assert_eq!(read(&json!({ "size": size })), Ok(big.clone()));
    }
    let whole = FileUploaded {
        at: Some(Timestamp {
            seconds: 1_700_000_000,
            nanos: 0,
        }),
        ..FileUploaded::default()
    };
    for at in [
        "2023-11-14T22:13:20Z",
        "2023-11-14T23:13:20+01:00",
        "2023-11-14T22:13:20.000000000Z",
    ] {
        assert_eq!(read(&json!({ "at": at })), Ok(whole.clone()), "{at}");
    }
    assert_eq!(
        read(&json!({ "file": null, "at": null })),
        Ok(FileUploaded::default())
    );
    // Null for a field inside, and never one more chance for what is wrong otherwise.
    let trends = decode::<TrendsPublished>(
        Format::Json,
        br#"{"trends":[{"page":"/home","views":null}]}"#,
    );
    assert_eq!(
        trends.expect("JSON").trends,
        [Trend {
            page: "/home".into(),
            views: 0
        }]
    );
    assert!(read(&json!({ "file": null, "size": "many" })).is_err());
    assert_eq!(
        read(&json!({ "newer": { "deep": [1] }, "file": "f" })).map(|read| read.file),
        Ok("f".into())
    );
    for bad in [
        json!({ "size": -1 }),
        json!({ "size": 1.5 }),
        json!({ "size": "many" }),
        json!({ "file": 1 }),
        json!({ "at": "noon" }),
        json!([]),
    ] {
        assert!(read(&bad).is_err(), "{bad}");
    }
    for spelling in ["media_type", "mediaType"] {
        let json = json!({ spelling: "image/png" }).to_string();
        assert_eq!(
            decode::<FileAccepted>(Format::Json, json.as_bytes())
                .expect(spelling)
                .media_type,
            "image/png"
        );
    }
}

#[test]
fn protobuf_of_a_newer_producer_is_read() {
    let mut newer = view().encode_to_vec();
    newer.extend([0xfa, 0x01, 0x03, b'n', b'e', b'w']); // field 31, three bytes
    assert_eq!(
        decode::<PageViewed>(Format::Protobuf, &newer).expect("a message"),
        view()
    );
    let broken = decode::<PageViewed>(Format::Protobuf, b"\xff")
        .expect_err("no message")
        .to_string();
    assert!(
        broken.starts_with("web.PageViewed is not readable as protobuf: "),
        "{broken}"
    );
    let broken = decode::<PageViewed>(Format::Json, b"{")
        .expect_err("no JSON")
        .to_string();
    assert!(
        broken.starts_with("web.PageViewed is not readable as JSON: "),
        "{broken}"
    );
}

#[test]
fn the_catalog_knows_what_it_does_not_know() {
    let catalog = app();
    let near = |ty: &str| match catalog.get(ty) {
        Err(CatalogError::UnknownType { near, .. }) => near,
        other => panic!("{ty}: {other:?}"),
    };
    assert_eq!(
        near("web.page.seen"),
        [
            "web.page.milestone",
            "web.page.viewed",
            "web.trends.published"
        ]
    );
    let all = near("wep.page.viewed");
    assert!(
        all.contains(&"files.file.uploaded".to_owned()) && all.len() > 5,
        "{all:?}"
    );
    assert!(
        !all.iter()
            .any(|ty| ty.starts_with("dlq.") || ty.starts_with("timer.")),
        "{all:?}"
    );
    let words = catalog
        .get("web.page.seen")
        .expect_err("unknown")
        .to_string();
    assert!(
        words.starts_with("unknown event type \"web.page.seen\"; known: web.page.milestone"),
        "{words}"
    );
    assert_eq!(
        Catalog::default().get("x").expect_err("empty").to_string(),
        "unknown event type \"x\""
    );
    assert!(matches!(
        Catalog::default().add(b"\xff"),
        Err(CatalogError::Malformed(_))
    ));
}

#[test]
fn the_catalog_checks_and_translates() {
    let catalog = app();
    let entry = catalog.get(PageViewed::TYPE).expect("an entry");
    assert_eq!(
        (entry.schema(), entry.key_field.as_str()),
        ("web.PageViewed", "page")
    );
    assert_eq!(
        entry.field_names().collect::<Vec<_>>(),
        ["page", "visitor", "referrer", "at"]
    );
    assert_eq!(
        entry.check(Format::Protobuf, &view().encode_to_vec()),
        Ok("/home".into())
    );
    for empty in ["{}", "{\"page\":\"\"}"] {
        let why = entry
            .check(Format::Json, empty.as_bytes())
            .expect_err("an empty key");
        assert_eq!(why, CatalogError::EmptyKey("page".into()));
        assert!(why.to_string().contains("\"page\" is the key"), "{why}");
    }
    for bad in [
        "{\"page\":1}",
        "{\"page\":\"/\"} and more",
        "",
        "null",
        "[]",
    ] {
        let why = entry
            .check(Format::Json, bad.as_bytes())
            .expect_err(bad)
            .to_string();
        assert!(why.starts_with("not a web.PageViewed: "), "{why}");
    }
    let json = entry
        .to_json(Format::Protobuf, &view().encode_to_vec())
        .expect("JSON");
    let shown = json!({ "page": "/home", "visitor": "v1", "referrer": "", "at": "2023-11-14T22:13:20.500Z" });
    assert_eq!(json, shown);
    let back = entry
        .to_protobuf(Format::Json, json.to_string().as_bytes())
        .expect("protobuf");
    assert_eq!(<PageViewed as Message>::decode(back.as_slice()), Ok(view()));
    // A type without a key field has the empty key, whatever it holds.
    assert_eq!(
        catalog
            .get(TrendsPublished::TYPE)
            .and_then(|entry| entry.check(Format::Json, b"{}")),
        Ok(String::new())
    );
}

oncue_proto::events! {
    enum Verdict { Accepted(FileAccepted), Rejected(FileRejected) }
}

#[test]
fn a_trigger_takes_its_own_types_only() {
    let payload = FileRejected {
        file: "f".into(),
        ..FileRejected::default()
    }
    .encode_to_vec();
    let verdict =
        Verdict::decode(FileRejected::TYPE, Format::Protobuf, &payload).expect("one of the two");
    assert!(
        matches!(&verdict, Verdict::Rejected(rejected) if rejected.file == "f"),
        "{verdict:?}"
    );
    assert_eq!(Trigger::key(&verdict), "f");
    let other =
        Verdict::decode(FileUploaded::TYPE, Format::Protobuf, &payload).expect_err("neither");
    assert!(other.to_string().contains("files.file.accepted"), "{other}");
    let other = <PageViewed as Trigger>::decode(PageMilestone::TYPE, Format::Protobuf, b"")
        .expect_err("another");
    assert_eq!(
        other.to_string(),
        "expected web.page.viewed, got web.page.milestone"
    );
    let keyless =
        <PageViewed as Trigger>::decode(PageViewed::TYPE, Format::Json, b"{}").expect_err("no key");
    assert!(keyless.to_string().contains("empty key"), "{keyless}");
    <() as Trigger>::decode(TimerFired::TYPE, Format::Json, br#"{"function":"f"}"#).expect("time");
}

fn drafts(emit: impl Emit) -> Vec<Draft> {
    let mut drafts = Vec::new();
    emit.emit(&mut drafts);
    drafts
}

#[test]
fn what_is_returned_becomes_drafts_in_order() {
    let milestone = |views| PageMilestone {
        page: "/home".into(),
        views,
    };
    let trends = TrendsPublished {
        trends: vec![Trend {
            page: "/home".into(),
            views: 1,
        }],
    };
    let all = (
        Some(milestone(1)),
        None::<PageViewed>,
        vec![milestone(2), milestone(3)],
        trends.clone(),
    );
    let made: Vec<(&str, String)> = drafts(all)
        .into_iter()
        .map(|draft| (draft.ty, draft.key))
        .collect();
    let expected = [("web.page.milestone", "/home"); 3]
        .into_iter()
        .chain([("web.trends.published", "")]);
    assert_eq!(
        made,
        expected
            .map(|(ty, key)| (ty, key.to_owned()))
            .collect::<Vec<_>>()
    );
    assert!(drafts(()).is_empty());
    // Waits add up, and reach everything inside.
    let (hour, minute) = (Duration::from_hours(1), Duration::from_mins(1));
    let later = Delayed {
        event: vec![Delayed {
            event: milestone(1),
            after: hour,
        }],
        after: minute,
    };
    assert_eq!(drafts(later)[0].delay, Some(hour + minute));
    let verdict: Verdict = FileAccepted {
        file: "f".into(),
        ..FileAccepted::default()
    }
    .into();
    assert_eq!(
        (drafts(verdict)[0].ty, <Verdict as Emit>::types().len()),
        ("files.file.accepted", 2)
    );
}

#[test]
fn a_key_is_read_without_the_rest_of_its_event() {
    let catalog = app();
    let entry = catalog.get("web.page.viewed").expect("known");
    let payload = view().encode_to_vec();
    let own = entry.key_reader(None).expect("a key");
    assert_eq!(own.read(&payload).as_deref(), Ok("/home"));
    let other = entry.key_reader(Some("visitor")).expect("a text field");
    assert_eq!(other.read(&payload).as_deref(), Ok("v1"));
    // Of a field that stands there twice the last one counts, as for every reader of protobuf.
    let twice = [payload.clone(), b"\x0a\x02/b".to_vec()].concat();
    assert_eq!(own.read(&twice).as_deref(), Ok("/b"));
    assert_eq!(entry.check(Format::Protobuf, &twice).as_deref(), Ok("/b"));
    let empty = PageViewed::default().encode_to_vec();
    assert_eq!(
        own.read(&empty),
        Err(CatalogError::EmptyKey("page".to_owned()))
    );
    for torn in [&payload[..3], b"\xff", b"\x0a\xff\xff\xff\xff\x0f"] {
        let refused = own.read(torn);
        assert!(
            matches!(refused, Err(CatalogError::Malformed(_))),
            "{torn:?}"
        );
    }
    for field in ["at", "nowhere"] {
        let why = entry.key_reader(Some(field)).expect_err("no text");
        assert!(why.contains(field) && why.contains("visitor"), "{why}");
    }
}
