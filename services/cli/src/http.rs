//! HTTP client for one GET: enough to ask a health page or the NATS monitor. A client library would be larger than
//! this whole command.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::client::danger::{
    HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier,
};
use tokio_rustls::rustls::crypto::{self, CryptoProvider, ring};
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::{ClientConfig, DigitallySignedStruct, Error, SignatureScheme};

/// Bytes of an answer that are read; the pages asked for are a hundred times smaller.
const MAX_ANSWER_BYTES: u64 = 1 << 20;

/// Beginning of an address that speaks TLS.
pub const TLS: &str = "https://";
/// Beginning of one that does not, as it may stand there.
pub const PLAIN: &str = "http://";

/// Status and body of `http://{address}{path}`, or of `https://` where the address begins so, within `timeout` from connecting
/// to the last byte.
///
/// Whose certificate it is is not asked: this is for health pages of this machine, under an address that no certificate names,
/// and nothing that is secret goes there or comes from there.
pub async fn get(address: &str, path: &str, timeout: Duration) -> Result<(u16, String), String> {
    match tokio::time::timeout(timeout, exchange(address, path)).await {
        Ok(Ok(answer)) => parse(&String::from_utf8_lossy(&answer))
            .ok_or_else(|| format!("{address} does not speak HTTP")),
        Ok(Err(e)) => Err(format!("{address}: {e}")),
        Err(_) => Err(format!("{address}: no answer within {timeout:?}")),
    }
}

/// Bytes of the answer. HTTP/1.0, so that it comes whole, without chunks, and ends with the connection.
async fn exchange(address: &str, path: &str) -> std::io::Result<Vec<u8>> {
    if let Some(host) = address.strip_prefix(TLS) {
        let stream = TcpStream::connect(host).await?;
        let name = ServerName::from(stream.peer_addr()?.ip());
        return ask(any_certificate()?.connect(name, stream).await?, host, path).await;
    }
    let host = address.strip_prefix(PLAIN).unwrap_or(address);
    ask(TcpStream::connect(host).await?, host, path).await
}

async fn ask(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    host: &str,
    path: &str,
) -> std::io::Result<Vec<u8>> {
    let request = format!("GET {path} HTTP/1.0\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream
        .take(MAX_ANSWER_BYTES)
        .read_to_end(&mut answer)
        .await?;
    Ok(answer)
}

fn any_certificate() -> std::io::Result<TlsConnector> {
    let provider = Arc::new(ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(std::io::Error::other)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

/// Takes any certificate, if its owner holds the key.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let known = &self.0.signature_verification_algorithms;
        crypto::verify_tls12_signature(message, certificate, signed, known)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let known = &self.0.signature_verification_algorithms;
        crypto::verify_tls13_signature(message, certificate, signed, known)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// Status and body; `None` for what is no HTTP. Headers are not looked at: every page asked for is text.
fn parse(answer: &str) -> Option<(u16, String)> {
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head
        .strip_prefix("HTTP/1.")?
        .split(' ')
        .nth(1)?
        .parse()
        .ok()?;
    Some((status, body.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn answers_are_read() {
        assert_eq!(
            parse("HTTP/1.1 200 OK\r\nA: b\r\n\r\n{}"),
            Some((200, "{}".into()))
        );
        assert_eq!(parse("HTTP/1.0 503\r\n\r\n"), Some((503, String::new())));
        assert_eq!(parse("-ERR unknown command\r\n\r\n"), None);
    }
}
