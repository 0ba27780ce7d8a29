//! Dead letters as messages of the stream `dlq`.

use oncue_proto::event::{self, Meta};
use oncue_proto::oncue::v1::{DeadLetter, Envelope};
use oncue_proto::{Event as _, Format};
use pbjson_types::Timestamp;
use prost::Message as _;

use crate::app::AppName;
use crate::bus::StoredMessage;

/// A dead letter as a message, itself an event that was caused by the one it is about. The trace context of `about` is
/// that of the letter.
///
/// Tracked or not, a letter opens no step in a ledger: the commit of the record closes that of the event.
pub fn message(app: &AppName, letter: &DeadLetter, about: Meta, id: &str) -> Envelope {
    let function = &letter.function;
    let meta = Meta {
        id: id.to_owned(),
        source: format!("/{function}"),
        ty: DeadLetter::TYPE.to_owned(),
        time: event::now_ms(),
        timed: true,
        cause: about.id,
        redrive: None,
        tracked: false,
        ..about
    };
    Envelope {
        subject: app.letters(function),
        headers: event::envelope_headers(&meta, function, Format::Protobuf),
        payload: letter.encode_to_vec().into(),
    }
}

/// Unix milliseconds as the well-known type.
pub fn timestamp(ms: u64) -> Timestamp {
    Timestamp {
        seconds: ms as i64 / 1000,
        nanos: (ms % 1000) as i32 * 1_000_000,
    }
}

/// Unix milliseconds, rounded down; 0 where nothing is said. The inverse of [`timestamp`].
pub fn ms(time: Option<&Timestamp>) -> u64 {
    time.map_or(0, |t| {
        (t.seconds * 1000 + i64::from(t.nanos) / 1_000_000) as u64
    })
}

/// The message that a whole letter is about, as its stream held it.
pub fn message_of(letter: &DeadLetter) -> StoredMessage {
    let envelope = letter.envelope.clone().unwrap_or_default();
    StoredMessage {
        sequence: letter.sequence,
        time: ms(letter.accepted_at.as_ref()),
        subject: envelope.subject,
        headers: envelope
            .headers
            .into_iter()
            .map(|header| (header.name, header.value))
            .collect(),
        payload: envelope.payload,
    }
}
