//! The secret of an app, by which ids of outputs are made ([`IdSecret`]). Both servers keep it, so that the
//! loss of either changes no id: NATS in its key-value bucket `oncue`, under the key `APP.id-secret`, and Redis under
//! `APP:id-secret`.
//!
//! NATS decides, since it takes a first value once and no second: whoever comes later reads what is there. Servers that hold
//! different secrets of an app do not belong together: their events, marks and outputs are of two installations.

use std::time::Duration;

use oncue_proto::event::IdSecret;
use oncue_proto::oncue::v1::{Envelope, Header};

use crate::backoff::Backoff;
use crate::bus::{Bus, BusError, PublishError, layout};
use crate::store::Store;

/// Subject of the secret in the bucket [`layout::VALUES`].
fn subject(bus: &Bus) -> String {
    format!("$KV.oncue.{}.id-secret", bus.app())
}

/// Attempts to agree with others that start at the same time.
const ATTEMPTS: u32 = 5;
/// Pauses between them.
const BACKOFF: Backoff = Backoff {
    first: Duration::from_millis(50),
    longest: Duration::from_secs(1),
};

/// The secret as both servers have it, for programs that may not make one.
///
/// # Errors
///
/// A server does not answer, one of them has none, or the two hold different ones.
pub async fn known(bus: &Bus, store: &Store) -> Result<IdSecret, BusError> {
    let in_redis = store.id_secret().await.map_err(|e| BusError(e.message))?;
    match (look(bus).await?, in_redis) {
        (Some(in_nats), Some(in_redis)) if in_nats == in_redis => Ok(in_nats),
        (Some(_), Some(_)) => Err(different(bus)),
        (None, _) => Err(missing(bus, "NATS")),
        (_, None) => Err(missing(bus, "Redis")),
    }
}

/// The secret as both servers have it; makes one where neither does, and gives it back to the one that has lost it.
///
/// # Errors
///
/// A server does not answer or refuses, or the two hold different secrets.
pub async fn id_secret(bus: &Bus, store: &Store) -> Result<IdSecret, BusError> {
    bus.provide(&layout::values(bus.app())).await?;
    let in_redis = store.id_secret().await.map_err(|e| BusError(e.message))?;
    let mut in_nats = read(bus).await?;
    let mut attempt = 0;
    let secret = loop {
        if let Some(secret) = in_nats {
            break secret;
        }
        let ours = match &in_redis {
            Some(secret) => secret.clone(),
            None => IdSecret::random().map_err(|e| BusError(e.to_string()))?,
        };
        if attempt == ATTEMPTS {
            return Err(BusError(
                "the secret of this app cannot be stored in NATS".to_owned(),
            ));
        }
        attempt += 1;
        if let Err(e) = offer(bus, &ours).await {
            tracing::debug!(error = %e, "the secret was not taken; somebody else may have been first");
            tokio::time::sleep(BACKOFF.delay(attempt)).await;
        }
        in_nats = read(bus).await?;
    };
    let stored = store.keep_id_secret(&secret).await;
    if stored.map_err(|e| BusError(e.message))? != secret {
        return Err(different(bus));
    }
    Ok(secret)
}

fn missing(bus: &Bus, server: &str) -> BusError {
    let app = bus.app();
    BusError(format!(
        "{server} has no secret of the app {app}; `oncue apply` makes it, or brings it back from the other server"
    ))
}

fn different(bus: &Bus) -> BusError {
    let app = bus.app();
    BusError(format!(
        "NATS and Redis hold different secrets of the app {app} (the key {app}.id-secret of the key-value bucket oncue, and \
         {app}:id-secret): they are of two installations, or of two apps of one name. Connect the servers that belong \
         together, restore both from one backup, or give this app another name"
    ))
}

/// Secret in NATS by a question for it alone, which a right can tell from others; a replica may lag behind in the first moment
/// after it was made.
async fn look(bus: &Bus) -> Result<Option<IdSecret>, BusError> {
    let subject = subject(bus);
    match bus.last_by_subject(layout::VALUES, &subject).await? {
        Some(payload) => parsed(bus, &payload).map(Some),
        None => Ok(None),
    }
}

/// Secret in NATS as the leader has it; `None` where there is none yet.
async fn read(bus: &Bus) -> Result<Option<IdSecret>, BusError> {
    let message = bus.last_message(layout::VALUES, &subject(bus)).await;
    let Some(message) = message.map_err(|e| BusError(e.to_string()))? else {
        return Ok(None);
    };
    parsed(bus, &message.payload).map(Some)
}

fn parsed(bus: &Bus, payload: &[u8]) -> Result<IdSecret, BusError> {
    IdSecret::of_text(payload).ok_or_else(|| {
        BusError(format!(
            "{} in NATS holds no secret; restore it from a backup or from {}:id-secret in Redis",
            subject(bus),
            bus.app()
        ))
    })
}

/// Stores a secret in NATS if none is there.
async fn offer(bus: &Bus, secret: &IdSecret) -> Result<(), PublishError> {
    let first = Header {
        name: "Nats-Expected-Last-Subject-Sequence".to_owned(),
        value: "0".to_owned(),
    };
    let message = Envelope {
        subject: subject(bus),
        headers: vec![first],
        payload: secret.to_text().into(),
    };
    bus.publish(&message).await.map(|_| ())
}
