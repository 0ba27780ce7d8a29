//! `oncue state edit`: fields of one row, changed by a person. The row is written only if it is still as it was shown; workers
//! that hold it find the new version at their next commit and read it again.

use oncue_core::store::{RowEdit, StateValue};
use oncue_proto::event;
use serde_json::{Map, Value, json};

use crate::exit::{self, Failure};
use crate::settings::Settings;
use crate::terminal::confirm;
use crate::terminal::paint::{BAD, DIM, GOOD, NAME, paint, remark, say};
use crate::terminal::table::{self, Cell, text};

#[derive(clap::Args)]
pub struct Args {
    table: String,
    /// Key as its event has it.
    key: String,
    /// Field and the text it gets, as `oncue state get` shows it; may be repeated.
    #[arg(long, value_name = "FIELD=VALUE", value_parser = assignment)]
    set: Vec<(String, String)>,
    /// Field that goes: it has its default then; may be repeated.
    #[arg(long, value_name = "FIELD")]
    unset: Vec<String>,
    /// Why, for the record.
    #[arg(long, value_name = "TEXT")]
    reason: String,
    /// Write a field that the row does not have, or a value of another kind than it holds: events of this key fail if the
    /// function cannot read it.
    #[arg(long)]
    force: bool,
    /// Do not ask.
    #[arg(long, short)]
    yes: bool,
}

#[derive(clap::Args)]
pub struct EditsArgs {
    /// Most changes.
    #[arg(long, value_name = "N", default_value_t = 20)]
    limit: usize,
    /// Print one JSON object for each change.
    #[arg(long)]
    json: bool,
}

fn assignment(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((field, value)) if !field.is_empty() => Ok((field.to_owned(), value.to_owned())),
        _ => Err("write FIELD=VALUE".to_owned()),
    }
}

pub async fn run(args: &Args, settings: &Settings) -> Result<u8, Failure> {
    if args.set.is_empty() && args.unset.is_empty() {
        return Err(Failure::usage(
            "say what to change: --set FIELD=VALUE or --unset FIELD",
        ));
    }
    let store = settings.store().await?;
    let found = store.show(&args.table, &args.key).await;
    let place = format!("{}/{}", args.table, args.key);
    let row = match found.map_err(Failure::silent)? {
        Some(StateValue::Row(row)) => row,
        Some(_) => return Err(Failure::failed(format_args!("{place} is no row"))),
        None => {
            return Err(Failure::failed(format_args!("there is no row {place}"))
                .advise("a row begins with the first event of its key"));
        }
    };
    let before = super::fields(&row);
    let changes = changes(args, &before)?;
    say(table::render(&["FIELD", "NOW", "THEN"], &changes));
    confirm::ask(&format!("Change the row {place}?"), args.yes)?;
    let by = std::env::var("USER").unwrap_or_default();
    let record = json!({
        "at": event::format_time(event::now_ms()),
        "by": by,
        "table": args.table,
        "key": args.key,
        "reason": args.reason,
        "before": before,
        "set": args.set.iter().cloned().collect::<std::collections::BTreeMap<_, _>>(),
        "unset": args.unset,
    });
    let edit = RowEdit {
        table: &args.table,
        key: &args.key,
        version: row.version,
        set: &args.set,
        unset: &args.unset,
        record: &record.to_string(),
    };
    if !store.edit(&edit).await.map_err(Failure::silent)? {
        return Err(
            Failure::failed("the row has changed since it was shown; nothing was written")
                .advise("look again"),
        );
    }
    say(paint(GOOD, format_args!("The row {place} is changed.")));
    remark(paint(
        DIM,
        "`oncue state edits` has it on record; `oncue check` tries whether the function can read its rows.",
    ));
    Ok(exit::OK)
}

/// Lines of what will change.
///
/// # Errors
///
/// What the row's function would most likely not understand, unless that is forced.
fn changes(args: &Args, before: &Map<String, Value>) -> Result<Vec<Vec<Cell>>, Failure> {
    let mut lines = Vec::new();
    for (field, value) in &args.set {
        let old = before.get(field);
        if !args.force {
            check(field, value, old)?;
        }
        lines.push(vec![
            text(field).style(NAME),
            text(old.map(shown).unwrap_or_default()).style(DIM),
            text(value),
        ]);
    }
    for field in &args.unset {
        let Some(old) = before.get(field) else {
            return Err(Failure::usage(format_args!("the row has no field {field}")));
        };
        lines.push(vec![
            text(field).style(NAME),
            text(shown(old)).style(DIM),
            text("(default)").style(BAD),
        ]);
    }
    Ok(lines)
}

fn check(field: &str, value: &str, old: Option<&Value>) -> Result<(), Failure> {
    let Some(old) = old else {
        return Err(Failure::usage(format_args!("the row has no field {field}"))
            .advise("--force writes it, if the function knows one that is absent now"));
    };
    let new = serde_json::from_str::<Value>(value).ok();
    let is_same = match old {
        Value::String(_) | Value::Null => true,
        _ => new.is_some_and(|new| std::mem::discriminant(&new) == std::mem::discriminant(old)),
    };
    if is_same {
        return Ok(());
    }
    let what = format!(
        "{field} holds {}, and {value:?} is of another kind",
        shown(old)
    );
    Err(Failure::usage(what)
        .advise("events of this key would fail; --force writes it all the same"))
}

fn shown(value: &Value) -> String {
    value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_owned)
}

pub async fn list(args: &EditsArgs, settings: &Settings) -> Result<u8, Failure> {
    let store = settings.store().await?;
    let edits = store.edits(args.limit).await.map_err(Failure::silent)?;
    let edits: Vec<Value> = edits
        .iter()
        .filter_map(|edit| serde_json::from_str(edit).ok())
        .collect();
    if args.json {
        edits.iter().for_each(say);
        return Ok(exit::OK);
    }
    let lines: Vec<Vec<Cell>> = edits
        .iter()
        .map(|edit| {
            vec![
                text(column(edit, "at")),
                text(column(edit, "by")),
                text(format!("{}/{}", column(edit, "table"), column(edit, "key"))).style(NAME),
                text(format!("{} {}", column(edit, "set"), column(edit, "unset"))),
                text(column(edit, "reason")),
            ]
        })
        .collect();
    say(table::render(
        &["AT", "BY", "ROW", "SET, UNSET", "REASON"],
        &lines,
    ));
    Ok(exit::OK)
}

fn column(edit: &Value, name: &str) -> String {
    edit.get(name).map(shown).unwrap_or_default()
}
