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
use oncue_proto::event;
use parking_lot::Mutex;
use sha2::{Digest as _, Sha256};

use super::guesses::Guesses;
use super::refusal::away;
use crate::problem::Problem;

/// Time for which an answer of Redis holds, and so the longest that a revoked key is still taken.
const FRESH: Duration = Duration::from_secs(5);
/// Keys that are remembered, of which most are wrong ones once there are so many.
const MOST_SLOTS: usize = 10_000;
/// Time after which another use of a key is put down.
const USE_STEP: Duration = Duration::from_mins(1);
/// Time for which Redis is not asked again after it did not answer.
const AWAY_PAUSE: Duration = Duration::from_secs(1);
/// Longest wait for Redis.
const LOOK_TIMEOUT: Duration = Duration::from_secs(2);

/// Keys that were looked up lately.
#[derive(Default)]
pub struct Keys {
    slots: Mutex<HashMap<[u8; 32], Arc<Slot>>>,
    /// Until when Redis is not asked, since it has just not answered: those who wait for one another would wait for ever.
    away: Mutex<Option<Instant>>,
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
        guesses: Option<Guesses<'_>>,
        token: &str,
    ) -> Result<Option<Arc<ApiKey>>, Problem> {
        let Some(id) = ApiKey::id_of(token) else {
            guesses.map_or(Ok(()), Guesses::take)?;
            return Ok(None);
        };
        let slot = self.slot(Sha256::digest(token).into());
        let mut answer = slot.answer.lock().await;
        let known = answer.as_ref().filter(|answer| answer.at.elapsed() < FRESH);
        let key = if let Some(known) = known {
            known.key.clone()
        } else {
            // One that was right is no guess, however many others from its address are. It costs one question in a while.
            let was_right = answer.as_ref().is_some_and(Answer::is_right);
            let guesses = guesses.filter(|_| !was_right);
            let key = self.ask(store, guesses, id, token).await?;
            *answer = Some(Answer {
                at: Instant::now(),
                key: key.clone(),
            });
            key
        };
        Ok(key.filter(|key| !key.has_expired(event::now_ms())))
    }

    /// Asks Redis, at the cost of one failure unless the key is right. That Redis does not answer is nobody's failure.
    async fn ask(
        &self,
        store: &Store,
        guesses: Option<Guesses<'_>>,
        id: &str,
        token: &str,
    ) -> Result<Option<Arc<ApiKey>>, Problem> {
        let until = *self.away.lock();
        if until.is_some_and(|until| Instant::now() < until) {
            return Err(away(
                "Redis does not answer, so the API key cannot be checked",
            ));
        }
        guesses.map_or(Ok(()), Guesses::take)?;
        let found = look_up(store, id, token).await;
        if found.is_err() {
            *self.away.lock() = Some(Instant::now() + AWAY_PAUSE);
        }
        if let Some(guesses) = guesses
            && !matches!(found, Ok(None))
        {
            guesses.give_back();
        }
        found
    }

    fn slot(&self, hash: [u8; 32]) -> Arc<Slot> {
        let mut slots = self.slots.lock();
        if slots.len() >= MOST_SLOTS && !slots.contains_key(&hash) {
            // One that is locked is being looked up. With so many wrong keys at once, right ones are asked for again.
            slots.retain(|_, slot| {
                let answer = slot.answer.try_lock();
                answer.is_ok_and(|answer| answer.as_ref().is_some_and(Answer::is_right))
            });
            if slots.len() >= MOST_SLOTS {
                slots.clear();
            }
        }
        slots.entry(hash).or_default().clone()
    }
}

impl Answer {
    /// Whether there was a key: then it is known that to ask again is no guess.
    fn is_right(&self) -> bool {
        self.key.is_some()
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
