//! The process: configuration, connections, serve until told to stop.
//!
//! Exit codes: 0 stopped as told, 1 a server is not reachable or does not fit, 2 the configuration is wrong.

use std::process::ExitCode;

use oncue_core::config::Config;
use oncue_gateway::App;
use oncue_gateway::server::{Guards, serve};
use oncue_proto::Catalog;
use oncue_proto::event;
use oncue_telemetry::{Service, Telemetry};
use tokio::net::TcpListener;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

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
    let telemetry = Telemetry::start(Service::Program { name: "gateway" }, &event::new_id());
    oncue_telemetry::set_peers(config.nats_url.expose(), config.redis_url.expose());
    let ended = run(&config, catalog).await;
    telemetry.close().await;
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("oncue-gateway: {why}");
            ExitCode::FAILURE
        }
    }
}

async fn run(config: &Config, catalog: Catalog) -> Result<(), String> {
    // Before anything is promised: whoever waits for the line below may send the signal at once.
    let mut stop =
        oncue_core::process::stop_signal().map_err(|e| format!("cannot handle signals: {e}"))?;
    let listen = &config.gateway.listen;
    let listener = TcpListener::bind(listen)
        .await
        .map_err(|e| format!("cannot listen on {listen}: {e}"))?;
    let at = listener.local_addr().map_err(|e| e.to_string())?;
    let app = App::start(config, catalog, Guards::default()).await?;
    tracing::info!("listening on http://{at}");
    serve(listener, app, async move {
        let _ = stop.wait_for(|stop| *stop).await;
    })
    .await;
    Ok(())
}
