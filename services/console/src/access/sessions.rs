//! Sessions that were ended before their time: remembered here, and in Redis for all consoles. While Redis is away the
//! console goes on with what it knows, since that is when it is needed most.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use oncue_core::store::Store;
use oncue_proto::event;
use parking_lot::RwLock;
use ring::rand::{SecureRandom as _, SystemRandom};

use super::right::Right;
use crate::App;

/// Pause between two looks at what other consoles have ended.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// Longest wait for Redis.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Login of a person, as their cookie has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    pub name: String,
    pub right: Right,
    /// 32 hex digits that nobody else has.
    pub id: String,
    /// Unix milliseconds.
    pub expires: u64,
}

impl Session {
    /// New session; `None` where the system has no randomness.
    pub fn begin(name: &str, right: Right, expires: u64) -> Option<Self> {
        Some(Self {
            name: name.to_owned(),
            right,
            id: random::<16>()?,
            expires,
        })
    }
}

/// So many bytes that nobody can guess, in hex; `None` where the system has no randomness.
pub fn random<const BYTES: usize>() -> Option<String> {
    let mut bytes = [0; BYTES];
    SystemRandom::new().fill(&mut bytes).ok()?;
    Some(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Ids of sessions that open nothing any more.
#[derive(Default)]
pub struct Sessions {
    revoked: RwLock<BTreeSet<String>>,
}

impl Sessions {
    /// Whether a session opens anything still: it has not expired, and nobody has ended it.
    pub fn holds(&self, session: &Session) -> bool {
        session.expires >= event::now_ms() && !self.revoked.read().contains(&session.id)
    }

    /// Ends a session.
    pub async fn revoke(&self, store: &Store, session: &Session) {
        self.revoked.write().insert(session.id.clone());
        let told = store.revoke_session(&session.id, session.expires);
        match tokio::time::timeout(TIMEOUT, told).await {
            Ok(Ok(())) => {}
            Ok(Err(e)) => {
                tracing::warn!("a session was ended here, and other consoles do not know: {e}");
            }
            Err(_) => tracing::warn!(
                "a session was ended here, and other consoles do not know: Redis does not answer"
            ),
        }
    }
}

/// Learns what other consoles have ended, until the stop.
pub async fn follow(app: Arc<App>) {
    loop {
        let asked = app.store.revoked_sessions(event::now_ms());
        if let Ok(Ok(revoked)) = tokio::time::timeout(TIMEOUT, asked).await {
            app.access.sessions.revoked.write().extend(revoked);
        }
        tokio::select! {
            () = app.stop.cancelled() => return,
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }
}
