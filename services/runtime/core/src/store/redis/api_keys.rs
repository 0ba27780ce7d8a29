//! API keys, of which Redis holds a hash of the secret.

use std::collections::BTreeMap;

use redis::cmd;

use super::Store;
use crate::model::api_key::ApiKey;
use crate::store::StoreError;

/// Key, without the app, of a hash: id -> [`ApiKey`] as JSON.
const API_KEYS: &str = "api-keys";
/// Key, without the app, of a hash: id -> Unix ms of a use, by and by.
const API_KEYS_USED: &str = "api-keys:used";

/// API key as Redis holds it.
#[derive(Debug, Clone)]
pub struct StoredKey {
    /// The key.
    pub key: ApiKey,
    /// Unix ms of its last use, as far as gateways have said; `None` if nobody has used it.
    pub used: Option<u64>,
}

impl Store {
    /// Keeps a new key.
    pub async fn add_api_key(&self, key: &ApiKey) -> Result<(), StoreError> {
        let mut add = cmd("HSET");
        add.arg(self.keys.of(API_KEYS))
            .arg(&key.id)
            .arg(serde_json::json!(key).to_string());
        Ok(add.exec_async(&mut self.connection()).await?)
    }

    /// The key of this id; `None` for one that was revoked, or never was.
    pub async fn api_key(&self, id: &str) -> Result<Option<StoredKey>, StoreError> {
        let mut pipe = redis::pipe();
        pipe.cmd("HGET")
            .arg(self.keys.of(API_KEYS))
            .arg(id)
            .cmd("HGET")
            .arg(self.keys.of(API_KEYS_USED))
            .arg(id);
        let (json, used): (Option<String>, Option<u64>) =
            pipe.query_async(&mut self.connection()).await?;
        json.map(|json| {
            Ok(StoredKey {
                key: read(&json)?,
                used,
            })
        })
        .transpose()
    }

    /// All keys, the oldest first.
    pub async fn api_keys(&self) -> Result<Vec<StoredKey>, StoreError> {
        let mut pipe = redis::pipe();
        pipe.cmd("HGETALL")
            .arg(self.keys.of(API_KEYS))
            .cmd("HGETALL")
            .arg(self.keys.of(API_KEYS_USED));
        let (found, used): (BTreeMap<String, String>, BTreeMap<String, u64>) =
            pipe.query_async(&mut self.connection()).await?;
        let mut keys = Vec::with_capacity(found.len());
        for (id, json) in found {
            keys.push(StoredKey {
                key: read(&json)?,
                used: used.get(&id).copied(),
            });
        }
        keys.sort_by(|a, b| (a.key.created, &a.key.id).cmp(&(b.key.created, &b.key.id)));
        Ok(keys)
    }

    /// Forgets a key; says whether there was one.
    pub async fn remove_api_key(&self, id: &str) -> Result<bool, StoreError> {
        let mut pipe = redis::pipe();
        pipe.cmd("HDEL")
            .arg(self.keys.of(API_KEYS))
            .arg(id)
            .cmd("HDEL")
            .arg(self.keys.of(API_KEYS_USED))
            .arg(id)
            .ignore();
        let (removed,): (u64,) = pipe.query_async(&mut self.connection()).await?;
        Ok(removed > 0)
    }

    /// Notes that a key was used.
    pub async fn note_api_key_use(&self, id: &str, now: u64) -> Result<(), StoreError> {
        let mut note = cmd("HSET");
        note.arg(self.keys.of(API_KEYS_USED)).arg(id).arg(now);
        Ok(note.exec_async(&mut self.connection()).await?)
    }
}

fn read(json: &str) -> Result<ApiKey, StoreError> {
    serde_json::from_str(json)
        .map_err(|e| StoreError::refused(format!("an API key in Redis cannot be read: {e}")))
}
