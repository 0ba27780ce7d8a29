//! `oncue recover redis`: every consumer begins again where the loss began. Seen-marks come and go with the state
//! they belong to, so what survived is skipped and what was lost is applied: going back too far costs time, nothing
//! else.
//!
//! Two things would be made twice, and are told to Redis before any event is delivered again: what followed from events
//! that had been acked is in its streams already, so it is not published again ([`Restoring`]); and events that were set
//! aside, or dropped after that, are marked as dead, so that no second letter is written.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use bytes::Bytes;
use oncue_admin::dead_letters;
use oncue_core::bus::Bus;
use oncue_core::bus::info::ConsumerInfo;
use oncue_core::bus::layout::TIMER;
use oncue_core::bus::pull::Capacity;
use oncue_core::model::manifest::Manifest;
use oncue_core::secret;
use oncue_core::store::{CommitEvent, Mark, Purpose, Restoring, Run, Store};
use oncue_proto::event;

use crate::exit::{self, Failure};
use crate::settings::Settings;
use crate::terminal::confirm;
use crate::terminal::paint::{CHANGED, DIM, GOOD, NAME, number, paint, remark, say};
use crate::terminal::table::{self, text};
use crate::{manifests, when};

/// Dead letters recorded in one commit.
const RUNS_AT_A_TIME: usize = 200;
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

/// Longest wait for events that were in flight, beyond the ack wait: their retries may have been put off.
const IN_FLIGHT_WAIT: Duration = Duration::from_secs(90);

/// Rewind of one function's consumer.
struct Rewind {
    function: String,
    stream: String,
    /// Creation time of the stream, Unix milliseconds.
    created: u64,
    /// State of the consumer before the rewind.
    consumer: ConsumerInfo,
    /// Where its consumer begins again; `None` if nothing has come since.
    from: Option<u64>,
    /// Messages from there on, of whatever type.
    most: u64,
}

pub async fn run(args: &Args, settings: &Settings) -> Result<u8, Failure> {
    let names: Vec<String> = settings.config.functions.keys().cloned().collect();
    let manifests = manifests::of(settings, &names).await?;
    let (bus, store) = super::servers_alone(settings).await?;
    let regression = store
        .regression(&names_of(&names))
        .await
        .map_err(Failure::silent)?;
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
    lay_out(&manifests, &bus, &store).await?;
    restore_dead_marks(&manifests, settings, &bus, &store).await?;
    for plan in &rewinds {
        restore(plan, &bus, &store).await?;
    }
    say(table::render(
        &["FUNCTION", "STREAM", "FROM", "DELIVERED AGAIN"],
        &rewind(&rewinds, &bus).await?,
    ));
    // Last: should a rewind fail, workers still refuse to start, and this is run again.
    store
        .clear_regression(&names_of(&names))
        .await
        .map_err(Failure::silent)?;
    say(paint(
        GOOD,
        "Workers may be started again: what survived is skipped, what was lost is applied.",
    ));
    remark(paint(
        DIM,
        "What Redis alone had is not in the streams: API keys, logins, limits of clients, counts, owners of letters, and rows that \
         somebody has edited by hand. As far as it has lost these, make them anew.",
    ));
    remark(paint(
        DIM,
        "When they have caught up (`oncue ps`), `oncue audit` tells whether anything is still missing: what a worker had \
         applied that did not live to say so may need an earlier --since.",
    ));
    Ok(exit::OK)
}

/// Makes what a Redis that was emptied lacks, and what workers look for: layout, library, secret, registry.
async fn lay_out(manifests: &[Manifest], bus: &Bus, store: &Store) -> Result<(), Failure> {
    store.lay_out().await.map_err(Failure::silent)?;
    let secret = secret::id_secret(bus, store).await;
    secret.map_err(Failure::silent)?;
    for manifest in manifests {
        store.register(manifest).await.map_err(Failure::silent)?;
    }
    Ok(())
}

fn names_of(names: &[String]) -> Vec<&str> {
    names.iter().map(String::as_str).collect()
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
    let first = bus
        .first_since(stream, since.max(consumer.began_ms()))
        .await
        .map_err(Failure::silent)?;
    let info = bus.stream_info(stream).await.map_err(Failure::silent)?;
    let last = info.state.last_seq;
    // Acked is what lies up to the ack floor, and much of what was delivered beyond it: one event that is retried holds the
    // floor back.
    let floor = consumer.ack_floor.stream_seq;
    let first_lost = first.into_iter().chain(lost).min();
    let from = first_lost
        .filter(|lost| *lost <= consumer.delivered.stream_seq)
        // Never ahead of what is still to be done: that would skip it.
        .map(|lost| lost.min(floor + 1));
    let most = from.map_or(0, |from| (last + 1).saturating_sub(from));
    Ok(Some(Rewind {
        function: function.clone(),
        stream: stream.clone(),
        created: info.created_ms().unwrap_or(0),
        consumer,
        from,
        most,
    }))
}

/// Marks events as dead that were set aside or given up and are not redriven since: as far as Redis has lost that, it
/// would be found out again, and written down again.
async fn restore_dead_marks(
    manifests: &[Manifest],
    settings: &Settings,
    bus: &Bus,
    store: &Store,
) -> Result<(), Failure> {
    let letters = dead_letters::settled(bus).await.map_err(Failure::silent)?;
    // By function: a commit looks for marks in one place.
    let mut of_function: BTreeMap<&str, Vec<Run>> = BTreeMap::new();
    for letter in letters {
        // Of a function that is not ours, or one that did not act on the event but emitted it.
        let Some(manifest) = manifests.iter().find(|m| m.name == letter.function) else {
            continue;
        };
        let horizon = settings.config.stream(&manifest.stream).horizon.0;
        let mark = Mark {
            horizon: horizon.as_millis() as u64,
            redrive: letter.redrives,
            sequence: letter.sequence,
            ..Mark::of_id(&letter.function.as_str().into(), &letter.event_id)
        };
        let event = CommitEvent {
            mark,
            payload_hash: letter.payload_hash,
            ops: Vec::new(),
            outbox: Bytes::new(),
            purpose: Purpose::DeadLetter,
            entry: None,
        };
        of_function.entry(&manifest.name).or_default().push(Run {
            row: None,
            events: vec![event],
        });
    }
    let chunks = of_function
        .values()
        .flat_map(|runs| runs.chunks(RUNS_AT_A_TIME));
    for runs in chunks {
        store.commit(runs).await.map_err(Failure::silent)?;
    }
    Ok(())
}

/// Tells the workers of a function which events had been acked.
async fn restore(plan: &Rewind, bus: &Bus, store: &Store) -> Result<(), Failure> {
    let Some(from) = plan.from else {
        return Ok(());
    };
    let floor = plan.consumer.ack_floor.stream_seq;
    // Of what was delivered beyond the floor, some had been acked and some not.
    let unacked = unacked(plan, bus).await?;
    let mut restoring = Restoring {
        created: plan.created,
        from,
        to: plan.consumer.delivered.stream_seq,
        unacked: BTreeSet::new(),
    };
    if let Some(unacked) = unacked {
        restoring.unacked = unacked;
    } else {
        restoring.to = floor;
        remark(format_args!(
            "{}: what was in flight cannot be told from what was acked since; events from {} on run as if for the \
             first time",
            plan.function,
            floor + 1
        ));
    }
    let before = store.restoring(&plan.function).await;
    if let Some(before) = before.map_err(Failure::silent)? {
        restoring = restoring.and(&before);
    }
    let told = store.restore(&plan.function, &restoring).await;
    told.map_err(Failure::silent)
}

/// Sequences of the events that were in flight: the server delivers them again once their ack wait is over. `None` if
/// not all come in time.
async fn unacked(plan: &Rewind, bus: &Bus) -> Result<Option<BTreeSet<u64>>, Failure> {
    let in_flight = plan.consumer.num_ack_pending as usize;
    let mut found = BTreeSet::new();
    if in_flight == 0 {
        return Ok(Some(found));
    }
    let ack_wait = Duration::from_nanos(plan.consumer.config.ack_wait);
    remark(format_args!(
        "{}: {} events were in flight; they come again within {}, or later where a retry was put off (this waits for {} at most)",
        plan.function,
        number(in_flight as u64),
        humantime::format_duration(ack_wait),
        humantime::format_duration(ack_wait + IN_FLIGHT_WAIT)
    ));
    tokio::time::sleep(ack_wait).await;
    let deadline = Instant::now() + IN_FLIGHT_WAIT;
    let pull = bus.pull(&plan.stream, plan.created, &plan.function).await;
    let mut pull = pull.map_err(Failure::silent)?;
    while found.len() < in_flight && Instant::now() < deadline {
        let missing = Capacity::of(in_flight - found.len());
        pull.ask(missing).await.map_err(Failure::failed)?;
        let next = tokio::time::timeout(Duration::from_secs(1), pull.next()).await;
        let Ok(deliveries) = next else { continue };
        let last = plan.consumer.delivered.stream_seq;
        let again = deliveries.map_err(Failure::failed)?.into_iter();
        let sequences = again.map(|delivery| delivery.info.sequence);
        found.extend(sequences.filter(|sequence| *sequence <= last));
    }
    // What it took beyond these is given back by the rewind.
    pull.close().await;
    Ok((found.len() >= in_flight).then_some(found))
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
