//! OTLP over HTTP/1.1, binary protobuf [OTLP/HTTP].

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{HeaderName, HeaderValue};
use hyper::http::request::Builder;
use hyper::{Request, Response, Uri};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::{AGENT, Target, innermost};
use oncue_proto::event::percent_decode;

/// Largest answer that is read: a collector has little to say.
/// A longer one is an error.
const MAX_ANSWER: usize = 64 << 10;

/// Connection to one collector; opened when it is needed and again when the collector has closed it.
/// One request at a time, as HTTP/1.1 without pipelining has it.
pub(super) struct Http {
    /// Address as configured; its path is that of the request.
    uri: Uri,
    /// Host to connect to; IPv6 without brackets.
    host: String,
    /// Port to connect to, 80 unless named.
    port: u16,
    /// `Authorization`, from credentials in the URL.
    credentials: Option<String>,
    /// `None` before the first request and after a failed one.
    connection: Option<SendRequest<Full<Bytes>>>,
}

impl Http {
    /// Checks the URL; connects later.
    ///
    /// # Errors
    /// A URL that cannot be read, has another scheme than `http`, or names no host.
    pub fn new(url: &str) -> Result<Self, String> {
        let uri: Uri = url.parse().map_err(|e| format!("{url:?}: {e}"))?;
        if uri.scheme_str() != Some("http") {
            return Err(format!(
                "{url:?}: only http:// is built in; send to a collector beside the process"
            ));
        }
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
        if host.is_empty() {
            return Err(format!("{url:?} names no host"));
        }
        Ok(Self {
            host: host.to_owned(),
            port: uri.port_u16().unwrap_or(80),
            credentials: credentials(&uri),
            uri,
            connection: None,
        })
    }

    /// Posts a request and returns the body of a good answer.
    ///
    /// # Errors
    /// No connection, no answer within the time-out, a status other than 2xx, or an answer that is
    /// too large.
    pub async fn post(&mut self, target: &Target, body: Vec<u8>) -> Result<Bytes, String> {
        let body = packed(target, body)?;
        match tokio::time::timeout(target.timeout, self.attempt(target, &body)).await {
            Ok(Ok(answer)) => Ok(answer),
            failed => {
                // Whatever is still on its way there belongs to nobody.
                self.connection = None;
                failed.unwrap_or_else(|_| Err(too_slow(target.timeout)))
            }
        }
    }

    /// One exchange: on the kept connection if it still works, or else on a new one.
    async fn attempt(&mut self, target: &Target, body: &Bytes) -> Result<Bytes, String> {
        if let Some(mut kept) = self.connection.take()
            && kept.ready().await.is_ok()
            && let Ok(answer) = kept.send_request(self.request(target, body)?).await
        {
            self.connection = Some(kept);
            return read(answer).await;
        }
        // The first request, or the collector has closed an idle connection, which only using it brings to light. It
        // may hear the request twice then, which OTLP allows; spans are told apart by their ids.
        let mut fresh = self.connect().await?;
        let answer = fresh
            .send_request(self.request(target, body)?)
            .await
            .map_err(|e| innermost(&e))?;
        self.connection = Some(fresh);
        read(answer).await
    }

    /// Opens a connection; names are resolved anew each time, so a collector may move.
    async fn connect(&self) -> Result<SendRequest<Full<Bytes>>, String> {
        let stream = TcpStream::connect((self.host.as_str(), self.port))
            .await
            .map_err(|e| e.to_string())?;
        let _ = stream.set_nodelay(true);
        let (sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|e| innermost(&e))?;
        // Ends with its sender; errors come out where an answer is awaited.
        tokio::spawn(connection);
        Ok(sender)
    }

    /// Request with its headers. `Host` has no credentials; a header of the environment is added
    /// beside ours, not in place of it.
    fn request(&self, target: &Target, body: &Bytes) -> Result<Request<Full<Bytes>>, String> {
        let path = self.uri.path_and_query().map_or("/", |path| path.as_str());
        let authority = self.uri.authority().map_or("", |whole| whole.as_str());
        let host = authority
            .rsplit_once('@')
            .map_or(authority, |(_, host)| host);
        let mut request: Builder = Request::post(path)
            .header("host", host)
            .header("user-agent", AGENT)
            .header("content-type", "application/x-protobuf");
        if target.gzip {
            request = request.header("content-encoding", "gzip");
        }
        if let Some(credentials) = &self.credentials {
            request = request.header("authorization", credentials);
        }
        for (name, value) in &target.headers {
            request = request.header(name, value);
        }
        request
            .body(Full::new(body.clone()))
            .map_err(|e| e.to_string())
    }
}

/// Body as it is sent: compressed where that is asked for and built in.
/// Fastest level of gzip: the time is taken from the thread that sends.
pub(super) fn packed(target: &Target, body: Vec<u8>) -> Result<Bytes, String> {
    #[cfg(feature = "gzip")]
    if target.gzip {
        let sink = Vec::with_capacity(body.len() / 4);
        let mut packed = flate2::write::GzEncoder::new(sink, flate2::Compression::fast());
        std::io::Write::write_all(&mut packed, &body).map_err(|e| e.to_string())?;
        let packed = packed.finish().map_err(|e| e.to_string())?;
        return Ok(packed.into());
    }
    if target.gzip {
        return Err("gzip is not built into this program".to_owned());
    }
    Ok(body.into())
}

/// Whether HTTP can carry such a header.
pub(super) fn is_header(name: &str, value: &str) -> bool {
    name.parse::<HeaderName>().is_ok() && value.parse::<HeaderValue>().is_ok()
}

/// Basic authentication for `http://user:password@host` [RFC 7617].
/// `None` where the URL has none.
fn credentials(uri: &Uri) -> Option<String> {
    let (user_info, _) = uri.authority()?.as_str().rsplit_once('@')?;
    let plain = percent_decode(user_info).unwrap_or_else(|| user_info.to_owned());
    Some(format!("Basic {}", STANDARD.encode(plain)))
}

/// Body of an answer with a status of 2xx.
async fn read(answer: Response<Incoming>) -> Result<Bytes, String> {
    let status = answer.status();
    if !status.is_success() {
        return Err(format!("the collector answers {status}"));
    }
    let body = Limited::new(answer.into_body(), MAX_ANSWER);
    let read = body.collect().await.map_err(|e| innermost(&*e))?;
    Ok(read.to_bytes())
}

/// Sentence for a request that took too long.
fn too_slow(timeout: Duration) -> String {
    format!("no answer within {timeout:?}")
}
