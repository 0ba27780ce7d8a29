//! Requests to the collector: OTLP over HTTP or gRPC, their bodies already written.

use std::io::Write as _;

use bytes::{Buf as _, BufMut as _, Bytes};
use flate2::Compression;
use flate2::write::GzEncoder;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceResponse as Answer;
use prost::Message as _;
use reqwest::header::{HeaderName, HeaderValue};
use tonic::codec::{Codec, CompressionEncoding, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::metadata::{AsciiMetadataKey, AsciiMetadataValue};
use tonic::transport::{Channel, Endpoint};

use super::settings::Target;
use oncue_proto::event::percent_decode;

const EXPORT: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";
const AGENT: &str = concat!("oncue/", env!("CARGO_PKG_VERSION"));

pub(super) struct Otlp {
    target: Target,
    /// Made for the first request; it costs time and memory.
    client: Option<Client>,
}

#[derive(Clone)]
enum Client {
    Http(reqwest::Client),
    Grpc(Channel),
}

impl Otlp {
    pub fn new(mut target: Target) -> Self {
        target.headers.retain(|(name, value)| {
            let fits = name.parse::<HeaderName>().is_ok() && value.parse::<HeaderValue>().is_ok();
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
            client: None,
        }
    }

    /// How many spans the collector refused of those it has taken.
    pub async fn send(&mut self, request: Vec<u8>) -> Result<u64, String> {
        let client = match &self.client {
            Some(client) => client.clone(),
            None => self.client.insert(client(&self.target)?).clone(),
        };
        let answer = match client {
            Client::Http(client) => self.post(&client, request).await?,
            Client::Grpc(channel) => self.call(channel, request).await?,
        };
        let refusal = answer
            .partial_success
            .filter(|part| part.rejected_spans > 0);
        Ok(refusal.map_or(0, |part| part.rejected_spans.unsigned_abs()))
    }

    async fn post(&self, client: &reqwest::Client, mut body: Vec<u8>) -> Result<Answer, String> {
        let mut request = client
            .post(&self.target.url)
            .header("content-type", "application/x-protobuf");
        if self.target.gzip {
            body = gzip(&body).map_err(|e| e.to_string())?;
            request = request.header("content-encoding", "gzip");
        }
        for (name, value) in &self.target.headers {
            request = request.header(name, value);
        }
        // Its own text does not say why; the innermost does.
        let answer = request.body(body).send().await.map_err(|e| innermost(&e))?;
        if !answer.status().is_success() {
            return Err(format!("the collector answers {}", answer.status()));
        }
        let body = answer.bytes().await.map_err(|e| innermost(&e))?;
        // A collector that answers 200 with something else has taken them.
        Ok(Answer::decode(body).unwrap_or_default())
    }

    async fn call(&self, channel: Channel, body: Vec<u8>) -> Result<Answer, String> {
        let mut request = tonic::Request::new(Bytes::from(body));
        request.set_timeout(self.target.timeout);
        for (name, value) in &self.target.headers {
            if let (Ok(name), Ok(value)) = (
                name.parse::<AsciiMetadataKey>(),
                value.parse::<AsciiMetadataValue>(),
            ) {
                request.metadata_mut().insert(name, value);
            }
        }
        let mut grpc = tonic::client::Grpc::new(channel);
        if self.target.gzip {
            // Servers answer in the encoding of the request.
            grpc = grpc
                .send_compressed(CompressionEncoding::Gzip)
                .accept_compressed(CompressionEncoding::Gzip);
        }
        grpc.ready().await.map_err(|e| innermost(&e))?;
        let answer = grpc
            .unary(request, PathAndQuery::from_static(EXPORT), AsItIs)
            .await;
        answer
            .map(tonic::Response::into_inner)
            .map_err(|status| match status.message() {
                "" => status.code().to_string(),
                text => format!("{}: {text}", status.code()),
            })
    }
}

/// Where traces go [OTLP exporter, endpoint URLs]: an address of their own is taken as it stands, to a general one over
/// HTTP the path is added. An address without a scheme asks for TLS, which is not built in and is refused when it is
/// used, unless it is said to be insecure.
pub(super) fn url(own: Option<&str>, general: Option<&str>, grpc: bool, insecure: bool) -> String {
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
        format!("{}/v1/traces", url.trim_end_matches('/'))
    }
}

/// `name=value` pairs with commas between them, values percent-decoded.
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

fn client(target: &Target) -> Result<Client, String> {
    if target.grpc {
        let endpoint = Endpoint::from_shared(target.url.clone())
            .map_err(|e| format!("{:?}: {e}", target.url))?;
        let endpoint = endpoint.user_agent(AGENT).map_err(|e| e.to_string())?;
        return Ok(Client::Grpc(
            endpoint
                .connect_timeout(target.timeout)
                .timeout(target.timeout)
                .connect_lazy(),
        ));
    }
    let client = reqwest::Client::builder()
        .user_agent(AGENT)
        .timeout(target.timeout)
        .build();
    client.map(Client::Http).map_err(|e| innermost(&e))
}

fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut inner = error;
    while let Some(source) = inner.source() {
        inner = source;
    }
    inner.to_string()
}

fn gzip(body: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut packed = GzEncoder::new(Vec::with_capacity(body.len() / 4), Compression::fast());
    packed.write_all(body)?;
    packed.finish()
}

/// Requests are bytes, whatever they say.
#[derive(Default)]
struct AsItIs;

impl Codec for AsItIs {
    type Encode = Bytes;
    type Decode = Answer;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for AsItIs {
    type Item = Bytes;
    type Error = tonic::Status;

    fn encode(&mut self, item: Bytes, into: &mut EncodeBuf<'_>) -> Result<(), Self::Error> {
        into.put(item);
        Ok(())
    }
}

impl Decoder for AsItIs {
    type Item = Answer;
    type Error = tonic::Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Answer>, Self::Error> {
        let read = Answer::decode(from.copy_to_bytes(from.remaining()));
        read.map(Some)
            .map_err(|e| tonic::Status::internal(e.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use opentelemetry_proto::tonic::collector::trace::v1::ExportTracePartialSuccess;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[test]
    fn an_address_of_its_own_stands_and_a_general_one_is_completed() {
        for (own, general, grpc, insecure, expected) in [
            (None, None, false, false, "http://localhost:4318/v1/traces"),
            (None, None, true, false, "http://localhost:4317"),
            (
                None,
                Some("http://c:1/"),
                false,
                false,
                "http://c:1/v1/traces",
            ),
            (
                Some("http://c:1/x"),
                Some("http://d"),
                false,
                false,
                "http://c:1/x",
            ),
            (Some("c:1"), None, true, true, "http://c:1"),
            (Some("c:1"), None, true, false, "https://c:1"),
        ] {
            assert_eq!(url(own, general, grpc, insecure), expected);
        }
    }

    #[test]
    fn headers_are_pairs() {
        let read = headers(" X-Tenant = blue%2Cgreen ,b=, =c,d");
        assert_eq!(
            read,
            [
                ("x-tenant".into(), "blue,green".into()),
                ("b".into(), String::new())
            ]
        );
    }

    #[test]
    fn a_header_that_cannot_be_sent_takes_no_spans_along() {
        let headers = headers("x-a=two%0Alines,x b=1,x-c=fine");
        let target = Target {
            grpc: false,
            gzip: false,
            url: String::new(),
            headers,
            timeout: Duration::ZERO,
        };
        assert_eq!(
            Otlp::new(target).target.headers,
            [("x-c".to_owned(), "fine".to_owned())]
        );
    }

    /// A collector that answers every request so; what it heard of the first.
    async fn collector(answer: Vec<u8>) -> (Otlp, tokio::task::JoinHandle<String>) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/v1/traces", listener.local_addr().unwrap());
        let heard = tokio::spawn(async move {
            let (mut socket, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 4096];
            let read = socket.read(&mut request).await.unwrap();
            socket.write_all(&answer).await.unwrap();
            String::from_utf8_lossy(&request[..read]).into_owned()
        });
        let (headers, timeout) = (
            vec![("x-tenant".to_owned(), "blue".to_owned())],
            Duration::from_secs(20),
        );
        (
            Otlp::new(Target {
                grpc: false,
                gzip: false,
                url,
                headers,
                timeout,
            }),
            heard,
        )
    }

    #[tokio::test]
    async fn what_a_collector_refuses_is_told() {
        let partial = ExportTracePartialSuccess {
            rejected_spans: 3,
            error_message: "too many".into(),
        };
        let body = Answer {
            partial_success: Some(partial),
        }
        .encode_to_vec();
        let mut answer =
            format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len()).into_bytes();
        answer.extend(body);
        let (mut otlp, heard) = collector(answer).await;
        assert_eq!(otlp.send(vec![1, 2, 3]).await, Ok(3));
        let heard = heard.await.unwrap();
        for part in [
            "POST /v1/traces",
            "application/x-protobuf",
            "x-tenant: blue",
            "content-length: 3",
            "user-agent: oncue/",
        ] {
            assert!(heard.contains(part), "{part} in {heard}");
        }
    }

    #[tokio::test]
    async fn a_collector_that_cannot_take_them_is_an_error_that_says_so() {
        let (mut otlp, _) =
            collector(b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n".to_vec())
                .await;
        assert_eq!(
            otlp.send(vec![1]).await,
            Err("the collector answers 503 Service Unavailable".to_owned())
        );
        let (mut otlp, heard) = collector(Vec::new()).await;
        heard.abort(); // nobody listens any more
        let _ = heard.await;
        assert!(
            otlp.send(vec![1])
                .await
                .is_err_and(|why| why.contains("refused")),
            "the innermost cause is told"
        );
    }
}
