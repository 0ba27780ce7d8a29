//! The two spans of the gateway: one for the request, one for what it publishes. Made when they end, from ids they
//! had from the start, as everywhere on the event path: a request that fails here is seen whatever the sampler said.

use std::time::SystemTime;

use axum::http::{HeaderMap, HeaderName, Request, StatusCode, header};
use oncue_http::Peer;
use oncue_proto::event::{self, Meta};
use oncue_telemetry::{Carrier, Kind, SpanIds, Value};
use opentelemetry::Context;
use opentelemetry::trace::{FutureExt as _, TraceId};

/// Longer ones are dropped, not cut: half a member could mean something else.
const MAX_TRACESTATE_BYTES: usize = 512;

/// Attributes of a span, named as in the semantic conventions.
pub type Attributes = Vec<(&'static str, Value<'static>)>;

/// The trace a request belongs to.
#[derive(Clone)]
pub struct Trace {
    ids: SpanIds,
    /// Context the client sent.
    received: Carrier,
    started: SystemTime,
    /// Whether the request may have a span of its own.
    recorded: bool,
}

/// Span around a publish, and the context its event carries on.
pub struct SendSpan {
    ids: Option<SpanIds>,
    started: SystemTime,
    /// Context for whoever acts on the event.
    pub carrier: Carrier,
}

impl Trace {
    /// Continues the client's trace or begins one, with a span if the request is `traced`.
    pub fn begin<B>(request: &Request<B>, traced: bool) -> Self {
        let received = carrier(request.headers());
        let parent = received.traceparent.as_deref();
        let own = if traced {
            oncue_telemetry::span_ids(parent, None)
        } else {
            None
        };
        // Where nobody traces, the client's trace, or an id that answers and logs share.
        let ids = own
            .or_else(|| parent.and_then(SpanIds::after))
            .or_else(|| SpanIds::after(&event::untraced(&event::new_id())));
        Self {
            ids: ids.unwrap_or_else(|| SpanIds::root(TraceId::INVALID)),
            recorded: own.is_some(),
            received,
            started: SystemTime::now(),
        }
    }

    /// Context for log lines of the request.
    pub fn context(&self) -> Context {
        self.ids.context()
    }

    /// Work of which log lines belong to the request, also in a task of its own.
    pub fn around<F: Future>(&self, work: F) -> impl Future<Output = F::Output> + use<F> {
        work.with_context(self.context())
    }

    /// Trace id, 32 hex digits.
    pub fn id(&self) -> String {
        self.ids.trace.to_string()
    }

    /// Ids of the span if steps on the way are wanted too, and not only that the request failed.
    pub fn sampled(&self) -> Option<&SpanIds> {
        Some(&self.ids).filter(|ids| self.recorded && ids.sampled())
    }

    /// A publish begins, child of the request. Where nobody traces, its event carries the trace id everybody behind
    /// would derive from the flow.
    pub fn publish(&self, meta: &Meta) -> SendSpan {
        let started = SystemTime::now();
        if !self.recorded {
            return SendSpan {
                ids: None,
                started,
                carrier: oncue_telemetry::pass_on(&self.received, &meta.flow),
            };
        }
        let ids = self.ids.child();
        let carrier = Carrier {
            traceparent: Some(ids.traceparent()),
            tracestate: self.received.tracestate.clone().filter(|_| self.ids.remote),
            baggage: self.received.baggage.clone(),
        };
        SendSpan {
            ids: Some(ids),
            started,
            carrier: oncue_telemetry::propagated(carrier),
        }
    }

    /// Redis was asked at `started` and has answered.
    pub fn redis(&self, operation: &'static str, started: SystemTime) {
        if let Some(ids) = self.sampled() {
            oncue_telemetry::redis(ids, operation, None, started);
        }
    }

    /// Ends the span of the request. A client's mistake is no error of the server [OpenTelemetry HTTP spans].
    pub fn finish(
        &self,
        name: &str,
        attributes: Attributes,
        status: StatusCode,
        code: Option<&'static str>,
    ) {
        if !self.recorded || !(self.ids.sampled() || status.is_server_error()) {
            return;
        }
        let Some(mut span) =
            oncue_telemetry::span(&self.ids, Kind::Server, [name, ""], self.started)
        else {
            return;
        };
        for (name, value) in attributes {
            span.set(name, value);
        }
        span.set("http.response.status_code", i64::from(status.as_u16()));
        if status.is_server_error() {
            span.set("error.type", code.unwrap_or(status.as_str()));
            span.fail("");
        }
        if !self.ids.sampled() {
            span.set("oncue.sampled.by", "failure");
        }
        oncue_telemetry::export(span);
    }
}

impl SendSpan {
    /// Ends the span: the stream has taken the event (`true` = it had it before), or `Err` is the class of why not.
    /// The key is shown only where texts may be: it is part of what the event holds.
    pub fn finish(&self, meta: &Meta, key: &str, taken: Result<bool, &'static str>) {
        let Some(ids) = self.ids.filter(|ids| ids.sampled() || taken.is_err()) else {
            return;
        };
        let name = ["send ", &meta.ty];
        let Some(mut span) = oncue_telemetry::span(&ids, Kind::Producer, name, self.started) else {
            return;
        };
        span.of_message("send", &meta.ty, &meta.id, &meta.flow);
        span.set("cloudevents.event_id", &meta.id);
        span.set("cloudevents.event_source", &meta.source);
        span.set("cloudevents.event_spec_version", "1.0");
        span.set("cloudevents.event_type", &meta.ty);
        if !key.is_empty() && oncue_telemetry::shows_messages() {
            span.set("cloudevents.event_subject", key);
        }
        match taken {
            Ok(true) => span.set("oncue.duplicate", true),
            Ok(false) => {}
            Err(class) => {
                span.set("error.type", class);
                span.fail("");
            }
        }
        oncue_telemetry::export(span);
    }
}

/// W3C context from HTTP headers. Of a `traceparent` sent twice nobody knows which one counts; the others may be
/// spread over several lines.
fn carrier(headers: &HeaderMap) -> Carrier {
    let traceparent = joined(headers, "traceparent").filter(|value| !value.contains(','));
    let tracestate = kept(headers, "tracestate", |state| {
        state.len() <= MAX_TRACESTATE_BYTES && event::is_tracestate(state)
    });
    Carrier {
        tracestate: tracestate.filter(|_| traceparent.is_some()),
        traceparent,
        baggage: kept(headers, "baggage", event::is_baggage),
    }
}

/// A header, if it keeps its bounds; counted if it does not.
fn kept(headers: &HeaderMap, name: &'static str, is_kept: fn(&str) -> bool) -> Option<String> {
    let value = joined(headers, name)?;
    if !is_kept(&value) {
        oncue_telemetry::metrics::context_dropped(name);
        return None;
    }
    Some(value)
}

/// All lines of a header as one list [RFC 9110 section 5.3].
fn joined(headers: &HeaderMap, name: &str) -> Option<String> {
    let values: Vec<&str> = headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .collect();
    (!values.is_empty()).then(|| values.join(","))
}

/// Attributes of a request that is not sampled, should it fail.
pub fn few_attributes(method: &'static str, path: &str, route: Option<&str>) -> Attributes {
    let mut attributes = vec![
        ("http.request.method", method.into()),
        ("url.scheme", "http".into()),
    ];
    attributes.extend(shown_path(path, route));
    attributes.extend(route.map(|route| ("http.route", route.to_owned().into())));
    attributes
}

/// Path of a request. Where texts are not shown, that of a route stands for it: keys of events and names of files are parameters
/// of paths, and only a type may be told.
fn shown_path(path: &str, route: Option<&str>) -> Option<(&'static str, Value<'static>)> {
    let shown = if oncue_telemetry::shows_messages() || route == Some("/v1/events/{type}") {
        path
    } else {
        route?
    };
    Some(("url.path", cut(shown, 1024).into()))
}

/// Attributes of a request's span [OpenTelemetry HTTP spans 1.44]. Not the query: nothing here reads one, so what
/// stands there can only be a mistake, such as a token.
pub fn http_attributes<B>(
    request: &Request<B>,
    method: &'static str,
    route: Option<&str>,
) -> Attributes {
    let mut attributes = vec![
        ("http.request.method", method.into()),
        ("url.scheme", "http".into()),
        (
            "network.protocol.version",
            if request.version() == axum::http::Version::HTTP_10 {
                "1.0".into()
            } else {
                "1.1".into()
            },
        ),
    ];
    attributes.extend(shown_path(request.uri().path(), route));
    if method == "_OTHER" {
        attributes.push((
            "http.request.method_original",
            cut(request.method().as_str(), 64).into(),
        ));
    }
    if let Some(route) = route {
        attributes.push(("http.route", route.to_owned().into()));
    }
    if let Some(host) = header_text(request.headers(), &header::HOST) {
        let (name, port) = host
            .rsplit_once(':')
            .filter(|(_, port)| port.parse::<u16>().is_ok())
            .unwrap_or((host, "80"));
        attributes.push(("server.address", cut(name, 256).into()));
        attributes.push(("server.port", port.parse::<i64>().unwrap_or(80).into()));
    }
    if let Some(agent) = header_text(request.headers(), &header::USER_AGENT) {
        attributes.push(("user_agent.original", cut(agent, 256).into()));
    }
    if let Some(Peer(address)) = request.extensions().get() {
        attributes.push(("client.address", address.ip().to_string().into()));
    }
    attributes
}

fn header_text<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<&'h str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

/// A client decides how long its texts are, and nobody wants them whole.
fn cut(text: &str, length: usize) -> String {
    text.chars().take(length).collect()
}
