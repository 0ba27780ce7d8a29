//! `oncue pause` and `oncue resume`: a function gets no event for a while, and all of them afterwards.

use std::time::Duration;

use oncue_admin::consumers;
use oncue_proto::event;

use crate::exit::{self, Failure};
use crate::settings::Settings;
use crate::terminal::paint::{CHANGED, GOOD, NAME, paint, say};
use crate::when;

#[derive(clap::Args)]
pub struct Args {
    /// Functions that are to get no event.
    #[arg(required = true)]
    functions: Vec<String>,
    /// How long, such as `30m`. Default: until `oncue resume`.
    #[arg(long = "for", value_name = "SPAN", value_parser = when::span)]
    span: Option<Duration>,
}

#[derive(clap::Args)]
pub struct ResumeArgs {
    /// Functions that are to get their events again.
    #[arg(required = true)]
    functions: Vec<String>,
}

pub async fn run(args: &Args, settings: &Settings) -> Result<u8, Failure> {
    let until = consumers::pause_end(args.span);
    let end = match args.span {
        Some(_) => format!(
            "until {}, or `oncue resume {}`",
            event::format_time(until),
            args.functions.join(" ")
        ),
        None => format!("until `oncue resume {}`", args.functions.join(" ")),
    };
    change(&args.functions, settings, Some(until)).await?;
    for function in &args.functions {
        say(format_args!(
            "{} {}: its events wait {end}",
            paint(NAME, function),
            paint(CHANGED, "is paused")
        ));
    }
    Ok(exit::OK)
}

pub async fn resume(args: &ResumeArgs, settings: &Settings) -> Result<u8, Failure> {
    for (function, was_paused) in change(&args.functions, settings, None).await? {
        let said = if was_paused {
            paint(GOOD, "gets its events again")
        } else {
            "was not paused".to_owned()
        };
        say(format_args!("{} {said}", paint(NAME, function)));
    }
    Ok(exit::OK)
}

/// Pauses or resumes all of them, or none where one is unknown. Returns which were paused before.
async fn change<'a>(
    functions: &'a [String],
    settings: &Settings,
    until: Option<u64>,
) -> Result<Vec<(&'a str, bool)>, Failure> {
    let bus = settings.bus().await?;
    let known = consumers::all(&bus).await.map_err(Failure::silent)?;
    if let Some(unknown) = functions.iter().find(|name| !known.contains_key(*name)) {
        let names: Vec<&str> = known.keys().map(String::as_str).collect();
        let app = &settings.config.app;
        let what = format!("app {app} has no consumer of a function {unknown:?}");
        return Err(Failure::failed(what).advise(format!(
            "it has {}; `oncue apply` makes those that are missing",
            names.join(", ")
        )));
    }
    let mut changed = Vec::new();
    for function in functions {
        let consumer = &known[function];
        let paused = bus.pause(&consumer.stream, function, until).await;
        paused.map_err(Failure::silent)?;
        changed.push((function.as_str(), consumer.info.paused));
    }
    Ok(changed)
}
