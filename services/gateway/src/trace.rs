//! The two spans of the gateway: one for the request, one for what it publishes. Made when they end, from ids they had from
//! the start, as everywhere on the event path: a request that fails here is seen whatever the sampler said.

use std::time::SystemTime;

use axum::http::{HeaderMap, Request, StatusCode, header};
use oncue_proto::event::{self, Meta};
use oncue_telemetry::{Carrier, Kind, SpanIds, Value};
use opentelemetry::Context;

use crate::server::Peer;

/// Longer ones are dropped, not cut: half a member could mean something else.
const MAX_STATE: usize = 512;
const MAX_BAGGAGE: usize = 8192;

/// What a span says.
pub type Attributes = Vec<(&'static str, Value<'static>)>;

/// The trace a request belongs to.
#[derive(Clone)]
pub struct Trace {
    place: SpanIds,
    came: Carrier,
    started: SystemTime,
    /// Whether the request may have a span of its own.
    recorded: bool,
}

/// What is published, and the span around it.
pub struct Sending {
    place: Option<SpanIds>,
    started: SystemTime,
    /// What the event carries on.
    pub carrier: Carrier,
}

impl Trace {
    /// Continues the client's trace or begins one, with a span if the request is `traced`.
    pub fn begin<B>(request: &Request<B>, traced: bool) -> Self {
        let came = carrier(request.headers());
        let own = if traced {
            oncue_telemetry::span_ids(came.traceparent.as_deref(), None)
        } else {
            None
        };
        let named = || came.traceparent.as_deref().and_then(SpanIds::after);
        // Where nobody traces, an id that answers and logs share.
        let derived = || SpanIds::after(&event::untraced(&event::new_id()));
        let place = own.or_else(named).or_else(derived);
        let place = place.unwrap_or_else(|| SpanIds::root(opentelemetry::trace::TraceId::INVALID));
        Self {
            place,
            recorded: own.is_some(),
            came,
            started: SystemTime::now(),
        }
    }

    /// What log lines of the request are written in.
    pub fn context(&self) -> Context {
        self.place.context()
    }

    pub fn id(&self) -> String {
        self.place.trace.to_string()
    }

    /// If what happens on the way is wanted, and not only that it failed.
    pub fn sampled(&self) -> Option<&SpanIds> {
        Some(&self.place).filter(|place| self.recorded && place.sampled())
    }

    /// A publish begins, child of the request. Where nobody traces, its event carries the trace id everybody behind would
    /// derive from the flow.
    pub fn publish(&self, meta: &Meta) -> Sending {
        let started = SystemTime::now();
        if !self.recorded {
            return Sending {
                place: None,
                started,
                carrier: oncue_telemetry::pass_on(&self.came, &meta.flow),
            };
        }
        let place = self.place.child();
        let carrier = Carrier {
            traceparent: Some(place.traceparent()),
            tracestate: self.came.tracestate.clone().filter(|_| self.place.remote),
            baggage: self.came.baggage.clone(),
        };
        Sending {
            place: Some(place),
            started,
            carrier: oncue_telemetry::propagated(carrier),
        }
    }

    /// Redis was asked at `started` and has answered.
    pub fn redis(&self, operation: &'static str, started: SystemTime) {
        if let Some(place) = self.sampled() {
            oncue_telemetry::redis(place, operation, None, started);
        }
    }

    /// What came of the request. A client's mistake is no error of the server [OpenTelemetry HTTP spans].
    pub fn finish(
        &self,
        name: &str,
        attributes: Attributes,
        status: StatusCode,
        code: Option<&'static str>,
    ) {
        if !self.recorded || !(self.place.sampled() || status.is_server_error()) {
            return;
        }
        let Some(mut span) =
            oncue_telemetry::span(&self.place, Kind::Server, [name, ""], self.started)
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
        if !self.place.sampled() {
            span.set("oncue.sampled.by", "failure");
        }
        oncue_telemetry::export(span);
    }
}

impl Sending {
    /// The stream has taken it, or not: `Err` is the class of why. The key is shown only where texts may be: it is part of
    /// what the event holds.
    pub fn finish(&self, meta: &Meta, key: &str, taken: Result<bool, &'static str>) {
        let Some(place) = self.place.filter(|place| place.sampled() || taken.is_err()) else {
            return;
        };
        let name = ["send ", &meta.ty];
        let Some(mut span) = oncue_telemetry::span(&place, Kind::Producer, name, self.started)
        else {
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

/// W3C context from HTTP headers. Of a `traceparent` sent twice nobody knows which one counts; the others may be spread
/// over several lines.
fn carrier(headers: &HeaderMap) -> Carrier {
    let all = |name: &str| {
        let values: Vec<&str> = headers
            .get_all(name)
            .iter()
            .filter_map(|v| v.to_str().ok())
            .collect();
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

/// What is said of a request that is not sampled, should it fail.
pub fn few_attributes(method: &'static str, path: String, route: Option<&str>) -> Attributes {
    let mut attributes = vec![
        ("http.request.method", method.into()),
        ("url.path", path.into()),
        ("url.scheme", "http".into()),
    ];
    attributes.extend(route.map(|route| ("http.route", route.to_owned().into())));
    attributes
}

/// Attributes of a request's span [OpenTelemetry HTTP spans 1.44]. Not the query: nothing here reads one, so what stands
/// there can only be a mistake, such as a token.
pub fn http_attributes<B>(
    request: &Request<B>,
    method: &'static str,
    route: Option<&str>,
) -> Attributes {
    let mut attributes = vec![
        ("http.request.method", method.into()),
        ("url.path", cut(request.uri().path(), 1024).into()),
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
    if method == "_OTHER" {
        attributes.push((
            "http.request.method_original",
            cut(request.method().as_str(), 64).into(),
        ));
    }
    if let Some(route) = route {
        attributes.push(("http.route", route.to_owned().into()));
    }
    let header = |name| request.headers().get(name).and_then(|v| v.to_str().ok());
    if let Some(host) = header(header::HOST) {
        let (name, port) = host
            .rsplit_once(':')
            .filter(|(_, port)| port.parse::<u16>().is_ok())
            .unwrap_or((host, "80"));
        attributes.push(("server.address", cut(name, 256).into()));
        attributes.push(("server.port", port.parse::<i64>().unwrap_or(80).into()));
    }
    if let Some(agent) = header(header::USER_AGENT) {
        attributes.push(("user_agent.original", cut(agent, 256).into()));
    }
    if let Some(Peer(address)) = request.extensions().get() {
        attributes.push(("client.address", address.ip().to_string().into()));
    }
    attributes
}

fn cut(text: &str, length: usize) -> String {
    text.chars().take(length).collect()
}
