//! Dead letters as messages of the stream `dlq`.

use oncue_proto::event::{self, Meta};
use oncue_proto::oncue::v1::{DeadLetter, Envelope, Header};
use oncue_proto::{Event as _, Format};
use pbjson_types::Timestamp;
use prost::Message as _;

use crate::app::AppName;

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
    let headers = event::headers(&meta, function, Format::Protobuf);
    let headers = headers.into_iter().map(|(name, value)| Header {
        name: name.to_owned(),
        value,
    });
    Envelope {
        subject: app.letters(function),
        headers: headers.collect(),
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
