//! A value of a state table as clients see it, in JSON.

use std::collections::BTreeMap;

use oncue_core::store::{Row, StateValue};
use oncue_proto::event;
use serde::Serialize;
use serde_json::json;
use serde_json::value::RawValue;

/// A value, and what tells it from another one.
#[derive(Debug, PartialEq, Eq)]
pub struct Value {
    pub body: String,
    /// Version of a row; 0 for other values.
    pub version: u64,
    /// Also tells changes that commute and raise no version.
    pub tag: String,
}

impl Value {
    pub fn of(shown: StateValue) -> Self {
        let version = if let StateValue::Row(row) = &shown {
            row.version
        } else {
            0
        };
        let body = body(shown);
        let hash = event::hash(&[body.as_bytes()]);
        let hash = u64::from_be_bytes(hash[..8].try_into().unwrap_or_default());
        Self {
            tag: format!("{version}-{hash:016x}"),
            version,
            body,
        }
    }
}

/// A member of a ranking.
#[derive(Serialize)]
struct Ranked {
    member: String,
    score: serde_json::Value,
}

fn body(shown: StateValue) -> String {
    match shown {
        StateValue::Row(row) => row_json(&row),
        StateValue::Members(mut members) => {
            members.sort_unstable();
            json!({ "members": members }).to_string()
        }
        StateValue::Ranking(ranking) => {
            let ranked = ranking.into_iter().map(|(member, score)| Ranked {
                member,
                score: number(score),
            });
            json!({ "ranking": ranked.collect::<Vec<_>>() }).to_string()
        }
        StateValue::Count(count) => json!({ "count": count }).to_string(),
    }
}

/// Scores are whole numbers that Redis keeps as floating point.
fn number(score: f64) -> serde_json::Value {
    if score.fract() == 0.0 && score.abs() < 9e15 {
        json!(score as i64)
    } else {
        json!(score)
    }
}

/// Redis holds text. What reads as a JSON number, truth value, list or object is given as that, digit for digit, and
/// anything else as a string.
fn row_json(row: &Row) -> String {
    let fields: BTreeMap<&str, Box<RawValue>> = row
        .fields
        .iter()
        .filter_map(|(name, value)| Some((name.as_str(), field(value)?)))
        .collect();
    serde_json::to_string(&fields).unwrap_or_default()
}

fn field(value: &[u8]) -> Option<Box<RawValue>> {
    let text = String::from_utf8_lossy(value);
    let bare = matches!(
        text.bytes().next(),
        Some(b'{' | b'[' | b't' | b'f' | b'-' | b'0'..=b'9')
    );
    match serde_json::from_str::<Box<RawValue>>(&text) {
        Ok(raw) if bare => Some(raw),
        _ => serde_json::value::to_raw_value(&*text).ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_become_json() {
        let field = |name: &str, value: &str| (name.to_owned(), value.as_bytes().to_vec());
        let row = Row {
            version: 3,
            fields: vec![
                field("big", "12345678901234567890123"),
                field("list", r#"[{"edge":64}]"#),
                field("name", "a \"b\".png"),
                field("null", "null"),
                field("quoted", "\"x\""),
                field("since", "2026-01-02T03:04:05.678Z"),
                field("truth", "true"),
                field("zeros", "007"),
            ],
        };
        let expected = r#"{"big":12345678901234567890123,"list":[{"edge":64}],"name":"a \"b\".png","null":"null","quoted":"\"x\"","since":"2026-01-02T03:04:05.678Z","truth":true,"zeros":"007"}"#;
        assert_eq!(row_json(&row), expected);
    }
}
