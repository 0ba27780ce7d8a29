//! The two spans of the gateway: one for the request, one for what it publishes. Straight to the OpenTelemetry API, as
//! everywhere on the event path.

use axum::http::{HeaderMap, Request, StatusCode, header};
use oncue::event::{self, Meta};
use oncue::telemetry::{self, Carrier};
use opentelemetry::trace::{SpanBuilder, SpanKind, Status, TraceContextExt as _, Tracer as _};
use opentelemetry::{Context, KeyValue};

use crate::server::Peer;

/// Longer ones are dropped, not cut: half a member could mean something else.
const MAX_STATE: usize = 512;
const MAX_BAGGAGE: usize = 8192;

/// The trace a request belongs to.
#[derive(Clone)]
pub struct Trace {
    pub context: Context,
    /// Whether somebody traces: we, or the client that sent a context.
    traced: bool,
}

impl Trace {
    /// Continues the client's trace or begins one. `span` is the name of the request's span, if it is to have one.
    pub fn begin<B>(request: &Request<B>, span: Option<(&str, Vec<KeyValue>)>) -> Self {
        let parent = telemetry::extract(&carrier(request.headers()));
        let known = parent.span().span_context().is_valid();
        let context = match (telemetry::tracer(), span) {
            (Some(tracer), Some((name, attributes))) => {
                let span =
                    SpanBuilder::from_name(name.to_owned()).with_kind(SpanKind::Server).with_attributes(attributes);
                parent.with_span(tracer.build_with_context(span, &parent))
            }
            _ if known => parent,
            _ => return Self { context: telemetry::untraced(&event::new_id()), traced: false },
        };
        Self { context, traced: true }
    }

    pub fn id(&self) -> String {
        self.context.span().span_context().trace_id().to_string()
    }

    /// The span around a publish, child of the request's. Its context is what the event carries on. Where nobody
    /// traces, it holds the trace id everybody behind would derive from the flow.
    pub fn publish(&self, meta: &Meta, key: &str) -> Context {
        if !self.traced {
            return telemetry::untraced(&meta.flow);
        }
        let Some(tracer) = telemetry::tracer() else { return self.context.clone() };
        let mut attributes = vec![
            KeyValue::new("messaging.system", "nats"),
            KeyValue::new("messaging.operation.name", "send"),
            KeyValue::new("messaging.operation.type", "send"),
            KeyValue::new("messaging.destination.name", meta.ty.clone()),
            KeyValue::new("messaging.message.id", meta.id.clone()),
            KeyValue::new("messaging.message.conversation_id", meta.flow.clone()),
            KeyValue::new("cloudevents.event_id", meta.id.clone()),
            KeyValue::new("cloudevents.event_source", meta.source.clone()),
            KeyValue::new("cloudevents.event_spec_version", "1.0"),
            KeyValue::new("cloudevents.event_type", meta.ty.clone()),
        ];
        if !key.is_empty() {
            attributes.push(KeyValue::new("cloudevents.event_subject", key.to_owned()));
        }
        let span = SpanBuilder::from_name(format!("send {}", meta.ty))
            .with_kind(SpanKind::Producer)
            .with_attributes(attributes);
        self.context.with_span(tracer.build_with_context(span, &self.context))
    }

    /// What came of the request. A client's mistake is no error of the server [OpenTelemetry HTTP spans].
    pub fn finish(&self, status: StatusCode, code: Option<&'static str>) {
        let span = self.context.span();
        span.set_attribute(KeyValue::new("http.response.status_code", i64::from(status.as_u16())));
        if status.is_server_error() {
            span.set_attribute(KeyValue::new(
                "error.type",
                code.map_or_else(|| status.as_u16().to_string(), str::to_owned),
            ));
            span.set_status(Status::error(""));
        }
        span.end();
    }
}

/// Ends the span of a publish that failed.
pub fn failed(context: &Context, code: &'static str) {
    context.span().set_attribute(KeyValue::new("error.type", code));
    context.span().set_status(Status::error(""));
}

/// W3C context from HTTP headers. Of a `traceparent` sent twice nobody knows which one counts; the others may be spread
/// over several lines.
fn carrier(headers: &HeaderMap) -> Carrier {
    let all = |name: &str| {
        let values: Vec<&str> = headers.get_all(name).iter().filter_map(|v| v.to_str().ok()).collect();
        (!values.is_empty()).then(|| values.join(","))
    };
    let traceparent = all("traceparent").filter(|value| !value.contains(','));
    let tracestate = all("tracestate").filter(|value| value.len() <= MAX_STATE);
    Carrier {
        tracestate: tracestate.filter(|_| traceparent.is_some()),
        traceparent,
        baggage: all("baggage").filter(|b| b.len() <= MAX_BAGGAGE),
    }
}

/// Attributes of a request's span [OpenTelemetry HTTP spans 1.44]. Not the query: nothing here reads one, so what stands
/// there can only be a mistake, such as a token.
pub fn http_attributes<B>(request: &Request<B>, method: &'static str, route: Option<&str>) -> Vec<KeyValue> {
    let mut attributes = vec![
        KeyValue::new("http.request.method", method),
        KeyValue::new("url.path", cut(request.uri().path(), 1024)),
        KeyValue::new("url.scheme", "http"),
        KeyValue::new(
            "network.protocol.version",
            if request.version() == axum::http::Version::HTTP_10 { "1.0" } else { "1.1" },
        ),
    ];
    if method == "_OTHER" {
        attributes.push(KeyValue::new("http.request.method_original", cut(request.method().as_str(), 64)));
    }
    if let Some(route) = route {
        attributes.push(KeyValue::new("http.route", route.to_owned()));
    }
    let header = |name| request.headers().get(name).and_then(|v| v.to_str().ok());
    if let Some(host) = header(header::HOST) {
        let (name, port) =
            host.rsplit_once(':').filter(|(_, port)| port.parse::<u16>().is_ok()).unwrap_or((host, "80"));
        attributes.push(KeyValue::new("server.address", cut(name, 256)));
        attributes.push(KeyValue::new("server.port", port.parse::<i64>().unwrap_or(80)));
    }
    if let Some(agent) = header(header::USER_AGENT) {
        attributes.push(KeyValue::new("user_agent.original", cut(agent, 256)));
    }
    if let Some(Peer(address)) = request.extensions().get() {
        attributes.push(KeyValue::new("client.address", address.ip().to_string()));
    }
    attributes
}

fn cut(text: &str, length: usize) -> String {
    text.chars().take(length).collect()
}
