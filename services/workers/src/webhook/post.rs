//! One POST: resolve, check, connect to what was checked, sign, ask, read a little.
//!
//! Built on a bare connection instead of a client with a pool, because such a client resolves on its own, takes
//! proxies from the environment, follows redirects and reads whole answers unless told otherwise in each case. A
//! connection for each request also means that a name that moves to another address is checked anew.

use std::net::SocketAddr;
use std::time::Duration;

use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use oncue::{Result, reject};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, lookup_host};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::TlsConnector;
use url::Host;

use super::address::refusal;
use super::later;
use super::target::Target;

/// Most bytes read of an answer's body, and most characters shown of them. Far fewer are shown than read, so that a
/// secret is not cut in two by the end of what was read, and then not found.
const READ: usize = 1024;
const SHOWN: usize = 256;
/// Most bytes of an answer's status line and headers.
const HEAD: usize = 16 << 10;

pub struct Call<'a> {
    pub target: &'a Target,
    pub tls: Option<&'a TlsConnector>,
    pub allow_private: bool,
    pub deadline: Instant,
    /// Time that the deadline was made from, for messages.
    pub timeout: Duration,
}

#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    /// Beginning of the body, for people; empty when all went well.
    pub piece: String,
}

impl Call<'_> {
    pub async fn post(
        &self,
        id: &str,
        timestamp: u64,
        signature: &str,
        body: String,
    ) -> Result<Answer> {
        let request = Request::post(self.target.path_and_query())
            .header("host", self.target.authority())
            .header(
                "user-agent",
                concat!("oncue-notify-webhook/", env!("CARGO_PKG_VERSION")),
            )
            .header("content-type", "application/json")
            .header("webhook-id", id)
            .header("webhook-timestamp", timestamp)
            .header("webhook-signature", signature)
            .header("idempotency-key", id)
            .body(Full::from(body))?;
        let stream = self.connect(&self.addresses().await?).await?;
        match self.tls {
            None => self.exchange(stream, request).await,
            Some(tls) => {
                let name = self.target.server_name().map_err(reject)?;
                let stream = self.in_time("TLS", tls.connect(name, stream)).await?;
                self.exchange(stream, request).await
            }
        }
    }

    /// Waits no longer than the deadline, and says what was being waited for.
    async fn in_time<T, E: std::fmt::Display>(
        &self,
        step: &str,
        work: impl Future<Output = Result<T, E>>,
    ) -> Result<T> {
        match timeout_at(self.deadline, work).await {
            Ok(Ok(done)) => Ok(done),
            Ok(Err(e)) => Err(later(format!("{}: {step}: {e}", self.target))),
            Err(_) => Err(later(format!(
                "{}: {step}: no answer within {:?}",
                self.target, self.timeout
            ))),
        }
    }

    /// Where the host is to be found, without addresses that are out of bounds.
    async fn addresses(&self) -> Result<Vec<SocketAddr>> {
        let port = self.target.port();
        let mut found: Vec<SocketAddr> = match self.target.host() {
            Host::Ipv4(ip) => vec![SocketAddr::from((*ip, port))],
            Host::Ipv6(ip) => vec![SocketAddr::from((*ip, port))],
            Host::Domain(name) => self
                .in_time("name look-up", lookup_host((name.as_str(), port)))
                .await?
                .collect(),
        };
        let mut refused = None;
        if !self.allow_private {
            found.retain(|address| match refusal(address.ip()) {
                Some(class) => {
                    refused = Some(format!("{} is {class}", address.ip()));
                    false
                }
                None => true,
            });
        }
        match refused {
            Some(why) if found.is_empty() => Err(reject(format!(
                "ssrf: {}: {why}, and those are not called unless WEBHOOK_ALLOW_PRIVATE=true",
                self.target
            ))),
            _ => Ok(found),
        }
    }

    /// Each address gets an equal share of the time left, the request being one of those who share.
    async fn connect(&self, addresses: &[SocketAddr]) -> Result<TcpStream> {
        let mut failed = "its name has no address".to_owned();
        for (tried, address) in addresses.iter().enumerate() {
            let share = (self.deadline - Instant::now()) / (addresses.len() - tried + 1) as u32;
            failed = match timeout(share, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => {
                    let _ = stream.set_nodelay(true); // costs some milliseconds where it cannot be had
                    return Ok(stream);
                }
                Ok(Err(e)) => format!("{}: {e}", address.ip()),
                Err(_) => format!("{}: no answer within {share:?}", address.ip()),
            };
        }
        Err(later(format!("{}: cannot connect: {failed}", self.target)))
    }

    async fn exchange<S>(&self, stream: S, request: Request<Full<Bytes>>) -> Result<Answer>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let handshake = hyper::client::conn::http1::Builder::new()
            .max_buf_size(HEAD)
            .handshake(TokioIo::new(stream));
        let (mut sender, connection) = self.in_time("HTTP", handshake).await?;
        // Driven beside us, and gone with us.
        let mut driver = JoinSet::new();
        driver.spawn(connection);
        let answer = self.in_time("HTTP", sender.send_request(request)).await?;
        let status = answer.status();
        let piece = if status.is_success() {
            String::new()
        } else {
            self.piece(answer.into_body()).await
        };
        Ok(Answer { status, piece })
    }

    /// As much of the body as can be had: the status is known by now, and decides alone.
    async fn piece(&self, mut body: Incoming) -> String {
        let mut read = Vec::new();
        while read.len() < READ
            && let Ok(Some(Ok(frame))) = timeout_at(self.deadline, body.frame()).await
        {
            read.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data));
        }
        read.truncate(READ);
        let text = self.target.blot_out(&String::from_utf8_lossy(&read));
        // On one line, and without what could colour or rewrite a terminal.
        let text = text.replace(char::is_control, " ");
        text.split_whitespace()
            .collect::<Vec<_>>()
            .join(" ")
            .chars()
            .take(SHOWN)
            .collect()
    }
}
