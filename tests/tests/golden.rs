//! Ids, partitions and names that every language must compute alike, since they are kept in streams and in Redis: a
//! change here makes old events new. `GOLDEN_WRITE=1` writes the file anew, for values that are added.

use std::path::{Path, PathBuf};
use std::process::Command;

use oncue_core::store::{Keys, Mark};
use oncue_proto::event::{
    IdSecret, idempotency_key, partition, percent_decode, percent_encode, read, subject,
};
use oncue_tests::skip::skip;
use serde_json::{Value, json};

const KEYS: [&str; 12] = [
    "",
    "a",
    "/home",
    "order-17",
    "Zoë",
    "a b",
    "100%",
    "\"quoted\"",
    "日本語/ページ",
    "{p1}:x",
    "line\nbreak",
    "sixty-four-characters-fit-into-a-token-and-one-more-does-not-0064",
];
const IDS: [&str; 7] = [
    "019DC0FE-8694-739b-96ae-a92966c54f8d",
    "0190163d8694739bb6aea92966c54f8d",
    "a",
    "web:1700000000000:1",
    "order 1",
    "é",
    "SM6lK8lU1yU1WZt3VYqjLA",
];
const FUNCTIONS: [&str; 2] = ["count-views", "rank-pages"];

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden")
}

fn long(key: &str) -> String {
    key.repeat(300)
}

fn keys() -> Vec<String> {
    KEYS.iter()
        .map(|key| (*key).to_owned())
        .chain([long("k"), long("ü"), "x".repeat(64), "x".repeat(65)])
        .collect()
}

/// Where the runs of an event are counted, `{pN}:r:FUNCTION:ID`.
fn runs(id: &str, function: &'static str, key: &str) -> String {
    let origin = oncue_proto::event::Origin {
        stream: "s",
        stream_created: 1,
        sequence: 1,
        published: 1,
        subject: "a.b.c",
    };
    let mut meta = read([].into_iter(), bytes::Bytes::new(), &origin)
        .expect("a plain message")
        .meta;
    id.clone_into(&mut meta.id);
    Keys::default().runs(&Mark::new(function, key, &meta, 1))
}

fn computed() -> Value {
    let keys = keys();
    let secret = IdSecret::new(std::array::from_fn(|n| n as u8));
    let pairs = || {
        IDS.iter()
            .flat_map(|id| FUNCTIONS.map(|function| (*id, function)))
    };
    json!({
        "partition": keys.iter().map(|key| json!({ "key": key, "partition": partition(key) })).collect::<Vec<_>>(),
        "subject": keys
            .iter()
            .map(|key| json!({ "type": "web.page.viewed", "key": key, "subject": subject("web.page.viewed", key) }))
            .collect::<Vec<_>>(),
        "percent": keys.iter().map(|key| json!({ "text": key, "encoded": percent_encode(key) })).collect::<Vec<_>>(),
        "row_key": keys
            .iter()
            .map(|key| json!({ "table": "pages", "key": key, "redis": Keys::default().row("pages", key) }))
            .collect::<Vec<_>>(),
        "output_id": pairs()
            .flat_map(|(input, function)| [0, 1, 255].map(|index| {
                json!({ "input": input, "function": function, "index": index, "id": secret.output_id(input, function, index) })
            }))
            .collect::<Vec<_>>(),
        "dead_letter_id": pairs()
            .map(|(input, function)| {
                let redrives = input.len() as u32 % 3;
                let id = secret.dead_letter_id(input, function, redrives);
                json!({ "input": input, "function": function, "redrives": redrives, "id": id })
            })
            .collect::<Vec<_>>(),
        "idempotency_key": pairs()
            .flat_map(|(event, function)| ["", "charge"].map(|step| {
                json!({ "event": event, "function": function, "step": step, "key": idempotency_key(event, function, step) })
            }))
            .collect::<Vec<_>>(),
        "runs_key": pairs()
            .map(|(id, function)| {
                json!({ "id": id, "function": function, "redis": runs(id, function, "/home") })
            })
            .collect::<Vec<_>>(),
    })
}

#[test]
fn ids_are_what_they_were() {
    let path = folder().join("ids.json");
    let computed = computed();
    if std::env::var_os("GOLDEN_WRITE").is_some() {
        let text = serde_json::to_string_pretty(&computed).expect("JSON") + "\n";
        std::fs::write(&path, text).expect("the file is written");
    }
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let golden: Value = serde_json::from_str(&text).expect("JSON");
    for (name, golden) in golden.as_object().expect("an object") {
        let cases = golden.as_array().expect("a list");
        assert!(
            cases.len() >= IDS.len(),
            "{name} has only {} cases",
            cases.len()
        );
        for (at, case) in cases.iter().enumerate() {
            assert_eq!(
                &computed[name][at], case,
                "{name}: what is stored under the old name is lost"
            );
        }
    }
    assert_eq!(
        computed, golden,
        "there is more than the file holds: run this with GOLDEN_WRITE=1"
    );
    for case in golden["percent"].as_array().expect("a list") {
        assert_eq!(
            percent_decode(case["encoded"].as_str().expect("text")).as_deref(),
            case["text"].as_str()
        );
    }
}

/// Another language, its standard library alone.
#[test]
fn python_computes_the_same() {
    let Ok(output) = Command::new("python3")
        .arg(folder().join("check.py"))
        .output()
    else {
        return skip("python3", "there is none here to ask");
    };
    let (said, wrong) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(output.status.success(), "{said}{wrong}");
    let checked: usize = said
        .split(' ')
        .next()
        .and_then(|n| n.parse().ok())
        .unwrap_or(0);
    assert!(checked > 100, "python3 checked too little: {said}");
}
