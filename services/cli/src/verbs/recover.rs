//! `oncue recover`: what one server has lost is made again from what the other has kept.

pub mod republish;
mod rewind;

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
