//! `oncue tend`: what `oncue up` does besides running processes, for an app whose processes something else runs: see
//! [`upkeep`]. Runs until it is told to stop; any number of them may run.

use oncue_admin::stores::upkeep::{self, Upkeep};
use tokio::signal::unix::{SignalKind, signal};

use crate::exit::{self, Failure};
use crate::settings::Settings;
use crate::terminal::paint::{BAD, DIM, paint, say};

#[derive(clap::Args)]
pub struct Args {
    /// Do what is due once, and end.
    #[arg(long)]
    once: bool,
}

pub async fn run(args: &Args, settings: &Settings) -> Result<u8, Failure> {
    let bus = settings.bus().await?;
    let store = settings.store().await?;
    let mut upkeep = Upkeep::new(&bus, &store, &settings.config);
    let mut stop = signal(SignalKind::terminate())
        .map_err(|e| Failure::failed(format_args!("cannot handle signals: {e}")))?;
    say(paint(DIM, "tending the streams of this app"));
    loop {
        let notes = upkeep.round().await;
        for note in &notes {
            let style = if note.is_bad() { BAD } else { DIM };
            say(paint(style, note));
        }
        if args.once {
            let is_bad = notes.iter().any(upkeep::Note::is_bad);
            return Ok(if is_bad { exit::FAILED } else { exit::OK });
        }
        tokio::select! {
            () = tokio::time::sleep(upkeep::INTERVAL) => {}
            _ = stop.recv() => return Ok(exit::OK),
            _ = tokio::signal::ctrl_c() => return Ok(exit::OK),
        }
    }
}
