//! The spans of an event's life in one function: CONSUMER for the event, PRODUCER for each event that follows, CLIENT
//! for the commit. Conventions: OpenTelemetry messaging, FaaS, CloudEvents; `messaging.system` is `nats`.

use std::time::{Instant, SystemTime};

use opentelemetry::trace::{Link, Span as _, SpanKind, Status as SpanStatus, TraceContextExt, Tracer as _};
use opentelemetry::{Context, KeyValue};

use crate::event::Meta;
use crate::store::Status;
use crate::telemetry::{self, Carrier, Flow};

/// The CONSUMER span of one delivery, from the pull to the ack.
pub(crate) struct Trace {
    context: Context,
}

/// The PRODUCER span of one output, from the handler's end to the publish ack.
pub(crate) struct Producer {
    context: Context,
}

impl Trace {
    /// Child of the span that published the event and linked to it. A plain message brings no trace: every function
    /// that acts on it then roots its span in the trace derived from the flow.
    pub fn start(meta: &Meta, function: &'static str, attempt: u32, size: usize) -> Self {
        let carrier = Carrier {
            traceparent: meta.traceparent.clone(),
            tracestate: meta.tracestate.clone(),
            baggage: meta.baggage.clone(),
        };
        let parent = telemetry::extract(&carrier);
        let flow = Flow(meta.flow.as_str().into());
        let Some(tracer) = telemetry::tracer() else {
            let known = parent.span().span_context().is_valid();
            let context = if known { parent } else { telemetry::untraced(&meta.flow) };
            return Self { context: context.with_value(flow) };
        };
        let producer = parent.span().span_context().clone();
        let links = if producer.is_valid() { vec![Link::with_context(producer)] } else { Vec::new() };
        let trigger = if meta.ty.starts_with("timer.") { "timer" } else { "pubsub" };
        let mut attributes = messaging("process", &meta.ty, &meta.id);
        attributes.extend([
            KeyValue::new("messaging.consumer.group.name", function),
            KeyValue::new("messaging.message.conversation_id", meta.flow.clone()),
            KeyValue::new("messaging.message.body.size", size as i64),
            KeyValue::new("faas.trigger", trigger),
            KeyValue::new("faas.invocation_id", meta.id.clone()),
            KeyValue::new("cloudevents.event_id", meta.id.clone()),
            KeyValue::new("cloudevents.event_source", meta.source.clone()),
            KeyValue::new("cloudevents.event_type", meta.ty.clone()),
            KeyValue::new("oncue.flow.id", meta.flow.clone()),
            KeyValue::new("oncue.attempt", i64::from(attempt)),
        ]);
        let builder = tracer.span_builder(format!("process {}", meta.ty)).with_kind(SpanKind::Consumer);
        let builder = builder.with_attributes(attributes).with_links(links);
        let span = telemetry::in_flow_trace(&parent, &meta.flow, || builder.start_with_context(tracer, &parent));
        Self { context: parent.with_span(span).with_value(flow) }
    }

    /// What the handler runs in: its own spans and log lines belong to the event.
    pub fn context(&self) -> Context {
        self.context.clone()
    }

    /// The commit that held this event among others took from `started` until now.
    pub fn committed(&mut self, started: Instant, status: &Status) {
        let span = self.context.span();
        if !span.is_recording() {
            return;
        }
        match status {
            Status::Conflict => span.add_event("conflict", Vec::new()),
            Status::Duplicate(_) => span.set_attribute(KeyValue::new("oncue.duplicate", true)),
            _ => {}
        }
        let Some(tracer) = telemetry::tracer() else { return };
        let attributes = vec![
            KeyValue::new("db.system.name", "redis"),
            KeyValue::new("db.operation.name", "FCALL"),
            KeyValue::new("db.stored_procedure.name", "oncue_commit"),
        ];
        let builder = tracer.span_builder("FCALL").with_kind(SpanKind::Client).with_attributes(attributes);
        let start = SystemTime::now().checked_sub(started.elapsed()).unwrap_or_else(SystemTime::now);
        builder.with_start_time(start).start_with_context(tracer, &self.context).end();
    }

    /// A span for an event about to follow; its context travels with that event.
    pub fn producer(&self, ty: &str, id: &str) -> Producer {
        let recording = self.context.span().is_recording();
        let Some(tracer) = telemetry::tracer().filter(|_| recording) else {
            return Producer { context: self.context.clone() };
        };
        let builder = tracer.span_builder(format!("send {ty}")).with_kind(SpanKind::Producer);
        let span = builder.with_attributes(messaging("send", ty, id)).start_with_context(tracer, &self.context);
        Producer { context: self.context.with_span(span) }
    }

    /// The handler failed: it will be tried again, or not.
    pub fn failed(&self, class: &'static str, message: &str) {
        let span = self.context.span();
        span.set_attribute(KeyValue::new("error.type", class));
        span.set_status(SpanStatus::error(message.to_owned()));
    }

    /// The delivery is settled.
    pub fn end(&self, outcome: &'static str) {
        let span = self.context.span();
        span.set_attribute(KeyValue::new("oncue.outcome", outcome));
        span.end();
    }
}

impl Producer {
    pub fn carrier(&self) -> Carrier {
        telemetry::inject(&self.context)
    }

    pub fn end(&self, error: Option<&str>) {
        let span = self.context.span();
        if let Some(error) = error {
            span.set_status(SpanStatus::error(error.to_owned()));
        }
        span.end();
    }
}

fn messaging(operation: &'static str, ty: &str, id: &str) -> Vec<KeyValue> {
    vec![
        KeyValue::new("messaging.system", "nats"),
        KeyValue::new("messaging.operation.name", operation),
        KeyValue::new("messaging.operation.type", operation),
        KeyValue::new("messaging.destination.name", ty.to_owned()),
        KeyValue::new("messaging.message.id", id.to_owned()),
    ]
}
