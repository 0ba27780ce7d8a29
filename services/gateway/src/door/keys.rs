//! API keys as the gateway checks them: in Redis, and for some seconds from memory.
//!
//! What Redis said holds for [`FRESH`], for keys that are there and for those that are not: so long goes a revoked key on, and no
//! longer. A table is looked into by the hash of the whole key, of which no client can choose a part, so the time that takes
//! says nothing; the secret is compared in constant time.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use oncue_core::model::api_key::ApiKey;
use oncue_core::store::Store;
use oncue_http::address::ClientAddress;
use oncue_proto::event;
use parking_lot::Mutex;
use sha2::{Digest as _, Sha256};

use super::brake::Brake;
use super::refusal::{away, braked};
use crate::problem::Problem;

/// Time for which an answer of Redis holds, and so the longest that a revoked key is still taken.
const FRESH: Duration = Duration::from_secs(5);
/// Keys that are remembered, of which most are wrong ones once there are so many.
const MOST_SLOTS: usize = 10_000;
/// Time after which another use of a key is put down.
const USE_STEP: Duration = Duration::from_mins(1);
/// Longest wait for Redis.
const LOOK_TIMEOUT: Duration = Duration::from_secs(2);

/// Keys that were looked up lately.
#[derive(Default)]
pub struct Keys {
    slots: Mutex<HashMap<[u8; 32], Arc<Slot>>>,
}

/// One key, whose lookups wait for one another: a key that many send at once is one question.
#[derive(Default)]
struct Slot {
    answer: tokio::sync::Mutex<Option<Answer>>,
}

/// Answer of Redis.
struct Answer {
    at: Instant,
    key: Option<Arc<ApiKey>>,
}

impl Keys {
    /// The key that this token is; `None` for a wrong, revoked or expired one.
    pub async fn find(
        &self,
        store: &Store,
        brake: &Brake,
        client: Option<ClientAddress>,
        token: &str,
    ) -> Result<Option<Arc<ApiKey>>, Problem> {
        let Some(id) = ApiKey::id_of(token) else {
            brake.take(client).map_err(braked)?;
            return Ok(None);
        };
        let slot = self.slot(Sha256::digest(token).into());
        let mut answer = slot.answer.lock().await;
        let known = answer.as_ref().filter(|answer| answer.at.elapsed() < FRESH);
        let key = if let Some(known) = known {
            known.key.clone()
        } else {
            brake.take(client).map_err(braked)?;
            let key = look_up(store, id, token).await?;
            if key.is_some() {
                brake.give_back(client);
            }
            *answer = Some(Answer {
                at: Instant::now(),
                key: key.clone(),
            });
            key
        };
        Ok(key.filter(|key| !key.has_expired(event::now_ms())))
    }

    fn slot(&self, hash: [u8; 32]) -> Arc<Slot> {
        let mut slots = self.slots.lock();
        if slots.len() >= MOST_SLOTS && !slots.contains_key(&hash) {
            // One that is locked is being looked up. With so many wrong keys at once, right ones are asked for again.
            slots.retain(|_, slot| {
                let answer = slot.answer.try_lock();
                answer.is_ok_and(|answer| answer.as_ref().is_some_and(Answer::is_worth_keeping))
            });
            if slots.len() >= MOST_SLOTS {
                slots.clear();
            }
        }
        slots.entry(hash).or_default().clone()
    }
}

impl Answer {
    fn is_worth_keeping(&self) -> bool {
        self.key.is_some() && self.at.elapsed() < FRESH
    }
}

async fn look_up(store: &Store, id: &str, token: &str) -> Result<Option<Arc<ApiKey>>, Problem> {
    let asked = tokio::time::timeout(LOOK_TIMEOUT, store.api_key(id)).await;
    let found = asked
        .map_err(|_| away("Redis does not answer, so the API key cannot be checked"))?
        .map_err(|e| away(format!("the API key cannot be checked: {e}")))?;
    let Some(stored) = found.filter(|stored| stored.key.is(token)) else {
        return Ok(None);
    };
    let now = event::now_ms();
    let step = USE_STEP.as_millis() as u64;
    if stored.used.is_none_or(|used| used + step <= now) {
        let store = store.clone();
        let id = stored.key.id.clone();
        // Nobody waits for it: it is for whoever asks which keys are still needed.
        tokio::spawn(async move {
            let _ = tokio::time::timeout(LOOK_TIMEOUT, store.note_api_key_use(&id, now)).await;
        });
    }
    Ok(Some(Arc::new(stored.key)))
}
