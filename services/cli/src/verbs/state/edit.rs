//! `oncue state edit`: fields of one row, changed by a person. The row is written only if it is still as it was shown; workers
//! that hold it find the new version at their next commit and read it again.

use oncue_admin::stores::rows::{self, EditError, FieldChange, RowChange};
use serde_json::Value;

use crate::exit::{self, Failure};
use crate::settings::Settings;
use crate::terminal::confirm;
use crate::terminal::paint::{BAD, DIM, GOOD, NAME, paint, remark, say};
use crate::terminal::table::{self, Cell, text};
use crate::who;

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
    let sensitive = settings.catalog().await?.sensitive_names();
    let by = who::who();
    let change = RowChange {
        table: &args.table,
        key: &args.key,
        version: None,
        set: &args.set,
        unset: &args.unset,
        reason: &args.reason,
        by: &by,
        force: args.force,
        bounds: settings.config.bounds,
    };
    let place = format!("{}/{}", args.table, args.key);
    let planned = rows::plan(&store, &change, &sensitive).await;
    let planned = planned.map_err(|why| failure(&why))?;
    let lines: Vec<Vec<Cell>> = planned.fields.iter().map(line).collect();
    say(table::render(&["FIELD", "NOW", "THEN"], &lines));
    confirm::ask(&format!("Change the row {place}?"), args.yes)?;
    planned
        .write(&store, &sensitive)
        .await
        .map_err(|why| failure(&why))?;
    say(paint(GOOD, format_args!("The row {place} is changed.")));
    remark(paint(
        DIM,
        "`oncue state edits` has it on record; `oncue check` tries whether the function can read its rows.",
    ));
    Ok(exit::OK)
}

/// Line of a field that will change.
fn line(change: &FieldChange) -> Vec<Cell> {
    let then = match &change.then {
        Some(value) => text(value),
        None => text("(default)").style(BAD),
    };
    vec![
        text(&change.field).style(NAME),
        text(change.now.as_deref().unwrap_or_default()).style(DIM),
        then,
    ]
}

fn failure(why: &EditError) -> Failure {
    let what = why.to_string();
    match why {
        EditError::Missing(_) => {
            Failure::failed(what).advise("a row begins with the first event of its key")
        }
        EditError::NoRow(_) => Failure::failed(what),
        EditError::Changed => Failure::failed(what).advise("look again"),
        EditError::Nothing | EditError::Hidden(_) | EditError::TooLarge(_) => Failure::usage(what),
        EditError::NoField(_) => Failure::usage(what)
            .advise("--force writes it, if the function knows one that is absent now"),
        EditError::OtherKind { .. } => Failure::usage(what)
            .advise("events of this key would fail; --force writes it all the same"),
        EditError::Store(_) => Failure::silent(what),
    }
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
    edit.get(name).map(rows::text).unwrap_or_default()
}
