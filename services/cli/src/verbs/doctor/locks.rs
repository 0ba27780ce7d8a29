//! Whether the servers tell apart who comes: asked as somebody without credentials.

use std::time::Duration;

use oncue_core::bus::Bus;
use oncue_core::config::{NatsServer, RedisServer};
use oncue_core::store::Store;
use serde_json::Value;

use super::report::Report;
use crate::settings::Settings;

/// Time for an answer: a right that is missing brings silence.
const PATIENCE: Duration = Duration::from_secs(2);
/// Code of Redis' answer to somebody who has not said who comes.
const NO_CREDENTIALS: &str = "NOAUTH";
const ADVICE: &str = "`oncue up` locks servers that it starts; `oncue rights --format nats` and `--format redis` write what \
                      others need (deploy/SECURITY.md)";

/// Looks at both servers.
pub async fn check(settings: &Settings, report: &mut Report) {
    let config = &settings.config;
    if opens_nats(&config.nats).await {
        report.know("NATS is open: whoever reaches it may do everything", ADVICE);
    } else {
        report.good("NATS is locked: who has no credentials may publish public types at most");
    }
    match opens_redis(&config.redis, settings).await {
        Some(true) => report.know(
            "Redis is open: whoever reaches it may do everything",
            ADVICE,
        ),
        Some(false) => report.good("Redis is locked: who has no credentials may do nothing"),
        None => report.know(
            "whether Redis is locked is not known: it did not answer",
            ADVICE,
        ),
    }
}

/// Whether JetStream answers somebody without credentials.
async fn opens_nats(nats: &NatsServer) -> bool {
    let mut server = NatsServer::from(nats.url.anonymous());
    server.tls.ca.clone_from(&nats.tls.ca);
    let asked = async {
        let bus = Bus::connect(&server, "oncue-doctor").await.ok()?;
        bus.api("INFO", &Value::Null).await.ok()
    };
    matches!(tokio::time::timeout(PATIENCE, asked).await, Ok(Some(_)))
}

/// Whether Redis answers somebody without credentials; `None` where it says neither.
async fn opens_redis(redis: &RedisServer, settings: &Settings) -> Option<bool> {
    let mut server = RedisServer::from(redis.url.anonymous());
    server.tls.ca.clone_from(&redis.tls.ca);
    let asked = async {
        let store = Store::look(&server, &settings.config.app).await?;
        store.ping().await
    };
    match tokio::time::timeout(PATIENCE, asked).await {
        Ok(Ok(())) => Some(true),
        Ok(Err(e)) if e.message.contains(NO_CREDENTIALS) => Some(false),
        // A server that wants certificates ends the handshake.
        Ok(Err(_)) if redis.tls.certificate.is_some() => Some(false),
        _ => None,
    }
}
