//! What follows from an event: drafts become envelopes with ids of their own, stored by the commit, published from
//! what was stored.

use std::time::Duration;

use bytes::Bytes;
use oncue_proto::oncue::v1::{Envelope, Header, Outbox};
use oncue_proto::{Draft, Format};
use prost::Message as _;

use crate::bus;
use crate::bus::layout::{self, TIMER};
use crate::error::{Result, reject};
use crate::event::{self, Meta};
use crate::job::Job;
use crate::trace::{Onward, Producer};

/// Most events one event may cause at once.
const MAX_OUTPUTS: usize = 256;
/// Most bytes of them together.
const MAX_BYTES: usize = 1 << 20;

/// Longest delay of an event. The server fires schedules that lie centuries ahead at once.
const MAX_DELAY: Duration = Duration::from_hours(10 * 365 * 24);

/// One event to publish.
pub(crate) struct Output {
    pub envelope: Envelope,
    /// Its span, until the publish ack; none for an output that comes back from Redis.
    pub producer: Option<Producer>,
}

/// Gives drafts their identity. Nothing is committed that could never be published.
pub(crate) fn prepare(drafts: Vec<Draft>, job: &Job, function: &str, max_payload: usize) -> Result<Vec<Output>> {
    if drafts.len() > MAX_OUTPUTS {
        return Err(reject(format!("{} events at once, the limit is {MAX_OUTPUTS}", drafts.len())));
    }
    if let Some(delay) = drafts.iter().filter_map(|draft| draft.delay).find(|delay| *delay > MAX_DELAY) {
        return Err(reject(format!("a delay of {delay:?}, the limit is {MAX_DELAY:?}")));
    }
    let onward = job.trace.onward(job.meta(), drafts.len());
    let outputs: Vec<Output> =
        drafts.into_iter().enumerate().map(|(index, draft)| output(index, draft, job, function, &onward)).collect();
    let bytes: usize = outputs.iter().map(|output| bus::size(&output.envelope)).sum();
    if bytes > MAX_BYTES || outputs.iter().any(|output| bus::size(&output.envelope) > max_payload) {
        return Err(reject(format!("{bytes} bytes of events at once, the limit is {MAX_BYTES} ({max_payload} each)")));
    }
    Ok(outputs)
}

fn output(index: usize, draft: Draft, job: &Job, function: &str, onward: &Onward) -> Output {
    let cause = job.meta();
    let delay = draft.delay.map_or(0, |delay| delay.as_millis() as u64);
    let id = event::output_id(&cause.id, function, index);
    let producer = onward.producer(draft.ty, &id, &cause.flow);
    let carrier = producer.carrier();
    let meta = Meta {
        id,
        source: format!("/{function}"),
        ty: draft.ty.to_owned(),
        // The time of its cause, not of the clock: should Redis lose this commit, the next run must give the same event,
        // down to the bucket of its seen-mark. The wait of a delayed one is not held against it by the age fence.
        time: cause.time + delay,
        timed: true,
        flow: cause.flow.clone(),
        cause: cause.id.clone(),
        hops: cause.hops + 1,
        traceparent: carrier.traceparent,
        tracestate: carrier.tracestate,
        baggage: carrier.baggage,
        redrive: None,
    };
    let headers = event::headers(&meta, &draft.key, Format::Protobuf);
    let headers = headers.into_iter().map(|(name, value)| Header { name, value }).collect();
    let mut envelope = Envelope { subject: event::subject(draft.ty, &draft.key), headers, payload: draft.payload };
    if draft.delay.is_some() {
        // Due from now on: after an outage a chain of delays must not fire all at once to catch up.
        let due = event::format_time(event::now_ms() + delay);
        let (subject, rule) = (format!("{TIMER}.delayed.{}", meta.id), format!("@at {due}"));
        envelope = layout::scheduled(subject, &rule, draft.ty, &draft.key, envelope);
    }
    Output { envelope, producer: Some(producer) }
}

/// The form in which outputs wait in Redis; empty for none.
pub(crate) fn encode(outputs: &[Output]) -> Bytes {
    if outputs.is_empty() {
        return Bytes::new();
    }
    Outbox { outputs: outputs.iter().map(|output| output.envelope.clone()).collect() }.encode_to_vec().into()
}

pub(crate) fn decode(outbox: Bytes) -> Vec<Output> {
    match Outbox::decode(outbox) {
        Ok(outbox) => outbox.outputs.into_iter().map(|envelope| Output { envelope, producer: None }).collect(),
        Err(e) => {
            tracing::error!(error = %e, "an outbox in Redis cannot be read; its outputs are not published");
            Vec::new()
        }
    }
}
