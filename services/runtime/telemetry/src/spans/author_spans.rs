//! Spans that authors make with `tracing`: they come from the SDK and join the queue of all others.

use opentelemetry::Context;
use opentelemetry_proto::tonic::trace::v1::Span as ProtoSpan;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{Span, SpanData, SpanProcessor};
use prost::Message as _;
use std::time::Duration;

use super::queue::SpanQueue;
use super::span::first_chars;
use crate::settings::Limits;

/// Processor of the SDK that encodes sampled spans, keeps them to the limits, and queues them.
/// The SDK's own batch processor would be a second queue and a second thread, with a connection of
/// its own.
#[derive(Debug)]
pub(crate) struct AuthorSpans {
    /// Queue that spans of the event path go to as well.
    pub queue: &'static SpanQueue,
    /// Limits of the environment. The SDK reads some of the variables itself; [`cut`] applies them
    /// all, so every span is held to the same.
    pub limits: Limits,
}

impl SpanProcessor for AuthorSpans {
    fn on_start(&self, _: &mut Span, _: &Context) {}

    fn on_end(&self, mut span: SpanData) {
        if span.span_context.is_sampled() {
            cut(&mut span, self.limits);
            // In the form in which the queue holds all spans: an encoded OTLP `Span`.
            self.queue.put(&ProtoSpan::from(span).encode_to_vec());
        }
    }

    /// Nothing to do: the queue sends by itself.
    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.queue.close(timeout);
        Ok(())
    }
}

/// Keeps to the limits of the environment; what is over is dropped and counted.
fn cut(span: &mut SpanData, limits: Limits) {
    span.dropped_attributes_count += keep(&mut span.attributes, limits.attributes);
    span.events.dropped_count += keep(&mut span.events.events, limits.events);
    span.links.dropped_count += keep(&mut span.links.links, limits.links);
    for event in &mut span.events.events {
        event.dropped_attributes_count += keep(&mut event.attributes, limits.event_attributes);
    }
    for link in &mut span.links.links {
        link.dropped_attributes_count += keep(&mut link.attributes, limits.link_attributes);
    }
    for attribute in &mut span.attributes {
        if let opentelemetry::Value::String(text) = &attribute.value
            && let short = first_chars(text.as_str(), limits.value_length)
            && short.len() < text.as_str().len()
        {
            attribute.value = short.to_owned().into();
        }
    }
}

/// Cuts a list down to `most` and returns how many items went.
fn keep<T>(items: &mut Vec<T>, most: usize) -> u32 {
    let over = items.len().saturating_sub(most);
    items.truncate(most);
    over as u32
}
