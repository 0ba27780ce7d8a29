//! A function that changes: `ONCUE_TEST_CHANGE` says which version of it this program is. All are called `changing` and hold
//! the table `changes`.
//!
//! | value | differs from the first |
//! |---|---|
//! | (none) | counts views by page |
//! | `rows` | the second version of its rows: `count` is called `seen` |
//! | `broken` | a row whose `count` is a list, without a version of its own |
//! | `trigger` | acts on milestones in place of views |
//! | `key` | counts by visitor |
//! | `domain` | acts on files in place of views |

use std::collections::BTreeMap;
use std::process::ExitCode;

use oncue::{Context, Function, Result, State};
use oncue_app_events::files::FileInspected;
use oncue_app_events::web::{PageMilestone, PageViewed};
use serde::{Deserialize, Serialize};

#[derive(Clone, Default, Serialize, Deserialize)]
struct First {
    count: u64,
    nested: Nested,
}

#[derive(Clone, Default, Serialize, Deserialize)]
struct Nested {
    last: String,
}

impl State for First {
    const TABLE: &'static str = "changes";
}

#[derive(Clone, Default, Serialize, Deserialize)]
struct Second {
    seen: u64,
    nested: Deeper,
}

#[derive(Clone, Default, Serialize, Deserialize)]
struct Deeper {
    last: String,
    times: Vec<u64>,
}

impl State for Second {
    const TABLE: &'static str = "changes";
    const VERSION: u32 = 2;

    fn upgrade(_from: u32, fields: &mut BTreeMap<String, String>) -> Result<()> {
        let count = fields.remove("count").unwrap_or_else(|| "0".to_owned());
        fields.insert("seen".to_owned(), count);
        Ok(())
    }
}

#[derive(Clone, Default, Serialize, Deserialize)]
struct Broken {
    count: Vec<u64>,
}

impl State for Broken {
    const TABLE: &'static str = "changes";
}

async fn first(view: PageViewed, row: &mut First, _: &Context) -> Result<()> {
    row.count += 1;
    row.nested.last = view.visitor;
    Ok(())
}

async fn second(view: PageViewed, row: &mut Second, _: &Context) -> Result<()> {
    row.seen += 1;
    row.nested.last = view.visitor;
    row.nested.times.push(row.seen);
    row.nested
        .times
        .drain(..row.nested.times.len().saturating_sub(3));
    Ok(())
}

async fn broken(_: PageViewed, row: &mut Broken, _: &Context) -> Result<()> {
    row.count.push(1);
    Ok(())
}

async fn milestones(_: PageMilestone, row: &mut First, _: &Context) -> Result<()> {
    row.count += 1;
    Ok(())
}

async fn files(_: FileInspected, row: &mut First, _: &Context) -> Result<()> {
    row.count += 1;
    Ok(())
}

fn main() -> ExitCode {
    const NAME: &str = "changing";
    match std::env::var("ONCUE_TEST_CHANGE").as_deref() {
        Ok("rows") => oncue::run(Function::new(NAME, second).version("2.0.0")),
        Ok("broken") => oncue::run(Function::new(NAME, broken)),
        Ok("trigger") => oncue::run(Function::new(NAME, milestones)),
        Ok("domain") => oncue::run(Function::new(NAME, files)),
        Ok("key") => oncue::run(
            Function::new(NAME, first)
                .keyed_by("visitor", |view: &PageViewed| view.visitor.clone()),
        ),
        _ => oncue::run(Function::new(NAME, first).version("1.0.0")),
    }
}
