//! A second stage for tests: records every milestone it applies, so that a lost or doubled one shows. A page with
//! `refuse` in its name is rejected, one with `falter` fails on its first run.

use std::process::ExitCode;

use oncue::{Context, Function, Result, State, reject};
use oncue_app_events::web::PageMilestone;
use serde::{Deserialize, Serialize};

#[derive(Clone, Default, Serialize, Deserialize)]
struct Record {
    count: u64,
    /// Ids applied, in order.
    ids: Vec<String>,
    /// What the milestones said: each number once, if each belongs to one commit of the first stage.
    views: Vec<u64>,
}

impl State for Record {
    const TABLE: &'static str = "records";
}

async fn record(milestone: PageMilestone, record: &mut Record, context: &Context) -> Result<()> {
    record.count += 1;
    record.ids.push(context.id().to_owned());
    record.views.push(milestone.views);
    context.add("recorded", "total", 1)?;
    if milestone.page.contains("refuse") {
        return Err(reject("a page to refuse"));
    }
    if milestone.page.contains("falter") && context.attempt() == 1 {
        return Err(std::io::Error::other("the first run falters").into());
    }
    Ok(())
}

fn main() -> ExitCode {
    let function = Function::new("record", record).attempts(3);
    oncue::run(function.changes(&["recorded"]))
}
