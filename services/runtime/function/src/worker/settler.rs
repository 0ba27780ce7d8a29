//! Settling: how a delivery ends. The ack comes last in every case, and TERM never: a late one would kill a message that
//! another worker is busy with.
//!
//! An ack says that everything an event caused is stored elsewhere: state and mark in Redis,
//! outputs in their streams, or the whole event in `dlq`. So a late or a lost ack does no harm: the
//! next delivery answers `duplicate`. Acks are sent and not confirmed, for the same reason.

use std::sync::Arc;
use std::time::{Duration, Instant};

use oncue_core::backoff::Backoff;
use oncue_core::bus::layout::DLQ;
use oncue_core::bus::{Bus, PubAck, PublishError};
use oncue_core::failpoint;
use oncue_core::model::letter;
use oncue_core::store::Status;
use oncue_proto::event::IdSecret;

use crate::error::Error;
use crate::worker::committer::Committer;
use crate::worker::counters::Counters;
use crate::worker::effects::Effects;
use crate::worker::flow_log::{FlowLog, Hops};
use crate::worker::in_flight::InFlight;
use crate::worker::invocation::{
    BoxedInvocation, DeadLetterReason, Invocation, Outcome, RetryReason, Settlement,
};
use crate::worker::letter::about;
use crate::worker::probation::Probation;
use crate::worker::publisher::{CommittedEvent, Publisher};
use crate::worker::shown;
use crate::worker::totals::Totals;

/// Delays of a negative ack, by the attempt.
///
/// Half a second at first, doubled with each delivery up to a minute, each with up to half taken
/// off at random.
const RETRY: Backoff = Backoff {
    first: Duration::from_millis(500),
    longest: Duration::from_mins(1),
};

/// Attempt whose delay is the longest of an event that only another worker can handle: some two seconds.
const FOR_ANOTHER: u32 = 3;

/// Settler of deliveries, which acks them, gives them back or sets them aside. Shared by the worker
/// and every task that ends a delivery. Holds no state of its own, only what it takes to end one.
pub(crate) struct Settler {
    /// Name in `dlq.<app>.<function>` and in the letters.
    pub function: &'static str,
    /// Whether first runs are counted, as those of a function that runs at most once.
    pub counts_first_runs: bool,
    /// Secret of the ids of letters.
    pub secret: IdSecret,
    /// Acks, negative acks, heartbeats and dead letters go out here.
    pub bus: Bus,
    /// In-flight set: asked whether a delivery is still ours, and told that it is settled.
    pub in_flight: Arc<InFlight>,
    pub counters: Arc<Counters>,
    /// Records dead letters.
    pub committer: Arc<Committer>,
    /// Publishes outputs before the ack.
    pub publisher: Arc<Publisher>,
    pub probation: Arc<Probation>,
    /// Failures and dead letters of tracked flows.
    pub flow_log: Arc<FlowLog>,
    /// Counts of who sent what to whom, one for each acked event.
    pub hops: Arc<Hops>,
    /// Not counted here, but reported together with the hops.
    pub totals: Arc<Totals>,
}

impl Settler {
    /// Ends a delivery. The one place where a delivery is acked, given back or set aside.
    pub async fn settle(&self, event: BoxedInvocation, settlement: Settlement) {
        match settlement {
            Settlement::Ack(outcome) => self.ack(&event, outcome).await,
            // Boxed, since they are rare and would make the future of every ack as large as theirs.
            Settlement::Retry(reason) => Box::pin(self.retry(event, reason)).await,
            Settlement::DeadLetter(reason, error) => {
                Box::pin(self.dead_letter(event, reason, &error)).await;
            }
        }
    }

    /// Ends a delivery in a task of its own, so that others need not wait for it.
    pub fn settle_apart(self: &Arc<Self>, event: BoxedInvocation, settlement: Settlement) {
        let settler = self.clone();
        tokio::spawn(async move { settler.settle(event, settlement).await });
    }

    /// Publishes what follows from committed events, what Redis has stored where it says so, then ends their deliveries.
    ///
    /// Before: the commit has answered. After: every event is acked or given back, and the outbox
    /// is marked, if this was its last event. A crash between ack and mark leaves the outbox to a
    /// relay.
    pub async fn publish_and_settle(&self, events: Vec<CommittedEvent>, outcome: Outcome) {
        let (published, finished) = self.publisher.publish(events, outcome).await;
        for published in published {
            let settlement = match published.error {
                None => Settlement::Ack(outcome),
                // Applied all the same: the next delivery is a duplicate with the outputs that are
                // missing.
                Some(e) => Settlement::Retry(RetryReason::Unpublished(e.to_string())),
            };
            self.settle(published.event, settlement).await;
        }
        // Behind the acks, since the mark waits for others and an event in flight takes up room.
        self.publisher.mark_all(finished).await;
    }

    /// Acks, which is the last step of an event. Hops are counted here, so a delivery that is given
    /// back counts once it is done.
    async fn ack(&self, event: &Invocation, outcome: Outcome) {
        self.bus.ack(&event.delivery.ticket()).await;
        failpoint::point("ack.done");
        self.hops.count(&event.meta);
        self.end(event, outcome);
    }

    /// Sends a negative ack with a growing delay, but only while the event is surely ours.
    ///
    /// A delivery that may be another worker's by now gets no answer at all: it is released here,
    /// and the server sends it again when the ack wait has passed. Either way the process is alive,
    /// which is what the voucher says.
    async fn retry(&self, mut event: BoxedInvocation, reason: RetryReason) {
        let apart = matches!(reason, RetryReason::Apart(_) | RetryReason::Killed(_));
        let is_for_another = matches!(
            reason,
            RetryReason::NewerRow(_) | RetryReason::OtherProgram(_)
        );
        if Effects::is_free(&reason, &event, self.counts_first_runs) {
            self.committer.uncount(&event).await;
        }
        let mut not_before = Duration::ZERO;
        let why = match reason {
            RetryReason::Failed(error) | RetryReason::Killed(error) => {
                not_before = error.not_before;
                let why = shown(&error);
                self.flow_log.fails(&event, &why);
                self.record_failure(&mut event, error.class, why.clone());
                why
            }
            RetryReason::Unpublished(why) => {
                self.record_failure(&mut event, "publish", why.clone());
                why
            }
            RetryReason::OtherProgram(why) => {
                // Set aside on purpose, by the change that took the type away.
                let known = self.committer.recall(&event).await;
                if matches!(known, Ok(Status::Dead | Status::Duplicate(_))) {
                    return self.ack(&event, Outcome::Duplicate).await;
                }
                self.record_failure(&mut event, "other_program", why.clone());
                why
            }
            RetryReason::NewerRow(why) => {
                self.record_failure(&mut event, "newer_row", why.clone());
                why
            }
            RetryReason::Contended => "the row keeps changing under it".to_owned(),
            RetryReason::UnderWay => "a copy of it is being handled".to_owned(),
            RetryReason::NotSetAside(why) | RetryReason::Apart(why) => why,
        };
        let info = &event.delivery.info;
        let is_ours = self.in_flight.is_ours(event.number);
        // By the deliveries and not by the runs: the server counts those, and a contended event
        // backs off as well.
        // Another worker may take it at once, so it does not wait for as long as after failures.
        let attempt = if is_for_another {
            info.attempt.min(FOR_ANOTHER)
        } else {
            info.attempt
        };
        let delay = RETRY.delay(attempt).max(not_before);
        {
            let _log = event.trace.log(&event.meta);
            tracing::warn!(event = event.meta.id, runs = event.runs(), delay = ?delay, why, "will be tried again");
        }
        if is_ours {
            self.bus.retry(&event.delivery.ticket(), delay).await;
        }
        failpoint::point("retry.done");
        // One on probation whose handler did not come to run is not known to be harmless.
        if !apart && (!event.on_probation || event.event.is_none()) {
            self.probation.vouch(info.sequence, u64::from(info.attempt));
        }
        self.end(&event, Outcome::Retried);
    }

    /// Sets an event aside: published with a fixed id and acked by the stream, then recorded, then the input is acked. A
    /// crash in between repeats what was done without doubling it.
    ///
    /// In this order no crash loses the event: it is neither recorded nor acked before the letter
    /// is in `dlq`. Where the letter cannot be published, the event is given back and comes here
    /// again; where Redis refuses the record, it is acked all the same, since the letter holds it.
    async fn dead_letter(
        &self,
        mut event: BoxedInvocation,
        reason: DeadLetterReason,
        error: &Error,
    ) {
        // The record needs a key, and the event has none that can be read: its id stands in for it.
        if event.key().is_empty() && reason.precedes_key() {
            let id = event.meta.id.clone();
            event.set_key(&id);
        }
        event.outputs.clear(); // nothing follows from it
        // One letter for each event, however often it comes: a consumer that was made anew, or a recovery, brings all of
        // them again.
        match self.committer.recall(&event).await {
            Ok(Status::Dead) => return self.ack(&event, Outcome::Duplicate).await,
            Ok(Status::Duplicate(outbox)) if reason != DeadLetterReason::IdReuse => {
                event.trace.recovered();
                let applied = CommittedEvent::applied_before(event, outbox.unwrap_or_default());
                return self
                    .publish_and_settle(vec![applied], Outcome::Duplicate)
                    .await;
            }
            _ => {}
        }
        let why = super::shown_as(error, reason.as_str());
        self.flow_log.fails(&event, &why);
        self.record_failure(&mut event, reason.as_str(), why.clone());
        failpoint::point("dead_letter.begin");
        // Waits for the stream's ack: from here on the event exists in `dlq`.
        let letter_sequence = match self.publish_dead_letter(&event, reason, error).await {
            Ok(ack) => ack.sequence,
            Err(e) => {
                let why = format!("cannot be dead-lettered ({why}): {e}");
                return self.retry(event, RetryReason::NotSetAside(why)).await;
            }
        };
        failpoint::point("dead_letter.published");
        match self
            .committer
            .commit_dead_letter(&event, &self.flow_log)
            .await
        {
            // Meanwhile another worker has applied it, so the letter says what is not so. (An id used again is another event.)
            Ok(Status::Duplicate(outbox)) if reason != DeadLetterReason::IdReuse => {
                // A letter that stays would invite a redrive of an event that was applied.
                if let Err(e) = self.bus.delete_message(DLQ, letter_sequence).await {
                    tracing::warn!(error = %e, event = event.meta.id, "a dead letter of an applied event stays");
                }
                event.trace.recovered();
                let applied = CommittedEvent::applied_before(event, outbox.unwrap_or_default());
                return self
                    .publish_and_settle(vec![applied], Outcome::Duplicate)
                    .await;
            }
            Ok(_) => {}
            Err(e) => {
                tracing::warn!(error = %e, "a dead letter is not recorded; a redelivery would write it again");
            }
        }
        failpoint::point("dead_letter.recorded");
        {
            let _log = event.trace.log(&event.meta);
            tracing::error!(
                event = event.meta.id,
                ty = event.meta.ty,
                reason = reason.as_str(),
                why,
                "dead-lettered"
            );
        }
        self.counters.buried(reason.as_str());
        self.ack(&event, Outcome::Dead).await;
    }

    /// Publishes the letter of an event and waits for the stream's ack. The id is made of event,
    /// function and number of redrives (where an id was used again, of its place as well), so a letter that is written twice is one message in `dlq`
    /// as far back as its duplicate window goes.
    ///
    /// # Errors
    ///
    /// The stream `dlq` is full, absent or silent. Nothing is recorded then.
    async fn publish_dead_letter(
        &self,
        event: &Invocation,
        reason: DeadLetterReason,
        error: &Error,
    ) -> Result<PubAck, PublishError> {
        let mut letter = event.to_dead_letter(self.function, reason, error);
        // Each of several events under one id is told of.
        let event_id = match reason {
            DeadLetterReason::IdReuse => format!("{}:{}", event.meta.id, letter.sequence),
            _ => event.meta.id.clone(),
        };
        // A redrive that fails again is a letter of its own.
        let id = self
            .secret
            .dead_letter_id(&event_id, self.function, letter.redrives);
        let (producer, carrier) = event.trace.letter(self.bus.app(), &event.meta, &id);
        let started = Instant::now();
        let about = about(&event.meta, carrier);
        let message = letter::message(self.bus.app(), &letter, about.clone(), &id);
        let mut published = self.bus.publish(&message).await;
        if let (Err(PublishError::TooLarge(_)), Some(envelope)) = (&published, &mut letter.envelope)
        {
            // Event and letter together are too much for one message: the letter says where the event stands.
            envelope.payload.clear();
            let message = letter::message(self.bus.app(), &letter, about, &id);
            published = self.bus.publish(&message).await;
        }
        self.counters.sent(1, started.elapsed(), published.is_ok());
        if let Some(producer) = producer {
            let error = published.as_ref().err().map(ToString::to_string);
            producer.end(error.as_deref());
        }
        published
    }

    /// Records a failure where people look for it; `text` is what may be shown of it.
    ///
    /// The last error of `$SRV.STATS`, the counts by class and the span of the event are fed from
    /// here alone.
    fn record_failure(&self, event: &mut Invocation, class: &'static str, text: String) {
        self.counters.failed(class, &text);
        event.trace.failed(class, text);
    }

    /// Counts the outcome, makes the span and releases the delivery. Always the last call: after it
    /// the place in flight is free, and the number means nothing any more.
    fn end(&self, event: &Invocation, outcome: Outcome) {
        self.counters.settled(outcome.as_str());
        event.trace.end(&event.meta, outcome.as_str());
        self.in_flight.release(event.number);
    }

    /// Tells the server again and again that long-running and waiting events are still with us.
    ///
    /// Runs for as long as the process does. `+WPI` starts the ack wait anew [NATS ADR-15]; one
    /// that is lost is sent again in a later round.
    pub async fn send_heartbeats(self: Arc<Self>) {
        loop {
            tokio::time::sleep(self.in_flight.budget.heartbeat_interval()).await;
            for ticket in self.in_flight.heartbeats_due() {
                self.bus.in_progress(&ticket).await;
            }
        }
    }
}
