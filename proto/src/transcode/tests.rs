use prost::Message as _;
use prost_reflect::{DescriptorPool, DeserializeOptions, DynamicMessage, MessageDescriptor};
use serde_json::{Value, json};

use super::Transcoder;

const PROTO: &str = r#"
syntax = "proto3";
package t;
import "google/protobuf/timestamp.proto";
import "google/protobuf/duration.proto";
import "google/protobuf/wrappers.proto";

enum Colour { COLOUR_UNSPECIFIED = 0; COLOUR_RED = 1; COLOUR_ODD = -5; }

message All {
  string text = 1;
  int32 small = 2;
  int64 large = 3;
  uint32 usmall = 4;
  uint64 ularge = 5;
  double ratio = 6;
  float single = 7;
  bool flag = 8;
  bytes data = 9;
  Colour colour = 10;
  google.protobuf.Timestamp at = 11;
  google.protobuf.Duration span = 12;
  All inner = 13;
  repeated string texts = 14;
  repeated int64 larges = 15;
  repeated All inners = 16;
  repeated Colour colours = 17;
  map<string, int32> counts = 18;
  optional string note = 19;
  optional int32 maybe = 20;
  oneof choice { string left = 21; int32 right = 22; }
  google.protobuf.StringValue wrapped = 23;
  sint64 zigzag = 24;
  fixed32 fixed = 25;
  string snake_case_name = 26;
  repeated double ratios = 27 [packed = false];
  google.protobuf.Timestamp until = 300;
}
"#;

fn message() -> MessageDescriptor {
    struct One;
    impl protox::file::FileResolver for One {
        fn open_file(&self, name: &str) -> Result<protox::file::File, protox::Error> {
            if name == "t.proto" {
                return protox::file::File::from_source(name, PROTO);
            }
            protox::file::GoogleFileResolver::new().open_file(name)
        }
    }
    let mut compiler = protox::Compiler::with_file_resolver(One);
    compiler
        .include_imports(true)
        .open_file("t.proto")
        .expect("compiled");
    let set = compiler.file_descriptor_set().encode_to_vec();
    let pool = DescriptorPool::decode(&set[..]).expect("a pool");
    pool.get_message_by_name("t.All").expect("a message")
}

/// By the reader that knows everything.
fn slowly(message: &MessageDescriptor, json: &[u8]) -> Option<Vec<u8>> {
    let mut reader = serde_json::Deserializer::from_slice(json);
    let options = DeserializeOptions::new().deny_unknown_fields(false);
    let read = DynamicMessage::deserialize_with_options(message.clone(), &mut reader, &options);
    let read = read.ok()?;
    reader.end().ok()?;
    Some(read.encode_to_vec())
}

fn pick<'t>(of: &[&'t str]) -> &'t str {
    of[fastrand::usize(..of.len())]
}

const NUMBERS: &[&str] = &[
    "0",
    "-0",
    "1",
    "-1",
    "2147483647",
    "-2147483648",
    "2147483648",
    "4294967295",
    "4294967296",
    "9007199254740993",
    "9223372036854775807",
    "-9223372036854775808",
    "9223372036854775808",
    "18446744073709551615",
    "18446744073709551616",
    "1.0",
    "1.5",
    "-0.0",
    "1e3",
    "1e400",
    "0.1",
    "-7",
];
const TEXTS: &[&str] = &[
    "",
    "x",
    "ü \"q\" \\ \n",
    "漢字 🦀",
    "1",
    "-1",
    "01",
    "+1",
    " 1",
    "1.0",
    "NaN",
    "Infinity",
    "COLOUR_RED",
    "COLOUR_ODD",
    "COLOUR_NONE",
    "AAEC",
    "AAE=",
    "AAE",
    "_-8=",
    "A",
    "2026-01-31T12:00:00Z",
    "2026-01-31T12:00:00.5Z",
    "2026-01-31T12:00:00.123456789Z",
    "2026-01-31T12:00:00.1234567891Z",
    "2026-01-31T12:00:60Z",
    "2026-01-31t12:00:00z",
    "2026-01-31T12:00:00+02:00",
    "1970-01-01T00:00:00Z",
    "1969-12-31T23:59:59.25Z",
    "0001-01-01T00:00:00Z",
    "0000-06-01T00:00:00Z",
    "9999-12-31T23:59:59.999999999Z",
    "2026-02-30T00:00:00Z",
    "2026-01-31 12:00:00Z",
    "1.5s",
    "18446744073709551615",
    "-9223372036854775808",
    "9223372036854775808",
    "123456789012345678901",
];
const NAMES: &[&str] = &[
    "text",
    "small",
    "large",
    "usmall",
    "ularge",
    "ratio",
    "single",
    "flag",
    "data",
    "colour",
    "at",
    "span",
    "inner",
    "texts",
    "larges",
    "inners",
    "colours",
    "counts",
    "note",
    "maybe",
    "left",
    "right",
    "wrapped",
    "zigzag",
    "fixed",
    "snakeCaseName",
    "snake_case_name",
    "ratios",
    "until",
    "unknown",
    "",
];

/// A value that fits a field as a rule.
fn fitting(name: &str, depth: usize) -> String {
    let text = |text: &str| json!(text).to_string();
    match name {
        "text" | "note" | "left" | "snakeCaseName" | "snake_case_name" | "wrapped" => {
            text(pick(TEXTS))
        }
        "flag" => pick(&["true", "false"]).to_owned(),
        "data" => text(pick(&["", "AAEC", "AAE=", "/+8="])),
        "colour" => text(pick(&["COLOUR_RED", "COLOUR_UNSPECIFIED"])),
        "at" | "until" => text(pick(&TEXTS[20..32])),
        "inner" => object(depth + 1),
        "texts" | "larges" | "inners" | "colours" | "ratios" => {
            let of = ["text", "large", "inner", "colour", "ratio"][[
                "texts", "larges", "inners", "colours", "ratios",
            ]
            .iter()
            .position(|list| *list == name)
            .unwrap_or(0)];
            let elements: Vec<String> = (0..fastrand::usize(..4))
                .map(|_| fitting(of, depth + 1))
                .collect();
            format!("[{}]", elements.join(","))
        }
        "counts" => format!("{{\"a\":{}}}", pick(NUMBERS)),
        _ => {
            let number = pick(NUMBERS);
            if fastrand::u8(..3) == 0 {
                format!("\"{number}\"")
            } else {
                number.to_owned()
            }
        }
    }
}

fn object(depth: usize) -> String {
    let most = if depth > 2 { 1 } else { 5 };
    let members: Vec<String> = (0..fastrand::usize(..=most))
        .map(|_| {
            let name = pick(NAMES);
            let value = match fastrand::u8(..12) {
                0 => "null".to_owned(),
                1 => json!(pick(TEXTS)).to_string(),
                2 => pick(NUMBERS).to_owned(),
                3 => "{}".to_owned(),
                4 => "[null]".to_owned(),
                _ => fitting(name, depth),
            };
            format!("{}:{value}", json!(name))
        })
        .collect();
    format!("{{{}}}", members.join(","))
}

#[test]
fn what_it_reads_is_what_the_other_reader_reads() {
    let message = message();
    let transcoder = Transcoder::of(&message);
    let mut read = 0;
    for seed in 0..200_000 {
        fastrand::seed(seed);
        let json = object(0);
        let Some(bytes) = transcoder.read(json.as_bytes()) else {
            continue;
        };
        read += 1;
        assert_eq!(Some(bytes), slowly(&message, json.as_bytes()), "{json}");
    }
    assert!(read > 40_000, "only {read} were read");
}

#[test]
fn what_clients_write_needs_no_other_reader() {
    let transcoder = Transcoder::of(&message());
    for json in [
        r#"{"text":"/p","at":"2026-01-31T12:00:00.123Z","note":""}"#,
        r#" { "inner" : { "larges" : [1, "2", -3], "inners": [{}, {"flag": true}] }, "colour": "COLOUR_RED" } "#,
        r#"{"until":"2026-01-31T12:00:00Z","text":"behind","unknown":{"deep":[1,2,{}]},"data":"AAE=","ratio":3}"#,
        "{}",
    ] {
        assert!(transcoder.read(json.as_bytes()).is_some(), "{json}");
    }
}

/// What is wrong is for the reader that has words for it.
#[test]
fn mistakes_are_left_to_the_other_reader() {
    let transcoder = Transcoder::of(&message());
    for json in [
        "",
        "[]",
        "{",
        "{} x",
        r#"{"text":1}"#,
        r#"{"text":"a","text":"b"}"#,
        r#"{"small":2147483648}"#,
        "nul",
    ] {
        assert_eq!(transcoder.read(json.as_bytes()), None, "{json}");
    }
    let wrong: Value = json!({ "flag": "true" });
    assert_eq!(transcoder.read(wrong.to_string().as_bytes()), None);
    assert_eq!(transcoder.read(b"{\"text\":\"\xff\"}"), None);
}
