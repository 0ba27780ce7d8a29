//! The second stage of the chaos flow: writes down every milestone it applies.

use std::process::ExitCode;

use oncue::{Context, Function, Result, State};
use oncue_proto::web::PageMilestone;
use serde::{Deserialize, Serialize};

#[derive(Clone, Default, Serialize, Deserialize)]
struct Record {
    count: u64,
    ids: Vec<String>,
}

impl State for Record {
    const TABLE: &'static str = "records";
}

async fn record(_: PageMilestone, record: &mut Record, context: &Context) -> Result<()> {
    record.count += 1;
    record.ids.push(context.id().to_owned());
    context.add("recorded", "total", 1)
}

fn main() -> ExitCode {
    oncue::run(Function::new("record", record))
}
