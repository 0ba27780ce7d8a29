//! The spans of an event's life in one function: CONSUMER for the event, PRODUCER for each event that follows and for its
//! dead letter, CLIENT for what Redis does. Conventions: OpenTelemetry messaging, FaaS, CloudEvents; `messaging.system`
//! is `nats`.
//!
//! An event that is not sampled has the ids of its spans and the time it began, no more. When it fails, its CONSUMER
//! span and that of its dead letter are made from these and exported all the same.
//!
//! | attributes | convention |
//! |---|---|
//! | `messaging.*` | OpenTelemetry semantic conventions, messaging spans |
//! | `faas.trigger`, `faas.invocation_id`, `faas.coldstart` | OpenTelemetry semantic conventions, FaaS spans |
//! | `cloudevents.*` | OpenTelemetry semantic conventions, CloudEvents spans |
//! | `db.*` on CLIENT spans | OpenTelemetry semantic conventions, Redis spans |
//! | `error.type` | OpenTelemetry semantic conventions, recording errors |
//! | `oncue.*` | ours: hops, attempt, outcome, duplicates, conflicts, redrives, rollover |
//!
//! Ids of spans are made when the delivery comes and not when its span is written, since outputs
//! carry them to the next function long before this one has ended.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use opentelemetry::trace::{SpanId, TraceId};

use oncue_core::app::AppName;
use oncue_core::store::Status;
use oncue_proto::event::Meta;
use oncue_telemetry::{Carrier, InFlow, Kind, Size, Span, SpanIds};

/// One delivery, from the pull to the ack.
///
/// Part of the invocation, so owned by whichever task has the event; nothing of it is shared.
pub(crate) struct Trace {
    /// `None` where nobody traces.
    /// When the delivery was pulled; the Unix epoch where nobody traces.
    ids: Option<SpanIds>,
    started: SystemTime,
    /// Consumer group of the span, and subject of the dead letter.
    function: &'static str,
    /// Delivery as the server counts it, from 1.
    attempt: u32,
    /// Payload in bytes.
    size: usize,
    /// Of this process it is the first.
    cold: bool,
    /// Applied before, as the commit says.
    duplicate: bool,
    /// When it lost a race for its row.
    conflicts: Vec<SystemTime>,
    /// Last failure of this delivery: it makes a span even of an event that is not sampled.
    failure: Option<Failure>,
    /// The trace in which the flow goes on, this one being full.
    next: OnceLock<TraceId>,
}

/// Failure as the span tells it.
struct Failure {
    /// Value of `error.type`: of few, so that it may be grouped by.
    class: &'static str,
    /// As far as it may be shown.
    text: String,
}

/// Where the events that follow from one stand.
pub(crate) struct Onward {
    /// Parent of their spans; `None` where nobody traces.
    parent: Option<SpanIds>,
    /// The trace was full: theirs begins with them, and this is what they are linked to.
    rolled_from: Option<SpanIds>,
    /// `traceparent`, `tracestate` and `baggage` as the event brought them [W3C Trace Context, W3C
    /// Baggage].
    carrier: Carrier,
}

/// The PRODUCER span of one event that follows, from the handler's end to the publish ack. It is written when it ends:
/// thousands are under way, and what they will say is short.
pub(crate) struct Producer {
    /// Ids of the span; its own id travels in the output.
    /// When the handler had ended.
    ids: SpanIds,
    started: SystemTime,
    /// Destination: the event's type, or the subject of a dead letter.
    subject: String,
    /// Id of the output.
    id: String,
    /// Id of its flow.
    flow: String,
    /// Last span of the trace that was full, to link back to.
    rolled_from: Option<SpanIds>,
}

impl Trace {
    /// Child of the span that published the event and linked to it. A plain message brings no trace: every function
    /// that acts on it then roots its span in the trace derived from the flow.
    ///
    /// `attempt` is the server's count, `size` the payload in bytes. Parent and link both, since
    /// the messaging conventions link a consumer to its producer, and a parent is what shows a flow
    /// as one trace.
    pub fn start(meta: &Meta, function: &'static str, attempt: u32, size: usize) -> Self {
        static WARM: AtomicBool = AtomicBool::new(false);
        let ids = oncue_telemetry::span_ids(meta.traceparent.as_deref(), Some(&meta.flow));
        Self {
            started: if ids.is_some() {
                SystemTime::now()
            } else {
                SystemTime::UNIX_EPOCH
            },
            // `faas.coldstart` is true once for each process, and a plain load answers for all
            // events after the first.
            cold: ids.is_some()
                && !WARM.load(Ordering::Relaxed)
                && !WARM.swap(true, Ordering::Relaxed),
            ids,
            function,
            attempt,
            size,
            duplicate: false,
            conflicts: Vec::new(),
            failure: None,
            next: OnceLock::new(),
        }
    }

    /// Surroundings of the handler's run: its own spans and log lines belong to the event.
    pub fn around<'a, F>(&self, meta: &'a Meta, inner: F) -> InFlow<'a, F> {
        InFlow {
            inner,
            meta,
            ids: self.ids,
            context: self.ids.map(|ids| ids.context()),
        }
    }

    /// Log lines until the answer is dropped belong to the event.
    pub fn log(&self, meta: &Meta) -> impl Drop + use<> {
        oncue_telemetry::enter(meta, self.ids)
    }

    /// Ids for exemplars of histograms.
    pub fn ids(&self) -> Option<&SpanIds> {
        self.ids.as_ref()
    }

    /// If the spans on the way are wanted, and not only the one of a failure.
    fn sampled(&self) -> Option<&SpanIds> {
        self.ids.as_ref().filter(|ids| ids.sampled())
    }

    /// Rows and seen-marks of this event among others were read from `asked` until now.
    ///
    /// CLIENT span `PIPELINE` [OpenTelemetry Redis spans]: several commands in one round trip are
    /// one operation there.
    pub fn read(&self, asked: Option<SystemTime>) {
        if let (Some(ids), Some(asked)) = (self.sampled(), asked) {
            oncue_telemetry::redis(ids, "PIPELINE", None, asked);
        }
    }

    /// The commit that held this event among others took from `started` until now.
    ///
    /// CLIENT span `FCALL` with `oncue_commit` as `db.stored_procedure.name` [OpenTelemetry Redis
    /// spans]. Measured from the event's side: time in the batcher is part of it.
    pub fn committed(&mut self, started: Option<SystemTime>, status: &Status) {
        let Some(started) = started else { return };
        match status {
            Status::Conflict => self.conflicts.push(SystemTime::now()),
            Status::Duplicate(_) => self.duplicate = true,
            _ => {}
        }
        if let Some(ids) = self.sampled() {
            oncue_telemetry::redis(ids, "FCALL", Some("oncue_commit"), started);
        }
    }

    /// Where `outputs` events stand that follow from this one. A trace that they would make larger than its budget ends
    /// here, and the flow goes on in one that is linked to it.
    ///
    /// The size of the trace travels in `tracestate`, so a flow is cut without asking anybody; a
    /// trace that no backend can show is of no use.
    pub fn onward(&self, meta: &Meta, outputs: usize) -> Onward {
        let mut carrier = carried(meta);
        let Some(ids) = self.ids else {
            return Onward {
                parent: None,
                rolled_from: None,
                carrier: oncue_telemetry::pass_on(&carrier, &meta.flow),
            };
        };
        // Without a trace that came, nothing is known of its state either.
        carrier.tracestate = carrier.tracestate.filter(|_| ids.remote);
        let mut parent = ids;
        let mut rolled_from = None;
        if ids.sampled() && outputs > 0 {
            let mut size = Size::of(carrier.tracestate.as_deref()).grown(outputs as u64);
            if size.exceeds(oncue_telemetry::budget()) {
                size = Size::START.grown(outputs as u64);
                let next = *self
                    .next
                    .get_or_init(|| oncue_telemetry::next_trace(&meta.flow, &meta.id));
                (parent, rolled_from) = (SpanIds { trace: next, ..ids }, Some(ids));
            }
            carrier.tracestate = Some(size.into_state(carrier.tracestate.as_deref()));
        }
        Onward {
            parent: Some(parent),
            rolled_from,
            carrier,
        }
    }

    /// The dead letter of this event is about to be published.
    ///
    /// Sampled whatever the event was: a dead letter is what people look for.
    pub fn letter(&self, app: &AppName, meta: &Meta, id: &str) -> (Option<Producer>, Carrier) {
        let carrier = carried(meta);
        let Some(ids) = self.ids else {
            return (None, oncue_telemetry::pass_on(&carrier, &meta.flow));
        };
        let ids = ids.child().with_sampled(true);
        let producer = Producer::new(ids, &app.letters(self.function), id, &meta.flow);
        (Some(producer), sent_from(&ids, &carrier))
    }

    /// The handler failed: it will be tried again, or not. `text` is what may be shown of it.
    pub fn failed(&mut self, class: &'static str, text: String) {
        self.failure = Some(Failure { class, text });
    }

    /// Another worker has applied it meanwhile.
    pub fn recovered(&mut self) {
        self.failure = None;
    }

    /// The delivery is settled. Here its span is made, if it is sampled or has failed.
    ///
    /// Span `process TYPE` of kind CONSUMER [OpenTelemetry messaging spans]. Lost races are its
    /// events, at the time of each answer.
    pub fn end(&self, meta: &Meta, outcome: &'static str) {
        let Some(ids) = self
            .ids
            .filter(|ids| ids.sampled() || self.failure.is_some())
        else {
            return;
        };
        let name = ["process ", &meta.ty];
        let Some(mut span) = oncue_telemetry::span(&ids, Kind::Consumer, name, self.started) else {
            return;
        };
        if ids.remote {
            span.link_to_parent(&ids);
        }
        for at in &self.conflicts {
            span.event("conflict", *at, None);
        }
        if let Some(next) = self.next.get() {
            span.event(
                "rollover",
                SystemTime::now(),
                Some(("oncue.rollover.trace_id", &next.to_string())),
            );
        }
        self.tell(&mut span, meta, outcome);
        oncue_telemetry::export(span);
    }

    /// Attributes in the order of their conventions: messaging, FaaS, CloudEvents, then ours.
    fn tell(&self, span: &mut Span, meta: &Meta, outcome: &'static str) {
        span.of_message("process", &meta.ty, &meta.id, &meta.flow);
        // Messaging. Workers of a function share its consumer, so the function is the group.
        // FaaS. The trigger is `timer` or `pubsub`, as the convention lists them.
        span.set("messaging.consumer.group.name", self.function);
        span.set("messaging.message.body.size", self.size as i64);
        span.set(
            "faas.trigger",
            if meta.ty.starts_with("timer.") {
                "timer"
            } else {
                "pubsub"
            },
        );
        span.set("faas.invocation_id", &meta.id);
        span.set("faas.coldstart", self.cold);
        // CloudEvents: id and source are required there.
        span.set("cloudevents.event_id", &meta.id);
        span.set("cloudevents.event_source", &meta.source);
        span.set("cloudevents.event_spec_version", "1.0");
        span.set("cloudevents.event_type", &meta.ty);
        // No convention has these.
        span.set("oncue.hops", i64::from(meta.hops));
        span.set("oncue.attempt", i64::from(self.attempt));
        span.set("oncue.outcome", outcome);
        if self.duplicate {
            span.set("oncue.duplicate", true);
        }
        if !self.conflicts.is_empty() {
            span.set("oncue.conflicts", self.conflicts.len() as i64);
        }
        if let Some(redrive) = meta.redrive {
            span.set("oncue.redrive", i64::from(redrive.number));
        }
        // Recording errors: status `Error` with its text, and a class in `error.type`.
        if let Some(failure) = &self.failure {
            span.fail(&failure.text);
            span.set("error.type", failure.class);
            if outcome == "dead" {
                span.set("oncue.dead_letter.reason", failure.class);
            }
            if self.sampled().is_none() {
                span.set("oncue.sampled.by", "failure");
            }
        }
    }
}

impl Onward {
    /// The span of an event about to follow, if it is wanted, and the context that travels with that event.
    ///
    /// Called once for each output, at the handler's end.
    pub fn producer(&self, ty: &str, id: &str, flow: &str) -> (Option<Producer>, Carrier) {
        let Some(parent) = self.parent else {
            return (None, self.carrier.clone());
        };
        let mut ids = parent.child();
        let carrier = sent_from(&ids, &self.carrier);
        if !ids.sampled() {
            return (None, carrier);
        }
        // The first span of a trace has no parent; a link says where it came from.
        if self.rolled_from.is_some() {
            ids.parent = SpanId::INVALID;
        }
        (
            Some(Producer {
                rolled_from: self.rolled_from,
                ..Producer::new(ids, ty, id, flow)
            }),
            carrier,
        )
    }
}

impl Producer {
    fn new(ids: SpanIds, subject: &str, id: &str, flow: &str) -> Self {
        Self {
            ids,
            started: SystemTime::now(),
            subject: subject.to_owned(),
            id: id.to_owned(),
            flow: flow.to_owned(),
            rolled_from: None,
        }
    }

    /// Span `send SUBJECT` of kind PRODUCER [OpenTelemetry messaging spans]. `error` is the text of
    /// a publish that failed.
    pub fn end(&self, error: Option<&str>) {
        let name = ["send ", &self.subject];
        let Some(mut span) = oncue_telemetry::span(&self.ids, Kind::Producer, name, self.started)
        else {
            return;
        };
        span.of_message("send", &self.subject, &self.id, &self.flow);
        if let Some(from) = &self.rolled_from {
            span.link_to(from, Some(("oncue.link", "rollover")));
        }
        if let Some(error) = error {
            span.set("error.type", "publish");
            span.fail(error);
        }
        oncue_telemetry::export(span);
    }
}

/// Trace context as the event brought it.
fn carried(meta: &Meta) -> Carrier {
    Carrier {
        traceparent: meta.traceparent.clone(),
        tracestate: meta.tracestate.clone(),
        baggage: meta.baggage.clone(),
    }
}

/// Trace context for what is sent from this span, as far as `OTEL_PROPAGATORS` lets it pass.
fn sent_from(ids: &SpanIds, carrier: &Carrier) -> Carrier {
    oncue_telemetry::propagated(Carrier {
        traceparent: Some(ids.traceparent()),
        tracestate: carrier.tracestate.clone(),
        baggage: carrier.baggage.clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use oncue_proto::event::Origin;

    #[global_allocator]
    static MEMORY: peak_alloc::PeakAlloc = peak_alloc::PeakAlloc;

    /// Whether it allocates. Other tests may run beside this one, so one quiet run among many is proof.
    fn allocates(mut act: impl FnMut()) -> bool {
        act();
        !(0..1000).any(|_| {
            MEMORY.reset_peak_usage();
            let before = MEMORY.peak_usage();
            act();
            MEMORY.peak_usage() == before
        })
    }

    #[tokio::test]
    async fn an_event_that_is_not_sampled_allocates_nothing_for_its_trace() {
        let origin = Origin {
            stream: "web",
            stream_created: 1,
            sequence: 2,
            published: 3,
            subject: "web.page.viewed",
        };
        let mut meta = Meta::of_origin(&origin);
        meta.traceparent =
            Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00".to_owned());
        let life = |meta: &Meta| {
            let mut trace = Trace::start(meta, "count-views", 1, 100);
            trace.read(oncue_telemetry::clock());
            trace.committed(oncue_telemetry::clock(), &Status::Applied);
            drop(trace.log(meta));
            trace.end(meta, "applied");
            trace.ids().copied()
        };
        assert!(
            allocates(|| drop(std::hint::black_box(vec![1_u8; 100_000]))),
            "an allocation is noticed"
        );
        assert_eq!(life(&meta), None);
        assert!(
            !allocates(|| assert!(life(&meta).is_none_or(|ids| !ids.sampled()))),
            "nobody traces"
        );
        oncue_telemetry::start_unsampled();
        assert!(life(&meta).is_some_and(|ids| !ids.sampled()));
        assert!(
            !allocates(|| assert!(life(&meta).is_none_or(|ids| !ids.sampled()))),
            "traced, but not sampled"
        );
    }
}
