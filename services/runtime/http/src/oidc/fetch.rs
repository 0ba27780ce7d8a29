//! Documents of an issuer over HTTPS, in plain HTTP only from this machine itself.

use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderValue, Request, StatusCode, header};
use bytes::BytesMut;
use futures_util::StreamExt as _;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};
use url::{Host, Url};

/// Longest fetch of one document.
const FETCH_TIMEOUT: Duration = Duration::from_secs(5);
/// Largest document.
const MAX_DOCUMENT: usize = 256 << 10;

/// Client for documents in JSON.
pub struct Fetcher {
    /// `None` for a client that only asks this machine.
    tls: Option<TlsConnector>,
}

impl Fetcher {
    /// Client for `issuer`, which trusts what this machine trusts.
    pub fn new(issuer: &Url) -> Result<Self, String> {
        let tls = match issuer.scheme() {
            "https" => Some(connector()?),
            _ => None,
        };
        Ok(Self { tls })
    }

    /// The document at a URL. Redirects are not followed: an issuer says where its keys are.
    ///
    /// # Errors
    /// A sentence with the URL: no answer, another status than 200, too much, or no such JSON.
    pub async fn get<T: DeserializeOwned>(&self, url: &Url) -> Result<T, String> {
        let request = Request::get(target(url)).body(Body::empty());
        self.ask(url, request.map_err(said)?, None).await
    }

    /// The document that the holder of an access token may see.
    ///
    /// # Errors
    /// As of [`get`](Self::get), or a token that no header can hold.
    pub async fn get_by<T: DeserializeOwned>(&self, url: &Url, token: &str) -> Result<T, String> {
        let request = Request::get(target(url)).body(Body::empty());
        let authorization = HeaderValue::from_str(&format!("Bearer {token}"));
        let authorization = authorization.map_err(said)?;
        self.ask(url, request.map_err(said)?, Some(authorization))
            .await
    }

    /// The answer to a form, sent by whom `authorization` says.
    ///
    /// # Errors
    /// As of [`get`](Self::get).
    pub async fn post<T: DeserializeOwned>(
        &self,
        url: &Url,
        form: String,
        authorization: Option<HeaderValue>,
    ) -> Result<T, String> {
        let request = Request::post(target(url)).body(Body::from(form));
        let mut request = request.map_err(said)?;
        let kind = HeaderValue::from_static("application/x-www-form-urlencoded");
        request.headers_mut().insert(header::CONTENT_TYPE, kind);
        self.ask(url, request, authorization).await
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        url: &Url,
        mut request: Request<Body>,
        authorization: Option<HeaderValue>,
    ) -> Result<T, String> {
        if let Some(mut authorization) = authorization {
            authorization.set_sensitive(true);
            let headers = request.headers_mut();
            headers.insert(header::AUTHORIZATION, authorization);
        }
        let fetched = timeout(FETCH_TIMEOUT, self.fetch(url, request)).await;
        let document = fetched
            .map_err(|_| format!("{url}: no answer within {FETCH_TIMEOUT:?}"))?
            .map_err(|why| format!("{url}: {why}"))?;
        serde_json::from_slice(&document).map_err(|e| format!("{url}: {e}"))
    }

    async fn fetch(&self, url: &Url, request: Request<Body>) -> Result<BytesMut, String> {
        let port = url.port_or_known_default().ok_or("no port")?;
        let name = url.host_str().ok_or("no host")?;
        let address = (name.trim_matches(['[', ']']), port);
        let stream = TcpStream::connect(address).await.map_err(said)?;
        match (url.scheme(), &self.tls) {
            ("https", Some(tls)) => {
                let name = server_name(url)?;
                exchange(tls.connect(name, stream).await.map_err(said)?, url, request).await
            }
            ("http", _) if is_loopback(url) => exchange(stream, url, request).await,
            _ => Err("must be https, or http on this machine".to_owned()),
        }
    }
}

/// Whether a URL leads to this machine alone.
pub fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(ip)) => ip.is_loopback(),
        Some(Host::Ipv6(ip)) => ip.is_loopback(),
        None => false,
    }
}

/// Path and query of a URL.
fn target(url: &Url) -> String {
    url.query().map_or_else(
        || url.path().to_owned(),
        |query| format!("{}?{query}", url.path()),
    )
}

async fn exchange<S>(stream: S, url: &Url, mut request: Request<Body>) -> Result<BytesMut, String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(said)?;
    // Driven beside us, and gone with us.
    let mut driver = JoinSet::new();
    driver.spawn(connection);
    let host = match (url.host_str(), url.port()) {
        (Some(host), Some(port)) => format!("{host}:{port}"),
        (host, _) => host.unwrap_or_default().to_owned(),
    };
    let host = HeaderValue::from_str(&host).map_err(said)?;
    request.headers_mut().insert(header::HOST, host);
    let json = HeaderValue::from_static("application/json");
    request.headers_mut().insert(header::ACCEPT, json);
    let answer = sender.send_request(request).await.map_err(said)?;
    if answer.status() != StatusCode::OK {
        return Err(format!("answers {}", answer.status()));
    }
    read(answer.into_body()).await
}

async fn read(body: Incoming) -> Result<BytesMut, String> {
    let mut parts = Body::new(body).into_data_stream();
    let mut whole = BytesMut::new();
    while let Some(part) = parts.next().await {
        whole.extend_from_slice(&part.map_err(said)?);
        if whole.len() > MAX_DOCUMENT {
            return Err(format!("is larger than {MAX_DOCUMENT} bytes"));
        }
    }
    Ok(whole)
}

fn server_name(url: &Url) -> Result<ServerName<'static>, String> {
    let name = url.host_str().unwrap_or_default();
    ServerName::try_from(name.trim_matches(['[', ']']).to_owned()).map_err(said)
}

/// TLS 1.2 and 1.3 with ring. The provider is named here: what the process has installed, if anything, is not ours to rely on.
fn connector() -> Result<TlsConnector, String> {
    let native = rustls_native_certs::load_native_certs();
    if native.certs.is_empty() {
        return Err(
            "the issuer is https, but there are no root certificates: install ca-certificates, or say where they are \
             in SSL_CERT_FILE"
                .to_owned(),
        );
    }
    let mut trusted = RootCertStore::empty();
    trusted.add_parsable_certificates(native.certs);
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(said)?
        .with_root_certificates(trusted)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

#[allow(clippy::needless_pass_by_value)] // for `map_err`
fn said(e: impl Display) -> String {
    e.to_string()
}
