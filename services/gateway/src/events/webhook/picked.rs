//! Parts of a request, by their places.

use axum::http::HeaderMap;
use oncue_core::config::RequestPlace;
use serde_json::Value;

use super::signature::text;

/// Value at a place; `None` for nothing, and for null.
pub fn pick(place: &RequestPlace, headers: &HeaderMap, body: &Value) -> Option<Value> {
    match place {
        RequestPlace::Header(name) => {
            text(headers, name).map(|text| Value::String(text.to_owned()))
        }
        RequestPlace::Body(path) => {
            let mut value = body;
            for name in path {
                value = match value {
                    Value::Object(members) => members.get(name)?,
                    Value::Array(items) => items.get(name.parse::<usize>().ok()?)?,
                    _ => return None,
                };
            }
            Some(value.clone()).filter(|value| !value.is_null())
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn places_are_members_items_and_headers() {
        let body = json!({ "a": { "b": [1, { "c": "x" }] }, "n": null });
        let headers = HeaderMap::from_iter([("x-kind".parse().unwrap(), "push".parse().unwrap())]);
        let place = |path: &str| RequestPlace::Body(path.split('.').map(str::to_owned).collect());
        assert_eq!(pick(&place("a.b.1.c"), &headers, &body), Some(json!("x")));
        assert_eq!(pick(&place("a.b.0"), &headers, &body), Some(json!(1)));
        for nothing in ["n", "a.c", "a.b.2", "a.b.x", "a.b.0.c"] {
            assert_eq!(pick(&place(nothing), &headers, &body), None, "{nothing}");
        }
        let header = RequestPlace::Header("x-kind".to_owned());
        assert_eq!(pick(&header, &headers, &body), Some(json!("push")));
    }
}
