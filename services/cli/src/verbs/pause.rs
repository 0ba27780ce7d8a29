//! `oncue pause` and `oncue resume`: a function gets no event for a while, and all of them afterwards.

use std::time::Duration;

use oncue_admin::consumers;
use oncue_proto::event;

use crate::exit::{self, Failure};
use crate::settings::Settings;
use crate::terminal::paint::{CHANGED, GOOD, NAME, paint, say};
use crate::when;

/// Last moment that RFC 3339 can write, at the end of the year 9999; in Unix milliseconds.
const LAST_TIME: u64 = 253_402_300_799_999;

#[derive(clap::Args)]
pub struct Args {
    /// Functions that are to get no event.
    #[arg(required = true)]
    functions: Vec<String>,
    /// How long, such as `30m`. Default: until `oncue resume`.
    #[arg(long = "for", value_name = "SPAN", value_parser = span_ahead)]
    span: Option<Duration>,
}

#[derive(clap::Args)]
pub struct ResumeArgs {
    /// Functions that are to get their events again.
    #[arg(required = true)]
    functions: Vec<String>,
}

/// Span from now on, for a clap argument: above zero, and over before the year 10000, which servers cannot be told of.
pub fn span_ahead(text: &str) -> Result<Duration, String> {
    let span = when::span(text)?;
    if span.as_millis() == 0 {
        return Err("it must be longer than nothing".to_owned());
    }
    let end = u128::from(event::now_ms()) + span.as_millis();
    if end > u128::from(LAST_TIME) {
        return Err("it ends after the year 9999".to_owned());
    }
    Ok(span)
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
    for change in change(&args.functions, settings, Some(until)).await? {
        let name = paint(NAME, change.function);
        if change.is_paused {
            let said = paint(CHANGED, "is paused");
            say(format_args!("{name} {said}: its events wait {end}"));
        } else {
            say(format_args!(
                "{name} was paused, and that is over: it gets its events"
            ));
        }
    }
    Ok(exit::OK)
}

pub async fn resume(args: &ResumeArgs, settings: &Settings) -> Result<u8, Failure> {
    for change in change(&args.functions, settings, None).await? {
        let said = if change.was_paused {
            paint(GOOD, "gets its events again within some seconds")
        } else {
            "was not paused".to_owned()
        };
        say(format_args!("{} {said}", paint(NAME, change.function)));
    }
    Ok(exit::OK)
}

/// Pause or resumption of a function, as its server tells it.
struct PauseChange<'f> {
    function: &'f str,
    was_paused: bool,
    is_paused: bool,
}

/// Pauses or resumes all of them, or none where one is unknown.
async fn change<'a>(
    functions: &'a [String],
    settings: &Settings,
    until: Option<u64>,
) -> Result<Vec<PauseChange<'a>>, Failure> {
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
        changed.push(PauseChange {
            function,
            was_paused: consumer.info.paused,
            is_paused: paused.map_err(Failure::silent)?,
        });
    }
    Ok(changed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_ahead_is_longer_than_nothing_and_ends_within_the_calendar() {
        assert_eq!(span_ahead("30m"), Ok(Duration::from_mins(30)));
        assert!(span_ahead("7000y").is_ok());
        for refused in [
            "0s",
            "1ns",
            "9000y",
            "600000000y",
            "99999999999999y",
            "soon",
        ] {
            assert!(span_ahead(refused).is_err(), "{refused}");
        }
    }
}
