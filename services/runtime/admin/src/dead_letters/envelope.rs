//! A letter made into an event again: for its function alone, under the identity the function had given it.

use oncue_proto::oncue::v1::{DeadLetter, Envelope, Header};

use super::{LetterError, ms};
use oncue_core::app::AppName;
use oncue_core::bus::Bus;
use oncue_proto::event::{self, REDRIVE, RedriveHeader};

/// The letter with its payload. One that was too large to be set aside whole holds none, and it is read from its
/// stream.
///
/// No question for a letter that is whole, one direct get for one that is not.
///
/// # Errors
/// [`LetterError::PayloadGone`] where the stream has let the event go, or where it is of another creation than the
/// letter; [`LetterError::Bus`] where NATS does not answer.
pub async fn complete(bus: &Bus, letter: &DeadLetter) -> Result<DeadLetter, LetterError> {
    let mut letter = letter.clone();
    let envelope = letter.envelope.get_or_insert_default();
    if !envelope.payload.is_empty() {
        return Ok(letter);
    }
    let found = bus.read_message(&letter.stream, letter.sequence).await?;
    // Another one stands there once the stream was made anew.
    let accepted = ms(letter.accepted_at.as_ref());
    let same = found.filter(|found| found.subject == envelope.subject && found.time == accepted);
    let Some(same) = same else {
        return Err(LetterError::PayloadGone {
            event: letter.event_id,
            stream: letter.stream,
            sequence: letter.sequence,
        });
    };
    envelope.payload = same.payload;
    Ok(letter)
}

/// The message that gives the event to its function once more. `letter` is [`complete`].
///
/// Headers are the sender's, plus two: the message id of this redrive, and [`REDRIVE`] with the identity the event
/// had. The subject is `DOMAIN.redrive.FUNCTION`, which only this function's consumer filters: no other function
/// acts on it again.
pub fn redriven(app: &AppName, letter: &DeadLetter, now: u64) -> Envelope {
    let number = letter.redrives + 1;
    let header = RedriveHeader {
        number,
        at: now,
        id: letter.event_id.clone(),
        ty: letter.event_type.clone(),
        flow: letter.flow_id.clone(),
        time: ms(letter.time.as_ref()),
        timed: letter.timed,
    };
    let header = serde_json::json!(header).to_string();
    let envelope = letter.envelope.clone().unwrap_or_default();
    let kept = envelope.headers.into_iter();
    let mut headers: Vec<Header> = kept.filter(|header| !is_ours(&header.name)).collect();
    headers.push(Header {
        name: "Nats-Msg-Id".to_owned(),
        value: redrive_id(app, letter),
    });
    headers.push(Header {
        name: REDRIVE.to_owned(),
        value: event::percent_encode(&header).into_owned(),
    });
    Envelope {
        subject: event::redrive_subject(&letter.stream, &app.consumer(&letter.function)),
        headers,
        payload: envelope.payload,
    }
}

/// Whether a header is not the sender's: the server's, or that of an earlier redrive.
fn is_ours(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    name.starts_with("nats-") || name == REDRIVE.to_ascii_lowercase()
}

/// Message id of the next redrive of a letter, or of what is sent in its place: the stream takes one of them.
pub fn redrive_id(app: &AppName, letter: &DeadLetter) -> String {
    message_id(app, "redrive", letter, letter.redrives + 1)
}

/// Message id of a deed, by which the server knows a second copy: one and the same however often, and by however
/// many, it is done. Of the form `WHAT:APP_FUNCTION:HASH:NUMBER`. The event id is hashed since clients make it up, at any
/// length.
pub fn message_id(app: &AppName, what: &str, letter: &DeadLetter, number: u32) -> String {
    let hash: String = event::hash(&[letter.event_id.as_bytes()])
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!("{what}:{}:{hash}:{number}", app.consumer(&letter.function))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_redriven_event_keeps_all_but_what_the_server_and_we_had_added() {
        let header = |name: &str, value: &str| Header {
            name: name.into(),
            value: value.into(),
        };
        let letter = DeadLetter {
            function: "f".into(),
            event_id: "e 1".into(),
            event_type: "web.page.viewed".into(),
            flow_id: "flow".into(),
            stream: "web".into(),
            redrives: 2,
            time: Some(crate::dead_letters::timestamp(1500)),
            timed: true,
            envelope: Some(Envelope {
                subject: "web.page.viewed.x".into(),
                headers: vec![
                    header("Nats-Msg-Id", "e 1"),
                    header("nats-expected-stream", "web"),
                    header("oncue-redrive", "old"),
                    header("traceparent", "00-a-b-01"),
                ],
                payload: "{}".into(),
            }),
            ..DeadLetter::default()
        };
        let made = redriven(&AppName::default(), &letter, 9000);
        assert_eq!(
            (made.subject.as_str(), &made.payload[..]),
            ("web.redrive.app_f", &b"{}"[..])
        );
        let names: Vec<&str> = made.headers.iter().map(|h| h.name.as_str()).collect();
        assert_eq!(names, ["traceparent", "Nats-Msg-Id", "Oncue-Redrive"]);
        assert!(
            made.headers[1].value.starts_with("redrive:app_f:")
                && made.headers[1].value.ends_with(":3")
        );
        let read: RedriveHeader =
            serde_json::from_str(&event::percent_decode(&made.headers[2].value).unwrap()).unwrap();
        assert_eq!(
            (
                read.number,
                read.at,
                read.time,
                read.timed,
                read.id.as_str()
            ),
            (3, 9000, 1500, true, "e 1")
        );
    }
}
