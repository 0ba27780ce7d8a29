//! Outputs, the events that follow from one: drafts become envelopes with ids of their own, stored
//! by the commit, published from what was stored.
//!
//! Everything about an output is fixed before the commit, down to its headers: what is stored is
//! what is sent, whichever worker sends it and however often.

use std::time::Duration;

use bytes::Bytes;
use oncue_proto::oncue::v1::Outbox;
use oncue_proto::{Draft, Format};
use prost::Message as _;
use prost::encoding::encoded_len_varint;

use crate::error::{Result, reject};
use crate::worker::flow_log;
use crate::worker::invocation::{Invocation, Output};
use crate::worker::spans::Onward;
use oncue_core::app::AppName;
use oncue_core::bus::layout;
use oncue_core::bus::{Headers, Outbound};
use oncue_core::config::Bounds;
use oncue_proto::event::{self, IdSecret, Meta};
use oncue_proto::protobuf::{put, put_bytes};

/// Longest delay of an event. The server fires schedules that lie centuries ahead at once.
///
/// Ten years, of 365 days each.
const MAX_DELAY: Duration = Duration::from_hours(10 * 365 * 24);

/// Bytes that a dead letter takes beside the event in it: whatever is committed can also be set aside, should no stream
/// take it then.
const LETTER_ROOM: usize = 8 << 10;

/// Room for the headers of an event without baggage, and for those that may be added on the way.
const USUAL_HEADERS: usize = 16;
const USUAL_HEADER_BYTES: usize = 640;

/// Maker of the outputs of one function.
pub(crate) struct OutputMaker {
    /// Name of the function: source of what it emits, and part of its ids.
    pub function: &'static str,
    /// App that the function is of.
    pub app: AppName,
    /// Secret that nobody outside can make such an id without.
    pub secret: IdSecret,
    /// The server's bound for one message, in bytes.
    pub max_payload: usize,
    /// Bounds of the outputs of one event, and of keys and rows.
    pub bounds: Bounds,
}

impl OutputMaker {
    /// Gives drafts their identity. Nothing is committed that could never be published. `now` is the clock, Unix
    /// milliseconds, which only a delayed event asks for.
    ///
    /// # Errors
    ///
    /// A rejection, so a dead letter of the input: too many or too large outputs, a delay beyond ten
    /// years, a header that NATS would refuse. A retry would give the same.
    pub fn prepare(
        &self,
        drafts: Vec<Draft>,
        event: &Invocation,
        now: impl Fn() -> u64,
    ) -> Result<Vec<Output>> {
        let Bounds {
            outputs: most,
            output_bytes,
            ..
        } = self.bounds;
        if drafts.len() > most {
            return Err(reject(format!(
                "{} events at once, at most {most} are allowed ([bounds] outputs in oncue.toml)",
                drafts.len()
            )));
        }
        for draft in &drafts {
            if draft.keyed && draft.key.is_empty() {
                return Err(reject(format!("an event {} with an empty key", draft.ty)));
            }
            let key = self.bounds.check_key(&draft.key);
            key.map_err(|why| reject(format!("an event {}: {why}", draft.ty)))?;
        }
        if let Some(delay) = drafts
            .iter()
            .filter_map(|draft| draft.delay)
            .find(|delay| *delay > MAX_DELAY)
        {
            return Err(reject(format!(
                "a delay of {delay:?}, the limit is {MAX_DELAY:?}"
            )));
        }
        // The trace context of all outputs, made once: they share a parent.
        let onward = event.trace.onward(&event.meta, drafts.len());
        let outputs: Vec<Output> = drafts
            .into_iter()
            .enumerate()
            .map(|(index, draft)| self.output(index, draft, event, &onward, &now))
            .collect();
        let bytes: usize = outputs.iter().map(|output| output.message.size()).sum();
        let max_payload = self.max_payload;
        let mut sizes = outputs.iter().map(|output| output.message.size());
        if bytes as u64 > output_bytes.0 || sizes.any(|size| size + LETTER_ROOM > max_payload) {
            return Err(reject(format!(
                "{bytes} bytes of events at once, at most {} are allowed ([bounds] output_bytes in oncue.toml), and \
                 {} each (max_payload of NATS less {LETTER_ROOM})",
                output_bytes.0,
                max_payload.saturating_sub(LETTER_ROOM)
            )));
        }
        for output in &outputs {
            let headers = self.bounds.check_headers(output.message.headers.size());
            headers
                .map_err(|why| reject(format!("an event to {}: {why}", output.message.subject)))?;
        }
        if let Some(refused) = outputs
            .iter()
            .find_map(|output| output.message.headers.refused())
        {
            return Err(reject(format!(
                "an event cannot be sent as NATS headers: {refused}"
            )));
        }
        Ok(outputs)
    }

    /// Makes one output. The id depends on the input, the function and the index alone, so every run of
    /// the function on this event gives the same one.
    fn output(
        &self,
        index: usize,
        draft: Draft,
        event: &Invocation,
        onward: &Onward,
        now: &impl Fn() -> u64,
    ) -> Output {
        let cause = &event.meta;
        let delay = draft.delay.map_or(0, |delay| delay.as_millis() as u64);
        let id = self.secret.output_id(&cause.id, self.function, index);
        let (producer, carrier) = onward.producer(draft.ty, &id, &cause.flow);
        let meta = Meta {
            id,
            source: format!("/{}", self.function),
            ty: draft.ty.to_owned(),
            // The time of its cause, not of the clock: should Redis lose this commit, the next run must give the same event,
            // down to its time. The wait of a delayed one is not held against it by the age fence.
            time: cause.time + delay,
            timed: true,
            flow: cause.flow.clone(),
            cause: cause.id.clone(),
            // Counted in the event itself, so that a loop is found out without asking anybody.
            hops: cause.hops + 1,
            traceparent: carrier.traceparent,
            tracestate: carrier.tracestate,
            baggage: carrier.baggage,
            redrive: None,
            tracked: event.tracked,
        };
        let entry = event.tracked.then(|| flow_log::follows(&meta, &draft.key));
        let mut headers = Headers::with_capacity(USUAL_HEADERS, USUAL_HEADER_BYTES);
        event::each_header(&meta, &draft.key, Format::Protobuf, |name, value| {
            headers.push(name, value);
        });
        let mut message = Outbound {
            subject: event::subject(draft.ty, &draft.key),
            headers,
            payload: draft.payload,
        };
        if draft.delay.is_some() {
            // Due from now on: after an outage a chain of delays must not fire all at once to catch up.
            let due = event::format_time(now() + delay);
            // A schedule has a subject of its own, by the id: a second publish replaces the one that
            // still waits.
            let subject = self.app.delayed(self.function, draft.ty, &meta.id);
            let rule = format!("@at {due}");
            message = layout::scheduled(subject, &rule, draft.ty, &draft.key, message);
        }
        Output {
            delay: Duration::from_millis(delay),
            message,
            entry,
            producer,
        }
    }
}

/// Encodes outputs as they wait in Redis, `oncue.v1.Outbox`; empty for none. Written from what is to be sent, since the
/// generated types would want every string once more.
pub(crate) fn encode(outputs: &[Output]) -> Bytes {
    let lengths: Vec<usize> = outputs
        .iter()
        .map(|output| envelope_len(&output.message))
        .collect();
    let total = lengths.iter().map(|length| field_len(*length)).sum();
    let mut bytes = Vec::with_capacity(total);
    for (Output { message, .. }, length) in outputs.iter().zip(lengths) {
        put(1, length, &mut bytes);
        put_bytes(1, message.subject.as_bytes(), &mut bytes);
        for (name, value) in message.headers.iter() {
            put(2, header_len(name, value), &mut bytes);
            put_bytes(1, name.as_bytes(), &mut bytes);
            put_bytes(2, value.as_bytes(), &mut bytes);
        }
        put_bytes(3, &message.payload, &mut bytes);
    }
    bytes.into()
}

/// Bytes of a field of `len` bytes, with its tag and its length.
fn field_len(len: usize) -> usize {
    1 + encoded_len_varint(len as u64) + len
}

fn header_len(name: &str, value: &str) -> usize {
    field_len(name.len()) + field_len(value.len())
}

fn envelope_len(message: &Outbound) -> usize {
    let headers = message.headers.iter();
    let headers: usize = headers
        .map(|(name, value)| field_len(header_len(name, value)))
        .sum();
    field_len(message.subject.len()) + headers + field_len(message.payload.len())
}

/// Outputs from their stored form, to be published by whoever found them. Neither span nor ledger
/// entry comes with them: the commit has made the entry.
///
/// An outbox that cannot be read gives none and a line in the log: no retry would mend it, and the
/// event it belongs to is applied.
pub(crate) fn decode(outbox: Bytes) -> Vec<Output> {
    match Outbox::decode(outbox) {
        Ok(outbox) => {
            let messages = outbox.outputs.into_iter().map(Outbound::from);
            messages.map(typed).map(Output::stored).collect()
        }
        Err(e) => {
            tracing::error!(error = %e, "an outbox in Redis cannot be read; its outputs are not published");
            Vec::new()
        }
    }
}

/// A delayed event with its type in its subject, which versions before did not write.
fn typed(mut message: Outbound) -> Outbound {
    let tokens: Vec<&str> = message.subject.split('.').collect();
    let ty = message.headers.iter().find(|(name, _)| *name == "ce-type");
    if let ["timer", "delayed", app, function, id] = tokens[..]
        && let Some((_, ty)) = ty
    {
        message.subject = format!("timer.delayed.{app}.{function}.{ty}.{id}");
    }
    message
}

#[cfg(test)]
mod tests {
    use oncue_proto::oncue::v1::{Envelope, Header};

    use super::*;

    #[test]
    fn what_is_written_is_the_generated_types_own_form() {
        let message = |subject: &str, payload: Vec<u8>| Outbound {
            subject: subject.into(),
            headers: [("ce-id", "a".repeat(200)), ("x", String::new())]
                .into_iter()
                .collect(),
            payload: payload.into(),
        };
        for payload in [Vec::new(), vec![7; 3], vec![0; 70_000]] {
            let outputs: Vec<Output> = ["web.page.milestone", ""]
                .map(|subject| Output::stored(message(subject, payload.clone())))
                .into();
            let read = Outbox::decode(encode(&outputs)).expect("an outbox");
            let headers = |message: &Outbound| {
                let header = |(name, value): (&str, &str)| Header {
                    name: name.into(),
                    value: value.into(),
                };
                message.headers.iter().map(header).collect()
            };
            let expected = outputs.iter().map(|output| Envelope {
                subject: output.message.subject.clone(),
                headers: headers(&output.message),
                payload: output.message.payload.clone(),
            });
            assert_eq!(read.outputs, expected.collect::<Vec<_>>());
            assert_eq!(decode(encode(&outputs)).len(), 2);
        }
    }
}
