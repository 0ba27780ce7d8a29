//! One `[[webhook]]`: what it takes, and what an event of it is.

use std::collections::BTreeMap;
use std::path::PathBuf;

use axum::http::HeaderMap;
use bytes::Bytes;
use oncue_core::config::{Config, RequestPlace, SecretSource, WebhookConfig, WebhookKind};
use oncue_proto::event;
use serde_json::{Map, Value};

use super::picked::pick;
use super::signature::{Key, Scheme, text};
use crate::door::identity::text as plain;
use crate::problem::{AWAY, MALFORMED, Problem, UNSIGNED};

/// Webhook of the configuration, with its secrets.
pub struct Webhook {
    pub config: WebhookConfig,
    scheme: Scheme,
    secrets: Vec<Secret>,
}

enum Secret {
    Known(Key),
    /// Read for each request.
    File(PathBuf),
}

impl Webhook {
    /// Webhooks by name.
    ///
    /// # Errors
    /// A line that says which secret is not to be had: a webhook without would take what anybody sends.
    pub fn all(config: &Config) -> Result<BTreeMap<String, Self>, String> {
        let mut all = BTreeMap::new();
        for webhook in &config.webhooks {
            let made = Self::new(webhook, config);
            let made = made.map_err(|why| format!("[[webhook]] {}: {why}", webhook.name))?;
            all.insert(webhook.name.clone(), made);
        }
        Ok(all)
    }

    fn new(webhook: &WebhookConfig, config: &Config) -> Result<Self, String> {
        let scheme = Scheme {
            kind: webhook.kind,
            hmac: webhook.hmac.clone(),
            tolerance: webhook.tolerance(),
        };
        let mut secrets = Vec::new();
        for source in &webhook.secrets {
            secrets.push(match source {
                SecretSource::Env(name) => {
                    let text = std::env::var(name)
                        .map_err(|_| format!("the variable {name} is not set"))?;
                    let secret = scheme.key(&text);
                    Secret::Known(secret.map_err(|why| format!("the variable {name} {why}"))?)
                }
                SecretSource::File(path) => {
                    let path = config.beside(path);
                    let read = std::fs::read_to_string(&path);
                    let text = read.map_err(|e| format!("{}: {e}", path.display()))?;
                    let secret = scheme.key(&text);
                    secret.map_err(|why| format!("{} {why}", path.display()))?;
                    Secret::File(path)
                }
            });
        }
        Ok(Self {
            config: webhook.clone(),
            scheme,
            secrets,
        })
    }

    /// Lets pass what one of the secrets has signed.
    pub async fn verify(&self, headers: &HeaderMap, body: &[u8]) -> Result<(), Problem> {
        let secrets = self.secrets().await;
        if secrets.is_empty() {
            let why = "no secret of this webhook can be read, so nothing can be checked";
            return Err(Problem::new(AWAY, why));
        }
        let now = event::now_ms() / 1000;
        self.scheme
            .verify(&secrets, headers, body, now)
            .map_err(|refusal| Problem::new(UNSIGNED, refusal.to_string()))
    }

    /// Secrets as they are now. One that cannot be read signs nothing, and leaves the other.
    async fn secrets(&self) -> Vec<Key> {
        let mut found = Vec::new();
        for secret in &self.secrets {
            match secret {
                Secret::Known(key) => found.push(key.clone()),
                Secret::File(path) => {
                    let text = tokio::fs::read_to_string(path).await;
                    let secret = text
                        .map_err(|e| e.to_string())
                        .and_then(|text| self.scheme.key(&text));
                    match secret {
                        Ok(key) => found.push(key),
                        Err(why) => tracing::warn!(
                            webhook = self.config.name,
                            "a secret is not to be had: {}: {why}",
                            path.display()
                        ),
                    }
                }
            }
        }
        found
    }

    /// Challenge of Slack, which wants to see that somebody who knows the secret is here.
    pub fn challenge(&self, body: &Value) -> Option<String> {
        let asks = self.config.kind == WebhookKind::Slack && body["type"] == "url_verification";
        asks.then(|| body["challenge"].as_str().map(str::to_owned))?
    }

    /// Whether the request is an event at all.
    pub fn is_wanted(&self, headers: &HeaderMap, body: &Value) -> bool {
        self.config.when.iter().all(|(place, wanted)| {
            let found = pick(place, headers, body);
            found
                .as_ref()
                .and_then(plain)
                .is_some_and(|text| wanted.hold(&text))
        })
    }

    /// Id of the delivery, by which one that comes again is known. The sender may count from 1, and give it to other webhooks too.
    pub fn delivery_id(
        &self,
        headers: &HeaderMap,
        json: &Value,
        body: &[u8],
    ) -> Result<String, Problem> {
        let id = match self.config.kind {
            WebhookKind::Standard => text(headers, "webhook-id").map(str::to_owned),
            WebhookKind::GitHub => text(headers, "x-github-delivery").map(str::to_owned),
            WebhookKind::Stripe => json["id"].as_str().map(str::to_owned),
            WebhookKind::Slack => json["event_id"].as_str().map(str::to_owned),
            WebhookKind::Hmac => self.other_id(headers, json, body),
        };
        id.filter(|id| !id.is_empty())
            .ok_or_else(|| Problem::new(MALFORMED, "the delivery has no id"))
    }

    fn other_id(&self, headers: &HeaderMap, json: &Value, body: &[u8]) -> Option<String> {
        let place = self.config.hmac.as_ref().and_then(|hmac| hmac.id.as_ref());
        let id = if let Some(place) = place {
            plain(&pick(place, headers, json)?)?
        } else {
            let hash = event::hash(&[body]);
            hash.iter().map(|byte| format!("{byte:02x}")).collect()
        };
        Some(id)
    }

    /// Payload of the event.
    pub fn payload(&self, headers: &HeaderMap, json: &Value, body: Bytes) -> Bytes {
        if self.config.data.is_empty() {
            return body;
        }
        let fields = self.config.data.iter();
        let fields: Map<String, Value> = fields
            .filter_map(|(field, place): (&String, &RequestPlace)| {
                Some((field.clone(), pick(place, headers, json)?))
            })
            .collect();
        Value::Object(fields).to_string().into()
    }
}
