//! `oncue restore`: puts a backup back on servers that hold nothing of the app.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use oncue_admin::stores::backup::{self, Contents};
use oncue_core::app::AppName;
use oncue_core::bus::Bus;
use oncue_core::store::Store;
use oncue_proto::event;

use super::backup::failure;
use super::recover::{republish, servers_alone};
use crate::exit::{self, Failure};
use crate::settings::Settings;
use crate::terminal::confirm;
use crate::terminal::paint::{CHANGED, DIM, GOOD, number, paint, remark, say};

/// Time before the backup from which outputs are published again: clocks of two servers differ.
const MARGIN: Duration = Duration::from_mins(1);

#[derive(clap::Args)]
pub struct Args {
    /// Folder that `oncue backup` has written.
    dir: PathBuf,
    /// Remove what the servers hold of the app before: its streams, and its keys in Redis.
    #[arg(long)]
    replace: bool,
    /// Do not ask.
    #[arg(long, short)]
    yes: bool,
}

pub async fn run(args: &Args, settings: &Settings) -> Result<u8, Failure> {
    let app = &settings.config.app;
    let contents = backup::read(&args.dir, app).map_err(failure)?;
    let (bus, store) = servers_alone(settings).await?;
    let streams = backup::in_the_way(&bus, &contents).await;
    let streams = streams.map_err(Failure::silent)?;
    let is_used = store.is_used().await.map_err(Failure::silent)?;
    let mut lasts = BTreeMap::new();
    let mut gone = Vec::new();
    if !streams.is_empty() || is_used {
        lasts = last_sequences(&streams, &bus).await?;
        ask(args, &streams, is_used, app)?;
        let cleared = backup::clear(&bus, &store, &contents, &streams).await;
        gone = cleared.map_err(failure)?;
    }
    let restored = backup::restore(&bus, &store, &args.dir, &contents, &mut |line| {
        remark(paint(DIM, line));
    })
    .await;
    restored.map_err(failure)?;
    // Of the streams as they were: what is missing now came after the backup, and is named as that.
    store.forget_progress().await.map_err(Failure::silent)?;
    // A backup holds keys, and no code.
    store.lay_out().await.map_err(Failure::silent)?;
    publish_again(&contents, &bus, &store).await?;
    let begun = event::format_time(contents.begun);
    say(paint(
        GOOD,
        format_args!("The app {app} is as it was at {begun}."),
    ));
    tell_gaps(&store).await?;
    tell_removed(&contents, lasts, &gone);
    remark(paint(
        DIM,
        "Start the workers, and look at `oncue audit` when they have caught up.",
    ));
    Ok(exit::OK)
}

/// Publishes what was published while the backup was taken, and is not in its streams.
async fn publish_again(contents: &Contents, bus: &Bus, store: &Store) -> Result<(), Failure> {
    let since = contents.begun.saturating_sub(MARGIN.as_millis() as u64);
    for again in [
        republish::unpublished(bus, store).await?,
        republish::all(since, bus, store).await?,
    ] {
        if let Some(why) = again.why {
            let what = format!(
                "{} outputs could not be published; the first: {why}",
                number(again.refused)
            );
            return Err(Failure::failed(what).advise("`oncue recover nats` tries them again"));
        }
        if again.new > 0 {
            let published = format_args!("{} outputs published again", number(again.new));
            remark(paint(DIM, published));
        }
    }
    Ok(())
}

/// Names what came after the backup, a line for each stream.
async fn tell_gaps(store: &Store) -> Result<(), Failure> {
    for (stream, gap) in store.gaps().await.map_err(Failure::silent)? {
        say(format_args!(
            "{} {stream}: sequences {} to {} came after the backup and are gone; what of them was applied by then counts, the \
             others must be sent again",
            paint(CHANGED, "warning:"),
            number(gap.from),
            number(gap.to)
        ));
    }
    Ok(())
}

/// Last sequence of each stream with events that is about to be removed.
async fn last_sequences(streams: &[String], bus: &Bus) -> Result<BTreeMap<String, u64>, Failure> {
    let mut lasts = BTreeMap::new();
    for name in streams.iter().filter(|name| !is_bucket(name)) {
        let info = bus.stream_info(name).await.map_err(Failure::silent)?;
        lasts.insert(name.clone(), info.state.last_seq);
    }
    Ok(lasts)
}

/// Names what the streams that were there had and the backup has not. Those that are not `gone` have something of other apps.
fn tell_removed(contents: &Contents, lasts: BTreeMap<String, u64>, gone: &[String]) {
    for (stream, last) in lasts {
        let saved = contents.streams.iter().find(|saved| saved.name == stream);
        let saved = saved.map_or(0, |saved| saved.last);
        if last <= saved {
            continue;
        }
        let fate = if gone.contains(&stream) {
            "were removed; their senders must send them again"
        } else {
            "were removed as far as they are of this app; those of other apps stay"
        };
        say(format_args!(
            "{} {stream}: sequences {} to {} came after the backup and {fate}",
            paint(CHANGED, "warning:"),
            number(saved + 1),
            number(last)
        ));
    }
}

/// Whether a stream is that behind a bucket of files or values, and holds no events.
fn is_bucket(name: &str) -> bool {
    name.starts_with("KV_") || name.starts_with("OBJ_")
}

/// Refuses or asks before what is there is removed.
fn ask(args: &Args, streams: &[String], is_used: bool, app: &AppName) -> Result<(), Failure> {
    let mut there: Vec<String> = streams
        .iter()
        .map(|name| format!("stream {name}"))
        .collect();
    if is_used {
        there.push(format!("keys {app}:* in Redis"));
    }
    let there = there.join(", ");
    if !args.replace {
        return Err(
            Failure::failed(format_args!("the servers hold this app already: {there}"))
                .advise("`oncue backup` them first if in doubt; --replace removes them"),
        );
    }
    confirm::ask(&format!("Remove {there}?"), args.yes)
}
