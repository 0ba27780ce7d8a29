//! Payloads side by side: which fields are the same in all of them, and which values the others take.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use serde_json::{Value, json};

/// Values of a field that are told, the most frequent ones.
const MAX_VALUES: usize = 5;
/// Fields that are told.
const MAX_FIELDS: usize = 100;
/// Characters of a value that are told.
const MAX_VALUE: usize = 120;

/// Fields by their paths, `order.items.0.name`: those with one value in all payloads, and the values of the others.
pub fn tell(payloads: &[Value]) -> Value {
    let mut fields: BTreeMap<String, BTreeMap<String, usize>> = BTreeMap::new();
    for payload in payloads {
        flatten(payload, String::new(), &mut |path, value| {
            let short: String = value.chars().take(MAX_VALUE).collect();
            *fields.entry(path).or_default().entry(short).or_default() += 1;
        });
    }
    let mut same = BTreeMap::new();
    let mut differs = BTreeMap::new();
    for (path, values) in fields.into_iter().take(MAX_FIELDS) {
        let seen: usize = values.values().sum();
        let kinds = values.len();
        if kinds == 1 && seen == payloads.len() {
            same.extend(values.into_keys().map(|value| (path.clone(), value)));
            continue;
        }
        let mut values: Vec<(String, usize)> = values.into_iter().collect();
        values.sort_by_key(|(_, count)| Reverse(*count));
        values.truncate(MAX_VALUES);
        let told = json!({ "values": values, "kinds": kinds, "missing": payloads.len() - seen.min(payloads.len()) });
        differs.insert(path, told);
    }
    json!({ "sampled": payloads.len(), "same": same, "differs": differs })
}

/// Calls `found` with each value that holds no other, and its path.
fn flatten(value: &Value, path: String, found: &mut impl FnMut(String, String)) {
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            for (name, value) in fields {
                flatten(value, below(&path, name), found);
            }
        }
        Value::Array(items) if !items.is_empty() => {
            for (at, value) in items.iter().enumerate() {
                flatten(value, below(&path, &at.to_string()), found);
            }
        }
        Value::String(text) => found(path, text.clone()),
        other => found(path, other.to_string()),
    }
}

fn below(path: &str, name: &str) -> String {
    if path.is_empty() {
        name.to_owned()
    } else {
        format!("{path}.{name}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_the_same_is_told_apart_from_what_differs() {
        let told = tell(&[
            json!({ "page": "/a", "of": { "shop": 1 } }),
            json!({ "page": "/b", "of": { "shop": 1 } }),
            json!({ "page": "/b", "of": { "shop": 1 }, "by": null }),
        ]);
        assert_eq!(told["same"], json!({ "of.shop": "1" }));
        assert_eq!(
            told["differs"]["page"]["values"],
            json!([["/b", 2], ["/a", 1]])
        );
        assert_eq!(told["differs"]["by"]["missing"], 2);
        assert_eq!(tell(&[])["sampled"], 0);
    }
}
