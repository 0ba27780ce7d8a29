//! `oncue dlq take`: who sees to a group of letters.

use oncue_admin::dead_letters;

use crate::exit::{self, Failure};
use crate::settings::Settings;
use crate::terminal::paint::{GOOD, NAME, paint, say};
use crate::who::who;

#[derive(clap::Args)]
pub struct Args {
    /// Group, as `oncue dlq ls` names it.
    group: String,
    /// Words for the others.
    #[arg(
        long,
        value_name = "TEXT",
        default_value = "",
        conflicts_with = "release"
    )]
    note: String,
    /// Leave it to whoever takes it.
    #[arg(long)]
    release: bool,
}

pub async fn run(args: &Args, settings: &Settings) -> Result<u8, Failure> {
    let bus = settings.bus().await?;
    let store = settings.store().await?;
    let group = paint(NAME, &args.group);
    if args.release {
        let had = dead_letters::release(&args.group, &store).await;
        let words = if had.map_err(Failure::silent)? {
            "nobody sees to it any more"
        } else {
            "nobody saw to it"
        };
        say(format_args!("{group}: {words}"));
        return Ok(exit::OK);
    }
    let letters = dead_letters::all(&bus).await.map_err(Failure::silent)?;
    if letters.iter().all(|letter| letter.group != args.group) {
        return Err(
            Failure::usage(format_args!("no group is called {}", args.group))
                .advise("`oncue dlq ls` lists them"),
        );
    }
    let who = who();
    let before = dead_letters::take(
        &args.group,
        &who,
        args.note.trim(),
        |group| letters.iter().any(|letter| letter.group == group),
        &store,
    )
    .await;
    let from = match before.map_err(Failure::silent)? {
        Some(before) if before.who != who => format!(", in place of {}", before.who),
        _ => String::new(),
    };
    say(paint(GOOD, format_args!("{group}: {who} sees to it{from}")));
    Ok(exit::OK)
}
