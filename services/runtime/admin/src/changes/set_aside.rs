//! Events set aside on purpose: those that wait for a function which will not act on them any more become its dead
//! letters, from where they can be redriven to it, or dropped.
//!
//! Each is published as a letter first and recorded then, as a worker does it: whatever happens in between, nothing is
//! lost, and a letter is one per event and function.

use bytes::Bytes;

use super::waiting::{Waiter, WaitingEvent};
use crate::AdminError;
use oncue_core::bus::layout::DLQ;
use oncue_core::bus::{Bus, BusError};
use oncue_core::config::Config;
use oncue_core::model::letter::{self, timestamp};
use oncue_core::store::{CommitEvent, Entry, Purpose, Run, Status, Store, ledger_event};
use oncue_proto::event::{self, IdSecret, Meta};
use oncue_proto::oncue::v1::{DeadLetter, Envelope, Header};

/// Reason of the letters.
pub const REASON: &str = "set_aside";

/// Setting aside of events, with all that takes.
pub struct Withdrawal<'s> {
    pub bus: &'s Bus,
    pub store: &'s Store,
    pub config: &'s Config,
    /// Secret of the app.
    pub secret: &'s IdSecret,
    /// Text in the letters.
    pub why: &'s str,
}

impl Withdrawal<'_> {
    /// Sets aside all events of these subjects that wait for a function; returns their number.
    ///
    /// # Errors
    /// A server does not answer, or `dlq` is full. What was set aside until then stays so.
    pub async fn all(&self, waiter: Waiter<'_>, subjects: &[String]) -> Result<u64, AdminError> {
        let mut count = 0;
        for subject in subjects {
            let mut from = 0;
            while let Some(page) = waiter.next(self.bus, self.store, subject, from).await? {
                for event in &page.events {
                    count += u64::from(self.one(waiter, event).await?);
                }
                from = page.next;
            }
        }
        Ok(count)
    }

    /// Sets one event aside; `false` if a worker was faster.
    async fn one(&self, waiter: Waiter<'_>, event: &WaitingEvent) -> Result<bool, AdminError> {
        let WaitingEvent { message, meta, .. } = event;
        let redrives = meta.redrive.map_or(0, |redrive| redrive.number);
        let headers = message.headers.iter().map(|(name, value)| Header {
            name: name.clone(),
            value: value.clone(),
        });
        let letter = DeadLetter {
            function: waiter.function.to_owned(),
            reason: REASON.to_owned(),
            message: self.why.to_owned(),
            at: Some(timestamp(event::now_ms())),
            event_id: meta.id.clone(),
            event_type: meta.ty.clone(),
            flow_id: meta.flow.clone(),
            stream: waiter.stream.to_owned(),
            sequence: message.sequence,
            envelope: Some(Envelope {
                subject: message.subject.clone(),
                headers: headers.collect(),
                payload: message.payload.clone(),
            }),
            redrives,
            time: Some(timestamp(meta.time)),
            timed: meta.timed,
            accepted_at: Some(timestamp(message.time)),
            ..DeadLetter::default()
        };
        let id = self
            .secret
            .dead_letter_id(&meta.id, waiter.function, redrives);
        let letter = letter::message(self.bus.app(), &letter, meta.clone(), &id);
        let published = self.bus.publish(&letter).await;
        let ack = published.map_err(|e| BusError(format!("dead letter of {}: {e}", meta.id)))?;
        let record = CommitEvent {
            mark: waiter.mark(event),
            payload_hash: event.payload_hash,
            ops: Vec::new(),
            outbox: Bytes::new(),
            purpose: Purpose::DeadLetter,
            entry: self.entry(meta),
        };
        let run = Run {
            row: None,
            events: vec![record],
        };
        let committed = self.store.commit(&[run]).await?;
        let was_applied = matches!(
            committed.statuses.first().and_then(|run| run.first()),
            Some(Status::Duplicate(_))
        );
        if was_applied {
            // A letter that stays would invite a redrive of an event that was applied.
            let deleted = self.bus.delete_message(DLQ, ack.sequence).await;
            deleted.map_err(|e| AdminError::api(DLQ, e))?;
        }
        Ok(!was_applied)
    }

    /// Entry that closes the event's step in the ledger of its flow; `None` for an untracked one.
    fn entry(&self, meta: &Meta) -> Option<Box<Entry>> {
        let flows = &self.config.flows;
        let is_tracked = meta.tracked || flows.track.wants(&meta.flow);
        is_tracked.then(|| {
            Box::new(Entry {
                flow: meta.flow.clone(),
                keep: flows.keep.0,
                id: meta.id.clone(),
                ty: meta.ty.clone(),
                content: ledger_event(meta, "").1,
                is_own: meta.redrive.is_some(),
                follows: Vec::new(),
            })
        })
    }
}
