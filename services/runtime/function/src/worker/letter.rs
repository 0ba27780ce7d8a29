//! Dead letters as messages: of an event that a function cannot handle, and of an output that no stream takes.

use std::sync::Arc;

use bytes::Bytes;
use oncue_core::app::AppName;
use oncue_core::bus::{ApiError, Bus, Outbound, PubAck, PublishError};
use oncue_core::model::letter::{self, timestamp};
use oncue_core::store::Store;
use oncue_proto::event::{self, IdSecret, Incoming, Meta, Origin};
use oncue_proto::oncue::v1::{DeadLetter, Envelope, Header};
use oncue_telemetry::Carrier;

use crate::worker::counters::Counters;
use crate::worker::outputs;

/// Results of outputs, in their order; with the ack where the stream says that it had the message already.
pub(crate) type Results = Vec<Result<Option<PubAck>, PublishError>>;

/// Reason of the letter of an output that no stream will ever take.
pub(crate) const UNPUBLISHABLE: &str = "unpublishable";

/// Trace context of a letter, in place of that of the event it is about.
pub(crate) fn about(meta: &Meta, carrier: Carrier) -> Meta {
    Meta {
        traceparent: carrier.traceparent,
        tracestate: carrier.tracestate,
        baggage: carrier.baggage,
        ..meta.clone()
    }
}

/// Outputs of a function that are looked into: those that a server refuses, and those that it says it had.
pub(crate) struct OutputLetters {
    /// Name of the function, which emitted them.
    pub function: &'static str,
    /// Secret of the ids of letters.
    pub secret: IdSecret,
    pub bus: Bus,
    pub store: Store,
    pub counters: Arc<Counters>,
}

impl OutputLetters {
    /// Looks into the answers to outputs of one event that are no plain acks. What is refused for good is set aside as a
    /// dead letter of the output, and counts as published then; what is refused for now stays as it is.
    ///
    /// `outbox` holds the outputs as they were stored, in the order of `results`.
    pub async fn look_into(&self, outbox: &Bytes, results: &mut Results) {
        if results.iter().all(|result| matches!(result, Ok(None))) {
            return;
        }
        let outputs = outputs::decode(outbox.clone());
        for (output, result) in outputs.into_iter().zip(results) {
            let refusal = match &*result {
                Ok(Some(ack)) => match self.is_taken(ack, &output.message).await {
                    Ok(false) => continue,
                    Ok(true) => PublishError::Refused(format!(
                        "its id stands for another event, {}/{}",
                        ack.stream, ack.sequence
                    )),
                    Err(e) => {
                        *result = Err(PublishError::Unknown(e.to_string()));
                        continue;
                    }
                },
                Err(error) if self.is_final(error, &output.message.subject).await => error.clone(),
                Ok(None) | Err(_) => continue,
            };
            *result = self
                .set_aside(output.message, &refusal)
                .await
                .map(|()| None);
        }
    }

    /// Whether another event stands under the id of an output. Nobody can know such an id before it is used, so this
    /// takes a mistake or somebody who has the secret.
    async fn is_taken(&self, ack: &PubAck, output: &Outbound) -> Result<bool, ApiError> {
        let Some(found) = self.bus.message_at(&ack.stream, ack.sequence).await? else {
            // Purged since, which happens to what everybody is done with.
            return Ok(false);
        };
        let mut identity = output
            .headers
            .iter()
            .filter(|(name, _)| IDENTITY.contains(name));
        Ok(!identity.all(|(name, value)| found.header(name) == Some(value)))
    }

    /// Whether the same publish would be refused for ever.
    async fn is_final(&self, error: &PublishError, subject: &str) -> bool {
        match error {
            PublishError::TooLarge(_) | PublishError::Refused(_) | PublishError::Outdated(_) => {
                true
            }
            // A stream without a leader is silent as well; the list of streams knows it.
            PublishError::NoStream(_) => {
                let held = self.bus.streams_of_subject(subject).await;
                held.is_ok_and(|streams| streams.is_empty())
            }
            PublishError::Full(_) | PublishError::Unable(_) | PublishError::Unknown(_) => false,
        }
    }

    /// Sets an output aside: published with a fixed id and acked by `dlq`, then the steps that waited for it are closed
    /// in the ledger of its flow.
    async fn set_aside(
        &self,
        output: Outbound,
        refusal: &PublishError,
    ) -> Result<(), PublishError> {
        let output = Unpublishable::new(self.function, output, refusal);
        let meta = &output.meta;
        let id = self.secret.dead_letter_id(&meta.id, self.function, 0);
        let message = output.message(self.bus.app(), &id);
        self.bus.publish(&message).await?;
        if meta.tracked
            && let Err(e) = self.store.close_steps(meta).await
        {
            tracing::warn!(error = %e, event = meta.id, "the ledger of a flow waits for an event that is set aside");
        }
        tracing::error!(event = meta.id, ty = meta.ty, why = %refusal, "an output is set aside: no stream takes it");
        self.counters.failed("publish", &refusal.to_string());
        self.counters.buried(UNPUBLISHABLE);
        Ok(())
    }
}

/// Headers by which a stored message is known as the output that was published.
const IDENTITY: [&str; 4] = ["ce-id", "ce-type", "ce-source", "ce-causationid"];

/// An output that was committed and that no stream will ever take.
pub(crate) struct Unpublishable {
    /// Identity of the output, from its own headers.
    pub meta: Meta,
    /// The letter. Its envelope is the message as it would have been published.
    pub letter: DeadLetter,
}

impl Unpublishable {
    /// Letter of `function`, which emitted the event, for the reason that the server gave.
    pub fn new(function: &str, output: Outbound, error: &PublishError) -> Self {
        let headers: Vec<Header> = output
            .headers
            .iter()
            .map(|(name, value)| Header {
                name: name.to_owned(),
                value: value.to_owned(),
            })
            .collect();
        let now = event::now_ms();
        let origin = Origin {
            stream: event::stream_of_type(&output.subject),
            stream_created: 0,
            sequence: 0,
            published: now,
            subject: &output.subject,
        };
        let names = headers.iter().map(|header| (&*header.name, &*header.value));
        let read = event::read(names, output.payload.clone(), &origin);
        let meta = read.map_or_else(|_| Meta::of_origin(&origin), |Incoming { meta, .. }| meta);
        let key = headers.iter().find(|header| header.name == "ce-subject");
        let letter = DeadLetter {
            function: function.to_owned(),
            reason: UNPUBLISHABLE.to_owned(),
            message: format!("{}: {error}", output.subject),
            attempts: 1,
            at: Some(timestamp(now)),
            event_id: meta.id.clone(),
            event_type: meta.ty.clone(),
            flow_id: meta.flow.clone(),
            stream: event::stream_of_type(&meta.ty).to_owned(),
            key: key
                .and_then(|key| event::percent_decode(&key.value))
                .unwrap_or_default(),
            time: Some(timestamp(meta.time)),
            timed: meta.timed,
            accepted_at: Some(timestamp(now)),
            envelope: Some(Envelope {
                subject: output.subject,
                headers,
                payload: output.payload,
            }),
            ..DeadLetter::default()
        };
        Self { meta, letter }
    }

    /// The letter as a message under `id`, in the trace of the output.
    pub fn message(&self, app: &AppName, id: &str) -> Envelope {
        letter::message(app, &self.letter, self.meta.clone(), id)
    }
}
