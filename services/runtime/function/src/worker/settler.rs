//! How a delivery ends: its outputs published and the input acked, given back for later, or dead-lettered. The ack comes
//! last in every case, and TERM never: a late one would kill a message that another worker is busy with.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::future::join_all;
use oncue_proto::oncue::v1::{DeadLetter, Envelope, Header};
use oncue_proto::{Event as _, Format};
use prost::Message as _;

use crate::error::Error;
use crate::worker::Worker;
use crate::worker::handler::handled;
use crate::worker::invocation::{Boxed, Job, Reason};
use crate::worker::outputs::{self, Outgoing, Output};
use crate::worker::queues::Batches;
use crate::worker::shown::{shown, shown_as};
use crate::worker::spans::Producer;
use oncue_core::bus::layout::DLQ;
use oncue_core::bus::{Bus, Outbound, PublishError};
use oncue_core::failpoint;
use oncue_core::store::{CommitEvent, Purpose, Run, Status, StoreError, StoredOutputs};
use oncue_proto::event::{self, Meta};
use oncue_telemetry::Carrier;

const FIRST_RETRY: Duration = Duration::from_millis(500);
const LONGEST_RETRY: Duration = Duration::from_mins(1);

/// An event that is settled in the store.
pub(crate) enum Done {
    /// Just now, with its outputs among those of a whole commit.
    Applied(Boxed, Option<Arc<Outgoing>>),
    /// Before, and these of its outputs may not be published yet.
    Before(Boxed, Bytes),
}

/// An event, what is to be published of it, and the outputs of its commit.
type Followed = (Boxed, Vec<Output>, Option<Arc<Outgoing>>);

impl Worker {
    /// The events are committed: publishes what follows from them, what Redis has stored where it says so, then acks.
    pub(crate) fn follow(self: &Arc<Self>, done: Vec<Done>) {
        let (mut applied, mut before) = (Vec::new(), Vec::new());
        for one in done {
            match one {
                Done::Applied(mut job, outgoing) => {
                    let outputs = std::mem::take(&mut job.outputs);
                    applied.push((job, outputs, outgoing));
                }
                Done::Before(mut job, outbox) => {
                    job.outbox = Bytes::new(); // what this run made of it was not stored
                    before.push((job, outputs::decode(outbox), None));
                }
            }
        }
        for (events, outcome) in [(applied, "applied"), (before, "duplicate")] {
            if !events.is_empty() {
                let worker = self.clone();
                tokio::spawn(async move { worker.publish_and_ack(events, outcome).await });
            }
        }
    }

    async fn publish_and_ack(&self, events: Vec<Followed>, outcome: &'static str) {
        let (mut outputs, mut jobs, mut unmarked) = (Vec::new(), Vec::new(), Vec::new());
        for (job, own, outgoing) in events {
            jobs.push((job, own.len(), outgoing));
            outputs.extend(own);
        }
        if !outputs.is_empty() {
            failpoint::point("publish.begin");
        }
        let (started, sent) = (Instant::now(), outputs.len());
        let published = self.publish(outputs, outcome).await;
        if sent > 0 {
            self.counters
                .sent(sent, started.elapsed(), published.iter().all(Result::is_ok));
        }
        let mut published = published.into_iter();
        let mut settled = Vec::with_capacity(jobs.len());
        for (mut job, count, outgoing) in jobs {
            let failed = published
                .by_ref()
                .take(count)
                .filter_map(Result::err)
                .last();
            unmarked.extend(outgoing.and_then(|outgoing| outgoing.settle(&job, failed.is_none())));
            if let Some(e) = failed {
                self.failed(&mut job, "publish", e.to_string());
                self.give_back(job, &e.to_string()).await; // committed: comes back as a duplicate, to publish again
                continue;
            }
            if count > 0 {
                failpoint::point("publish.done");
            }
            self.bus.ack(&job.delivery.ticket()).await;
            failpoint::point("ack.done");
            settled.push(job);
        }
        for job in settled {
            self.settled(&job, outcome);
        }
        join_all(
            unmarked
                .into_iter()
                .map(|(key, left, done)| self.mark(key, left, done)),
        )
        .await;
    }

    /// Where batches pay, what was just committed goes out with that of others. Not what was committed before: a batch
    /// with an id that is known is refused whole.
    async fn publish(&self, outputs: Vec<Output>, outcome: &str) -> Vec<Result<(), PublishError>> {
        match &self.batches {
            Some(batches) if outcome == "applied" && !outputs.is_empty() => {
                publish_together(batches, outputs).await
            }
            _ => publish(&self.bus, outputs).await,
        }
    }

    /// The outputs of a whole commit are settled.
    pub(crate) async fn mark(
        &self,
        key: String,
        left: Vec<StoredOutputs>,
        done: Vec<StoredOutputs>,
    ) {
        if done.is_empty() && !left.is_empty() {
            return;
        }
        self.unmarked.fetch_add(1, Ordering::Relaxed);
        let marked = if left.is_empty() {
            self.marks.ask(key).await
        } else {
            self.store
                .split(
                    &key,
                    &left,
                    if self.keep_outputs.is_zero() {
                        &[]
                    } else {
                        &done
                    },
                )
                .await
        };
        self.unmarked.fetch_sub(1, Ordering::Relaxed);
        if let Err(e) = marked {
            tracing::warn!(error = %e, "outputs are published but not marked so; the sweeper will publish them again");
        }
        for _ in done {
            failpoint::point("mark.done");
        }
    }

    /// Nothing more to do for this delivery.
    pub(crate) async fn finish(&self, job: Boxed, outcome: &'static str) {
        self.bus.ack(&job.delivery.ticket()).await;
        failpoint::point("ack.done");
        self.settled(&job, outcome);
    }

    fn settled(&self, job: &Job, outcome: &'static str) {
        self.hops.saw(&job.meta);
        self.counters.settled(outcome);
        job.trace.end(&job.meta, outcome);
        self.hand.release(job.number);
    }

    /// Notes a failure where people look for it; `text` is what may be shown of it.
    fn failed(&self, job: &mut Job, class: &'static str, text: String) {
        self.counters.failed(class, &text);
        job.trace.failed(class, text);
    }

    /// The handler failed: again later, or set aside when it says so or was tried often enough.
    pub(crate) fn fail(self: &Arc<Self>, mut job: Boxed, error: Error) {
        if error.rejected {
            return self.bury(job, Reason::Rejected, error);
        }
        if job.runs >= self.limits.attempts {
            return self.bury(job, Reason::Attempts, error);
        }
        let shown = shown(&error);
        self.note_failure(&job, &shown);
        self.failed(&mut job, error.class, shown.clone());
        let worker = self.clone();
        tokio::spawn(async move { worker.give_back(job, &shown).await });
    }

    /// Records that an event is dead-lettered.
    async fn commit_dead(&self, job: &Job) -> Result<Status, StoreError> {
        let entry = self.entry(job);
        let handled = CommitEvent {
            purpose: Purpose::Bury,
            outbox: Bytes::new(),
            entry,
            ..handled(job, Vec::new())
        };
        let (mut statuses, _) = self
            .commits
            .ask(Run {
                row: None,
                events: vec![handled],
            })
            .await?;
        Ok(statuses.pop().unwrap_or(Status::Dead))
    }

    pub(crate) fn retry_all(self: &Arc<Self>, jobs: Vec<Boxed>, why: &dyn std::fmt::Display) {
        for job in jobs {
            self.fail(job, Error::retry(why));
        }
    }

    /// What Redis refuses for these events fails before their runs are counted: each delivery is one attempt.
    pub(crate) fn fault(self: &Arc<Self>, mut jobs: Vec<Boxed>, why: &StoreError) {
        for job in &mut jobs {
            job.runs = job.runs.max(job.delivery.info.attempt);
        }
        for job in jobs {
            self.fail(job, Error::retry(why).of_class("redis"));
        }
    }

    /// Again later, without a failed attempt.
    pub(crate) fn put_back(self: &Arc<Self>, jobs: Vec<Boxed>, why: &'static str) {
        let worker = self.clone();
        tokio::spawn(async move {
            join_all(jobs.into_iter().map(|job| worker.give_back(job, why))).await
        });
    }

    /// NAK with a growing delay, but only while the server surely still believes the event to be ours: later it may have
    /// gone to another worker, whom a NAK would rob of it.
    async fn give_back(&self, job: Boxed, why: &str) {
        let ours = self
            .hand
            .is_ours(job.number, self.limits.ack_wait.0 * 2 / 3);
        let delay = retry_delay(job.delivery.info.attempt, fastrand::f64());
        let log = job.trace.log(&job.meta);
        tracing::warn!(event = job.meta.id, runs = job.runs, delay = ?delay, why, "will be tried again");
        drop(log);
        if ours {
            self.bus.retry(&job.delivery.ticket(), delay).await;
        }
        failpoint::point("retry.done");
        // One on probation whose handler did not come to run is not known to be harmless.
        if !job.is_alone() || job.event.is_none() {
            self.survivors
                .note(job.delivery.info.sequence, job.delivery.info.attempt.into());
        }
        self.counters.settled("retried");
        job.trace.end(&job.meta, "retried");
        self.hand.release(job.number);
    }

    /// What the commit refused, set aside.
    pub(crate) fn refuse(self: &Arc<Self>, job: Boxed, reason: Reason) {
        let words = match reason {
            Reason::TooOld => "older than the horizon, it cannot be proven new",
            Reason::Clock => "its time lies in the future",
            Reason::IdReuse => "its id was used with another payload",
            _ => reason.as_str(),
        };
        self.bury(job, reason, Error::retry(words).of_class("platform"));
    }

    /// Dead-letters: published with a fixed id and acked by the stream, then recorded, then the input is acked. A crash
    /// in between repeats what was done without doubling it.
    pub(crate) fn bury(self: &Arc<Self>, mut job: Boxed, reason: Reason, error: Error) {
        if job.key().is_empty() && matches!(reason, Reason::Unreadable(_) | Reason::Loop) {
            let meta = job.meta.clone();
            job.set_key(&meta.id);
        }
        job.outputs.clear(); // nothing follows from it
        self.note_failure(&job, &shown_as(&error, reason.as_str()));
        self.failed(&mut job, reason.as_str(), shown_as(&error, reason.as_str()));
        let worker = self.clone();
        tokio::spawn(async move { worker.set_aside(job, reason, error).await });
    }

    async fn set_aside(self: &Arc<Self>, mut job: Boxed, reason: Reason, error: Error) {
        failpoint::point("bury.begin");
        let why = shown_as(&error, reason.as_str());
        let mut letter =
            job.dead_letter(self.function.name, reason, cut(&error.message), error.site);
        let id = event::dead_letter_id(&job.meta.id, self.function.name, letter.redrives);
        let (producer, carrier) = job.trace.letter(&job.meta, &id);
        let started = Instant::now();
        let mut published = self
            .bus
            .publish(&dead_letter(
                &letter,
                &job,
                self.function.name,
                &id,
                carrier.clone(),
            ))
            .await;
        if let (Err(PublishError::TooLarge(_)), Some(envelope)) = (&published, &mut letter.envelope)
        {
            // Event and letter together are too much for one message: the letter says where the event stands.
            envelope.payload.clear();
            published = self
                .bus
                .publish(&dead_letter(
                    &letter,
                    &job,
                    self.function.name,
                    &id,
                    carrier,
                ))
                .await;
        }
        self.counters.sent(1, started.elapsed(), published.is_ok());
        if let Some(producer) = producer {
            producer.end(published.as_ref().err().map(ToString::to_string).as_deref());
        }
        let written = match published {
            Ok(ack) => ack.sequence,
            Err(e) => {
                return self
                    .give_back(job, &format!("cannot be dead-lettered ({why}): {e}"))
                    .await;
            }
        };
        failpoint::point("bury.published");
        match self.commit_dead(&job).await {
            // Meanwhile another worker has applied it, so the letter says what is not so. (An id used again is another event.)
            Ok(Status::Duplicate(outbox)) if reason != Reason::IdReuse => {
                if let Err(e) = self.bus.delete_message(DLQ, written).await {
                    tracing::warn!(error = %e, event = job.meta.id, "a dead letter of an applied event stays");
                }
                job.trace.recovered();
                return self.follow(vec![Done::Before(job, outbox.unwrap_or_default())]);
            }
            Ok(_) => {}
            Err(e) => {
                tracing::warn!(error = %e, "a dead letter is not recorded; a redelivery would write it again")
            }
        }
        failpoint::point("bury.recorded");
        {
            let _log = job.trace.log(&job.meta);
            tracing::error!(
                event = job.meta.id,
                ty = job.meta.ty,
                reason = reason.as_str(),
                why,
                "dead-lettered"
            );
        }
        self.counters.buried(reason.as_str());
        self.finish(job, "dead").await;
    }

    /// Tells the server that long-running and waiting events are still with us.
    pub(crate) async fn keep_alive(self: Arc<Self>) {
        let wait = self.limits.ack_wait.0;
        loop {
            tokio::time::sleep(wait / 6).await;
            self.pulse.beat();
            // One that was silent for too long (the process was frozen) may be another worker's by now: it is left to it.
            for ticket in self.hand.due(wait / 4..wait * 2 / 3) {
                self.bus.in_progress(&ticket).await;
            }
        }
    }
}

/// What became of each, once that is known of all.
pub(crate) async fn publish(bus: &Bus, outputs: Vec<Output>) -> Vec<Result<(), PublishError>> {
    let (messages, producers) = parts(outputs);
    let published: Vec<_> = bus
        .publish_each(messages)
        .await
        .into_iter()
        .map(|answer| answer.map(|_| ()))
        .collect();
    end(&producers, &published);
    published
}

/// The same with those of other runs in one batch.
async fn publish_together(
    batches: &Batches,
    outputs: Vec<Output>,
) -> Vec<Result<(), PublishError>> {
    let (messages, producers) = parts(outputs);
    let unknown = |e: StoreError| vec![Err(PublishError::Unknown(e.to_string())); producers.len()];
    let published = batches.ask(messages).await.unwrap_or_else(unknown);
    for _ in &published {
        failpoint::point("publish.one");
    }
    end(&producers, &published);
    published
}

fn parts(outputs: Vec<Output>) -> (Vec<Outbound>, Vec<Option<Producer>>) {
    outputs
        .into_iter()
        .map(|output| (output.message, output.producer))
        .unzip()
}

fn end(producers: &[Option<Producer>], published: &[Result<(), PublishError>]) {
    for (producer, answer) in producers.iter().zip(published) {
        if let Some(producer) = producer {
            producer.end(answer.as_ref().err().map(ToString::to_string).as_deref());
        }
    }
}

/// The first 4 KiB: an error may quote a whole payload.
fn cut(message: &str) -> String {
    let end = (0..=message.len().min(4096))
        .rev()
        .find(|at| message.is_char_boundary(*at));
    message[..end.unwrap_or(0)].to_owned()
}

/// 0.5 s, 1 s, 2 s ... 60 s, of which a random half is taken off so that failures do not march in step.
fn retry_delay(attempt: u32, random: f64) -> Duration {
    let full = FIRST_RETRY
        .saturating_mul(1 << attempt.saturating_sub(1).min(10))
        .min(LONGEST_RETRY);
    full.mul_f64(0.5 + random / 2.0)
}

fn dead_letter(
    letter: &DeadLetter,
    job: &Job,
    function: &str,
    id: &str,
    carrier: Carrier,
) -> Envelope {
    let meta = Meta {
        id: id.to_owned(),
        source: format!("/{function}"),
        ty: DeadLetter::TYPE.to_owned(),
        time: event::now_ms(),
        timed: true,
        flow: job.meta.flow.clone(),
        cause: job.meta.id.clone(),
        hops: job.meta.hops,
        traceparent: carrier.traceparent,
        tracestate: carrier.tracestate,
        baggage: carrier.baggage,
        redrive: None,
        tracked: false,
    };
    let headers = event::headers(&meta, function, Format::Protobuf);
    Envelope {
        subject: format!("{DLQ}.{function}"),
        headers: headers
            .into_iter()
            .map(|(name, value)| Header {
                name: name.to_owned(),
                value,
            })
            .collect(),
        payload: letter.encode_to_vec().into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retries_grow_to_a_minute_and_never_march_in_step() {
        assert_eq!(retry_delay(1, 1.0), FIRST_RETRY);
        assert_eq!(retry_delay(3, 1.0), Duration::from_secs(2));
        assert_eq!(retry_delay(40, 1.0), LONGEST_RETRY);
        assert_eq!(retry_delay(40, 0.0), LONGEST_RETRY / 2);
    }
}
