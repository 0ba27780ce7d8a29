//! Sleeps for a second on every event: a function that waits for somebody.

use std::process::ExitCode;
use std::time::Duration;

use oncue::{Context, Function, Result};
use oncue_app_events::web::PageViewed;

async fn slow(_: PageViewed, _: &mut (), _: &Context) -> Result<()> {
    tokio::time::sleep(Duration::from_secs(1)).await;
    Ok(())
}

fn main() -> ExitCode {
    oncue::run(Function::new("bench-slow", slow))
}
