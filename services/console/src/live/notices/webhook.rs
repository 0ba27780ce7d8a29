//! A POST after [Standard Webhooks 1.0.0].

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http_body_util::Full;
use hyper::{Request, Uri};
use hyper_rustls::{ConfigBuilderExt as _, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use oncue_core::config::{Config, SecretSource};
use ring::hmac;
use rustls::ClientConfig;

use super::message::Message;

/// Time for an answer.
const TIMEOUT: Duration = Duration::from_secs(15);
const PREFIX: &str = "whsec_";

/// Place of a secret, and what was read there.
enum Secret {
    Known(hmac::Key),
    /// Read for each message: another content counts from then on.
    File(PathBuf),
}

/// Address that is told, and what the POST is signed with.
pub struct Webhook {
    address: Uri,
    secrets: Vec<Secret>,
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
}

impl Webhook {
    /// # Errors
    /// A sentence on the secret, the address or the root certificates.
    pub fn new(url: &str, secrets: &[SecretSource], all: &Config) -> Result<Self, String> {
        let address: Uri = url.parse().map_err(|e| format!("url: {e}"))?;
        let secrets = secrets.iter().map(|source| match source {
            SecretSource::Env(name) => {
                let text =
                    std::env::var(name).map_err(|_| format!("the variable {name} is not set"))?;
                let key = key(&text).map_err(|why| format!("the variable {name} {why}"))?;
                Ok(Secret::Known(key))
            }
            SecretSource::File(path) => {
                let path = all.beside(path);
                read(&path)?;
                Ok(Secret::File(path))
            }
        });
        Ok(Self {
            secrets: secrets.collect::<Result<_, String>>()?,
            client: client(&address)?,
            address,
        })
    }

    pub async fn send(&self, message: &Message, now: u64) -> Result<(), String> {
        let id = message.id();
        let body = message.body(now);
        let timestamp = now / 1000;
        let signed = format!("{id}.{timestamp}.{body}");
        let mut signatures = Vec::new();
        for secret in &self.secrets {
            let signature = match secret {
                Secret::Known(key) => hmac::sign(key, signed.as_bytes()),
                Secret::File(path) => hmac::sign(&read(path)?, signed.as_bytes()),
            };
            signatures.push(format!("v1,{}", STANDARD.encode(signature)));
        }
        let request = Request::post(&self.address)
            .header("content-type", "application/json")
            .header(
                "user-agent",
                concat!("oncue-console/", env!("CARGO_PKG_VERSION")),
            )
            .header("webhook-id", &id)
            .header("webhook-timestamp", timestamp)
            .header("webhook-signature", signatures.join(" "))
            .body(Full::from(body))
            .map_err(|e| e.to_string())?;
        let answer = tokio::time::timeout(TIMEOUT, self.client.request(request)).await;
        let answer = answer.map_err(|_| format!("no answer within {TIMEOUT:?}"))?;
        let answer = answer.map_err(|e| format!("it cannot be reached: {e}"))?;
        let status = answer.status();
        if status.is_success() {
            Ok(())
        } else {
            Err(format!("it answered {status}"))
        }
    }
}

fn read(path: &PathBuf) -> Result<hmac::Key, String> {
    let text = std::fs::read_to_string(path);
    let text = text.map_err(|e| format!("{}: {e}", path.display()))?;
    key(&text).map_err(|why| format!("{} {why}", path.display()))
}

/// Key of a secret; the error never quotes it.
fn key(text: &str) -> Result<hmac::Key, String> {
    let encoded = text.trim().strip_prefix(PREFIX);
    let bytes = encoded.and_then(|encoded| STANDARD.decode(encoded).ok());
    let bytes = bytes.filter(|bytes| (24..=64).contains(&bytes.len()));
    let bytes = bytes.ok_or_else(|| {
        format!("is no secret of Standard Webhooks, which is {PREFIX} and 24 to 64 bytes in base64")
    })?;
    Ok(hmac::Key::new(hmac::HMAC_SHA256, &bytes))
}

fn client(address: &Uri) -> Result<Client<HttpsConnector<HttpConnector>, Full<Bytes>>, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?;
    let config = if address.scheme_str() == Some("https") {
        let config = config.with_native_roots();
        config.map_err(|e| format!("no root certificates of this system: {e}"))?
    } else {
        config.with_root_certificates(rustls::RootCertStore::empty())
    };
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    let connector = HttpsConnectorBuilder::new()
        .with_tls_config(config.with_no_client_auth())
        .https_or_http()
        .enable_http1()
        .wrap_connector(tcp);
    Ok(Client::builder(TokioExecutor::new()).build(connector))
}
