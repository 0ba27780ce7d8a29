//! The process: configuration, connections, serve until told to stop. Exit codes are those of [`oncue_http::process`].

use std::path::PathBuf;
use std::process::ExitCode;

use oncue_console::App;
use oncue_console::access::Access;
use oncue_console::server::{Guards, serve};
use oncue_http::process::{self, Failure, Process};

#[tokio::main]
async fn main() -> ExitCode {
    process::run("console", console).await
}

async fn console(process: Process) -> Result<(), Failure> {
    let config = process.config.clone();
    let token = std::env::var("ONCUE_CONSOLE_TOKEN")
        .ok()
        .filter(|token| !token.is_empty());
    let access = Access::new(token.as_deref(), config.console.write)?;
    let listen = access.place(&config.console.listen);
    if listen != config.console.listen {
        let asked = &config.console.listen;
        tracing::warn!(
            "no ONCUE_CONSOLE_TOKEN is set: listening on {listen} only, and not on {asked}"
        );
    }
    let listener = process::bind(&listen).await?;
    let catalog = process.catalog.clone();
    let app = App::start(config, catalog, programs()?, access, Guards::default()).await?;
    process::announce(&listener)?;
    serve(listener, app, process.stopped()).await;
    Ok(())
}

/// Where the functions' programs are: `ONCUE_BIN_DIR`, or where this one is.
fn programs() -> Result<PathBuf, String> {
    if let Some(named) = std::env::var_os("ONCUE_BIN_DIR").filter(|dir| !dir.is_empty()) {
        return Ok(named.into());
    }
    let here =
        std::env::current_exe().map_err(|e| format!("cannot tell where this program is: {e}"))?;
    here.parent()
        .map(PathBuf::from)
        .ok_or_else(|| "cannot tell where this program is; set ONCUE_BIN_DIR".into())
}
