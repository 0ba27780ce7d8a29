//! A function for tests that calls the outside world at most once: it writes a line to the file named by `CALLS`, and
//! then does what its event's `referrer` says: `wait` until there is a file of that name with the extension `go`.

use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use oncue::{Context, Function, Result};
use oncue_app_events::web::PageViewed;

async fn call_once(event: PageViewed, _: &mut (), context: &Context) -> Result<()> {
    let path = std::env::var("CALLS").map_err(std::io::Error::other)?;
    let go = Path::new(&path).with_extension("go");
    let mut calls = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)?;
    writeln!(calls, "{} {}", event.page, context.idempotency_key("call"))?;
    match event.referrer.as_str() {
        "exit" => std::process::exit(0),
        "fail" => Err(std::io::Error::other("told to fail").into()),
        "wait" => {
            while !go.exists() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

fn main() -> ExitCode {
    oncue::run(Function::new("call-once", call_once).at_most_once())
}
