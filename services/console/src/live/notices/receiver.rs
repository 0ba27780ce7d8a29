//! One receiver of notices: a POST after [Standard Webhooks 1.0.0], tried again until it is taken.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use bytes::Bytes;
use http_body_util::Full;
use hyper::{Request, Uri};
use hyper_rustls::{ConfigBuilderExt as _, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use oncue_core::config::{Config, NoticeConfig, NoticeKind, SecretSource};
use oncue_proto::event;
use ring::hmac;
use rustls::ClientConfig;
use serde_json::{Value, json};

use super::notice::Notice;

/// Time for an answer.
const TIMEOUT: Duration = Duration::from_secs(15);
/// Waiting after the first failure, which doubles, and at most.
const FIRST_WAIT_MS: u64 = 5000;
const LONGEST_WAIT_MS: u64 = 10 * 60_000;
/// Notices of which a message has the text; of more it says how many.
const MAX_LINES: usize = 20;
const PREFIX: &str = "whsec_";

/// Notices that a receiver does not know, or whose end it does not.
pub struct Message {
    pub app: String,
    /// Address of the console's page.
    pub page: String,
    pub notices: Vec<(String, Notice)>,
}

impl Message {
    /// Id of the message, however often it is sent.
    fn id(&self) -> String {
        let parts = self.notices.iter();
        let parts: Vec<String> = parts
            .map(|(name, notice)| format!("{name} {} {:?}", notice.since, notice.ended))
            .collect();
        let bytes: Vec<&[u8]> = parts.iter().map(String::as_bytes).collect();
        URL_SAFE_NO_PAD.encode(event::hash(&bytes))
    }

    /// Body: `data` for programs, `text` for chats that show it.
    fn body(&self, now: u64) -> String {
        let notices = self.notices.iter();
        let notices: Vec<Value> = notices
            .map(|(name, notice)| {
                json!({
                    "name": name,
                    "kind": notice.kind,
                    "state": if notice.ended.is_some() { "ended" } else { "began" },
                    "text": notice.text,
                    "advice": notice.advice,
                    "since": event::format_time(notice.since),
                    "ended": notice.ended.map(event::format_time),
                    "link": self.link(notice),
                })
            })
            .collect();
        json!({
            "type": "oncue.notices",
            "timestamp": event::format_time(now),
            "text": self.text(),
            "data": { "app": self.app, "notices": notices },
        })
        .to_string()
    }

    fn link(&self, notice: &Notice) -> String {
        format!("{}/#/{}", self.page.trim_end_matches('/'), notice.link)
    }

    fn text(&self) -> String {
        let lines = self.notices.iter().take(MAX_LINES);
        let mut lines: Vec<String> = lines
            .map(|(_, notice)| {
                let state = if notice.ended.is_some() { "Over: " } else { "" };
                format!("{state}{} {}", notice.text, self.link(notice))
            })
            .collect();
        if self.notices.len() > MAX_LINES {
            lines.push(format!("and {} more", self.notices.len() - MAX_LINES));
        }
        format!("[{}] {}", self.app, lines.join("\n"))
    }
}

/// Place of a secret, and what was read there.
enum Secret {
    Known(hmac::Key),
    /// Read for each message: another content counts from then on.
    File(PathBuf),
}

/// A receiver, ready to be told.
pub struct Receiver {
    pub name: String,
    config: NoticeConfig,
    address: Uri,
    secrets: Vec<Secret>,
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    /// Nothing is sent before, Unix milliseconds.
    next: u64,
    failures: u32,
}

impl Receiver {
    /// # Errors
    /// A sentence on the secret, the address or the root certificates.
    pub fn new(name: &str, config: &NoticeConfig, all: &Config) -> Result<Self, String> {
        let address: Uri = config.url.parse().map_err(|e| format!("url: {e}"))?;
        let secrets = config.secrets.iter();
        let secrets = secrets.map(|source| match source {
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
            name: name.to_owned(),
            secrets: secrets.collect::<Result<_, String>>()?,
            client: client(&address)?,
            address,
            config: config.clone(),
            next: 0,
            failures: 0,
        })
    }

    pub fn wants(&self, kind: NoticeKind) -> bool {
        self.config.wants(kind)
    }

    /// Whether it may be told something now.
    pub fn is_due(&self, now: u64) -> bool {
        now >= self.next
    }

    /// Sends it; whether it was taken. What was not is tried again, later each time.
    pub async fn tell(&mut self, message: &Message, now: u64) -> bool {
        match self.send(message, now).await {
            Ok(()) => {
                self.failures = 0;
                self.next = now + self.config.every.0.as_millis() as u64;
                true
            }
            Err(why) => {
                let wait = FIRST_WAIT_MS << self.failures.min(12);
                self.next = now + wait.min(LONGEST_WAIT_MS);
                self.failures += 1;
                tracing::warn!(
                    "[notice.{}] was not told, for the {}. time: {why}",
                    self.name,
                    self.failures
                );
                false
            }
        }
    }

    async fn send(&self, message: &Message, now: u64) -> Result<(), String> {
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
