//! `oncue scale`: other bounds of a function's workers than those of oncue.toml, until they are taken away.

use oncue_admin::services;
use oncue_admin::services::bounds::{self, SetBounds};
use oncue_core::bus::Bus;
use oncue_proto::event;

use crate::exit::{self, Failure};
use crate::settings::Settings;
use crate::terminal::paint::{CHANGED, GOOD, NAME, paint, remark, say};
use crate::who;

#[derive(clap::Args)]
pub struct Args {
    function: String,
    /// Fewest workers, on each machine. Default: as oncue.toml says.
    #[arg(long, value_name = "N")]
    min: Option<u32>,
    /// Most workers, on each machine. Default: as oncue.toml says, and no fewer than the fewest.
    #[arg(long, value_name = "N")]
    max: Option<u32>,
    /// Why, for the record.
    #[arg(long, value_name = "TEXT", required_unless_present = "reset")]
    reason: Option<String>,
    /// Take such bounds away: those of oncue.toml count again.
    #[arg(long, conflicts_with_all = ["min", "max", "reason"])]
    reset: bool,
}

pub async fn run(args: &Args, settings: &Settings) -> Result<u8, Failure> {
    let name = &args.function;
    let bus = settings.bus().await?;
    if args.reset {
        return reset(name, &bus, settings).await;
    }
    let known = &settings.config.functions;
    let Some(function) = known.get(name) else {
        let names: Vec<&str> = known.keys().map(String::as_str).collect();
        let what = format!("oncue.toml has no function {name:?}");
        return Err(Failure::usage(what).advise(format!("it has {}", names.join(", "))));
    };
    let of_file = function.scale();
    if args.min.is_none() && args.max.is_none() {
        return Err(Failure::usage("say --min, --max or both, or --reset"));
    }
    let min = args.min.unwrap_or(of_file.min);
    let set = SetBounds {
        min,
        max: args.max.unwrap_or(of_file.max.max(min)),
        at: event::now_ms(),
        by: who::who(),
        reason: args.reason.clone().unwrap_or_default(),
    };
    set.check().map_err(Failure::usage)?;
    bounds::set(&bus, name, &set)
        .await
        .map_err(Failure::silent)?;
    let SetBounds { min, max, .. } = set;
    say(format_args!(
        "{} {} until `oncue scale {name} --reset`",
        paint(NAME, name),
        paint(CHANGED, format_args!("has {min} to {max} workers"))
    ));
    let found = services::supervisors(&bus).await.map_err(Failure::silent)?;
    if found.is_empty() {
        remark("no `oncue up` of this app runs: the next one begins with these bounds");
    }
    Ok(exit::OK)
}

/// Takes bounds away, of a function that is gone as well: one of its name would begin with them.
async fn reset(name: &str, bus: &Bus, settings: &Settings) -> Result<u8, Failure> {
    let set = bounds::of(bus, name).await.map_err(Failure::silent)?;
    let is_known = settings.config.functions.contains_key(name);
    if set.is_none() && !is_known {
        let what = format!("there is no function {name:?}, and no bounds are set for one");
        return Err(Failure::usage(what));
    }
    bounds::take_away(bus, name)
        .await
        .map_err(Failure::silent)?;
    let outcome = if is_known {
        "has the bounds of oncue.toml again"
    } else {
        "has no bounds any more"
    };
    say(format_args!(
        "{} {}",
        paint(NAME, name),
        paint(GOOD, outcome)
    ));
    Ok(exit::OK)
}
