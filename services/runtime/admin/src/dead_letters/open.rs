//! Letters as they are found right before something is done with them: a redrive that goes on elsewhere, or that was broken off, may
//! have seen to one meanwhile, and then nothing is to be done to its event once more.

use oncue_core::bus::layout::DLQ;
use oncue_core::bus::{Bus, PubAck, Slice};
use oncue_core::store::{Mark, MarkState, Store};
use oncue_proto::event::{self, REDRIVE, RedriveHeader};
use oncue_proto::oncue::v1::Envelope;

use super::letters::{Letter, says_nothing_of_its_id};
use super::{LetterError, envelope};

/// Redriven events in one question.
const AT_ONCE: usize = 256;

/// Refuses a letter that is not there any more, or whose event was applied; that one is taken away.
///
/// # Errors
/// [`LetterError::Gone`], [`LetterError::Applied`], or a server does not answer.
pub(super) async fn check_open(
    letter: &Letter,
    bus: &Bus,
    store: &Store,
) -> Result<(), LetterError> {
    let found = bus.read_message(DLQ, letter.number).await?;
    let found = found.and_then(|message| Letter::read(bus.app(), &message));
    let content = &letter.content;
    if found.is_none_or(|found| found.content.event_id != content.event_id) {
        return Err(LetterError::Gone(letter.number));
    }
    if says_nothing_of_its_id(&content.reason) {
        return Ok(());
    }
    let mark = Mark::of_id(&content.function.as_str().into(), &content.event_id);
    let states = store.settled(&[mark]).await?;
    if states.first() != Some(&Some(MarkState::Applied)) {
        return Ok(());
    }
    bus.delete_message(DLQ, letter.number)
        .await
        .map_err(LetterError::Delete)?;
    Err(LetterError::Applied(letter.number))
}

/// Refuses a letter whose event was redriven, and waits for its function. `own` is the id of an event in its place that may wait
/// there.
///
/// # Errors
/// [`LetterError::UnderWay`], or NATS does not answer.
pub(super) async fn check_alone(
    letter: &Letter,
    own: Option<&str>,
    bus: &Bus,
) -> Result<(), LetterError> {
    let content = &letter.content;
    let consumer = match bus.consumer_info(&content.stream, &content.function).await {
        Err(e) if e.is_not_found() => return Ok(()),
        other => other.map_err(LetterError::Away)?,
    };
    let function = bus.app().consumer(&content.function);
    let subject = event::redrive_subject(&content.stream, &function);
    let copy = envelope::redrive_id(bus.app(), content);
    let mut from = consumer.ack_floor.stream_seq + 1;
    loop {
        let slice = Slice {
            from,
            since: None,
            subject: &subject,
            messages: AT_ONCE,
            bytes: 0,
        };
        let found = bus.read_slice(&content.stream, &slice).await?;
        let Some(last) = found.last() else {
            return Ok(());
        };
        from = last.sequence + 1;
        let mut copies = found
            .iter()
            .filter(|message| message.header("Nats-Msg-Id").is_some_and(|id| id == copy))
            .map(|message| event_id(message.header(REDRIVE)));
        if copies.any(|id| own.is_none() || id.as_deref() != own) {
            return Err(LetterError::UnderWay(letter.number));
        }
    }
}

/// Refuses what the stream took for a copy and is none: redrives and edits of a letter have one message id, so of those that are sent
/// at the same moment, or within the stream's `duplicate_window`, it takes the first.
///
/// # Errors
/// [`LetterError::UnderWay`], or NATS does not answer.
pub(super) async fn check_taken(
    letter: &Letter,
    sent: &Envelope,
    ack: &PubAck,
    bus: &Bus,
) -> Result<(), LetterError> {
    if !ack.duplicate {
        return Ok(());
    }
    let order = sent.headers.iter().find(|header| header.name == REDRIVE);
    let id = event_id(order.map(|header| header.value.as_str()));
    let first = bus.read_message(&ack.stream, ack.sequence).await?;
    let is_copy = first.is_some_and(|first| {
        event_id(first.header(REDRIVE)) == id && first.payload == sent.payload
    });
    if is_copy {
        return Ok(());
    }
    Err(LetterError::UnderWay(letter.number))
}

/// Event that the header of a redrive tells of.
fn event_id(header: Option<&str>) -> Option<String> {
    let order: RedriveHeader = serde_json::from_str(&event::percent_decode(header?)?).ok()?;
    Some(order.id)
}
