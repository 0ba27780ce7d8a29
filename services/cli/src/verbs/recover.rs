//! `oncue recover`: what one server has lost is made again from what the other has kept.

pub mod republish;
mod rewind;

use std::time::Duration;

use oncue_admin::functions::Overview;
use oncue_core::bus::Bus;
use oncue_core::store::Store;

use crate::exit::Failure;
use crate::settings::Settings;

#[derive(clap::Subcommand)]
pub enum Verb {
    /// Redis went back in time: deliver again what was acked since, so that lost effects are made once more.
    Redis(rewind::Args),
    /// NATS lost what it had acked: publish again the outputs that Redis has kept.
    Nats(republish::Args),
}

pub async fn run(verb: Verb, settings: &Settings) -> Result<u8, Failure> {
    match verb {
        Verb::Redis(args) => rewind::run(&args, settings).await,
        Verb::Nats(args) => republish::run(&args, settings).await,
    }
}

/// Longest silence of workers that are asked whether they run.
const REPLY_GAP: Duration = Duration::from_millis(300);

/// Both servers, with no function of the app at work.
pub async fn servers_alone(settings: &Settings) -> Result<(Bus, Store), Failure> {
    let alone = "start the servers without the functions: `oncue up --servers`; or name others with --nats or --redis";
    let bus = settings.bus().await.map_err(|e| e.advise(alone))?;
    let store = settings.store().await.map_err(|e| e.advise(alone))?;
    refuse_beside_workers(&bus).await?;
    Ok((bus, store))
}

/// Refuses while functions of the app run: they would commit between the steps of a recovery or a restore.
async fn refuse_beside_workers(bus: &Bus) -> Result<(), Failure> {
    let overview = Overview::read(bus, REPLY_GAP).await;
    let overview = overview.map_err(Failure::silent)?;
    let workers = overview.workers.into_iter().map(|worker| worker.function);
    let mut running: Vec<String> = workers.collect();
    running.sort();
    running.dedup();
    if running.is_empty() {
        return Ok(());
    }
    Err(
        Failure::failed(format_args!("{} still run", running.join(", ")))
            .advise("stop `oncue up`, or whatever runs them; `oncue up --servers` runs the servers meanwhile"),
    )
}
