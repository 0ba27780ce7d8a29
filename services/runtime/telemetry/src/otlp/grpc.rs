//! OTLP over gRPC [OTLP/gRPC], by `tonic`'s channel with a codec that leaves bodies as they are.

use std::marker::PhantomData;

use bytes::{Buf as _, BufMut as _, Bytes};
use prost::Message;
use tonic::codec::{Codec, CompressionEncoding, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::metadata::{AsciiMetadataKey, AsciiMetadataValue};
use tonic::transport::{Channel, Endpoint};

use super::{AGENT, Signal, Target, innermost};

/// Channel to one collector; connects when it is first used.
pub(super) struct Grpc {
    /// HTTP/2 connection of `tonic`, which opens it and opens it again after a failure.
    channel: Channel,
}

impl Grpc {
    /// Channel with the time-out of the target for connecting and for each request.
    ///
    /// # Errors
    /// A URL that `tonic` cannot read.
    pub fn new(target: &Target) -> Result<Self, String> {
        let endpoint = Endpoint::from_shared(target.url.clone())
            .map_err(|e| format!("{:?}: {e}", target.url))?;
        let endpoint = endpoint.user_agent(AGENT).map_err(|e| e.to_string())?;
        let channel = endpoint
            .connect_timeout(target.timeout)
            .timeout(target.timeout)
            .connect_lazy();
        Ok(Self { channel })
    }

    /// Calls `Export` with a body that is encoded already and returns the decoded answer.
    /// `grpc-timeout` tells the collector how long somebody waits. Headers go as metadata.
    ///
    /// # Errors
    /// The innermost cause where the channel is not ready, or else the status of gRPC and its text.
    pub async fn call<A: Message + Default + 'static>(
        &mut self,
        target: &Target,
        body: Vec<u8>,
    ) -> Result<A, String> {
        let mut request = tonic::Request::new(Bytes::from(body));
        request.set_timeout(target.timeout);
        for (name, value) in &target.headers {
            if let (Ok(name), Ok(value)) = (
                name.parse::<AsciiMetadataKey>(),
                value.parse::<AsciiMetadataValue>(),
            ) {
                request.metadata_mut().insert(name, value);
            }
        }
        let mut grpc = tonic::client::Grpc::new(self.channel.clone());
        if target.gzip {
            // Servers answer in the encoding of the request.
            grpc = grpc
                .send_compressed(CompressionEncoding::Gzip)
                .accept_compressed(CompressionEncoding::Gzip);
        }
        grpc.ready().await.map_err(|e| innermost(&e))?;
        let path = PathAndQuery::from_static(method(target.signal));
        let answer = grpc.unary(request, path, AsItIs::default()).await;
        answer
            .map(tonic::Response::into_inner)
            .map_err(|status| match status.message() {
                "" => status.code().to_string(),
                text => format!("{}: {text}", status.code()),
            })
    }
}

/// Path of the `Export` method of a signal's service.
fn method(signal: Signal) -> &'static str {
    match signal {
        Signal::Traces => "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
        Signal::Metrics => "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export",
    }
}

/// Codec for requests that are encoded already; answers are of the type `A`.
/// Frames and compression of gRPC are added by `tonic`.
struct AsItIs<A>(PhantomData<fn() -> A>);

impl<A> Default for AsItIs<A> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<A: Message + Default + 'static> Codec for AsItIs<A> {
    type Encode = Bytes;
    type Decode = A;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self::default()
    }

    fn decoder(&mut self) -> Self {
        Self::default()
    }
}

impl<A> Encoder for AsItIs<A> {
    type Item = Bytes;
    type Error = tonic::Status;

    fn encode(&mut self, item: Bytes, into: &mut EncodeBuf<'_>) -> Result<(), Self::Error> {
        into.put(item);
        Ok(())
    }
}

impl<A: Message + Default> Decoder for AsItIs<A> {
    type Item = A;
    type Error = tonic::Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<A>, Self::Error> {
        let read = A::decode(from.copy_to_bytes(from.remaining()));
        read.map(Some)
            .map_err(|e| tonic::Status::internal(e.to_string()))
    }
}
