//! A letter's event sent again with another payload, where what was wrong is in the event.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use oncue_core::bus::Bus;
use oncue_core::config::Bounds;
use oncue_core::store::Store;
use oncue_proto::event::{self, Incoming, Meta, REDRIVE, RedriveHeader};
use oncue_proto::oncue::v1::{Envelope, Header};
use oncue_proto::{CatalogError, Entry, Format};
use serde_json::Value;

use super::drop::take_away;
use super::letters::{Letter, message_of};
use super::open::{check_alone, check_open, check_taken};
use super::redrive::check_consumer;
use super::{LetterError, envelope};

/// Correction of a letter's event.
#[derive(Debug, Clone, Copy)]
pub struct Edit<'e> {
    /// Payload in JSON; a field that is [`HIDDEN`](oncue_proto::HIDDEN) keeps what it held.
    pub payload: &'e str,
    /// Why; it stays on record.
    pub why: &'e str,
    /// Name of the person.
    pub who: &'e str,
    /// Program that does it, as the source of the event: `/oncue/console`.
    pub source: &'e str,
}

/// Sends the event of a letter again with another payload, to its function alone, and gives the letter up on record.
/// Answers with the id of the new event: it belongs to the flow of the letter's, which is its cause, and is first seen
/// now.
///
/// The id is made of the letter and the payload, so that whoever is interrupted does the same again, and nothing
/// happens twice. As a message it has the id that a redrive of the letter would have: where both are sent at a time, the stream takes
/// one. Two round trips more than [`give_up`](super::give_up).
///
/// # Errors
/// [`LetterError::Edit`] for a payload or letter that cannot be, before anything is sent; else those of a redrive and of
/// [`give_up`](super::give_up).
pub async fn resend(
    letter: &Letter,
    edit: &Edit<'_>,
    entry: &Entry,
    bounds: &Bounds,
    bus: &Bus,
    store: &Store,
) -> Result<String, LetterError> {
    if letter.is_of_output() {
        return Err(LetterError::Output {
            function: letter.content.function.clone(),
            subject: letter.envelope().subject,
        });
    }
    let original = original(letter, bus).await;
    let payload = corrected(edit, entry, bounds, original.as_ref())?;
    check_consumer(letter, bus).await?;
    // Somebody else may have redriven it while this one wrote.
    // In this order: a mark is written before its event is acked.
    let made = event(letter, edit, entry, &payload, bus);
    check_alone(letter, Some(&made.id), bus).await?;
    check_open(letter, bus, store).await?;
    let ack = bus.publish(&made.envelope).await;
    let ack = ack.map_err(LetterError::Publish)?;
    check_taken(letter, &made.envelope, &ack, bus).await?;
    let why = format!("sent again as {}, edited: {}", made.id, edit.why);
    take_away(letter, &why, edit.who, edit.source, bus).await?;
    Ok(made.id)
}

/// Event in place of a letter's.
struct EditedEvent {
    id: String,
    envelope: Envelope,
}

/// Payload in protobuf, with its key.
struct Payload {
    bytes: Vec<u8>,
    key: String,
    /// Whether the flow has a ledger.
    tracked: bool,
}

fn corrected(
    edit: &Edit<'_>,
    entry: &Entry,
    bounds: &Bounds,
    original: Option<&Incoming>,
) -> Result<Payload, LetterError> {
    let mut json: Value = serde_json::from_str(edit.payload)
        .map_err(|e| LetterError::Edit(format!("not JSON: {e}")))?;
    if entry.is_sensitive() {
        let before = original.map(|event| entry.to_json(event.format, &event.payload));
        let before = before.and_then(Result::ok).unwrap_or_default();
        entry.reveal(&mut json, &before).map_err(|e| refused(&e))?;
    }
    let text = json.to_string();
    entry.read_by_hand(&text).map_err(LetterError::Edit)?;
    let bytes = entry.to_protobuf(Format::Json, text.as_bytes());
    let bytes = bytes.map_err(|e| refused(&e))?;
    let key = entry
        .check(Format::Protobuf, &bytes)
        .map_err(|e| refused(&e))?;
    bounds.check_key(&key).map_err(LetterError::Edit)?;
    Ok(Payload {
        bytes,
        key,
        tracked: original.is_some_and(|event| event.meta.tracked),
    })
}

fn refused(why: &CatalogError) -> LetterError {
    LetterError::Edit(why.to_string())
}

/// Event as it was, if it can be read.
async fn original(letter: &Letter, bus: &Bus) -> Option<Incoming> {
    let complete = envelope::complete(bus, &letter.content).await.ok()?;
    message_of(&complete).read(&letter.content.stream, 0).ok()
}

fn event(
    letter: &Letter,
    edit: &Edit<'_>,
    entry: &Entry,
    payload: &Payload,
    bus: &Bus,
) -> EditedEvent {
    let inner = &letter.content;
    let consumer = bus.app().consumer(&inner.function);
    let made_of = [
        b"edit".as_slice(),
        consumer.as_bytes(),
        inner.event_id.as_bytes(),
        &payload.bytes,
    ];
    let id = URL_SAFE_NO_PAD.encode(event::hash(&made_of));
    let now = event::now_ms();
    let meta = Meta {
        id: id.clone(),
        source: edit.source.to_owned(),
        ty: entry.ty.clone(),
        time: now,
        timed: true,
        flow: inner.flow_id.clone(),
        cause: inner.event_id.clone(),
        hops: 0,
        traceparent: letter.traceparent.clone(),
        tracestate: None,
        baggage: None,
        redrive: None,
        tracked: payload.tracked,
    };
    let order = RedriveHeader {
        // It was nowhere before.
        number: 0,
        at: now,
        id: id.clone(),
        ty: entry.ty.clone(),
        flow: inner.flow_id.clone(),
        time: now,
        timed: true,
    };
    let order = serde_json::json!(order).to_string();
    let mut headers = event::envelope_headers(&meta, &payload.key, Format::Protobuf);
    headers.retain(|header| header.name != "Nats-Msg-Id");
    headers.push(Header {
        name: "Nats-Msg-Id".to_owned(),
        value: envelope::redrive_id(bus.app(), inner),
    });
    headers.push(Header {
        name: REDRIVE.to_owned(),
        value: event::percent_encode(&order).into_owned(),
    });
    let envelope = Envelope {
        subject: event::redrive_subject(&inner.stream, &consumer),
        headers,
        payload: payload.bytes.clone().into(),
    };
    EditedEvent { id, envelope }
}
