//! `oncue state`: rows and other values of state tables, by their real keys, without what the contract calls sensitive. `edit`
//! changes one by hand, which goes on record.

mod edit;

use std::collections::BTreeSet;

use oncue_admin::stores::rows;
use oncue_core::store::{KeyedRow, Row, StateValue};
use oncue_proto::HIDDEN;
use serde_json::{Map, Value, json};

use crate::exit::{self, Failure};
use crate::manifests;
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
    let sensitive = Sensitive::of(settings).await?;
    let mut found: Vec<KeyedRow> = Vec::new();
    let mut cursor = 0;
    loop {
        let page = store.rows(&args.table, cursor).await;
        let page = page.map_err(Failure::silent)?;
        found.extend(page.rows);
        cursor = page.next;
        if cursor == 0 || found.len() > args.limit {
            break;
        }
    }
    if found.is_empty() {
        known(&args.table, settings).await?;
    }
    let more = found.len() > args.limit || cursor != 0;
    found.truncate(args.limit);
    found.sort_by(|a, b| a.key.cmp(&b.key));
    if args.json {
        for KeyedRow { key, row } in &found {
            say(json!({ "key": key, "row": sensitive.shown(row) }));
        }
    } else {
        let lines: Vec<Vec<table::Cell>> = found.iter().map(|row| line(row, &sensitive)).collect();
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
fn line(KeyedRow { key, row }: &KeyedRow, sensitive: &Sensitive) -> Vec<table::Cell> {
    let whole = Value::Object(sensitive.shown(row)).to_string();
    let mut brief: String = whole.chars().take(BRIEF).collect();
    if brief.len() < whole.len() {
        brief.push('…');
    }
    vec![text(key).style(NAME), text(brief)]
}

async fn get(args: &GetArgs, settings: &Settings) -> Result<u8, Failure> {
    let store = settings.store().await?;
    let sensitive = Sensitive::of(settings).await?;
    let found = store.look_up(&args.table, &args.key).await;
    let Some(value) = found.map_err(Failure::silent)? else {
        known(&args.table, settings).await?;
        let what = format!("there is nothing under {}/{}", args.table, args.key);
        return Err(Failure::failed(what).advise(
            "`oncue state ls TABLE` lists keys; a row begins with the first event of its key",
        ));
    };
    let shown = match &value {
        StateValue::Row(row) => Value::Object(sensitive.shown(row)),
        // Members have no names of fields by which they could be told to be sensitive.
        StateValue::Members(members) if sensitive.is_any() => hidden(members.len()),
        StateValue::Ranking(ranking) if sensitive.is_any() => hidden(ranking.len()),
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
    let key = store.keys().looked_for(&args.table, &args.key);
    remark(paint(DIM, format_args!("in Redis: {key}")));
    Ok(exit::OK)
}

/// Fields that nobody is shown.
struct Sensitive {
    names: BTreeSet<String>,
    /// Of some function nobody knows which, so that all may be.
    is_unknown: bool,
}

impl Sensitive {
    async fn of(settings: &Settings) -> Result<Self, Failure> {
        let contracts = settings.contracts().await?;
        Ok(Self {
            names: contracts.catalog.sensitive_names(),
            is_unknown: !contracts.warnings.is_empty(),
        })
    }

    fn is_any(&self) -> bool {
        self.is_unknown || !self.names.is_empty()
    }

    fn shown(&self, row: &Row) -> Map<String, Value> {
        if !self.is_unknown {
            return rows::shown(row, &self.names);
        }
        let names = row.fields.iter().map(|(name, _)| name.clone());
        names.map(|name| (name, HIDDEN.into())).collect()
    }
}

/// Refuses a table that no function declares, once nothing was found in it.
async fn known(table: &str, settings: &Settings) -> Result<(), Failure> {
    let names: Vec<String> = settings.config.functions.keys().cloned().collect();
    // Whose programs are not here cannot be asked, and may have any table.
    let Ok(manifests) = manifests::of(settings, &names).await else {
        return Ok(());
    };
    let tables = rows::tables(&manifests);
    let any = manifests
        .iter()
        .any(|manifest| manifest.changes.iter().any(|table| table == "*"));
    if any || tables.is_empty() || tables.iter().any(|known| known.name == table) {
        return Ok(());
    }
    let names: Vec<&str> = tables.iter().map(|table| table.name.as_str()).collect();
    Err(
        Failure::failed(format_args!("no function has a table {table}"))
            .advise(format!("tables: {}", names.join(", "))),
    )
}

/// Members that are not shown, and how many they are.
fn hidden(count: usize) -> Value {
    json!({ "members": HIDDEN, "count": count })
}
