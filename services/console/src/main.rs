//! The process: configuration, connections, serve until told to stop. Exit codes are those of
//! [`oncue_http::process`].

use std::process::ExitCode;

use oncue_console::App;
use oncue_console::access::Access;
use oncue_console::access::oidc::Door;
use oncue_console::server::{Guards, serve};
use oncue_core::config::Role;
use oncue_http::process::{self, Failure, Process};

#[tokio::main]
async fn main() -> ExitCode {
    Box::pin(process::run("console", Role::Console, console)).await
}

async fn console(process: Process) -> Result<(), Failure> {
    let config = process.config.clone();
    let token = std::env::var("ONCUE_CONSOLE_TOKEN")
        .ok()
        .filter(|token| !token.is_empty());
    let door = Door::new(&config)?;
    let access = Access::new(token.as_deref(), config.console.write, door)?;
    let listen = access.place(&config.console.listen);
    if listen != config.console.listen {
        let asked = &config.console.listen;
        tracing::warn!(
            "no ONCUE_CONSOLE_TOKEN is set: listening on {listen} only, and not on {asked}"
        );
    }
    let listener = process::bind(&listen).await?;
    let catalog = process.catalog.clone();
    let app = App::start(
        config,
        catalog,
        process.programs.clone(),
        access,
        Guards::default(),
    )
    .await?;
    process::announce(&listener, process.config.console.tls.as_ref())?;
    serve(listener, app, process.stopped()).await;
    Ok(())
}
