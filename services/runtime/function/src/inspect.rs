//! Questions of an operator to a function besides to serve: `--audit` (what became of every event in the stream) and
//! `--try` (what it would do with a dead letter now). Only the function's own code knows its key and its handler, so it
//! is its own binary that answers, as JSON on stdout.

use std::collections::HashSet;
use std::io::Read as _;
use std::panic::AssertUnwindSafe;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures::FutureExt as _;
use oncue_proto::oncue::v1::DeadLetter;
use oncue_proto::{Draft, Format};
use prost::Message as _;
use serde_json::{Value, json};

use crate::context::Context;
use crate::error::Error;
use crate::function::Erased;
use crate::state::AnyRow;
use crate::worker::handler::panic_text;
use oncue_core::bus::{Bus, BusError, StoredMessage};
use oncue_core::config::Config;
use oncue_core::model::audit::Audit;
use oncue_core::model::manifest::Manifest;
use oncue_core::store::{Mark, MarkState, Read, RowKey, Store};
use oncue_proto::event::{self, Incoming, Meta, Origin};

type Failure = Box<dyn std::error::Error>;

/// Ids of lost events that are listed; the rest is counted.
const LISTED: usize = 100;

/// Looks up every event of the stream.
pub(crate) async fn audit(
    function: &Erased,
    manifest: &Manifest,
    config: &Config,
) -> Result<Audit, Failure> {
    let bus = Bus::connect(&config.nats_url, &manifest.name).await?;
    let store = Store::look(&config.redis_url).await?;
    let stream = &manifest.stream;
    // Asked first: what is acked now was marked before, so no event in between can look lost.
    let consumer = bus
        .api(
            &format!("CONSUMER.INFO.{stream}.{}", manifest.name),
            &Value::Null,
        )
        .await;
    let consumer =
        consumer.map_err(|e| BusError(format!("consumer {stream}/{}: {e}", manifest.name)))?;
    let floor = consumer["ack_floor"]["stream_seq"].as_u64().unwrap_or(0);
    let from = if consumer["config"]["deliver_policy"] == "new" {
        consumer["created"].as_str()
    } else {
        None
    };
    let from = from.and_then(event::parse_time).unwrap_or(0);
    let created = bus.stream_created(stream).await?;
    let horizon = config.stream(stream).horizon.0.as_millis() as u64;

    let mut audit = Audit {
        function: manifest.name.clone(),
        ..Audit::default()
    };
    let (mut next, mut ids) = (1, HashSet::new());
    loop {
        let batch = bus.read_stream(stream, next).await?;
        let Some(last) = batch.last() else {
            return Ok(audit);
        };
        next = last.sequence + 1;
        let mut asked = Vec::new();
        for found in batch
            .iter()
            .filter(|found| matches(&manifest.filters, &found.subject) && found.time >= from)
        {
            let (meta, key) = identify(function, found, stream, created);
            if ids.insert(event::hash(&[meta.id.as_bytes()])) {
                asked.push((
                    found.sequence,
                    Mark::new(function.name, &key, &meta, horizon),
                    meta.id,
                ));
            }
        }
        let marks: Vec<Mark> = asked.iter().map(|(_, mark, _)| mark.clone()).collect();
        let now = event::now_ms();
        for ((sequence, mark, id), settled) in asked.into_iter().zip(store.settled(&marks).await?) {
            audit.accepted += 1;
            match settled {
                Some(MarkState::Applied) => audit.applied += 1,
                Some(MarkState::Dead) => audit.dead += 1,
                None if sequence > floor => audit.pending += 1,
                None if now > mark.fence + horizon => audit.expired += 1,
                None => {
                    audit.lost += 1;
                    audit
                        .lost_ids
                        .extend(Some(id).filter(|_| audit.lost_ids.len() < LISTED));
                }
            }
        }
    }
}

/// `type` or `type.*`, as consumers filter here.
fn matches(filters: &[String], subject: &str) -> bool {
    filters
        .iter()
        .any(|filter| match filter.strip_suffix(".*") {
            Some(ty) => subject
                .strip_prefix(ty)
                .and_then(|key| key.strip_prefix('.'))
                .is_some_and(|key| !key.contains('.')),
            None => subject == filter,
        })
}

/// Identity and key of a stored message, as the worker would find them.
fn identify(
    function: &Erased,
    found: &StoredMessage,
    stream: &str,
    created: u64,
) -> (Meta, String) {
    let origin = Origin {
        stream,
        stream_created: created,
        sequence: found.sequence,
        published: found.time,
        subject: &found.subject,
    };
    let headers = || {
        found
            .headers
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
    };
    let Ok(Incoming {
        meta,
        format,
        payload,
    }) = event::read(headers(), found.payload.clone(), &origin)
    else {
        let meta = Meta::of_unreadable(headers(), &origin);
        let key = meta.id.clone();
        return (meta, key);
    };
    let key = key_of(function, &meta.ty, format, &payload).unwrap_or_else(|| meta.id.clone());
    (meta, key)
}

fn key_of(function: &Erased, ty: &str, format: Format, payload: &[u8]) -> Option<String> {
    let find = || {
        Some((function.key)(
            &(function.decode)(ty, format, payload).ok()?,
        ))
    };
    std::panic::catch_unwind(AssertUnwindSafe(find))
        .ok()
        .flatten()
        .filter(|key| !key.is_empty())
}

/// Runs the handler on a dead letter from stdin and on the row as it is now, and commits nothing.
pub(crate) async fn dry_run(
    function: &Erased,
    manifest: &Manifest,
    config: &Config,
) -> Result<Value, Failure> {
    if function.at_most_once {
        return Err(format!(
            "{} runs at most once on an event, so it cannot be tried",
            function.name
        )
        .into());
    }
    let mut letter = Vec::new();
    std::io::stdin().read_to_end(&mut letter)?;
    let letter = DeadLetter::decode(&letter[..])?;
    let envelope = letter.envelope.clone().unwrap_or_default();
    let bus = Bus::connect(&config.nats_url, &manifest.name).await?;
    let store = Store::look(&config.redis_url).await?;
    let created = bus.stream_created(&letter.stream).await?;
    let origin = Origin {
        stream: &letter.stream,
        stream_created: created,
        sequence: letter.sequence,
        published: letter.accepted_at.as_ref().map_or(0, |at| {
            at.seconds as u64 * 1000 + at.nanos as u64 / 1_000_000
        }),
        subject: &envelope.subject,
    };
    let headers = envelope
        .headers
        .iter()
        .map(|h| (h.name.as_str(), h.value.as_str()));
    let incoming = match event::read(headers, envelope.payload.clone(), &origin) {
        Ok(incoming) => incoming,
        Err(e) => {
            return Ok(json!({ "outcome": "dead", "reason": e.reason, "message": e.message }));
        }
    };
    let event = match (function.decode)(&incoming.meta.ty, incoming.format, &incoming.payload) {
        Ok(event) => event,
        Err(e) => return Ok(json!({ "outcome": "dead", "reason": "decode", "message": e.0 })),
    };
    let key = (function.key)(&event);
    let row = (!function.table.is_empty()).then(|| RowKey {
        table: function.table,
        key: key.clone(),
    });
    let found = store
        .read(&[Read {
            row,
            marks: Vec::new(),
        }])
        .await?
        .pop()
        .unwrap_or_default();
    let mut state = (function.open)(&found.row.fields)?;
    let context = Context::new(
        incoming.meta.into(),
        key.into(),
        function.name,
        function.table,
        1,
        Some(bus),
    )
    .dry();
    let limit = manifest.limits(config).timeout.0;
    let call = AssertUnwindSafe((function.call)(event, state.as_mut(), &context)).catch_unwind();
    let drafts = match tokio::time::timeout(limit, call).await {
        Ok(Ok(Ok(drafts))) => drafts,
        Ok(Ok(Err(Error {
            rejected,
            message,
            site,
            ..
        }))) => {
            let outcome = if rejected { "dead" } else { "retry" };
            return Ok(json!({ "outcome": outcome, "message": message, "site": site }));
        }
        Ok(Err(panic)) => {
            let message = format!("panicked: {}", panic_text(panic.as_ref()));
            let site = crate::worker::watchdog::take_panic_site();
            return Ok(json!({ "outcome": "retry", "message": message, "site": site }));
        }
        Err(_) => {
            return Ok(
                json!({ "outcome": "retry", "message": format!("still running after {limit:?}") }),
            );
        }
    };
    state.keep();
    shown(state.as_ref(), &context, &drafts)
}

fn shown(state: &dyn AnyRow, context: &Context, drafts: &[Draft]) -> Result<Value, Failure> {
    let (set, del) = state.changes()?;
    let set: serde_json::Map<String, Value> = set
        .into_iter()
        .map(|(field, value)| (field, String::from_utf8_lossy(&value).into()))
        .collect();
    let ops: Vec<String> = context
        .take_ops()
        .iter()
        .map(|op| format!("{} {:?}", op.table, op.change))
        .collect();
    let emits: Vec<Value> = drafts
        .iter()
        .map(|d| emitted(d.ty, &d.key, &d.payload))
        .collect();
    Ok(json!({ "outcome": "applied", "set": set, "del": del, "operations": ops, "emits": emits }))
}

fn emitted(ty: &str, key: &str, payload: &Bytes) -> Value {
    json!({ "type": ty, "key": key, "payload": STANDARD.encode(payload) })
}
