//! A letter is given up only with a name and a reason on record.

use oncue_proto::oncue::v1::{DeadLetter, DeadLetterDropped, Envelope};
use oncue_proto::{Event as _, Format};
use prost::Message as _;

use super::letters::{self, Letter};
use super::open::{check_alone, check_open};
use super::{LetterError, envelope, timestamp};
use crate::AdminError;
use oncue_core::app::AppName;
use oncue_core::bus::Bus;
use oncue_core::bus::layout::DLQ;
use oncue_core::store::{Store, payload_hash};
use oncue_proto::event::{self, Meta, Origin};

/// Takes a letter out of the stream. The record first: it must not vanish without one. `source` says which program
/// did it.
///
/// Two round trips behind those that see whether it still stands for an event that nobody is at. Between them both are there, and
/// a second call makes no second record within the duplicate window of `dlq`: the record's id is made of the letter.
///
/// # Errors
/// [`LetterError::Gone`], [`LetterError::Applied`], [`LetterError::UnderWay`]: nothing was given up.
/// [`LetterError::Record`]: the letter is still there, and so is perhaps the record, if only its ack was lost.
/// [`LetterError::Delete`]: the record is written and the letter still there.
pub async fn give_up(
    letter: &Letter,
    why: &str,
    who: &str,
    source: &str,
    bus: &Bus,
    store: &Store,
) -> Result<(), LetterError> {
    // In this order: a mark is written before its event is acked.
    check_alone(letter, None, bus).await?;
    check_open(letter, bus, store).await?;
    take_away(letter, why, who, source, bus).await
}

/// [`give_up`] of a letter that was looked at.
pub(super) async fn take_away(
    letter: &Letter,
    why: &str,
    who: &str,
    source: &str,
    bus: &Bus,
) -> Result<(), LetterError> {
    bus.publish(&record(bus.app(), letter, why, who, source))
        .await
        .map_err(LetterError::Record)?;
    bus.delete_message(DLQ, letter.number)
        .await
        .map_err(LetterError::Delete)
}

/// The records of all letters that were given up, oldest first.
///
/// Reads the whole stream `dlq`, letters too, since they share it. Records go with the stream's own limits.
pub async fn dropped(bus: &Bus) -> Result<Vec<DeadLetterDropped>, AdminError> {
    let found = letters::read(bus, 1).await?;
    let records = found
        .iter()
        .filter(|found| found.subject == subject(bus.app()));
    Ok(records
        .filter_map(|found| DeadLetterDropped::decode(&found.payload[..]).ok())
        .collect())
}

/// An event that a function is done with, since it was set aside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetAside {
    pub function: String,
    pub event_id: String,
    /// How often it had been redriven.
    pub redrives: u32,
    /// Sequence in its stream; 0 for not known, as of a letter that was given up.
    pub sequence: u64,
    /// As of [`payload_hash`]; 0 where its payload is not known.
    pub payload_hash: u32,
}

/// Events that were set aside and are so still, or whose letter was given up, oldest first. Not those whose id belongs to
/// another event (`id_reuse`), nor what a function emitted and no stream took: those say nothing of the id.
pub async fn settled(bus: &Bus) -> Result<Vec<SetAside>, AdminError> {
    let found = letters::read(bus, 1).await?;
    let mut settled = Vec::new();
    for message in &found {
        if let Some(Letter { content, .. }) = Letter::read(bus.app(), message) {
            if !letters::says_nothing_of_its_id(&content.reason) {
                settled.push(SetAside {
                    payload_hash: hash_in(&content),
                    function: content.function,
                    event_id: content.event_id,
                    redrives: content.redrives,
                    sequence: content.sequence,
                });
            }
        } else if message.subject == subject(bus.app())
            && let Ok(dropped) = DeadLetterDropped::decode(&message.payload[..])
            && !letters::says_nothing_of_its_id(&dropped.reason)
        {
            settled.push(SetAside {
                function: dropped.function,
                event_id: dropped.event_id,
                redrives: dropped.redrives,
                sequence: 0,
                payload_hash: 0,
            });
        }
    }
    Ok(settled)
}

/// Hash of the event in a letter; 0 for what cannot be read, or is too large to be in it.
fn hash_in(letter: &DeadLetter) -> u32 {
    let envelope = letter.envelope.as_ref();
    let Some(envelope) = envelope.filter(|envelope| !envelope.payload.is_empty()) else {
        return 0;
    };
    let origin = Origin {
        stream: &letter.stream,
        stream_created: 0,
        sequence: letter.sequence,
        published: 0,
        subject: &envelope.subject,
    };
    let headers = envelope.headers.iter();
    let headers = headers.map(|header| (header.name.as_str(), header.value.as_str()));
    let read = event::read(headers, envelope.payload.clone(), &origin);
    read.map_or(0, |incoming| {
        payload_hash(&incoming.meta.cause, &incoming.payload)
    })
}

/// Subject of the records of an app's letters.
fn subject(app: &AppName) -> String {
    format!("{}.{app}", DeadLetterDropped::TYPE)
}

/// The record, as an event of the dead letter's own flow. Its id is the same whoever drops the letter, and however
/// often.
fn record(app: &AppName, letter: &Letter, why: &str, who: &str, source: &str) -> Envelope {
    let inner = &letter.content;
    let now = event::now_ms();
    let record = DeadLetterDropped {
        function: inner.function.clone(),
        reason: inner.reason.clone(),
        message: inner.message.clone(),
        event_id: inner.event_id.clone(),
        event_type: inner.event_type.clone(),
        flow_id: inner.flow_id.clone(),
        who: who.to_owned(),
        why: why.to_owned(),
        at: Some(timestamp(now)),
        redrives: inner.redrives,
    };
    let meta = Meta {
        id: envelope::message_id(app, "drop", inner, inner.redrives),
        source: source.to_owned(),
        ty: DeadLetterDropped::TYPE.to_owned(),
        time: now,
        timed: true,
        flow: inner.flow_id.clone(),
        cause: inner.event_id.clone(),
        hops: 0,
        traceparent: letter.traceparent.clone(),
        tracestate: None,
        baggage: None,
        redrive: None,
        tracked: false,
    };
    let headers = event::envelope_headers(&meta, &inner.function, Format::Protobuf);
    Envelope {
        subject: subject(app),
        headers,
        payload: record.encode_to_vec().into(),
    }
}
