//! `oncue restart`: has every `oncue up` of the app replace the processes of functions, one after the other.

use std::time::Duration;

use oncue_admin::services;
use oncue_core::bus::Bus;

use super::apply;
use crate::exit::{self, Failure};
use crate::manifests;
use crate::settings::Settings;
use crate::terminal::paint::{DIM, GOOD, paint, say};
use crate::up::restart::{Progress, Request, subject};

/// Silence after which an `oncue up` is taken for gone: it says at least once in that time how far it is.
const SILENCE: Duration = Duration::from_mins(2);

#[derive(clap::Args)]
pub struct Args {
    /// Functions to restart. Default: all of them.
    functions: Vec<String>,
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
    let found = services::supervisors(&bus).await.map_err(Failure::silent)?;
    if found.is_empty() {
        let app = &settings.config.app;
        return Err(
            Failure::failed(format_args!("no `oncue up` of the app {app} runs")).advise(
                "start it, or restart the processes with what runs them, one after the other",
            ),
        );
    }
    // A process that does not fit would only fail to become ready.
    let names: Vec<String> = settings.config.functions.keys().cloned().collect();
    let manifests = manifests::of(settings, &names).await?;
    let advice =
        "no process was replaced; `oncue check` says more, and the processes run on as they were";
    apply::let_in(settings, &manifests, &bus, advice).await?;
    let mut replaced = 0;
    // One machine after the other, too: what fails on the first is not tried on the second.
    for supervisor in found {
        replaced += on(&supervisor, &args.functions, &bus).await?;
    }
    say(paint(
        GOOD,
        format_args!("{replaced} processes are replaced."),
    ));
    Ok(exit::OK)
}

/// Restarts what one `oncue up` runs; returns the number of processes.
async fn on(supervisor: &str, functions: &[String], bus: &Bus) -> Result<u32, Failure> {
    let request = Request {
        supervisor: supervisor.to_owned(),
        functions: functions.to_vec(),
    };
    let body = serde_json::to_vec(&request).unwrap_or_default();
    let answers = bus.question(&subject(bus.app()), body.into()).await;
    let mut answers = answers.map_err(Failure::silent)?;
    loop {
        let answer = tokio::time::timeout(SILENCE, answers.next()).await;
        let Ok(Some(answer)) = answer else {
            return Err(Failure::silent(format_args!(
                "{supervisor} does not say how far it is"
            )));
        };
        match serde_json::from_slice(&answer.payload) {
            Ok(Progress::Starting { worker, replaces }) => say(paint(
                DIM,
                format_args!("  {worker} starts beside {replaces}"),
            )),
            Ok(Progress::Ready { worker, replaces }) => say(format_args!(
                "  {worker} is ready; {replaces} finishes what it has in flight"
            )),
            Ok(Progress::Done { replaced }) => return Ok(replaced),
            Ok(Progress::Failed {
                worker,
                why,
                replaced,
            }) => {
                let what = format!("{worker} {why}");
                return Err(Failure::failed(what).advise(format!(
                    "{replaced} processes were replaced before it; the others run on as they were"
                )));
            }
            // Of another version, which says more than is known here.
            Err(_) => {}
        }
    }
}
