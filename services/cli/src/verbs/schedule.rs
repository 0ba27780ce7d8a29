//! `oncue schedule`: when the schedules of oncue.toml fire next.

use jiff::{Timestamp, ZonedDateTime};
use oncue_core::bus::Bus;
use oncue_core::config::Schedule;
use serde_json::{Value, json};

use crate::exit::{self, Failure};
use crate::settings::Settings;
use crate::terminal::paint::{DIM, NAME, remark, say};
use crate::terminal::table::{self, Cell, text};
use crate::zone;

#[derive(clap::Subcommand)]
pub enum Verb {
    /// Show when schedules fire next, by the clock of their zones.
    ///
    /// A cron line fires at every moment whose time and date it names by the clock of its zone. So what falls into an hour
    /// that the clock skips does not fire that day, and what falls into an hour that comes twice fires twice. An interval
    /// counts from when `oncue apply` has set it.
    Next(Args),
}

#[derive(clap::Args)]
pub struct Args {
    /// Name of one schedule. Default: all of them.
    name: Option<String>,
    /// Firings of each.
    #[arg(short, long, default_value_t = 5, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1000))]
    number: u16,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// A schedule with its next firings.
struct Coming<'s> {
    schedule: &'s Schedule,
    /// None where it is not known.
    times: Vec<ZonedDateTime>,
    /// Whether the server has it as it stands in the file; `None` where NATS does not answer.
    is_set: Option<bool>,
}

pub async fn run(verb: Verb, settings: &Settings) -> Result<u8, Failure> {
    let Verb::Next(args) = verb;
    let schedules = &settings.config.schedules;
    let chosen: Vec<&Schedule> = schedules
        .iter()
        .filter(|schedule| {
            args.name
                .as_ref()
                .is_none_or(|name| *name == schedule.name())
        })
        .collect();
    if let (Some(name), true) = (&args.name, chosen.is_empty()) {
        let names: Vec<String> = schedules.iter().map(Schedule::name).collect();
        return Err(
            Failure::usage(format_args!("there is no schedule {name:?}"))
                .advise(format!("there are: {}", names.join(", "))),
        );
    }
    // Cron lines need no server.
    let bus = settings.bus().await.ok();
    let now = Timestamp::now();
    let mut coming = Vec::new();
    for schedule in chosen {
        coming.push(next(schedule, bus.as_ref(), settings, now, args.number.into()).await?);
    }
    if args.json {
        let all: Vec<Value> = coming.iter().map(to_json).collect();
        say(serde_json::to_string_pretty(&all).unwrap_or_default());
        return Ok(exit::OK);
    }
    if coming.is_empty() {
        say("oncue.toml has no [[schedule]]");
        return Ok(exit::OK);
    }
    let rows: Vec<Vec<Cell>> = coming.iter().flat_map(|coming| rows(coming, now)).collect();
    let head = ["SCHEDULE", "RULE", "ZONE", "FIRES", "UTC", ""];
    say(table::render(&head, &rows));
    if bus.is_none() {
        remark(
            "NATS does not answer: whether it has these schedules is not known, nor when intervals fire",
        );
    }
    for coming in coming.iter().filter(|coming| coming.is_set == Some(false)) {
        let name = coming.schedule.name();
        remark(format_args!(
            "{name} is not on the server as it stands here, so it does not fire: run `oncue apply`"
        ));
    }
    Ok(exit::OK)
}

async fn next<'s>(
    schedule: &'s Schedule,
    bus: Option<&Bus>,
    settings: &Settings,
    now: Timestamp,
    number: usize,
) -> Result<Coming<'s>, Failure> {
    let set = match bus {
        Some(bus) => Some(
            bus.schedule_set(schedule, &settings.config.app)
                .await
                .map_err(Failure::silent)?,
        ),
        None => None,
    };
    let times = match (schedule.cron(), zone::of(schedule), schedule.every()) {
        (Some(cron), Some(zone), _) => zone::firings(cron, zone, now).take(number).collect(),
        (None, _, Some(every)) => match set.flatten() {
            Some(set) => zone::beats(every, set, now).take(number).collect(),
            None => Vec::new(),
        },
        _ => Vec::new(),
    };
    Ok(Coming {
        schedule,
        times,
        is_set: set.map(|set| set.is_some()),
    })
}

fn rows(coming: &Coming<'_>, now: Timestamp) -> Vec<Vec<Cell>> {
    let mut first = head(coming.schedule);
    if coming.times.is_empty() {
        first.push(text("not known").style(DIM));
        return vec![first];
    }
    let mut heads = std::iter::once(first);
    let rows = coming.times.iter().map(|time| {
        let mut row = heads
            .next()
            .unwrap_or_else(|| vec![text(""), text(""), text("")]);
        let utc = time.timestamp().strftime("%F %T");
        row.push(text(time.strftime("%a %F %T %:z").to_string()));
        row.push(text(utc.to_string()).style(DIM));
        row.push(text(zone::until(time, now)).style(DIM));
        row
    });
    rows.collect()
}

/// First cells of the first row of a schedule.
fn head(schedule: &Schedule) -> Vec<Cell> {
    vec![
        text(schedule.name()).style(NAME),
        text(schedule.rule()),
        text(schedule.zone().unwrap_or("UTC")),
    ]
}

fn to_json(coming: &Coming<'_>) -> Value {
    let schedule = coming.schedule;
    let times = coming.times.iter();
    let times = times.map(|time| time.strftime("%FT%T%:z").to_string());
    json!({
        "name": schedule.name(),
        "type": schedule.ty(),
        "rule": schedule.rule(),
        "zone": schedule.zone().unwrap_or("UTC"),
        "set": coming.is_set,
        "next": times.collect::<Vec<_>>(),
    })
}
