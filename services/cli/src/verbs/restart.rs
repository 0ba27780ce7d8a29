//! `oncue restart`: has every `oncue up` of the app replace the processes of functions, one after the other.

use oncue_admin::services;
use oncue_admin::services::restart::{self, RestartError, RestartProgress, RestartRequest};
use oncue_core::bus::Bus;

use crate::exit::{self, Failure};
use crate::settings::Settings;
use crate::terminal::paint::{DIM, GOOD, paint, say};

#[derive(clap::Args)]
pub struct Args {
    /// Functions to restart. Default: all of them.
    functions: Vec<String>,
    /// Replace them even if the new program cannot read samples of the rows and events that are there.
    #[arg(long)]
    anyway: bool,
}

pub async fn run(args: &Args, settings: &Settings) -> Result<u8, Failure> {
    let known = &settings.config.functions;
    if let Some(unknown) = args
        .functions
        .iter()
        .find(|name| !known.contains_key(*name))
    {
        let names: Vec<&str> = known.keys().map(String::as_str).collect();
        let what = format!("oncue.toml has no function {unknown:?}");
        return Err(Failure::usage(what).advise(format!("it has {}", names.join(", "))));
    }
    let bus = settings.bus().await?;
    let found = supervisors(
        &bus,
        "start it, or restart the processes with what runs them, one after the other",
    )
    .await?;
    let mut replaced = 0;
    // One machine after the other, too: what fails on the first is not tried on the second.
    for supervisor in found {
        let request = RestartRequest {
            supervisor,
            functions: args.functions.clone(),
            rotate: false,
            anyway: args.anyway,
        };
        replaced += ask(&request, &bus).await?;
    }
    say(paint(
        GOOD,
        match replaced {
            1 => "1 process is replaced.".to_owned(),
            many => format!("{many} processes are replaced."),
        },
    ));
    Ok(exit::OK)
}

/// Has the `oncue up` that has locked the servers replace all credentials.
pub async fn rotate(settings: &Settings) -> Result<u8, Failure> {
    let bus = settings.bus().await?;
    let advice = "servers that something else runs have their own way, see deploy/SECURITY.md";
    for supervisor in supervisors(&bus, advice).await? {
        let request = RestartRequest {
            supervisor,
            functions: Vec::new(),
            rotate: true,
            anyway: false,
        };
        ask(&request, &bus).await?;
    }
    say(paint(
        GOOD,
        "All credentials are replaced; the old ones open nothing.",
    ));
    Ok(exit::OK)
}

/// Every `oncue up` of the app; there must be one.
async fn supervisors(bus: &Bus, advice: &str) -> Result<Vec<String>, Failure> {
    let found = services::supervisors(bus).await.map_err(Failure::silent)?;
    if found.is_empty() {
        let app = bus.app();
        let none = Failure::failed(format_args!("no `oncue up` of the app {app} runs"));
        return Err(none.advise(advice));
    }
    Ok(found)
}

/// Asks one `oncue up`, says what it says, and returns the number of processes it has replaced.
async fn ask(request: &RestartRequest, bus: &Bus) -> Result<u32, Failure> {
    let asked = restart::ask(request, bus, |progress| match progress {
        RestartProgress::Changed { what } => say(what),
        RestartProgress::Starting { worker, replaces } => say(paint(
            DIM,
            format_args!("  {worker} starts beside {replaces}"),
        )),
        RestartProgress::Ready { worker, replaces } => say(format_args!(
            "  {worker} is ready; {replaces} finishes what it has in flight"
        )),
        RestartProgress::Done { .. } | RestartProgress::Failed { .. } => {}
    });
    asked.await.map_err(|why| match &why {
        RestartError::Failed { replaced, .. } => Failure::failed(&why).advise(format!(
            "{replaced} processes were replaced before it; the others run on as they were"
        )),
        RestartError::Silent(_) | RestartError::Bus(_) => Failure::silent(why),
    })
}
