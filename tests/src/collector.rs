//! A collector for tests: takes OTLP over HTTP, keeps every byte, and can be as bad as a real one.

use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;

use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value::Value};
use opentelemetry_proto::tonic::metrics::v1::Metric;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// How it answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manners {
    Prompt,
    /// After this long.
    Slow(Duration),
    /// Takes everything and never says a word.
    Mute,
}

pub struct Collector {
    pub url: String,
    taken: Arc<Mutex<Taken>>,
}

#[derive(Default)]
struct Taken {
    /// Path, head and body of every request.
    requests: Vec<(String, String, Vec<u8>)>,
    connections: usize,
}

/// A span with who sent it.
#[derive(Debug, Clone)]
pub struct Received {
    pub resource: Vec<KeyValue>,
    pub span: Span,
}

impl Collector {
    pub async fn start(manners: Manners) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let taken = Arc::<Mutex<Taken>>::default();
        let keeper = taken.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                keeper.lock().connections += 1;
                tokio::spawn(serve(stream, manners, keeper.clone()));
            }
        });
        Self { url, taken }
    }

    pub fn connections(&self) -> usize {
        self.taken.lock().connections
    }

    /// Heads of all requests.
    pub fn heads(&self) -> Vec<String> {
        self.taken
            .lock()
            .requests
            .iter()
            .map(|(_, head, _)| head.clone())
            .collect()
    }

    /// Every byte that came.
    pub fn bytes(&self) -> Vec<u8> {
        self.taken
            .lock()
            .requests
            .iter()
            .flat_map(|(_, head, body)| [head.as_bytes(), body].concat())
            .collect()
    }

    pub fn spans(&self) -> Vec<Received> {
        let taken = self.taken.lock();
        let bodies = taken
            .requests
            .iter()
            .filter(|(path, ..)| path == "/v1/traces");
        let all = bodies.flat_map(|(.., body)| {
            ExportTraceServiceRequest::decode(&body[..])
                .expect("OTLP")
                .resource_spans
        });
        all.flat_map(|group| {
            let resource = group.resource.unwrap_or_default().attributes;
            let spans = group.scope_spans.into_iter().flat_map(|scope| scope.spans);
            spans
                .map(move |span| Received {
                    resource: resource.clone(),
                    span,
                })
                .collect::<Vec<_>>()
        })
        .collect()
    }

    pub fn metrics(&self) -> Vec<Metric> {
        let taken = self.taken.lock();
        let bodies = taken
            .requests
            .iter()
            .filter(|(path, ..)| path == "/v1/metrics");
        let all = bodies.flat_map(|(.., body)| {
            ExportMetricsServiceRequest::decode(&body[..])
                .expect("OTLP")
                .resource_metrics
        });
        all.flat_map(|group| group.scope_metrics)
            .flat_map(|scope| scope.metrics)
            .collect()
    }
}

impl Received {
    pub fn is(&self, service: &str, name: &str) -> bool {
        self.service() == service && self.span.name == name
    }

    pub fn service(&self) -> String {
        text(&self.resource, "service.name")
    }

    /// An attribute as text; empty if it is not there.
    pub fn tag(&self, name: &str) -> String {
        text(&self.span.attributes, name)
    }

    pub fn trace(&self) -> String {
        hex(&self.span.trace_id)
    }

    pub fn failed(&self) -> bool {
        self.span
            .status
            .as_ref()
            .is_some_and(|status| status.code == 2)
    }
}

pub fn text(attributes: &[KeyValue], name: &str) -> String {
    let found = attributes.iter().find(|attribute| attribute.key == name);
    match found.and_then(|attribute| attribute.value.clone()?.value) {
        Some(Value::StringValue(text)) => text,
        Some(Value::IntValue(number)) => number.to_string(),
        Some(Value::BoolValue(truth)) => truth.to_string(),
        Some(other) => format!("{other:?}"),
        None => String::new(),
    }
}

pub fn hex(id: &[u8]) -> String {
    id.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A panic elsewhere leaves the list whole.
async fn serve(mut stream: TcpStream, manners: Manners, taken: Arc<Mutex<Taken>>) {
    while let Some(request) = read(&mut stream).await {
        taken.lock().requests.push(request);
        match manners {
            Manners::Mute => continue,
            Manners::Slow(pause) => tokio::time::sleep(pause).await,
            Manners::Prompt => {}
        }
        let answer =
            b"HTTP/1.1 200 OK\r\nContent-Type: application/x-protobuf\r\nContent-Length: 0\r\n\r\n";
        if stream.write_all(answer).await.is_err() {
            return;
        }
    }
}

/// Path, head and body; `None` at the end.
async fn read(stream: &mut TcpStream) -> Option<(String, String, Vec<u8>)> {
    let mut bytes = Vec::new();
    let end = loop {
        if let Some(at) = bytes.windows(4).position(|end| end == b"\r\n\r\n") {
            break at;
        }
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    };
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length")
            .then(|| value.trim().parse::<usize>().ok())?
    });
    let mut body = bytes.split_off(end + 4);
    while body.len() < length.unwrap_or(0) {
        if stream.read_buf(&mut body).await.ok()? == 0 {
            return None;
        }
    }
    let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
    Some((path, head, body))
}
