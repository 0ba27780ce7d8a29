//! Fields read from text: every kind there is, and what is none of it.

use std::fs;
use std::path::Path;

use oncue_proto::{Catalog, Entry, Format};
use serde_json::{Value, json};

const ORDER: &str = r#"
syntax = "proto3";
package shop;
import "google/protobuf/duration.proto";
import "google/protobuf/timestamp.proto";
import "google/protobuf/wrappers.proto";
import "oncue/v1/event.proto";
enum Size { SMALL = 0; LARGE = 1; }
message Money { int64 cents = 1; }
message OrderPlaced {
  option (oncue.v1.event) = { type: "shop.order.placed", key: "order" };
  string order = 1;
  bool gift = 2;
  int32 change = 3;
  sint64 balance = 4;
  uint32 pieces = 5;
  fixed64 serial_number = 6;
  float weight = 7;
  double price = 8;
  Size size = 9;
  bytes seal = 10;
  google.protobuf.Timestamp at = 11;
  google.protobuf.Duration within = 12;
  google.protobuf.Int32Value floor = 13;
  google.protobuf.StringValue note = 14;
  repeated uint32 parts = 15;
  Money total = 16;
  map<string, string> labels = 17;
  map<string, int64> stock = 18;
  google.protobuf.Int64Value credit = 19;
}
"#;

fn order() -> Entry {
    let name = format!(
        "oncue-field-{}-{:?}",
        std::process::id(),
        std::thread::current().id()
    );
    let folder = std::env::temp_dir().join(name);
    fs::create_dir_all(&folder).expect("a folder");
    fs::write(folder.join("shop.proto"), ORDER).expect("written");
    let includes = [folder.as_path(), Path::new(env!("CARGO_MANIFEST_DIR"))];
    let mut compiler = protox::Compiler::new(includes).expect("a compiler");
    compiler.include_imports(true);
    compiler.open_file("shop.proto").expect("compiled");
    let set = compiler.encode_file_descriptor_set();
    fs::remove_dir_all(&folder).expect("removed");
    let catalog = Catalog::default().with(&set).expect("a descriptor set");
    catalog.get("shop.order.placed").expect("an event").clone()
}

#[test]
fn a_text_is_read_as_the_contract_has_it() {
    let order = order();
    for (name, text, value) in [
        ("order", "007", json!("007")),
        ("gift", "true", json!(true)),
        ("change", "-2147483648", json!(i32::MIN)),
        ("balance", "-9223372036854775808", json!(i64::MIN)),
        ("pieces", "4294967295", json!(u32::MAX)),
        ("serialNumber", "18446744073709551615", json!(u64::MAX)),
        ("serial_number", "0", json!(0)),
        ("weight", "1.5", json!(1.5)),
        ("price", "-1e3", json!(-1000.0)),
        ("size", "LARGE", json!("LARGE")),
        ("seal", "AAEC", json!("AAEC")),
        (
            "at",
            "2026-01-02T03:04:05.678+01:00",
            json!("2026-01-02T03:04:05.678+01:00"),
        ),
        ("within", "1.5s", json!("1.5s")),
        ("floor", "-1", json!(-1)),
        ("note", "a b", json!("a b")),
        ("parts", "3", json!(3)),
    ] {
        let field = order.text_field(name).expect(name);
        assert_eq!(field.read(text), Ok(value.clone()), "{name}");
        // As an event it is read by everybody else as well.
        let value = if field.is_list() {
            json!([value])
        } else {
            value
        };
        let mut event = serde_json::Map::new();
        event.insert(field.name().to_owned(), value);
        let payload = Value::Object(event).to_string();
        let read = order.to_protobuf(Format::Json, payload.as_bytes());
        assert!(read.is_ok(), "{payload}: {read:?}");
    }
}

#[test]
fn an_integer_that_no_field_can_hold_is_refused_wherever_it_stands() {
    let order = order();
    for (integer, fits) in [
        ("9223372036854775807", true),
        ("9007199254740991.0", true),
        ("9223372036854775808.0", false),
        ("-9223372036854775809", false),
        ("9007199254740993.0", false),
        ("1e30", false),
    ] {
        for field in [
            format!(r#""balance":{integer}"#),
            format!(r#""stock":{{"a":1,"b":{integer}}}"#),
            format!(r#""credit":{integer}"#),
            format!(r#""total":{{"cents":{integer}}}"#),
        ] {
            let payload = format!(r#"{{"order":"1",{field}}}"#);
            let read = order.to_protobuf(Format::Json, payload.as_bytes());
            assert_eq!(read.is_ok(), fits, "{payload}: {read:?}");
        }
    }
}

#[test]
fn another_text_is_refused_with_what_it_should_be() {
    let order = order();
    for (name, text, wanted) in [
        ("gift", "yes", "neither true nor false"),
        ("gift", "TRUE", "neither true nor false"),
        (
            "change",
            "2147483648",
            "no whole number from -2147483648 to 2147483647",
        ),
        ("change", "1.0", "no whole number"),
        ("pieces", "-1", "no whole number from 0 to 4294967295"),
        (
            "serial_number",
            "18446744073709551616",
            "no whole number from 0",
        ),
        ("balance", "", "no whole number"),
        ("weight", "NaN", "no number"),
        ("price", "inf", "no number"),
        ("size", "HUGE", "none of SMALL, LARGE"),
        ("size", "1", "none of SMALL, LARGE"),
        ("seal", "%%", "no base64"),
        ("at", "2026-01-02", "no time like"),
        ("within", "1.5", "no duration like"),
        ("within", "infs", "no duration like"),
    ] {
        let refused = order.text_field(name).expect(name).read(text);
        let why = refused.expect_err(text);
        assert!(
            why.contains(&format!("is {text:?}")) && why.contains(wanted),
            "{why}"
        );
    }
    for name in ["total", "labels"] {
        let why = order.text_field(name).expect_err(name);
        assert!(why.contains("take it from the body"), "{why}");
    }
    let why = order.text_field("colour").expect_err("no field");
    assert!(
        why.contains("has no field \"colour\"; it has order, gift"),
        "{why}"
    );
}

/// In every place, and with the names that there are; clients of the gateway may be newer than the contract, people are not.
#[test]
fn a_slip_of_the_hand_is_found() {
    let order = order();
    for (text, why) in [
        (
            r#"{"order":"7","sise":"LARGE"}"#,
            "shop.OrderPlaced has no field \"sise\"; it has order, gift",
        ),
        (
            r#"{"order":"7","SerialNumber":1}"#,
            "no field \"SerialNumber\"",
        ),
        (
            r#"{"order":"7","size":"LARG"}"#,
            "shop.Size has no value \"LARG\"; it has SMALL, LARGE",
        ),
        (
            r#"{"order":"7","total":{"cent":1}}"#,
            "shop.Money has no field \"cent\"; it has cents",
        ),
    ] {
        let said = order.read_by_hand(text).expect_err(text);
        assert!(said.contains(why), "{said}");
        assert_eq!(
            order.check(Format::Json, text.as_bytes()),
            Ok("7".to_owned())
        );
    }
    let whole = r#"{"order":"7","serialNumber":1,"serial_number":null,"size":1,"at":"2026-01-02T03:04:05Z","within":"1s",
        "note":"x","total":{"cents":"1"},"labels":{"any":"thing"},"stock":{"x":1},"parts":[1,2]}"#;
    let whole = whole.replace("\"serial_number\":null,", "");
    order.read_by_hand(&whole).expect("it is right");
}
