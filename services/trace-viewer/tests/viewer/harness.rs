//! A running viewer, a plain HTTP client, and short ways to write spans.

use std::{
    io::{self, Write},
    net::SocketAddr,
};

use flate2::{Compression, write::GzEncoder};
use oncue_trace_viewer::{Addresses, Listeners, Ports, serve, store::Limits};
use opentelemetry_proto::tonic::{
    collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse},
    common::v1::{AnyValue, KeyValue, any_value::Value as Any},
    resource::v1::Resource,
    trace::v1::{ResourceSpans, ScopeSpans, Span, Status, span::Link, status::StatusCode},
};
use prost::Message;
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::oneshot,
    task::JoinHandle,
};

pub const LIMITS: Limits = Limits {
    traces: 100,
    bytes: 1 << 20,
    max_spans_per_trace: 50,
};

pub struct Viewer {
    pub at: Addresses,
    // Dropping it is the stop signal.
    stop: oneshot::Sender<()>,
    served: JoinHandle<io::Result<()>>,
}

impl Viewer {
    pub async fn start() -> Self {
        Self::with(LIMITS).await
    }

    pub async fn with(limits: Limits) -> Self {
        let ports = Ports {
            ui_port: 0,
            otlp_grpc_port: 0,
            otlp_http_port: 0,
            health_port: 0,
        };
        let listeners = Listeners::bind("127.0.0.1", &ports)
            .await
            .expect("free ports");
        let at = listeners.addresses().expect("bound");
        let (stop, stopped) = oneshot::channel();
        let served = tokio::spawn(serve(listeners, limits, async { drop(stopped.await) }));
        Self { at, stop, served }
    }

    /// Stops it and waits for its end.
    pub async fn stop(self) {
        drop(self.stop);
        self.served.await.expect("no panic").expect("a clean end");
    }

    /// Sends as an exporter does, and insists that the viewer took the request.
    pub async fn export(&self, request: ExportTraceServiceRequest) -> ExportTraceServiceResponse {
        let answer = self
            .post(
                &[("content-type", "application/x-protobuf")],
                &request.encode_to_vec(),
            )
            .await;
        assert_eq!(answer.status, 200);
        ExportTraceServiceResponse::decode(&*answer.body).expect("an OTLP answer")
    }

    pub async fn post(&self, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        http(self.at.otlp_http, "POST", "/v1/traces", headers, body).await
    }

    pub async fn get(&self, path: &str) -> Answer {
        http(self.at.ui, "GET", path, &[], b"").await
    }

    /// The `data` of a successful answer.
    pub async fn data(&self, path: &str) -> Value {
        let answer = self.get(path).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        answer.json()["data"].take()
    }

    pub async fn health(&self) -> Value {
        let answer = http(self.at.health, "GET", "/status", &[], b"").await;
        assert_eq!(answer.status, 200);
        answer.json()
    }

    /// Ids of the traces found, in the order of the answer.
    pub async fn found(&self, query: &str) -> Vec<u128> {
        let data = self.data(&format!("/api/traces?{query}")).await;
        let id =
            |trace: &Value| u128::from_str_radix(trace["traceID"].as_str().unwrap(), 16).unwrap();
        data.as_array().unwrap().iter().map(id).collect()
    }
}

pub struct Answer {
    pub status: u16,
    head: String,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines
            .find(|(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| value)
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("no JSON: {}", self.text()))
    }
}

pub async fn http(
    at: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Answer {
    let mut stream = TcpStream::connect(at).await.expect("the viewer listens");
    let headers: String = headers
        .iter()
        .map(|(key, value)| [*key, ": ", *value, "\r\n"].concat())
        .collect();
    let host = if headers.starts_with("host: ") {
        String::new()
    } else {
        format!("host: {at}\r\n")
    };
    let head = format!(
        "{method} {path} HTTP/1.1\r\n{host}connection: close\r\n{headers}content-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.expect("sent");
    stream.write_all(body).await.expect("sent");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.expect("an answer");
    let end = answer
        .windows(4)
        .position(|window| window == b"\r\n\r\n")
        .expect("a header");
    let body = answer.split_off(end + 4);
    let head = String::from_utf8(answer).expect("text");
    Answer {
        status: head[9..12].parse().expect("a status"),
        head,
        body,
    }
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).expect("memory");
    encoder.finish().expect("memory")
}

/// For a query: every byte escaped, which is always allowed.
pub fn escape(text: &str) -> String {
    text.bytes()
        .flat_map(|byte| {
            ['%']
                .into_iter()
                .chain(format!("{byte:02x}").chars().collect::<Vec<_>>())
        })
        .collect()
}

/// A span of one millisecond that starts `id` microseconds after the epoch. Parent 0 is none.
pub fn span(trace: u128, id: u64, parent: u64, name: &str) -> Span {
    Span {
        trace_id: trace.to_be_bytes().to_vec(),
        span_id: id.to_be_bytes().to_vec(),
        parent_span_id: if parent == 0 {
            Vec::new()
        } else {
            parent.to_be_bytes().to_vec()
        },
        name: name.to_owned(),
        start_time_unix_nano: id * 1_000,
        end_time_unix_nano: id * 1_000 + 1_000_000,
        ..Span::default()
    }
}

pub fn failed(mut span: Span, message: &str) -> Span {
    span.status = Some(Status {
        code: StatusCode::Error as i32,
        message: message.to_owned(),
    });
    span
}

pub fn with(mut span: Span, key: &str, value: Any) -> Span {
    span.attributes.push(attribute(key, value));
    span
}

pub fn linked(mut span: Span, trace: u128, id: u64) -> Span {
    span.links.push(Link {
        trace_id: trace.to_be_bytes().to_vec(),
        span_id: id.to_be_bytes().to_vec(),
        ..Link::default()
    });
    span
}

pub fn text(value: &str) -> Any {
    Any::StringValue(value.to_owned())
}

pub fn attribute(key: &str, value: Any) -> KeyValue {
    KeyValue {
        key: key.to_owned(),
        value: Some(AnyValue { value: Some(value) }),
        ..KeyValue::default()
    }
}

pub fn request(service: &str, spans: Vec<Span>) -> ExportTraceServiceRequest {
    let resource = Resource {
        attributes: vec![attribute("service.name", text(service))],
        ..Resource::default()
    };
    let scope_spans = vec![ScopeSpans {
        spans,
        ..ScopeSpans::default()
    }];
    let resource_spans = ResourceSpans {
        resource: Some(resource),
        scope_spans,
        ..ResourceSpans::default()
    };
    ExportTraceServiceRequest {
        resource_spans: vec![resource_spans],
    }
}
