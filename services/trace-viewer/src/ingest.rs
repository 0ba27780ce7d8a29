//! Intake of traces: OTLP over gRPC, and over HTTP in both of its encodings [OTLP 1.10, sections "OTLP/gRPC" and
//! `OTLP/HTTP`].

use std::io::Read;

use axum::{
    Json, Router,
    body::Body,
    extract::{Request, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::post,
};
use flate2::read::MultiGzDecoder;
use futures_util::TryStreamExt;
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
    trace_service_server::{TraceService, TraceServiceServer},
};
use prost::Message;
use serde::Serialize;
use serde_json::{Value, json};
use tonic::codec::CompressionEncoding;

use crate::store::SharedStore;

/// Largest request, counted after decompression. The OpenTelemetry Collector accepts as much; exporters send batches
/// far below it.
pub const MAX_REQUEST: usize = 20 * 1024 * 1024;

/// Encoding that exporters use by default; answers come in the encoding of the request [OTLP 1.10, "OTLP/HTTP
/// Response"].
const PROTOBUF: &str = "application/x-protobuf";

/// OTLP over gRPC, plain and gzip.
pub fn grpc(store: SharedStore) -> TraceServiceServer<impl TraceService> {
    // The limit covers the decompressed size too.
    TraceServiceServer::new(Grpc(store))
        .accept_compressed(CompressionEncoding::Gzip)
        .max_decoding_message_size(MAX_REQUEST)
}

struct Grpc(SharedStore);

#[tonic::async_trait]
impl TraceService for Grpc {
    async fn export(
        &self,
        request: tonic::Request<ExportTraceServiceRequest>,
    ) -> Result<tonic::Response<ExportTraceServiceResponse>, tonic::Status> {
        Ok(tonic::Response::new(
            self.0.lock().insert(request.into_inner()),
        ))
    }
}

/// OTLP over HTTP: `POST /v1/traces`.
pub fn http(store: SharedStore) -> Router {
    Router::new()
        .route("/v1/traces", post(export))
        .with_state(store)
}

/// How a body is written: by its `content-type`.
#[derive(Clone, Copy)]
enum Encoding {
    Protobuf,
    Json,
}

/// An error as OTLP wants it: `google.rpc.Status` in the request's encoding.
#[derive(Clone, PartialEq, Message, Serialize)]
struct Status {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
}

/// Request that was not taken: HTTP status, and why.
struct Refusal {
    status: StatusCode,
    message: String,
}

/// One request. Answers 200 also where spans were refused: which and why stands in the partial success, and sending
/// them again would change nothing.
async fn export(State(store): State<SharedStore>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let Some(encoding) = encoding(&head.headers) else {
        let message = format!("content-type is neither {PROTOBUF} nor application/json");
        // No encoding is known that the sender reads, so the answer is in the one a person reads.
        return refuse(Encoding::Json, unsupported(message));
    };
    match read(&head.headers, body, encoding).await {
        Ok(request) => accept(encoding, &store.lock().insert(request)),
        Err(refusal) => refuse(encoding, refusal),
    }
}

/// Encoding by `content-type`, whose parameters do not matter; `None` for any other, and without one.
fn encoding(headers: &HeaderMap) -> Option<Encoding> {
    let content_type = headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
    match content_type
        .split(';')
        .next()?
        .trim()
        .to_ascii_lowercase()
        .as_str()
    {
        PROTOBUF => Some(Encoding::Protobuf),
        "application/json" => Some(Encoding::Json),
        _ => None,
    }
}

/// Request out of the body, decompressed and decoded.
async fn read(
    headers: &HeaderMap,
    body: Body,
    encoding: Encoding,
) -> Result<ExportTraceServiceRequest, Refusal> {
    let coding = headers
        .get(header::CONTENT_ENCODING)
        .map_or(b"identity".as_slice(), |coding| coding.as_bytes());
    // Before the coding is looked at: the body is to be read to its end in any case.
    let body = read_to_end(body).await?;
    match coding {
        b"identity" | b"" => decode(encoding, &body),
        b"gzip" => decode(encoding, &gunzip(&body)?),
        _ => {
            let message = "content-encoding is neither gzip nor identity";
            Err(unsupported(message.to_owned()))
        }
    }
}

/// Bytes of the body. One that is too large is still read, and thrown away: a sender cut off while it writes sees a
/// broken connection instead of the answer.
async fn read_to_end(body: Body) -> Result<Vec<u8>, Refusal> {
    let mut chunks = body.into_data_stream();
    let mut bytes = Vec::new();
    let mut size = 0;
    while let Some(chunk) = chunks.try_next().await.map_err(|error| malformed(&error))? {
        size += chunk.len();
        if size <= MAX_REQUEST {
            bytes.extend_from_slice(&chunk);
        }
    }
    if size > MAX_REQUEST {
        Err(too_large())
    } else {
        Ok(bytes)
    }
}

/// Decompressed body. Stops one byte past the limit, so a small bomb costs little.
fn gunzip(body: &[u8]) -> Result<Vec<u8>, Refusal> {
    let mut bytes = Vec::new();
    let read = MultiGzDecoder::new(body)
        .take(MAX_REQUEST as u64 + 1)
        .read_to_end(&mut bytes);
    match read.map_err(|error| malformed(&error))? {
        size if size > MAX_REQUEST => Err(too_large()),
        _ => Ok(bytes),
    }
}

/// 415: of the headers alone it is known that the body cannot be read.
fn unsupported(message: String) -> Refusal {
    Refusal {
        status: StatusCode::UNSUPPORTED_MEDIA_TYPE,
        message,
    }
}

/// 413, which by OTLP is not tried again.
fn too_large() -> Refusal {
    Refusal {
        status: StatusCode::PAYLOAD_TOO_LARGE,
        message: format!("a request has at most {MAX_REQUEST} bytes, decompressed"),
    }
}

/// 400, which by OTLP is not tried again: the bytes would fail again.
fn malformed(error: &dyn std::fmt::Display) -> Refusal {
    Refusal {
        status: StatusCode::BAD_REQUEST,
        message: format!("malformed request: {error}"),
    }
}

fn decode(encoding: Encoding, body: &[u8]) -> Result<ExportTraceServiceRequest, Refusal> {
    match encoding {
        Encoding::Protobuf => {
            ExportTraceServiceRequest::decode(body).map_err(|error| malformed(&error))
        }
        Encoding::Json => decode_json(body).map_err(|error| malformed(&error)),
    }
}

fn decode_json(body: &[u8]) -> serde_json::Result<ExportTraceServiceRequest> {
    let mut request = serde_json::from_slice(body)?;
    complete(&mut request);
    serde_json::from_value(request)
}

/// Writes out what protobuf's JSON lets a sender leave out or write as text, and what the generated types insist on.
/// One such attribute would otherwise cost its whole batch.
fn complete(json: &mut Value) {
    match json {
        Value::Array(items) => items.iter_mut().for_each(complete),
        Value::Object(fields) => {
            fields.retain(|_, value| !value.is_null());
            fields.values_mut().for_each(complete);
            for list in ["arrayValue", "kvlistValue"] {
                if let Some(Value::Object(list)) = fields.get_mut(list) {
                    list.entry("values").or_insert_with(|| json!([]));
                }
            }
            // "NaN" and the infinities.
            if let Some(Value::String(number)) = fields.get("doubleValue").cloned() {
                fields.remove("doubleValue");
                fields.insert("stringValue".to_owned(), Value::String(number));
            }
        }
        _ => {}
    }
}

/// Answer to a request that was taken, in its encoding.
fn accept(encoding: Encoding, response: &ExportTraceServiceResponse) -> Response {
    match encoding {
        Encoding::Protobuf => {
            ([(header::CONTENT_TYPE, PROTOBUF)], response.encode_to_vec()).into_response()
        }
        Encoding::Json => Json(response.partial_success.as_ref().map_or_else(
            || json!({}),
            // A 64-bit number is text in protobuf's JSON.
            |partial| {
                json!({"partialSuccess": {
                    "rejectedSpans": partial.rejected_spans.to_string(),
                    "errorMessage": partial.error_message,
                }})
            },
        ))
        .into_response(),
    }
}

/// Answer to a request that was not taken. The gRPC code in it is the same for all; the HTTP status tells them
/// apart.
fn refuse(encoding: Encoding, refusal: Refusal) -> Response {
    let status = refusal.status;
    let body = Status {
        code: tonic::Code::InvalidArgument as i32,
        message: refusal.message,
    };
    match encoding {
        Encoding::Protobuf => (
            status,
            [(header::CONTENT_TYPE, PROTOBUF)],
            body.encode_to_vec(),
        )
            .into_response(),
        Encoding::Json => (status, Json(body)).into_response(),
    }
}
