//! `oncue state`: rows and other values of state tables, by their real keys. `edit` changes one by hand, which goes on record.

mod edit;

use oncue_admin::stores::rows::fields;
use oncue_core::store::{KeyedRow, StateValue};
use serde_json::{Value, json};

use crate::exit::{self, Failure};
use crate::settings::Settings;
use crate::terminal::paint::{DIM, NAME, paint, remark, say};
use crate::terminal::table::{self, text};

/// Longest text of a row in a list, characters.
const BRIEF: usize = 100;

#[derive(clap::Subcommand)]
pub enum Verb {
    /// List rows of a table, in no order.
    Ls(LsArgs),
    /// Show what stands under a key of a table.
    Get(GetArgs),
    /// Change fields of a row by hand, and put that on record. Asks first.
    Edit(edit::Args),
    /// List the changes that were made by hand, the last first.
    Edits(edit::EditsArgs),
}

#[derive(clap::Args)]
pub struct LsArgs {
    table: String,
    /// Most rows.
    #[arg(long, value_name = "N", default_value_t = 100)]
    limit: usize,
    /// Print one JSON object for each row.
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args)]
pub struct GetArgs {
    table: String,
    /// Key as its event has it.
    key: String,
    /// Print one JSON value.
    #[arg(long)]
    json: bool,
}

pub async fn run(verb: Verb, settings: &Settings) -> Result<u8, Failure> {
    match verb {
        Verb::Ls(args) => ls(&args, settings).await,
        Verb::Get(args) => get(&args, settings).await,
        Verb::Edit(args) => edit::run(&args, settings).await,
        Verb::Edits(args) => edit::list(&args, settings).await,
    }
}

async fn ls(args: &LsArgs, settings: &Settings) -> Result<u8, Failure> {
    let store = settings.store().await?;
    let mut rows: Vec<KeyedRow> = Vec::new();
    let mut cursor = 0;
    loop {
        let page = store.rows(&args.table, cursor).await;
        let page = page.map_err(Failure::silent)?;
        rows.extend(page.rows);
        cursor = page.next;
        if cursor == 0 || rows.len() > args.limit {
            break;
        }
    }
    let more = rows.len() > args.limit || cursor != 0;
    rows.truncate(args.limit);
    rows.sort_by(|a, b| a.key.cmp(&b.key));
    if args.json {
        for KeyedRow { key, row } in &rows {
            say(json!({ "key": key, "row": fields(row) }));
        }
    } else {
        let lines: Vec<Vec<table::Cell>> = rows.iter().map(line).collect();
        say(table::render(&["KEY", "ROW"], &lines));
    }
    if more {
        let shown = args.limit;
        remark(paint(
            DIM,
            format_args!("the first {shown} that were found; --limit shows more"),
        ));
    }
    Ok(exit::OK)
}

/// Row in a list: its key, and its fields as far as there is room.
fn line(KeyedRow { key, row }: &KeyedRow) -> Vec<table::Cell> {
    let whole = Value::Object(fields(row)).to_string();
    let mut brief: String = whole.chars().take(BRIEF).collect();
    if brief.len() < whole.len() {
        brief.push('…');
    }
    vec![text(key).style(NAME), text(brief)]
}

async fn get(args: &GetArgs, settings: &Settings) -> Result<u8, Failure> {
    let store = settings.store().await?;
    let found = store.show(&args.table, &args.key).await;
    let Some(value) = found.map_err(Failure::silent)? else {
        let what = format!("there is nothing under {}/{}", args.table, args.key);
        return Err(Failure::failed(what).advise(
            "`oncue state ls TABLE` lists keys; a row begins with the first event of its key",
        ));
    };
    let shown = match &value {
        StateValue::Row(row) => Value::Object(fields(row)),
        StateValue::Members(members) => json!(members),
        StateValue::Ranking(ranking) => json!(ranking),
        StateValue::Count(count) => json!(count),
    };
    if args.json {
        say(shown);
        return Ok(exit::OK);
    }
    if let Value::Object(fields) = &shown {
        let lines: Vec<Vec<table::Cell>> = fields
            .iter()
            .map(|(name, value)| {
                let value = value
                    .as_str()
                    .map_or_else(|| value.to_string(), str::to_owned);
                vec![text(name).style(NAME), text(value)]
            })
            .collect();
        say(table::render(&["FIELD", "VALUE"], &lines));
    } else {
        say(&shown);
    }
    let key = store.keys().row(&args.table, &args.key);
    remark(paint(DIM, format_args!("in Redis: {key}")));
    Ok(exit::OK)
}
