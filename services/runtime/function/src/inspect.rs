//! Questions of an operator to a function besides to serve: `--audit` (what became of every event in the stream) and
//! `--check` (whether it can read what is there). Only the function's own code knows its key and its types, so it is its own
//! binary that answers, as JSON on stdout.

mod check;
mod dry_run;

use std::collections::HashSet;
use std::panic::AssertUnwindSafe;

use crate::function::Erased;
use oncue_core::agreement;
use oncue_core::bus::{Bus, BusError, StoredMessage};
use oncue_core::config::{Config, Role};
use oncue_core::model::audit::{Audit, WAITING_MS};
use oncue_core::model::history::Cue;
use oncue_core::model::manifest::Manifest;
use oncue_core::store::{Mark, MarkState, Removed, Store};
use oncue_proto::event::{self, Incoming, Meta, Origin};

pub(crate) use check::check;
pub(crate) use dry_run::dry_run;

/// Any error, for a sentence on stderr.
pub(crate) type InspectError = Box<dyn std::error::Error>;

/// Ids of lost events that are listed; the rest is counted.
const MAX_LISTED: usize = 100;

/// Connections of a program that only looks.
async fn connect(manifest: &Manifest, config: &Config) -> Result<(Bus, Store), InspectError> {
    // A function itself may not read whole streams.
    let mut config = config.clone();
    config.log_in(&Role::Operator);
    let bus = Bus::connect(&config.nats, &manifest.name).await?;
    let store = Store::look(&config.redis, &config.app).await?;
    Ok((bus.of_app(&config.app), store))
}

/// Looks up every event of the stream.
///
/// Reads the stream from its first message in order, and asks Redis for the marks of each part in
/// one round trip. Changes nothing, so it may run beside workers. Copies of an event count once.
///
/// | verdict | means |
/// |---|---|
/// | applied, dead | the mark says so |
/// | pending | redriven, and not delivered; or no mark, and not acked: beyond what was delivered, or as many of what was as the consumer says are not acked |
/// | expired | no mark, acked, and so old that the mark may have gone |
/// | lost | no mark, acked, within the horizon |
///
/// # Errors
///
/// NATS or Redis does not answer, or the consumer is not there.
pub(crate) async fn audit(
    function: &Erased,
    manifest: &Manifest,
    config: &Config,
) -> Result<Audit, InspectError> {
    let (bus, store) = connect(manifest, config).await?;
    let stream = &manifest.stream;
    // Asked first: what is acked now was marked before, so no event in between can look lost.
    let consumer = bus
        .consumer_info(stream, &manifest.name)
        .await
        .map_err(|e| BusError(format!("consumer {stream}/{}: {e}", manifest.name)))?;
    let floor = consumer.ack_floor.stream_seq;
    let delivered = consumer.delivered.stream_seq;
    // Events between the two that are neither expired nor have a mark.
    let mut in_flight = 0;
    let from = consumer.began_ms();
    let created = bus.stream_created(stream).await?;
    let horizon = config.stream(stream).horizon.0.as_millis() as u64;

    let mut audit = Audit {
        function: manifest.name.clone(),
        ..Audit::default()
    };
    let history = store.history(&manifest.name).await?;
    let cue = Cue::new(manifest, &config.app, created, history);
    let mut next = 1;
    let mut ids = HashSet::new();
    // Dead ones, and those whose redrive waits: what becomes of them is open again.
    let mut dead = HashSet::new();
    let mut redriven = HashSet::new();
    loop {
        let batch = bus.read_stream(stream, next).await?;
        let Some(last) = batch.last() else {
            let open = dead.intersection(&redriven).count() as u64;
            audit.pending += open;
            audit.dead -= open;
            // Which of them were acked the server does not tell.
            let pending = in_flight.min(consumer.num_ack_pending);
            audit.pending += pending;
            audit.lost += in_flight - pending;
            let old = event::now_ms().saturating_sub(WAITING_MS);
            let waiting = store.waiting_outputs(&[function.name], old).await?;
            let own = waiting.get(function.name);
            audit.waiting_outputs = own.map_or(0, |waiting| waiting.commits);
            audit.removed = store.removed().await?;
            audit
                .removed
                .retain(|removed: &Removed| removed.function == manifest.name);
            let found = agreement::find_removed(&bus, &store, stream, &manifest.name).await?;
            audit.removed.extend(found);
            return Ok(audit);
        };
        next = last.sequence + 1;
        let mut asked = Vec::new();
        for message in &batch {
            if message.time < from || !cue.covers(message.sequence, &message.subject) {
                continue;
            }
            let identity = identify(function, message, stream, created);
            let id = event::hash(&[identity.meta.id.as_bytes()]);
            if identity.meta.redrive.is_some() && message.sequence > delivered {
                redriven.insert(id);
            }
            if ids.insert(id) {
                asked.push(Audited {
                    sequence: message.sequence,
                    mark: Mark::new(function.name, &identity.key, &identity.meta, horizon),
                    id: identity.meta.id,
                });
            }
        }
        let marks: Vec<Mark> = asked.iter().map(|event| event.mark.clone()).collect();
        let states = store.settled(&marks).await?;
        let now = event::now_ms();
        for (event, state) in asked.into_iter().zip(states) {
            audit.accepted += 1;
            match state {
                Some(MarkState::Applied) => audit.applied += 1,
                Some(MarkState::Dead) => {
                    audit.dead += 1;
                    dead.insert(event.mark.id);
                }
                None if event.sequence > delivered => audit.pending += 1,
                None if now > event.mark.fence + horizon && event.sequence <= floor => {
                    audit.expired += 1;
                }
                None if event.sequence > floor => in_flight += 1,
                None => {
                    audit.lost += 1;
                    if audit.lost_ids.len() < MAX_LISTED {
                        audit.lost_ids.push(event.id);
                    }
                }
            }
        }
    }
}

/// One event of the stream whose mark is looked up.
struct Audited {
    sequence: u64,
    mark: Mark,
    id: String,
}

/// Identity of a stored message to a function.
struct StoredIdentity {
    meta: Meta,
    key: String,
}

/// Finds identity and key of a stored message, as the worker would.
fn identify(
    function: &Erased,
    message: &StoredMessage,
    stream: &str,
    created: u64,
) -> StoredIdentity {
    let origin = Origin {
        stream,
        stream_created: created,
        sequence: message.sequence,
        published: message.time,
        subject: &message.subject,
    };
    if let Ok(incoming) = event::read(headers(message), message.payload.clone(), &origin) {
        return StoredIdentity {
            key: key_of(function, &incoming).unwrap_or_else(|| incoming.meta.id.clone()),
            meta: incoming.meta,
        };
    }
    let meta = Meta::of_unreadable(headers(message), &origin);
    StoredIdentity {
        key: meta.id.clone(),
        meta,
    }
}

/// Names and values of the headers of a stored message.
fn headers(message: &StoredMessage) -> impl Iterator<Item = (&str, &str)> {
    let headers = message.headers.iter();
    headers.map(|(name, value)| (name.as_str(), value.as_str()))
}

/// Key of an event, if the author's code finds one.
fn key_of(function: &Erased, incoming: &Incoming) -> Option<String> {
    let found = std::panic::catch_unwind(AssertUnwindSafe(|| {
        let ty = &incoming.meta.ty;
        let decoded = (function.decode)(ty, incoming.format, &incoming.payload).ok()?;
        Some((function.key)(&decoded))
    }));
    found.ok().flatten().filter(|key| !key.is_empty())
}
