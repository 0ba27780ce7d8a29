//! `oncue schedule`: when the schedules of oncue.toml fire next; one is fired now, paused or resumed.

use jiff::{SignedDuration, Timestamp, ZonedDateTime};
use oncue_admin::flows::schedules::{self, ScheduleError, ScheduleState, Standing};
use oncue_core::config::Schedule;
use oncue_proto::event;
use serde_json::{Value, json};

use crate::exit::{self, Failure};
use crate::settings::Settings;
use crate::terminal::paint::{CHANGED, DIM, GOOD, NAME, paint, remark, say};
use crate::terminal::table::{self, Cell, text};
use crate::who;

/// Source of an event that is fired from here.
const SOURCE: &str = "/oncue/cli";

#[derive(clap::Subcommand)]
pub enum Verb {
    /// Show when schedules fire next, by the clock of their zones.
    ///
    /// A cron line fires at every moment whose time and date it names by the clock of its zone. So what falls into an hour
    /// that the clock skips does not fire that day, and what falls into an hour that comes twice fires twice. An interval
    /// counts from when `oncue apply` has set it.
    Next(Args),
    /// Send the event of a schedule now; its next firing stays as it is.
    Fire(OneArgs),
    /// Have a schedule fire nothing until it is resumed, over restarts and `oncue apply`.
    Pause(OneArgs),
    /// Have a schedule fire again that is paused. An interval counts from now.
    Resume(OneArgs),
}

impl Verb {
    /// Whether it changes what an app has on the servers, or sends an event of it.
    pub fn changes_an_app(&self) -> bool {
        !matches!(self, Self::Next(_))
    }
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

#[derive(clap::Args)]
pub struct OneArgs {
    /// Name of the schedule.
    name: String,
}

pub async fn run(verb: Verb, settings: &Settings) -> Result<u8, Failure> {
    match verb {
        Verb::Next(args) => next(&args, settings).await,
        Verb::Fire(args) => fire(&args.name, settings).await,
        Verb::Pause(args) => pause(&args.name, settings).await,
        Verb::Resume(args) => resume(&args.name, settings).await,
    }
}

async fn next(args: &Args, settings: &Settings) -> Result<u8, Failure> {
    // Cron lines need no server.
    let bus = settings.bus().await.ok();
    let standing = match &bus {
        Some(bus) => Some(bus.standing_schedules().await.map_err(Failure::silent)?),
        None => None,
    };
    let now = Timestamp::now();
    let count = args.number.into();
    let mut all = schedules::all(&settings.config, standing.as_deref(), now, count);
    if let Some(name) = &args.name {
        all.retain(|schedule| schedule.name == *name);
        if all.is_empty() {
            let schedules = settings.config.schedules.iter();
            let names: Vec<String> = schedules.map(Schedule::name).collect();
            return Err(
                Failure::usage(format_args!("there is no schedule {name:?}"))
                    .advise(format!("there are: {}", names.join(", "))),
            );
        }
    }
    if args.json {
        let all: Vec<Value> = all.iter().map(to_json).collect();
        say(serde_json::to_string_pretty(&all).unwrap_or_default());
        return Ok(exit::OK);
    }
    if all.is_empty() {
        say("oncue.toml has no [[schedule]]");
        return Ok(exit::OK);
    }
    let rows: Vec<Vec<Cell>> = all.iter().flat_map(|one| rows(one, now)).collect();
    let head = ["SCHEDULE", "RULE", "ZONE", "FIRES", "UTC", ""];
    say(table::render(&head, &rows));
    if bus.is_none() {
        remark(
            "NATS does not answer: whether it has these schedules is not known, nor when intervals fire",
        );
    }
    for remarked in all.iter().filter_map(complaint) {
        remark(remarked);
    }
    Ok(exit::OK)
}

/// Sentence about a schedule that does not fire as oncue.toml says.
fn complaint(schedule: &ScheduleState) -> Option<String> {
    let name = &schedule.name;
    match schedule.standing {
        Standing::Set | Standing::Unknown => None,
        Standing::Missing => Some(format!(
            "{name} is not on the server as it stands here, so it does not fire: run `oncue apply`"
        )),
        Standing::Different => Some(format!(
            "{name} is on the server with another rule or event, by which it fires: run `oncue apply`"
        )),
        Standing::Paused => {
            let pause = schedule.pause.as_ref()?;
            let since = event::format_time(pause.since);
            let by = &pause.by;
            Some(format!(
                "{name} is paused since {since} by {by}: `oncue schedule resume {name}`"
            ))
        }
        Standing::LeftOver if schedule.pause.is_some() => Some(format!(
            "{name} is paused, and oncue.toml does not have it: `oncue apply --prune` removes it"
        )),
        Standing::LeftOver => Some(format!(
            "{name} fires, and oncue.toml does not have it: `oncue apply --prune` removes it"
        )),
    }
}

fn rows(schedule: &ScheduleState, now: Timestamp) -> Vec<Vec<Cell>> {
    let mut first = head(schedule);
    if schedule.next.is_empty() {
        first.push(if schedule.standing == Standing::Paused {
            text("paused").style(CHANGED)
        } else {
            text("not known").style(DIM)
        });
        return vec![first];
    }
    let mut heads = std::iter::once(first);
    let rows = schedule.next.iter().map(|time| {
        let mut row = heads
            .next()
            .unwrap_or_else(|| vec![text(""), text(""), text("")]);
        let utc = time.timestamp().strftime("%F %T");
        row.push(text(time.strftime("%a %F %T %:z").to_string()));
        row.push(text(utc.to_string()).style(DIM));
        row.push(text(until(time, now)).style(DIM));
        row
    });
    rows.collect()
}

/// Time until then, in words: `in 3h 20m`.
fn until(time: &ZonedDateTime, from: Timestamp) -> String {
    let left = time.timestamp().duration_since(from);
    let left = SignedDuration::from_secs(left.as_secs().max(0)).unsigned_abs();
    format!("in {}", humantime::format_duration(left))
}

/// First cells of the first row of a schedule.
fn head(schedule: &ScheduleState) -> Vec<Cell> {
    vec![
        text(&schedule.name).style(NAME),
        text(&schedule.rule),
        text(&schedule.zone),
    ]
}

fn to_json(schedule: &ScheduleState) -> Value {
    let times = schedule.next.iter();
    let times = times.map(|time| time.strftime("%FT%T%:z").to_string());
    let is_set =
        (schedule.standing != Standing::Unknown).then_some(schedule.standing == Standing::Set);
    json!({
        "name": schedule.name,
        "type": schedule.ty,
        "rule": schedule.rule,
        "zone": schedule.zone,
        "set": is_set,
        "standing": schedule.standing,
        "next": times.collect::<Vec<_>>(),
    })
}

async fn fire(name: &str, settings: &Settings) -> Result<u8, Failure> {
    let bus = settings.bus().await?;
    let catalog = settings.catalog().await?;
    let fired = schedules::fire(&bus, &settings.config, &catalog, name, SOURCE).await;
    let fired = fired.map_err(failure)?;
    let stream = &fired.ack.stream;
    let sequence = fired.ack.sequence;
    say(format_args!(
        "{} is fired: {stream} has it as {sequence}",
        paint(NAME, name)
    ));
    remark(paint(DIM, format_args!("oncue flow {}", fired.event.id)));
    Ok(exit::OK)
}

async fn pause(name: &str, settings: &Settings) -> Result<u8, Failure> {
    let bus = settings.bus().await?;
    let by = who::who();
    let paused = schedules::pause(&bus, &settings.config, name, &by).await;
    paused.map_err(failure)?;
    say(format_args!(
        "{} {}: it fires nothing until `oncue schedule resume {name}`",
        paint(NAME, name),
        paint(CHANGED, "is paused")
    ));
    Ok(exit::OK)
}

async fn resume(name: &str, settings: &Settings) -> Result<u8, Failure> {
    let bus = settings.bus().await?;
    let resumed = schedules::resume(&bus, &settings.config, name).await;
    resumed.map_err(failure)?;
    say(format_args!(
        "{} {}",
        paint(NAME, name),
        paint(GOOD, "fires again")
    ));
    Ok(exit::OK)
}

fn failure(why: ScheduleError) -> Failure {
    match &why {
        ScheduleError::Unknown(_) => Failure::usage(why).advise("`oncue schedule next` lists them"),
        ScheduleError::Refused(_) | ScheduleError::Changed(_) => Failure::failed(why),
        ScheduleError::Admin(_) | ScheduleError::Publish(_) => Failure::silent(why),
    }
}
