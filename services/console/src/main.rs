//! The process: configuration, connections, serve until told to stop.
//!
//! Exit codes: 0 stopped as told, 1 a server is not reachable or does not fit, 2 the configuration is wrong.

use std::path::PathBuf;
use std::process::ExitCode;

use oncue_console::App;
use oncue_console::access::Access;
use oncue_console::server::{Guards, serve};
use oncue_core::config::Config;
use oncue_proto::Catalog;
use oncue_proto::event;
use oncue_telemetry::{Service, Telemetry};
use tokio::net::TcpListener;

#[tokio::main]
async fn main() -> ExitCode {
    let loaded =
        Config::load().and_then(|config| config.catalog().map(|catalog| (config, catalog)));
    let (config, catalog) = match loaded {
        Ok(loaded) => loaded,
        Err(errors) => {
            eprintln!("{errors}");
            return ExitCode::from(2);
        }
    };
    let telemetry = Telemetry::start(Service::Program { name: "console" }, &event::new_id());
    let ended = run(config, catalog).await;
    telemetry.close().await;
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("oncue-console: {why}");
            ExitCode::FAILURE
        }
    }
}

async fn run(config: Config, catalog: Catalog) -> Result<(), String> {
    // Before anything is promised: whoever waits for the line below may send the signal at once.
    let mut stop =
        oncue_core::process::stop_signal().map_err(|e| format!("cannot handle signals: {e}"))?;
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
    let listener = TcpListener::bind(&listen)
        .await
        .map_err(|e| format!("cannot listen on {listen}: {e}"))?;
    let at = listener.local_addr().map_err(|e| e.to_string())?;
    let app = App::start(config, catalog, programs()?, access, Guards::default()).await?;
    tracing::info!("listening on http://{at}");
    serve(listener, app, async move {
        let _ = stop.wait_for(|stop| *stop).await;
    })
    .await;
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
