//! `oncue recover redis`: every consumer begins again where the loss began. Seen-marks come and go with the state
//! they belong to, so what survived is skipped and what was lost is applied: going back too far costs time, nothing
//! else.

use std::time::Duration;

use oncue_core::bus::Bus;
use oncue_core::bus::layout::TIMER;
use oncue_core::model::manifest::Manifest;
use oncue_proto::event;

use crate::exit::{self, Failure};
use crate::settings::Settings;
use crate::terminal::confirm;
use crate::terminal::paint::{CHANGED, DIM, GOOD, NAME, number, paint, remark, say};
use crate::terminal::table::{self, text};
use crate::{manifests, when};

/// Time gone back further than the loss: clocks of two servers differ, and commits were on their way.
const MARGIN: Duration = Duration::from_mins(1);

#[derive(clap::Args)]
pub struct Args {
    /// When the loss began: a time (2026-01-31T12:00:00Z) or a duration ago (15m). Default: as the workers found out.
    #[arg(long, value_name = "T", value_parser = when::since)]
    since: Option<u64>,
    /// Do not ask.
    #[arg(long, short)]
    yes: bool,
}

/// Rewind of one function's consumer.
struct Rewind {
    function: String,
    stream: String,
    /// Where its consumer begins again; `None` if nothing has come since.
    from: Option<u64>,
    /// Messages from there on, of whatever type.
    most: u64,
}

pub async fn run(args: &Args, settings: &Settings) -> Result<u8, Failure> {
    let names: Vec<String> = settings.config.functions.keys().cloned().collect();
    let manifests = manifests::of(settings, &names).await?;
    let bus = settings.bus().await?;
    let store = settings.store().await?;
    let regression = store.regression().await.map_err(Failure::silent)?;
    if let Some(regression) = &regression {
        remark(regression);
    }
    let found = regression
        .as_ref()
        .map(|regression| regression.since.saturating_sub(MARGIN.as_millis() as u64));
    let since = args.since.or(found).ok_or_else(|| {
        Failure::usage("no worker has seen Redis go back in time").advise(
            "if you know better, say when the loss began: `oncue recover redis --since 15m`",
        )
    })?;
    let mut rewinds = Vec::new();
    for manifest in &manifests {
        let lost = regression
            .as_ref()
            .and_then(|regression| regression.from.get(&manifest.name).copied());
        rewinds.extend(plan(manifest, since, lost, &bus).await?);
    }
    // Before the question: what cannot be brought back is part of the decision.
    warn(&rewinds, since, &bus, settings).await?;
    let most: u64 = rewinds
        .iter()
        .filter(|plan| plan.from.is_some())
        .map(|plan| plan.most)
        .sum();
    let question = format!(
        "Deliver again what came since {} (up to {} events)?",
        event::format_time(since),
        number(most)
    );
    confirm::ask(&question, args.yes)?;
    say(table::render(
        &["FUNCTION", "STREAM", "FROM", "DELIVERED AGAIN"],
        &rewind(&rewinds, &bus).await?,
    ));
    // Last: should a rewind fail, workers still refuse to start, and this is run again.
    store.clear_regression().await.map_err(Failure::silent)?;
    say(paint(
        GOOD,
        "Workers may be started again: what survived is skipped, what was lost is applied.",
    ));
    remark(paint(
        DIM,
        "When they have caught up (`oncue ps`), `oncue audit` tells whether anything is still missing: what a worker had \
         applied that did not live to say so may need an earlier --since.",
    ));
    Ok(exit::OK)
}

/// `None` for a function that has no consumer: it begins with the whole stream anyway. `lost` is the lowest place of
/// what its workers know to be lost, which may have been published long before.
async fn plan(
    manifest: &Manifest,
    since: u64,
    lost: Option<u64>,
    bus: &Bus,
) -> Result<Option<Rewind>, Failure> {
    let function = &manifest.name;
    let stream = &manifest.stream;
    let consumer = match bus.consumer_info(stream, function).await {
        Ok(info) => info,
        Err(e) if e.is_not_found() => {
            remark(format_args!(
                "{function}: it has no consumer yet, so it has nothing to restore"
            ));
            return Ok(None);
        }
        Err(e) => return Err(Failure::silent(e)),
    };
    // One that was to begin with new events must not get those from before its time.
    let born = match consumer.config.deliver_policy.as_str() {
        "new" => consumer.created_ms().unwrap_or(0),
        _ => 0,
    };
    let first = bus
        .first_since(stream, since.max(born))
        .await
        .map_err(Failure::silent)?;
    let info = bus.stream_info(stream).await.map_err(Failure::silent)?;
    let last = info.state.last_seq;
    // Never ahead of what is still to be done: that would skip it.
    let floor = consumer.ack_floor.stream_seq;
    let from = first
        .map(|first| first.min(lost.unwrap_or(first)).min(floor + 1))
        .filter(|from| *from <= floor);
    let most = from.map_or(0, |from| (last + 1).saturating_sub(from));
    Ok(Some(Rewind {
        function: function.clone(),
        stream: stream.clone(),
        from,
        most,
    }))
}

/// Warns of what going back cannot bring back.
async fn warn(
    rewinds: &[Rewind],
    since: u64,
    bus: &Bus,
    settings: &Settings,
) -> Result<(), Failure> {
    let mut streams: Vec<&str> = rewinds
        .iter()
        .map(|plan| plan.stream.as_str())
        .filter(|s| *s != TIMER)
        .collect();
    streams.sort_unstable();
    streams.dedup();
    for stream in streams {
        let state = bus
            .stream_info(stream)
            .await
            .map_err(Failure::silent)?
            .state;
        let first = state.first_ms();
        if state.first_seq > 1 && first > since {
            let begins = event::format_time(first);
            say(format_args!(
                "{} the stream {stream} begins only at {begins}: effects of what came before cannot be restored",
                paint(CHANGED, "warning:")
            ));
        }
        let horizon = settings.config.stream(stream).horizon.0;
        if event::now_ms().saturating_sub(horizon.as_millis() as u64) > since {
            say(format_args!(
                "{} that is longer ago than the horizon of {stream} ({}): of what is older, lost effects become dead \
                 letters (too_old), to be redriven with `oncue dlq redrive --reason too_old`",
                paint(CHANGED, "warning:"),
                humantime::format_duration(horizon)
            ));
        }
    }
    Ok(())
}

/// Rewinds one after another; a row for each.
async fn rewind(rewinds: &[Rewind], bus: &Bus) -> Result<Vec<Vec<table::Cell>>, Failure> {
    let mut rows = Vec::new();
    for Rewind {
        function,
        stream,
        from,
        ..
    } in rewinds
    {
        let mut again = 0;
        if let Some(from) = from {
            again = bus.rewind(stream, function, *from).await.map_err(|e| {
                Failure::failed(format_args!("{function} cannot be rewound: {e}")).advise(
                    "nothing is lost by running this again; until then the workers stay stopped",
                )
            })?;
        }
        rows.push(vec![
            text(function).style(NAME),
            text(stream),
            text(from.map_or_else(|| "-".to_owned(), |from| from.to_string())).right(),
            table::number(again),
        ]);
    }
    Ok(rows)
}
