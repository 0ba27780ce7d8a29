//! `GET /api/tables`: tables that functions declare; `.../{table}` a page of its rows; `.../{table}/row?key=` one row, with the changes
//! that were made by hand. `POST .../{table}/row` changes fields of one, for a reason that stays on record.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::extract::{Extension, Path, Query, State};
use oncue_admin::stores::rows::{self, EditError, RowChange};
use oncue_core::store::{KeyedRow, Row, StateValue};
use oncue_proto::HIDDEN;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::api::audit::{self, Who};
use crate::problem::{GONE, MALFORMED, NOT_FOUND, Problem, REFUSED};
use crate::{App, away};

/// Rows of a page, about.
const PAGE: usize = 50;
/// Characters of a row in a list.
const BRIEF: usize = 160;
/// Members of a set or ranking that are shown.
const MAX_MEMBERS: usize = 200;
/// Members up to which a set or ranking is read for that.
const MAX_READ: u64 = 10_000;
/// Changes by hand that are shown of a row.
const MAX_SHOWN_EDITS: usize = 20;

pub async fn tables(State(app): State<Arc<App>>) -> Json<Value> {
    let tables = rows::tables(&app.snapshot.manifests());
    Json(json!({ "tables": tables }))
}

#[derive(Deserialize)]
pub struct RowsWanted {
    /// As the page before said; text, since numbers of a browser are not as long.
    #[serde(default)]
    cursor: String,
}

pub async fn list(
    State(app): State<Arc<App>>,
    Path(table): Path<String>,
    Query(wanted): Query<RowsWanted>,
) -> Result<Json<Value>, Problem> {
    check_table(&app, &table)?;
    let cursor = match wanted.cursor.as_str() {
        "" => 0,
        text => text
            .parse()
            .map_err(|_| Problem::new(MALFORMED, "that is no cursor of a page before"))?,
    };
    let page = rows::page(&app.store, &table, cursor, PAGE).await;
    let mut page = page.map_err(away)?;
    page.rows.sort_by(|a, b| a.key.cmp(&b.key));
    let sensitive = app.catalog.now().sensitive_names();
    let shown = page.rows.iter().map(|KeyedRow { key, row }| {
        let whole = Value::Object(rows::shown(row, &sensitive)).to_string();
        let mut brief: String = whole.chars().take(BRIEF).collect();
        if brief.len() < whole.len() {
            brief.push('…');
        }
        json!({ "key": key, "brief": brief, "fields": row.fields.len() })
    });
    let next = (page.next != 0).then(|| page.next.to_string());
    Ok(Json(
        json!({ "rows": shown.collect::<Vec<_>>(), "next": next }),
    ))
}

/// Refuses what is no name of a table, which becomes part of a pattern of keys, and a table of nobody's: without the contract of its
/// function nothing says which of its fields are sensitive.
fn check_table(app: &App, table: &str) -> Result<(), Problem> {
    if table.is_empty() || !table.chars().all(is_of_name) {
        let why = format!("{table:?} is no name of a table");
        return Err(Problem::new(MALFORMED, why));
    }
    let declared = rows::tables(&app.snapshot.manifests());
    if declared.iter().any(|declared| declared.name == table) {
        return Ok(());
    }
    let why = format!(
        "no function declares the table {table}, so nothing says which of its fields are sensitive; `oncue state` shows it"
    );
    Err(Problem::new(NOT_FOUND, why))
}

fn is_of_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.')
}

#[derive(Deserialize)]
pub struct KeyWanted {
    key: String,
}

pub async fn one(
    State(app): State<Arc<App>>,
    Path(table): Path<String>,
    Query(KeyWanted { key }): Query<KeyWanted>,
) -> Result<Json<Value>, Problem> {
    check_table(&app, &table)?;
    let sensitive = app.catalog.now().sensitive_names();
    let members = app.store.members(&table, &key).await.map_err(away)?;
    // Of many not even the first are read: Redis would do nothing else meanwhile. And members have no names of fields, so nothing
    // says which of them came from what is sensitive: under a contract that calls anything so, none is shown.
    if let Some(count) = members.filter(|count| *count > MAX_READ || !sensitive.is_empty()) {
        let redis = app.store.keys().looked_for(&table, &key);
        return Ok(Json(json!({
            "kind": "members", "count": count, "members": null, "table": table, "key": key, "redis": redis,
        })));
    }
    let found = app.store.look_up(&table, &key).await.map_err(away)?;
    let Some(value) = found else {
        let why = format!("there is nothing under {table}/{key}");
        return Err(Problem::new(NOT_FOUND, why));
    };
    let mut shown = match &value {
        StateValue::Row(row) => {
            let edits = rows::edits(&app.store, &table, &key, MAX_SHOWN_EDITS, &sensitive).await;
            let hidden = rows::shown(row, &sensitive);
            json!({
                "kind": "row",
                "version": row.version.to_string(),
                "fields": fields(row, &hidden),
                "json": serde_json::to_string_pretty(&hidden).unwrap_or_default(),
                "edits": edits.map_err(away)?,
            })
        }
        StateValue::Count(count) => json!({ "kind": "count", "count": count }),
        StateValue::Members(members) => {
            let shown = &members[..members.len().min(MAX_MEMBERS)];
            json!({ "kind": "members", "count": members.len(), "members": shown })
        }
        StateValue::Ranking(ranking) => {
            let shown = &ranking[..ranking.len().min(MAX_MEMBERS)];
            json!({ "kind": "ranking", "count": ranking.len(), "members": shown })
        }
    };
    shown["table"] = table.clone().into();
    shown["key"] = key.clone().into();
    shown["redis"] = app.store.keys().looked_for(&table, &key).into();
    Ok(Json(shown))
}

/// Fields as texts, exactly as Redis holds them, unless something in them is hidden.
fn fields(row: &Row, hidden: &serde_json::Map<String, Value>) -> Vec<Value> {
    let fields = row.fields.iter().map(|(name, bytes)| {
        let seen = hidden.get(name).map(rows::text).unwrap_or_default();
        let is_hidden = seen.contains(HIDDEN);
        let text = if is_hidden {
            seen
        } else {
            String::from_utf8_lossy(bytes).into_owned()
        };
        json!({ "name": name, "text": text, "hidden": is_hidden })
    });
    fields.collect()
}

/// Change of a row that somebody asks for.
#[derive(Deserialize)]
pub struct RowEdited {
    key: String,
    /// Version of the row that was shown.
    version: String,
    #[serde(default)]
    set: BTreeMap<String, String>,
    #[serde(default)]
    unset: Vec<String>,
    #[serde(default)]
    why: String,
    /// Writes a value of another kind than the field holds, or a field that is absent.
    #[serde(default)]
    force: bool,
}

pub async fn edit(
    State(app): State<Arc<App>>,
    Extension(who): Extension<Who>,
    Path(table): Path<String>,
    asked: Result<Json<RowEdited>, JsonRejection>,
) -> Result<Json<Value>, Problem> {
    let Json(asked) = asked.map_err(|e| Problem::new(MALFORMED, e.body_text()))?;
    check_table(&app, &table)?;
    let why = audit::reason(&asked.why)?;
    let version = asked
        .version
        .parse()
        .map_err(|_| Problem::new(MALFORMED, "name the version of the row that was shown"))?;
    let set: Vec<(String, String)> = asked.set.into_iter().collect();
    let change = RowChange {
        table: &table,
        key: &asked.key,
        version: Some(version),
        set: &set,
        unset: &asked.unset,
        reason: why,
        by: &who.0,
        force: asked.force,
        bounds: app.config.bounds,
    };
    let sensitive = app.catalog.now().sensitive_names();
    let written = match rows::plan(&app.store, &change, &sensitive).await {
        Ok(planned) => planned.write(&app.store, &sensitive).await,
        Err(why) => Err(why),
    };
    // Names only: what a field holds may be sensitive, and logs are kept.
    let set = set.iter().map(|(field, _)| format!("set {field}"));
    let unset = asked.unset.iter().map(|field| format!("unset {field}"));
    let fields: Vec<String> = set.chain(unset).collect();
    let outcome = match &written {
        Ok(()) => format!("{}: {why}", fields.join(", ")),
        Err(e) => e.to_string(),
    };
    let place = format!("{table}/{}", asked.key);
    audit::line(&who, "edit row", &place, &outcome);
    written.map_err(problem)?;
    Ok(Json(json!({})))
}

fn problem(why: EditError) -> Problem {
    let kind = match &why {
        EditError::Missing(_) => NOT_FOUND,
        EditError::NoRow(_) => REFUSED,
        EditError::Changed => GONE,
        EditError::Nothing
        | EditError::NoField(_)
        | EditError::OtherKind { .. }
        | EditError::TooLarge(_)
        | EditError::Hidden(_) => MALFORMED,
        EditError::Store(_) => return away(why),
    };
    Problem::new(kind, why.to_string())
}
