//! OTLP client: sends requests whose bodies are written already, over HTTP or gRPC [OTLP 1.x].
//!
//! Spans and metrics go the same way. Over HTTP it is one connection of `hyper`, kept between requests: an exporter
//! talks to one collector, one request after another, so there is nothing to pool, and no proxy and no redirect to
//! follow. gRPC is behind the feature `grpc`.
//!
//! | transport | default address | request |
//! |---|---|---|
//! | `http/protobuf`, the default | `http://localhost:4318` | `POST /v1/traces`, `/v1/metrics` |
//! | `grpc` | `http://localhost:4317` | `TraceService/Export`, `MetricsService/Export` |
//!
//! Failed exports are not repeated: the exporters of spans and of metrics say why. TLS is not built
//! in: it would bring its crates into every function, for a collector that mostly runs beside it.

#[cfg(feature = "grpc")]
mod grpc;
mod http;

use std::fmt::{self, Display};
use std::time::Duration;

use prost::Message;

use oncue_proto::event::percent_decode;

/// `User-Agent` of every request.
/// Name and version, as [OTLP exporter, User Agent] asks.
const AGENT: &str = concat!("oncue/", env!("CARGO_PKG_VERSION"));

/// Kind of telemetry; each has its own path, service and variables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Signal {
    /// Spans.
    Traces,
    /// Sums, gauges and histograms.
    Metrics,
}

impl Signal {
    /// Path below a general endpoint [OTLP/HTTP request].
    fn path(self) -> &'static str {
        match self {
            Self::Traces => "/v1/traces",
            Self::Metrics => "/v1/metrics",
        }
    }

    /// Variable that holds for this signal alone, such as `OTEL_EXPORTER_OTLP_TRACES_TIMEOUT`.
    pub fn variable(self, what: &str) -> String {
        let signal = match self {
            Self::Traces => "TRACES",
            Self::Metrics => "METRICS",
        };
        format!("OTEL_EXPORTER_OTLP_{signal}_{what}")
    }
}

impl Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Traces => "traces",
            Self::Metrics => "metrics",
        })
    }
}

/// Collector to send one signal to, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Target {
    /// Signal that goes there.
    pub signal: Signal,
    /// Whether it goes over gRPC rather than HTTP.
    pub grpc: bool,
    /// Whether requests are compressed.
    pub gzip: bool,
    /// Whole address: with the path for HTTP, without one for gRPC.
    pub url: String,
    /// Names in lower case, values decoded.
    pub headers: Vec<(String, String)>,
    /// Of one request, connecting included.
    /// Default 10 s.
    pub timeout: Duration,
}

/// Client of one collector. Connects with the first request, since connecting costs time and memory.
pub(super) struct Client {
    /// Where to and how; headers that cannot be sent are taken out.
    target: Target,
    /// `None` until the first request.
    transport: Option<Transport>,
}

/// Protocol that is spoken to the collector.
enum Transport {
    /// Boxed, so that the enum stays small.
    Http(Box<http::Http>),
    #[cfg(feature = "grpc")]
    Grpc(grpc::Grpc),
}

impl Client {
    /// Leaves out headers that cannot be sent, so that one of them takes no telemetry along.
    pub fn new(mut target: Target) -> Self {
        target.headers.retain(|(name, value)| {
            let fits = http::is_header(name, value);
            if !fits {
                tracing::warn!(
                    header = name,
                    "OTLP headers: one that cannot be sent; left out"
                );
            }
            fits
        });
        Self {
            target,
            transport: None,
        }
    }

    /// Sends an export request and reads the answer. Must run on a tokio runtime.
    ///
    /// # Errors
    /// A sentence with the innermost cause, when the collector cannot be reached in time or answers with an error.
    /// `request` is an encoded `Export*ServiceRequest`, `A` the response that belongs to it.
    pub async fn send<A: Message + Default + 'static>(
        &mut self,
        request: Vec<u8>,
    ) -> Result<A, String> {
        if self.transport.is_none() {
            self.transport = Some(Transport::to(&self.target)?);
        }
        match &mut self.transport {
            Some(Transport::Http(http)) => {
                let body = http.post(&self.target, request).await?;
                // A collector that answers 200 with something else has taken them.
                Ok(A::decode(body).unwrap_or_default())
            }
            #[cfg(feature = "grpc")]
            Some(Transport::Grpc(grpc)) => grpc.call(&self.target, request).await,
            None => Err("not connected".to_owned()),
        }
    }
}

impl Transport {
    /// Transport for a target; connects with the first request.
    ///
    /// # Errors
    /// A URL that cannot be used, or gRPC where it is not built in.
    fn to(target: &Target) -> Result<Self, String> {
        if !target.grpc {
            return Ok(Self::Http(Box::new(http::Http::new(&target.url)?)));
        }
        #[cfg(feature = "grpc")]
        return grpc::Grpc::new(target).map(Self::Grpc);
        #[cfg(not(feature = "grpc"))]
        Err("gRPC is not built into this program".to_owned())
    }
}

/// URL of a signal [OTLP exporter, endpoint URLs]: an address of its own is taken as it stands, to a general one over
/// HTTP the path is added. A gRPC address without a scheme asks for TLS, which is not built in and is refused when it
/// is used, unless it is said to be insecure. `own` is `OTEL_EXPORTER_OTLP_<SIGNAL>_ENDPOINT`, `general` is
/// `OTEL_EXPORTER_OTLP_ENDPOINT`.
pub(super) fn url(
    signal: Signal,
    own: Option<&str>,
    general: Option<&str>,
    grpc: bool,
    insecure: bool,
) -> String {
    let default = if grpc {
        "http://localhost:4317"
    } else {
        "http://localhost:4318"
    };
    let url = own.or(general).unwrap_or(default);
    if grpc {
        let scheme = if insecure { "http" } else { "https" };
        return if url.contains("://") {
            url.to_owned()
        } else {
            format!("{scheme}://{url}")
        };
    }
    if own.is_some() {
        url.to_owned()
    } else {
        format!("{}{}", url.trim_end_matches('/'), signal.path())
    }
}

/// Headers from `name=value` pairs with commas between them, values percent-decoded [W3C Baggage, as OTLP uses it].
/// Pairs without a name or `=` are left out; a value that does not decode to UTF-8 stays as it is.
pub(super) fn headers(text: &str) -> Vec<(String, String)> {
    let pairs = text.split(',').filter_map(|pair| pair.split_once('='));
    pairs
        .map(|(name, value)| (name.trim().to_ascii_lowercase(), value.trim()))
        .filter(|(name, _)| !name.is_empty())
        .map(|(name, value)| {
            (
                name,
                percent_decode(value).unwrap_or_else(|| value.to_owned()),
            )
        })
        .collect()
}

/// Innermost cause of an error: the outer texts of HTTP clients do not say why.
fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut inner = error;
    while let Some(source) = inner.source() {
        inner = source;
    }
    inner.to_string()
}

#[cfg(test)]
mod tests;
