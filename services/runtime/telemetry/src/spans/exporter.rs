//! Exporter: turns batches into requests and hands them to the collector, or to the console. Runs on the queue's
//! thread.
//!
//! A failed batch is not sent again, though OTLP would let a client do so [OTLP/HTTP, retryable
//! response codes]: batches go one after another, so a second try would hold up the next ones, and
//! the queue would fill with spans that are older still.

use std::sync::atomic::Ordering;

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceResponse;
use opentelemetry_proto::tonic::common::v1::InstrumentationScope;
use prost::Message as _;

use super::batch::{Batch, Tally};
use super::console;
use crate::otlp::Client;
use crate::settings::Destination;
use oncue_proto::protobuf::{put, put_bytes};

/// State of the thread that sends: the connection, and bytes that every request has in common.
pub(super) struct Exporter {
    /// `None` writes to the console.
    client: Option<Client>,
    /// Fields that stand before the spans of every request: whose they are.
    /// Field 1 of `ResourceSpans`.
    resource: Vec<u8>,
    /// Instrumentation scope `oncue` with its version, encoded as field 1 of `ScopeSpans`. Authors'
    /// spans stand under it too.
    scope: Vec<u8>,
    /// Whether the last export failed, so that only changes are logged.
    down: bool,
}

impl Exporter {
    /// `resource` is an encoded OTLP `Resource`.
    /// Nothing is connected yet.
    pub fn new(destination: Destination, resource: &[u8]) -> Self {
        let client = match destination {
            Destination::Otlp(target) => Some(Client::new(target)),
            Destination::Console | Destination::None => None,
        };
        let scope = InstrumentationScope {
            name: "oncue".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ..InstrumentationScope::default()
        };
        Self {
            client,
            resource: first_field(resource),
            scope: first_field(&scope.encode_to_vec()),
            down: false,
        }
    }

    /// Sends a batch. One that cannot be delivered is lost: keeping it would only make room for fewer new ones.
    /// Outcomes are counted in `tally`, and logged when delivery begins to fail and when it works
    /// again, not for each batch.
    pub async fn export(&mut self, batch: Batch, tally: &Tally) {
        let spans = batch.spans as u64;
        let sent = match self.client {
            Some(_) => self.send(self.request(&batch)).await,
            None => console::print(&batch.bytes).map(|()| 0),
        };
        let refused = sent.as_ref().map_or(spans, |refused| spans.min(*refused));
        tally.failed.fetch_add(refused, Ordering::Relaxed);
        tally
            .delivered
            .fetch_add(spans - refused, Ordering::Relaxed);
        let was_down = std::mem::replace(&mut self.down, refused > 0);
        match sent {
            Err(e) if !was_down => {
                tracing::warn!(
                    error = e,
                    spans,
                    "spans cannot be delivered; they are lost until this ends"
                );
            }
            Ok(1..) if !was_down => {
                tracing::warn!(spans, refused, "the collector refuses spans; they are lost");
            }
            Ok(0) if was_down => tracing::info!("spans are delivered again"),
            _ => {}
        }
    }

    /// Number of spans that the collector refused of those it has taken [OTLP, partial success].
    ///
    /// # Errors
    /// A sentence from [`Client::send`]: none of the spans has arrived, as far as is known.
    async fn send(&mut self, request: Vec<u8>) -> Result<u64, String> {
        let Some(client) = &mut self.client else {
            return Ok(0);
        };
        let answer: ExportTraceServiceResponse = client.send(request).await?;
        let refusal = answer
            .partial_success
            .filter(|part| part.rejected_spans > 0);
        Ok(refusal.map_or(0, |part| part.rejected_spans.unsigned_abs()))
    }

    /// `ExportTraceServiceRequest { ResourceSpans = 1 { resource = 1, ScopeSpans = 2 { scope = 1, spans = 2 } } }`.
    ///
    /// Put together from bytes that are encoded already. A message field is its content behind a
    /// head with the length, so lengths are added up first, and no span is looked at.
    fn request(&self, batch: &Batch) -> Vec<u8> {
        let scope_spans = self.scope.len() + batch.bytes.len();
        let mut head = Vec::with_capacity(8);
        put(2, scope_spans, &mut head);
        let all = self.resource.len() + head.len() + scope_spans;
        let mut request = Vec::with_capacity(all + 8);
        put(1, all, &mut request);
        for part in [&self.resource, &head, &self.scope, &batch.bytes] {
            request.extend_from_slice(part);
        }
        request
    }
}

/// Field 1 of a message, with this content.
fn first_field(content: &[u8]) -> Vec<u8> {
    let mut field = Vec::new();
    put_bytes(1, content, &mut field);
    field
}

#[cfg(test)]
mod tests {
    use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
    use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value::Value};
    use opentelemetry_proto::tonic::resource::v1::Resource;
    use opentelemetry_proto::tonic::trace::v1::Span;

    use super::*;

    #[test]
    fn a_request_is_what_the_official_types_read() {
        let mut batch = Batch::default();
        for name in ["a", "b"] {
            let span = Span {
                name: name.into(),
                ..Span::default()
            };
            batch.push(&span.encode_to_vec());
        }
        let name = AnyValue {
            value: Some(Value::StringValue("count".into())),
        };
        let resource = Resource {
            attributes: vec![KeyValue {
                key: "service.name".into(),
                value: Some(name),
                ..KeyValue::default()
            }],
            ..Resource::default()
        };
        let exporter = Exporter::new(Destination::Console, &resource.encode_to_vec());
        let request = exporter.request(&batch);
        let read = ExportTraceServiceRequest::decode(&*request).expect("a request");
        let [of_resource] = &read.resource_spans[..] else {
            panic!("{read:?}")
        };
        assert_eq!(of_resource.resource.as_ref(), Some(&resource));
        let [of_scope] = &of_resource.scope_spans[..] else {
            panic!("{read:?}")
        };
        assert_eq!(
            of_scope.scope.as_ref().map(|scope| scope.name.as_str()),
            Some("oncue")
        );
        let names: Vec<&str> = of_scope
            .spans
            .iter()
            .map(|span| span.name.as_str())
            .collect();
        assert_eq!(names, ["a", "b"]);
    }
}
