//! One event, three forms; identities that any language can compute.

use bytes::Bytes;
use oncue_proto::Format;
use oncue_proto::event::{self, Incoming, MAX_ID, Meta, Origin, Unreadable};
use serde_json::json;

const ORIGIN: Origin<'static> = Origin {
    stream: "web",
    stream_created: 1_700_000_000_000,
    sequence: 42,
    published: 1_700_000_123_456,
    subject: "web.page.viewed",
};

type Headers<'a> = &'a [(&'a str, &'a str)];

fn read(headers: Headers, payload: impl Into<Bytes>) -> Result<Incoming, Unreadable> {
    event::read(headers.iter().copied(), payload.into(), &ORIGIN)
}

fn meta(headers: Headers) -> Meta {
    read(headers, "{}").expect("an event").meta
}

const BINARY: [(&str, &str); 12] = [
    ("ce-specversion", "1.0"),
    ("ce-id", "e%201"),
    ("ce-source", "/shop"),
    ("ce-type", "web.page.viewed"),
    ("ce-time", "2023-11-14T22:13:20.5Z"),
    ("ce-datacontenttype", "application/json"),
    ("ce-flowid", "root"),
    ("ce-causationid", "parent"),
    ("ce-hopcount", "3"),
    ("ce-unheardof", "stays in the envelope"),
    ("Nats-Msg-Id", "another"),
    (
        "traceparent",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    ),
];

#[test]
fn binary_structured_and_plain_messages_read_alike() {
    let page = json!({ "page": "/home" });
    let binary = read(&BINARY, page.to_string()).expect("binary mode");
    let mut structured = json!({
        "specversion": "1.0", "id": "e 1", "source": "/shop", "type": "web.page.viewed", "time": "2023-11-14T22:13:20.5Z",
        "datacontenttype": "application/json", "flowid": "root", "causationid": "parent", "hopcount": 3, "subject": null,
        "unheardof": "stays in the envelope", "data": page,
    });
    let headers = [
        (
            "content-type",
            "application/cloudevents+json; charset=utf-8",
        ),
        BINARY[11],
    ];
    let whole = read(&headers, structured.to_string()).expect("structured mode");
    assert_eq!(whole.meta, binary.meta);
    assert_eq!(
        (whole.format, &whole.payload),
        (Format::Json, &binary.payload)
    );
    assert_eq!(binary.meta.time, 1_700_000_000_500);
    assert!(binary.meta.timed);
    assert_eq!(binary.meta.traceparent.as_deref(), Some(BINARY[11].1));

    // The payload as base64 is the same payload.
    structured
        .as_object_mut()
        .expect("an object")
        .remove("data");
    structured["data_base64"] = json!("eyJwYWdlIjoiL2hvbWUifQ==");
    assert_eq!(
        read(&headers, structured.to_string())
            .expect("base64")
            .payload,
        binary.payload
    );

    // A plain message that says as little as a binary one says the same.
    let plain = read(&[("Nats-Msg-Id", "e1")], page.to_string()).expect("a plain message");
    let little = read(
        &[("ce-id", "e1"), ("ce-type", "web.page.viewed")],
        page.to_string(),
    )
    .expect("binary mode");
    assert_eq!(plain.meta, little.meta);
    assert_eq!(
        (plain.format, plain.payload),
        (little.format, little.payload)
    );
}

#[test]
fn what_contradicts_itself_is_unreadable() {
    let structured = [("Content-Type", "application/cloudevents+json")];
    let both =
        json!({ "specversion": "1.0", "id": "1", "data": {}, "data_base64": "e30=" }).to_string();
    let cases: [(Headers, &str, &str); 6] = [
        (&structured, &both, "either data or data_base64"),
        (
            &structured,
            r#"{"specversion":"1.0","id":"1","data_base64":"%"}"#,
            "data_base64",
        ),
        (&structured, "[]", "not a structured CloudEvent"),
        (&[("ce-time", "yesterday")], "{}", "not RFC 3339"),
        (&[("ce-id", "%C0%A0")], "{}", "not percent-encoded UTF-8"),
        (
            &[("content-type", "text/plain")],
            "{}",
            "neither protobuf nor JSON",
        ),
    ];
    for (headers, payload, expected) in cases {
        let why = read(headers, payload.to_owned()).expect_err(expected);
        assert_eq!(why.reason, "decode");
        assert!(
            why.message.contains(expected),
            "{} does not say {expected:?}",
            why.message
        );
    }
}

#[test]
fn a_message_says_each_thing_once() {
    for (one, other) in [
        ("ce-id", "Ce-Id"),
        ("ce-id", "ce-id"),
        ("ce-unheard-of", "CE-Unheard-Of"),
        ("Nats-Msg-Id", "nats-msg-id"),
        ("traceparent", "Traceparent"),
        ("Content-Type", "content-type"),
    ] {
        let error = read(&[(one, "1"), (other, "2")], "{}").expect_err(one);
        assert_eq!(error.reason, "decode");
        assert!(error.message.contains(one) && error.message.contains(other));
    }
    // What means nothing to us may stand there as often as it likes.
    read(&[("x", "1"), ("X", "2"), ("x", "3")], "{}").expect("an event");
    let many: Vec<String> = (0..200).map(|n| format!("ce-x{n}")).collect();
    let many: Vec<(&str, &str)> = many.iter().map(|name| (&**name, "1")).collect();
    assert!(read(&many, "{}").is_err());
}

#[test]
fn header_names_have_no_case() {
    let shouting: Vec<(String, &str)> = BINARY
        .iter()
        .map(|(name, value)| (name.to_uppercase(), *value))
        .collect();
    let shouting: Vec<(&str, &str)> = shouting
        .iter()
        .map(|(name, value)| (name.as_str(), *value))
        .collect();
    assert_eq!(meta(&shouting), meta(&BINARY));
    assert_eq!(meta(&[("NATS-MSG-ID", "m")]).id, "m");
    let format = |headers: Headers| read(headers, "").expect("an event").format;
    assert_eq!(
        format(&[("CONTENT-TYPE", "Application/JSON")]),
        Format::Json
    );
    // What the event says of its data goes before what the transport says, in whichever order they come.
    let says = [
        ("content-type", "application/json"),
        ("ce-datacontenttype", "application/protobuf"),
    ];
    assert_eq!(format(&says), Format::Protobuf);
    assert_eq!(format(&[says[1], says[0]]), Format::Protobuf);
}

#[test]
fn header_values_are_decoded_once() {
    let vectors = [
        ("plain", Some("plain")),
        ("Euro%20%E2%82%AC%20%F0%9F%98%80", Some("Euro € 😀")),
        ("%e2%82%ac", Some("€")),
        ("%41%62c", Some("Abc")),
        ("%2541", Some("%41")),
        ("100%", Some("100%")),
        ("%4", Some("%4")),
        ("%zz%20", Some("%zz ")),
        ("%+1%-1", Some("%+1%-1")),
        ("%€", Some("%€")),
        ("\"quoted%20text\"", Some("quoted text")),
        (r#""a \"word\" and a \\""#, Some(r#"a "word" and a \"#)),
        ("\"", Some("\"")),
        ("", Some("")),
        ("%C0%A0", None),
        ("%ED%A0%80", None),
        ("%FF", None),
    ];
    for (text, expected) in vectors {
        assert_eq!(event::percent_decode(text).as_deref(), expected, "{text}");
    }
    for text in [
        "/home",
        "a b",
        "€",
        "100%",
        "\"",
        "line\nbreak",
        "~!@#$^&*()",
        "\u{7f}",
        "",
    ] {
        let encoded = event::percent_encode(text);
        assert!(
            encoded.bytes().all(|b| (0x21..=0x7e).contains(&b)),
            "{encoded} is not fit for a header"
        );
        assert_eq!(event::percent_decode(&encoded).as_deref(), Some(text));
    }
    assert_eq!(
        event::percent_encode("Euro € \"%\""),
        "Euro%20%E2%82%AC%20%22%25%22"
    );
}

#[test]
fn a_message_without_headers_has_an_identity_of_its_own() {
    let plain = meta(&[]);
    assert_eq!(plain.id, "web:1700000000000:42");
    assert_eq!(
        (plain.flow.as_str(), plain.cause.as_str(), plain.hops),
        ("web:1700000000000:42", "", 0)
    );
    assert_eq!((plain.time, plain.timed), (ORIGIN.published, true));
    assert_eq!(
        (plain.ty.as_str(), plain.source.as_str()),
        ("web.page.viewed", "nats://web")
    );
    // However often it is delivered.
    assert_eq!(meta(&[]), plain);
    // A stream made anew starts again at sequence 1, which must not look like the old one.
    let anew = Origin {
        stream_created: 1_700_000_999_999,
        ..ORIGIN
    };
    let other = event::read([].into_iter(), Bytes::from("{}"), &anew)
        .expect("an event")
        .meta;
    assert_ne!(other.id, plain.id);
    assert_eq!(Meta::of_origin(&ORIGIN).id, plain.id);
    // With an id but no time, the stream's time stands in: another copy will have another.
    let untimed = meta(&[("Nats-Msg-Id", "m")]);
    assert_eq!((untimed.time, untimed.timed), (ORIGIN.published, false));
}

#[test]
fn ids_are_bounded() {
    let longest = "x".repeat(MAX_ID);
    assert_eq!(meta(&[("ce-id", &longest)]).id, longest);
    let bytes = "é".repeat(MAX_ID / 2);
    assert_eq!(meta(&[("ce-id", &bytes)]).id, bytes);
    for bad in [
        String::new(),
        "x".repeat(MAX_ID + 1),
        "é".repeat(MAX_ID / 2) + "x",
        "a\nb".into(),
        "\u{85}".into(),
    ] {
        assert!(event::check_id(bad.clone()).is_err(), "{bad:?} passed");
        assert!(
            read(&[("Nats-Msg-Id", &bad)], "{}").is_err(),
            "{bad:?} passed"
        );
    }
}

#[test]
fn what_is_only_context_never_stops_an_event() {
    let long = "x".repeat(MAX_ID + 1);
    let odd = meta(&[
        ("ce-id", "e"),
        ("ce-flowid", &long),
        ("ce-hopcount", "many"),
        ("baggage", &"b".repeat(8193)),
    ]);
    assert_eq!((odd.flow.as_str(), odd.hops, odd.baggage), ("e", 0, None));
    let members = |count: usize| vec!["a=1"; count].join(",");
    let state = |state: &str| {
        let read = read(&[("ce-id", "e"), ("tracestate", state)], "{}").expect("an event");
        (read.meta.tracestate.is_some(), read.dropped)
    };
    assert_eq!(state(&"t".repeat(8193)), (false, vec!["tracestate"]));
    assert_eq!(state(&members(33)), (false, vec!["tracestate"]));
    assert_eq!(state(&members(32)), (true, vec![]));
}

#[test]
fn what_is_written_is_read_back() {
    let full = Meta {
        id: "id with spaces, € and \"quotes\"".into(),
        source: "/count-views".into(),
        ty: "web.page.milestone".into(),
        time: 1_700_000_000_123,
        timed: true,
        flow: "the root".into(),
        cause: "the 100% parent".into(),
        hops: 63,
        traceparent: Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into()),
        tracestate: Some("vendor=1".into()),
        baggage: Some("user=anna".into()),
        redrive: None,
        tracked: false,
    };
    let bare = Meta {
        timed: false,
        time: ORIGIN.published,
        cause: String::new(),
        ..full.clone()
    };
    for (meta, key, format) in [
        (full, "/home page", Format::Protobuf),
        (bare, "", Format::Json),
    ] {
        let headers = event::headers(&meta, key, format);
        let payload = Bytes::from_static(b"\x0a\x01x");
        let pairs = headers.iter().map(|(name, value)| (*name, value.as_str()));
        let incoming = event::read(pairs, payload.clone(), &ORIGIN).expect("what we write");
        assert_eq!(
            (&incoming.meta, incoming.format, incoming.payload),
            (&meta, format, payload)
        );
        let keys: Vec<&str> = headers
            .iter()
            .filter(|(n, _)| *n == "ce-subject")
            .map(|(_, v)| v.as_str())
            .collect();
        assert_eq!(
            keys,
            if key.is_empty() {
                vec![]
            } else {
                vec!["/home%20page"]
            }
        );
    }
}

#[test]
fn times_are_rfc_3339() {
    assert_eq!(
        event::format_time(1_700_000_000_500),
        "2023-11-14T22:13:20.500Z"
    );
    for (text, ms) in [
        ("2023-11-14T22:13:20.5Z", Some(1_700_000_000_500)),
        ("2023-11-14t23:13:20+01:00", Some(1_700_000_000_000)),
        ("1970-01-01T00:00:00Z", Some(0)),
        ("1969-12-31T23:59:59Z", None),
        ("2023-11-14", None),
        ("", None),
    ] {
        assert_eq!(event::parse_time(text), ms, "{text}");
    }
}

#[test]
fn subjects_carry_the_key_as_a_token() {
    let longest = "k".repeat(64);
    for key in ["home", "A-z_0", longest.as_str()] {
        assert_eq!(
            event::subject("web.page.viewed", key),
            format!("web.page.viewed.{key}")
        );
    }
    assert_eq!(event::subject("web.page.viewed", ""), "web.page.viewed");
    // Computed with Python's hashlib, as are all values below.
    for (key, token) in [
        ("/home", "haOdXRZVAubb8AaQhFZtbw"),
        ("a b", "d09cFSMjoKnRAvbWLY-kyw"),
        ("ключ", "7trIXsAbp2eSo4VcCbIfsw"),
        (&"a".repeat(65), "1PgZiEKTwRM7KUAVSPAkRg"),
    ] {
        let subject = event::subject("web.page.viewed", key);
        assert_eq!(subject, format!("web.page.viewed.{token}"));
        assert_eq!(event::type_of_subject(&subject), "web.page.viewed");
    }
    assert_eq!(event::type_of_subject("web.page"), "web.page");
    assert_eq!(event::stream_of_type("web.page.viewed"), "web");
}

#[test]
fn partitions_are_what_zlib_says() {
    let keys = [
        ("", 0),
        ("/home", 4),
        ("/about", 190),
        ("x", 131),
        ("0192f6e0c3a17b1e9d1c4f5a6b7c8d9e", 142),
        ("ключ", 26),
    ];
    for (key, expected) in keys {
        assert_eq!(event::partition(key), expected, "{key}");
    }
    assert_eq!(event::partition(&"a".repeat(300)), 9);
}

#[test]
fn derived_ids_never_change() {
    let secret = event::IdSecret::new([7; 32]);
    for (input, function, index, id) in [
        ("e1", "count-views", 0, "L8KBTDAEVrTmrVUMPpOiMw"),
        ("e1", "count-views", 1, "CR_mAfayzJQfUG0FW4-CAw"),
        ("e1", "rank-pages", 0, "rmLgE4MWGZ9JgTYBUiYMoA"),
        (
            "web:1700000000000:42",
            "count-views",
            0,
            "xeX87vIcHg9N9dgPFRlshg",
        ),
        (
            "0192f0c1-2b3c-7def-8123-456789abcdef",
            "count-views",
            0,
            "obnjP9WMJROPf0Uq4gJmyg",
        ),
        // Where one part ends and the next begins counts.
        ("e1c", "ount-views", 0, "lXInsa3IbSM3Zd8sbkMDzg"),
        ("", "", 0, "hjP3ywp6Lk58K3roalQC5w"),
    ] {
        assert_eq!(secret.output_id(input, function, index), id);
    }
    assert_eq!(
        secret.dead_letter_id("e1", "count-views", 0),
        "gH8ZHC_i4q7i0nDwYrDoEA"
    );
    assert_eq!(
        event::idempotency_key("e1", "count-views", "charge"),
        "lS1r9legtpJEcOyRSNmiMQ"
    );
    let hex = |bytes: [u8; 16]| format!("{:032x}", u128::from_be_bytes(bytes));
    assert_eq!(
        hex(event::hash(&[b"ab", b"c"])),
        "601d5476e2ccfe2c87a2bba7a3226597"
    );
    assert_eq!(
        hex(event::hash(&[b"a", b"bc"])),
        "3fafa1cf2f19a7c1129beb20cf0983f7"
    );
    assert_eq!(hex(event::hash(&[])), "e3b0c44298fc1c149afbf4c8996fb924");
}

#[test]
fn new_ids_differ_and_are_plain() {
    let (one, other) = (event::new_id(), event::new_id());
    assert_ne!(one, other);
    assert!(
        one.len() == 32 && one.bytes().all(|b| b.is_ascii_hexdigit()),
        "{one}"
    );
}

/// nats-server lets whoever may write a schedule name any subject of the stream for it to fire to.
#[test]
fn a_delay_fires_its_own_type_and_no_other() {
    let own = "timer.delayed.shop.bill.web.page.viewed.e1";
    for (scheduler, subject, is_taken) in [
        (own, "web.page.viewed", true),
        (own, "web.page.viewed.home", true),
        (own, "web.page.left", false),
        (own, "web.redrive.shop_count", false),
        (own, "files.file.uploaded", false),
        (own, "timer.function.fired.count", false),
        (
            "timer.delayed.shop.bill.web.redrive.shop_count.e1",
            "web.redrive.shop_count",
            false,
        ),
        (
            "timer.schedule.shop.nightly",
            "timer.function.fired.count",
            true,
        ),
        // Of before the type was in it.
        ("timer.delayed.shop.bill.e1", "web.page.viewed", true),
    ] {
        let origin = Origin { subject, ..ORIGIN };
        let redrive = r#"{"number":1,"at":1,"id":"e","type":"web.page.viewed","flow":"e","time":1,"timed":true}"#;
        let redrive = event::percent_encode(redrive);
        let headers = [("Nats-Scheduler", scheduler), (event::REDRIVE, &redrive)];
        let read = event::read(headers.into_iter(), "{}".into(), &origin);
        assert_eq!(read.is_ok(), is_taken, "{scheduler} {subject}: {read:?}");
    }
    let twice = [("Nats-Scheduler", own), ("nats-scheduler", "x")];
    read(&twice, "{}").expect_err("one of them is not the server's");
}
