//! A function that is called as its program is: with links of many names to it, it is many functions.

use std::path::Path;
use std::process::ExitCode;

use oncue::{Context, Function, Result, State};
use oncue_app_events::web::PageViewed;
use serde::{Deserialize, Serialize};

#[derive(Clone, Default, Serialize, Deserialize)]
struct Count {
    count: u64,
}

impl State for Count {
    const TABLE: &'static str = "namesakes";
}

async fn count(_: PageViewed, row: &mut Count, _: &Context) -> Result<()> {
    row.count += 1;
    Ok(())
}

fn main() -> ExitCode {
    let program = std::env::args().next().unwrap_or_default();
    let name = Path::new(&program)
        .file_name()
        .and_then(|name| name.to_str())
        .unwrap_or("namesake");
    oncue::run(Function::new(name.to_owned().leak(), count))
}
