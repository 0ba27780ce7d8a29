//! A contract outside `oncue-proto`, made by three lines of build.rs as in any other repository.

use oncue::{Context, Function, Result};
use oncue_proto::files::FileUploaded;
use oncue_proto::{Catalog, Emit as _, Event, Format, Trigger as _, decode};
use shop::v1::{Money, OrderPlaced, ShopOpened};

include!(concat!(env!("OUT_DIR"), "/events.rs"));

fn order() -> OrderPlaced {
    let at = pbjson_types::Timestamp {
        seconds: 1_700_000_000,
        nanos: 0,
    };
    OrderPlaced {
        r#type: "book".into(),
        total: Some(Money { cents: -5 }),
        at: Some(at),
        big_number: 1 << 60,
    }
}

#[test]
fn messages_are_events() {
    assert_eq!(
        (OrderPlaced::TYPE, OrderPlaced::SCHEMA),
        ("shop.order.placed", "shop.v1.OrderPlaced")
    );
    assert_eq!(Event::key(&order()), "book");
    assert_eq!(
        (ShopOpened::TYPE, Event::key(&ShopOpened {})),
        ("shop.door.opened", "")
    );
    let mut drafts = Vec::new();
    order().emit(&mut drafts);
    let read = OrderPlaced::decode("shop.order.placed", Format::Protobuf, &drafts[0].payload);
    assert_eq!(read.expect("protobuf"), order());
    assert!(
        OrderPlaced::decode("shop.order.placed", Format::Json, b"{}").is_err(),
        "its key is empty"
    );
    assert!(ShopOpened::decode("shop.door.opened", Format::Json, b"{}").is_ok());
}

#[test]
fn their_json_is_canonical() {
    let json = serde_json::to_value(order()).expect("JSON");
    let expected = serde_json::json!({
        "type": "book", "total": { "cents": "-5" }, "at": "2023-11-14T22:13:20+00:00", "bigNumber": "1152921504606846976",
    });
    assert_eq!(json, expected);
    let with = br#"{"type":"book","total":{"cents":-5,"currency":"EUR"},"at":"2023-11-14T22:13:20Z","big_number":"1152921504606846976"}"#;
    assert_eq!(
        decode::<OrderPlaced>(Format::Json, with).expect("JSON"),
        order()
    );
}

/// The gateway reads JSON by descriptor and accepts every spelling of proto3 JSON; a function must read what it accepted.
#[test]
fn their_json_is_read_as_the_gateway_reads_it() {
    let catalog = Catalog::builtin().with(DESCRIPTORS).expect("a contract");
    let entry = catalog.get(OrderPlaced::TYPE).expect("an entry");
    for json in [
        r#"{"type":"book","bigNumber":10.0,"total":{"cents":"-5"}}"#,
        r#"{"type":"book","big_number":1e1,"total":{"cents":-5.0}}"#,
        r#"{"type":"book","bigNumber":"10","total":{"cents":-5},"at":null}"#,
    ] {
        assert_eq!(
            entry.check(Format::Json, json.as_bytes()),
            Ok("book".into())
        );
        let expected = OrderPlaced {
            big_number: 10,
            at: None,
            ..order()
        };
        let read = decode::<OrderPlaced>(Format::Json, json.as_bytes());
        assert_eq!(read.expect(json), expected, "{json}");
    }
    for null in [
        r#"{"type":"book","bigNumber":null,"total":{"cents":null}}"#,
        r#"{"type":"book","total":{}}"#,
    ] {
        let read = decode::<OrderPlaced>(Format::Json, null.as_bytes()).expect(null);
        assert_eq!(read.total, Some(Money { cents: 0 }), "{null}");
    }
    let half = br#"{"type":"book","bigNumber":10.5}"#;
    assert!(entry.check(Format::Json, half).is_err());
    assert!(decode::<OrderPlaced>(Format::Json, half).is_err());
}

#[test]
fn a_function_brings_its_contract_along() {
    let printed = Function::new("ship", ship).contract();
    let catalog = Catalog::default().with(&printed).expect("a contract");
    let types = catalog.entries().map(|entry| entry.ty.as_str());
    // The contract of the guide is of the same crate.
    let types: Vec<&str> = types.filter(|ty| ty.starts_with("shop.")).collect();
    assert_eq!(
        types,
        [
            "shop.customer.moved",
            "shop.door.opened",
            "shop.order.placed"
        ]
    );
    // With events of two crates, each file is there once: both bring the option along.
    let both = oncue_proto::merge([
        OrderPlaced::contract(),
        oncue_app_events::web::PageViewed::contract(),
        FileUploaded::contract(),
        OrderPlaced::contract(),
    ]);
    let catalog = Catalog::default().with(&both).expect("two contracts");
    assert!(catalog.get("shop.order.placed").is_ok() && catalog.get("web.page.viewed").is_ok());
    assert!(
        catalog.get("files.file.uploaded").is_err(),
        "the platform's own"
    );
}

#[test]
fn the_catalog_takes_their_descriptors() {
    let mut catalog = Catalog::builtin();
    catalog.add(DESCRIPTORS).expect("descriptors");
    let entry = catalog.get("shop.order.placed").expect("an entry");
    assert_eq!(
        entry.check(Format::Json, br#"{"type":"book"}"#),
        Ok("book".into())
    );
    assert_eq!(
        catalog
            .get("files.file.uploaded")
            .map(|entry| entry.schema().to_owned()),
        Ok("files.FileUploaded".into())
    );
}

async fn ship(_: OrderPlaced, _: &mut (), _: &Context) -> Result<Option<ShopOpened>> {
    Ok(None)
}

#[test]
fn functions_act_on_them() {
    let made = Function::new("ship", ship).manifest().expect("a manifest");
    assert_eq!(
        (made.stream.as_str(), made.emits.as_slice()),
        ("shop", &["shop.door.opened".to_owned()][..])
    );
}

fn moved() -> serde_json::Value {
    serde_json::json!({
        "customer": "c-1", "email": "ann@example.org",
        "from": { "city": "Bonn", "streetName": "Old Lane" },
        "stays": [{ "city": "Kiel", "streetName": "Quay" }, { "city": "Ulm", "streetName": "" }],
        "named": { "work": { "city": "Mainz", "streetName": "Mill Road" } },
        "phones": ["1", "2"],
    })
}

#[test]
fn a_view_hides_what_is_sensitive_however_deep() {
    let catalog = Catalog::default().with(DESCRIPTORS).expect("a contract");
    let entry = catalog.get("shop.customer.moved").expect("known");
    assert!(entry.is_sensitive());
    assert!(!catalog.get("shop.order.placed").unwrap().is_sensitive());
    let payload = moved().to_string();
    let shown = entry.to_view(Format::Json, payload.as_bytes()).unwrap();
    let hidden = oncue_proto::HIDDEN;
    let expected = serde_json::json!({
        "customer": "c-1", "email": hidden,
        "from": { "city": "Bonn", "streetName": hidden },
        // Nothing is there to be hidden.
        "stays": [{ "city": "Kiel", "streetName": hidden }, { "city": "Ulm", "streetName": "" }],
        "named": { "work": { "city": "Mainz", "streetName": hidden } },
        "phones": hidden,
    });
    assert_eq!(shown, expected);
    let why = entry.to_view(Format::Json, br#"{"customer":"c","email":{"ann":1}}"#);
    let why = why.unwrap_err().to_string();
    assert!(!why.contains("ann") && why.contains("sensitive"), "{why}");

    // Edited, and with what was hidden as it was.
    let mut edited = shown;
    edited["from"]["city"] = "Trier".into();
    edited["stays"][0]["streetName"] = "Harbour".into();
    entry.reveal(&mut edited, &moved()).expect("all of it");
    let mut expected = moved();
    expected["from"]["city"] = "Trier".into();
    expected["stays"][0]["streetName"] = "Harbour".into();
    assert_eq!(edited, expected);
    let mut more = expected;
    more["stays"] = serde_json::json!([{}, {}, { "street_name": hidden }]);
    let why = entry.reveal(&mut more, &moved()).unwrap_err().to_string();
    assert!(why.contains("stays.2.street_name"), "{why}");
    // One is taken out: nobody can tell whose street is whose.
    let mut fewer = moved();
    fewer["stays"] = serde_json::json!([{ "city": "Ulm", "streetName": hidden }]);
    assert!(entry.reveal(&mut fewer, &moved()).is_err());
}

#[test]
fn a_refusal_never_quotes_what_is_sensitive() {
    let payload = br#"{"customer":"c","email":["ann"]}"#;
    let refused = decode::<shop::v1::CustomerMoved>(Format::Json, payload);
    let why = refused.unwrap_err().to_string();
    assert!(
        why.contains("line 1, column") && !why.contains("ann"),
        "{why}"
    );
    let refused = decode::<OrderPlaced>(Format::Json, br#"{"type":7}"#);
    let why = refused.unwrap_err().to_string();
    assert!(why.contains('7'), "of others it says why: {why}");
}
