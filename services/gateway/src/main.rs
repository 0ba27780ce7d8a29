//! The process: configuration, connections, serve until told to stop. Exit codes are those of
//! [`oncue_http::process`].

use std::process::ExitCode;

use oncue_core::config::Role;
use oncue_gateway::App;
use oncue_gateway::server::{Guards, serve};
use oncue_http::process::{self, Failure, Process};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[tokio::main]
async fn main() -> ExitCode {
    // The configuration is in it, which is large.
    Box::pin(process::run("gateway", Role::Gateway, gateway)).await
}

async fn gateway(process: Process) -> Result<(), Failure> {
    let config = &process.config;
    // Here too, since a folder that is not there is a mistake in the file and not a server that is away.
    config.site_dir()?;
    oncue_telemetry::set_peers(config.nats.url.expose(), config.redis.url.expose());
    let listener = process::bind(&config.gateway.listen).await?;
    let app = App::start(config, process.catalog.clone(), Guards::default()).await?;
    process::announce(&listener, config.gateway.tls.as_ref())?;
    serve(listener, app, process.stopped()).await;
    Ok(())
}
