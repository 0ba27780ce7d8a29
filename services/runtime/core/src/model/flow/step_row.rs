//! State row of a step, before and after its run: what a page about a flow shows beside the event. It stands in a hash of
//! its function, `{pN}:w:FUNCTION:FLOW`, field `EVENT`, written in passing: a crash loses some of it, and nothing rests on it.

use std::collections::{BTreeMap, BTreeSet};

use oncue_proto::HIDDEN;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::store::Fields;

/// Bytes of names and values that are kept of one step; changed fields go first.
const MAX_BYTES: usize = 1024;
/// Bytes of one value that are kept.
const MAX_VALUE: usize = 256;

/// Row as a run began with it, and as it left it. Values are texts, as Redis holds them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct StepRow {
    /// Fields before the run, by name.
    pub before: BTreeMap<String, String>,
    /// Fields after it; `None` where the run has failed.
    pub after: Option<BTreeMap<String, String>>,
    /// Whether fields or parts of values were left out for want of room.
    pub is_cut: bool,
    /// Events that changed the row together, where the handler is another program, which says one change for all; 1 otherwise.
    pub events: usize,
}

impl StepRow {
    /// Keeps what has room.
    pub fn new(before: &Fields, after: Option<&Fields>) -> Self {
        let mut row = Self {
            after: after.map(|_| BTreeMap::new()),
            events: 1,
            ..Self::default()
        };
        let was = by_name(before);
        let is = after.map(by_name);
        let names: BTreeSet<&str> = was
            .keys()
            .chain(is.iter().flat_map(BTreeMap::keys))
            .copied()
            .collect();
        let (changed, rest): (Vec<&str>, Vec<&str>) = names
            .into_iter()
            .partition(|name| is.as_ref().is_some_and(|is| was.get(name) != is.get(name)));
        let mut room = MAX_BYTES;
        for name in changed.into_iter().chain(rest) {
            let old = was.get(name).map(|value| cut(value));
            let new = is
                .as_ref()
                .and_then(|is| is.get(name))
                .map(|value| cut(value));
            let texts = old.iter().chain(&new);
            let size: usize = texts.map(|(text, _)| name.len() + text.len()).sum();
            if size > room {
                row.is_cut = true;
                continue;
            }
            room -= size;
            if let Some((text, is_cut)) = old {
                row.is_cut |= is_cut;
                row.before.insert(name.to_owned(), text);
            }
            if let (Some((text, is_cut)), Some(after)) = (new, &mut row.after) {
                row.is_cut |= is_cut;
                after.insert(name.to_owned(), text);
            }
        }
        row
    }

    /// Hides the values of fields by their names, also inside values that are JSON.
    pub fn hide(&mut self, names: &BTreeSet<String>) {
        let rows = [Some(&mut self.before), self.after.as_mut()];
        for (name, text) in rows.into_iter().flatten().flatten() {
            if names.contains(name) {
                HIDDEN.clone_into(text);
            } else if text.starts_with(['{', '[']) {
                hide_inside(names, text);
            }
        }
    }
}

/// Hides members of a value that is JSON; one that was cut is none any more, and is hidden whole if it names such a member.
pub fn hide_inside(names: &BTreeSet<String>, text: &mut String) {
    match serde_json::from_str::<Value>(text) {
        Ok(mut value) => {
            if hide_members(names, &mut value) {
                *text = value.to_string();
            }
        }
        Err(_) => {
            if names
                .iter()
                .any(|name| text.contains(&format!("\"{name}\"")))
            {
                HIDDEN.clone_into(text);
            }
        }
    }
}

/// Hides members of a value by their names, however deep. Says whether anything was hidden.
pub fn hide_members(names: &BTreeSet<String>, value: &mut Value) -> bool {
    match value {
        Value::Object(members) => {
            let mut any = false;
            for (name, value) in members {
                if names.contains(name) {
                    *value = HIDDEN.into();
                    any = true;
                } else {
                    any |= hide_members(names, value);
                }
            }
            any
        }
        Value::Array(values) => {
            let mut any = false;
            for value in values {
                any |= hide_members(names, value);
            }
            any
        }
        _ => false,
    }
}

fn by_name(fields: &Fields) -> BTreeMap<&str, &[u8]> {
    let fields = fields.iter();
    fields
        .map(|(name, value)| (name.as_str(), value.as_slice()))
        .collect()
}

/// Text of a value, and whether it was cut.
fn cut(value: &[u8]) -> (String, bool) {
    let kept = &value[..value.len().min(MAX_VALUE)];
    let mut text = String::from_utf8_lossy(kept).into_owned();
    let is_cut = kept.len() < value.len();
    if is_cut {
        text.push('\u{2026}');
    }
    (text, is_cut)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(of: &[(&str, &str)]) -> Fields {
        of.iter()
            .map(|(name, value)| ((*name).to_owned(), value.as_bytes().to_vec()))
            .collect()
    }

    #[test]
    fn what_has_changed_is_kept_first() {
        let long = "x".repeat(200);
        let mut before: Vec<(String, String)> =
            (0..9).map(|n| (format!("a{n}"), long.clone())).collect();
        before.push(("views".to_owned(), "1".to_owned()));
        let texts: Vec<(&str, &str)> = before.iter().map(|(n, v)| (&**n, &**v)).collect();
        let was = fields(&texts);
        let mut is = was.clone();
        is.retain(|(name, _)| name != "views");
        is.push(("views".to_owned(), b"2".to_vec()));
        let row = StepRow::new(&was, Some(&is));
        assert_eq!(row.before["views"], "1");
        let after = row.after.expect("a row");
        assert_eq!(after["views"], "2");
        assert!(row.is_cut && after.len() < 4, "{after:?}");
        let size: usize = after
            .iter()
            .map(|(name, text)| name.len() + text.len())
            .sum();
        assert!(size <= MAX_BYTES);
    }

    #[test]
    fn a_failed_run_has_no_row_after_it() {
        let row = StepRow::new(&fields(&[("views", "1")]), None);
        assert_eq!((row.before["views"].as_str(), row.after), ("1", None));
    }

    #[test]
    fn sensitive_names_are_hidden_however_deep() {
        let names: BTreeSet<String> = ["email".to_owned()].into();
        let cut = format!("[{{\"email\":\"{}\"}}]", "e".repeat(400));
        let was = fields(&[
            ("email", "a@b.c"),
            ("last", r#"{"order":"1","email":"a@b.c"}"#),
            ("list", r#"[{"email":"a@b.c"}]"#),
            ("long", &cut),
            ("plain", "{}"),
        ]);
        let mut row = StepRow::new(&was, Some(&was));
        row.hide(&names);
        let shown = serde_json::to_string(&row).expect("JSON");
        assert!(
            !shown.contains("a@b.c") && !shown.contains("eee"),
            "{shown}"
        );
        assert_eq!(row.before["last"], r#"{"email":"(sensitive)","order":"1"}"#);
        assert_eq!(row.before["plain"], "{}");
    }
}
