//! Rows of tables as people look at them, and as one changes a field by hand: only if the row is still as it was shown, and on record.
//! Workers that hold the row find the new version at their next commit and read it again.
//!
//! What the contract calls sensitive is hidden by the names of its fields, which is how rows have them: in what is shown, and in what
//! goes on record.

use std::collections::{BTreeMap, BTreeSet};

use oncue_core::config::Bounds;
use oncue_core::model::flow::{hide_inside, hide_members};
use oncue_core::model::manifest::Manifest;
use oncue_core::store::{KeyedRow, Row, RowEdit, StateValue, Store, StoreError};
use oncue_proto::{HIDDEN, event};
use serde::Serialize;
use serde_json::{Map, Value, json};

/// Looks for one page, where other keys lie between: then it ends early, and the next one goes on.
const MAX_LOOKS: usize = 40;
/// Keys of one look at first and at most: a look that finds nothing is followed by a wider one.
const FEWEST_KEYS: usize = 100;
const MOST_KEYS: usize = 10_000;
/// Changes by hand that are looked through for those of one row.
const MAX_EDITS: usize = 1000;

/// Table of the app, with the functions that have to do with it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Table {
    pub name: String,
    /// Function whose rows they are.
    pub owners: Vec<String>,
    /// Functions that change values in it blindly: counts, sets, rankings.
    pub changed_by: Vec<String>,
}

/// Tables that functions declare, by name.
pub fn tables(manifests: &[Manifest]) -> Vec<Table> {
    let mut tables: BTreeMap<&str, Table> = BTreeMap::new();
    for manifest in manifests {
        if let Some(name) = &manifest.table {
            let table = tables.entry(name).or_default();
            table.owners.push(manifest.name.clone());
        }
        for name in manifest.changes.iter().filter(|name| *name != "*") {
            let table = tables.entry(name).or_default();
            table.changed_by.push(manifest.name.clone());
        }
    }
    let named = tables.into_iter().map(|(name, table)| Table {
        name: name.to_owned(),
        ..table
    });
    named.collect()
}

/// Part of the rows of a table, in no order.
#[derive(Debug, Clone, Default)]
pub struct RowsFound {
    pub rows: Vec<KeyedRow>,
    /// Cursor to go on from; 0 at the end.
    pub next: u64,
}

/// Next rows of a table, about `most` of them, from a cursor on, which is 0 at the beginning. A row may come twice, and one that is
/// written meanwhile not at all: nothing is locked, and no command reads all keys at once.
///
/// # Errors
/// Redis does not answer.
pub async fn page(
    store: &Store,
    table: &str,
    cursor: u64,
    most: usize,
) -> Result<RowsFound, StoreError> {
    let mut found = RowsFound {
        next: cursor,
        ..RowsFound::default()
    };
    let mut count = FEWEST_KEYS;
    for _ in 0..MAX_LOOKS {
        let page = store.rows_among(table, found.next, count).await?;
        if page.rows.is_empty() {
            count = (count * 4).min(MOST_KEYS);
        }
        found.rows.extend(page.rows);
        found.next = page.next;
        if found.next == 0 || found.rows.len() >= most {
            break;
        }
    }
    Ok(found)
}

/// Fields of a row: numbers and nested data as such, all else as text.
pub fn fields(row: &Row) -> Map<String, Value> {
    let fields = row.fields.iter().map(|(name, bytes)| {
        let text = String::from_utf8_lossy(bytes).into_owned();
        let value = match serde_json::from_slice::<Value>(bytes) {
            Ok(
                value @ (Value::Number(_) | Value::Object(_) | Value::Array(_) | Value::Bool(_)),
            ) => value,
            _ => Value::String(text),
        };
        (name.clone(), value)
    });
    fields.collect()
}

/// Fields of a row without what is sensitive.
pub fn shown(row: &Row, sensitive: &BTreeSet<String>) -> Map<String, Value> {
    hidden(&fields(row), sensitive)
}

fn hidden(fields: &Map<String, Value>, sensitive: &BTreeSet<String>) -> Map<String, Value> {
    let mut fields = fields.clone();
    for (name, value) in &mut fields {
        match value {
            _ if sensitive.contains(name) => *value = HIDDEN.into(),
            // Text that was meant to be JSON.
            Value::String(text) if text.starts_with(['{', '[']) => hide_inside(sensitive, text),
            value => {
                hide_members(sensitive, value);
            }
        }
    }
    fields
}

/// Change of a row that somebody asks for.
#[derive(Debug, Clone)]
pub struct RowChange<'c> {
    pub table: &'c str,
    /// Key as its event has it.
    pub key: &'c str,
    /// Version of the row that was looked at; `None` for the row as it is now.
    pub version: Option<u64>,
    /// Fields with the text they get, and fields that go: they have their defaults then.
    pub set: &'c [(String, String)],
    pub unset: &'c [String],
    /// Reason and name, for the record.
    pub reason: &'c str,
    pub by: &'c str,
    /// Writes a field that the row does not have, or a value of another kind than it holds.
    pub force: bool,
    /// Bounds of the app, which its functions keep: a row beyond them would be refused at their next commit.
    pub bounds: Bounds,
}

/// Reason for which a row was not changed; its text is for a person.
#[derive(Debug, thiserror::Error)]
pub enum EditError {
    /// There is no row.
    #[error("there is no row {0}")]
    Missing(String),
    /// Something else than a row stands there.
    #[error("{0} is no row")]
    NoRow(String),
    /// The change says nothing.
    #[error("say what to change")]
    Nothing,
    /// The row has no such field.
    #[error("the row has no field {0}")]
    NoField(String),
    /// Function could not read it. Neither value is said: one of them may be sensitive.
    #[error("{field} holds {holds}, and what it would get is of another kind")]
    OtherKind { field: String, holds: &'static str },
    /// The row would be larger than its function may make it.
    #[error("{0}")]
    TooLarge(String),
    /// Text that stands in place of a sensitive value.
    #[error(
        "{0} holds what the contract calls sensitive and is not shown; write all of its value, or leave it"
    )]
    Hidden(String),
    /// The row is another one than was looked at.
    #[error("the row has changed since it was shown; nothing was written")]
    Changed,
    /// Redis did not do it.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Field that is about to change, as a person sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FieldChange {
    pub field: String,
    /// Value that it has.
    pub now: Option<String>,
    /// Value that it gets; `None` for its default.
    pub then: Option<String>,
}

/// Row that was read, with a change that its function can most likely read.
#[derive(Debug)]
pub struct Planned<'c> {
    change: &'c RowChange<'c>,
    version: u64,
    before: Map<String, Value>,
    /// Fields that change, in the order in which they were given.
    pub fields: Vec<FieldChange>,
}

/// Reads the row and looks whether it can be changed like that. Nothing is written.
///
/// # Errors
/// There is no such row, it is not the one that was looked at, or the change is one that its function would most likely not
/// understand.
pub async fn plan<'c>(
    store: &Store,
    change: &'c RowChange<'c>,
    sensitive: &BTreeSet<String>,
) -> Result<Planned<'c>, EditError> {
    if change.set.is_empty() && change.unset.is_empty() {
        return Err(EditError::Nothing);
    }
    let place = format!("{}/{}", change.table, change.key);
    let row = match store.look_up(change.table, change.key).await? {
        Some(StateValue::Row(row)) => row,
        Some(_) => return Err(EditError::NoRow(place)),
        None => return Err(EditError::Missing(place)),
    };
    if change.version.is_some_and(|version| version != row.version) {
        return Err(EditError::Changed);
    }
    let before = fields(&row);
    let seen = hidden(&before, sensitive);
    let mut changed = Vec::new();
    for (field, value) in change.set {
        let old = before.get(field);
        check(field, value, old, change.force)?;
        changed.push(FieldChange {
            field: field.clone(),
            now: seen.get(field).map(text),
            then: Some(value.clone()),
        });
    }
    let stays = row.fields.iter().filter(|(name, _)| {
        !change.unset.contains(name) && !change.set.iter().any(|(field, _)| field == name)
    });
    let stays: usize = stays.map(|(name, value)| name.len() + value.len()).sum();
    let comes = change
        .set
        .iter()
        .map(|(name, value)| name.len() + value.len());
    let within = change.bounds.check_row(stays + comes.sum::<usize>());
    within.map_err(EditError::TooLarge)?;
    for field in change.unset {
        let old = seen.get(field);
        let old = old.ok_or_else(|| EditError::NoField(field.clone()))?;
        changed.push(FieldChange {
            field: field.clone(),
            now: Some(text(old)),
            then: None,
        });
    }
    Ok(Planned {
        change,
        version: row.version,
        before: seen,
        fields: changed,
    })
}

/// Refuses what the row's function would most likely not understand, unless that is forced.
fn check(field: &str, value: &str, old: Option<&Value>, force: bool) -> Result<(), EditError> {
    if value.contains(HIDDEN) {
        return Err(EditError::Hidden(field.to_owned()));
    }
    if force {
        return Ok(());
    }
    let old = old.ok_or_else(|| EditError::NoField(field.to_owned()))?;
    let new = serde_json::from_str::<Value>(value).ok();
    let is_same = match old {
        Value::String(_) | Value::Null => true,
        _ => new.is_some_and(|new| std::mem::discriminant(&new) == std::mem::discriminant(old)),
    };
    if is_same {
        return Ok(());
    }
    Err(EditError::OtherKind {
        field: field.to_owned(),
        holds: kind(old),
    })
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Number(_) => "a number",
        Value::Bool(_) => "true or false",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
        Value::String(_) | Value::Null => "text",
    }
}

/// Value as a person reads it.
pub fn text(value: &Value) -> String {
    value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_owned)
}

impl Planned<'_> {
    /// Writes the change, if the row is still as it was read, and puts it on record.
    ///
    /// # Errors
    /// The row has changed, or Redis does not do it.
    pub async fn write(
        &self,
        store: &Store,
        sensitive: &BTreeSet<String>,
    ) -> Result<(), EditError> {
        let change = self.change;
        let set = change.set.iter().map(|(field, value)| {
            let kept = match serde_json::from_str(value) {
                Ok(kept @ (Value::Object(_) | Value::Array(_))) => kept,
                _ => Value::String(value.clone()),
            };
            (field.clone(), kept)
        });
        let set = hidden(&set.collect(), sensitive);
        // As the field gets it: texts, which read as JSON or not.
        let set: Map<String, Value> = set
            .into_iter()
            .map(|(field, value)| (field, text(&value).into()))
            .collect();
        let record = json!({
            "at": event::format_time(event::now_ms()),
            "by": change.by,
            "table": change.table,
            "key": change.key,
            "reason": change.reason,
            "before": self.before,
            "set": set,
            "unset": change.unset,
        });
        let edit = RowEdit {
            table: change.table,
            key: change.key,
            version: self.version,
            set: change.set,
            unset: change.unset,
            record: &record.to_string(),
        };
        if store.edit(&edit).await? {
            Ok(())
        } else {
            Err(EditError::Changed)
        }
    }
}

/// Changes of one row by hand that are on record, the last first, without what is sensitive: what was written before it was called
/// so is hidden as well.
///
/// # Errors
/// Redis does not answer.
pub async fn edits(
    store: &Store,
    table: &str,
    key: &str,
    most: usize,
    sensitive: &BTreeSet<String>,
) -> Result<Vec<Value>, StoreError> {
    let all = store.edits(MAX_EDITS).await?;
    let edits = all
        .iter()
        .filter_map(|edit| serde_json::from_str(edit).ok());
    let own = edits.filter(|edit: &Value| edit["table"] == table && edit["key"] == key);
    let shown = own.take(most).map(|mut edit| {
        for part in ["before", "set"] {
            if let Some(Value::Object(fields)) = edit.get_mut(part) {
                *fields = hidden(fields, sensitive);
            }
        }
        edit
    });
    Ok(shown.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(of: &[(&str, &str)]) -> Row {
        let fields = of.iter();
        Row {
            version: 1,
            fields: fields
                .map(|(name, value)| ((*name).to_owned(), value.as_bytes().to_vec()))
                .collect(),
        }
    }

    #[test]
    fn what_is_sensitive_is_hidden_however_deep() {
        let sensitive = BTreeSet::from(["email".to_owned()]);
        let row = row(&[
            ("views", "3"),
            ("email", "a@b.c"),
            ("last", r#"{"email":"a@b.c","page":"/p"}"#),
        ]);
        let shown = Value::Object(shown(&row, &sensitive));
        let expected =
            json!({ "views": 3, "email": HIDDEN, "last": { "email": HIDDEN, "page": "/p" } });
        assert_eq!(shown, expected);
    }

    #[test]
    fn a_value_of_another_kind_is_refused_unless_forced() {
        let old = json!(3);
        assert!(check("views", "4", Some(&old), false).is_ok());
        assert!(matches!(
            check("views", "four", Some(&old), false),
            Err(EditError::OtherKind { .. })
        ));
        assert!(check("views", "four", Some(&old), true).is_ok());
        assert!(matches!(
            check("veiws", "4", None, false),
            Err(EditError::NoField(_))
        ));
        // What was copied from where it is hidden is never written, forced or not.
        assert!(matches!(
            check("email", HIDDEN, Some(&json!("x")), true),
            Err(EditError::Hidden(_))
        ));
    }
}
