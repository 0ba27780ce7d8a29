//! Sessions of the console that were ended before their time, for all consoles.

use redis::cmd;

use super::Store;
use crate::store::StoreError;

/// Key, without the app, of a sorted set: session -> Unix ms at which it would have ended by itself.
const REVOKED: &str = "console:revoked";

impl Store {
    /// Ends a session; `until` is when it would end by itself.
    pub async fn revoke_session(&self, session: &str, until: u64) -> Result<(), StoreError> {
        let mut revoke = cmd("ZADD");
        revoke.arg(self.keys.of(REVOKED)).arg(until).arg(session);
        Ok(revoke.exec_async(&mut self.connection()).await?)
    }

    /// Sessions that were ended, and would not have ended by themselves at `now`. Others are forgotten.
    pub async fn revoked_sessions(&self, now: u64) -> Result<Vec<String>, StoreError> {
        let mut pipe = redis::pipe();
        pipe.cmd("ZREMRANGEBYSCORE")
            .arg(self.keys.of(REVOKED))
            .arg("-inf")
            .arg(now)
            .ignore()
            .cmd("ZRANGE")
            .arg(self.keys.of(REVOKED))
            .arg(0)
            .arg(-1);
        let (sessions,): (Vec<String>,) = pipe.query_async(&mut self.connection()).await?;
        Ok(sessions)
    }
}
